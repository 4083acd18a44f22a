//! Forward and input gradient of wide layers on the CPU: panels of transformed samples, and plain matrix products.
//!
//! A tile of [`super::tile`] transforms the samples that it reads once more for every few output channels. Here the
//! samples of some terms (input channel, tap) are transformed once for all output channels, into *panels*
//! ([`super::panel`]). The locations of all images stand in a row, so no lane is lost between two rows of an image. Each
//! sum runs over the same terms in the same order as a tile's, so the results are the same in every bit.

use super::{
    Conv, Extents,
    irrep::{Tap, filters},
    layout::{Layout, Windows},
    panel::{Laid, Multiplication, Product, STRIP, filter_of_entry, multiply, products, step_of_entry},
    pass::{Finish, Pass, Shared, share_out, shares},
    tile::{finished, tile_rows, tiles},
};
use crate::{
    Group,
    jobs::{for_each_chunk, map_items},
    simd::{Isa, Simd, Task, WIDEST},
};
use quarterturn_core::HostBuffer;
use std::ops::Range;

/// How much is laid down at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packing {
    /// Terms of a panel, at most.
    pub terms: usize,
    /// Vectors of [`WIDEST`] locations that a job makes, at most.
    pub vectors: usize,
    /// Floats that the padded copies of some images may take together.
    pub padded: usize,
}

impl Packing {
    /// What pays for sums of `terms` terms in `rows` channels; `None` where laying down costs more than tiles lose. Measured:
    /// `benches/results/2026-11-27-panels.md`, and for 7 channels of p4m `2026-11-27-cpu.md`.
    pub(super) fn of(group: Group, exact: bool, rows: usize, terms: usize) -> Option<Self> {
        let least = match (group, exact) {
            (Group::C1, _) => 64,
            (Group::C4, true) => 32,
            (Group::C4, false) => 16,
            // Seven for predictions of one image. In training such layers take as long in tiles.
            (Group::D4, true) => 7,
            (Group::D4, false) => 12,
        };
        // Of few terms, starting and ending the sums costs too much. Panels of this size stay in the second-level cache.
        (rows >= least && terms >= 36).then_some(Packing { terms: 144, vectors: 4, padded: 4 << 20 })
    }
}

/// What the jobs of a pass share.
pub(super) struct InPanels<const G: usize, const P: usize> {
    pass: Pass,
    isa: Isa,
    /// Threads that share the work.
    shares: usize,
    packing: Packing,
    layout: Layout,
    /// From one image's padded planes to the next one's.
    padded_image: usize,
    products: Vec<Product>,
    phases: Vec<Phase<G>>,
}

/// The results at (row, col) modulo `step`.
struct Phase<const G: usize> {
    row: usize,
    col: usize,
    /// Results of an image, in each plane.
    rows: usize,
    cols: usize,
    /// For each term, the place of every element's sample for location 0.
    offsets: Vec<[usize; G]>,
    /// ψ̃, tile by tile `[step][row]`: [`step_of_entry`] says which step an entry is.
    matrices: HostBuffer,
}

impl<const G: usize> Phase<G> {
    fn locations(&self, images: usize) -> usize {
        images * self.rows * self.cols
    }
}

impl Pass {
    /// The layout of planes that are packed, if they are small enough to be taken whole.
    pub(super) fn packed_layout(&self) -> Option<Layout> {
        Some(self.windows.layout(1, 1)).filter(|layout| layout.bands() == 1)
    }

    /// [`Phase::matrices`].
    fn matrices<const G: usize, const P: usize>(
        &self,
        e: &Extents,
        group: Group,
        isa: Isa,
        weight: &[f32],
        taps: &[Tap],
    ) -> HostBuffer {
        let terms = self.cols * taps.len();
        let mut matrices = HostBuffer::scratch(self.rows * terms * P);
        let mut rest = &mut matrices[..];
        let mut jobs = Vec::new();
        for rows in tiles(self.rows, tile_rows::<1>(isa.registers())) {
            let (tile, after) = rest.split_at_mut(rows.len() * terms * P);
            jobs.push((rows, tile));
            rest = after;
        }
        map_items(jobs.into_iter(), 1, |_, (rows, tile)| {
            let count = rows.len();
            filters::<G, P>(e, group, self.filter, weight, taps, rows, |term, row, factors| {
                for entry in 0..P {
                    let step = step_of_entry::<G, P>(entry, term, terms);
                    tile[step * count + row] = factors[filter_of_entry::<G>(entry)];
                }
            });
        });
        matrices
    }
}

