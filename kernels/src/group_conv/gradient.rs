//! Weight gradient on the CPU: dψ̃ = Σ dŷ · F̂ᵀ over all locations of all images, for every pair of channels and every tap.

use super::{
    Conv, Extents, gradient_panels, gradient_squares,
    irrep::{GAUSS, spread_gradient, taps, transform},
    layout::{Layout, Windows},
    tile::{Correlation, LANES, Later, correlations, gradient_tile, tiles},
};
use crate::{
    Group,
    jobs::{for_each_chunk, map_items, map_items_init},
    simd::{Isa, Simd, Task, WIDEST},
    sweep::lane_sums,
};
use quarterturn_core::HostBuffer;
use std::{mem, ops::Range, slice::ChunksMut};

/// Images are summed into at most this many partial gradients, whatever the number of threads.
const PARTIAL_GRADIENTS: usize = 32;
/// Floats that the partial gradients of a large filter may take together.
const PARTIAL_FLOATS: usize = 4 << 20;
/// Locations that are summed in registers, of all images together: the gradients of a tile of channels there fit the first
/// cache. Then lanes have to be added up, so the more locations, the better.
const fn chunk<const G: usize>() -> usize {
    if G == 1 { 1088 } else { 272 }
}

/// The gradient of the results.
pub(super) enum ResultGradient<'a> {
    Given(&'a [f32]),
    /// Made image by image, when its turn comes.
    Made {
        /// Makes that of an image.
        image: &'a (dyn Fn(usize, &mut [f32]) + Sync),
        /// What that reads, as much of each for every image: it is fetched ahead.
        reads: [&'a [f32]; 3],
        /// Where it is kept, if it is of further use.
        kept: Option<&'a mut [f32]>,
    },
}

/// Whether images are so small that each is taken whole, and fetched ahead.
pub(super) fn takes_whole_images(e: &Extents, conv: Conv) -> bool {
    layout(e, conv).bands() == 1
}

fn layout(e: &Extents, conv: Conv) -> Layout {
    Windows::forward(e, conv).layout(e.c_in * e.g_in, 1)
}

/// Gradients of weight and bias; that of the bias only where dy is given. It is only made of images that are taken whole.
pub(super) fn dw(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: ResultGradient) -> (HostBuffer, HostBuffer) {
    match conv.group {
        _ if gradient_squares::pay(e, conv) => gradient_squares::dw(e, conv, isa, x, dy),
        Group::C1 => of_group::<1, 1>(e, conv, isa, x, dy),
        Group::C4 => of_group::<4, GAUSS>(e, conv, isa, x, dy),
        Group::D4 => of_group::<8, 8>(e, conv, isa, x, dy),
    }
}

fn of_group<const G: usize, const P: usize>(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    x: &[f32],
    dy: ResultGradient,
) -> (HostBuffer, HostBuffer) {
    let taps = taps(e, conv.group);
    if gradient_panels::pay(e, conv) {
        return gradient_panels::dw::<G, P>(e, conv, isa, &taps, x, dy, gradient_panels::FLOATS);
    }
    let plan = InTiles::<G>::new(e, conv, isa, &taps);
    let (sums, bias) = over_images(&plan, x, dy);
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

/// How the sums over some images are made.
pub(super) trait Summation: Sync {
    /// Copies of the images that are summed together. They are made once for several partial gradients: zeros around and
    /// between the samples stay in place.
    type Copies;
    fn copies(&self) -> Self::Copies;
    fn extents(&self) -> &Extents;
    /// Images that are summed together: several of small ones.
    fn together(&self) -> usize;
    /// Whether the next images are fetched ahead.
    fn fetches_ahead(&self) -> bool;
    /// Sums that each channel of the result has.
    fn filters(&self) -> usize;
    /// Adds what some images contribute to the sums, and to the gradient of the bias, if it is wanted.
    fn add(&self, images: Together, copies: &mut Self::Copies, sums: &mut [f32], bias: Option<&mut [f32]>);
}

/// Images that are summed together.
pub(super) struct Together<'a> {
    /// Theirs, `[image][channel][group element][row][column]` both.
    pub x: &'a [f32],
    pub dy: &'a [f32],
    /// What is accessed next.
    pub later: [Later; 5],
}

/// Sums over the locations of a padded copy, tile by tile of channels.
struct InTiles<const G: usize> {
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

impl<const G: usize> InTiles<G> {
    fn new(e: &Extents, conv: Conv, isa: Isa, taps: &[super::irrep::Tap]) -> Self {
        let (planes, layout) = (e.c_in * e.g_in, layout(e, conv));
        let locations = layout.locations(layout.band(0).len()).next_multiple_of(LANES);
        let offsets = (0..e.c_in).flat_map(|c| {
            taps.iter().map(move |tap| {
                std::array::from_fn(|h| {
                    let (row, col) = Group::move_entry(h, tap.row, tap.col, e.k, e.k);
                    (c * e.g_in + h % e.g_in) * layout.plane() + layout.sample(conv.dilation * row, conv.dilation * col)
                })
            })
        });
        InTiles {
            e: *e,
            isa,
            layout,
            offsets: offsets.collect(),
            together: if layout.bands() > 1 { 1 } else { (chunk::<G>() / locations).max(1) },
            padded: planes * layout.plane() + locations + LANES,
            locations,
        }
    }

    /// The channels of each tile.
    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<G> {
        tiles(self.e.c_out, gradient_tile::<G>(self.isa))
    }
}

impl<const G: usize> Summation for InTiles<G> {
    type Copies = Copies;

    fn copies(&self) -> Copies {
        let left = self.e.c_out * G * self.locations;
        Copies { padded: HostBuffer::zeros(self.together * self.padded), left: HostBuffer::zeros(self.together * left) }
    }

    fn extents(&self) -> &Extents {
        &self.e
    }

    fn together(&self) -> usize {
        self.together
    }

    /// Large images are not fetched ahead: they do not fit the second cache.
    fn fetches_ahead(&self) -> bool {
        self.layout.bands() == 1
    }

    /// Gradients of ψ̃ of one channel.
    fn filters(&self) -> usize {
        self.offsets.len() * G
    }

    /// The sums are tile by tile `[term][row][filter]`.
    fn add(
        &self,
        images: Together,
        Copies { padded, left }: &mut Copies,
        sums: &mut [f32],
        mut bias: Option<&mut [f32]>,
    ) {
        let InTiles { e, isa, layout, padded: padded_len, locations, .. } = self;
        let Together { x, dy, later } = images;
        let (image_x, image_y) = (e.x().len() / e.batch, e.y().len() / e.batch);
        let left_len = e.c_out * G * locations;
        for band in (0..layout.bands()).map(|i| layout.band(i)) {
            if layout.bands() > 1 {
                padded.fill(0.0);
                left.fill(0.0);
            }
            let operands = x.chunks(image_x).zip(dy.chunks(image_y));
            let operands = operands.zip(padded.chunks_mut(*padded_len).zip(left.chunks_mut(left_len)));
            let wants_sums = bias.is_some();
            let of_images = map_items(operands, 1, |_, ((x, dy), (padded, left))| {
                isa.run(Prepare { plan: self, x, dy, band: band.clone(), padded, left, wants_sums })
            });
            for of_image in of_images {
                bias.iter_mut().flat_map(|bias| bias.iter_mut()).zip(of_image).for_each(|(sum, v)| *sum += v);
            }
            let mut rest = &mut sums[..];
            let mut jobs = Vec::new();
            for rows in self.tiles() {
                let (tile, after) = rest.split_at_mut(rows.len() * self.filters());
                jobs.push((rows, tile));
                rest = after;
            }
            map_items(jobs.into_iter(), 1, |_, (rows, sums)| {
                let images = x.len() / image_x;
                isa.run(OneTile { plan: self, images, padded, left, rows, later, sums });
            });
        }
    }
}

struct Copies {
    /// x, in padded planes.
    padded: HostBuffer,
    /// dŷ, as [`Prepare`] has it.
    left: HostBuffer,
}

/// The sums over some images, and the gradient of the bias. What is made of dy is kept in `kept`, if there; `copies` are
/// overwritten.
fn partial<P: Summation>(
    plan: &P,
    x: &[f32],
    dy: &ResultGradient,
    images: Range<usize>,
    kept: Option<&mut [f32]>,
    copies: &mut P::Copies,
) -> (HostBuffer, HostBuffer) {
    let (e, together) = (plan.extents(), plan.together());
    let image_y = e.y().len() / e.batch;
    let mut sums = HostBuffer::zeros(e.c_out * plan.filters());
    let mut bias = HostBuffer::zeros(e.c_out);
    let mut made = match (dy, kept) {
        (_, Some(kept)) => Room::Kept(kept),
        (ResultGradient::Made { .. }, None) => Room::Scratch(HostBuffer::scratch(together * image_y)),
        (ResultGradient::Given(_), None) => Room::Scratch(HostBuffer::scratch(0)),
    };
    for first in images.clone().step_by(together) {
        let end = images.end.min(first + together);
        let these = |all| images_of(all, first..end, e.batch);
        let next = if plan.fetches_ahead() { end..e.batch.min(end + together) } else { 0..0 };
        let next = |all| Later::from(images_of(all, next.clone(), e.batch));
        let none = Later::default();
        let (x, dy, later, bias) = match dy {
            ResultGradient::Given(dy) => {
                (these(x), these(dy), [next(x), next(dy), none, none, none], Some(&mut bias[..]))
            }
            ResultGradient::Made { image, reads: [a, b, c], .. } => {
                let (made, room) = made.of((end - first) * image_y);
                for_each_chunk(made, image_y, 1, &|i, made| image(first + i, made));
                // No bias reaches through the norm that dy is made by.
                (these(x), &*made, [next(x), next(a), next(b), next(c), room], None)
            }
        };
        plan.add(Together { x, dy, later }, copies, &mut sums, bias);
    }
    (sums, bias)
}

/// Of an array with as much for every image of a batch, that of some images.
fn images_of(all: &[f32], images: Range<usize>, batch: usize) -> &[f32] {
    let image = all.len() / batch;
    &all[images.start * image..images.end * image]
}

/// Where gradients of results are made.
enum Room<'a> {
    /// Images that are yet to come.
    Kept(&'a mut [f32]),
    Scratch(HostBuffer),
}

impl Room<'_> {
    /// That of the next images, `len` floats; and of those behind them, as far as it is kept.
    fn of(&mut self, len: usize) -> (&mut [f32], Later) {
        match self {
            Room::Kept(kept) => {
                let (next, rest) = mem::take(kept).split_at_mut(len);
                let later = Later::from(&rest[..len.min(rest.len())]);
                *kept = rest;
                (next, later)
            }
            Room::Scratch(scratch) => (&mut scratch[..len], Later::default()),
        }
    }
}

/// The sums over all images, and the gradient of the bias.
pub(super) fn over_images<P: Summation>(plan: &P, x: &[f32], mut dy: ResultGradient) -> (HostBuffer, HostBuffer) {
    let e = plan.extents();
    // The partition depends on the extents alone, and partial sums are added in order: any number of threads gives the
    // same bits.
    let most = (PARTIAL_FLOATS / (e.c_out * plan.filters())).clamp(1, PARTIAL_GRADIENTS);
    let images = e.batch.div_ceil(most).next_multiple_of(plan.together().min(e.batch));
    let kept = match &mut dy {
        ResultGradient::Made { kept, .. } => kept.take(),
        ResultGradient::Given(_) => None,
    };
    let mut kept = kept.map(|kept| kept.chunks_mut(images * (e.y().len() / e.batch)));
    let parts = (0..e.batch).step_by(images).map(|first| (first, kept.as_mut().and_then(ChunksMut::next)));
    let partial = map_items_init(
        parts,
        1,
        || plan.copies(),
        |copies, _, (first, kept)| partial(plan, x, &dy, first..e.batch.min(first + images), kept, copies),
    );
    let mut partial = partial.into_iter();
    let (mut sums, mut bias) = partial.next().expect("a batch has an image");
    for (s, b) in partial {
        const PIECE: usize = 1 << 14;
        for_each_chunk(&mut sums, PIECE, 1, &|i, sums| {
            sums.iter_mut().zip(&s[i * PIECE..]).for_each(|(sum, v)| *sum += v);
        });
        bias.iter_mut().zip(b.iter()).for_each(|(sum, v)| *sum += v);
    }
    (sums, bias)
}

/// Pads a band of x, and transforms dy there; returns its sums per channel, if wanted.
struct Prepare<'a, const G: usize> {
    plan: &'a InTiles<G>,
    x: &'a [f32],
    dy: &'a [f32],
    band: Range<usize>,
    padded: &'a mut [f32],
    /// dŷ as `[o][result][location]`; between rows and behind the last there are zeros already.
    left: &'a mut [f32],
    wants_sums: bool,
}

