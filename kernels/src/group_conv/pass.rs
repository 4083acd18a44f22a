//! Forward and input gradient on the CPU: per band of output rows, pad; per tile of channels, sum in the irrep domain.

use super::{
    Conv, Extents,
    irrep::{Filter, GAUSS, Tap, filters, taps},
    layout::{Layout, Windows},
    packed::{InPanels, Packing},
    tile::{Later, Results, Sums, sums, tile_rows, tile_vectors, tiles},
    winograd::InSquares,
};
use crate::{
    Group,
    jobs::{for_each_chunk, for_each_run, map_items},
    simd::{Isa, Simd, Task, WIDEST},
};
use quarterturn_core::HostBuffer;
use std::{ops::Range, sync::OnceLock};

/// Shares of the images or bands that each thread gets, so that one that is late leaves some to the others.
const SHARES: usize = 8;
/// Fewer multiplications than these are done by the calling thread alone: to wake another would take as long. (The shapes of
/// this crate's tests are small, and are to be shared out too.)
const ALONE: usize = if cfg!(test) { 1 << 12 } else { 1 << 20 };
/// As [`ALONE`], called from a thread that is not one of rayon's: it would be put to sleep, and woken at the end.
const ALONE_OUTSIDE: usize = if cfg!(test) { 1 << 12 } else { 1 << 24 };

/// Among how many threads the work is shared out.
pub(super) fn shares(e: &Extents, conv: Conv) -> usize {
    let of_pixel = e.c_in * e.c_out * conv.products(e.g_in, e.k)[1];
    let alone = if rayon::current_thread_index().is_some() { ALONE } else { ALONE_OUTSIDE };
    match e.batch * e.out_height * e.out_width * of_pixel {
        few if few < alone => 1,
        _ => rayon::current_num_threads(),
    }
}

/// Calls `job` with runs of `0..count`, each of `least` or more, on as many threads as [`shares`] says.
pub(super) fn share_out(shares: usize, count: usize, least: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
    match shares {
        1 => job(0..count),
        _ => for_each_run(count, least, job),
    }
}

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
}

/// `y = epilogue(weight ⋆ x)` of any batch of images, of a turned `x` the same bits, turned.
pub(super) fn forward_plan(e: &Extents, conv: Conv, isa: Isa, weight: &[f32], epilogue: Epilogue) -> Plan {
    Plan::new(Pass::forward(e, conv, true, epilogue), e, conv, isa, weight)
}

/// What [`forward_plan`] says, of `x`.
pub(super) fn forward(e: &Extents, conv: Conv, isa: Isa, x: &[f32], weight: &[f32], epilogue: Epilogue) -> HostBuffer {
    forward_plan(e, conv, isa, weight, epilogue).over(x, &Nothing)
}

/// As [`forward`], up to rounding, in the fewest products; each image's results are finished by `finish`.
pub(super) fn forward_then(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    epilogue: Epilogue,
    finish: &dyn Finish,
) -> HostBuffer {
    Plan::new(Pass::forward(e, conv, false, epilogue), e, conv, isa, weight).over(x, finish)
}

/// Gradient of the input of a plain or group convolution: the same sum with the adjoint filter over `dy`, its samples
/// spread out by the stride; in the fewest products. Each image of it is finished by `finish`.
pub(super) fn dx_then(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    dy: &[f32],
    weight: &[f32],
    finish: &dyn Finish,
) -> HostBuffer {
    let pass = Pass::adjoint(e, conv, false, Epilogue::bias(e.c_in, None));
    Plan::new(pass, e, conv, isa, weight).over(dy, finish)
}

/// A transposed convolution. `e` describes the convolution whose adjoint it is. The sum is that of [`dx_then`], in an order that
/// keeps every bit when `x` is turned.
pub(super) fn transposed(
    e: &Extents,
    conv: Conv,
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    epilogue: Epilogue,
) -> HostBuffer {
    Plan::new(Pass::adjoint(e, conv, true, epilogue), e, conv, isa, weight).over(x, &Nothing)
}

