//! Max and average pooling over the two last axes.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    dense::{Dense, every},
    order::{greater, is_greater},
    plane::{Planes, with_planes},
    simd::wide,
    sweep::{PIECE, for_each_piece, for_each_piece2, masked, select},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Kernel, Size};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor, common_device, window_extent};

/// The sliding window of a convolution or pooling: kernel size, stride and padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Height and width of the window, in samples.
    pub kernel_size: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Samples added on each side, fewer than `kernel_size`. They are −∞ for max pooling. For average pooling they are
    /// zeros, which count in the mean.
    pub padding: usize,
}

/// Max pooling, `y[…, i, j] = max_{u,v<k} x[…, i·s + u − p, j·s + v − p]`: any leading axes, then `[H, W]` → `[H', W']`
/// by [`window_extent`]. The maximum is NaN if the window has a NaN. A turned or mirrored `x` gives `y` turned or
/// mirrored where (H + 2p − k) mod s = 0 (likewise W).
///
/// # Panics
/// With fewer than two axes, if no window fits, or with `padding ≥ kernel_size`.
#[track_caller]
pub fn max_pool(x: &Tensor, window: Window) -> Tensor {
    let geometry = Geometry::of("max_pool", x.shape(), window);
    let shape = geometry.y_shape(x.shape());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let [x_len, y_len] = geometry.piece();
            for_each_piece(x.f32s(), x_len, &mut y, y_len, &|_, x, y| geometry.maxima(x, y));
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let x = x.f64s();
            let y = geometry.reference_windows(|taps| taps.fold(f64::NEG_INFINITY, |max, (_, at)| greater(x[at], max)));
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "max_pool", &[x], shape, geometry),
    }
}

/// Gradient of [`max_pool`]: it goes to the first maximum of each window in row-major order, or to the first NaN if
/// there is one.
///
/// # Panics
/// As [`max_pool`], or if `dy` does not have the shape of its result.
#[track_caller]
pub fn max_pool_vjp(x: &Tensor, dy: &Tensor, window: Window) -> Tensor {
    let geometry = Geometry::of("max_pool_vjp", x.shape(), window);
    geometry.assert_result("max_pool_vjp", x.shape(), dy);
    match common_device("max_pool_vjp", &[x, dy]) {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x.len());
            let (x_len, y_len) = (geometry.x.len(), geometry.y.len());
            for_each_piece2(x.f32s(), x_len, dy.f32s(), y_len, &mut dx, x_len, &|_, x, dy, dx| {
                geometry.maxima_vjp(x, dy, dx);
            });
            Tensor::cpu(x.shape(), dx)
        }
        Device::Reference => {
            let (x_values, dy) = (x.f64s(), dy.f64s());
            let best = geometry.reference_windows(|taps| {
                let first = |best: usize, at: usize| if is_greater(&x_values[at], &x_values[best]) { at } else { best };
                taps.map(|(_, at)| at).reduce(first).expect("every window covers a sample")
            });
            let mut dx = vec![0.0; x.len()];
            for (dy, at) in dy.iter().zip(best) {
                dx[at] += dy;
            }
            Tensor::reference(x.shape(), dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_max_pool_vjp(&gpu, x, dy, geometry),
    }
}

/// Average pooling, `y[…, i, j] = (1/k²) Σ_{u,v<k} x[…, i·s + u − p, j·s + v − p]`. Zeros of the padding count, as in
/// PyTorch by default.
///
/// Samples that turns of the window move onto each other are added first. So turning or mirroring the input turns or
/// mirrors the output to the bit where (H + 2p − k) mod s = 0 (likewise W).
///
/// # Panics
/// As [`max_pool`].
#[track_caller]
pub fn avg_pool(x: &Tensor, window: Window) -> Tensor {
    let geometry = Geometry::of("avg_pool", x.shape(), window);
    let shape = geometry.y_shape(x.shape());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let [x_len, y_len] = geometry.piece();
            let area = (window.kernel_size * window.kernel_size) as f32;
            for_each_piece(x.f32s(), x_len, &mut y, y_len, &|_, x, y| {
                geometry.weighted_sums(x, y, |_, _| 1.0);
                divide(y, area);
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let x = x.f64s();
            let area = (window.kernel_size * window.kernel_size) as f64;
            let y = geometry.reference_windows(|taps| taps.map(|(_, at)| x[at]).sum::<f64>() / area);
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "avg_pool", &[x], shape, geometry),
    }
}

