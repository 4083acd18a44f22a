//! Scores of the four grids: sums of integers, which do not depend on their order.

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
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
use rayon::prelude::*;

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
        let largest = largest_magnitude(z);
        PlaneScore { largest, sums: Isa::current().run(self.terms(z, largest)) }
    }

    /// As [`Scores::plane`], within a task, of a map whose largest magnitude is known and a number.
    #[inline(always)]
    pub fn plane_in<S: Simd>(&self, z: &[f32], largest: f32) -> PlaneScore {
        let largest = largest.to_bits();
        PlaneScore { largest, sums: self.terms(z, largest).run::<S>() }
    }

    #[inline(always)]
    fn terms<'a>(&self, z: &'a [f32], largest: u32) -> Terms<'a> {
        let (scale, most) = (scale(largest, self.bits), (1u32 << self.bits) as f32);
        Terms { z, pitch: self.pitch(), scale, most }
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
        let plane = |z: &mut Vec<f32>, x: &[f32]| {
            for (x, z) in x.chunks_exact(planes.width).skip(rows.start).zip(z.chunks_exact_mut(pitch).skip(top)) {
                z[left..][..columns.len()].copy_from_slice(&x[columns.clone()]);
            }
            self.plane(z)
        };
        let zeros = || vec![0.0; (top + rows.len()) * pitch];
        let planes_per_job = PIECE.div_ceil(planes.len());
        let scores = x.par_chunks_exact(planes.len()).with_min_len(planes_per_job).map_init(zeros, plane);
        let scores: Vec<PlaneScore> = scores.collect();
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

/// The sums of `round(min((scale · z)², most))` over each grid of a map in rows of `pitch` floats, whole vectors of them.
struct Terms<'a> {
    z: &'a [f32],
    pitch: usize,
    scale: f32,
    most: f32,
}

impl Task for Terms<'_> {
    type Output = [u32; 4];

    #[inline(always)]
    fn run<S: Simd>(self) -> [u32; 4] {
        let Terms { z, pitch, .. } = self;
        assert!(pitch.is_multiple_of(WIDEST) && z.len().is_multiple_of(pitch), "whole vectors");
        let mut sums = [S::splat(0.0); 2];
        for rows in z.chunks(2 * pitch) {
            let (even, odd) = rows.split_at(pitch);
            sums = [self.add_row::<S>(even, sums[0]), self.add_row::<S>(odd, sums[1])];
        }
        // Every term carries the bits of `ROUND` along. Columns are even where lanes are.
        let rows = z.len() / pitch;
        let mut grids = [0u32; 4];
        for (parity, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0.0; WIDEST];
            // SAFETY: no vector has more lanes.
            unsafe { S::store(lanes.as_mut_ptr(), sum) };
            let terms = ((rows + 1 - parity) / 2 * (pitch / S::LANES)) as u32;
            for (lane, sum) in lanes[..S::LANES].iter().enumerate() {
                let sum = sum.to_bits().wrapping_sub(terms.wrapping_mul(ROUND.to_bits()));
                grids[2 * parity + lane % 2] += sum;
            }
        }
        grids
    }
}

impl Terms<'_> {
    #[inline(always)]
    fn add_row<S: Simd>(&self, row: &[f32], mut sum: S::V) -> S::V {
        let (zero, round) = (S::splat(0.0), S::splat(ROUND));
        let (scale, lowest) = (S::splat(self.scale), S::splat(-self.most));
        for at in 0..row.len() / S::LANES {
            // SAFETY: within the row.
            let v = unsafe { S::load(row.as_ptr().add(at * S::LANES)) };
            let root = S::mul_add(v, scale, zero);
            let negative = S::max(S::mul_sub(root, root, zero), lowest);
            sum = S::add_bits(sum, S::sub(round, negative));
        }
        sum
    }
}

wide! {
    /// The bits of the largest magnitude, NaN above all.
    pub(super) fn largest_magnitude(x: &[f32]) -> u32 {
        x.iter().fold(0, |largest, v| largest.max(v.to_bits() & MAGNITUDE))
    }
}