/// What else is to be made of each image's results, while they are in a cache. (Not a type parameter of plans, which would all
/// be compiled again for each.)
pub(super) trait Finish: Sync {
    /// Makes and keeps it, of image `n`, whose results are `y`; these may be changed.
    fn image(&self, n: usize, y: &mut [f32]);
    /// What [`Finish::image`] reads besides: it is fetched while sums are made.
    fn reads(&self, n: usize) -> [&[f32]; 3];
}

/// No more than the results.
pub(super) struct Nothing;

impl Finish for Nothing {
    fn image(&self, _: usize, _: &mut [f32]) {}
    fn reads(&self, _: usize) -> [&[f32]; 3] {
        [&[]; 3]
    }
}

/// What `make` makes of each image.
pub(super) struct OfImages<'a, T> {
    make: &'a (dyn Fn(usize, &mut [f32]) -> T + Sync),
    /// What that reads besides, as much of each for every image.
    reads: [&'a [f32]; 3],
    made: Vec<OnceLock<T>>,
}

impl<'a, T> OfImages<'a, T> {
    pub(super) fn new(batch: usize, reads: [&'a [f32]; 3], make: &'a (dyn Fn(usize, &mut [f32]) -> T + Sync)) -> Self {
        OfImages { make, reads, made: (0..batch).map(|_| OnceLock::new()).collect() }
    }

    /// Of the images that a plan went over.
    pub(super) fn into_made(self) -> Vec<T> {
        self.made.into_iter().filter_map(OnceLock::into_inner).collect()
    }
}

impl<T: Send + Sync> Finish for OfImages<'_, T> {
    fn image(&self, n: usize, y: &mut [f32]) {
        // Each image is finished once.
        let _ = self.made[n].set((self.make)(n, y));
    }

    fn reads(&self, n: usize) -> [&[f32]; 3] {
        self.reads.map(|all| {
            let image = all.len() / self.made.len();
            &all[n * image..][..image]
        })
    }
}

/// One convolution, forward or adjoint.
pub(super) struct Pass {
    pub filter: Filter,
    /// Whether a turned source must give the same bits, turned.
    exact: bool,
    pub windows: Windows,
    /// Channels of the result and of the source.
    pub rows: usize,
    pub cols: usize,
    /// Group elements of the source: 1 when lifting.
    pub planes: usize,
    /// Elements of the result that are summed on their own, as plain convolutions: 1 where the irreps do it for all at once.
    apart: usize,
    pub epilogue: Epilogue,
    pub way: Way,
}

/// How the sums of a pass are made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// Tile by tile ([`super::tile`]).
    Tiles,
    /// Of wide layers, in panels ([`super::packed`]), if a padded plane is small enough to be taken whole.
    Panels(Packing),
    /// Of plain 3×3 convolutions, by Winograd's products ([`super::winograd`]).
    Squares,
}

impl Way {
    fn of(e: &Extents, conv: Conv, exact: bool, rows: usize, terms: usize) -> Self {
        match Packing::of(conv.group, exact, rows, terms) {
            _ if InSquares::pays(e, conv) => Way::Squares,
            Some(packing) => Way::Panels(packing),
            None => Way::Tiles,
        }
    }
}

impl Pass {
    pub(super) fn forward(e: &Extents, conv: Conv, exact: bool, epilogue: Epilogue) -> Self {
        Pass {
            filter: Filter::Forward,
            exact,
            windows: Windows::forward(e, conv),
            rows: e.c_out,
            cols: e.c_in,
            planes: e.g_in,
            apart: 1,
            epilogue,
            way: Way::of(e, conv, exact, e.c_out, e.c_in * taps(e, conv.group).len()),
        }
    }

