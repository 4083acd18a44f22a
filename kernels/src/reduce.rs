//! Sums, means, maxima and variances over chosen axes.
//!
//! A turn of the image changes the order of terms in a sum over H, W or the group axis, so such a sum is the same up to
//! rounding only. Use [`crate::spatial_mean`] and [`crate::coset_mean`] to keep every bit. Sums over N and C keep every
//! bit, and so does a maximum over any axes.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    arithmetic::{broadcast, div, equal, mul, sub},
    elementwise::scale,
    jobs::{collect, for_each_chunk},
    order::greater,
    simd::wide,
    strided::{self, Strided},
    sweep::PIECE,
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Size};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};
use std::ops::Range;

/// The sum over `axes`, `y[kept] = Σ_reduced x[kept, reduced]`. The summed axes stay with length 1 if `keep_dims`, else
/// they are removed. Gradient: [`sum_axes_vjp`]. On the CPU sums are taken in `f64`.
///
/// # Panics
/// If an axis is not one of `x`, or is named twice.
#[track_caller]
pub fn sum_axes(x: &Tensor, axes: &[usize], keep_dims: bool) -> Tensor {
    Reduction::new("sum_axes", x.shape(), axes).fold(x, Fold::Sum, 1.0, keep_dims)
}

/// Gradient of [`sum_axes`], with the summed axes kept or not: `dx[kept, reduced] = dy[kept]`.
///
/// # Panics
/// If `dy` does not have the shape of the sums of `x_shape`.
#[track_caller]
pub fn sum_axes_vjp(dy: &Tensor, x_shape: Shape, axes: &[usize]) -> Tensor {
    broadcast(&Reduction::new("sum_axes_vjp", x_shape, axes).kept(dy), x_shape)
}

/// `y[kept] = (1/R) Σ_reduced x[kept, reduced]`, R the number of terms; axes as in [`sum_axes`]. NaN of no terms.
///
/// # Panics
/// As [`sum_axes`].
#[track_caller]
pub fn mean_axes(x: &Tensor, axes: &[usize], keep_dims: bool) -> Tensor {
    let reduction = Reduction::new("mean_axes", x.shape(), axes);
    reduction.fold(x, Fold::Sum, 1.0 / reduction.terms() as f64, keep_dims)
}

/// Gradient of [`mean_axes`]: `dx[kept, reduced] = dy[kept] / R`.
///
/// # Panics
/// If `dy` does not have the shape of the means of `x_shape`.
#[track_caller]
pub fn mean_axes_vjp(dy: &Tensor, x_shape: Shape, axes: &[usize]) -> Tensor {
    let reduction = Reduction::new("mean_axes_vjp", x_shape, axes);
    broadcast(&scale(&reduction.kept(dy), 1.0 / reduction.terms() as f64), x_shape)
}

/// `y[kept] = max_reduced x[kept, reduced]`; axes as in [`sum_axes`]. NaN if any of the values is NaN.
///
/// # Panics
/// As [`sum_axes`], or if there is nothing to take the maximum of.
#[doc(alias = "amax")]
#[track_caller]
pub fn max_axes(x: &Tensor, axes: &[usize], keep_dims: bool) -> Tensor {
    let reduction = Reduction::new("max_axes", x.shape(), axes);
    assert!(reduction.terms() > 0, "max_axes: expected axes that are not empty, got {:?} of {:?}", axes, x.shape());
    reduction.fold(x, Fold::Max, 1.0, keep_dims)
}

/// Gradient of [`max_axes`]: `dy` is shared equally by all elements that have the maximum (as in PyTorch's `amax`).
///
/// # Panics
/// If `dy` does not have the shape of the maxima, or the devices differ.
#[track_caller]
pub fn max_axes_vjp(x: &Tensor, dy: &Tensor, axes: &[usize]) -> Tensor {
    let dy = Reduction::new("max_axes_vjp", x.shape(), axes).kept(dy);
    let is_maximum = equal(x, &max_axes(x, axes, true));
    mul(&is_maximum, &div(&dy, &sum_axes(&is_maximum, axes, true)))
}

