//! The micro-kernels: sums for a few channels and one vector of locations, or for a few pairs of channels, that stay in
//! registers from the transform of the operands to the last term.

use super::irrep::{add_product_vjp, add_products, from_products, inverse, transform, value_factors};
use crate::simd::{Isa, Simd, Task, WIDEST};
use quarterturn_core::HostBuffer;
use std::{
    ops::Range,
    sync::atomic::{Ordering, compiler_fence},
};

/// Output channels of a tile at most: accumulators, the values of one term and a broadcast filter fit the registers.
pub(super) const fn tile_rows<const P: usize>(registers: usize) -> usize {
    match (registers >= 32, P) {
        (true, 1) => 12,
        (true, 4) => 6,
        (true, 5) => 5,
        // Three leave the compiler short of registers; how much that costs depends on where the linker puts the loop.
        (true, _) => 2,
        (false, 1) => 6,
        (false, 4 | 5) => 2,
        (false, _) => 1,
    }
}

/// Vectors of locations that a tile sums at a time.
pub(super) const fn tile_vectors<const G: usize>() -> usize {
    if G == 1 { 2 } else { 1 }
}

/// Terms between two results whose memory is requested.
const TERMS: usize = 4;
/// Bytes that memory is fetched in.
const CACHE_LINE: usize = 64;

/// Memory that is accessed later, as floats from one address to another.
#[derive(Clone, Copy, Default)]
pub(super) struct Later {
    start: usize,
    end: usize,
}

impl Later {
    /// Its part from `start` to `end` of `all` shares.
    pub(super) fn part(self, Range { start, end }: Range<usize>, all: usize) -> Self {
        let bytes = (self.end - self.start) as u64;
        let at = |share: usize| self.start + (share as u64 * bytes / all as u64) as usize;
        Later { start: at(start), end: at(end) }
    }
}

impl From<&[f32]> for Later {
    fn from(array: &[f32]) -> Self {
        let range = array.as_ptr_range();
        Later { start: range.start.addr(), end: range.end.addr() }
    }
}

/// Requests for the cache lines of what is accessed later, evenly over a number of steps: now and then they come at no
/// cost, many at once do not.
struct Requests<'a> {
    next: Later,
    rest: &'a [Later],
    /// Lines a step, and those due, in units of 1/[`Requests::LINE`].
    rate: u64,
    due: u64,
}

impl<'a> Requests<'a> {
    const LINE: u64 = 1 << 16;

    fn new(later: &'a [Later], steps: usize) -> Self {
        let lines: usize = later.iter().map(|later| (later.end - later.start).div_ceil(CACHE_LINE) + 1).sum();
        let rate = (lines as u64 * Self::LINE).div_ceil(steps.max(1) as u64);
        Requests { next: Later::default(), rest: later, rate, due: 0 }
    }

    /// Requests the next line, if one is due.
    #[inline(always)]
    fn step<S: Simd>(&mut self) {
        self.due += self.rate;
        if self.due < Self::LINE {
            return;
        }
        self.due -= Self::LINE;
        if self.next.start < self.next.end {
            S::prefetch(std::ptr::without_provenance(self.next.start));
            self.next.start += CACHE_LINE;
        } else if let [next, rest @ ..] = self.rest {
            (self.next, self.rest) = (*next, rest);
        }
    }
}

/// `rows` in tiles of at most `most`, as even as they come.
pub(super) fn tiles(rows: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(most);
    (0..count).map(move |tile| tile * rows / count..(tile + 1) * rows / count)
}

/// What becomes of the sums of a tile: `sum · scale + shift`, then, if `relu`, the larger of that and 0 (NaN stays NaN).
/// Sums of locations between rows are thrown away.
#[derive(Clone, Copy)]
pub(super) struct Results<'a> {
    /// Of each channel.
    pub scale_shift: &'a [(f32, f32)],
    pub relu: bool,
    /// Where the first result of the first channel and group element belongs.
    pub y: *mut f32,
    /// From one group element, row and column of the result to the next.
    pub next_plane: usize,
    pub next_row: usize,
    pub next_col: usize,
    /// Results of each element.
    pub rows: usize,
    pub cols: usize,
    /// Distance of two rows among the locations.
    pub pitch: usize,
}

