//! The CPU path: per image, pad; per panel of output locations, transform while packing, multiply, transform back.

use super::{
    Conv, Extents,
    irrep::{
        Filter, Tap, Term, columns, filter_matrices, filters, inverse, rows_before, spread_gradient, taps, terms,
        transform,
    },
    layout::Layout,
    product::{Product, product_rows},
};
use crate::{
    Group,
    simd::{Isa, Simd, Task},
};
use quarterturn_core::HostBuffer;
use rayon::prelude::*;

/// Floats of a packed panel at most: what stays in the second-level cache beside the padded image.
const PANEL: usize = 48 * 1024;
/// Images are summed into at most this many partial gradients, whatever the number of threads.
const PARTIAL_GRADIENTS: usize = 32;
/// Locations per panel of the weight gradient.
const GRADIENT_PANEL: usize = 64;
/// Floats that a vector access may touch beyond the end of what it needs.
const SLACK: usize = 64;

/// What becomes of a sum before it is stored: `sum · scale + shift`, of each output channel, then, if `relu`, the larger
/// of that and 0 (NaN stays NaN).
pub(super) struct Epilogue {
    pub scale_shift: Vec<(f32, f32)>,
    pub relu: bool,
}

impl Epilogue {
    /// Adds the bias.
    pub(super) fn bias(channels: usize, bias: Option<&[f32]>) -> Self {
        let shift = |c| bias.map_or(0.0, |b| b[c]);
        Epilogue { scale_shift: (0..channels).map(|c| (1.0, shift(c))).collect(), relu: false }
    }

    #[inline(always)]
    fn apply<S: Simd>(&self, channel: usize, sum: S::V) -> S::V {
        let (scale, shift) = self.scale_shift[channel];
        let y = S::mul_add(sum, S::splat(scale), S::splat(shift));
        if self.relu { S::max(S::splat(0.0), y) } else { y }
    }
}

/// `y = epilogue(weight ⋆ x)`.
pub(super) fn forward(e: &Extents, conv: Conv, isa: Isa, x: &[f32], weight: &[f32], epilogue: Epilogue) -> HostBuffer {
    let (source, result) = ((e.height, e.width), (e.out_height, e.out_width));
    let layout = Layout::new(source, result, e.k, conv.stride, 1, conv.padding as isize);
    let pass = Pass { filter: Filter::Forward, layout, rows: e.c_out, cols: e.c_in, planes: e.g_in, epilogue };
    pass.over_group(e, conv.group, isa, x, weight)
}

/// Gradient of the input of a plain or group convolution: the same sum with the adjoint filter over `dy`, its samples
/// spread out by the stride.
pub(super) fn dx(e: &Extents, conv: Conv, isa: Isa, dy: &[f32], weight: &[f32]) -> HostBuffer {
    let (source, result) = ((e.out_height, e.out_width), (e.height, e.width));
    let lead = e.k as isize - 1 - conv.padding as isize;
    let layout = Layout::new(source, result, e.k, 1, conv.stride, lead);
    let epilogue = Epilogue::bias(e.c_in, None);
    let pass = Pass { filter: Filter::Adjoint, layout, rows: e.c_in, cols: e.c_out, planes: e.g_out, epilogue };
    pass.over_group(e, conv.group, isa, dy, weight)
}

/// One convolution, forward or adjoint.
struct Pass {
    filter: Filter,
    layout: Layout,
    /// Channels of the result and of the source.
    rows: usize,
    cols: usize,
    /// Group elements of the source: 1 when lifting.
    planes: usize,
    epilogue: Epilogue,
}

impl Pass {
    fn over_group(&self, e: &Extents, group: Group, isa: Isa, source: &[f32], weight: &[f32]) -> HostBuffer {
        match group {
            Group::C1 => self.over_images::<1>(e, group, isa, source, weight),
            Group::C4 => self.over_images::<4>(e, group, isa, source, weight),
            Group::D4 => self.over_images::<8>(e, group, isa, source, weight),
        }
    }

