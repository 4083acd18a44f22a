//! Several processes that train one network together: what they say to each other, and sums that do not depend on their number.

use quarterturn_core::{Error, Result};
use std::{fmt, ops::Add};

/// How one of several processes that train a network together talks to the others. Each process is called a rank.
/// [`Alone`] is for a single process. The examples implement this trait with MPI.
///
/// All ranks make the same calls of [`crate::training::Trainer`] in the same order. They hold the same network and make
/// the same steps. Each computes the gradients of its own micro-batches only ([`quarterturn_core::Share`]). If a rank
/// gets an error, your program must end all ranks, because the others would wait for it forever.
pub trait Ranks: fmt::Debug + Send + Sync {
    /// The number of this rank, from 0. Rank 0 writes the files.
    fn rank(&self) -> usize;

    /// The number of ranks: a power of two.
    fn size(&self) -> usize;

    /// Sends `mine` to rank `partner`, and fills `theirs` with what the partner sends. The partner makes the same call,
    /// with this rank as its partner. Returns when both messages have arrived. Their lengths in bytes may differ; each
    /// rank knows both lengths beforehand.
    ///
    /// # Errors
    /// If the partner cannot be reached.
    fn exchange(&self, partner: usize, mine: &[u8], theirs: &mut [u8]) -> Result<()>;
}

/// The only rank of a run on one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Ranks for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, partner: usize, _: &[u8], _: &mut [u8]) -> Result<()> {
        Err(Error::Invalid(format!("there is no rank {partner}: this process trains alone")))
    }
}

/// The sum of what `leaf` makes of the places `from .. from + len`, some of which may have nothing, in a fixed binary tree:
///
/// `tree(from, len) = tree(from, len/2) + tree(from + len/2, len − len/2)`.
///
/// Places are asked for in order, and no more than log₂ len + 1 sums are held at a time. Where `len` is a multiple of R = 2ᵏ, the
/// ranges of R equal parts are nodes of the tree, so that R ranks can compute one each and [`add_over_ranks`] the rest.
pub(super) fn tree<T>(
    from: usize,
    len: usize,
    leaf: &mut impl FnMut(usize) -> Result<Option<T>>,
    add: &impl Fn(T, T) -> Result<T>,
) -> Result<Option<T>> {
    if len == 1 {
        return leaf(from);
    }
    let left = tree(from, len / 2, leaf, add)?;
    let right = tree(from + len / 2, len - len / 2, leaf, add)?;
    match (left, right) {
        (Some(left), Some(right)) => add(left, right).map(Some),
        (left, right) => Ok(left.or(right)),
    }
}

/// What changes no number that it is added to, −0 included: it stands for a place that has nothing.
pub(super) const NOTHING: f32 = -0.0;

/// Replaces `values` on every rank by their sums over the ranks, in a fixed binary tree: neighbours first, then pairs
/// of neighbours, and so on. The left operand is that of the lower rank. This tree is the upper part of the tree of
/// [`crate::training::Training::micro_batches`]. All ranks pass equally many values. The number of ranks is a power of
/// two.
///
/// Each sum is computed by one rank alone. At distance 1, 2, 4, … two partners split the values that they have still to
/// add up: each sends one half to the other, and adds the half that it receives to the half that it keeps. Then the
/// sums travel back the same way. So a rank sends and receives 2·(R − 1)/R of the values in 2·log₂ R messages, as
/// little as any sum over all ranks can (Rabenseifner 2004, "Optimization of collective reduction operations").
///
/// # Errors
/// As [`Ranks::exchange`].
pub fn add_over_ranks<T>(ranks: &dyn Ranks, values: &mut [T]) -> Result<()>
where
    T: bytemuck::Pod + Add<Output = T>,
{
    let mut part = 0..values.len();
    let mut splits = Vec::new();
    let distances = (0..ranks.size().ilog2()).map(|level| 1usize << level);
    for distance in distances {
        let (partner, is_lower) = (ranks.rank() ^ distance, ranks.rank() & distance == 0);
        let middle = part.start + part.len() / 2;
        let (lower, upper) = (part.start..middle, middle..part.end);
        let (keep, give) = if is_lower { (lower, upper) } else { (upper, lower) };
        let mut theirs = vec![T::zeroed(); keep.len()];
        ranks.exchange(partner, bytemuck::cast_slice(&values[give.clone()]), bytemuck::cast_slice_mut(&mut theirs))?;
        for (mine, theirs) in values[keep.clone()].iter_mut().zip(theirs) {
            *mine = if is_lower { *mine + theirs } else { theirs + *mine };
        }
        splits.push((partner, is_lower, part, middle));
        part = keep;
    }
    for (partner, is_lower, part, middle) in splits.into_iter().rev() {
        let (lower, upper) = values[part.clone()].split_at_mut(middle - part.start);
        let (mine, theirs) = if is_lower { (lower, upper) } else { (upper, lower) };
        ranks.exchange(partner, bytemuck::cast_slice(mine), bytemuck::cast_slice_mut(theirs))?;
    }
    Ok(())
}

/// Returns on every rank once all have called it.
///
/// # Errors
/// As [`Ranks::exchange`].
pub(super) fn wait_for_all(ranks: &dyn Ranks) -> Result<()> {
    add_over_ranks(ranks, &mut [0u64])
}

/// Whether all ranks have the same `bytes`. If not, at least one is told so.
///
/// # Errors
/// As [`Ranks::exchange`].
pub(super) fn are_the_same(ranks: &dyn Ranks, bytes: impl Iterator<Item = u8>) -> Result<bool> {
    // FNV-1a, folded so that the sum has room.
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mine = u64::from((hash >> 32) as u32 ^ hash as u32);
    let mut sum = [mine];
    add_over_ranks(ranks, &mut sum)?;
    Ok(sum[0] == mine * ranks.size() as u64)
}