impl<const G: usize> Task for Prepare<'_, G> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self) -> Vec<f32> {
        let Prepare { plan: InTiles { e, layout, locations, .. }, x, dy, band, padded, left, wants_sums } = self;
        layout.pad(x, band.clone(), padded);
        let (area, cols, pitch) = (e.out_height * e.out_width, e.out_width, layout.pitch());
        let mut bias = Vec::with_capacity(e.c_out);
        for (dy, left) in dy.chunks_exact(G * area).zip(left.chunks_exact_mut(G * locations)) {
            for (i, row) in band.clone().enumerate() {
                // The last vector of a row overlaps the one before it, unless there is but one.
                let starts = (0..cols).step_by(S::LANES).map(|col| col.min(cols.saturating_sub(S::LANES)));
                for col in starts {
                    let dy = std::array::from_fn(|g| load_padded::<S>(&dy[g * area + row * cols + col..]));
                    for (value, left) in transform::<S, G>(dy).into_iter().zip(left.chunks_exact_mut(*locations)) {
                        let to = &mut left[i * pitch + col..][..S::LANES.min(cols)];
                        // SAFETY: as many lanes as the slice has elements.
                        unsafe { S::store_lanes(value, 0..to.len(), to.as_mut_ptr()) };
                    }
                }
            }
            if wants_sums {
                bias.push(lane_sums(&left[..*locations], |v| v) as f32);
            }
        }
        bias
    }
}

