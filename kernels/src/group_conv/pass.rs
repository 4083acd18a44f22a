//! Forward and input gradient on the CPU: per image, pad; per panel of output locations, transform while packing,
//! multiply, transform back.

use super::{
    Conv, Extents,
    irrep::{
        Filter, Tap, Term, columns, filter_matrices, filters, inverse, result_row, rows_before, taps, terms, transform,
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
            flat: HostBuffer::scratch(pass.rows * G * pass.layout.flat_plane()),
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
        let plane = layout.flat_plane();
        layout.pad(source, &mut scratch.padded);
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
        layout.crop(&scratch.flat, y);
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