    /// With samples that are spread out, a tap meets some under one element, and zeros under others. The irreps would multiply
    /// those too, up to |G| times as many as there are samples: more than they save. So where turned sources must give the
    /// same bits, each element is summed on its own (where they need not, as in dx, Gauss's products save enough).
    pub(super) fn adjoint(e: &Extents, conv: Conv, exact: bool, epilogue: Epilogue) -> Self {
        let apart = if exact && conv.stride > 1 { e.g_out } else { 1 };
        // On average over the phases.
        let terms = e.c_out * e.k * e.k / (conv.stride * conv.stride);
        Pass {
            filter: Filter::Adjoint,
            exact,
            windows: Windows::adjoint(e, conv),
            rows: e.c_in,
            cols: e.c_out,
            planes: e.g_in,
            apart,
            epilogue,
            way: if apart == 1 { Way::of(e, conv, exact, e.c_in, terms) } else { Way::Tiles },
        }
    }

    /// For the results (row, col) modulo `step`, the taps that meet samples there, not only zeros between them; and for each
    /// term (input channel, tap), the place of every element's sample for location 0.
    pub(super) fn terms<const G: usize>(
        &self,
        e: &Extents,
        group: Group,
        layout: &Layout,
        zeros: usize,
        (row, col): (usize, usize),
    ) -> (Vec<Tap>, Vec<[usize; G]>) {
        let places = |tap: &Tap| -> [Option<usize>; G] {
            std::array::from_fn(|h| {
                let moved = Group::move_entry(h, tap.row, tap.col, e.k, e.k);
                self.windows.place(layout, (row, col), moved)
            })
        };
        let taps: Vec<Tap> = taps(e, group).into_iter().filter(|tap| places(tap).iter().any(Option::is_some)).collect();
        let offset = |c: usize, h: usize, place: Option<usize>| match place {
            Some(place) => (c * self.planes + h % self.planes) * layout.plane() + place,
            None => zeros,
        };
        let offsets = (0..self.cols).flat_map(|c| {
            taps.iter().map(move |tap| {
                let places = places(tap);
                std::array::from_fn(|h| offset(c, h, places[h]))
            })
        });
        let offsets = offsets.collect();
        (taps, offsets)
    }

    /// The results (row, col) modulo `step`.
    fn phase<const G: usize, const P: usize>(
        &self,
        e: &Extents,
        group: Group,
        isa: Isa,
        weight: &[f32],
        layout: &Layout,
        zeros: usize,
        (row, col): (usize, usize),
    ) -> Phase<G> {
        let (taps, offsets) = self.terms::<G>(e, group, layout, zeros, (row, col));
        // The filters of each tile, for the tiles of rows that the micro-kernel takes.
        let inner = offsets.len() * P;
        let mut matrices = HostBuffer::scratch(self.rows * inner);
        let mut rest = &mut matrices[..];
        let mut jobs = Vec::new();
        for rows in tiles(self.rows, tile_rows::<P>(isa.registers())) {
            let (tile, after) = rest.split_at_mut(rows.len() * inner);
            jobs.push((rows, tile));
            rest = after;
        }
        map_items(jobs.into_iter(), 1, |_, (rows, tile)| {
            let count = rows.len();
            filters::<G, P>(e, group, self.filter, weight, &taps, rows, |term, row, factors| {
                tile[(term * count + row) * P..][..P].copy_from_slice(&factors);
            });
        });
        Phase { row, col, element: 0, offsets, filters: matrices }
    }

