//! Softmax, its logarithm, and the logarithm of a sum of exponentials, along one axis.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    arithmetic::{mul, sub},
    axis::Along,
    elementwise::{EXP, map},
    math,
    order::greater,
    reduce::sum_axes,
    simd::wide,
    sweep::{for_each_piece, lane_sums},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Size;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// `y[…, k, …] = exp(x[…, k, …]) / Σ_j exp(x[…, j, …])` along `axis`. The largest value is subtracted first, so no
/// finite one overflows. If a value along the axis is NaN or +∞, or none is finite, all results are NaN. Along the axis
/// of channels the result turns with `x` in every bit. Gradient: [`softmax_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`, or is empty.
#[track_caller]
pub fn softmax(x: &Tensor, axis: usize) -> Tensor {
    Kind::Softmax.of("softmax", x, axis)
}

/// Gradient of [`softmax`], from its result: `dx = y·(dy − Σ_k y·dy)`.
///
/// # Panics
/// If `dy` has another shape or device.
#[track_caller]
pub fn softmax_vjp(y: &Tensor, dy: &Tensor, axis: usize) -> Tensor {
    assert_eq!(y.shape(), dy.shape(), "softmax_vjp: expected dy {:?}, got {:?}", y.shape(), dy.shape());
    mul(y, &sub(dy, &sum_axes(&mul(y, dy), &[axis], true)))
}

/// `y[…, k, …] = x[…, k, …] − log Σ_j exp(x[…, j, …])` along `axis`: the logarithm of [`softmax`], also where that rounds to
/// 0. NaN as there. Gradient: [`log_softmax_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`, or is empty.
#[track_caller]
pub fn log_softmax(x: &Tensor, axis: usize) -> Tensor {
    Kind::LogSoftmax.of("log_softmax", x, axis)
}

/// Gradient of [`log_softmax`], from its result: `dx = dy − exp(y)·Σ_k dy`.
///
/// # Panics
/// If `dy` has another shape or device.
#[track_caller]
pub fn log_softmax_vjp(y: &Tensor, dy: &Tensor, axis: usize) -> Tensor {
    assert_eq!(y.shape(), dy.shape(), "log_softmax_vjp: expected dy {:?}, got {:?}", y.shape(), dy.shape());
    sub(dy, &mul(&map(y, &EXP, []), &sum_axes(dy, &[axis], true)))
}

/// `y[…] = log Σ_k exp(x[…, k, …])` along `axis`, which stays with length 1 if `keep_dims`, else is removed. The
/// largest value is subtracted first, so no finite one overflows; an infinite largest value is the result. Gradient:
/// [`logsumexp_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`, or is empty.
#[track_caller]
pub fn logsumexp(x: &Tensor, axis: usize, keep_dims: bool) -> Tensor {
    let y = Kind::LogSumExp.of("logsumexp", x, axis);
    if keep_dims {
        return y;
    }
    let mut dims = y.dims().to_vec();
    dims.remove(axis);
    y.reshape(Shape::new(&dims))
}

/// Gradient of [`logsumexp`], the axis kept or not: `dx = softmax(x)·dy`.
///
/// # Panics
/// If `dy` does not have the shape of the result, or another device.
#[track_caller]
pub fn logsumexp_vjp(x: &Tensor, dy: &Tensor, axis: usize) -> Tensor {
    let kept = Along::of("logsumexp_vjp", x.shape(), axis).with_extent(x.shape(), 1);
    assert_eq!(dy.len(), kept.len(), "logsumexp_vjp: expected dy {kept:?}, got {:?}", dy.shape());
    mul(&softmax(x, axis), &dy.reshape(kept))
}

/// What is made of an axis.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Softmax,
    LogSoftmax,
    LogSumExp,
}

