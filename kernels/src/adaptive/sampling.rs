//! Moves samples between a map and the chosen grid: [`gather`] and its adjoint [`spread`].

use super::GridChoice;
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    Window,
    plane::{Planes, with_planes},
    simd::wide,
    sweep::for_each_piece,
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};
use std::ops::Range;

/// `y[r, c] = Σ_ab w[a, b] · x[step·r + a − lead, step·c + b − lead]`, outside x zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    /// Height and width of x and of y.
    pub x: [usize; 2],
    pub y: [usize; 2],
    /// 1 or 2.
    step: usize,
    lead: usize,
}

impl Sampling {
    /// Of every grid the samples.
    pub fn by_two(x: [usize; 2], y: [usize; 2]) -> Self {
        Sampling { x, y, step: 2, lead: 0 }
    }

    /// Of every grid what its windows reach.
    pub fn of_windows(x: Shape, choice: &GridChoice, window: Window) -> Self {
        let Planes { height, width, .. } = Planes::of("windows", x);
        let y = choice.sampled().map(|windows| 2 * (windows - 1) + window.kernel_size);
        Sampling { x: [height, width], y, step: 1, lead: window.padding }
    }

    /// Along an axis of x and y: those of y that have a sample in x, and that of the first one, for the grid that begins at
    /// `first`.
    fn covered(&self, axis: usize, first: usize) -> (Range<usize>, usize) {
        let (step, lead) = (self.step, self.lead);
        // y at r has x at step·r + first − lead.
        let start = lead.saturating_sub(first).div_ceil(step);
        let end = (self.x[axis] + lead).saturating_sub(first).div_ceil(step).min(self.y[axis]);
        (start..end.max(start), (step * start + first).saturating_sub(lead))
    }

    /// `f(row or rest of a row of y, where in x it begins)` for each row that has samples, of the grid `2a + b`.
    #[inline(always)]
    pub fn for_each_row(&self, grid: usize, mut f: impl FnMut(Range<usize>, usize)) {
        let ((rows, top), (columns, left)) = (self.covered(0, grid / 2), self.covered(1, grid % 2));
        for (i, row) in rows.enumerate() {
            let y = row * self.y[1];
            f(y + columns.start..y + columns.end, (top + i * self.step) * self.x[1] + left);
        }
    }

    /// As [`Sampling::for_each_row`], `f(index in y, index in x)` for each sample.
    fn for_each_sample(&self, grid: usize, mut f: impl FnMut(usize, usize)) {
        self.for_each_row(grid, |y, x| y.enumerate().for_each(|(i, y)| f(y, x + i * self.step)));
    }

    fn lengths(&self) -> [usize; 2] {
        [self.x[0] * self.x[1], self.y[0] * self.y[1]]
    }

    /// A plane of y, where the grids count for `weights`.
    pub fn gather_plane(&self, weights: &[f32], x: &[f32], y: &mut [f32]) {
        if weights[0].is_nan() {
            return y.fill(f32::NAN);
        }
        if let Some(grid) = weights.iter().position(|&weight| weight == 1.0) {
            return match self.step {
                1 => {
                    y.fill(0.0);
                    self.for_each_row(grid, |to, from| y[to.clone()].copy_from_slice(&x[from..][..to.len()]));
                }
                _ => every_other(&x[grid / 2 * self.x[1] + grid % 2..], self.x[1], y, self.y[1]),
            };
        }
        // Opposite grids are added first.
        let weight = weights.iter().fold(0.0, |a: f32, &b| a.max(b));
        let mut pairs = [vec![0.0; y.len()], vec![0.0; y.len()]];
        for grid in (0..4).filter(|&grid| weights[grid] > 0.0) {
            let pair = &mut pairs[usize::from(grid == 1 || grid == 2)];
            self.for_each_sample(grid, |to, from| pair[to] += x[from]);
        }
        let [opposite, other] = pairs;
        for ((y, a), b) in y.iter_mut().zip(opposite).zip(other) {
            *y = (a + b) * weight;
        }
    }

    /// The adjoint of [`Sampling::gather_plane`].
    pub fn spread_plane(&self, weights: &[f32], y: &[f32], x: &mut [f32]) {
        if weights[0].is_nan() {
            return x.fill(f32::NAN);
        }
        x.fill(0.0);
        for (grid, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            match (weight == 1.0, self.step) {
                (true, 1) => self.for_each_row(grid, |from, to| x[to..][..from.len()].copy_from_slice(&y[from])),
                (true, _) => self.for_each_row(grid, |from, to| spread_every_other(&y[from], &mut x[to..])),
                _ => self.for_each_sample(grid, |from, to| x[to] += weight * y[from]),
            }
        }
    }
}

wide! {
    /// `y[i, j] = x[2i, 2j]`, planes in rows of these lengths; the last row of x may end at its last sample.
    fn every_other(x: &[f32], x_width: usize, y: &mut [f32], y_width: usize) {
        const BLOCK: usize = 8;
        const WIDE: usize = 2 * BLOCK;
        // What whole blocks write behind a row is written anew by the next row.
        let reach = y_width.next_multiple_of(WIDE);
        let rows = y.len() / y_width;
        let wide_rows = match (x.len().checked_sub(2 * reach), y.len().checked_sub(reach)) {
            (Some(x), Some(y)) => (x / (2 * x_width) + 1).min(y / y_width + 1),
            _ => 0,
        };
        for row in 0..wide_rows {
            for j in (0..reach).step_by(WIDE) {
                copy_block::<WIDE>(&x[2 * (row * x_width + j)..], &mut y[row * y_width + j..]);
            }
        }
        for row in wide_rows..rows {
            let (x, y) = (&x[2 * row * x_width..][..2 * y_width - 1], &mut y[row * y_width..][..y_width]);
            if y_width < BLOCK {
                (0..y_width).for_each(|j| y[j] = x[2 * j]);
                continue;
            }
            for j in 0..y_width / BLOCK {
                copy_block::<BLOCK>(&x[2 * BLOCK * j..], &mut y[BLOCK * j..]);
            }
            // The last block overlaps the one before it: a rest is not done one by one.
            copy_block::<BLOCK>(&x[2 * (y_width - BLOCK)..], &mut y[y_width - BLOCK..]);
        }
    }
}

