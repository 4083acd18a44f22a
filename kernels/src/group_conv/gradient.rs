//! Weight gradient on the CPU: dψ̃ = Σ dŷ · F̂ᵀ over all locations, with the inner terms along the lanes. Images are
//! padded with their channels innermost, so that a vector of terms is a vector of channels.

use super::{
    Conv, Extents,
    irrep::{Term, columns, filters, result_row, rows_before, spread_gradient, taps, terms, transform},
    layout::{Layout, PANEL_LOCATIONS},
    product::{Product, product_rows},
};
use crate::{
    Group,
    simd::{Isa, Simd, Task},
};
use quarterturn_core::HostBuffer;
use rayon::prelude::*;

/// Floats of a packed panel at most: what stays in the second-level cache.
const PANEL: usize = 48 * 1024;
/// Images are summed into at most this many partial gradients, whatever the number of threads.
const PARTIAL_GRADIENTS: usize = 32;
/// Floats that a vector access may touch beyond the end of what it needs.
const SLACK: usize = 64;

/// Gradients of weight and bias: dψ̃ = Σ_locations dŷ · F̂ᵀ, with the terms along the lanes.
pub(super) fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: &[f32]) -> (HostBuffer, HostBuffer) {
    match conv.group {
        Group::C1 => dw_over_images::<1>(e, conv, isa, x, dy),
        Group::C4 => dw_over_images::<4>(e, conv, isa, x, dy),
        Group::D4 => dw_over_images::<8>(e, conv, isa, x, dy),
    }
}

/// What the images of a partial gradient share.
struct GradientPass {
    e: Extents,
    layout: Layout,
    /// For each tap and element, the padded sample of location 0.
    taps: Vec<[usize; 8]>,
    /// Input channels whose terms are packed at a time.
    block: usize,
}

impl GradientPass {
    /// Input channels from `block` number `index` on.
    fn channels(&self, index: usize) -> std::ops::Range<usize> {
        let first = index * self.block;
        first..self.e.c_in.min(first + self.block)
    }

    /// Floats of one row of a packed panel of one block: its terms `[tap][channel]`, whole vectors of channels being
    /// written for each tap, and two vectors of terms being read at a time.
    fn row(&self) -> usize {
        const WIDEST: usize = 16;
        ((self.taps.len() - 1) * self.block + self.block.next_multiple_of(WIDEST)).next_multiple_of(2 * WIDEST)
    }

    fn blocks(&self) -> usize {
        self.e.c_in.div_ceil(self.block)
    }

    /// Rows of dψ̃: `[filter][c_out, column]`.
    fn rows<const G: usize>(&self) -> usize {
        rows_before::<G>(filters::<G>()) * self.e.c_out
    }
}

fn dw_over_images<const G: usize>(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    x: &[f32],
    dy: &[f32],
) -> (HostBuffer, HostBuffer) {
    let (source, result) = ((e.height, e.width), (e.out_height, e.out_width));
    let layout = Layout::new(source, result, e.k, conv.stride, 1, conv.padding as isize);
    let taps = taps(e, conv.group);
    let places = taps.iter().map(|tap| {
        std::array::from_fn(|h| {
            let (row, col) = Group::move_entry(h % G, tap.row, tap.col, e.k, e.k);
            layout.sample(row, col)
        })
    });
    let per_channel = PANEL_LOCATIONS * taps.len() * G;
    let block = match PANEL / per_channel {
        room if room >= e.c_in => e.c_in,
        room => (room / 16 * 16).max(16).min(e.c_in),
    };
    let pass = GradientPass { e: *e, layout, taps: places.collect(), block };

    // The partition depends on the batch alone, and partial sums are added in order: any number of threads gives the
    // same bits.
    let images = e.batch.div_ceil(PARTIAL_GRADIENTS);
    let (image_x, image_y) = (x.len() / e.batch, dy.len() / e.batch);
    let partial: Vec<(HostBuffer, HostBuffer)> = x
        .par_chunks(images * image_x)
        .zip(dy.par_chunks(images * image_y))
        .map(|(x, dy)| {
            let mut sums = HostBuffer::zeros(pass.blocks() * pass.rows::<G>() * pass.row());
            let mut bias = HostBuffer::zeros(e.c_out);
            let mut scratch = GradientScratch::new::<G>(&pass);
            for (x, dy) in x.chunks(image_x).zip(dy.chunks(image_y)) {
                let (sums, bias, scratch) = (&mut sums, &mut bias, &mut scratch);
                isa.run(OneGradient::<G> { pass: &pass, x, dy, sums, bias, scratch });
            }
            (sums, bias)
        })
        .collect();
    let mut partial = partial.into_iter();
    let (mut sums, mut bias) = partial.next().expect("a batch has an image");
    for (s, b) in partial {
        sums.iter_mut().zip(s.iter()).for_each(|(sum, v)| *sum += v);
        bias.iter_mut().zip(b.iter()).for_each(|(sum, v)| *sum += v);
    }

    let mut dweight = HostBuffer::zeros(e.weight().len());
    let (rows, row) = (pass.rows::<G>(), pass.row());
    let gradient = |filter: usize, matrix_row: usize, c: usize, t: usize| {
        let channels = pass.channels(c / pass.block);
        let at = c / pass.block * rows + rows_before::<G>(filter) * e.c_out + matrix_row;
        sums[at * row + t * channels.len() + (c - channels.start)]
    };
    spread_gradient::<G>(e, conv.group, &taps, gradient, &mut dweight);
    (dweight, bias)
}