/// Gradient of [`avg_pool`]: every sample of a window gets `dy/k²`.
///
/// # Panics
/// As [`max_pool`], or if `dy` does not have the shape of its result.
#[track_caller]
pub fn avg_pool_vjp(dy: &Tensor, x_shape: Shape, window: Window) -> Tensor {
    let geometry = Geometry::of("avg_pool_vjp", x_shape, window);
    geometry.assert_result("avg_pool_vjp", x_shape, dy);
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x_shape.len());
            for_each_piece(dy.f32s(), geometry.y.len(), &mut dx, geometry.x.len(), &|_, dy, dx| {
                mean_windows_vjp(dy, dx, geometry);
            });
            Tensor::cpu(x_shape, dx)
        }
        Device::Reference => {
            let dy = dy.f64s();
            let area = (window.kernel_size * window.kernel_size) as f64;
            let mut dx = vec![0.0; x_shape.len()];
            geometry.reference_windows(|taps| taps.for_each(|(i, at)| dx[at] += dy[i] / area));
            Tensor::reference(x_shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_each(&gpu, "avg_pool_vjp", &[dy], x_shape, geometry),
    }
}

/// The usual window, which has code of its own.
const HALVING: Window = Window { kernel_size: 2, stride: 2, padding: 0 };

/// Windows on planes.
#[derive(Clone, Copy)]
pub(crate) struct Geometry {
    pub x: Planes,
    pub y: Planes,
    pub window: Window,
}

impl Geometry {
    #[track_caller]
    pub(crate) fn of(op: &str, x_shape: Shape, window: Window) -> Self {
        let x = Planes::of(op, x_shape);
        let Window { kernel_size, stride, padding } = window;
        assert!(padding < kernel_size, "{op}: expected padding below kernel_size, got {window:?}");
        let extent = |i| window_extent(i, kernel_size, stride, padding);
        let (Some(height), Some(width)) = (extent(x.height), extent(x.width)) else {
            panic!("{op}: expected planes that a window fits in, got {x_shape:?} and {window:?}")
        };
        assert!(x.height > 0 && x.width > 0, "{op}: expected planes that are not empty, got {x_shape:?}");
        Geometry { x, y: Planes { count: x.count, height, width }, window }
    }

    pub(crate) fn y_shape(self, x_shape: Shape) -> Shape {
        with_planes(x_shape, self.y.height, self.y.width)
    }

    #[track_caller]
    pub(crate) fn assert_result(self, op: &str, x_shape: Shape, dy: &Tensor) {
        let expected = self.y_shape(x_shape);
        assert_eq!(dy.shape(), expected, "{op}: expected dy {expected:?} of x {x_shape:?}, got {:?}", dy.shape());
    }

    /// Elements that `len` elements, whole planes, become.
    pub(crate) fn shrunk(self, len: usize) -> usize {
        len / self.x.len() * self.y.len()
    }

    /// Elements of x and of y of some planes, whose results are worth a job.
    pub(crate) fn piece(self) -> [usize; 2] {
        let planes = PIECE.div_ceil(self.x.len());
        [planes * self.x.len(), planes * self.y.len()]
    }

