//! Weight gradient on the CPU: dψ̃ = Σ dŷ · F̂ᵀ over all locations of all images, for every pair of channels and every tap.

use super::{
    Conv, Extents,
    irrep::{spread_gradient, taps, transform},
    layout::Layout,
    tile::{Correlation, LANES, correlations, gradient_tile, tiles},
};
use crate::{
    Group,
    simd::{Isa, Simd, Task},
    sweep::lane_sums,
};
use quarterturn_core::HostBuffer;
use rayon::prelude::*;
use std::ops::Range;

/// Images are summed into at most this many partial gradients, whatever the number of threads.
const PARTIAL_GRADIENTS: usize = 32;
/// Floats that the partial gradients of a large filter may take together.
const PARTIAL_FLOATS: usize = 4 << 20;
/// Locations that are summed in registers: the gradients of a tile of channels there fit the first cache.
const CHUNK: usize = 272;

/// Gradients of weight and bias.
pub(super) fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: &[f32]) -> (HostBuffer, HostBuffer) {
    match conv.group {
        Group::C1 => over_images::<1>(e, conv, isa, x, dy),
        Group::C4 => over_images::<4>(e, conv, isa, x, dy),
        Group::D4 => over_images::<8>(e, conv, isa, x, dy),
    }
}

/// What all images share.
struct Plan<const G: usize> {
    e: Extents,
    isa: Isa,
    layout: Layout,
    /// For each term (input channel, tap), the place of every element's sample for location 0.
    offsets: Vec<[usize; G]>,
    /// Images whose locations are summed together: several of small ones.
    together: usize,
    /// Floats of an image's padded planes.
    padded: usize,
    /// Locations of an image or band, whole vectors.
    locations: usize,
}

impl<const G: usize> Plan<G> {
    fn new(e: &Extents, conv: Conv, isa: Isa, taps: &[super::irrep::Tap]) -> Self {
        let planes = e.c_in * e.g_in;
        let (source, result) = ((e.height, e.width), (e.out_height, e.out_width));
        let layout = Layout::new(source, result, e.k, conv.stride, conv.padding as isize, planes, 1);
        let locations = layout.locations(layout.band(0).len()).next_multiple_of(LANES);
        let offsets = (0..e.c_in).flat_map(|c| {
            taps.iter().map(move |tap| {
                std::array::from_fn(|h| {
                    let (row, col) = Group::move_entry(h, tap.row, tap.col, e.k, e.k);
                    (c * e.g_in + h % e.g_in) * layout.plane() + layout.sample(row, col)
                })
            })
        });
        Plan {
            e: *e,
            isa,
            layout,
            offsets: offsets.collect(),
            together: if layout.bands() > 1 { 1 } else { (CHUNK / locations).max(1) },
            padded: planes * layout.plane() + locations + LANES,
            locations,
        }
    }

    /// The channels of each tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<G> {
        tiles(self.e.c_out, gradient_tile::<G>(self.isa))
    }

    /// Gradients of ψ̃ of one channel.
    fn filters(&self) -> usize {
        self.offsets.len() * G
    }

    /// The sums over the first `images` images (what follows them is only fetched): dψ̃ tile by tile `[term][row][filter]`, and the gradient of the bias.
    fn partial(&self, x: &[f32], dy: &[f32], images: usize) -> (HostBuffer, HostBuffer) {
        let Plan { e, isa, layout, padded: padded_len, locations, .. } = self;
        let (image_x, image_y) = (e.x().len() / e.batch, e.y().len() / e.batch);
        let left_len = e.c_out * G * locations;
        let mut sums = HostBuffer::zeros(e.c_out * self.filters());
        let mut bias = HostBuffer::zeros(e.c_out);
        let mut padded = HostBuffer::zeros(self.together * padded_len);
        let mut left = HostBuffer::scratch(self.together * left_len);
        let rest = x.len() / image_x;
        let operands = |from: usize, to: usize| {
            let (from, to) = (from.min(rest), to.min(rest));
            (&x[from * image_x..to * image_x], &dy[from * image_y..to * image_y])
        };
        for first in (0..images).step_by(self.together) {
            let end = images.min(first + self.together);
            let (x, dy) = operands(first, end);
            // Large images are not fetched ahead: they do not fit the second cache.
            let ahead = if layout.bands() == 1 { operands(end, end + self.together) } else { (&[][..], &[][..]) };
            let images = end - first;
            for band in (0..layout.bands()).map(|i| layout.band(i)) {
                if layout.bands() > 1 {
                    padded.fill(0.0);
                }
                let image = |(((x, dy), padded), left)| {
                    isa.run(Prepare { plan: self, x, dy, band: band.clone(), padded, left })
                };
                let operands = x.par_chunks(image_x).zip(dy.par_chunks(image_y));
                let operands = operands.zip(padded.par_chunks_mut(*padded_len)).zip(left.par_chunks_mut(left_len));
                let of_images: Vec<Vec<f32>> = operands.map(image).collect();
                for of_image in of_images {
                    bias.iter_mut().zip(of_image).for_each(|(sum, v)| *sum += v);
                }
                let mut rest = &mut sums[..];
                let mut jobs = Vec::new();
                for rows in self.tiles() {
                    let (tile, after) = rest.split_at_mut(rows.len() * self.filters());
                    jobs.push((rows, tile));
                    rest = after;
                }
                jobs.into_par_iter().for_each(|(rows, sums)| {
                    isa.run(OneTile { plan: self, images, padded: &padded, left: &left, rows, ahead, sums });
                });
            }
        }
        (sums, bias)
    }
}

