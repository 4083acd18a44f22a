//! Panels of transformed samples, and the micro-kernel that multiplies them by matrices of transformed filters.
//!
//! Each one-dimensional irrep of a sum is a matrix product by itself: ψ̃, `[term][row]`, by F̂, `[term][location]`. So is each
//! of Gauss's products. The two-dimensional irrep takes two steps for each term, the two columns of F̂; each row of F̂ has a
//! panel, each column of ψ̃ a matrix, and each pair of these makes one sum:
//!
//! ```text
//! ŷ[i, j] = Σ_term Σ_l F̂[i, l] ψ̃[l, j]
//! ```
//!
//! Over C4 the rows of F̂ are (D, E) and (E, −D), up to the order of the columns, and ψ̃ has the one column (W_d, W_e).

use super::{
    irrep::{transform, value_factors},
    tile::{tile_rows, tile_vectors},
};
use crate::simd::{Simd, Task, WIDEST};
use std::ops::Range;

/// Vectors of locations that the micro-kernel takes together.
pub(super) const STRIP: usize = tile_vectors::<1>();

/// One-dimensional products of a term.
const fn numbers<const G: usize, const P: usize>() -> usize {
    match (G, P) {
        (4, 4) => 2,
        (8, 8) => 4,
        _ => P,
    }
}

/// Which panel is multiplied by which matrix, and which sum that makes.
#[derive(Clone, Copy)]
pub(super) struct Product {
    /// Entries of a term in the panels before this one, and in the matrices before this one.
    pub panel: usize,
    pub matrix: usize,
    /// Entries of a term in each of both.
    pub steps: usize,
    pub sum: usize,
}

/// The matrix products of `P` sums.
pub(super) fn products<const G: usize, const P: usize>() -> Vec<Product> {
    let numbers = numbers::<G, P>();
    let columns = (P - numbers) / 2;
    let plane = (0..P - numbers).map(|i| {
        let (row, column) = (i / columns, i % columns);
        Product { panel: numbers + 2 * row, matrix: numbers + 2 * column, steps: 2, sum: numbers + i }
    });
    (0..numbers).map(|i| Product { panel: i, matrix: i, steps: 1, sum: i }).chain(plane).collect()
}

/// Which step of all panels, or of all matrices, is the entry of a term, where there are `terms` terms.
#[inline(always)]
pub(super) const fn step_of_entry<const G: usize, const P: usize>(entry: usize, term: usize, terms: usize) -> usize {
    match entry < numbers::<G, P>() {
        true => entry * terms + term,
        // Two steps for each term.
        false => entry / 2 * 2 * terms + 2 * term + entry % 2,
    }
}

/// Which of a term's filters an entry of the matrices is: over D4, ψ̃[l, j] is number 4 + 2l + j, and matrices have columns j.
pub(super) const fn filter_of_entry<const G: usize>(entry: usize) -> usize {
    if G == 8 && entry >= 4 { 4 + 2 * (entry % 2) + (entry - 4) / 2 } else { entry }
}

/// The entries of a term's panels, from the samples of all elements.
#[inline(always)]
fn entries<S: Simd, const G: usize, const P: usize>(samples: [S::V; G]) -> [S::V; 8] {
    let v = value_factors::<S, G, P>(transform::<S, G>(samples));
    let mut entries = [S::splat(0.0); 8];
    entries[..P].copy_from_slice(&v);
    if (G, P) == (4, 4) {
        (entries[4], entries[5]) = (v[3], S::sub(S::splat(-0.0), v[2]));
    }
    entries
}

/// Where the samples of a vector of locations lie: in one piece for each row of an image that it has locations of.
pub(super) struct Laid<const G: usize, const P: usize> {
    pieces: usize,
    /// Where a piece's samples lie for offset 0, less the lanes before it.
    from: [usize; WIDEST],
    lanes: [Range<usize>; WIDEST],
}

impl<const G: usize, const P: usize> Default for Laid<G, P> {
    fn default() -> Self {
        Laid { pieces: 0, from: [0; WIDEST], lanes: std::array::from_fn(|_| 0..0) }
    }
}

impl<const G: usize, const P: usize> Laid<G, P> {
    /// Entries of each term in all panels.
    pub(super) const ENTRIES: usize = if G == 4 && P == 4 { 6 } else { P };

    /// Some lanes, the first of which has its sample at `from`, with as many samples before it as there are lanes.
    pub(super) fn add(&mut self, from: usize, lanes: Range<usize>) {
        self.from[self.pieces] = from - lanes.start;
        self.lanes[self.pieces] = lanes;
        self.pieces += 1;
    }

