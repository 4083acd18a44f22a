//! Pooling and blur windows on the CPU. All results are computed at stride 1, a vector at a time; the stride then keeps some of
//! them. That is more work, and still several times faster than one result at a time.

use crate::{
    plane::{Orbit, Planes, orbits},
    simd::{Isa, Simd, Task, WIDEST},
};

/// Windows of one kind on planes with a border.
pub(crate) struct Dense {
    plane: Planes,
    kernel_size: usize,
    padding: usize,
    /// From one row of samples to the next.
    pitch: usize,
    /// A plane within its border, and room for a vector behind.
    bordered: Vec<f32>,
}

/// [`Dense`] windows on the samples of a plane.
pub(crate) struct View<'a> {
    windows: &'a Dense,
    samples: &'a [f32],
    /// The address behind the plane, where the next one is likely to be.
    next: usize,
}

impl Dense {
    /// With `border` around planes like this one. A window must fit.
    pub fn new(plane: Planes, kernel_size: usize, padding: usize, border: f32) -> Self {
        let [height, pitch] = [plane.height, plane.width].map(|extent| extent + 2 * padding);
        assert!((1..=height.min(pitch)).contains(&kernel_size), "a window fits the plane");
        Dense { plane, kernel_size, padding, pitch, bordered: vec![border; height * pitch + WIDEST] }
    }

    /// Of a plane, at the beginning of `x`. Behind it may be more, which is read and not used: without a border, a plane is then taken
    /// as it stands.
    pub fn view<'a>(&'a mut self, x: &'a [f32]) -> View<'a> {
        let next = x[self.plane.len()..].as_ptr().addr();
        if self.padding == 0 && x.len() >= self.bordered.len() {
            return View { windows: self, samples: x, next };
        }
        let rows = self.bordered.chunks_exact_mut(self.pitch).skip(self.padding);
        for (x, row) in x[..self.plane.len()].chunks_exact(self.plane.width).zip(rows) {
            row[self.padding..][..x.len()].copy_from_slice(x);
        }
        View { samples: &self.bordered, windows: self, next }
    }

    /// Windows in a row.
    pub fn width(&self) -> usize {
        self.pitch + 1 - self.kernel_size
    }

    /// Floats of a row of results: whole vectors of them, zeros behind the last window's.
    pub fn results_pitch(&self) -> usize {
        self.width().next_multiple_of(WIDEST)
    }

    /// The orbits of a window's samples, by their distance from its first one, each with the `weight(row, column)` that its samples
    /// have in common.
    pub fn terms(&self, weight: impl Fn(usize, usize) -> f32) -> Vec<(Orbit, f32)> {
        let (k, pitch) = (self.kernel_size, self.pitch);
        let term = |orbit: Orbit| {
            let first = orbit.positions()[0][0];
            (orbit.map(|at| at / k * pitch + at % k), weight(first / k, first % k))
        };
        orbits(k, k).into_iter().map(term).collect()
    }

    /// From a window's first sample to its last.
    fn reach(&self) -> usize {
        (self.kernel_size - 1) * (self.pitch + 1)
    }
}

impl View<'_> {
    /// The maxima of every `stride`th row of windows, as many as `results` has rows. Of equal samples (0 and −0) the first in
    /// row-major order; there must be no NaN.
    pub fn maxima(&self, stride: usize, results: &mut [f32]) {
        Isa::current().run(Maxima { k: self.windows.kernel_size, rows: self.rows(stride, results) });
    }

    /// As [`View::maxima`] with stride 1, within a task; each vector of results goes to `totals` too.
    #[inline(always)]
    pub fn maxima_in_all<S: Simd, T: Totals<S>>(&self, results: &mut [f32], totals: &mut T) {
        maxima::<S, T>(self.windows.kernel_size, self.rows(1, results), totals);
    }

    /// `Σ weight · (sum over an orbit)` of every `stride`th row of windows, likewise, with the terms of [`Dense::terms`].
    pub fn sums(&self, stride: usize, terms: &[(Orbit, f32)], results: &mut [f32]) {
        Isa::current().run(Sums { terms, reach: self.windows.reach(), rows: self.rows(stride, results) });
    }

    fn rows<'a>(&'a self, stride: usize, results: &'a mut [f32]) -> Rows<'a> {
        let View { windows, samples, next } = *self;
        let (results_pitch, pitch) = (windows.results_pitch(), windows.pitch);
        let count = results.len() / results_pitch;
        assert!(results.len() == count * results_pitch && count > 0, "whole rows of results");
        let step = stride * pitch;
        // The last vector of the last row of windows, from its windows' last samples on, ends within the samples.
        let last = (count - 1) * step + results_pitch - WIDEST + windows.reach();
        assert!(samples.len() >= last + WIDEST, "there are as many rows of windows");
        Rows { samples, step, pitch, results, results_pitch, width: windows.width(), count, next }
    }
}

