//! How the CPU kernels go through memory: pieces of fixed size shared out over the cores, wide vectors within a piece.
//!
//! Neither choice may show in a result. Pieces are cut by size, never by the number of threads, and partial sums are
//! added in the order of the pieces. The wide versions are the same Rust code compiled again, and the compiler neither
//! reassociates nor fuses float operations, so sums keep one fixed set of [`LANES`] accumulators at every vector width.

use crate::{jobs::for_each_chunk, simd::wide};
use quarterturn_core::HostBuffer;
use rayon::prelude::*;

/// Elements that are worth handing to another core.
pub(crate) const PIECE: usize = 1 << 14;
/// Elements that are worth waking another core for. It is awake when one of rayon's threads calls.
const WAKING: usize = 1 << 17;

/// Whether so many elements are shared out.
fn is_shared_out(elements: usize) -> bool {
    elements > if rayon::current_thread_index().is_some() { PIECE } else { WAKING }
}

/// Accumulators of a sum: four of the widest vectors, enough to hide the latency of an addition.
pub(crate) const LANES: usize = 64;

/// From the number of a piece and what it reads, its results. (A pointer: see [`crate::jobs`].)
type OfPiece<'a> = &'a (dyn Fn(usize, &[f32], &mut [f32]) + Sync);
/// As [`OfPiece`], from two inputs.
type OfPieces<'a> = &'a (dyn Fn(usize, &[f32], &[f32], &mut [f32]) + Sync);

/// `value` where `condition` holds, else 0; without a branch, as [`select`].
#[inline(always)]
pub(crate) fn masked(condition: bool, value: f32) -> f32 {
    f32::from_bits(select(condition, value.to_bits(), 0))
}

/// `a` where `condition` holds, else `b`. Bit by bit: from an `if` the compiler may make a branch, which data that is
/// as random as a mask mispredicts half the time.
#[inline(always)]
pub(crate) fn select(condition: bool, a: u32, b: u32) -> u32 {
    let mask = u32::from(condition).wrapping_neg();
    (a & mask) | (b & !mask)
}

/// Calls `f(i, x_i, y_i)` for the pieces `x_i` of `x_len` and `y_i` of `y_len` elements; many pieces go to one job if
/// they are small.
pub(crate) fn for_each_piece(x: &[f32], x_len: usize, y: &mut [f32], y_len: usize, f: OfPiece) {
    if x.is_empty() || y.is_empty() {
        return;
    }
    if !is_shared_out(x.len().max(y.len())) {
        for (i, (x, y)) in x.chunks(x_len).zip(y.chunks_mut(y_len)).enumerate() {
            f(i, x, y);
        }
    } else {
        let pieces_per_job = PIECE.div_ceil(x_len.max(y_len));
        x.par_chunks(x_len)
            .zip(y.par_chunks_mut(y_len))
            .enumerate()
            .with_min_len(pieces_per_job)
            .for_each(|(i, (x, y))| f(i, x, y));
    }
}

/// As [`for_each_piece`], with two inputs cut alike: `f(i, a_i, b_i, y_i)`.
pub(crate) fn for_each_piece2(
    a: &[f32],
    a_len: usize,
    b: &[f32],
    b_len: usize,
    y: &mut [f32],
    y_len: usize,
    f: OfPieces,
) {
    if a.is_empty() || b.is_empty() || y.is_empty() {
        return;
    }
    if !is_shared_out(a.len().max(b.len()).max(y.len())) {
        for (i, ((a, b), y)) in a.chunks(a_len).zip(b.chunks(b_len)).zip(y.chunks_mut(y_len)).enumerate() {
            f(i, a, b, y);
        }
    } else {
        let pieces_per_job = PIECE.div_ceil(a_len.max(b_len).max(y_len));
        (a.par_chunks(a_len), b.par_chunks(b_len), y.par_chunks_mut(y_len))
            .into_par_iter()
            .enumerate()
            .with_min_len(pieces_per_job)
            .for_each(|(i, (a, b, y))| f(i, a, b, y));
    }
}

/// Calls `f(start, part)` for the parts of `y`, of which each begins at `start`: for operations that find themselves what
/// they read.
pub(crate) fn for_each_part(y: &mut [f32], f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    if y.len() <= PIECE {
        f(0, y);
    } else {
        for_each_chunk(y, PIECE, 1, &|i, part| f(i * PIECE, part));
    }
}

/// `y[i] = f(x[i])`.
pub(crate) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> HostBuffer {
    wide! {
        fn sweep<F: Fn(f32) -> f32>(x: &[f32], y: &mut [f32], f: &F) {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        }
    }
    let mut y = HostBuffer::scratch(x.len());
    for_each_piece(x, PIECE, &mut y, PIECE, &|_, x, y| sweep(x, y, &f));
    y
}

/// `y[i] = f(a[i], b[i])`.
pub(crate) fn zip(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32 + Sync + Send) -> HostBuffer {
    wide! {
        fn sweep<F: Fn(f32, f32) -> f32>(a: &[f32], b: &[f32], y: &mut [f32], f: &F) {
            for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
                *y = f(a, b);
            }
        }
    }
    let mut y = HostBuffer::scratch(a.len());
    for_each_piece2(a, PIECE, b, PIECE, &mut y, PIECE, &|_, a, b, y| sweep(a, b, y, &f));
    y
}

wide! {
    /// `y[i] ← y[i]·factors[i]`.
    pub(crate) fn multiply(y: &mut [f32], factors: &[f32]) {
        for (y, factor) in y.iter_mut().zip(factors) {
            *y *= factor;
        }
    }
}

wide! {
    /// `y[i] ← y[i] + more[i]`.
    pub(crate) fn add_to(y: &mut [f32], more: &[f32]) {
        for (y, more) in y.iter_mut().zip(more) {
            *y += more;
        }
    }
}

wide! {
    /// The sum of a piece: [`LANES`] accumulators in `f32`, added up in `f64`.
    pub(crate) fn lane_sum(x: &[f32]) -> f64 {
        lane_sums(x, |v| v)
    }
}

/// `Σ f(x)`: [`LANES`] accumulators in `f32`, added up in `f64`.
#[inline(always)]
pub(crate) fn lane_sums(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += f(chunk[lane]);
        }
    }
    for (lane, &v) in rest.iter().enumerate() {
        lanes[lane] += f(v);
    }
    total(&lanes)
}

/// The sum of a sum's accumulators, a multiple of eight of them.
#[inline(always)]
pub(crate) fn total(lanes: &[f32]) -> f64 {
    // Eight sums side by side: one alone would wait for every addition.
    let mut sums = [0f64; 8];
    for lanes in lanes.as_chunks::<8>().0 {
        for (sum, &lane) in sums.iter_mut().zip(lanes) {
            *sum += f64::from(lane);
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn to_wake_a_core_takes_more_than_to_hand_it_something() {
        assert_eq!([PIECE + 1, WAKING + 1].map(is_shared_out), [false, true]);
        assert_eq!(rayon::scope(|_| [PIECE, PIECE + 1].map(is_shared_out)), [false, true]);
    }
}