    /// The panels' entries of one vector for all terms: `step` floats lie between two steps.
    ///
    /// # Safety
    /// `padded` must hold a vector from each piece's `from`, less the lanes before it, plus each offset on.
    #[inline(always)]
    pub(super) unsafe fn lay_down<S: Simd>(
        &self,
        offsets: &[[usize; G]],
        padded: &[f32],
        panels: &mut [f32],
        step: usize,
    ) {
        assert!(panels.len() + step >= offsets.len() * Self::ENTRIES * step + S::LANES);
        // SAFETY: the caller's, and just asserted. Behind the last piece there are some without lanes.
        unsafe {
            match self.pieces {
                1 => self.pieces::<S, 1>(offsets, padded, panels, step),
                2 => self.pieces::<S, 2>(offsets, padded, panels, step),
                3 => self.pieces::<S, 3>(offsets, padded, panels, step),
                4 => self.pieces::<S, 4>(offsets, padded, panels, step),
                _ => self.pieces::<S, WIDEST>(offsets, padded, panels, step),
            }
        }
    }

    /// As [`Laid::lay_down`], with at most `N` pieces.
    ///
    /// # Safety
    /// As there, and `panels` must have all entries.
    #[inline(always)]
    unsafe fn pieces<S: Simd, const N: usize>(
        &self,
        offsets: &[[usize; G]],
        padded: &[f32],
        panels: &mut [f32],
        step: usize,
    ) {
        let (mut from, mut masks) = ([self.from[0]; N], [S::splat(0.0); N]);
        for n in 0..N.min(self.pieces) {
            from[n] = self.from[n];
            let bits = std::array::from_fn::<u32, WIDEST, _>(|i| if self.lanes[n].contains(&i) { !0 } else { 0 });
            // SAFETY: no vector has more lanes.
            masks[n] = unsafe { S::load(bits.map(f32::from_bits).as_ptr()) };
        }
        for (term, offsets_of_term) in offsets.iter().enumerate() {
            // Loops, not closures: a closure is compiled without the vector instructions unless it is inlined.
            let mut samples = [S::splat(0.0); G];
            for h in 0..G {
                for n in 0..N {
                    // SAFETY: the caller's.
                    let piece = unsafe { S::load(padded.as_ptr().add(from[n] + offsets_of_term[h])) };
                    samples[h] = if N == 1 { piece } else { S::or_bits(S::and_bits(masks[n], piece), samples[h]) };
                }
            }
            let entries = entries::<S, G, P>(samples);
            for entry in 0..Self::ENTRIES {
                let at = step_of_entry::<G, P>(entry, term, offsets.len()) * step;
                // SAFETY: the caller's.
                unsafe { S::store(panels.as_mut_ptr().add(at), entries[entry]) };
            }
        }
    }
}

/// Operands of [`multiply`].
pub(super) struct Multiplication<'a> {
    pub panel: &'a [f32],
    pub matrix: &'a [f32],
    pub sums: &'a mut [f32],
    pub begin: bool,
}

/// `sums += matrixᵀ · panel`: `[row][location]`, `[step][row]` and `[step][location]`, of so many rows, and of `width` vectors of
/// locations. If the sums `begin`, what stands there counts as 0.
#[inline(always)]
pub(super) fn multiply<S: Simd>(rows: usize, width: usize, operands: Multiplication) {
    match rows {
        1 => multiply_rows::<S, 1>(width, operands),
        2 => multiply_rows::<S, 2>(width, operands),
        3 => multiply_rows::<S, 3>(width, operands),
        4 => multiply_rows::<S, 4>(width, operands),
        5 => multiply_rows::<S, 5>(width, operands),
        6 => multiply_rows::<S, 6>(width, operands),
        7 => multiply_rows::<S, 7>(width, operands),
        8 => multiply_rows::<S, 8>(width, operands),
        9 => multiply_rows::<S, 9>(width, operands),
        10 => multiply_rows::<S, 10>(width, operands),
        11 => multiply_rows::<S, 11>(width, operands),
        12 => multiply_rows::<S, 12>(width, operands),
        rows => unreachable!("a tile of {rows} rows"),
    }
}

#[inline(always)]
fn multiply_rows<S: Simd, const M: usize>(width: usize, operands: Multiplication) {
    // `const`: what is never run is not compiled.
    if const { M > tile_rows::<1>(S::REGISTERS) } {
        unreachable!("a tile of {M} rows");
    }
    match width {
        1 => S::run(Multiply::<M, 1>(operands)),
        STRIP => S::run(Multiply::<M, STRIP>(operands)),
        width => unreachable!("a strip of {width} vectors"),
    }
}

/// [`multiply`] for `M` rows and `V` vectors. A function of its own, or else what surrounds it takes registers from the loop.
struct Multiply<'a, const M: usize, const V: usize>(Multiplication<'a>);

