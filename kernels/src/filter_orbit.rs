//! A filter in all its orientations (its orbit), as the weight of one ordinary convolution.
use crate::Group;
#[cfg(feature = "gpu")]
use crate::launch;
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// Writes out a filter in all its orientations: `[C_out, C_in, G_in, k, k]` → `[C_out·G, C_in·G_in, k, k]`. With it,
/// PyTorch's `conv2d` computes what [`crate::group_conv`] computes, if the group axis is merged into the channels.
/// Output channel (o, g) and input channel (c, h) have the k×k filter `act_g(weight[o, c, g⁻¹h])`, or
/// `act_g(weight[o, c])` where `G_in` is 1 (lifting).
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

/// Gradient of [`filter_orbit`]: the sum over all orientations, in the order of g.
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
    launch::each(gpu, launch::kernel(name, SHADER), &[], &[operand], shape, &uniform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{Tolerance, check, check_adjoint, random},
        transform_feature_map, transform_plane,
    };

    /// (C_out, C_in, lifting, k)
    const CASES: [(usize, usize, bool, usize); 7] = [
        (1, 1, true, 1),
        (2, 3, true, 3),
        (3, 1, true, 4),
        (3, 2, false, 3),
        (1, 5, false, 2),
        (17, 5, false, 5),
        (65, 9, false, 3),
    ];

    #[test]
    fn parity_and_adjoint() {
        for (group, (c_out, c_in, lift, k)) in Group::ALL.into_iter().flat_map(|g| CASES.map(|c| (g, c))) {
            let shape = Shape::from([c_out, c_in, if lift { 1 } else { group.order() }, k, k]);
            let name = format!("{group} {shape:?}");
            let dense = random(filter_orbit(&random(shape, 1), group).shape(), 2);
            check(&name, &[&random(shape, 1)], Tolerance::Exact, |t| vec![filter_orbit(&t[0], group)]);
            check(&name, &[&dense], Tolerance::Terms(8), |t| vec![filter_orbit_vjp(&t[0], shape, group)]);
            check_adjoint(&name, shape, |w| filter_orbit(w, group), |d| filter_orbit_vjp(d, shape, group));
        }
    }

    #[test]
    fn a_row_is_the_transformed_filter() {
        for group in Group::ALL {
            let (order, k) = (group.order(), 3);
            let weight = random([1, 2, order, k, k], 1);
            let lifting = random([1, 2, 1, k, k], 2);
            let (orbit, lifted) = (filter_orbit(&weight, group), filter_orbit(&lifting, group));
            for g in group.elements() {
                let row = |orbit: &Tensor, expected: &Tensor| {
                    let len = orbit.len() / order;
                    assert_eq!(orbit.f64s()[g * len..][..len], *expected.f64s(), "{group} {g}");
                };
                row(&orbit, &transform_feature_map(&weight, g, group));
                row(&lifted, &transform_plane(&lifting, g));
            }
        }
    }
}