struct GradientScratch {
    /// The image as `[sample][h][c]`.
    padded: HostBuffer,
    /// dŷ of one panel: `[result][o, column][location]`.
    left: HostBuffer,
    /// F̂ of one panel: `[value][location][term]`.
    right: HostBuffer,
    /// `dy` as `[o][g][location]`, zero between rows.
    flat: HostBuffer,
}

impl GradientScratch {
    fn new<const G: usize>(pass: &GradientPass) -> Self {
        let e = &pass.e;
        GradientScratch {
            padded: HostBuffer::zeros((pass.layout.plane() + SLACK) * e.g_in * e.c_in + SLACK),
            left: HostBuffer::zeros(G * e.c_out * PANEL_LOCATIONS),
            right: HostBuffer::zeros(G * PANEL_LOCATIONS * pass.row()),
            flat: HostBuffer::zeros(e.c_out * G * pass.layout.flat_plane()),
        }
    }
}

struct OneGradient<'a, const G: usize> {
    pass: &'a GradientPass,
    x: &'a [f32],
    dy: &'a [f32],
    sums: &'a mut [f32],
    bias: &'a mut [f32],
    scratch: &'a mut GradientScratch,
}

impl<const G: usize> Task for OneGradient<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneGradient { pass, x, dy, sums, bias, scratch } = self;
        let (layout, e) = (&pass.layout, &pass.e);
        layout.pad_interleaved(x, e.g_in, e.c_in, &mut scratch.padded);
        let plane = layout.flat_plane();
        layout.uncrop(dy, &mut scratch.flat);
        let block = pass.rows::<G>() * pass.row();
        for start in (0..layout.locations()).step_by(PANEL_LOCATIONS) {
            transform_gradient::<S, G>(e, &scratch.flat, plane, start, &mut scratch.left, bias);
            for index in 0..pass.blocks() {
                let channels = pass.channels(index);
                pack_terms::<S, G>(pass, &scratch.padded, start, channels.clone(), &mut scratch.right);
                let inner = pass.taps.len() * channels.len();
                multiply_gradient::<S, G>(pass, inner, scratch, &mut sums[index * block..][..block]);
            }
        }
    }
}