impl<const M: usize, const V: usize> Task for Multiply<'_, M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Multiplication { panel, matrix, sums, begin } = self.0;
        let steps = matrix.len() / M;
        assert!(panel.len() >= steps * V * S::LANES && sums.len() >= M * V * S::LANES);
        let (mut panel, mut matrix) = (panel.as_ptr(), matrix.as_ptr());
        let mut acc = [[S::splat(0.0); V]; M];
        if !begin {
            for m in 0..M {
                for v in 0..V {
                    // SAFETY: asserted above.
                    acc[m][v] = unsafe { S::load(sums.as_ptr().add((m * V + v) * S::LANES)) };
                }
            }
        }
        for _ in 0..steps {
            let mut values = [S::splat(0.0); V];
            for v in 0..V {
                // SAFETY: a step among those that are asserted above.
                values[v] = unsafe { S::load(panel.add(v * S::LANES)) };
            }
            for m in 0..M {
                // SAFETY: as above.
                let filter = S::splat(unsafe { *matrix.add(m) });
                for v in 0..V {
                    acc[m][v] = S::mul_add(filter, values[v], acc[m][v]);
                }
            }
            // SAFETY: the next step, or the end.
            (panel, matrix) = unsafe { (panel.add(V * S::LANES), matrix.add(M)) };
        }
        for m in 0..M {
            for v in 0..V {
                // SAFETY: asserted above.
                unsafe { S::store(sums.as_mut_ptr().add((m * V + v) * S::LANES), acc[m][v]) };
            }
        }
    }
}

/// Correlation of [`correlate`].
pub(super) struct Correlation<'a> {
    pub locations: usize,
    /// `[row][location]`, `row` floats from one row to the next.
    pub panel: &'a [f32],
    pub row: usize,
    /// `[location][channel]`, `strip` floats from one location to the next.
    pub left: &'a [f32],
    pub strip: usize,
    /// `[row][channel]`, `lanes` floats from one row to the next.
    pub sums: &'a mut [f32],
    pub lanes: usize,
}

/// The adjoint of [`multiply`] in the matrix: `sums[row] += Σ_location panel[row] · left`, of some rows and vectors of channels.
#[inline(always)]
pub(super) fn correlate<S: Simd>(rows: usize, vectors: usize, operands: Correlation) {
    match rows {
        1 => correlate_rows::<S, 1>(vectors, operands),
        2 => correlate_rows::<S, 2>(vectors, operands),
        3 => correlate_rows::<S, 3>(vectors, operands),
        4 => correlate_rows::<S, 4>(vectors, operands),
        5 => correlate_rows::<S, 5>(vectors, operands),
        6 => correlate_rows::<S, 6>(vectors, operands),
        7 => correlate_rows::<S, 7>(vectors, operands),
        8 => correlate_rows::<S, 8>(vectors, operands),
        9 => correlate_rows::<S, 9>(vectors, operands),
        10 => correlate_rows::<S, 10>(vectors, operands),
        11 => correlate_rows::<S, 11>(vectors, operands),
        12 => correlate_rows::<S, 12>(vectors, operands),
        rows => unreachable!("a tile of {rows} rows"),
    }
}

#[inline(always)]
fn correlate_rows<S: Simd, const M: usize>(vectors: usize, operands: Correlation) {
    // As in `multiply_rows`.
    if const { M > tile_rows::<1>(S::REGISTERS) } {
        unreachable!("a tile of {M} rows");
    }
    match vectors {
        1 => S::run(Correlate::<M, 1>(operands)),
        STRIP => S::run(Correlate::<M, STRIP>(operands)),
        vectors => unreachable!("a strip of {vectors} vectors"),
    }
}

/// [`correlate`] for `M` rows and `V` vectors. A function of its own, or else what surrounds it takes registers from the loop.
struct Correlate<'a, const M: usize, const V: usize>(Correlation<'a>);

impl<const M: usize, const V: usize> Task for Correlate<'_, M, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Correlation { locations, panel, row, left, strip, sums, lanes } = self.0;
        let reach = |rows: usize, step: usize, last: usize| (rows - 1) * step + last;
        assert!(locations > 0 && panel.len() >= reach(M, row, locations));
        assert!(left.len() >= reach(locations, strip, V * S::LANES) && sums.len() >= reach(M, lanes, V * S::LANES));
        let (mut panel, mut left) = (panel.as_ptr(), left.as_ptr());
        let mut acc = [[S::splat(0.0); V]; M];
        for _ in 0..locations {
            let mut values = [S::splat(0.0); V];
            for v in 0..V {
                // SAFETY: a location among those that are asserted above.
                values[v] = unsafe { S::load(left.add(v * S::LANES)) };
            }
            for m in 0..M {
                // SAFETY: as above.
                let sample = S::splat(unsafe { *panel.add(m * row) });
                for v in 0..V {
                    acc[m][v] = S::mul_add(sample, values[v], acc[m][v]);
                }
            }
            // The last step may lie outside.
            (panel, left) = (panel.wrapping_add(1), left.wrapping_add(strip));
        }
        for m in 0..M {
            for v in 0..V {
                // SAFETY: asserted above.
                unsafe {
                    let to = sums.as_mut_ptr().add(m * lanes + v * S::LANES);
                    S::store(to, S::add(S::load(to), acc[m][v]));
                }
            }
        }
    }
}