    /// The maxima of some whole planes.
    pub(crate) fn maxima(self, x: &[f32], y: &mut [f32]) {
        let planes = x.chunks_exact(self.x.len()).zip(y.chunks_exact_mut(self.y.len()));
        if self.window == HALVING {
            return planes.for_each(|(x, y)| max_halving(x, y, self));
        }
        let Window { kernel_size, stride, padding } = self.window;
        let mut dense = Dense::new(self.x, kernel_size, padding, f32::NEG_INFINITY);
        let mut results = vec![0.0; self.y.height * dense.results_pitch()];
        for (x, y) in planes {
            if has_nan(x) {
                max_windows(x, y, self);
                continue;
            }
            dense.view(x).maxima(stride, &mut results);
            let rows = results.chunks_exact(dense.results_pitch()).zip(y.chunks_exact_mut(self.y.width));
            rows.for_each(|(results, y)| every(stride, results, y));
        }
    }

    /// `Σ weight(u, v) · x` over the samples (u, v) of each window of some whole planes, summed by orbits; the samples of an orbit
    /// have the same weight, those of the padding are 0.
    pub(crate) fn weighted_sums(self, x: &[f32], y: &mut [f32], weight: impl Fn(usize, usize) -> f32) {
        let Window { kernel_size, stride, padding } = self.window;
        let mut dense = Dense::new(self.x, kernel_size, padding, 0.0);
        let terms = dense.terms(weight);
        let mut results = vec![0.0; self.y.height * dense.results_pitch()];
        for (x, y) in x.chunks_exact(self.x.len()).zip(y.chunks_exact_mut(self.y.len())) {
            dense.view(x).sums(stride, &terms, &mut results);
            let rows = results.chunks_exact(dense.results_pitch()).zip(y.chunks_exact_mut(self.y.width));
            rows.for_each(|(results, y)| every(stride, results, y));
        }
    }

    /// The gradient of [`Geometry::maxima`].
    pub(crate) fn maxima_vjp(self, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let planes = x.chunks_exact(self.x.len()).zip(dy.chunks_exact(self.y.len()));
        for ((x, dy), dx) in planes.zip(dx.chunks_exact_mut(self.x.len())) {
            match self.window {
                HALVING => max_halving_vjp(x, dy, dx, self),
                _ => max_windows_vjp(x, dy, dx, self),
            }
        }
    }

    /// Of each window of some whole planes the sample whose `z` is the greatest, the first of those. Whether there is code for
    /// these windows.
    pub(crate) fn greatest(self, x: &[f32], z: impl Fn(f32) -> f32, samples: &mut [f32]) -> bool {
        if self.window != HALVING {
            return false;
        }
        for (x, samples) in x.chunks_exact(self.x.len()).zip(samples.chunks_exact_mut(self.y.len())) {
            greatest_halving(x, samples, self, &z);
        }
        true
    }

    /// The samples, of `extent` in all, that window `i` covers along one axis.
    #[inline(always)]
    pub(crate) fn covered(self, i: usize, extent: usize) -> std::ops::Range<usize> {
        let Window { kernel_size, stride, padding } = self.window;
        (i * stride).saturating_sub(padding)..(i * stride + kernel_size - padding).min(extent)
    }

    /// `f` of every window's taps: (index of the window, index in `x`), row by row.
    pub(crate) fn reference_windows<T>(
        self,
        mut f: impl FnMut(&mut dyn Iterator<Item = (usize, usize)>) -> T,
    ) -> Vec<T> {
        let (x, y) = (self.x, self.y);
        let mut values = Vec::with_capacity(y.count * y.len());
        for plane in 0..y.count {
            for i in 0..y.height {
                for j in 0..y.width {
                    let window = values.len();
                    let (rows, columns) = (self.covered(i, x.height), self.covered(j, x.width));
                    let taps = rows.flat_map(|row| columns.clone().map(move |column| row * x.width + column));
                    values.push(f(&mut taps.map(|at| (window, plane * x.len() + at))));
                }
            }
        }
        values
    }
}