/// `y[kept] = (1/(R − correction)) Σ_reduced (x[kept, reduced] − mean[kept])²`; axes as in [`sum_axes`]. `correction`
/// is 0 for the biased variance (as in batch norm) and 1 for the unbiased estimate (the default of PyTorch's `var`).
/// The mean is subtracted first, so a large mean does not make the result inaccurate.
///
/// # Panics
/// As [`sum_axes`].
#[track_caller]
pub fn var_axes(x: &Tensor, axes: &[usize], correction: usize, keep_dims: bool) -> Tensor {
    let reduction = Reduction::new("var_axes", x.shape(), axes);
    let deviation = sub(x, &mean_axes(x, axes, true));
    reduction.fold(&mul(&deviation, &deviation), Fold::Sum, reduction.freedom(correction), keep_dims)
}

/// Gradient of [`var_axes`]: `dx = 2/(R − correction) · (x − mean) · dy`.
///
/// # Panics
/// If `dy` does not have the shape of the variances, or the devices differ.
#[track_caller]
pub fn var_axes_vjp(x: &Tensor, dy: &Tensor, axes: &[usize], correction: usize) -> Tensor {
    let reduction = Reduction::new("var_axes_vjp", x.shape(), axes);
    let dy = scale(&reduction.kept(dy), 2.0 * reduction.freedom(correction));
    mul(&sub(x, &mean_axes(x, axes, true)), &dy)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fold {
    Sum,
    Max,
}

/// Which terms of a tensor make up which results.
struct Reduction {
    op: &'static str,
    /// The results' places in `x`: each begins with the first of its terms.
    results: Strided<1>,
    /// The terms of one result, counted from its first.
    terms: Strided<1>,
    /// Whether the terms of one result lie side by side, rather than the results.
    by_rows: bool,
    /// With the reduced axes as 1, and without them.
    kept: Shape,
    dropped: Shape,
}

/// Results that a job of columns adds up at a time: their sums stay in the first cache.
const BLOCK: usize = 1024;
/// Jobs that keep any machine busy; with fewer results than that the terms are cut too.
const JOBS: usize = 64;

impl Reduction {
    #[track_caller]
    fn new(op: &'static str, x: Shape, axes: &[usize]) -> Self {
        for (i, &axis) in axes.iter().enumerate() {
            assert!(axis < x.rank(), "{op}: expected axes below {}, got {axes:?} of {x:?}", x.rank());
            assert!(!axes[..i].contains(&axis), "{op}: expected each axis once, got {axes:?}");
        }
        let strides = strided::dense(x);
        let strided = |reduced: bool| {
            let chosen = (0..x.rank()).filter(|axis| axes.contains(axis) == reduced);
            Strided::new(chosen.map(|axis| (x[axis], [strides[axis]])))
        };
        let kept: Vec<usize> = (0..x.rank()).map(|axis| if axes.contains(&axis) { 1 } else { x[axis] }).collect();
        let dropped: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).map(|axis| x[axis]).collect();
        let innermost = (0..x.rank()).rev().find(|&axis| x[axis] != 1);
        Reduction {
            op,
            results: strided(false),
            terms: strided(true),
            by_rows: innermost.is_some_and(|axis| axes.contains(&axis)),
            kept: Shape::new(&kept),
            dropped: Shape::new(&dropped),
        }
    }

    /// Terms of one result.
    fn terms(&self) -> usize {
        self.terms.len()
    }

    /// `1 / (R − correction)`.
    fn freedom(&self, correction: usize) -> f64 {
        1.0 / (self.terms() as f64 - correction as f64)
    }

    /// A gradient of the results, with the reduced axes as 1.
    #[track_caller]
    fn kept(&self, dy: &Tensor) -> Tensor {
        assert!(
            dy.shape() == self.kept || dy.shape() == self.dropped,
            "{}: expected dy {:?} or {:?}, got {:?}",
            self.op,
            self.kept,
            self.dropped,
            dy.shape()
        );
        dy.reshape(self.kept)
    }

    /// `y[result] = factor · (the sum or the maximum of its terms)`.
    fn fold(&self, x: &Tensor, fold: Fold, factor: f64, keep_dims: bool) -> Tensor {
        let shape = if keep_dims { self.kept } else { self.dropped };
        match x.device() {
            Device::Cpu => {
                let mut y = HostBuffer::scratch(shape.len());
                match fold {
                    Fold::Sum => self.host(x.f32s(), &mut y, factor, 0.0, |a, b| a + b),
                    Fold::Max => self.host(x.f32s(), &mut y, factor, f64::NEG_INFINITY, greater),
                }
                Tensor::cpu(shape, y)
            }
            Device::Reference => {
                let x = x.f64s();
                let value = |result: usize| {
                    let first = self.results.offsets(result)[0];
                    let terms = (0..self.terms()).map(|term| x[first + self.terms.offsets(term)[0]]);
                    factor
                        * match fold {
                            Fold::Sum => terms.sum::<f64>(),
                            Fold::Max => terms.fold(f64::NEG_INFINITY, greater),
                        }
                };
                Tensor::reference(shape, (0..shape.len()).map(value).collect())
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => self.gpu(&gpu, x, fold, factor).reshape(shape),
        }
    }

    fn host(
        &self,
        x: &[f32],
        y: &mut [f32],
        factor: f64,
        start: f64,
        f: impl Fn(f64, f64) -> f64 + Copy + Send + Sync,
    ) {
        let all = 0..self.terms();
        let splits = self.splits(x.len(), y.len());
        if splits > 1 {
            // Few results of many terms each: jobs share the terms, and their results are joined in order.
            let per_split = self.terms().div_ceil(splits);
            let partial = collect(splits, 1, |split| {
                let first = (split * per_split).min(all.end);
                let mut partial = vec![start; y.len()];
                self.add_terms(x, 0, first..(first + per_split).min(all.end), &mut partial, start, f);
                partial
            });
            for (result, y) in y.iter_mut().enumerate() {
                *y = (factor * partial.iter().fold(start, |a, b| f(a, b[result]))) as f32;
            }
            return;
        }
        let job = |first: usize, y: &mut [f32]| {
            let mut sums = [0f64; BLOCK];
            for (block, y) in y.chunks_mut(BLOCK).enumerate() {
                let sums = &mut sums[..y.len()];
                sums.fill(start);
                self.add_terms(x, first + block * BLOCK, all.clone(), sums, start, f);
                for (y, &sum) in y.iter_mut().zip(sums.iter()) {
                    *y = (factor * sum) as f32;
                }
            }
        };
        if x.len() <= PIECE {
            job(0, y);
        } else {
            let smallest = if self.by_rows { 1 } else { BLOCK };
            let per_job = smallest.max(PIECE.div_ceil(self.terms().max(1)));
            for_each_chunk(y, per_job, 1, &|i, y| job(i * per_job, y));
        }
    }

    /// In how many parts the terms are cut: by sizes alone, never by the number of threads.
    fn splits(&self, x_len: usize, results: usize) -> usize {
        let jobs = if self.by_rows { results } else { results.div_ceil(BLOCK) };
        if x_len <= PIECE || jobs >= JOBS { 1 } else { (JOBS / jobs).min(x_len.div_ceil(PIECE)).min(self.terms()) }
    }

    /// Adds these terms of the results from `first` on to `sums`.
    fn add_terms(
        &self,
        x: &[f32],
        first: usize,
        terms: Range<usize>,
        sums: &mut [f64],
        start: f64,
        f: impl Fn(f64, f64) -> f64 + Copy,
    ) {
        if self.by_rows {
            for (i, sum) in sums.iter_mut().enumerate() {
                let [result] = self.results.offsets(first + i);
                self.terms.for_each_run(terms.clone(), |run, [at]| {
                    *sum = f(*sum, fold_row(&x[result + at..][..run.len()], start, &f));
                });
            }
        } else {
            let [stride] = self.terms.inner_strides();
            self.results.for_each_run(first..first + sums.len(), |results, [result]| {
                let sums = &mut sums[results];
                self.terms.for_each_run(terms.clone(), |run, [at]| {
                    fold_columns(&x[result + at..], stride, run.len(), sums, &f);
                });
            });
        }
    }

    #[cfg(feature = "gpu")]
    fn gpu(&self, gpu: &Gpu, x: &Tensor, fold: Fold, factor: f64) -> Tensor {
        // Terms of a workgroup's row, and of an invocation's column where there are too few columns to fill the GPU.
        const ROW: usize = 4096;
        const COLUMN: usize = 256;
        const FULL: usize = 1 << 14;
        let (results, terms) = (self.kept.len(), self.terms());
        let per_split = match self.by_rows {
            true => ROW,
            false if results >= FULL => terms,
            false => COLUMN,
        };
        let splits = terms.div_ceil(per_split.max(1)).max(1);
        let shape = Shape::from([splits, results]);
        // The last launch multiplies.
        let now = if splits > 1 { 1.0 } else { factor };
        let own = [terms as u32, per_split as u32, results as u32, (now as f32).to_bits()];
        let words = strided::words(&self.results, Some(&self.terms), own);
        let overrides = [("MAXIMUM", f64::from(u8::from(fold == Fold::Max)))];
        let (kernel, size) = match self.by_rows {
            true => (launch::kernel("fold_rows", SHADER).workgroup(64, 4 * 64), Size::Groups(shape.len())),
            false => (launch::kernel("fold_columns", SHADER), Size::Threads(shape.len())),
        };
        let partial = launch::result(gpu, kernel, &overrides, &[x], shape, &words, size);
        match splits {
            1 => partial.reshape(self.kept),
            _ => Reduction::new(self.op, shape, &[0]).gpu(gpu, &partial, fold, factor).reshape(self.kept),
        }
    }
}

/// Accumulators of a row.
const LANES: usize = 32;

wide! {
    /// `f` over a row, from `start` on, in [`LANES`] accumulators.
    fn fold_row<F: Fn(f64, f64) -> f64>(x: &[f32], start: f64, f: &F) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut total = start;
        if let Some((first, chunks)) = chunks.split_first() {
            let mut lanes = first.map(f64::from);
            for chunk in chunks {
                for (lane, &x) in lanes.iter_mut().zip(chunk) {
                    *lane = f(*lane, f64::from(x));
                }
            }
            for lane in lanes {
                total = f(total, lane);
            }
        }
        for &x in rest {
            total = f(total, f64::from(x));
        }
        total
    }
}