    fn over_images<const G: usize>(
        &self,
        e: &Extents,
        group: Group,
        isa: Isa,
        source: &[f32],
        weight: &[f32],
    ) -> HostBuffer {
        let taps = taps(e, group);
        let inner = self.cols * taps.len();
        let mut matrices = HostBuffer::scratch(rows_before::<G>(filters::<G>()) * self.rows * inner);
        filter_matrices::<G>(e, group, self.filter, weight, &taps, &mut matrices);
        let plan = Plan {
            pass: self,
            filters: &matrices,
            offsets: tap_offsets(&self.layout, e.k, &taps, self.planes, self.cols),
        };
        let image = self.cols * self.planes * self.layout.height * self.layout.width;
        let result = self.rows * G * self.layout.out_height * self.layout.out_width;
        let mut y = HostBuffer::scratch(e.batch * result);
        y.par_chunks_mut(result).zip(source.par_chunks(image)).for_each_init(
            || PassScratch::new::<G>(self, inner),
            |scratch, (y, source)| isa.run(OneImage::<G> { plan: &plan, source, scratch, y }),
        );
        y
    }
}

/// What the images of a pass share.
struct Plan<'a, const G: usize> {
    pass: &'a Pass,
    filters: &'a [f32],
    offsets: Vec<[usize; G]>,
}

/// Where tap q of element h, input channel c, lies for location 0: at `[(c, q)][h]`, in an image of planes `[c][h]`.
fn tap_offsets<const G: usize>(
    layout: &Layout,
    k: usize,
    taps: &[Tap],
    planes: usize,
    channels: usize,
) -> Vec<[usize; G]> {
    (0..channels)
        .flat_map(|c| {
            taps.iter().map(move |tap| {
                std::array::from_fn(|h| {
                    let (row, col) = Group::move_entry(h, tap.row, tap.col, k, k);
                    (c * planes + h % planes) * layout.plane() + layout.sample(row, col)
                })
            })
        })
        .collect()
}

/// What one image needs besides its operands; `padded` holds its zeros from one image to the next.
struct PassScratch {
    padded: HostBuffer,
    panel: HostBuffer,
    /// ŷ of one panel.
    products: HostBuffer,
    /// The result with the locations between rows still in it.
    flat: HostBuffer,
}

/// Floats of a flat plane of results: whole panels.
fn flat_plane(layout: &Layout) -> usize {
    layout.locations().next_multiple_of(GRADIENT_PANEL)
}

/// Inner terms that one panel holds, for `width` locations.
fn panel_terms<const G: usize>(inner: usize, width: usize) -> usize {
    inner.min(PANEL / (width * G)).max(1)
}

impl PassScratch {
    fn new<const G: usize>(pass: &Pass, inner: usize) -> Self {
        const WIDEST: usize = 32;
        PassScratch {
            padded: HostBuffer::zeros(pass.cols * pass.planes * pass.layout.plane() + SLACK),
            // A narrower panel holds more terms, but not more floats.
            panel: HostBuffer::scratch((PANEL + G * WIDEST).min(inner * G * WIDEST)),
            products: HostBuffer::scratch(pass.rows * G * WIDEST),
            flat: HostBuffer::scratch(pass.rows * G * flat_plane(&pass.layout)),
        }
    }
}

struct OneImage<'a, const G: usize> {
    plan: &'a Plan<'a, G>,
    source: &'a [f32],
    scratch: &'a mut PassScratch,
    y: &'a mut [f32],
}

impl<const G: usize> Task for OneImage<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneImage { plan: Plan { pass, filters, offsets }, source, scratch, y } = self;
        let (layout, inner, width) = (&pass.layout, offsets.len(), 2 * S::LANES);
        let plane = flat_plane(layout);
        pad(layout, source, &mut scratch.padded);
        let reach = offsets.iter().flatten().max().expect("a filter has a tap") + layout.locations() + width;
        assert!(scratch.padded.len() >= reach);
        let terms = panel_terms::<G>(inner, width);
        for start in (0..layout.locations()).step_by(width) {
            for first in (0..inner).step_by(terms) {
                let offsets = &offsets[first..inner.min(first + terms)];
                // SAFETY: `start` and the width behind it are within `reach`, which is asserted above.
                unsafe { pack::<S, G>(&scratch.padded, start, offsets, &mut scratch.panel) };
                multiply::<S, G>(pass, filters, inner, first, offsets.len(), scratch);
            }
            for row in 0..pass.rows {
                for half in 0..2 {
                    let values = untransform::<S, G>(pass, row, half, &scratch.products);
                    for (g, value) in values.into_iter().enumerate() {
                        let at = (row * G + g) * plane + start + half * S::LANES;
                        let lanes = &mut scratch.flat[at..at + S::LANES];
                        // SAFETY: the slice has `LANES` elements.
                        unsafe { S::store(lanes.as_mut_ptr(), pass.epilogue.apply::<S>(row, value)) };
                    }
                }
            }
        }
        crop(layout, &scratch.flat, y);
    }
}