    /// As [`Pass::phase`], of the element `g` alone, by the formula as it stands. A turned source makes the same sums: terms are
    /// in the order of the filter that is not turned, `d` = g⁻¹h and the tap.
    fn phase_of_element<const G: usize>(
        &self,
        e: &Extents,
        group: Group,
        isa: Isa,
        weight: &[f32],
        layout: &Layout,
        (row, col): (usize, usize),
        g: usize,
    ) -> Phase<G> {
        // Where the sample lies, and the weight in the filter of a pair of channels.
        let term = |c: usize, d: usize, u: usize, v: usize| {
            let h = group.product(g, d);
            let moved = Group::move_entry(h, u, v, e.k, e.k);
            let place = self.windows.place(layout, (row, col), moved)?;
            let at = (group.inverse(d) * e.k + e.k - 1 - u) * e.k + e.k - 1 - v;
            Some((c, [(c * self.planes + h % self.planes) * layout.plane() + place; G], at))
        };
        let taps = (0..e.k).flat_map(|u| (0..e.k).map(move |v| (u, v)));
        let of_channel = taps.flat_map(|(u, v)| (0..self.planes).map(move |d| (d, u, v)));
        let terms: Vec<_> = (0..self.cols)
            .flat_map(|c| of_channel.clone().map(move |(d, u, v)| (c, d, u, v)))
            .filter_map(|(c, d, u, v)| term(c, d, u, v))
            .collect();
        let pair = e.g_in * e.k * e.k;
        let mut filters = HostBuffer::scratch(self.rows * terms.len());
        let mut rest = &mut filters[..];
        for rows in tiles(self.rows, tile_rows::<1>(isa.registers())) {
            let (tile, after) = rest.split_at_mut(rows.len() * terms.len());
            for (tile, &(c, _, at)) in tile.chunks_exact_mut(rows.len()).zip(&terms) {
                for (filter, row) in tile.iter_mut().zip(rows.clone()) {
                    *filter = weight[(c * e.c_in + row) * pair + at];
                }
            }
            rest = after;
        }
        let offsets = terms.into_iter().map(|(_, offset, _)| offset).collect();
        Phase { row, col, element: g, offsets, filters }
    }
}

/// The results at (row, col) modulo `step`.
struct Phase<const G: usize> {
    row: usize,
    col: usize,
    /// The element, if it is summed on its own.
    element: usize,
    /// For each term (input channel, tap), the place of every element's sample for location 0.
    offsets: Vec<[usize; G]>,
    /// Tile by tile `[term][row][filter]`.
    filters: HostBuffer,
}

/// A pass with its filters, for any batch of images of one size: by the group, and the products that a term takes.
pub(super) enum Plan {
    Squares(InSquares),
    Z2(PlanOf<1, 1>),
    P4(PlanOf<4, 4>),
    Gauss(PlanOf<4, GAUSS>),
    P4m(PlanOf<8, 8>),
}

impl Plan {
    pub(super) fn new(pass: Pass, e: &Extents, conv: Conv, isa: Isa, weight: &[f32]) -> Self {
        match (conv.group, pass.exact) {
            _ if matches!(pass.way, Way::Squares) => Plan::Squares(InSquares::new(pass, e, conv, isa, weight)),
            _ if pass.apart > 1 => Plan::Z2(PlanOf::new(pass, e, conv, isa, weight)),
            (Group::C1, _) => Plan::Z2(PlanOf::new(pass, e, conv, isa, weight)),
            (Group::C4, true) => Plan::P4(PlanOf::new(pass, e, conv, isa, weight)),
            (Group::C4, false) => Plan::Gauss(PlanOf::new(pass, e, conv, isa, weight)),
            (Group::D4, _) => Plan::P4m(PlanOf::new(pass, e, conv, isa, weight)),
        }
    }

    /// The results for the images `source`, each image's finished by `finish`.
    pub(super) fn over(&self, source: &[f32], finish: &dyn Finish) -> HostBuffer {
        match self {
            Plan::Squares(plan) => plan.over_images(source, finish),
            Plan::Z2(plan) => plan.over_images(source, finish),
            Plan::P4(plan) => plan.over_images(source, finish),
            Plan::Gauss(plan) => plan.over_images(source, finish),
            Plan::P4m(plan) => plan.over_images(source, finish),
        }
    }
}