/// Rows of windows, and where their results go: made by [`View::rows`], which has checked that all vectors lie within.
struct Rows<'a> {
    samples: &'a [f32],
    /// From one row of windows to the next.
    step: usize,
    /// From one row of samples to the next.
    pitch: usize,
    results: &'a mut [f32],
    results_pitch: usize,
    /// Windows in a row, and how many rows.
    width: usize,
    count: usize,
    /// What is fetched meanwhile.
    next: usize,
}

/// What all results of a plane have in common.
pub(crate) trait Totals<S: Simd> {
    /// The next vector of results, down the columns. Lanes beyond the last window are 0.
    fn add(&mut self, results: S::V);

    /// What follows begins at the first row again.
    fn next_column(&mut self);
}

/// Nothing is asked of them.
impl<S: Simd> Totals<S> for () {
    #[inline(always)]
    fn add(&mut self, _: S::V) {}
    #[inline(always)]
    fn next_column(&mut self) {}
}

/// What windows make. Not a closure, which could not be `#[inline(always)]` and so would be compiled without vectors.
trait OfWindows {
    /// Windows are K rows high, of each of which [`OfWindows::of_row`] makes something; or as they like, with K = 1.
    const ROWS: usize;

    /// Of a vector of windows, from the first sample of a row of each on.
    ///
    /// # Safety
    /// Vectors must be readable from there up to the windows' last samples on.
    unsafe fn of_row<S: Simd>(&self, first: *const f32, pitch: usize) -> S::V;

    /// From what rows have made, the upper one first.
    fn join<S: Simd>(&self, above: S::V, below: S::V) -> S::V;
}

impl Rows<'_> {
    /// The results of all windows, down the columns: of windows side by side in a column, whatever rows have made that they share
    /// is made once.
    #[inline(always)]
    fn fill<S: Simd, W: OfWindows>(self, windows: &W, totals: &mut impl Totals<S>) {
        let share = W::ROWS > 1 && self.step == self.pitch;
        let mut next = self.next;
        for column in (0..self.results_pitch).step_by(S::LANES) {
            let mut exist = [f32::from_bits(u32::MAX); WIDEST];
            exist[self.width.saturating_sub(column).min(S::LANES)..].fill(0.0);
            // SAFETY: no vector has more lanes.
            let exist = unsafe { S::load(exist.as_ptr()) };
            // What the rows of the last window have made, but its first.
            let mut made = [S::splat(0.0); MOST_ROWS];
            for row in 0..self.count {
                S::prefetch(std::ptr::without_provenance(next));
                next += 4 * S::LANES;
                // SAFETY: `View::rows` has checked both; vectors divide `results_pitch`, a multiple of `WIDEST`.
                unsafe {
                    let first = self.samples.as_ptr().add(row * self.step + column);
                    let known = if share && row > 0 { W::ROWS - 1 } else { 0 };
                    for u in 0..W::ROWS {
                        if u >= known {
                            made[u] = windows.of_row::<S>(first.add(u * self.pitch), self.pitch);
                        }
                    }
                    let mut value = made[0];
                    for u in 1..W::ROWS {
                        value = windows.join::<S>(value, made[u]);
                        made[u - 1] = made[u];
                    }
                    let to = self.results.as_mut_ptr().add(row * self.results_pitch + column);
                    let value = S::and_bits(value, exist);
                    S::store(to, value);
                    totals.add(value);
                }
            }
            totals.next_column();
        }
    }
}

/// Rows of windows that are not looked at as a whole.
const MOST_ROWS: usize = 3;

struct Maxima<'a> {
    k: usize,
    rows: Rows<'a>,
}