/// Where to start blocks of `block` windows in a row of `count ≥ block`. The last one overlaps its neighbour: it writes
/// the same values once more, but leaves no rest to do one by one.
#[inline(always)]
fn block_starts(count: usize, block: usize) -> impl Iterator<Item = usize> {
    let last = (!count.is_multiple_of(block)).then(|| count - block);
    (0..count / block).map(move |i| i * block).chain(last)
}

wide! {
    fn max_halving(x: &[f32], y: &mut [f32], geometry: Geometry) {
        let (width, windows) = (geometry.x.width, geometry.y.width);
        for (rows, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(windows)) {
            let (upper, lower) = rows.split_at(width);
            if windows >= 8 {
                for j in block_starts(windows, 8) {
                    halve::<8>(&upper[2 * j..], &lower[2 * j..], &mut y[j..]);
                }
            } else {
                for j in 0..windows {
                    halve::<1>(&upper[2 * j..], &lower[2 * j..], &mut y[j..]);
                }
            }
        }
    }
}

/// The maxima of the first `BLOCK` windows of two rows.
#[inline(always)]
fn halve<const BLOCK: usize>(upper: &[f32], lower: &[f32], y: &mut [f32]) {
    let (upper, lower, y) = (&upper[..2 * BLOCK], &lower[..2 * BLOCK], &mut y[..BLOCK]);
    for j in 0..BLOCK {
        y[j] = greater(lower[2 * j + 1], greater(lower[2 * j], greater(upper[2 * j + 1], upper[2 * j])));
    }
}

wide! {
    fn greatest_halving<F: Fn(f32) -> f32>(x: &[f32], samples: &mut [f32], geometry: Geometry, z: &F) {
        let (width, windows) = (geometry.x.width, geometry.y.width);
        for (rows, samples) in x.chunks_exact(2 * width).zip(samples.chunks_exact_mut(windows)) {
            let (upper, lower) = rows.split_at(width);
            if windows >= 8 {
                for j in block_starts(windows, 8) {
                    greatest_of_halves::<8>(&upper[2 * j..], &lower[2 * j..], &mut samples[j..], z);
                }
            } else {
                for j in 0..windows {
                    greatest_of_halves::<1>(&upper[2 * j..], &lower[2 * j..], &mut samples[j..], z);
                }
            }
        }
    }
}

/// The samples of the first `BLOCK` windows of two rows.
#[inline(always)]
fn greatest_of_halves<const BLOCK: usize>(upper: &[f32], lower: &[f32], samples: &mut [f32], z: &impl Fn(f32) -> f32) {
    let (upper, lower, samples) = (&upper[..2 * BLOCK], &lower[..2 * BLOCK], &mut samples[..BLOCK]);
    for j in 0..BLOCK {
        let (mut best, mut max) = (upper[2 * j], z(upper[2 * j]));
        for x in [upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]] {
            let v = z(x);
            let new = is_greater(&v, &max);
            best = f32::from_bits(select(new, x.to_bits(), best.to_bits()));
            max = f32::from_bits(select(new, v.to_bits(), max.to_bits()));
        }
        samples[j] = best;
    }
}

wide! {
    fn max_halving_vjp(x: &[f32], dy: &[f32], dx: &mut [f32], geometry: Geometry) {
        let (width, windows) = (geometry.x.width, geometry.y.width);
        let row_pairs = x.chunks_exact(2 * width).zip(dx.chunks_exact_mut(2 * width));
        for ((x, dx), dy) in row_pairs.zip(dy.chunks_exact(windows)) {
            let (upper, lower) = x.split_at(width);
            let (dx_upper, dx_lower) = dx.split_at_mut(width);
            if windows >= 8 {
                for j in block_starts(windows, 8) {
                    let (dx_upper, dx_lower) = (&mut dx_upper[2 * j..], &mut dx_lower[2 * j..]);
                    halve_vjp::<8>(&upper[2 * j..], &lower[2 * j..], &dy[j..], dx_upper, dx_lower);
                }
            } else {
                for j in 0..windows {
                    let (dx_upper, dx_lower) = (&mut dx_upper[2 * j..], &mut dx_lower[2 * j..]);
                    halve_vjp::<1>(&upper[2 * j..], &lower[2 * j..], &dy[j..], dx_upper, dx_lower);
                }
            }
            if width > 2 * windows {
                (dx_upper[width - 1], dx_lower[width - 1]) = (0.0, 0.0);
            }
        }
        dx[2 * geometry.y.height * width..].fill(0.0);
    }
}