/// A plan for a group of order `G`, whose terms take `P` products.
pub(super) enum PlanOf<const G: usize, const P: usize> {
    Tiles(InTiles<G, P>),
    Panels(InPanels<G, P>),
}

impl<const G: usize, const P: usize> PlanOf<G, P> {
    fn new(pass: Pass, e: &Extents, conv: Conv, isa: Isa, weight: &[f32]) -> Self {
        match (pass.way, pass.packed_layout()) {
            (Way::Panels(packing), Some(layout)) => {
                PlanOf::Panels(InPanels::new(pass, packing, layout, e, conv, isa, weight))
            }
            _ => PlanOf::Tiles(InTiles::new(pass, e, conv, isa, weight)),
        }
    }

    fn over_images(&self, source: &[f32], finish: &dyn Finish) -> HostBuffer {
        match self {
            PlanOf::Tiles(plan) => plan.over_images(source, finish),
            PlanOf::Panels(plan) => plan.over_images(source, finish),
        }
    }
}

/// What the bands of a pass share.
pub(super) struct InTiles<const G: usize, const P: usize> {
    pass: Pass,
    isa: Isa,
    /// Threads that share the work.
    shares: usize,
    layout: Layout,
    /// Where zeros lie behind the padded planes.
    zeros: usize,
    phases: Vec<Phase<G>>,
    most_rows: usize,
}

impl<const G: usize, const P: usize> InTiles<G, P> {
    fn new(pass: Pass, e: &Extents, conv: Conv, isa: Isa, weight: &[f32]) -> Self {
        let (shares, group) = (shares(e, conv), conv.group);
        // A batch smaller than the number of threads is shared out by bands.
        let layout = pass.windows.layout(pass.cols * pass.planes, shares.div_ceil(e.batch));
        let zeros = pass.cols * pass.planes * layout.plane();
        let step = pass.windows.step;
        let phases = (0..step * step).map(|i| (i / step, i % step));
        let phases = match pass.apart {
            1 => phases.map(|at| pass.phase::<G, P>(e, group, isa, weight, &layout, zeros, at)).collect(),
            _ => map_items(phases.flat_map(|at| group.elements().map(move |g| (at, g))), 1, |_, (at, g)| {
                pass.phase_of_element::<G>(e, group, isa, weight, &layout, at, g)
            }),
        };
        InTiles { pass, isa, shares, layout, zeros, phases, most_rows: tile_rows::<P>(isa.registers()) }
    }

    fn over_images(&self, source: &[f32], finish: &dyn Finish) -> HostBuffer {
        let InTiles { pass, layout, .. } = self;
        let Windows { source: extents, result, .. } = pass.windows;
        let image = pass.cols * pass.planes * extents.0 * extents.1;
        let result = pass.rows * G * pass.apart * result.0 * result.1;
        let batch = source.len() / image;
        let mut y = HostBuffer::scratch(batch * result);
        let shared = Shared(y.as_mut_ptr());
        // Every split of the jobs begins with a padded copy full of zeros: a few for each thread are enough.
        let jobs = batch * layout.bands();
        let share = jobs.div_ceil(SHARES * self.shares);
        let job = |scratch: &mut Scratch, job: usize| {
            let (n, band) = (job / layout.bands(), job % layout.bands());
            let next = source.get((n + 1) * image..(n + 2) * image).unwrap_or_default();
            let [first, second, third] = finish.reads(n);
            let later = [next, first, second, third].map(Later::from);
            // Large images are not fetched ahead: they do not fit the second cache.
            let later = if layout.bands() == 1 { later } else { Default::default() };
            let source = &source[n * image..][..image];
            // SAFETY: images lie apart, and so do the rows of a band; no job writes elsewhere.
            let y = unsafe { shared.add(n * result) };
            self.isa.run(OneBand::<G, P> { plan: self, source, later, band, scratch, y });
            if layout.bands() == 1 {
                // SAFETY: no other job writes to this image's results.
                finish.image(n, unsafe { std::slice::from_raw_parts_mut(y.0, result) });
            }
        };
        let run = |jobs: Range<usize>| {
            let mut scratch = Scratch::new(self);
            jobs.for_each(|i| job(&mut scratch, i));
        };
        share_out(self.shares, jobs, share, &run);
        if layout.bands() > 1 {
            for_each_chunk(&mut y, result, 1, &|n, y| finish.image(n, y));
        }
        y
    }