wide! {
    /// `sums[i] = f(sums[i], x[i])`, and so on for `count` rows, `stride` apart.
    fn fold_columns<F: Fn(f64, f64) -> f64>(x: &[f32], stride: usize, count: usize, sums: &mut [f64], f: &F) {
        for row in 0..count {
            for (sum, &x) in sums.iter_mut().zip(&x[row * stride..]) {
                *sum = f(*sum, f64::from(x));
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("strided.wgsl"), include_str!("reduce.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{
        Tolerance, all_elements, check, check_adjoint, check_equivariant, devices_and_reference, random, same_bits,
    };

    /// Rows and columns, few and many results, short and long, more than a job takes; nothing, and one.
    const CASES: [(&[usize], &[usize]); 19] = [
        (&[5], &[0]),
        (&[1], &[0]),
        (&[3, 4], &[]),
        (&[3, 4], &[1]),
        (&[3, 4], &[0]),
        (&[3, 4], &[1, 0]),
        (&[2, 3, 4, 5, 6], &[0, 2, 3, 4]),
        (&[2, 3, 4, 5, 6], &[3, 4]),
        (&[2, 3, 4, 5, 6], &[1]),
        (&[2, 3, 4, 5, 6], &[1, 3]),
        (&[2, 3, 4, 5, 6], &[0, 2, 4]),
        (&[1, 65, 1], &[0, 2]),
        (&[1, 65, 1], &[1]),
        (&[3, 2, 1, 2, 3, 2], &[1, 4]),
        (&[40_001], &[0]),
        (&[4_001, 10], &[0]),
        (&[70, 600], &[1]),
        (&[600, 70], &[0]),
        (&[2, 17_000], &[0]),
    ];

    #[test]
    fn parity_and_adjoint() {
        for (dims, axes) in CASES {
            let (shape, name) = (Shape::new(dims), format!("{dims:?} over {axes:?}"));
            let x = random(shape, 1);
            // Squares, so that a sum is as large as its terms.
            let squares = mul(&x, &x);
            for keep in [false, true] {
                check(&format!("sum {name}"), &[&squares], Tolerance::Terms(2), |t| vec![sum_axes(&t[0], axes, keep)]);
                check(&format!("mean {name}"), &[&squares], Tolerance::Terms(2), |t| {
                    vec![mean_axes(&t[0], axes, keep)]
                });
                check(&format!("max {name}"), &[&x], Tolerance::Exact, |t| vec![max_axes(&t[0], axes, keep)]);
                check(&format!("var {name}"), &[&x], Tolerance::Terms(8), |t| vec![var_axes(&t[0], axes, 0, keep)]);
                let sums = |x: &Tensor| sum_axes(x, axes, keep);
                check_adjoint(&format!("sum {name}"), shape, sums, |dy| sum_axes_vjp(dy, shape, axes));
                let means = |x: &Tensor| mean_axes(x, axes, keep);
                check_adjoint(&format!("mean {name}"), shape, means, |dy| mean_axes_vjp(dy, shape, axes));
            }
            let dy = random(sum_axes(&x, axes, false).shape(), 2);
            check(&format!("max_vjp {name}"), &[&x, &dy], Tolerance::Exact, |t| vec![max_axes_vjp(&t[0], &t[1], axes)]);
            check(&format!("var_vjp {name}"), &[&x, &dy], Tolerance::Terms(8), |t| {
                vec![var_axes_vjp(&t[0], &t[1], axes, 0)]
            });
        }
    }

    /// Maxima over any axes, and sums over those that stay.
    #[test]
    fn what_keeps_every_bit_under_all_symmetries() {
        for (height, width) in [(1, 1), (5, 5), (4, 7), (6, 6), (3, 65)] {
            let (shape, all) = ([2, 70, 3, height, width], all_elements());
            let check = |name: &str, axes: &'static [usize], f: fn(&Tensor, &[usize]) -> Tensor| {
                check_equivariant(&format!("{name} {height}x{width}"), shape, &all, true, |x| f(x, axes));
            };
            check("max over the plane", &[3, 4], |x, axes| max_axes(x, axes, false));
            check("max over channels", &[1], |x, axes| max_axes(x, axes, true));
            check("max over all but images", &[1, 2, 3, 4], |x, axes| max_axes(x, axes, false));
            check("sum over channels", &[1], |x, axes| sum_axes(x, axes, true));
            check("mean over images and channels", &[0, 1], |x, axes| mean_axes(x, axes, true));
            check("variance over channels", &[1], |x, axes| var_axes(x, axes, 1, true));
        }
    }

    #[test]
    fn nan_wins_and_infinities_pass_on_every_device() {
        for device in devices_and_reference() {
            let of = |values: &[f32]| Tensor::from_vec([2, values.len() / 2], values.to_vec(), &device).unwrap();
            let x = of(&[1.0, f32::NAN, f32::INFINITY, -1.0, f32::NEG_INFINITY, -2.0]);
            let rows = max_axes(&x, &[1], false).to_vec().unwrap();
            assert!(rows[0].is_nan() && rows[1] == -1.0, "{device}: {rows:?}");
            let columns = max_axes(&x, &[0], false).to_vec().unwrap();
            assert!(columns[0] == 1.0 && columns[1].is_nan() && columns[2] == f32::INFINITY, "{device}: {columns:?}");
            assert!(sum_axes(&x, &[1], false).to_vec().unwrap()[0].is_nan(), "{device}");
            // Far from the first, in a row and a column too long for one job.
            let mut values = vec![-1.0; 40_000];
            values[31_111] = f32::NAN;
            for shape in [[1, 40_000], [40_000, 1], [8000, 5]] {
                let x = Tensor::from_vec(shape, values.clone(), &device).unwrap();
                assert!(max_axes(&x, &[0, 1], false).to_vec().unwrap()[0].is_nan(), "{shape:?} on {device}");
            }
            let x = of(&[f32::NEG_INFINITY; 4]);
            assert_eq!(max_axes(&x, &[1], false).to_vec().unwrap(), [f32::NEG_INFINITY; 2], "{device}");
        }
    }

    #[test]
    fn equal_maxima_share_the_gradient() {
        for device in devices_and_reference() {
            let x = Tensor::from_vec([2, 3], vec![5.0, 1.0, 5.0, 0.0, f32::NAN, 2.0], &device).unwrap();
            let dy = Tensor::from_vec([2], vec![4.0, 3.0], &device).unwrap();
            let dx = max_axes_vjp(&x, &dy, &[1]).to_vec().unwrap();
            assert_eq!(dx, [2.0, 0.0, 2.0, 0.0, 3.0, 0.0], "{device}");
        }
    }

    #[test]
    fn statistics_by_hand() {
        for device in devices_and_reference() {
            // A large mean: squares alone would leave no digit of the variance.
            let x = Tensor::from_vec([2, 2], vec![10_000.0, 10_002.0, 10_003.0, 10_009.0], &device).unwrap();
            assert_eq!(mean_axes(&x, &[1], false).to_vec().unwrap(), [10_001.0, 10_006.0], "{device}");
            assert_eq!(var_axes(&x, &[1], 0, false).to_vec().unwrap(), [1.0, 9.0], "{device}");
            assert_eq!(var_axes(&x, &[1], 1, true).to_vec().unwrap(), [2.0, 18.0], "{device}");
            assert!(var_axes(&x, &[], 1, false).to_vec().unwrap().iter().all(|v| v.is_nan()), "{device}");
        }
    }

    #[test]
    fn no_terms_sum_to_zero() {
        for device in devices_and_reference() {
            let x = Tensor::from_vec([2, 0, 3], vec![], &device).unwrap();
            assert_eq!(sum_axes(&x, &[1], false).to_vec().unwrap(), [0.0; 6], "{device}");
            assert!(sum_axes(&x, &[0], false).to_vec().unwrap().is_empty(), "{device}");
            assert!(same_bits(&sum_axes(&x, &[0, 1, 2], false), &Tensor::full([], 0.0, &device).unwrap()), "{device}");
        }
    }

    #[test]
    #[should_panic(expected = "sum_axes: expected axes below 2, got [2] of [2, 3]")]
    fn an_axis_too_many_is_refused() {
        sum_axes(&random([2, 3], 1), &[2], false);
    }

    #[test]
    #[should_panic(expected = "mean_axes: expected each axis once, got [0, 1, 0]")]
    fn an_axis_named_twice_is_refused() {
        mean_axes(&random([2, 3], 1), &[0, 1, 0], false);
    }

    #[test]
    #[should_panic(expected = "max_axes: expected axes that are not empty, got [1] of [2, 0]")]
    fn a_maximum_of_nothing_is_refused() {
        max_axes(&random([2, 0], 1), &[1], false);
    }
}