fn over_images<const G: usize>(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: &[f32]) -> (HostBuffer, HostBuffer) {
    let taps = taps(e, conv.group);
    let plan = Plan::<G>::new(e, conv, isa, &taps);
    // The partition depends on the extents alone, and partial sums are added in order: any number of threads gives the
    // same bits.
    let most = (PARTIAL_FLOATS / (e.c_out * plan.filters())).clamp(1, PARTIAL_GRADIENTS);
    let images = e.batch.div_ceil(most).next_multiple_of(plan.together.min(e.batch));
    let (image_x, image_y) = (x.len() / e.batch, dy.len() / e.batch);
    let partial = (0..e.batch).into_par_iter().step_by(images);
    let partial = partial.map(|n| plan.partial(&x[n * image_x..], &dy[n * image_y..], images.min(e.batch - n)));
    let partial: Vec<(HostBuffer, HostBuffer)> = partial.collect();
    let mut partial = partial.into_iter();
    let (mut sums, mut bias) = partial.next().expect("a batch has an image");
    for (s, b) in partial {
        const PIECE: usize = 1 << 14;
        sums.par_chunks_mut(PIECE).zip(s.par_chunks(PIECE)).for_each(|(sums, s)| {
            sums.iter_mut().zip(s).for_each(|(sum, v)| *sum += v);
        });
        bias.iter_mut().zip(b.iter()).for_each(|(sum, v)| *sum += v);
    }

    let tile_of: Vec<Range<usize>> = plan.tiles().flat_map(|tile| vec![tile.clone(); tile.len()]).collect();
    let gradient = |o: usize, c: usize, t: usize| -> [f32; G] {
        let tile = &tile_of[o];
        let at = tile.start * plan.filters() + ((c * taps.len() + t) * tile.len() + o - tile.start) * G;
        sums[at..at + G].try_into().expect("G floats")
    };
    let mut dweight = HostBuffer::zeros(e.weight().len());
    spread_gradient::<G>(e, conv.group, &taps, gradient, &mut dweight);
    (dweight, bias)
}

/// Pads a band of x, and transforms dy there; returns its sums per channel.
struct Prepare<'a, const G: usize> {
    plan: &'a Plan<G>,
    x: &'a [f32],
    dy: &'a [f32],
    band: Range<usize>,
    padded: &'a mut [f32],
    /// dŷ as `[o][result][location]`, zero between rows and behind the last.
    left: &'a mut [f32],
}

impl<const G: usize> Task for Prepare<'_, G> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Vec<f32> {
        let Prepare { plan: Plan { e, layout, locations, .. }, x, dy, band, padded, left } = self;
        layout.pad(x, band.clone(), padded);
        let area = e.out_height * e.out_width;
        let (start, end) = (band.start * e.out_width, band.end * e.out_width);
        let mut flat = vec![0.0; G * locations];
        let mut bias = Vec::with_capacity(e.c_out);
        for (dy, left) in dy.chunks_exact(G * area).zip(left.chunks_exact_mut(G * locations)) {
            for (dy, flat) in dy.chunks_exact(area).zip(flat.chunks_exact_mut(*locations)) {
                layout.spread(&dy[start..end], flat);
            }
            for at in (0..*locations).step_by(S::LANES) {
                let lanes = |plane: usize| plane * locations + at..plane * locations + at + S::LANES;
                // SAFETY: the slices have `LANES` elements.
                let dy = std::array::from_fn(|g| unsafe { S::load(flat[lanes(g)].as_ptr()) });
                for (i, value) in transform::<S, G>(dy).into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { S::store(left[lanes(i)].as_mut_ptr(), value) };
                }
            }
            bias.push(lane_sums(&left[..*locations], |v| v) as f32);
        }
        bias
    }
}

/// Adds to the gradients of ψ̃ of one tile of channels what some images contribute.
struct OneTile<'a, const G: usize> {
    plan: &'a Plan<G>,
    images: usize,
    padded: &'a [f32],
    left: &'a [f32],
    rows: Range<usize>,
    /// x and dy of the images that come next.
    ahead: (&'a [f32], &'a [f32]),
    sums: &'a mut [f32],
}

impl<'a, const G: usize> Task for OneTile<'a, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneTile { plan, images, padded, left, rows, ahead, sums } = self;
        let Plan { e, offsets, locations, padded: padded_len, .. } = plan;
        let reach = offsets.iter().flatten().max().expect("a filter has a tap") + locations;
        assert!(*padded_len >= reach && padded.len() >= images * padded_len);
        assert!(left.len() >= images * e.c_out * G * locations && rows.end <= e.c_out);
        let vectors = locations / LANES;
        let chunks = locations.div_ceil(CHUNK);
        // An even part of what comes next for every chunk and channel.
        let part = |ahead: &'a [f32], chunk: usize| {
            let at = |row: usize| (chunk * e.c_out + row) * ahead.len() / (chunks * e.c_out);
            &ahead[at(rows.start)..at(rows.end)]
        };
        for chunk in 0..chunks {
            let (start, end) = (chunk * vectors / chunks * LANES, (chunk + 1) * vectors / chunks * LANES);
            let correlation = Correlation {
                offsets,
                padded: &padded[start..],
                padded_image: *padded_len,
                left: &left[rows.start * G * locations + start..],
                left_row: *locations,
                left_image: e.c_out * G * locations,
                locations: end - start,
                images,
                ahead: [part(ahead.0, chunk), part(ahead.1, chunk)],
            };
            // SAFETY: the assertions above.
            unsafe { correlations::<S, G>(rows.len(), correlation, sums) };
        }
    }
}
