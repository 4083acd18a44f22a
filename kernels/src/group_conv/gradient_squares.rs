//! Weight gradient of plain 3×3 convolutions at stride 1 on the CPU: the adjoint of [`super::winograd`].
//!
//! ```text
//! dg = Gᵀ [Σ_squares (A dy Aᵀ) ⊙ (Bᵀ d B)] G
//! ```
//!
//! dy is that of a square, d the samples under its windows. Each of the 16 entries is a sum over squares by itself, one for every
//! pair of channels.

use super::{
    Conv, Extents,
    gradient::{ResultGradient, Summation, Together, over_images},
    layout::{Windows, copy_row},
    tile::{Correlation, LANES, correlations, gradient_tile, tiles},
    winograd::{Combined, ENTRIES, Images, InSquares, Pack},
};
use crate::{
    jobs::{for_each_chunk, map_items},
    simd::{Isa, Simd, Task},
    sweep::lane_sum,
};
use quarterturn_core::HostBuffer;
use std::ops::Range;

/// Squares that are summed in registers, at least: then lanes have to be added up.
const TOGETHER: usize = 392;
/// Floats that the panels of some images may take: beyond that they would come from memory.
const FLOATS: usize = 2 << 20;

/// Whether squares pay: a function of the extents alone, since sums round otherwise than in tiles. Measured:
/// `benches/results/2026-11-28-cpu.md`.
pub(super) fn pay(e: &Extents, conv: Conv) -> bool {
    let squares = e.out_height.div_ceil(2) * e.out_width.div_ceil(2);
    InSquares::pays(e, conv)
        && e.batch * squares >= TOGETHER / 2
        && squares <= 1024
        && squares.next_multiple_of(LANES) * ENTRIES * (e.c_in + e.c_out) <= FLOATS
}

/// Gradients of weight and bias; that of the bias only where dy is given.
pub(super) fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: ResultGradient) -> (HostBuffer, HostBuffer) {
    let plan = Squares::new(e, conv, isa);
    let (sums, bias) = over_images(&plan, x, dy);
    let tile_of: Vec<Range<usize>> = plan.tiles().flat_map(|tile| vec![tile.clone(); tile.len()]).collect();
    let mut dweight = HostBuffer::scratch(e.weight().len());
    for_each_chunk(&mut dweight, e.c_in * 9, 1, &|o, dweight| {
        let tile = &tile_of[o];
        for (c, dweight) in dweight.chunks_exact_mut(9).enumerate() {
            let at = tile.start * e.c_in + c * tile.len() + o - tile.start;
            let entry = |i: usize, j: usize| sums[(4 * i + j) * e.c_out * e.c_in + at];
            let rows: [[f32; 3]; 4] = std::array::from_fn(|i| three(std::array::from_fn(|j| entry(i, j))));
            for v in 0..3 {
                let column = three(rows.map(|row| row[v]));
                for u in 0..3 {
                    dweight[3 * u + v] = column[u];
                }
            }
        }
    });
    (dweight, bias)
}

/// Gᵀ m, where the last of m has the sign that [`LayDown`] leaves out.
fn three(m: [f32; 4]) -> [f32; 3] {
    let (sum, difference) = (0.5 * (m[1] + m[2]), 0.5 * (m[1] - m[2]));
    [m[0] + sum, difference, sum - m[3]]
}

struct Squares {
    e: Extents,
    isa: Isa,
    /// Of one channel.
    combined: Combined,
    together: usize,
    /// Squares of the images that are summed together, whole vectors of [`LANES`].
    squares: usize,
}

impl Squares {
    fn new(e: &Extents, conv: Conv, isa: Isa) -> Self {
        let combined = Combined::of(&Windows::forward(e, conv), 1);
        let of_image = combined.squares();
        let most = FLOATS / (ENTRIES * (e.c_in + e.c_out) * of_image);
        let together = TOGETHER.div_ceil(of_image).min(most).clamp(1, e.batch);
        Squares { e: *e, isa, combined, together, squares: (together * of_image).next_multiple_of(LANES) }
    }

    /// The channels of each tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        tiles(self.e.c_out, gradient_tile::<1>(self.isa))
    }
}

struct Panels {
    /// Bᵀ d B and A dy Aᵀ, `[channel][entry][square]`.
    samples: HostBuffer,
    gradients: HostBuffer,
}

impl Summation for Squares {
    type Copies = Panels;

    fn copies(&self) -> Panels {
        let panels = |channels| HostBuffer::scratch(channels * ENTRIES * self.squares);
        Panels { samples: panels(self.e.c_in), gradients: panels(self.e.c_out) }
    }

    fn extents(&self) -> &Extents {
        &self.e
    }

    fn together(&self) -> usize {
        self.together
    }

    fn fetches_ahead(&self) -> bool {
        true
    }

    fn filters(&self) -> usize {
        ENTRIES * self.e.c_in
    }