/// Copies an image into its padded planes.
#[inline(always)]
fn pad(layout: &Layout, source: &[f32], padded: &mut [f32]) {
    let planes = source.chunks_exact(layout.height * layout.width);
    for (source, padded) in planes.zip(padded.chunks_exact_mut(layout.plane())) {
        layout.for_each_run(|from, to, count| copy_row(&source[from..from + count], &mut padded[to..to + count]));
    }
}

/// Copies the valid columns of flat planes to dense ones.
#[inline(always)]
fn crop(layout: &Layout, flat: &[f32], y: &mut [f32]) {
    let width = layout.out_width;
    let planes = flat.chunks_exact(flat_plane(layout));
    for (flat, y) in planes.zip(y.chunks_exact_mut(layout.out_height * width)) {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            copy_row(&flat[row * layout.pitch..][..width], y);
        }
    }
}

/// A short copy: vectors of fixed length, the last one overlapping, where a call to `memcpy` would cost more.
#[inline(always)]
fn copy_row(from: &[f32], to: &mut [f32]) {
    let n = from.len();
    let to = &mut to[..n];
    if n >= 16 {
        for i in (0..n - 15).step_by(16) {
            to[i..i + 16].copy_from_slice(&from[i..i + 16]);
        }
        to[n - 16..].copy_from_slice(&from[n - 16..]);
    } else if n >= 8 {
        to[..8].copy_from_slice(&from[..8]);
        to[n - 8..].copy_from_slice(&from[n - 8..]);
    } else {
        for i in 0..n {
            to[i] = from[i];
        }
    }
}

/// F̂ of `2 · LANES` locations from `start` on, for the inner terms of `offsets`: `[value][term][location]`.
///
/// # Safety
/// `padded` must hold `start + 2 · LANES` floats beyond each of the offsets.
#[inline(always)]
unsafe fn pack<S: Simd, const G: usize>(padded: &[f32], start: usize, offsets: &[[usize; G]], panel: &mut [f32]) {
    let width = 2 * S::LANES;
    let plane = offsets.len() * width;
    assert!(panel.len() >= G * plane);
    for (term, offsets) in offsets.iter().enumerate() {
        for half in 0..2 {
            let at = half * S::LANES;
            // SAFETY: the caller's, and the assertion above.
            unsafe {
                let f = offsets.map(|offset| S::load(padded.as_ptr().add(offset + start + at)));
                for (i, value) in transform::<S, G>(f).into_iter().enumerate() {
                    S::store(panel.as_mut_ptr().add(i * plane + term * width + at), value);
                }
            }
        }
    }
}

/// ŷ (+)= F̂ · ψ̃ for `count` inner terms from `first` on: `[result][row, column][location]`.
#[inline(always)]
fn multiply<S: Simd, const G: usize>(
    pass: &Pass,
    matrices: &[f32],
    inner: usize,
    first: usize,
    count: usize,
    scratch: &mut PassScratch,
) {
    let (rows, width) = (pass.rows, 2 * S::LANES);
    assert!(matrices.len() >= rows_before::<G>(filters::<G>()) * rows * inner && first + count <= inner);
    assert!(scratch.panel.len() >= G * count * width && scratch.products.len() >= G * rows * width);
    let mut last = None;
    for &Term { filter, value, result } in terms::<G>() {
        let fresh = first == 0 && last != Some(result);
        last = Some(result);
        // SAFETY: the assertions above are the extents of the operands: a matrix for each filter, a plane of the panel for
        // each value, and `G · rows` rows of results.
        unsafe {
            let product = Product {
                inner: count,
                a: matrices.as_ptr().add(rows_before::<G>(filter) * rows * inner + first),
                a_row: inner,
                b: scratch.panel.as_ptr().add(value * count * width),
                b_step: width,
                b_gap: S::LANES,
                c: scratch.products.as_mut_ptr().add(rows_before::<G>(result) * rows * width),
                c_row: width,
                c_gap: S::LANES,
                fresh,
            };
            product_rows::<S>(rows * columns::<G>(result), product);
        }
    }
}

