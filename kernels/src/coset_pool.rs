//! Max and mean over the group axis: `[N, C, G, …]` → `[N, C, …]`.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    order::{first_maximum, greater, is_greater},
    simd::wide,
    sweep::{for_each_piece, for_each_piece2, masked, select},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device};

/// The maximum over the group axis, `y[n, c, p] = max_g x[n, c, g, p]` (escnn: `GroupPooling`). NaN if one of the
/// values is NaN.
///
/// # Panics
/// With fewer than three axes, or a group axis of extent 0.
#[doc(alias = "GroupPooling")]
#[track_caller]
pub fn coset_max(x: &Tensor) -> Tensor {
    let axes = Axes::of("coset_max", x.shape());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(axes.y_shape.len());
            for_each_piece(x.f32s(), axes.order * axes.positions, &mut y, axes.positions, &|_, x, y| max_rows(x, y));
            Tensor::cpu(axes.y_shape, y)
        }
        Device::Reference => axes.reference_map(x, |values| values.fold(f64::NEG_INFINITY, |max, v| greater(v, max))),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "coset_max", &[x], axes.y_shape, &axes),
    }
}

wide! {
    fn max_rows(x: &[f32], y: &mut [f32]) {
        let mut rows = x.chunks_exact(y.len());
        if let Some(first) = rows.next() {
            y.copy_from_slice(first);
        }
        for row in rows {
            for (y, &v) in y.iter_mut().zip(row) {
                *y = greater(v, *y);
            }
        }
    }
}

/// Gradient of [`coset_max`]: it goes to the first maximum, or to the first NaN if there is one.
///
/// # Panics
/// If `dy` does not have the shape of the result.
#[track_caller]
pub fn coset_max_vjp(x: &Tensor, dy: &Tensor) -> Tensor {
    let axes = Axes::of("coset_max_vjp", x.shape());
    axes.assert_result("coset_max_vjp", dy);
    match common_device("coset_max_vjp", &[x, dy]) {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x.len());
            let piece = axes.order * axes.positions;
            for_each_piece2(x.f32s(), piece, dy.f32s(), axes.positions, &mut dx, piece, &|_, x, dy, dx| {
                spread_to_maxima(x, dy, dx);
            });
            Tensor::cpu(x.shape(), dx)
        }
        Device::Reference => {
            let (x, dy) = (x.f64s(), dy.f64s());
            let mut dx = vec![0.0; x.len()];
            for (i, &dy) in dy.iter().enumerate() {
                let (map, p) = (i / axes.positions, i % axes.positions);
                let at = |g: usize| (map * axes.order + g) * axes.positions + p;
                dx[at(first_maximum((0..axes.order).map(|g| x[at(g)])))] = dy;
            }
            Tensor::reference(axes.x_shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "coset_max_vjp", &[x, dy], x.shape(), &axes),
    }
}

wide! {
    fn spread_to_maxima(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let whole = dy.len() - dy.len() % BLOCK;
        for p in (0..whole).step_by(BLOCK) {
            spread_block::<BLOCK>(x, dy, dx, p);
        }
        for p in whole..dy.len() {
            spread_block::<1>(x, dy, dx, p);
        }
    }
}

/// Positions compared at a time, without a branch: which element is the greatest is as good as random.
const BLOCK: usize = 16;

/// The positions `p .. p + SIZE`.
#[inline(always)]
fn spread_block<const SIZE: usize>(x: &[f32], dy: &[f32], dx: &mut [f32], p: usize) {
    let positions = dy.len();
    let (mut max, mut best) = ([f32::NEG_INFINITY; SIZE], [0u32; SIZE]);
    for (g, row) in x.chunks_exact(positions).enumerate() {
        let row = &row[p..p + SIZE];
        for i in 0..SIZE {
            let new = is_greater(&row[i], &max[i]);
            best[i] = select(new, g as u32, best[i]);
            max[i] = f32::from_bits(select(new, row[i].to_bits(), max[i].to_bits()));
        }
    }
    let dy = &dy[p..p + SIZE];
    for (g, row) in dx.chunks_exact_mut(positions).enumerate() {
        let row = &mut row[p..p + SIZE];
        for i in 0..SIZE {
            row[i] = masked(best[i] == g as u32, dy[i]);
        }
    }
}