/// The first lanes of a slice, and zeros behind its end.
#[inline(always)]
pub(super) fn load_padded<S: Simd>(from: &[f32]) -> S::V {
    if from.len() >= S::LANES {
        // SAFETY: just asked.
        return unsafe { S::load(from.as_ptr()) };
    }
    let mut all = [0.0; WIDEST];
    all[..from.len()].copy_from_slice(from);
    // SAFETY: no vector has more lanes.
    unsafe { S::load(all.as_ptr()) }
}

/// Adds to the gradients of ψ̃ of one tile of channels what some images contribute.
struct OneTile<'a, const G: usize> {
    plan: &'a InTiles<G>,
    images: usize,
    padded: &'a [f32],
    left: &'a [f32],
    rows: Range<usize>,
    /// What is accessed next.
    later: [Later; 5],
    sums: &'a mut [f32],
}

impl<const G: usize> Task for OneTile<'_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneTile { plan, images, padded, left, rows, later, sums } = self;
        let InTiles { e, offsets, locations, padded: padded_len, .. } = plan;
        let reach = offsets.iter().flatten().max().expect("a filter has a tap") + locations;
        assert!(*padded_len >= reach && padded.len() >= images * padded_len);
        assert!(left.len() >= images * e.c_out * G * locations && rows.end <= e.c_out);
        let vectors = locations / LANES;
        let chunks = locations.div_ceil(chunk::<G>());
        // An even part of what comes next for every chunk and channel.
        let part = |chunk: usize| chunk * e.c_out + rows.start..chunk * e.c_out + rows.end;
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
                later: later.map(|later| later.part(part(chunk), chunks * e.c_out)),
            };
            // SAFETY: the assertions above.
            unsafe { correlations::<S, G>(rows.len(), correlation, sums) };
        }
    }
}