impl Kind {
    #[track_caller]
    fn of(self, op: &str, x: &Tensor, axis: usize) -> Tensor {
        let along = Along::of(op, x.shape(), axis);
        assert!(along.extent > 0, "{op}: expected an axis that is not empty, got {axis} of {:?}", x.shape());
        let shape = along.with_extent(x.shape(), if self == Kind::LogSumExp { 1 } else { along.extent });
        match x.device() {
            Device::Cpu => {
                let mut y = HostBuffer::scratch(shape.len());
                let (x_len, y_len) = (along.len().max(1), (shape.len() / along.outer.max(1)).max(1));
                for_each_piece(x.f32s(), x_len, &mut y, y_len, &|_, x, y| self.host(x, along.inner, y));
                Tensor::cpu(shape, y)
            }
            Device::Reference => {
                let (x, mut y) = (x.f64s(), vec![0.0; shape.len()]);
                for (outer, inner) in (0..along.outer).flat_map(|o| (0..along.inner).map(move |i| (o, i))) {
                    let column = || (0..along.extent).map(|k| x[along.index(outer, k, inner)]);
                    let max = column().fold(f64::NEG_INFINITY, |max, v| greater(v, max));
                    let sum: f64 = column().map(|v| (v - max).exp()).sum();
                    if self == Kind::LogSumExp {
                        y[outer * along.inner + inner] = if max.is_infinite() { max } else { max + sum.ln() };
                        continue;
                    }
                    for k in 0..along.extent {
                        let (at, sum) = (along.index(outer, k, inner), if max.is_finite() { sum } else { f64::NAN });
                        let shifted = x[at] - max;
                        y[at] = if self == Kind::Softmax { shifted.exp() / sum } else { shifted - sum.ln() };
                    }
                }
                Tensor::reference(shape, y)
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let words = [along.extent as u32, along.inner as u32, f32::NAN.to_bits()];
                let (kind, columns) = ([("KIND", f64::from(self as u8))], Size::Threads(along.outer * along.inner));
                launch::result(&gpu, launch::kernel("softmax", SHADER), &kind, &[x], shape, &words, columns)
            }
        }
    }

    /// One outer index.
    fn host(self, x: &[f32], inner: usize, y: &mut [f32]) {
        for_each_block(x, inner, |first, max, sum| {
            for (max, sum) in max.iter().zip(sum.iter_mut()) {
                *sum = match self {
                    Kind::LogSumExp if !max.is_finite() => 0.0,
                    _ if !max.is_finite() => f64::NAN,
                    Kind::Softmax => 1.0 / *sum,
                    Kind::LogSoftmax | Kind::LogSumExp => f64::from(math::ln(*sum as f32)),
                };
            }
            match self {
                Kind::Softmax => exp_columns(x, inner, first, max, sum, y),
                Kind::LogSoftmax => each_column(x, inner, first, max, sum, y, &|v, norm| v - norm),
                Kind::LogSumExp => {
                    for ((y, max), sum) in y[first..].iter_mut().zip(max).zip(sum) {
                        *y = *max + *sum as f32;
                    }
                }
            }
        });
    }
}

/// Calls `f(first, max, sum)` for blocks of the columns of `x`, of which there are `inner` side by side: each column's maximum
/// and `Σ exp(x − max)`, for those from `first` on.
pub(crate) fn for_each_block(x: &[f32], inner: usize, mut f: impl FnMut(usize, &[f32], &mut [f64])) {
    const BLOCK: usize = 256;
    let (mut max, mut sum) = ([0f32; BLOCK], [0f64; BLOCK]);
    for first in (0..inner).step_by(BLOCK) {
        let len = BLOCK.min(inner - first);
        let (max, sum) = (&mut max[..len], &mut sum[..len]);
        match inner {
            1 => sum[0] = row_sum(x, &mut max[0]),
            _ => column_sums(x, inner, first, max, sum),
        }
        f(first, max, sum);
    }
}

/// `y = exp(x − max)·factor` in the columns from `first` on.
pub(crate) fn exp_columns(x: &[f32], inner: usize, first: usize, max: &[f32], factor: &[f64], y: &mut [f32]) {
    each_column(x, inner, first, max, factor, y, &|v, factor| math::exp(v) * factor);
}

wide! {
    /// `Σ exp(x − max)` of a row, and the maximum.
    fn row_sum(x: &[f32], max: &mut f32) -> f64 {
        let mut largest = f32::NEG_INFINITY;
        for &v in x {
            largest = greater(v, largest);
        }
        *max = largest;
        lane_sums(x, |v| math::exp(v - largest))
    }
}

wide! {
    /// As [`row_sum`], of the columns from `first` on, as many as there are maxima.
    fn column_sums(x: &[f32], inner: usize, first: usize, max: &mut [f32], sum: &mut [f64]) {
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        for row in x.chunks_exact(inner) {
            for (max, &v) in max.iter_mut().zip(&row[first..]) {
                *max = greater(v, *max);
            }
        }
        for row in x.chunks_exact(inner) {
            for ((sum, &max), &v) in sum.iter_mut().zip(max.iter()).zip(&row[first..]) {
                *sum += f64::from(math::exp(v - max));
            }
        }
    }
}