/// `y[i] = x[2i]` of the first places.
#[inline(always)]
fn copy_block<const BLOCK: usize>(x: &[f32], y: &mut [f32]) {
    let (x, y) = (&x[..2 * BLOCK - 1], &mut y[..BLOCK]);
    for i in 0..BLOCK {
        y[i] = x[2 * i];
    }
}

/// `x[2i] = y[i]`; in between are zeros.
#[inline(always)]
fn spread_every_other(y: &[f32], x: &mut [f32]) {
    let (pairs, last) = x.as_chunks_mut::<2>();
    let whole = y.len().min(pairs.len());
    for (pair, &y) in pairs.iter_mut().zip(y) {
        *pair = [y, 0.0];
    }
    if whole < y.len() {
        last[0] = y[whole];
    }
}

/// [`Sampling`] of each plane of `x` `[N, …, H, W]`.
#[track_caller]
pub(super) fn gather(op: &str, x: &Tensor, choice: &GridChoice, sampling: Sampling) -> Tensor {
    let [x_len, y_len] = sampling.lengths();
    let shape = with_planes(x.shape(), sampling.y[0], sampling.y[1]);
    match choice.check(op, x) {
        Device::Cpu => {
            let weights = Weights::of(choice.weights.f32s(), x, x_len);
            let mut y = HostBuffer::scratch(shape.len());
            for_each_piece(x.f32s(), x_len, &mut y, y_len, &|plane, x, y| {
                sampling.gather_plane(weights.of_plane(plane), x, y);
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let weights = Weights::of(choice.weights.f64s(), x, x_len);
            let mut y = vec![0.0; shape.len()];
            for (plane, (x, y)) in x.f64s().chunks_exact(x_len).zip(y.chunks_exact_mut(y_len)).enumerate() {
                for (grid, &weight) in weights.of_plane(plane).iter().enumerate().filter(|(_, weight)| **weight != 0.0)
                {
                    if weight.is_nan() {
                        y.fill(f64::NAN);
                    }
                    sampling.for_each_sample(grid, |to, from| y[to] += weight * x[from]);
                }
            }
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => sampling.on_gpu(&gpu, "grid_gather", x, choice, shape),
    }
}

/// The adjoint of [`gather`]: `[N, …, H, W]` of y to that of x.
#[track_caller]
pub(super) fn spread(op: &str, y: &Tensor, choice: &GridChoice, sampling: Sampling) -> Tensor {
    let [x_len, y_len] = sampling.lengths();
    let shape = with_planes(y.shape(), sampling.x[0], sampling.x[1]);
    match choice.check(op, y) {
        Device::Cpu => {
            let weights = Weights::of(choice.weights.f32s(), y, y_len);
            let mut x = HostBuffer::scratch(shape.len());
            for_each_piece(y.f32s(), y_len, &mut x, x_len, &|plane, y, x| {
                sampling.spread_plane(weights.of_plane(plane), y, x);
            });
            Tensor::cpu(shape, x)
        }
        Device::Reference => {
            let weights = Weights::of(choice.weights.f64s(), y, y_len);
            let mut x = vec![0.0; shape.len()];
            for (plane, (y, x)) in y.f64s().chunks_exact(y_len).zip(x.chunks_exact_mut(x_len)).enumerate() {
                for (grid, &weight) in weights.of_plane(plane).iter().enumerate().filter(|(_, weight)| **weight != 0.0)
                {
                    if weight.is_nan() {
                        x.fill(f64::NAN);
                    }
                    sampling.for_each_sample(grid, |from, to| x[to] += weight * y[from]);
                }
            }
            Tensor::reference(shape, x)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => sampling.on_gpu(&gpu, "grid_spread", y, choice, shape),
    }
}

/// The weights of the four grids, image by image.
pub(super) struct Weights<'a, T> {
    all: &'a [T],
    /// Planes of an image.
    planes: usize,
}

impl<'a, T> Weights<'a, T> {
    /// For the planes of `x`, of so many elements each.
    pub fn of(all: &'a [T], x: &Tensor, plane: usize) -> Self {
        Weights { all, planes: x.len() / plane / x.shape()[0] }
    }

    pub fn of_plane(&self, plane: usize) -> &'a [T] {
        &self.all[plane / self.planes * 4..][..4]
    }
}

#[cfg(feature = "gpu")]
pub(super) static SHADER: &str = concat!(include_str!("../prelude.wgsl"), include_str!("grids.wgsl"));

#[cfg(feature = "gpu")]
impl Sampling {
    fn on_gpu(&self, gpu: &Gpu, name: &'static str, operand: &Tensor, choice: &GridChoice, shape: Shape) -> Tensor {
        let planes = shape.len() / shape[shape.rank() - 2] / shape[shape.rank() - 1] / shape[0];
        let [height, width] = self.x.map(|v| v as u32);
        let [out_height, out_width] = self.y.map(|v| v as u32);
        let uniform = [height, width, out_height, out_width, planes as u32, self.step as u32, self.lead as u32];
        launch::each(gpu, launch::kernel(name, SHADER), &[], &[operand, &choice.weights], shape, &uniform)
    }
}
