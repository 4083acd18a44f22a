//! Weight gradient of wide layers on the CPU, as plain matrix products: the adjoint of [`super::packed`].
//!
//! dŷ of all output channels is laid down once, channels in the lanes. For some input channels at a time F̂ is laid down as the
//! forward pass has it, and the micro-kernel adds `F̂[term] · dŷ[channel]` over locations. No lanes are left to be added up at the
//! end, and no partial gradients of several threads: each has its own input channels. Every element is a sum over all
//! locations in their order, whatever the number of threads and the width of vectors.
//!
//! The sums of two complex products have the form of those of the forward pass, with dŷ where it has ψ̃. So on p4 Gauss's three
//! products do, as there.

use super::{
    Conv, Extents,
    gradient::{ResultGradient, load_padded},
    irrep::{Tap, filter_factors, from_products, psi_of_gradient, transform, weight_offsets},
    layout::{Layout, Windows},
    packed::{Pad, pieces},
    panel::{Correlation, Laid, Product, STRIP, correlate, filter_of_entry, products, step_of_entry},
    tile::{tile_rows, tiles},
};
use crate::{
    Group,
    jobs::{for_each_chunk, map_items, map_items_init},
    simd::{Isa, Simd, Task, WIDEST},
    sweep::lane_sum,
};
use quarterturn_core::HostBuffer;
use std::ops::Range;

/// Locations that are summed in registers: dŷ of a strip of channels there stays in the first-level cache.
const LOCATIONS: usize = 128;
/// Terms that are laid down at a time, at most.
const TERMS: usize = 36;
/// Floats that dŷ of some images may take together.
pub(super) const FLOATS: usize = 8 << 20;
/// Channels that lie side by side in dŷ.
const SIDE_BY_SIDE: usize = STRIP * WIDEST;

/// Whether panels pay: a function of the extents alone, since sums round otherwise than in tiles. Measured:
/// `benches/results/2026-11-27-panels.md`.
pub(super) fn pay(e: &Extents, conv: Conv) -> bool {
    let least = match conv.group {
        Group::C1 => 128,
        // Tiles lose the lanes between short rows.
        Group::C4 if e.out_width <= WIDEST => 32,
        Group::C4 => 64,
        Group::D4 => 45,
    };
    // Few terms are few jobs, and little work for each sample of dŷ that is laid down.
    e.c_out >= least && e.c_in * e.k * e.k >= 4 * TERMS && e.g_in == e.g_out && fit(e, conv)
}

/// Whether planes are small enough to be taken whole.
fn fit(e: &Extents, conv: Conv) -> bool {
    layout(e, conv).bands() == 1
}

fn layout(e: &Extents, conv: Conv) -> Layout {
    Windows::forward(e, conv).layout(1, 1)
}

/// What the jobs share.
struct Plan<const G: usize, const P: usize> {
    e: Extents,
    layout: Layout,
    padded_image: usize,
    /// Channels of the result, rounded up to whole vectors.
    lanes: usize,
    /// For each term the place of every element's sample for location 0.
    offsets: Vec<[usize; G]>,
    products: Vec<Product>,
    /// The locations of an image, in pieces.
    chunks: Vec<Range<usize>>,
}