/// Operands of [`sums`].
#[derive(Clone, Copy)]
pub(super) struct Sums<'a, const G: usize> {
    /// For each inner term the place of every element's sample for location 0.
    pub offsets: &'a [[usize; G]],
    /// `[term][row][filter]`.
    pub filters: &'a [f32],
    pub padded: &'a [f32],
    pub locations: usize,
    /// What is accessed after this: it is fetched meanwhile.
    pub later: [Later; 4],
    pub results: Results<'a>,
}

/// y of all locations for the channels of a tile, `results.scale_shift.len()` of them. Every sum runs over the terms in
/// their order, however many channels there are: edge tiles round as full ones do.
///
/// # Safety
/// `padded` must hold `locations` floats, rounded up to whole tiles, beyond each of the offsets, and `results.y` have its
/// rows and columns for each channel and group element, which nobody else writes.
#[inline(always)]
pub(super) unsafe fn sums<S: Simd, const G: usize, const P: usize>(operands: Sums<G>) {
    // SAFETY: the caller's.
    unsafe {
        match operands.results.scale_shift.len() {
            1 => tile::<S, G, P, 1>(operands),
            2 => tile::<S, G, P, 2>(operands),
            3 => tile::<S, G, P, 3>(operands),
            4 => tile::<S, G, P, 4>(operands),
            5 => tile::<S, G, P, 5>(operands),
            6 => tile::<S, G, P, 6>(operands),
            7 => tile::<S, G, P, 7>(operands),
            8 => tile::<S, G, P, 8>(operands),
            9 => tile::<S, G, P, 9>(operands),
            10 => tile::<S, G, P, 10>(operands),
            11 => tile::<S, G, P, 11>(operands),
            12 => tile::<S, G, P, 12>(operands),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }
}

/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn tile<S: Simd, const G: usize, const P: usize, const M: usize>(operands: Sums<G>) {
    // `const`: what is never run is not compiled.
    if const { M > tile_rows::<P>(S::REGISTERS) } {
        unreachable!("a tile of {M} rows");
    }
    if const { G == 1 } {
        // SAFETY: the caller's.
        unsafe { tile_of::<S, G, P, M, 2>(operands) }
    } else {
        // SAFETY: the caller's.
        unsafe { tile_of::<S, G, P, M, 1>(operands) }
    }
}

/// # Safety
/// As [`sums`].
#[inline(always)]
unsafe fn tile_of<S: Simd, const G: usize, const P: usize, const M: usize, const V: usize>(operands: Sums<G>) {
    let Sums { offsets, filters, padded, locations, later, results } = operands;
    assert!(filters.len() >= offsets.len() * M * P && results.scale_shift.len() == M);
    let steps = offsets.len() * locations.div_ceil(V * S::LANES);
    let mut requests = Requests::new(&later, steps);
    let mut sums = [[[[0.0; WIDEST]; P]; M]; V];
    for start in (0..locations).step_by(V * S::LANES) {
        // The last result of each plane that these vectors make; the first one's line was the last one's of those before.
        let (row, col) = (start / results.pitch, start % results.pitch + V * S::LANES - 1);
        let last = results.y.wrapping_add(row * results.next_row + col * results.next_col);
        let next_plane = results.next_plane;
        let requests = &mut requests;
        let sums_of = Accumulate { offsets, filters, padded, start, last, next_plane, requests, sums: &mut sums };
        // Where only the first half of the last vector has results, the second half keeps what it had.
        if const { V == 1 } && locations - start <= S::LANES / 2 {
            S::run_half(sums_of);
        } else {
            S::run(sums_of);
        }
        for (v, sums) in sums.iter().enumerate() {
            S::run(Store::<G, P> { sums, at: start + v * S::LANES, results: &results });
        }
    }
}

/// The sums of `V` vectors of locations from `start` on, for `M` channels. A function of its own, or else what surrounds it
/// takes registers from the loop. Its operands must be as [`sums`] demands.
struct Accumulate<'a, 's, const G: usize, const P: usize, const M: usize, const V: usize> {
    offsets: &'a [[usize; G]],
    filters: &'a [f32],
    padded: &'a [f32],
    start: usize,
    /// The last result in the first plane, and the distance to the next plane.
    last: *mut f32,
    next_plane: usize,
    requests: &'s mut Requests<'a>,
    sums: &'s mut [[[[f32; WIDEST]; P]; M]; V],
}

impl<const G: usize, const P: usize, const M: usize, const V: usize> Task for Accumulate<'_, '_, G, P, M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Accumulate { offsets, filters, padded, start, mut last, next_plane, requests, sums } = self;
        let mut acc = [[[S::splat(0.0); P]; V]; M];
        let mut filters = filters.as_ptr();
        for (i, offsets) in offsets.iter().enumerate() {
            requests.step::<S>();
            if i % TERMS == 0 {
                S::prefetch(last);
                last = last.wrapping_add(next_plane);
            }
            let mut values = [[S::splat(0.0); P]; V];
            for v in 0..V {
                let at = start + v * S::LANES;
                let mut f = [S::splat(0.0); G];
                for i in 0..G {
                    // SAFETY: locations `at .. at + LANES` are below `locations`, rounded up.
                    f[i] = unsafe { S::load(padded.as_ptr().add(offsets[i] + at)) };
                }
                values[v] = value_factors::<S, G, P>(transform::<S, G>(f));
            }
            for m in 0..M {
                let mut factors = [S::splat(0.0); P];
                for i in 0..P {
                    // SAFETY: within the `M · P` filters of this term, of which [`tile_of`] asserts that they are there.
                    factors[i] = S::splat(unsafe { *filters.add(m * P + i) });
                }
                for v in 0..V {
                    add_products::<S, G, P>(&mut acc[m][v], values[v], factors);
                }
            }
            // SAFETY: the filters of the next term, or their end.
            filters = unsafe { filters.add(M * P) };
        }
        for m in 0..M {
            for v in 0..V {
                for p in 0..P {
                    // SAFETY: no vector has more lanes.
                    unsafe { S::store(sums[v][m][p].as_mut_ptr(), acc[m][v][p]) };
                }
            }
        }
    }
}

