//! Scores of the four grids: sums of integers, which do not depend on their order.

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    dense::{Totals, View},
    jobs::collect_init,
    plane::Planes,
    simd::{Isa, Simd, Task, WIDEST, wide},
    sweep::PIECE,
};
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Tensor,
    gpu::{Gpu, Size},
};

use quarterturn_core::HostBuffer;

/// The map that is scored, as a function of the planes at hand: their samples, or the greatest of each window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    /// Extents of the map.
    pub height: usize,
    pub width: usize,
    /// Where its first sample, or its first window, begins in the plane; before the plane if it is negative.
    pub inset: isize,
    /// Extent of the windows.
    pub window: usize,
}

/// How the terms of an image's scores are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scores {
    pub region: Region,
    /// Planes of an image.
    planes: usize,
    /// A term is at most 2 to this: an even number.
    bits: u32,
    /// Bits that each plane's sum loses, so that those of all planes have room.
    spare: u32,
}

/// What a plane contributes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PlaneScore {
    /// Bits of the largest magnitude, NaN above all.
    pub largest: u32,
    /// Of the grids (0, 0), (0, 1), (1, 0) and (1, 1).
    pub sums: [u32; 4],
}

/// All bits of a float but its sign. As integers magnitudes have their order, NaN above infinity.
const MAGNITUDE: u32 = 0x7FFF_FFFF;
const INFINITY: u32 = 0x7F80_0000;
/// 2²³: added to a smaller float, it leaves that one rounded to an integer in the lowest bits.
const ROUND: f32 = 8_388_608.0;

impl PlaneScore {
    pub fn has_nan(self) -> bool {
        self.largest > INFINITY
    }

    /// The exponent of the largest magnitude, biased as in its bits, kept where squares and scales are normal numbers.
    fn exponent(self) -> u32 {
        exponent(self.largest)
    }
}

fn exponent(largest: u32) -> u32 {
    (largest >> 23).clamp(24, 252)
}

/// Brings the magnitudes below the next power of two above the largest to below 2 to the `bits`/2.
fn scale(largest: u32, bits: u32) -> f32 {
    f32::from_bits((253 - exponent(largest) + bits / 2) << 23)
}

/// ⌈log₂ n⌉.
fn bits_of(n: usize) -> u32 {
    n.next_power_of_two().trailing_zeros()
}

impl Scores {
    pub fn new(region: Region, planes: usize) -> Self {
        let count = bits_of(region.height.div_ceil(2) * region.width.div_ceil(2));
        let bits = 31u32.saturating_sub(count).min(22) & !1;
        Scores { region, planes, bits, spare: (bits + count + bits_of(planes)).saturating_sub(31) }
    }

    /// Bits of a term, and those that a plane's sum loses.
    pub fn rounding(&self) -> [u32; 2] {
        [self.bits, self.spare]
    }

    /// The weights of the grids of an image, from the scores of its planes.
    pub fn weights(&self, planes: &[PlaneScore]) -> [f32; 4] {
        if planes.iter().any(|plane| plane.has_nan()) {
            return [f32::NAN; 4];
        }
        let highest = planes.iter().map(|plane| plane.exponent()).max().unwrap_or(0);
        let mut scores = [0u32; 4];
        for plane in planes {
            let shift = 2 * (highest - plane.exponent()) + self.spare;
            for (score, sum) in scores.iter_mut().zip(plane.sums) {
                *score += sum.checked_shr(shift).unwrap_or(0);
            }
        }
        let Region { height, width, .. } = self.region;
        // A grid that begins at 1 exists along an even extent alone.
        let exists = |grid: usize| (grid / 2 + height % 2 < 2) && (grid % 2 + width % 2 < 2);
        let best = (0..4).filter(|&grid| exists(grid)).map(|grid| scores[grid]).max();
        let chosen = |grid: usize| exists(grid) && Some(scores[grid]) == best;
        let weight = 1.0 / (0..4).filter(|&grid| chosen(grid)).count() as f32;
        std::array::from_fn(|grid| if chosen(grid) { weight } else { 0.0 })
    }

    /// Floats of a row of a map that [`Scores::plane`] takes.
    pub fn pitch(&self) -> usize {
        self.region.width.next_multiple_of(WIDEST)
    }

    /// The score of a map in rows of [`Scores::pitch`] floats, zeros behind the last column.
    pub fn plane(&self, z: &[f32]) -> PlaneScore {
        Isa::current().run(Scored { scores: self, z })
    }

    /// Makes the greatest of each window in `z`, the map, and its score. `x` are the plane's samples.
    pub fn plane_of_windows(&self, x: &[f32], windows: View, z: &mut [f32]) -> PlaneScore {
        let [largest, greatest] = extremes(x);
        match largest > INFINITY {
            true => PlaneScore { largest, ..PlaneScore::default() },
            false => Isa::current().run(ScoredWindows { scores: self, windows, greatest, z }),
        }
    }