/// Gradients of weight and bias; that of the bias only where dy is given. dŷ of as many images as take `room` floats is laid
/// down together.
pub(super) fn dw<const G: usize, const P: usize>(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    taps: &[Tap],
    x: &[f32],
    dy: ResultGradient,
    room: usize,
) -> (HostBuffer, HostBuffer) {
    let plan = Plan::<G, P>::new(e, conv, taps);
    let (image_x, image_y) = (e.x().len() / e.batch, e.y().len() / e.batch);
    let left_image = P * plan.lanes * plan.locations();
    let together = (room / left_image).clamp(1, e.batch);
    let mut padded = HostBuffer::zeros(together * plan.padded_image);
    let mut left = HostBuffer::scratch(together * left_image);
    let blocks: Vec<Range<usize>> = tiles(e.c_in, (TERMS / taps.len()).max(1)).collect();
    let sums_of = |block: &Range<usize>| HostBuffer::scratch(block.len() * taps.len() * P * plan.lanes);
    let mut sums: Vec<HostBuffer> = blocks.iter().map(sums_of).collect();
    let mut bias = HostBuffer::zeros(e.c_out);
    let mut source = Source::new(dy, together * image_y);
    for first in (0..e.batch).step_by(together) {
        let images = first..e.batch.min(first + together);
        let dy = source.of(images.clone(), image_y);
        let operands = x[images.start * image_x..].chunks_exact(image_x).zip(dy.chunks_exact(image_y));
        let places = padded.chunks_exact_mut(plan.padded_image).zip(left.chunks_exact_mut(left_image));
        map_items(operands.zip(places), 1, |_, ((x, dy), (padded, left))| {
            isa.run(Pad { layout: &plan.layout, source: x, padded });
            isa.run(LayDown { plan: &plan, dy, left });
        });
        // No bias reaches through the norm that dy is made by.
        if let Source::Given(dy) = source {
            for channels in dy[images.start * image_y..images.end * image_y].chunks_exact(image_y) {
                let sums = channels.chunks_exact(image_y / e.c_out).map(lane_sum);
                bias.iter_mut().zip(sums).for_each(|(sum, v)| *sum += v as f32);
            }
        }
        let no_panels = || HostBuffer::scratch(0);
        map_items_init(blocks.iter().zip(&mut sums), 1, no_panels, |panels, _, (block, sums)| {
            if first == 0 {
                sums.fill(0.0);
            }
            let terms = block.start * taps.len()..block.end * taps.len();
            isa.run(Block { plan: &plan, images: images.len(), terms, padded: &padded, left: &left, panels, sums });
        });
    }
    let mut dweight = HostBuffer::scratch(e.weight().len());
    let offsets = weight_offsets::<G>(e, conv.group, taps);
    for_each_chunk(&mut dweight, WIDEST * e.c_in * e.g_in * e.k * e.k, 1, &|i, dweight| {
        let blocks = blocks.iter().cloned().zip(sums.iter().map(|sums| &**sums));
        isa.run(Spread { plan: &plan, taps, offsets: &offsets, blocks, first: i * WIDEST, dweight });
    });
    (dweight, bias)
}

/// Where the gradient of some images' results comes from.
enum Source<'a> {
    Given(&'a [f32]),
    /// Made, and kept for all images.
    Kept(&'a (dyn Fn(usize, &mut [f32]) + Sync), &'a mut [f32]),
    /// Made, and kept until the next ones.
    Made(&'a (dyn Fn(usize, &mut [f32]) + Sync), HostBuffer),
}

impl<'a> Source<'a> {
    fn new(dy: ResultGradient<'a>, room: usize) -> Self {
        match dy {
            ResultGradient::Given(dy) => Source::Given(dy),
            ResultGradient::Made { image, kept: Some(kept), .. } => Source::Kept(image, kept),
            ResultGradient::Made { image, kept: None, .. } => Source::Made(image, HostBuffer::scratch(room)),
        }
    }

    /// That of some images, each of `len` floats.
    fn of(&mut self, images: Range<usize>, len: usize) -> &[f32] {
        let of_images = images.start * len..images.end * len;
        let (make, made) = match self {
            Source::Given(dy) => return &dy[of_images],
            Source::Kept(make, kept) => (make, &mut kept[of_images]),
            Source::Made(make, made) => (make, &mut made[..of_images.len()]),
        };
        for_each_chunk(made, len, 1, &|i, dy| make(images.start + i, dy));
        made
    }
}

impl<const G: usize, const P: usize> Plan<G, P> {
    fn new(e: &Extents, conv: Conv, taps: &[Tap]) -> Self {
        let layout = layout(e, conv);
        let place = |c: usize, tap: &Tap, h: usize| {
            let (row, col) = Group::move_entry(h, tap.row, tap.col, e.k, e.k);
            (c * e.g_in + h % e.g_in) * layout.plane() + layout.sample(conv.dilation * row, conv.dilation * col)
        };
        let terms = (0..e.c_in).flat_map(|c| taps.iter().map(move |tap| (c, tap)));
        Plan {
            e: *e,
            layout,
            padded_image: e.c_in * e.g_in * layout.plane() + layout.locations(e.out_height) + WIDEST,
            lanes: e.c_out.next_multiple_of(WIDEST),
            offsets: terms.map(|(c, tap)| std::array::from_fn(|h| place(c, tap, h))).collect(),
            products: products::<G, P>(),
            chunks: tiles(e.out_height * e.out_width, LOCATIONS).collect(),
        }
    }

    /// Of an image.
    fn locations(&self) -> usize {
        self.e.out_height * self.e.out_width
    }

    /// The strip of channels from `first` on: how many there are, and where dŷ of a value of `count` locations has them.
    fn strip(&self, first: usize, count: usize) -> (usize, usize) {
        (SIDE_BY_SIDE.min(self.lanes - first), first * count)
    }
}

/// Lays down dŷ of an image: for each chunk and value, strips of channels, each `[location][channel]`.
struct LayDown<'a, const G: usize, const P: usize> {
    plan: &'a Plan<G, P>,
    dy: &'a [f32],
    left: &'a mut [f32],
}