/// Sends the gradients of the first `BLOCK` windows of two rows to their maxima.
#[inline(always)]
fn halve_vjp<const BLOCK: usize>(upper: &[f32], lower: &[f32], dy: &[f32], dx_upper: &mut [f32], dx_lower: &mut [f32]) {
    let (upper, lower, dy) = (&upper[..2 * BLOCK], &lower[..2 * BLOCK], &dy[..BLOCK]);
    let (dx_upper, dx_lower) = (&mut dx_upper[..2 * BLOCK], &mut dx_lower[..2 * BLOCK]);
    for j in 0..BLOCK {
        let second = is_greater(&upper[2 * j + 1], &upper[2 * j]);
        let max = greater(upper[2 * j + 1], upper[2 * j]);
        let third = is_greater(&lower[2 * j], &max);
        let max = greater(lower[2 * j], max);
        let fourth = is_greater(&lower[2 * j + 1], &max);
        dx_upper[2 * j] = masked(!(second | third | fourth), dy[j]);
        dx_upper[2 * j + 1] = masked(second & !third & !fourth, dy[j]);
        dx_lower[2 * j] = masked(third & !fourth, dy[j]);
        dx_lower[2 * j + 1] = masked(fourth, dy[j]);
    }
}

wide! {
    fn has_nan(x: &[f32]) -> bool {
        x.iter().fold(0, |largest, v| v.abs().to_bits().max(largest)) > f32::INFINITY.to_bits()
    }
}

wide! {
    fn divide(y: &mut [f32], by: f32) {
        y.iter_mut().for_each(|y| *y /= by);
    }
}

wide! {
    /// With NaN.
    fn max_windows(x: &[f32], y: &mut [f32], geometry: Geometry) {
        let mut maxima = RowMaxima::new(geometry);
        for (i, y) in y.chunks_exact_mut(geometry.y.width).enumerate() {
            maxima.find(x, i);
            y.copy_from_slice(&maxima.max.as_flattened()[..y.len()]);
        }
    }
}

wide! {
    fn max_windows_vjp(x: &[f32], dy: &[f32], dx: &mut [f32], geometry: Geometry) {
        let mut maxima = RowMaxima::new(geometry);
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(geometry.y.width).enumerate() {
            maxima.find(x, i);
            for (&dy, &at) in dy.iter().zip(maxima.at.as_flattened()) {
                dx[at as usize] += dy;
            }
        }
    }
}

/// Windows compared at a time.
const BLOCK: usize = 16;

/// The maxima of a row of windows of any kind, a block of windows at a time and without a branch: which of the samples is
/// the greatest is as good as random. What lies beyond the last window is computed along and never read.
struct RowMaxima {
    geometry: Geometry,
    /// A row of x, split by column modulo stride, so that a tap's samples lie side by side: tap t of window j is sample
    /// `j + t / stride` of phase `t mod stride`. −∞ in the padding.
    phases: Vec<f32>,
    phase_len: usize,
    max: Vec<[f32; BLOCK]>,
    /// Index in x where each maximum is first reached.
    at: Vec<[u32; BLOCK]>,
}