impl Task for Maxima<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        maxima::<S, ()>(self.k, self.rows, &mut ());
    }
}

#[inline(always)]
fn maxima<S: Simd, T: Totals<S>>(k: usize, rows: Rows, totals: &mut T) {
    match k {
        2 => rows.fill::<S, _>(&GreatestOfRows::<2>, totals),
        3 => rows.fill::<S, _>(&GreatestOfRows::<3>, totals),
        k => rows.fill::<S, _>(&Greatest(k), totals),
    }
}

/// Of windows of this extent, row by row.
struct GreatestOfRows<const K: usize>;

impl<const K: usize> OfWindows for GreatestOfRows<K> {
    const ROWS: usize = K;

    #[inline(always)]
    unsafe fn of_row<S: Simd>(&self, first: *const f32, _: usize) -> S::V {
        // SAFETY: the caller's.
        let mut max = unsafe { S::load(first) };
        for v in 1..K {
            // SAFETY: the caller's.
            max = S::max(unsafe { S::load(first.add(v)) }, max);
        }
        max
    }

    #[inline(always)]
    fn join<S: Simd>(&self, above: S::V, below: S::V) -> S::V {
        S::max(below, above)
    }
}

/// Of windows of any extent.
struct Greatest(usize);

impl OfWindows for Greatest {
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn of_row<S: Simd>(&self, first: *const f32, pitch: usize) -> S::V {
        let mut max = S::splat(f32::NEG_INFINITY);
        for u in 0..self.0 {
            for v in 0..self.0 {
                // SAFETY: the caller's.
                max = S::max(unsafe { S::load(first.add(u * pitch + v)) }, max);
            }
        }
        max
    }

    #[inline(always)]
    fn join<S: Simd>(&self, above: S::V, _: S::V) -> S::V {
        above
    }
}

struct Sums<'a> {
    terms: &'a [(Orbit, f32)],
    reach: usize,
    rows: Rows<'a>,
}

impl Task for Sums<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (orbit, _) in self.terms {
            assert!(orbit.positions().concat().iter().all(|&at| at <= self.reach), "orbits lie within a window");
        }
        self.rows.fill::<S, _>(&WeightedSum(self.terms), &mut ());
    }
}

/// Of terms within a window.
struct WeightedSum<'a>(&'a [(Orbit, f32)]);

impl OfWindows for WeightedSum<'_> {
    const ROWS: usize = 1;

    #[inline(always)]
    unsafe fn of_row<S: Simd>(&self, first: *const f32, _: usize) -> S::V {
        let mut total = S::splat(0.0);
        for (orbit, weight) in self.0 {
            // SAFETY: the caller's; orbits lie within a window.
            let sum = unsafe {
                match orbit {
                    Orbit::One(a) => S::load(first.add(*a)),
                    Orbit::Two([a, b]) => S::add(S::load(first.add(*a)), S::load(first.add(*b))),
                    Orbit::Four(four) => sum_of_half::<S>(first, four),
                    Orbit::Eight(one, other) => S::add(sum_of_half::<S>(first, one), sum_of_half::<S>(first, other)),
                }
            };
            total = S::mul_add(sum, S::splat(*weight), total);
        }
        total
    }

    #[inline(always)]
    fn join<S: Simd>(&self, above: S::V, _: S::V) -> S::V {
        above
    }
}

/// # Safety
/// As [`OfWindows::of_row`], for these samples.
#[inline(always)]
unsafe fn sum_of_half<S: Simd>(first: *const f32, [a, b, c, d]: &[usize; 4]) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        let [a, b, c, d] =
            [S::load(first.add(*a)), S::load(first.add(*b)), S::load(first.add(*c)), S::load(first.add(*d))];
        S::add(S::add(a, b), S::add(c, d))
    }
}

/// Every `stride`th of the results in a row.
#[inline(always)]
pub(crate) fn every(stride: usize, results: &[f32], y: &mut [f32]) {
    match stride {
        1 => y.copy_from_slice(&results[..y.len()]),
        2 => {
            let pairs = results.as_chunks::<2>().0;
            y.iter_mut().zip(pairs).for_each(|(y, pair)| *y = pair[0]);
        }
        _ => y.iter_mut().zip(results.iter().step_by(stride)).for_each(|(y, &result)| *y = result),
    }
}