impl<const G: usize, const P: usize> Task for LayDown<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let LayDown { plan, dy, left } = self;
        let (locations, channels) = (plan.locations(), plan.e.c_out);
        assert!(dy.len() == channels * G * locations && left.len() >= P * plan.lanes * locations);
        // A vector's worth of channels at a time, so that the lines of the result that they share stay in a cache.
        for first in (0..channels).step_by(WIDEST) {
            for chunk in &plan.chunks {
                let left = &mut left[chunk.start * P * plan.lanes..][..chunk.len() * P * plan.lanes];
                let (width, strip) = plan.strip(first - first % SIDE_BY_SIDE, chunk.len());
                for at in (0..chunk.len()).step_by(S::LANES) {
                    let lanes = 0..S::LANES.min(chunk.len() - at);
                    for o in first..channels.min(first + WIDEST) {
                        let mut samples = [S::splat(0.0); G];
                        for g in 0..G {
                            samples[g] = load_padded::<S>(&dy[(o * G + g) * locations + chunk.start + at..]);
                        }
                        let factors = filter_factors::<S, G, P>(transform::<S, G>(samples));
                        for p in 0..P {
                            let to = &mut left[p * chunk.len() * plan.lanes + strip + at * width + o % SIDE_BY_SIDE..];
                            debug_assert!(to.len() > (lanes.len() - 1) * width);
                            // SAFETY: the last location is one of the chunk's, and a strip has `width` channels.
                            unsafe { S::store_apart(factors[p], lanes.clone(), to.as_mut_ptr(), width) };
                        }
                    }
                }
            }
        }
    }
}

/// Adds what some images contribute to the gradients of some terms: `[step][channel]`.
struct Block<'a, const G: usize, const P: usize> {
    plan: &'a Plan<G, P>,
    images: usize,
    terms: Range<usize>,
    padded: &'a [f32],
    left: &'a [f32],
    panels: &'a mut HostBuffer,
    sums: &'a mut [f32],
}