/// Results of a channel's sums: those of each element times `scale`, plus `shift`, and as [`Results::relu`] says.
#[inline(always)]
pub(super) fn finished<S: Simd, const G: usize, const P: usize>(
    sums: [S::V; P],
    (scale, shift): (f32, f32),
    relu: bool,
) -> [S::V; G] {
    let mut y = inverse::<S, G>(from_products::<S, G, P>(sums));
    for i in 0..G {
        y[i] = S::mul_add(y[i], S::splat(scale), S::splat(shift));
        if relu {
            y[i] = S::max(S::splat(0.0), y[i]);
        }
    }
    y
}

/// Makes results of the sums of the locations from `at` on, and stores each piece of a row to its place. The results' rows
/// and columns must be there, as [`sums`] demands.
struct Store<'a, const G: usize, const P: usize> {
    /// Of each channel.
    sums: &'a [[[f32; WIDEST]; P]],
    at: usize,
    results: &'a Results<'a>,
}

impl<const G: usize, const P: usize> Task for Store<'_, G, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Store { sums, at, results } = self;
        let Results { next_plane, next_row, next_col, rows, cols, pitch, .. } = *results;
        for (m, (sums, &scale_shift)) in sums.iter().zip(results.scale_shift).enumerate() {
            let mut products = [S::splat(0.0); P];
            for (product, sums) in products.iter_mut().zip(sums) {
                // SAFETY: no vector has more lanes.
                *product = unsafe { S::load(sums.as_ptr()) };
            }
            let y = finished::<S, G, P>(products, scale_shift, results.relu);
            let (mut row, mut col, mut lane) = (at / pitch, at % pitch, 0);
            while lane < S::LANES && row < rows {
                if col < cols {
                    let lanes = lane..lane + (cols - col).min(S::LANES - lane);
                    let mut to = results.y.wrapping_add(m * G * next_plane + row * next_row + col * next_col);
                    for g in 0..G {
                        // SAFETY: columns of a row among those that the caller vouches for.
                        unsafe {
                            match next_col {
                                1 => S::store_lanes(y[g], lanes.clone(), to),
                                _ => S::store_apart(y[g], lanes.clone(), to, next_col),
                            }
                        }
                        to = to.wrapping_add(next_plane);
                    }
                }
                (row, col, lane) = (row + 1, 0, lane + pitch - col);
            }
        }
    }
}