impl<const G: usize, const P: usize> InPanels<G, P> {
    pub(super) fn new(
        pass: Pass,
        packing: Packing,
        layout: Layout,
        e: &Extents,
        conv: Conv,
        isa: Isa,
        weight: &[f32],
    ) -> Self {
        let (step, group) = (pass.windows.step, conv.group);
        let zeros = pass.cols * pass.planes * layout.plane();
        let phases = (0..step * step).map(|i| {
            let (row, col) = (i / step, i % step);
            let (_, rows, cols) = pass.windows.extent_of((row, col), &layout.band(0));
            let (taps, offsets) = pass.terms::<G>(e, group, &layout, zeros, (row, col));
            let matrices = pass.matrices::<G, P>(e, group, isa, weight, &taps);
            Phase { row, col, rows, cols, offsets, matrices }
        });
        let phases = phases.filter(|phase| phase.locations(1) > 0).collect();
        let padded_image = zeros + layout.locations(layout.band(0).len()) + WIDEST;
        let (shares, products) = (shares(e, conv), products::<G, P>());
        InPanels { pass, isa, shares, packing, layout, padded_image, products, phases }
    }

    /// The results for the images `source`, each image's finished by `finish`.
    pub(super) fn over_images(&self, source: &[f32], finish: &dyn Finish) -> HostBuffer {
        let &InPanels { ref pass, isa, shares, packing, ref layout, padded_image, .. } = self;
        let Windows { source: extents, result, .. } = pass.windows;
        let image = pass.cols * pass.planes * extents.0 * extents.1;
        let result = pass.rows * G * result.0 * result.1;
        let batch = source.len() / image;
        let mut y = HostBuffer::scratch(batch * result);
        let shared = Shared(y.as_mut_ptr());
        let together = (packing.padded / padded_image).clamp(1, batch);
        let mut padded = HostBuffer::scratch(together * padded_image);
        for first in (0..batch).step_by(together) {
            let images = together.min(batch - first);
            let source = &source[first * image..];
            let pad = |i: usize, padded: &mut [f32]| {
                // Zeros that are there stay there.
                if first == 0 {
                    padded.fill(0.0);
                }
                isa.run(Pad { layout, source: &source[i * image..][..image], padded });
            };
            // One job for all of them is one for the calling thread.
            let least = if shares == 1 { images } else { 1 };
            for_each_chunk(&mut padded[..images * padded_image], padded_image, least, &pad);
            // SAFETY: these images lie apart from others.
            let y = unsafe { shared.add(first * result) };
            let jobs = self.jobs(images);
            share_out(shares, jobs.len(), 1, &|run| {
                let mut scratch = Scratch::default();
                for (phase, vectors) in &jobs[run] {
                    let (vectors, scratch) = (vectors.clone(), &mut scratch);
                    isa.run(Job { plan: self, phase, images, vectors, padded: &padded, scratch, y });
                }
            });
        }
        // One job for all of them is one for the calling thread.
        for_each_chunk(&mut y, result, if shares == 1 { batch } else { 1 }, &|n, y| finish.image(n, y));
        y
    }

    /// For each job a phase and the vectors of [`WIDEST`] locations that it makes there.
    fn jobs(&self, images: usize) -> Vec<(&Phase<G>, Range<usize>)> {
        let of_phase = |phase: &Phase<G>| {
            let vectors = phase.locations(images).div_ceil(WIDEST);
            tiles(vectors, self.packing.vectors.min(vectors.div_ceil(self.shares)))
        };
        self.phases.iter().flat_map(|phase| of_phase(phase).map(move |vectors| (phase, vectors))).collect()
    }
}

pub(super) struct Pad<'a> {
    pub layout: &'a Layout,
    pub source: &'a [f32],
    pub padded: &'a mut [f32],
}

impl Task for Pad<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        self.layout.pad(self.source, self.layout.band(0), self.padded);
    }
}

/// What a job needs besides its operands; it is kept for the next one.
#[derive(Default)]
pub(super) struct Scratch {
    pub panels: Option<HostBuffer>,
    pub sums: Option<HostBuffer>,
}

/// The first `len` floats of a buffer, which is made if it is not there or too short.
pub(super) fn room(buffer: &mut Option<HostBuffer>, len: usize) -> &mut [f32] {
    if buffer.as_ref().is_none_or(|buffer| buffer.len() < len) {
        *buffer = Some(HostBuffer::scratch(len));
    }
    &mut buffer.as_mut().expect("just made")[..len]
}

