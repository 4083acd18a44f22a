//! Elementwise functions, scale, ReLU, the ReLU of a sum; the sum of all elements.

mod check;
mod functions;
mod map;
#[cfg(any(feature = "gpu", test))]
mod shader;
mod zip;

pub use functions::*;
pub use map::*;
pub use zip::*;

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    jobs::collect,
    order::{passes, positive_part},
    sweep,
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Size};

#[cfg(any(feature = "gpu", test))]
use quarterturn_core::Shape;
use quarterturn_core::{Device, Tensor, common_device};

/// `y = max(a + b, 0)` for operands of one shape: the end of a residual block. Both gradients are [`relu_vjp`]. NaN as
/// in [`relu`].
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn add_relu(a: &Tensor, b: &Tensor) -> Tensor {
    assert_same_shape("add_relu", a, b);
    match common_device("add_relu", &[a, b]) {
        Device::Cpu => Tensor::cpu(a.shape(), sweep::zip(a.f32s(), b.f32s(), |a, b| positive_part(a + b))),
        Device::Reference => reference_zip(a, b, |a, b| positive_part(a + b)),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "add_relu", &[a, b], a.shape(), &[]),
    }
}

/// `y = factor · x`. On [`Device::Cpu`] the factor is rounded to `f32` first.
pub fn scale(x: &Tensor, factor: f64) -> Tensor {
    match x.device() {
        Device::Cpu => {
            let factor = factor as f32;
            Tensor::cpu(x.shape(), sweep::map(x.f32s(), |x| factor * x))
        }
        Device::Reference => reference_map(x, |x| factor * x),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "scale", &[x], x.shape(), &[(factor as f32).to_bits()]),
    }
}

/// `y = max(x, 0)`. NaN stays NaN, and −0 stays −0.
pub fn relu(x: &Tensor) -> Tensor {
    match x.device() {
        Device::Cpu => Tensor::cpu(x.shape(), sweep::map(x.f32s(), positive_part)),
        Device::Reference => reference_map(x, positive_part),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "relu", &[x], x.shape(), &[]),
    }
}

/// `dx = dy where y > 0 or y is NaN, else 0`; `y` is the output of [`relu`].
///
/// # Panics
/// If shapes or devices differ.
#[track_caller]
pub fn relu_vjp(y: &Tensor, dy: &Tensor) -> Tensor {
    assert_same_shape("relu_vjp", y, dy);
    match common_device("relu_vjp", &[y, dy]) {
        Device::Cpu => Tensor::cpu(y.shape(), sweep::zip(y.f32s(), dy.f32s(), |y, dy| sweep::masked(passes(y), dy))),
        Device::Reference => reference_zip(y, dy, |y, dy| if passes(y) { dy } else { 0.0 }),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "relu_vjp", &[y, dy], y.shape(), &[]),
    }
}

/// Sum of all elements, shape `[]`. Gradient: [`crate::broadcast`].
pub fn sum(x: &Tensor) -> Tensor {
    match x.device() {
        Device::Cpu => {
            let x = x.f32s();
            let total: f64 = if x.len() <= sweep::PIECE {
                sweep::lane_sum(x)
            } else {
                let pieces: Vec<&[f32]> = x.chunks(sweep::PIECE).collect();
                collect(pieces.len(), 1, |i| sweep::lane_sum(pieces[i])).iter().sum()
            };
            Tensor::cpu([], vec![total as f32].into())
        }
        Device::Reference => Tensor::reference([], vec![x.f64s().iter().sum()]),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_sum(&gpu, x),
    }
}

#[track_caller]
fn assert_same_shape(op: &str, a: &Tensor, b: &Tensor) {
    assert_eq!(
        a.shape(),
        b.shape(),
        "{op}: expected two operands of one shape, got {:?} and {:?}",
        a.shape(),
        b.shape()
    );
}

fn reference_map(x: &Tensor, f: impl Fn(f64) -> f64) -> Tensor {
    Tensor::reference(x.shape(), x.f64s().iter().map(|&x| f(x)).collect())
}

fn reference_zip(a: &Tensor, b: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
    Tensor::reference(a.shape(), a.f64s().iter().zip(b.f64s()).map(|(&a, &b)| f(a, b)).collect())
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("elementwise.wgsl"));

/// A kernel of this file with an invocation per element.
#[cfg(feature = "gpu")]
fn gpu_each(gpu: &Gpu, name: &'static str, operands: &[&Tensor], shape: Shape, uniform: &[u32]) -> Tensor {
    launch::each(gpu, launch::kernel(name, SHADER), &[], operands, shape, uniform)
}

/// Pieces of 4096 elements, then pieces of their sums, until one is left.
#[cfg(feature = "gpu")]
fn gpu_sum(gpu: &Gpu, x: &Tensor) -> Tensor {
    const PIECE: usize = 4096;
    let kernel = launch::kernel("sum", SHADER).workgroup(64, 4 * 64);
    let pieces = x.len().div_ceil(PIECE).max(1);
    let y = launch::result(gpu, kernel, &[], &[x], Shape::from([pieces]), &[x.len() as u32], Size::Groups(pieces));
    if pieces == 1 { y.reshape([]) } else { gpu_sum(gpu, &y) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{EXTENTS, SHARED_EXTENT, Tolerance, check, check_adjoint, random};

    #[test]
    fn parity() {
        for n in EXTENTS.into_iter().chain([SHARED_EXTENT]) {
            let (a, b) = (random([n], 1), random([n], 2));
            check(&format!("add_relu {n}"), &[&a, &b], Tolerance::Terms(1), |t| vec![add_relu(&t[0], &t[1])]);
            check(&format!("scale {n}"), &[&a], Tolerance::Terms(1), |t| vec![scale(&t[0], -0.3)]);
            check(&format!("relu {n}"), &[&a], Tolerance::Exact, |t| vec![relu(&t[0])]);
            check(&format!("relu_vjp {n}"), &[&a, &b], Tolerance::Exact, |t| vec![relu_vjp(&t[0], &t[1])]);
            // Squares, so that the sum is as large as its terms.
            let squares = crate::mul(&a, &a);
            check(&format!("sum {n}"), &[&squares], Tolerance::Terms(8), |t| vec![sum(&t[0])]);
        }
    }

    #[test]
    fn linear_ops_and_their_adjoints() {
        check_adjoint("scale", [3, 5], |x| scale(x, 1.7), |dy| scale(dy, 1.7));
        check_adjoint("sum", [3, 5], sum, |dy| crate::broadcast(dy, Shape::from([3, 5])));
    }

    #[test]
    fn relu_by_hand() {
        let x = Tensor::cpu([5], vec![-1.0, 0.0, 2.0, f32::NAN, -0.0].into());
        let y = relu(&x);
        assert_eq!(y.f32s()[..3], [0.0, 0.0, 2.0]);
        assert!(y.f32s()[3].is_nan());
        let halves = crate::scale(&x, 0.5);
        assert_eq!(add_relu(&halves, &halves).f32s()[..3], [0.0, 0.0, 2.0]);
        assert!(add_relu(&halves, &halves).f32s()[3].is_nan());
        let dy = Tensor::full([5], 3.0, &Device::Cpu).unwrap();
        assert_eq!(relu_vjp(&y, &dy).f32s(), [0.0, 0.0, 3.0, 3.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "add_relu: expected two operands of one shape, got [2] and [3]")]
    fn operands_of_two_shapes_are_refused() {
        add_relu(&random([2], 1), &random([3], 1));
    }
}