/// The mean over the group axis, `y[n, c, p] = (1/G) Σ_g x[n, c, g, p]`, G = 1, 2, 4 or 8. The sum is
/// `(v0+v2)+(v1+v3)`: opposite turns first, the mirrored half likewise, then both halves. So the result for a turned
/// map is the turned result, in every bit.
///
/// # Panics
/// With fewer than three axes, or another G.
#[track_caller]
pub fn coset_mean(x: &Tensor) -> Tensor {
    let axes = Axes::of("coset_mean", x.shape());
    axes.assert_group("coset_mean");
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(axes.y_shape.len());
            for_each_piece(x.f32s(), axes.order * axes.positions, &mut y, axes.positions, &|_, x, y| mean_rows(x, y));
            Tensor::cpu(axes.y_shape, y)
        }
        Device::Reference => axes.reference_map(x, |values| values.sum::<f64>() / axes.order as f64),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "coset_mean", &[x], axes.y_shape, &axes),
    }
}

wide! {
    fn mean_rows(x: &[f32], y: &mut [f32]) {
        let positions = y.len();
        let quarter = |x: &[f32], p: usize| (x[p] + x[2 * positions + p]) + (x[positions + p] + x[3 * positions + p]);
        match x.len() / positions {
            1 => y.copy_from_slice(x),
            2 => {
                let x = &x[..2 * positions];
                for p in 0..positions {
                    y[p] = (x[p] + x[positions + p]) * 0.5;
                }
            }
            4 => {
                let x = &x[..4 * positions];
                for p in 0..positions {
                    y[p] = quarter(x, p) * 0.25;
                }
            }
            _ => {
                let (turned, mirrored) = x.split_at(4 * positions);
                for p in 0..positions {
                    y[p] = (quarter(turned, p) + quarter(mirrored, p)) * 0.125;
                }
            }
        }
    }
}

/// Gradient of [`coset_mean`]: `dx[n, c, g, p] = dy[n, c, p] / G`.
///
/// # Panics
/// If `dy` does not have the shape of the result.
#[track_caller]
pub fn coset_mean_vjp(dy: &Tensor, x_shape: Shape) -> Tensor {
    let axes = Axes::of("coset_mean_vjp", x_shape);
    axes.assert_group("coset_mean_vjp");
    axes.assert_result("coset_mean_vjp", dy);
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x_shape.len());
            let part = 1.0 / axes.order as f32;
            for_each_piece(dy.f32s(), axes.positions, &mut dx, axes.order * axes.positions, &|_, dy, dx| {
                for row in dx.chunks_exact_mut(dy.len()) {
                    for (dx, &dy) in row.iter_mut().zip(dy) {
                        *dx = dy * part;
                    }
                }
            });
            Tensor::cpu(x_shape, dx)
        }
        Device::Reference => {
            let dy = dy.f64s();
            let spread = |i: usize| dy[i / (axes.order * axes.positions) * axes.positions + i % axes.positions];
            Tensor::reference(x_shape, (0..x_shape.len()).map(|i| spread(i) / axes.order as f64).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "coset_mean_vjp", &[dy], x_shape, &axes),
    }
}

/// A feature map as `[N·C, G, positions]`.
struct Axes {
    x_shape: Shape,
    y_shape: Shape,
    order: usize,
    /// Product of the axes behind the group axis.
    positions: usize,
}

impl Axes {
    #[track_caller]
    fn of(op: &str, x_shape: Shape) -> Self {
        let [n, c, order, rest @ ..] = x_shape.dims() else { panic!("{op}: expected [N, C, G, ...], got {x_shape:?}") };
        assert!(*order > 0, "{op}: expected a group axis that is not empty, got {x_shape:?}");
        let y_shape = Shape::new(&[&[*n, *c], rest].concat());
        Axes { x_shape, y_shape, order: *order, positions: rest.iter().product() }
    }

    #[track_caller]
    fn assert_group(&self, op: &str) {
        assert!(
            matches!(self.order, 1 | 2 | 4 | 8),
            "{op}: expected a group axis of 1, 2, 4 or 8, got {:?}",
            self.x_shape
        );
    }

    #[track_caller]
    fn assert_result(&self, op: &str, dy: &Tensor) {
        assert_eq!(dy.shape(), self.y_shape, "{op}: expected dy {:?}, got {:?}", self.y_shape, dy.shape());
    }