    /// Within a task.
    #[inline(always)]
    fn score<S: Simd>(&self, z: &[f32], largest: u32) -> PlaneScore {
        let (mut terms, pitch) = (Terms::<S>::new(self.bits, largest), self.pitch());
        assert!(pitch.is_multiple_of(WIDEST) && z.len().is_multiple_of(pitch), "whole vectors");
        for column in (0..pitch).step_by(S::LANES) {
            for row in z.chunks_exact(pitch) {
                // SAFETY: the slice has as many.
                terms.add_term(unsafe { S::load(row[column..][..S::LANES].as_ptr()) });
            }
            terms.next_column();
        }
        PlaneScore { largest, sums: terms.sums(z.len() / pitch, pitch) }
    }

    /// The weights of all images, `[N, 4]`.
    pub fn choose(&self, x: &[f32], planes: Planes) -> HostBuffer {
        let Region { height, width, inset, .. } = self.region;
        let pitch = self.pitch();
        // The samples that the map has of the plane, and where in the map they begin. Only zeros are left out beside them.
        let of_map = |extent: usize, made: usize| {
            let first = inset.max(0) as usize;
            (first..extent - first, (first as isize - inset) as usize % 2, made)
        };
        let (rows, top, _) = of_map(planes.height, height);
        let (columns, left, _) = of_map(planes.width, width);
        let plane = |z: &mut Vec<f32>, plane: usize| {
            let x = &x[plane * planes.len()..][..planes.len()];
            for (x, z) in x.chunks_exact(planes.width).skip(rows.start).zip(z.chunks_exact_mut(pitch).skip(top)) {
                z[left..][..columns.len()].copy_from_slice(&x[columns.clone()]);
            }
            self.plane(z)
        };
        let zeros = || vec![0.0; (top + rows.len()) * pitch];
        let planes_per_job = PIECE.div_ceil(planes.len());
        let scores = collect_init(x.len() / planes.len(), planes_per_job, zeros, plane);
        scores.chunks_exact(self.planes).flat_map(|planes| self.weights(planes)).collect()
    }

    /// As [`Scores::choose`], term by term.
    pub fn choose_reference(&self, x: &[f64], planes: Planes) -> Vec<f64> {
        let Region { height, width, inset, window } = self.region;
        assert_eq!(window, 1, "windows are for the devices that fuse");
        let at = |x: &[f64], row: usize, column: usize| {
            let place = |i: usize, extent: usize| i.checked_add_signed(inset).filter(|&i| i < extent);
            match (place(row, planes.height), place(column, planes.width)) {
                (Some(row), Some(column)) => x[row * planes.width + column],
                _ => 0.0,
            }
        };
        let plane = |x: &[f64]| {
            let values = (0..height).flat_map(|row| (0..width).map(move |column| (row, column, at(x, row, column))));
            let largest = values.clone().map(|(.., v)| (v as f32).to_bits() & MAGNITUDE).max().unwrap_or(0);
            let (scale, most) = (f64::from(scale(largest, self.bits)), f64::from(1u32 << self.bits));
            let mut sums = [0; 4];
            for (row, column, v) in values {
                sums[2 * (row % 2) + column % 2] += (v * scale).powi(2).min(most).round_ties_even() as u32;
            }
            PlaneScore { largest, sums }
        };
        let scores: Vec<PlaneScore> = x.chunks_exact(planes.len()).map(plane).collect();
        scores.chunks_exact(self.planes).flat_map(|planes| self.weights(planes)).map(f64::from).collect()
    }

    /// The weights of all images of `x`, `[N, 4]`.
    #[cfg(feature = "gpu")]
    pub fn choose_on(&self, gpu: &Gpu, x: &Tensor, batch: usize) -> Tensor {
        let Region { height, width, inset, window } = self.region;
        let [source_height, source_width] = [x.shape().rank() - 2, x.shape().rank() - 1].map(|axis| x.shape()[axis]);
        let planes = batch * self.planes;
        let uniform = [
            source_height as u32,
            source_width as u32,
            height as u32,
            width as u32,
            inset as i32 as u32,
            self.planes as u32,
            planes as u32,
            self.bits,
            self.spare,
        ];
        // Each plane's largest magnitude and four sums.
        let scores = gpu.output(5 * planes);
        let kernel = |name| launch::kernel(name, super::sampling::SHADER).workgroup(64, 20 * 64);
        let overrides = [("WINDOW", window as f64)];
        gpu.launch(&kernel("grid_scores"), &overrides, &[x.buffer()], &[&scores], &uniform, Size::Groups(planes));
        let weights = gpu.output(4 * batch);
        gpu.launch(&kernel("grid_weights"), &[], &[&scores], &[&weights], &uniform, Size::Groups(batch));
        Tensor::gpu([batch, 4], weights)
    }
}