/// dŷ of the panel at `start`; its trivial irrep also sums to the gradient of the bias.
#[inline(always)]
fn transform_gradient<S: Simd, const G: usize>(
    e: &Extents,
    flat: &[f32],
    plane: usize,
    start: usize,
    left: &mut [f32],
    bias: &mut [f32],
) {
    let mut lanes = [0.0; 16];
    for o in 0..e.c_out {
        let mut total = S::splat(0.0);
        for at in (0..PANEL_LOCATIONS).step_by(S::LANES) {
            let dy = std::array::from_fn(|g| {
                let from = (o * G + g) * plane + start + at;
                let lanes = &flat[from..from + S::LANES];
                // SAFETY: the slice has `LANES` elements.
                unsafe { S::load(lanes.as_ptr()) }
            });
            let values = transform::<S, G>(dy);
            total = S::add(total, values[0]);
            for (i, value) in values.into_iter().enumerate() {
                let lanes = &mut left[result_row::<G>(e.c_out, o, i) * PANEL_LOCATIONS + at..][..S::LANES];
                // SAFETY: the slice has `LANES` elements.
                unsafe { S::store(lanes.as_mut_ptr(), value) };
            }
        }
        // SAFETY: 16 floats are at least `LANES`.
        unsafe { S::store(lanes.as_mut_ptr(), total) };
        bias[o] += lanes[..S::LANES].iter().sum::<f32>();
    }
}

/// F̂ of the panel at `start`, for the terms of `channels`.
#[inline(always)]
fn pack_terms<S: Simd, const G: usize>(
    pass: &GradientPass,
    padded: &[f32],
    start: usize,
    channels: std::ops::Range<usize>,
    right: &mut [f32],
) {
    let (e, row) = (&pass.e, pass.row());
    let depth = e.g_in * e.c_in;
    let last = pass.taps.iter().flatten().max().expect("a filter has a tap") + start + PANEL_LOCATIONS;
    assert!(padded.len() >= last * depth + S::LANES);
    assert!(right.len() >= G * PANEL_LOCATIONS * row);
    for location in 0..PANEL_LOCATIONS {
        for (t, places) in pass.taps.iter().enumerate() {
            for c in channels.clone().step_by(S::LANES) {
                let f = std::array::from_fn(|h| {
                    let at = (places[h] + start + location) * depth + h % e.g_in * e.c_in + c;
                    // SAFETY: less than `last · depth`, with a vector's slack behind: the first assertion.
                    unsafe { S::load(padded.as_ptr().add(at)) }
                });
                let values = transform::<S, G>(f);
                // Where the channels end within the vector, what is written behind them is overwritten by the next tap,
                // or lies in the padding of the row, whose sums nobody reads.
                let at = location * row + t * channels.len() + c - channels.start;
                for (i, value) in values.into_iter().enumerate() {
                    // SAFETY: `row` has room for whole vectors behind the last tap; the second assertion.
                    unsafe { S::store(right.as_mut_ptr().add(i * PANEL_LOCATIONS * row + at), value) };
                }
            }
        }
    }
}

/// dψ̃ += dŷ · F̂ᵀ over the locations of a panel.
#[inline(always)]
fn multiply_gradient<S: Simd, const G: usize>(
    pass: &GradientPass,
    inner: usize,
    scratch: &GradientScratch,
    sums: &mut [f32],
) {
    let (c_out, row) = (pass.e.c_out, pass.row());
    let plane = PANEL_LOCATIONS * row;
    assert!(scratch.left.len() >= G * c_out * PANEL_LOCATIONS && scratch.right.len() >= G * plane);
    assert!(sums.len() >= pass.rows::<G>() * row && inner.next_multiple_of(2 * S::LANES) <= row);
    for &Term { filter, value, result } in terms::<G>() {
        for k in (0..inner).step_by(2 * S::LANES) {
            // SAFETY: the assertions above are the extents of the operands: `G · c_out` rows of results, a plane for each
            // value, a matrix for each filter; whole pairs of vectors stay within a row.
            unsafe {
                let product = Product {
                    inner: PANEL_LOCATIONS,
                    a: scratch.left.as_ptr().add(rows_before::<G>(result) * c_out * PANEL_LOCATIONS),
                    a_row: PANEL_LOCATIONS,
                    b: scratch.right.as_ptr().add(value * plane + k),
                    b_step: row,
                    b_gap: S::LANES,
                    c: sums.as_mut_ptr().add(rows_before::<G>(filter) * c_out * row + k),
                    c_row: row,
                    c_gap: S::LANES,
                    fresh: false,
                };
                product_rows::<S>(c_out * columns::<G>(result), product);
            }
        }
    }
}
