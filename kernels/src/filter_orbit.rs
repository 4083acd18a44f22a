//! The orbit of a filter under the group, as one dense convolution weight.
use crate::Group;
#[cfg(feature = "gpu")]
use crate::launch;
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Kernel};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// Row (o, g), column (c, h): `act_g(weight[o, c, g⁻¹h])`: `[C_out, C_in, G_in, k, k]` → `[C_out·G, C_in·G_in, k, k]`;
/// `G_in` is 1 when lifting (then `act_g(weight[o, c])`).
///
/// # Panics
/// If the weight's shape is not of this kind.
#[track_caller]
pub fn filter_orbit(weight: &Tensor, group: Group) -> Tensor {
    let table = Table::new("filter_orbit", weight.shape(), group);
    match weight.device() {
        Device::Cpu => {
            let w = weight.f32s();
            let mut y = HostBuffer::scratch(table.dense.len());
            table.for_each(|dense, filter| y[dense] = w[filter]);
            Tensor::cpu(table.dense, y)
        }
        Device::Reference => {
            let w = weight.f64s();
            let mut y = vec![0.0; table.dense.len()];
            table.for_each(|dense, filter| y[dense] = w[filter]);
            Tensor::reference(table.dense, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "filter_orbit", weight, table.dense, &table),
    }
}

/// Adjoint of [`filter_orbit`]: sums the gradient over the orbit, in the order of g.
///
/// # Panics
/// If `weight_shape` is not a filter's, or `d` does not have the shape of its orbit.
#[track_caller]
pub fn filter_orbit_vjp(d: &Tensor, weight_shape: Shape, group: Group) -> Tensor {
    let table = Table::new("filter_orbit_vjp", weight_shape, group);
    assert_eq!(d.shape(), table.dense, "filter_orbit_vjp: expected d {:?}, got {:?}", table.dense, d.shape());
    match d.device() {
        Device::Cpu => {
            let d = d.f32s();
            let mut dw = HostBuffer::zeros(weight_shape.len());
            table.for_each(|dense, filter| dw[filter] += d[dense]);
            Tensor::cpu(weight_shape, dw)
        }
        Device::Reference => {
            let d = d.f64s();
            let mut dw = vec![0.0; weight_shape.len()];
            table.for_each(|dense, filter| dw[filter] += d[dense]);
            Tensor::reference(weight_shape, dw)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "filter_orbit_vjp", d, weight_shape, &table),
    }
}

/// Which entry of the filter each entry of the dense weight is.
struct Table {
    group: Group,
    /// C_out, C_in, G_in, k.
    extents: [usize; 4],
    dense: Shape,
}

impl Table {
    #[track_caller]
    fn new(op: &str, weight: Shape, group: Group) -> Self {
        let [outputs, inputs, group_in, k, k2] = *weight.dims() else {
            panic!("{op}: expected weight [C_out, C_in, G_in, k, k], got {weight:?}")
        };
        assert!(
            k == k2 && (group_in == 1 || group_in == group.order()),
            "{op}: expected weight [C_out, C_in, 1 or {}, k, k] for {group}, got {weight:?}",
            group.order()
        );
        let dense = Shape::from([outputs * group.order(), inputs * group_in, k, k]);
        Table { group, extents: [outputs, inputs, group_in, k], dense }
    }

    /// `f(index in the dense weight, index in the filter)`, in the order of the dense weight.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let [outputs, inputs, group_in, k] = self.extents;
        let mut dense = 0;
        for o in 0..outputs {
            for g in self.group.elements() {
                let inverse = self.group.inverse(g);
                for c in 0..inputs {
                    for h in 0..group_in {
                        // When lifting there is one plane for all g.
                        let plane = if group_in == 1 { 0 } else { self.group.product(inverse, h) };
                        let filter = ((o * inputs + c) * group_in + plane) * k * k;
                        for row in 0..k {
                            for column in 0..k {
                                let (y, x) = Group::move_entry(inverse, row, column, k, k);
                                f(dense, filter + y * k + x);
                                dense += 1;
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("filter_orbit.wgsl"));

/// A kernel of this file, with an invocation per element of the result.
#[cfg(feature = "gpu")]
fn gpu_each(gpu: &Gpu, name: &'static str, operand: &Tensor, shape: Shape, table: &Table) -> Tensor {
    let [_, inputs, group_in, k] = table.extents.map(|v| v as u32);
    let uniform = [inputs, group_in, table.group.order() as u32, k];
    launch::each(gpu, Kernel::new(name, SHADER), &[], &[operand], shape, &uniform)
}