/// Sums over locations run in so many lanes whatever the vectors, so that they round alike everywhere.
pub(super) const LANES: usize = 16;

/// Output channels of a tile of [`correlations`] at most.
pub(super) fn gradient_tile<const G: usize>(isa: Isa) -> usize {
    struct Tile<const G: usize>;
    impl<const G: usize> Task for Tile<G> {
        type Output = usize;
        fn run<S: Simd>(self) -> usize {
            correlation_rows::<S, G>()
        }
    }
    isa.run(Tile::<G>)
}

const fn correlation_rows<S: Simd, const G: usize>() -> usize {
    match (S::LANES, G) {
        (16, 1) => 4,
        (16, 4) => 5,
        (16, _) => 2,
        (_, 1) => 4,
        (_, 4) => 2,
        // One after another, see [`laid_down`].
        _ => 6,
    }
}

/// Operands of [`correlations`], of `images` images.
#[derive(Clone, Copy)]
pub(super) struct Correlation<'a, const G: usize> {
    /// For each term the place of every element's sample for location 0.
    pub offsets: &'a [[usize; G]],
    pub padded: &'a [f32],
    /// From one image to the next.
    pub padded_image: usize,
    /// dŷ: `[row][result][location]`.
    pub left: &'a [f32],
    /// From one result to the next.
    pub left_row: usize,
    /// From one image to the next.
    pub left_image: usize,
    /// Locations of each image: whole vectors of [`LANES`].
    pub locations: usize,
    pub images: usize,
    /// What is accessed after this: it is fetched meanwhile.
    pub later: [Later; 5],
}

/// Adds Σ_locations dŷ · F̂ᵀ of the terms and `rows` channels to `sums`, `[term][row][filter]`.
///
/// # Safety
/// `padded` must hold `locations` floats beyond each of the offsets, `left` beyond the start of each result, for all
/// images.
#[inline(always)]
pub(super) unsafe fn correlations<S: Simd, const G: usize>(rows: usize, c: Correlation<G>, sums: &mut [f32]) {
    if const { S::LANES < LANES && G == 8 } {
        // SAFETY: the caller's.
        return unsafe { laid_down::<S, G>(rows, c, sums) };
    }
    // SAFETY: the caller's.
    unsafe {
        match rows {
            1 => correlation::<S, G, 1>(c, sums),
            2 => correlation::<S, G, 2>(c, sums),
            3 => correlation::<S, G, 3>(c, sums),
            4 => correlation::<S, G, 4>(c, sums),
            5 => correlation::<S, G, 5>(c, sums),
            6 => correlation::<S, G, 6>(c, sums),
            rows => unreachable!("a tile of {rows} rows"),
        }
    }
}

/// # Safety
/// As [`correlations`].
#[inline(always)]
unsafe fn correlation<S: Simd, const G: usize, const M: usize>(c: Correlation<G>, sums: &mut [f32]) {
    // `const`: what is never run is not compiled.
    if const { M > correlation_rows::<S, G>() } {
        unreachable!("a tile of {M} rows");
    }
    // SAFETY: the caller's.
    unsafe {
        if const { S::LANES == 16 && G == 1 } {
            correlation_of::<S, G, M, 1, 4>(c, sums);
        } else if const { S::LANES == 16 } {
            correlation_of::<S, G, M, 1, 1>(c, sums);
        } else if const { S::LANES == 8 && G == 1 } {
            correlation_of::<S, G, M, 2, 2>(c, sums);
        } else if const { S::LANES == 8 } {
            correlation_of::<S, G, M, 2, 1>(c, sums);
        } else if const { G == 1 } {
            correlation_of::<S, G, M, 4, 2>(c, sums);
        } else {
            correlation_of::<S, G, M, 4, 1>(c, sums);
        }
    }
}