/// Results of some vectors of locations in one phase.
struct Job<'a, const G: usize, const P: usize> {
    plan: &'a InPanels<G, P>,
    phase: &'a Phase<G>,
    images: usize,
    /// Of [`WIDEST`] locations.
    vectors: Range<usize>,
    padded: &'a [f32],
    scratch: &'a mut Scratch,
    /// The first image's results.
    y: Shared,
}

impl<const G: usize, const P: usize> Task for Job<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Job { plan, phase, images, vectors, padded, scratch, y } = self;
        let rows = plan.pass.rows;
        let (start, end) = (vectors.start * WIDEST, phase.locations(images).min(vectors.end * WIDEST));
        // Vectors of this instruction set, a strip of them at a time.
        let count = (end - start).div_ceil(S::LANES);
        let strips = || (0..count).step_by(STRIP).map(|first| (first, STRIP.min(count - first)));
        let terms = phase.offsets.len();
        let most = plan.packing.terms.min(terms).max(1);
        // Floats for each vector.
        let (panel, sum) = (most * Laid::<G, P>::ENTRIES * S::LANES, rows * P * S::LANES);
        let panels = room(&mut scratch.panels, count * panel);
        let sums = room(&mut scratch.sums, count * sum);
        if terms == 0 {
            sums.fill(0.0);
        }
        for first in (0..terms).step_by(most) {
            let some = first..terms.min(first + most);
            for (vector, width) in strips() {
                let panels = &mut panels[vector * panel..][..width * panel];
                let at = start + vector * S::LANES;
                S::run(Pack::<G, P> { plan, phase, images, terms: some.clone(), padded, at, width, panels });
            }
            for product in &plan.products {
                let steps = product.steps * some.len();
                for (vector, width) in strips() {
                    let lanes = width * S::LANES;
                    let panel = &panels[vector * panel + product.panel * some.len() * lanes..][..steps * lanes];
                    let mut tile_start = 0;
                    for tile in tiles(rows, tile_rows::<1>(S::REGISTERS)) {
                        let matrix = product.matrix * terms + product.steps * some.start;
                        let matrix = &phase.matrices[tile_start + matrix * tile.len()..][..steps * tile.len()];
                        tile_start += terms * P * tile.len();
                        let sums = &mut sums[vector * sum + (product.sum * rows + tile.start) * lanes..];
                        let (rows, begin) = (tile.len(), some.start == 0);
                        multiply::<S>(
                            rows,
                            width,
                            Multiplication { panel, matrix, sums: &mut sums[..rows * lanes], begin },
                        );
                    }
                }
            }
        }
        for (vector, width) in strips() {
            let (sums, at) = (&sums[vector * sum..][..width * sum], start + vector * S::LANES);
            S::run(Store::<G, P> { plan, phase, images, at, width, sums, y });
        }
    }
}

/// Of `runs` runs of locations in a row, each of `run`, those that the `lanes` lanes from `at` on have: lanes, number of the
/// run, first location in it.
#[inline(always)]
pub(super) fn pieces(
    at: usize,
    lanes: usize,
    run: usize,
    runs: usize,
) -> impl Iterator<Item = (Range<usize>, usize, usize)> {
    let (mut index, mut place, mut lane) = (at / run, at % run, 0);
    std::iter::from_fn(move || {
        if lane >= lanes || index >= runs {
            return None;
        }
        let piece = (lane..lanes.min(lane + run - place), index, place);
        (lane, index, place) = (piece.0.end, index + 1, 0);
        Some(piece)
    })
}

/// Lays down some terms of a strip of `width` vectors of locations, from `at` on.
struct Pack<'a, const G: usize, const P: usize> {
    plan: &'a InPanels<G, P>,
    phase: &'a Phase<G>,
    images: usize,
    terms: Range<usize>,
    padded: &'a [f32],
    at: usize,
    width: usize,
    panels: &'a mut [f32],
}

impl<const G: usize, const P: usize> Task for Pack<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Pack { plan, phase, images, terms, padded, at, width, panels } = self;
        let offsets = &phase.offsets[terms];
        let pitch = plan.layout.pitch();
        let reach = offsets.iter().flatten().max().expect("some terms") + (phase.rows - 1) * pitch + phase.cols;
        assert!(reach + WIDEST <= plan.padded_image + 1 && images * plan.padded_image <= padded.len());
        for v in 0..width {
            let mut laid = Laid::<G, P>::default();
            for (lanes, run, place) in pieces(at + v * S::LANES, S::LANES, phase.cols, images * phase.rows) {
                let (image, row) = (run / phase.rows, run % phase.rows);
                laid.add(image * plan.padded_image + row * pitch + place, lanes);
            }
            // SAFETY: no piece begins behind the last location of the last image, and a vector behind that is in `padded`,
            // as asserted above.
            unsafe { laid.lay_down::<S>(offsets, padded, &mut panels[v * S::LANES..], width * S::LANES) };
        }
    }
}