impl RowMaxima {
    #[inline(always)]
    fn new(geometry: Geometry) -> Self {
        let Window { kernel_size, stride, .. } = geometry.window;
        let blocks = geometry.y.width.div_ceil(BLOCK);
        let phase_len = blocks * BLOCK + kernel_size.div_ceil(stride);
        RowMaxima {
            geometry,
            phases: vec![f32::NEG_INFINITY; stride * phase_len],
            phase_len,
            max: vec![[0.0; BLOCK]; blocks],
            at: vec![[0; BLOCK]; blocks],
        }
    }

    #[inline(always)]
    fn find(&mut self, x: &[f32], i: usize) {
        let Window { kernel_size, stride, padding } = self.geometry.window;
        let width = self.geometry.x.width;
        let rows = self.geometry.covered(i, self.geometry.x.height);
        self.max.fill([f32::NEG_INFINITY; BLOCK]);
        for (j, at) in self.at.as_flattened_mut().iter_mut().enumerate() {
            *at = (rows.start * width + (j * stride).saturating_sub(padding)) as u32;
        }
        for row in rows {
            self.split(&x[row * width..][..width]);
            for tap in 0..kernel_size {
                let samples = &self.phases[tap % stride * self.phase_len + tap / stride..];
                // Of window 0; before the first column it is never taken.
                let first = ((row * width + tap) as u32).wrapping_sub(padding as u32);
                let blocks = self.max.iter_mut().zip(&mut self.at).zip(samples.as_chunks::<BLOCK>().0);
                for (block, ((max, at), samples)) in blocks.enumerate() {
                    let first = first.wrapping_add((block * BLOCK * stride) as u32);
                    // Copies, for the compiler makes vectors of no loop that updates in place.
                    let (v, mut new_max, mut new_at) = (*samples, *max, *at);
                    for j in 0..BLOCK {
                        let new = is_greater(&v[j], &max[j]);
                        new_at[j] = select(new, first.wrapping_add((j * stride) as u32), at[j]);
                        new_max[j] = f32::from_bits(select(new, v[j].to_bits(), max[j].to_bits()));
                    }
                    (*max, *at) = (new_max, new_at);
                }
            }
        }
    }

    /// Fills `phases` with a row of x; the padding stays.
    #[inline(always)]
    fn split(&mut self, x: &[f32]) {
        let Window { stride, padding, .. } = self.geometry.window;
        for (phase, samples) in self.phases.chunks_exact_mut(self.phase_len).enumerate() {
            let column = (phase + stride - padding % stride) % stride;
            let values = x.iter().skip(column).step_by(stride);
            for (sample, &v) in samples[(column + padding) / stride..].iter_mut().zip(values) {
                *sample = v;
            }
        }
    }
}