struct Scored<'a> {
    scores: &'a Scores,
    z: &'a [f32],
}

impl Task for Scored<'_> {
    type Output = PlaneScore;

    #[inline(always)]
    fn run<S: Simd>(self) -> PlaneScore {
        let [largest, _] = extremes_of(self.z);
        self.scores.score::<S>(self.z, largest)
    }
}

struct ScoredWindows<'a> {
    scores: &'a Scores,
    windows: View<'a>,
    /// Bits of the greatest sample.
    greatest: u32,
    z: &'a mut [f32],
}

impl Task for ScoredWindows<'_> {
    type Output = PlaneScore;

    #[inline(always)]
    fn run<S: Simd>(self) -> PlaneScore {
        let ScoredWindows { scores, windows, greatest, z } = self;
        // The scale is that of the largest magnitude among the windows' greatest. As a rule that is the greatest sample, which is
        // known beforehand: all windows would have to lie below 0 farther than it lies above.
        let mut terms = Terms::<S>::new(scores.bits, greatest);
        windows.maxima_in_all::<S, _>(z, &mut terms);
        let largest = terms.largest();
        match largest == greatest {
            true => PlaneScore { largest, sums: terms.sums(z.len() / scores.pitch(), scores.pitch()) },
            false => scores.score::<S>(z, largest),
        }
    }
}

/// The sums of `round(min((scale · z)², most))` over each grid of a map.
struct Terms<S: Simd> {
    scale: S::V,
    lowest: S::V,
    /// Of the next vector's row and the other ones between. Each term carries the bits of `ROUND` along.
    sums: [S::V; 2],
    largest: S::V,
    rows: usize,
}

impl<S: Simd> Terms<S> {
    #[inline(always)]
    fn new(bits: u32, largest: u32) -> Self {
        let zero = S::splat(0.0);
        let (scale, lowest) = (S::splat(scale(largest, bits)), S::splat(-((1u32 << bits) as f32)));
        Terms { scale, lowest, sums: [zero; 2], largest: zero, rows: 0 }
    }

    /// Of the next row.
    #[inline(always)]
    fn add_term(&mut self, z: S::V) {
        let zero = S::splat(0.0);
        let root = S::mul_add(z, self.scale, zero);
        let negative = S::max(S::mul_sub(root, root, zero), self.lowest);
        let term = S::sub(S::splat(ROUND), negative);
        self.sums = [self.sums[1], S::add_bits(self.sums[0], term)];
        self.rows += 1;
    }

    #[inline(always)]
    fn largest(&self) -> u32 {
        let mut lanes = [0.0; WIDEST];
        // SAFETY: no vector has more lanes.
        unsafe { S::store(lanes.as_mut_ptr(), self.largest) };
        lanes.into_iter().map(f32::to_bits).fold(0, u32::max)
    }

    /// Of the four grids, in a map of so many rows of `pitch` floats.
    #[inline(always)]
    fn sums(&self, rows: usize, pitch: usize) -> [u32; 4] {
        let mut grids = [0u32; 4];
        for (parity, sum) in self.sums.into_iter().enumerate() {
            let mut lanes = [0.0; WIDEST];
            // SAFETY: no vector has more lanes.
            unsafe { S::store(lanes.as_mut_ptr(), sum) };
            // Columns are even where lanes are.
            let mut sums = [0u32; 2];
            for lane in lanes[..S::LANES].as_chunks::<2>().0 {
                sums = [0, 1].map(|i| sums[i].wrapping_add(lane[i].to_bits()));
            }
            let terms = (rows + 1 - parity) / 2 * (pitch / 2);
            let carried = (terms as u32).wrapping_mul(ROUND.to_bits());
            grids[2 * parity..][..2].copy_from_slice(&sums.map(|sum| sum.wrapping_sub(carried)));
        }
        grids
    }
}

impl<S: Simd> Totals<S> for Terms<S> {
    #[inline(always)]
    fn add(&mut self, z: S::V) {
        let magnitude = S::and_bits(z, S::splat(f32::from_bits(MAGNITUDE)));
        self.largest = S::max(magnitude, self.largest);
        self.add_term(z);
    }

    #[inline(always)]
    fn next_column(&mut self) {
        if self.rows % 2 == 1 {
            self.sums.swap(0, 1);
        }
        self.rows = 0;
    }
}

wide! {
    /// The bits of the largest magnitude, NaN above all, and of the greatest sample; where there is none above 0, of some other one.
    fn extremes(x: &[f32]) -> [u32; 2] {
        extremes_of(x)
    }
}

#[inline(always)]
fn extremes_of(x: &[f32]) -> [u32; 2] {
    let (mut largest, mut greatest) = (0, i32::MIN);
    for v in x {
        largest = largest.max(v.to_bits() & MAGNITUDE);
        greatest = greatest.max(v.to_bits() as i32);
    }
    [largest, greatest as u32]
}