wide! {
    /// `y = f(x − max, norm)` in the columns from `first` on.
    fn each_column<F: Fn(f32, f32) -> f32>(
        x: &[f32],
        inner: usize,
        first: usize,
        max: &[f32],
        norm: &[f64],
        y: &mut [f32],
        f: &F,
    ) {
        if inner == 1 {
            let (max, norm) = (max[0], norm[0] as f32);
            for (y, &v) in y.iter_mut().zip(x) {
                *y = f(v - max, norm);
            }
            return;
        }
        for (x, y) in x.chunks_exact(inner).zip(y.chunks_exact_mut(inner)) {
            for (((y, &v), &max), &norm) in y[first..].iter_mut().zip(&x[first..]).zip(max).zip(norm) {
                *y = f(v - max, norm as f32);
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("softmax.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{Tolerance, all_elements, check, check_equivariant, devices_and_reference, random},
        scale,
    };

    const CASES: [(&[usize], usize); 9] = [
        (&[1], 0),
        (&[5, 10], 1),
        (&[300, 64], 1),
        (&[7, 1000], 1),
        (&[10, 300], 0),
        (&[2, 3, 17, 16], 1),
        (&[2, 5, 4, 3, 3], 2),
        (&[3, 1, 4], 1),
        (&[2, 40, 33, 33], 1),
    ];

    #[test]
    fn parity() {
        for (dims, axis) in CASES {
            let name = format!("{dims:?}, axis {axis}");
            // Some confident rows, so that exponentials spread.
            let (x, dy) = (scale(&random(dims, 1), 8.0), random(dims, 2));
            check(&format!("softmax {name}"), &[&x], Tolerance::Terms(8), |t| vec![softmax(&t[0], axis)]);
            check(&format!("log_softmax {name}"), &[&x], Tolerance::Terms(8), |t| vec![log_softmax(&t[0], axis)]);
            check(&format!("logsumexp {name}"), &[&x], Tolerance::Terms(8), |t| {
                vec![logsumexp(&t[0], axis, false), logsumexp(&t[0], axis, true)]
            });
            check(&format!("vjp {name}"), &[&x, &dy], Tolerance::Terms(64), |t| {
                let (y, log_y) = (softmax(&t[0], axis), log_softmax(&t[0], axis));
                let part = sum_axes(&t[1], &[axis], true);
                vec![
                    softmax_vjp(&y, &t[1], axis),
                    log_softmax_vjp(&log_y, &t[1], axis),
                    logsumexp_vjp(&t[0], &part, axis),
                ]
            });
        }
    }

    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        for (height, width) in [(1, 1), (5, 5), (4, 7), (17, 33)] {
            for f in [softmax, log_softmax] {
                check_equivariant("over channels", [2, 5, height, width], &all_elements(), true, |x| f(x, 1));
            }
            let sum = |x: &Tensor| logsumexp(x, 1, true);
            check_equivariant("over channels", [2, 5, height, width], &all_elements(), true, sum);
        }
    }

    #[test]
    fn huge_and_infinite_values() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases = [
            ([3e38, -3e38, 0.0], [1.0, 0.0, 0.0], 3e38),
            ([0.0, -inf, 0.0], [0.5, 0.0, 0.5], std::f32::consts::LN_2),
            ([-1000.0, -1000.0, -2000.0], [0.5, 0.5, 0.0], -1000.0 + std::f32::consts::LN_2),
            ([inf, 1.0, 2.0], [nan; 3], inf),
            ([-inf; 3], [nan; 3], -inf),
            ([1.0, nan, inf], [nan; 3], nan),
        ];
        let same = |got: f32, expected: f32| {
            got == expected || (got.is_nan() && expected.is_nan()) || (got - expected).abs() <= 1e-6 * expected.abs()
        };
        for device in devices_and_reference() {
            // As a row, and as a column beside another.
            for (x, y, sum) in cases {
                let row = Tensor::from_vec([1, 3], x.to_vec(), &device).unwrap();
                let column = Tensor::from_vec([3, 2], x.iter().flat_map(|&v| [v, 0.0]).collect(), &device).unwrap();
                for (x, axis) in [(row, 1), (column, 0)] {
                    let every = if axis == 1 { 1 } else { 2 };
                    let values = |t: Tensor| -> Vec<f32> { t.to_vec().unwrap().into_iter().step_by(every).collect() };
                    let (p, log_p) = (values(softmax(&x, axis)), values(log_softmax(&x, axis)));
                    let total = values(logsumexp(&x, axis, false))[0];
                    assert!(p.iter().zip(y).all(|(&p, y)| same(p, y)), "{device}: {p:?}, not {y:?}");
                    assert!(same(total, sum), "{device}: {total}, not {sum}");
                    let finite = sum.is_finite();
                    assert!(log_p.iter().all(|v| v.is_nan() != finite), "{device}: {log_p:?}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "softmax: expected an axis that is not empty, got 1 of [2, 0]")]
    fn an_empty_axis_is_refused() {
        softmax(&random([2, 0], 1), 1);
    }
}