wide! {
    fn mean_windows_vjp(dy: &[f32], dx: &mut [f32], geometry: Geometry) {
        let area = (geometry.window.kernel_size * geometry.window.kernel_size) as f32;
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(geometry.y.width).enumerate() {
            for row in geometry.covered(i, geometry.x.height) {
                let dx = &mut dx[row * geometry.x.width..][..geometry.x.width];
                for (j, &dy) in dy.iter().enumerate() {
                    for dx in &mut dx[geometry.covered(j, geometry.x.width)] {
                        *dx += dy / area;
                    }
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("plane.wgsl"), include_str!("pool.wgsl"));

/// A kernel of this file, with an invocation per element of the result.
#[cfg(feature = "gpu")]
fn gpu_each(gpu: &Gpu, name: &'static str, operands: &[&Tensor], shape: Shape, geometry: Geometry) -> Tensor {
    geometry.launch(gpu, launch::kernel(name, SHADER), operands, shape, shape.len())
}

#[cfg(feature = "gpu")]
impl Geometry {
    /// The result, of this shape, of a kernel that is joined with `pool.wgsl`.
    pub(crate) fn launch(
        self,
        gpu: &Gpu,
        kernel: Kernel,
        operands: &[&Tensor],
        shape: Shape,
        threads: usize,
    ) -> Tensor {
        let Geometry { x, y, window } = self;
        let overrides = [("KERNEL_SIZE", window.kernel_size), ("STRIDE", window.stride), ("PADDING", window.padding)];
        let overrides = overrides.map(|(name, value)| (name, value as f64));
        let extents = [x.height, x.width, y.height, y.width].map(|v| v as u32);
        launch::result(gpu, kernel, &overrides, operands, shape, &extents, Size::Threads(threads))
    }
}

/// Where no sample is in two windows, a kernel finds each window's maximum once, not once per sample.
#[cfg(feature = "gpu")]
fn gpu_max_pool_vjp(gpu: &Gpu, x: &Tensor, dy: &Tensor, geometry: Geometry) -> Tensor {
    let Window { kernel_size, stride, padding } = geometry.window;
    let operands = [x, dy];
    if stride < kernel_size || padding > 0 {
        return gpu_each(gpu, "max_pool_vjp", &operands, x.shape(), geometry);
    }
    let Planes { count, height, width } = geometry.x;
    let cells = count * height.div_ceil(stride) * width.div_ceil(stride);
    let kernel = launch::kernel("max_pool_vjp_apart", SHADER);
    geometry.launch(gpu, kernel, &operands, x.shape(), cells)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_adjoint, check_equivariant, random};
    use quarterturn_core::window_residual;

    /// Leading axes, H, W, kernel size, stride, padding.
    type Case = (&'static [usize], usize, usize, usize, usize, usize);

    const CASES: &[Case] = &[
        (&[1, 1, 1], 2, 2, 2, 2, 0),
        (&[2, 3, 4], 6, 6, 2, 2, 0),
        (&[1, 5, 1], 5, 7, 2, 2, 0),
        (&[2], 33, 130, 2, 2, 0),
        (&[3, 2], 63, 65, 2, 2, 0),
        (&[2, 5, 4], 28, 28, 2, 2, 0),
        (&[2, 10, 8], 16, 17, 2, 2, 0),
        (&[2, 2], 7, 8, 3, 2, 1),
        (&[1, 3], 15, 17, 3, 1, 1),
        (&[4, 10, 4], 16, 16, 3, 2, 1),
        (&[2, 3], 9, 4, 3, 3, 0),
        (&[1, 2], 10, 11, 4, 1, 2),
        (&[1], 11, 5, 5, 3, 2),
        (&[], 65, 64, 1, 1, 0),
        (&[2], 9, 9, 1, 2, 0),
        (&[1], 8, 8, 2, 3, 1),
    ];

    fn cases() -> impl Iterator<Item = (Shape, Window, String)> {
        CASES.iter().map(|&(leading, h, w, kernel_size, stride, padding)| {
            let shape = Shape::new(&[leading, &[h, w]].concat());
            (
                shape,
                Window { kernel_size, stride, padding },
                format!("{leading:?} {h}x{w} k{kernel_size} s{stride} p{padding}"),
            )
        })
    }

    #[test]
    fn parity() {
        for (shape, window, name) in cases() {
            let x = random(shape, 1);
            let dy = random(max_pool(&x, window).shape(), 2);
            let terms = Tolerance::Terms(window.kernel_size.pow(2));
            check(&format!("max_pool {name}"), &[&x], Tolerance::Exact, |t| vec![max_pool(&t[0], window)]);
            check(&format!("max_pool_vjp {name}"), &[&x, &dy], terms, |t| vec![max_pool_vjp(&t[0], &t[1], window)]);
            check(&format!("avg_pool {name}"), &[&x], terms, |t| vec![avg_pool(&t[0], window)]);
            check(&format!("avg_pool_vjp {name}"), &[&dy], terms, |t| vec![avg_pool_vjp(&t[0], shape, window)]);
        }
    }

    #[test]
    fn average_and_its_adjoint() {
        for (shape, window, name) in cases() {
            check_adjoint(&name, shape, |x| avg_pool(x, window), |dy| avg_pool_vjp(dy, shape, window));
        }
    }

    #[test]
    fn equal_values_send_the_gradient_to_the_first() {
        for (shape, window, name) in cases() {
            // Few values, so many ties.
            let ties = |t: &Tensor| Tensor::reference(t.shape(), t.f64s().iter().map(|v| v.round()).collect());
            let x = ties(&random(shape, 3));
            let dy = random(max_pool(&x, window).shape(), 4);
            let terms = Tolerance::Terms(window.kernel_size.pow(2));
            check(&name, &[&x, &dy], terms, |t| vec![max_pool_vjp(&t[0], &t[1], window)]);
        }
    }

    #[test]
    fn pooling_commutes_with_the_square_exactly_where_the_grid_fits() {
        for size in 4..13 {
            for (kernel_size, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 1, 1), (3, 3, 0), (4, 2, 1), (5, 3, 2)] {
                let Some(residual) = window_residual(size, kernel_size, stride, padding) else { continue };
                let window = Window { kernel_size, stride, padding };
                for (name, pool) in [("max", max_pool as fn(&Tensor, Window) -> Tensor), ("avg", avg_pool)] {
                    let name = format!("{name} {size} {window:?}");
                    check_equivariant(&name, [2, 3, 1, size, size], &all_elements(), residual == 0, |x| {
                        pool(x, window)
                    });
                }
            }
        }
        // A rectangle, each axis on its own.
        let window = Window { kernel_size: 3, stride: 2, padding: 1 };
        for (h, w, commutes) in [(7, 9, true), (7, 8, false), (6, 9, false)] {
            check_equivariant("rectangle", [2, h, w], &all_elements(), commutes, |x| avg_pool(x, window));
            check_equivariant("rectangle", [2, h, w], &all_elements(), commutes, |x| max_pool(x, window));
        }
    }

    #[test]
    fn windows_by_hand() {
        let x = Tensor::cpu([2, 2], vec![1.0, 5.0, 5.0, -1.0].into());
        let dy = Tensor::cpu([1, 1], vec![2.0].into());
        let window = Window { kernel_size: 2, stride: 2, padding: 0 };
        assert_eq!(max_pool(&x, window).f32s(), [5.0]);
        assert_eq!(max_pool_vjp(&x, &dy, window).f32s(), [0.0, 2.0, 0.0, 0.0]);
        assert_eq!(avg_pool(&x, window).f32s(), [2.5]);
        assert_eq!(avg_pool_vjp(&dy, x.shape(), window).f32s(), [0.5; 4]);
        // With padding each window holds one sample: −∞ never wins, zeros count.
        let padded = Window { kernel_size: 2, stride: 2, padding: 1 };
        assert_eq!(max_pool(&x, padded).f32s(), x.f32s());
        assert_eq!(avg_pool(&x, padded).f32s(), [0.25, 1.25, 1.25, -0.25]);
    }

    #[test]
    fn nan_wins_and_minus_infinity_loses() {
        for window in [HALVING, Window { kernel_size: 3, stride: 1, padding: 1 }] {
            let mut values = vec![f32::NEG_INFINITY; 36];
            values[7] = f32::NAN;
            let x = Tensor::cpu([6, 6], values.into());
            let y = max_pool(&x, window);
            assert!(y.f32s().iter().any(|v| v.is_nan()) && y.f32s().contains(&f32::NEG_INFINITY), "{window:?}");
            let dx = max_pool_vjp(&x, &Tensor::full(y.shape(), 1.0, &Device::Cpu).unwrap(), window);
            assert_eq!(dx.f32s().iter().sum::<f32>(), y.len() as f32, "{window:?}: every gradient arrives once");
        }
    }

    #[test]
    #[should_panic(expected = "avg_pool: expected planes that a window fits in, got [2, 2]")]
    fn a_window_that_does_not_fit_is_refused() {
        avg_pool(&random([2, 2], 1), Window { kernel_size: 3, stride: 1, padding: 0 });
    }
}