    /// Locations that are summed for `rows` rows of the result: whole vectors.
    fn locations(&self, rows: usize, lanes: usize) -> usize {
        self.layout.locations(rows).next_multiple_of(tile_vectors::<G>() * lanes)
    }
}

/// What one band needs besides its operands.
struct Scratch {
    padded: HostBuffer,
    /// The band whose zeros `padded` holds, if any.
    band: Option<usize>,
}

impl Scratch {
    fn new<const G: usize, const P: usize>(plan: &InTiles<G, P>) -> Self {
        let locations = plan.locations(plan.layout.band(0).len(), WIDEST);
        Scratch { padded: HostBuffer::scratch(plan.zeros + locations.max(WIDEST) + 2 * WIDEST), band: None }
    }
}

/// Where the jobs of a pass write, each its own rows.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub *mut f32);

// SAFETY: who writes through the pointer vouches that no two jobs write to one place.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// As [`pointer::add`].
    pub(super) unsafe fn add(self, floats: usize) -> Self {
        // SAFETY: the caller's.
        Shared(unsafe { self.0.add(floats) })
    }
}

struct OneBand<'a, const G: usize, const P: usize> {
    plan: &'a InTiles<G, P>,
    source: &'a [f32],
    /// What is read next.
    later: [Later; 4],
    band: usize,
    scratch: &'a mut Scratch,
    /// The image's results.
    y: Shared,
}

impl<const G: usize, const P: usize> Task for OneBand<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneBand { plan, source, later, band, scratch, y } = self;
        let InTiles { pass, layout, phases, .. } = plan;
        if scratch.band != Some(band) {
            scratch.padded.fill(0.0);
            scratch.band = Some(band);
        }
        let band = layout.band(band);
        layout.pad(source, band.clone(), &mut scratch.padded);
        let locations = plan.locations(band.len(), S::LANES);
        let (height, width) = pass.windows.result;
        for phase in phases {
            let (top, rows, cols) = pass.windows.extent_of((phase.row, phase.col), &band);
            if rows == 0 || cols == 0 {
                continue;
            }
            let reach = phase.offsets.iter().flatten().max().map_or(0, |offset| offset + locations);
            assert!(scratch.padded.len() >= reach && cols <= layout.out_width());
            let mut first = 0;
            for tile in tiles(pass.rows, plan.most_rows) {
                let count = tile.len() * phase.offsets.len() * P;
                let plane = tile.start * G * pass.apart + phase.element;
                // SAFETY: the tile's first plane, in which the phase has rows and columns.
                let y = unsafe { y.add(plane * height * width + top * width + phase.col) };
                let results = Results {
                    scale_shift: &pass.epilogue.scale_shift[tile.clone()],
                    relu: pass.epilogue.relu,
                    y: y.0,
                    next_plane: pass.apart * height * width,
                    next_row: pass.windows.step * width,
                    next_col: pass.windows.step,
                    rows,
                    cols,
                    pitch: layout.pitch(),
                };
                let operands = Sums {
                    offsets: &phase.offsets,
                    filters: &phase.filters[first..first + count],
                    padded: &scratch.padded,
                    locations: layout.locations(band.len()),
                    later: later.map(|later| later.part(tile.clone(), pass.rows)),
                    results,
                };
                first += count;
                // SAFETY: `locations` floats beyond each offset are within `reach`, which is asserted above; the rows of
                // this image's result belong to this band alone.
                unsafe { sums::<S, G, P>(operands) };
            }
        }
    }
}