/// [`correlations`] over D4 where registers hold the sums of one row only: the transform would be made again for each. So that
/// of a term is laid down once for all rows.
///
/// # Safety
/// As [`correlations`].
#[inline(always)]
unsafe fn laid_down<S: Simd, const G: usize>(rows: usize, c: Correlation<G>, sums: &mut [f32]) {
    let mut requests = Requests::new(&c.later, c.offsets.len() * c.images * c.locations.div_ceil(LANES));
    let mut values = HostBuffer::scratch(G * c.images * c.locations);
    for (&offsets, sums) in c.offsets.iter().zip(sums.chunks_mut(rows * G)) {
        S::run(LayDown { c: &c, offsets, requests: &mut requests, values: &mut values });
        for (row, sums) in sums.chunks_exact_mut(G).enumerate() {
            S::run(OneRow { c: &c, values: &values, row, sums });
        }
    }
}

/// F̂ of a term, vector by vector, `[value][location]` each. Operands must be as [`correlations`] demands.
struct LayDown<'a, 's, const G: usize> {
    c: &'s Correlation<'a, G>,
    offsets: [usize; G],
    requests: &'s mut Requests<'a>,
    values: &'s mut [f32],
}

impl<const G: usize> Task for LayDown<'_, '_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let LayDown { c, offsets, requests, values } = self;
        assert!(c.locations.is_multiple_of(LANES) && values.len() >= G * c.images * c.locations);
        let mut to = values.as_mut_ptr();
        for image in 0..c.images {
            for at in (0..c.locations).step_by(S::LANES) {
                if at.is_multiple_of(LANES) {
                    requests.step::<S>();
                }
                let mut f = [S::splat(0.0); G];
                for i in 0..G {
                    // SAFETY: below `locations` beyond an offset, which the caller of `correlations` vouches for.
                    f[i] = unsafe { S::load(c.padded.as_ptr().add(image * c.padded_image + offsets[i] + at)) };
                }
                let transformed = transform::<S, G>(f);
                for i in 0..G {
                    // SAFETY: `G` values of each location, as asserted above.
                    unsafe {
                        S::store(to, transformed[i]);
                        to = to.add(S::LANES);
                    }
                }
            }
        }
    }
}

/// Adds the sums of one row for what [`LayDown`] has laid down. Operands must be as [`correlations`] demands.
struct OneRow<'a, 's, const G: usize> {
    c: &'s Correlation<'a, G>,
    values: &'s [f32],
    row: usize,
    sums: &'s mut [f32],
}

impl<const G: usize> Task for OneRow<'_, '_, G> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let OneRow { c, values, row, sums } = self;
        assert!(values.len() >= G * c.images * c.locations && G == 8);
        let mut halves = [[S::splat(0.0); G]; 4];
        for half in 0..LANES / S::LANES {
            let mut acc = [S::splat(0.0); G];
            for image in 0..c.images {
                for at in (half * S::LANES..c.locations).step_by(LANES) {
                    let (mut v, mut dy) = ([S::splat(0.0); G], [S::splat(0.0); G]);
                    for i in 0..G {
                        let left = image * c.left_image + (row * G + i) * c.left_row + at;
                        // SAFETY: laid down, as asserted above; below `locations` beyond the start of a result, which the caller of
                        // `correlations` vouches for.
                        unsafe {
                            v[i] = S::load(values.as_ptr().add((image * c.locations + at) * G + i * S::LANES));
                            dy[i] = S::load(c.left.as_ptr().add(left));
                        }
                    }
                    add_product_vjp::<S, G>(&mut acc, v, dy);
                }
            }
            halves[half] = acc;
        }
        let mut vectors = [S::splat(0.0); 8];
        for i in 0..8 {
            vectors[i] = match LANES / S::LANES {
                2 => S::add(halves[0][i], halves[1][i]),
                _ => S::add(S::add(halves[0][i], halves[2][i]), S::add(halves[1][i], halves[3][i])),
            };
        }
        sums.iter_mut().zip(S::tree_sums(vectors)).for_each(|(sum, v)| *sum += v);
    }
}