/// y of one channel and half of a panel's locations.
#[inline(always)]
fn untransform<S: Simd, const G: usize>(pass: &Pass, row: usize, half: usize, products: &[f32]) -> [S::V; G] {
    let values = std::array::from_fn(|i| {
        let at = result_row::<G>(pass.rows, row, i) * 2 * S::LANES + half * S::LANES;
        let lanes = &products[at..at + S::LANES];
        // SAFETY: the slice has `LANES` elements.
        unsafe { S::load(lanes.as_ptr()) }
    });
    inverse::<S, G>(values)
}

/// The row of the results in which value `i` of channel `row` of `rows` stands.
const fn result_row<const G: usize>(rows: usize, row: usize, i: usize) -> usize {
    let (result, column) = if G == 8 && i >= 4 { (4 + (i - 4) / 2, i % 2) } else { (i, 0) };
    rows_before::<G>(result) * rows + row * columns::<G>(result) + column
}

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
    let per_channel = GRADIENT_PANEL * taps.len() * G;
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
            left: HostBuffer::zeros(G * e.c_out * GRADIENT_PANEL),
            right: HostBuffer::zeros(G * GRADIENT_PANEL * pass.row()),
            flat: HostBuffer::zeros(e.c_out * G * flat_plane(&pass.layout)),
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
        interleave(layout, x, e.g_in, e.c_in, &mut scratch.padded);
        let plane = flat_plane(layout);
        let dense = layout.out_height * layout.out_width;
        for (flat, dy) in scratch.flat.chunks_exact_mut(plane).zip(dy.chunks_exact(dense)) {
            for (row, dy) in dy.chunks_exact(layout.out_width).enumerate() {
                copy_row(dy, &mut flat[row * layout.pitch..][..layout.out_width]);
            }
        }
        let block = pass.rows::<G>() * pass.row();
        for start in (0..layout.locations()).step_by(GRADIENT_PANEL) {
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

/// Copies an image `[c][h][row][col]` to `[padded sample][h][c]`.
#[inline(always)]
fn interleave(layout: &Layout, x: &[f32], planes: usize, channels: usize, padded: &mut [f32]) {
    let (area, depth) = (layout.height * layout.width, planes * channels);
    layout.for_each_run(|from, to, count| {
        for (i, sample) in padded[to * depth..].chunks_exact_mut(depth).take(count).enumerate() {
            for h in 0..planes {
                let source = x[h * area + from + i..].iter().step_by(planes * area);
                for (to, from) in sample[h * channels..][..channels].iter_mut().zip(source) {
                    *to = *from;
                }
            }
        }
    });
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
        for at in (0..GRADIENT_PANEL).step_by(S::LANES) {
            let dy = std::array::from_fn(|g| {
                let from = (o * G + g) * plane + start + at;
                let lanes = &flat[from..from + S::LANES];
                // SAFETY: the slice has `LANES` elements.
                unsafe { S::load(lanes.as_ptr()) }
            });
            let values = transform::<S, G>(dy);
            total = S::add(total, values[0]);
            for (i, value) in values.into_iter().enumerate() {
                let lanes = &mut left[result_row::<G>(e.c_out, o, i) * GRADIENT_PANEL + at..][..S::LANES];
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
    let last = pass.taps.iter().flatten().max().expect("a filter has a tap") + start + GRADIENT_PANEL;
    assert!(padded.len() >= last * depth + S::LANES);
    assert!(right.len() >= G * GRADIENT_PANEL * row);
    for location in 0..GRADIENT_PANEL {
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
                    unsafe { S::store(right.as_mut_ptr().add(i * GRADIENT_PANEL * row + at), value) };
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
    let plane = GRADIENT_PANEL * row;
    assert!(scratch.left.len() >= G * c_out * GRADIENT_PANEL && scratch.right.len() >= G * plane);
    assert!(sums.len() >= pass.rows::<G>() * row && inner.next_multiple_of(2 * S::LANES) <= row);
    for &Term { filter, value, result } in terms::<G>() {
        for k in (0..inner).step_by(2 * S::LANES) {
            // SAFETY: the assertions above are the extents of the operands: `G · c_out` rows of results, a plane for each
            // value, a matrix for each filter; whole pairs of vectors stay within a row.
            unsafe {
                let product = Product {
                    inner: GRADIENT_PANEL,
                    a: scratch.left.as_ptr().add(rows_before::<G>(result) * c_out * GRADIENT_PANEL),
                    a_row: GRADIENT_PANEL,
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