/// Makes results of the sums of a strip, and stores each piece to its place.
struct Store<'a, const G: usize, const P: usize> {
    plan: &'a InPanels<G, P>,
    phase: &'a Phase<G>,
    images: usize,
    at: usize,
    width: usize,
    /// `[sum][row][lane]`.
    sums: &'a [f32],
    y: Shared,
}

impl<const G: usize, const P: usize> Task for Store<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Store { plan: InPanels { pass, .. }, phase, images, at, width, sums, y } = self;
        let (lanes, rows, step) = (width * S::LANES, pass.rows, pass.windows.step);
        assert!(sums.len() >= P * rows * lanes && pass.epilogue.scale_shift.len() == rows);
        let (height, row_len) = pass.windows.result;
        // Where no other phase has rows between, whole planes are runs.
        let (run, runs_of_image) = match step {
            1 => (phase.rows * phase.cols, 1),
            _ => (phase.cols, phase.rows),
        };
        for v in 0..width {
            for (m, &scale_shift) in pass.epilogue.scale_shift.iter().enumerate() {
                let mut products = [S::splat(0.0); P];
                for (p, product) in products.iter_mut().enumerate() {
                    // SAFETY: asserted above.
                    *product = unsafe { S::load(sums.as_ptr().add((p * rows + m) * lanes + v * S::LANES)) };
                }
                let results = finished::<S, G, P>(products, scale_shift, pass.epilogue.relu);
                for (lanes, run, place) in pieces(at + v * S::LANES, S::LANES, run, images * runs_of_image) {
                    let (image, row) = (run / runs_of_image, run % runs_of_image);
                    for g in 0..G {
                        let plane = ((image * rows + m) * G + g) * height;
                        let to = (plane + phase.row + step * row) * row_len + phase.col + step * place;
                        // SAFETY: results of these images, which no other job makes.
                        unsafe {
                            match step {
                                1 => S::store_lanes(results[g], lanes.clone(), y.add(to).0),
                                _ => S::store_apart(results[g], lanes.clone(), y.add(to).0, step),
                            }
                        }
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
        pass::{Epilogue, Nothing, Plan, Way},
        tests::{CASES, Case, operands, random},
    };
    use quarterturn_core::Device;

    /// Batches that end within a vector, and rows of more than one and of less than half a vector.
    const MORE: [Case; 4] = [
        (Group::C1, false, 3, 4, 13, 7, 7, 3, 1, 1, 1),
        (Group::C4, false, 5, 3, 7, 3, 3, 3, 1, 1, 1),
        (Group::C4, false, 3, 3, 14, 7, 19, 3, 2, 1, 1),
        (Group::D4, false, 3, 3, 25, 2, 37, 3, 1, 1, 1),
    ];

    #[test]
    fn panels_give_the_bits_of_tiles() {
        for &case in CASES.iter().chain(&MORE) {
            let (x, weight, bias, conv) = operands(case, &Device::Cpu);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            let dy = random(e.y(), 4, &Device::Cpu);
            for (&isa, exact) in Isa::available().iter().flat_map(|isa| [(isa, true), (isa, false)]) {
                let run = |way: Way| {
                    let epilogue = |channels| Epilogue {
                        scale_shift: (0..channels).map(|c| (1.5, bias.f32s().get(c).copied().unwrap_or(0.5))).collect(),
                        relu: exact,
                    };
                    let mut pass = Pass::forward(&e, conv, exact, epilogue(e.c_out));
                    pass.way = way;
                    let mut all = vec![Plan::new(pass, &e, conv, isa, weight.f32s()).over(x.f32s(), &Nothing)];
                    if e.g_in == e.g_out {
                        let mut pass = Pass::adjoint(&e, conv, false, epilogue(e.c_in));
                        pass.way = way;
                        all.push(Plan::new(pass, &e, conv, isa, weight.f32s()).over(dy.f32s(), &Nothing));
                    }
                    all
                };
                let tiles = run(Way::Tiles);
                for (terms, vectors, padded) in [(1, 1, 1), (7, 3, 4096), (144, 4, 1 << 20), (10_000, 100, 1 << 20)] {
                    for (panels, tiles) in run(Way::Panels(Packing { terms, vectors, padded })).iter().zip(&tiles) {
                        let equal = panels.iter().zip(tiles.iter()).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(equal && panels.len() == tiles.len(), "{case:?} {isa} {terms} {vectors} {exact}");
                    }
                }
            }
        }
    }
}