    /// `y[n, c, p] = f(the values at p, g = 0, 1, …)`.
    fn reference_map(&self, x: &Tensor, f: impl Fn(&mut dyn Iterator<Item = f64>) -> f64) -> Tensor {
        let x = x.f64s();
        let value = |i: usize| {
            let (map, p) = (i / self.positions, i % self.positions);
            f(&mut (0..self.order).map(|g| x[(map * self.order + g) * self.positions + p]))
        };
        Tensor::reference(self.y_shape, (0..self.y_shape.len()).map(value).collect())
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("coset_pool.wgsl"));

/// A kernel of this file, with an invocation per element of the result.
#[cfg(feature = "gpu")]
fn gpu_each(gpu: &Gpu, name: &'static str, operands: &[&Tensor], shape: Shape, axes: &Axes) -> Tensor {
    let uniform = [axes.order as u32, axes.positions as u32];
    launch::each(gpu, launch::kernel(name, SHADER), &[], operands, shape, &uniform)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group,
        parity::{Tolerance, check, check_adjoint, devices_and_reference, random, same_bits},
        transform_feature_map, transform_plane,
    };

    const CASES: [&[usize]; 12] = [
        &[1, 1, 1],
        &[2, 3, 4],
        &[128, 10, 4],
        &[1, 5, 8],
        &[2, 3, 1, 4, 4],
        &[2, 3, 4, 1, 1],
        &[1, 3, 4, 5, 3],
        &[2, 1, 8, 16, 4],
        &[1, 2, 4, 7, 9],
        &[1, 2, 8, 1, 65],
        &[2, 7, 4, 28, 28],
        &[3, 3, 8, 17, 33],
    ];

    #[test]
    fn parity_and_adjoint() {
        for dims in CASES {
            let shape = Shape::new(dims);
            let x = random(shape, 1);
            let dy = random(coset_max(&x).shape(), 2);
            check(&format!("coset_max {dims:?}"), &[&x], Tolerance::Exact, |t| vec![coset_max(&t[0])]);
            check(&format!("coset_max_vjp {dims:?}"), &[&x, &dy], Tolerance::Exact, |t| {
                vec![coset_max_vjp(&t[0], &t[1])]
            });
            check(&format!("coset_mean {dims:?}"), &[&x], Tolerance::Terms(8), |t| vec![coset_mean(&t[0])]);
            check(&format!("coset_mean_vjp {dims:?}"), &[&dy], Tolerance::Exact, |t| {
                vec![coset_mean_vjp(&t[0], shape)]
            });
            check_adjoint(&format!("{dims:?}"), shape, coset_mean, |dy| coset_mean_vjp(dy, shape));
        }
    }

    #[test]
    fn pooling_over_the_group_commutes_with_every_element() {
        for (group, size) in [(Group::C4, 5), (Group::D4, 6)] {
            let x = random([2, 3, group.order(), size, size], 3);
            for device in devices_and_reference() {
                let exact = !matches!(device, Device::Reference);
                let x = x.to_device(&device).unwrap();
                for g in group.elements() {
                    let moved = transform_feature_map(&x, g, group);
                    assert!(same_bits(&coset_max(&moved), &transform_plane(&coset_max(&x), g)), "max {g} on {device}");
                    if exact {
                        let mean = transform_plane(&coset_mean(&x), g);
                        assert!(same_bits(&coset_mean(&moved), &mean), "mean {group} {g} on {device}");
                    }
                }
            }
        }
    }

    #[test]
    fn equal_values_send_the_gradient_to_the_first() {
        let x = Tensor::cpu([1, 2, 4], vec![1.0, 3.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0].into());
        assert_eq!(coset_max(&x).f32s(), [3.0, 0.0]);
        let dy = Tensor::cpu([1, 2], vec![5.0, 7.0].into());
        assert_eq!(coset_max_vjp(&x, &dy).f32s(), [0.0, 5.0, 0.0, 0.0, 7.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "coset_mean: expected a group axis of 1, 2, 4 or 8, got [1, 1, 3]")]
    fn a_group_axis_of_another_order_is_refused() {
        coset_mean(&random([1, 1, 3], 1));
    }
}