/// `H` vectors for [`LANES`], `T` terms at a time.
///
/// # Safety
/// As [`correlations`].
#[inline(always)]
unsafe fn correlation_of<S: Simd, const G: usize, const M: usize, const H: usize, const T: usize>(
    c: Correlation<G>,
    sums: &mut [f32],
) {
    let steps = c.offsets.len().div_ceil(T) * c.images * c.locations.div_ceil(LANES);
    let mut requests = Requests::new(&c.later, steps);
    for (offsets, sums) in c.offsets.chunks(T).zip(sums.chunks_mut(T * M * G)) {
        // Where terms are missing, the last one is summed again, and forgotten.
        let offsets = std::array::from_fn(|t| offsets[t.min(offsets.len() - 1)]);
        S::run(Correlate::<G, M, H, T> { c: &c, offsets, requests: &mut requests, sums });
    }
}

/// Adds the sums of one tile, `[term][row][filter]`. A function of its own, or else what surrounds it takes registers
/// from the loop.
struct Correlate<'a, 's, const G: usize, const M: usize, const H: usize, const T: usize> {
    c: &'s Correlation<'a, G>,
    offsets: [[usize; G]; T],
    requests: &'s mut Requests<'a>,
    sums: &'s mut [f32],
}

impl<const G: usize, const M: usize, const H: usize, const T: usize> Task for Correlate<'_, '_, G, M, H, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Correlate { c, offsets, requests, sums } = self;
        let Correlation { padded, padded_image, left, left_row, left_image, locations, images, .. } = *c;
        let mut acc = [[[[S::splat(0.0); G]; M]; T]; H];
        // One half after the other, so that the sums of one fit the registers.
        for half in 0..H {
            let mut of_half = [[[S::splat(0.0); G]; M]; T];
            for image in 0..images {
                // SAFETY: an image among those that the caller of `correlations` vouches for.
                let (padded, left) =
                    unsafe { (padded.as_ptr().add(image * padded_image), left.as_ptr().add(image * left_image)) };
                for at in (half * S::LANES..locations).step_by(LANES) {
                    if half == 0 {
                        requests.step::<S>();
                    }
                    let mut values = [[S::splat(0.0); G]; T];
                    for t in 0..T {
                        let mut f = [S::splat(0.0); G];
                        for i in 0..G {
                            // SAFETY: below `locations` beyond an offset: as above.
                            f[i] = unsafe { S::load(padded.add(offsets[t][i] + at)) };
                        }
                        values[t] = transform::<S, G>(f);
                    }
                    for m in 0..M {
                        let mut dy = [S::splat(0.0); G];
                        for i in 0..G {
                            // SAFETY: below `locations` beyond the start of a result: as above.
                            dy[i] = unsafe { S::load(left.add((m * G + i) * left_row + at)) };
                        }
                        for t in 0..T {
                            add_product_vjp::<S, G>(&mut of_half[t][m], values[t], dy);
                        }
                        // The compiler would load for all rows at once, and run out of registers.
                        compiler_fence(Ordering::SeqCst);
                    }
                }
            }
            acc[half] = of_half;
        }
        // A loop of constant length, which the compiler unrolls: vectors that are indexed do not stay in registers.
        for first in (0..T * M * G).step_by(8) {
            let mut vectors = [S::splat(0.0); 8];
            for i in first..(first + 8).min(T * M * G) {
                let (t, m, g) = (i / (M * G), i / G % M, i % G);
                vectors[i - first] = match H {
                    1 => acc[0][t][m][g],
                    2 => S::add(acc[0][t][m][g], acc[1 % H][t][m][g]),
                    _ => S::add(
                        S::add(acc[0][t][m][g], acc[2 % H][t][m][g]),
                        S::add(acc[1 % H][t][m][g], acc[3 % H][t][m][g]),
                    ),
                };
            }
            let to = first.min(sums.len());
            sums[to..].iter_mut().zip(S::tree_sums(vectors)).for_each(|(sum, v)| *sum += v);
        }
    }
}