impl<const G: usize, const P: usize> Task for Block<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Block { plan, images, terms, padded, left, panels, sums } = self;
        let (count, lanes) = (terms.len(), plan.lanes);
        let len = Laid::<G, P>::ENTRIES * count * LOCATIONS;
        if panels.len() < len {
            *panels = HostBuffer::scratch(len);
        }
        let left_image = plan.chunks.last().map_or(0, |chunk| chunk.end) * P * lanes;
        for image in 0..images {
            let padded = &padded[image * plan.padded_image..][..plan.padded_image];
            for chunk in &plan.chunks {
                S::run(Pack { plan, terms: terms.clone(), padded, chunk: chunk.clone(), panels });
                let left = &left[image * left_image + chunk.start * P * lanes..][..chunk.len() * P * lanes];
                for product in &plan.products {
                    let left = &left[product.sum * chunk.len() * lanes..][..chunk.len() * lanes];
                    let rows = product.steps * count;
                    for first in (0..lanes).step_by(SIDE_BY_SIDE) {
                        let (width, strip) = plan.strip(first, chunk.len());
                        let left = &left[strip..][..chunk.len() * width];
                        for tile in tiles(rows, tile_rows::<1>(S::REGISTERS)) {
                            let panel = &panels[(product.panel * count + tile.start) * LOCATIONS..];
                            let sums = &mut sums[(product.matrix * count + tile.start) * lanes + first..];
                            // Narrower vectors take a strip in several parts.
                            for part in (0..width).step_by(STRIP * S::LANES) {
                                let vectors = STRIP.min((width - part) / S::LANES);
                                let (left, sums) = (&left[part..], &mut sums[part..]);
                                let operands = Correlation {
                                    locations: chunk.len(),
                                    panel,
                                    row: LOCATIONS,
                                    left,
                                    strip: width,
                                    sums,
                                    lanes,
                                };
                                correlate::<S>(tile.len(), vectors, operands);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Lays down F̂ of some terms: `[step][location]`.
struct Pack<'a, const G: usize, const P: usize> {
    plan: &'a Plan<G, P>,
    terms: Range<usize>,
    padded: &'a [f32],
    chunk: Range<usize>,
    panels: &'a mut [f32],
}

impl<const G: usize, const P: usize> Task for Pack<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Pack { plan, terms, padded, chunk, panels } = self;
        let offsets = &plan.offsets[terms];
        let (rows, cols, pitch) = (plan.e.out_height, plan.e.out_width, plan.layout.pitch());
        let reach = offsets.iter().flatten().max().expect("some terms") + (rows - 1) * pitch + cols;
        assert!(reach + WIDEST <= padded.len() + 1 && chunk.end <= rows * cols);
        for at in (0..chunk.len()).step_by(S::LANES) {
            let mut laid = Laid::<G, P>::default();
            for (lanes, row, place) in pieces(chunk.start + at, S::LANES, cols, rows) {
                laid.add(row * pitch + place, lanes);
            }
            // SAFETY: no piece begins behind the last location, and a vector behind that is in `padded`, as asserted above.
            unsafe { laid.lay_down::<S>(offsets, padded, &mut panels[at..], LOCATIONS) };
        }
    }
}

/// Spreads the sums over the weight of the vector of output channels from `first` on.
struct Spread<'a, B, const G: usize, const P: usize> {
    plan: &'a Plan<G, P>,
    taps: &'a [Tap],
    /// `[tap][d]`, in the weight of one pair of channels.
    offsets: &'a [[usize; G]],
    /// The input channels of each block, and its sums, `[step][channel]`.
    blocks: B,
    first: usize,
    dweight: &'a mut [f32],
}

impl<'a, B: Iterator<Item = (Range<usize>, &'a [f32])>, const G: usize, const P: usize> Task for Spread<'_, B, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Spread { plan: Plan { e, lanes, .. }, taps, offsets, blocks, first, dweight } = self;
        let pair = e.g_in * e.k * e.k;
        dweight.fill(0.0);
        for (block, sums) in blocks {
            let terms = block.len() * taps.len();
            for (term, c) in (0..terms).map(|term| (term, block.start + term / taps.len())) {
                let tap = term % taps.len();
                for (i, dweight) in dweight.chunks_mut(S::LANES * e.c_in * pair).enumerate() {
                    let mut products = [S::splat(0.0); P];
                    for entry in 0..P {
                        let step = step_of_entry::<G, P>(entry, term, terms);
                        let from = &sums[step * lanes + first + i * S::LANES..][..S::LANES];
                        // SAFETY: as many as a vector has lanes.
                        products[filter_of_entry::<G>(entry)] = unsafe { S::load(from.as_ptr()) };
                    }
                    let filters = from_products::<S, G, P>(products);
                    let psi = psi_of_gradient::<S, G>(filters, &taps[tap]);
                    for d in 0..G {
                        let mut all = [0.0; WIDEST];
                        // SAFETY: no vector has more lanes.
                        unsafe { S::store(all.as_mut_ptr(), psi[d]) };
                        let rows = dweight[c * pair + offsets[tap][d]..].iter_mut().step_by(e.c_in * pair);
                        rows.zip(all).for_each(|(weight, v)| *weight += v);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group_conv::{
        irrep::{self, GAUSS},
        tests::{CASES, Case, close, expected, operands},
    };
    use quarterturn_core::{Device, Tensor};

    /// Several chunks of locations, and strips of channels.
    const MORE: [Case; 3] = [
        (Group::C1, false, 3, 2, 49, 13, 11, 3, 1, 1, 1),
        (Group::C4, false, 3, 5, 33, 12, 11, 3, 1, 1, 1),
        (Group::D4, false, 2, 2, 17, 12, 12, 3, 1, 1, 1),
    ];

    fn in_panels(e: &Extents, conv: Conv, isa: Isa, x: &[f32], dy: ResultGradient, room: usize) -> [HostBuffer; 2] {
        let taps = irrep::taps(e, conv.group);
        let (dweight, bias) = match conv.group {
            Group::C1 => dw::<1, 1>(e, conv, isa, &taps, x, dy, room),
            Group::C4 => dw::<4, GAUSS>(e, conv, isa, &taps, x, dy, room),
            Group::D4 => dw::<8, 8>(e, conv, isa, &taps, x, dy, room),
        };
        [dweight, bias]
    }

    /// Whether they pay or not.
    #[test]
    fn panels_agree_with_the_reference_and_nothing_but_the_shape_shows_in_a_bit() {
        for &case in CASES.iter().chain(&MORE) {
            let (x, weight, _, conv) = operands(case, &Device::Cpu);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            if !fit(&e, conv) {
                continue;
            }
            let [_, dy, _, dw, db] = expected(case);
            let dy = dy.to_device(&Device::Cpu).unwrap();
            let (x, dy) = (x.f32s(), dy.f32s());
            let image = |n: usize, made: &mut [f32]| made.copy_from_slice(&dy[n * made.len()..][..made.len()]);
            let mut fused: Option<HostBuffer> = None;
            for &isa in Isa::available() {
                let name = format!("{case:?} {isa}");
                let [got, bias] = in_panels(&e, conv, isa, x, ResultGradient::Given(dy), FLOATS);
                for (threads, room) in [(1, 1), (3, 1), (3, FLOATS)] {
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    let again = pool.install(|| in_panels(&e, conv, isa, x, ResultGradient::Given(dy), room));
                    assert!(again[0][..] == got[..] && again[1][..] == bias[..], "{name}, {threads} threads, {room}");
                    let mut kept = vec![f32::NAN; dy.len()];
                    let made = |kept| ResultGradient::Made { image: &image, reads: [&[]; 3], kept };
                    for made in [made(Some(&mut kept[..])), made(None)] {
                        assert!(in_panels(&e, conv, isa, x, made, room)[0][..] == got[..], "{name}: made, {room}");
                    }
                    assert!(kept == dy, "{name}: kept, {room}");
                }
                if isa != Isa::Portable {
                    let fused = fused.get_or_insert_with(|| got.clone());
                    assert!(got[..] == fused[..], "{name}: the width of vectors shows");
                }
                close(&format!("dw {name}"), &Tensor::cpu(e.weight(), got), &dw, 2e-6);
                close(&format!("db {name}"), &Tensor::cpu([e.c_out], bias), &db, 2e-6);
            }
        }
    }

    #[test]
    fn cases_of_every_group_take_panels() {
        let takes = |&case: &Case| {
            let (x, weight, _, conv) = operands(case, &Device::Cpu);
            pay(&Extents::new("test", x.shape(), weight.shape(), conv), conv).then_some(conv.group)
        };
        let taking: Vec<Group> = CASES.iter().filter_map(takes).collect();
        assert!([Group::C1, Group::C4, Group::D4].iter().all(|group| taking.contains(group)), "only {taking:?}");
    }
}