    /// The sums are, for each entry, tile by tile `[channel of the source][channel of the tile]`.
    fn add(&self, images: Together, panels: &mut Panels, sums: &mut [f32], bias: Option<&mut [f32]>) {
        let Squares { e, isa, combined, squares, .. } = self;
        let Together { x, dy, later } = images;
        let (area, out_area) = (e.height * e.width, e.out_height * e.out_width);
        let images = x.len() / (e.c_in * area);
        let Panels { samples, gradients } = panels;
        for_each_chunk(samples, ENTRIES * squares, 1, &|c, panels| {
            let mut all = Images::new(*combined, images);
            for i in 0..images {
                all.combine(*isa, i, &x[(i * e.c_in + c) * area..][..area]);
            }
            isa.run(Samples { images, combined: &all, squares: *squares, panels });
        });
        for_each_chunk(gradients, ENTRIES * squares, 1, &|o, panels| {
            isa.run(LayDown { plan: self, dy: &dy[o * out_area..], images, panels });
        });
        if let Some(bias) = bias {
            for channels in dy.chunks_exact(e.c_out * out_area) {
                let sums = channels.chunks_exact(out_area).map(lane_sum);
                bias.iter_mut().zip(sums).for_each(|(sum, v)| *sum += v as f32);
            }
        }
        map_items(sums.chunks_exact_mut(e.c_out * e.c_in), 1, |entry, sums| {
            let offsets: Vec<[usize; 1]> = (0..e.c_in).map(|c| [c * ENTRIES * squares]).collect();
            let mut rest = sums;
            for rows in self.tiles() {
                let (tile, after) = rest.split_at_mut(rows.len() * e.c_in);
                rest = after;
                let correlation = Correlation {
                    offsets: &offsets,
                    padded: &samples[entry * squares..],
                    padded_image: 0,
                    left: &gradients[(rows.start * ENTRIES + entry) * squares..],
                    left_row: ENTRIES * squares,
                    left_image: 0,
                    locations: *squares,
                    images: 1,
                    later: later.map(|later| {
                        later.part(entry * e.c_out + rows.start..entry * e.c_out + rows.end, ENTRIES * e.c_out)
                    }),
                };
                isa.run(Sums { rows: rows.len(), correlation, sums: tile });
            }
        });
    }
}

/// Lays down the samples of a channel.
struct Samples<'a> {
    images: usize,
    combined: &'a Images,
    squares: usize,
    panels: &'a mut [f32],
}

impl Task for Samples<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Samples { images, combined, squares, panels } = self;
        S::run(Pack { images, channels: 0..1, combined, at: 0, width: squares / S::LANES, panels });
    }
}

/// Lays down the gradients of a channel: A dy Aᵀ, with the last row and column negated. Behind the last square there are
/// zeros.
struct LayDown<'a> {
    plan: &'a Squares,
    /// Of the first image, from this channel on.
    dy: &'a [f32],
    images: usize,
    panels: &'a mut [f32],
}

impl Task for LayDown<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let LayDown { plan: Squares { e, squares, .. }, dy, images, panels } = self;
        let (rows, cols) = (e.out_height.div_ceil(2), e.out_width.div_ceil(2));
        // Even rows of all images, then odd ones, each as long as the squares.
        let half = 2 * squares;
        let mut both = HostBuffer::zeros(2 * half);
        let image = e.c_out * e.out_height * e.out_width;
        for i in 0..images {
            for row in 0..e.out_height {
                let from = &dy[i * image + row * e.out_width..][..e.out_width];
                copy_row(from, &mut both[row % 2 * half + (i * rows + row / 2) * 2 * cols..]);
            }
        }
        assert!(squares % S::LANES == 0 && panels.len() >= ENTRIES * squares);
        let (even, panels) = (both.as_ptr(), panels.as_mut_ptr());
        for at in (0..*squares).step_by(S::LANES) {
            // SAFETY: `both` has two floats for every square in each half, and the panels have one of each entry.
            unsafe {
                let (a, b) = S::unzip(S::load(even.add(2 * at)), S::load(even.add(2 * at + S::LANES)));
                let odd = even.add(half);
                let (c, d) = S::unzip(S::load(odd.add(2 * at)), S::load(odd.add(2 * at + S::LANES)));
                let (left, right) = (four::<S>(a, c), four::<S>(b, d));
                for i in 0..4 {
                    let entries = four::<S>(left[i], right[i]);
                    for j in 0..4 {
                        S::store(panels.add((4 * i + j) * squares + at), entries[j]);
                    }
                }
            }
        }
    }
}

/// A (a, b), with the last one negated.
#[inline(always)]
fn four<S: Simd>(a: S::V, b: S::V) -> [S::V; 4] {
    [a, S::add(a, b), S::sub(a, b), b]
}

/// Adds the sums of an entry for some channels.
struct Sums<'a> {
    rows: usize,
    correlation: Correlation<'a, 1>,
    sums: &'a mut [f32],
}

impl Task for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Sums { rows, correlation, sums } = self;
        let Correlation { offsets, padded, left, left_row, locations, .. } = correlation;
        let reach = offsets.iter().flatten().max().expect("a channel") + locations;
        assert!(padded.len() >= reach && left.len() >= (rows - 1) * left_row + locations);
        // SAFETY: just asserted.
        unsafe { correlations::<S, 1>(rows, correlation, sums) };
    }
}
