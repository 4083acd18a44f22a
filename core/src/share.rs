//! Which batches belong to which of several processes that train together.

use crate::{Error, Result};

/// Says which of the batches of an epoch belong to one of several processes (ranks) that train together.
///
/// Batches come in groups of `group`: the micro-batches of one step. The places in a group are numbered from 0. Rank
/// `r` of `R` has the places from `r·group/R` up to, but not including, `(r+1)·group/R` of each group. So each batch
/// belongs to exactly one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    rank: usize,
    ranks: usize,
    group: usize,
}

impl Share {
    /// The share of rank `rank`, from 0, of `ranks`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `ranks` is no power of two or does not divide `group`, or there is no such rank.
    pub fn new(rank: usize, ranks: usize, group: usize) -> Result<Self> {
        if !ranks.is_power_of_two() {
            return Err(Error::Invalid(format!("{ranks} processes: expected a power of two, 1, 2, 4, 8, …")));
        }
        if group == 0 || !group.is_multiple_of(ranks) {
            return Err(Error::Invalid(format!(
                "{group} micro-batches per step cannot be shared by {ranks} processes: expected a multiple of {ranks}"
            )));
        }
        if rank >= ranks {
            return Err(Error::Invalid(format!("rank {rank} of {ranks} processes: expected a rank below {ranks}")));
        }
        Ok(Share { rank, ranks, group })
    }

    /// How many places of each group this rank has.
    pub fn places(&self) -> usize {
        self.group / self.ranks
    }

    /// The first of this rank's places in each group.
    pub fn first(&self) -> usize {
        self.rank * self.places()
    }

    /// Whether batch number `batch` of the epoch belongs to this rank.
    pub fn has(&self, batch: usize) -> bool {
        (self.first()..self.first() + self.places()).contains(&(batch % self.group))
    }

    /// How many of the first `batches` batches of the epoch belong to this rank.
    pub fn count(&self, batches: usize) -> usize {
        let (whole, rest) = (batches / self.group, batches % self.group);
        whole * self.places() + rest.saturating_sub(self.first()).min(self.places())
    }

    /// The number in the epoch of this rank's batch `n`. Both are counted from 0.
    pub fn nth(&self, n: usize) -> usize {
        n / self.places() * self.group + self.first() + n % self.places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_batch_belongs_to_one_rank() {
        for (ranks, group) in [(1, 1), (1, 5), (2, 6), (4, 4), (4, 8)] {
            let shares: Vec<Share> = (0..ranks).map(|rank| Share::new(rank, ranks, group).unwrap()).collect();
            for batches in 0..3 * group {
                assert_eq!(shares.iter().map(|share| share.count(batches)).sum::<usize>(), batches);
                assert_eq!(shares.iter().filter(|share| share.has(batches)).count(), 1, "batch {batches}");
                for share in &shares {
                    let own: Vec<usize> = (0..batches).filter(|&batch| share.has(batch)).collect();
                    let counted: Vec<usize> = (0..share.count(batches)).map(|n| share.nth(n)).collect();
                    assert_eq!(own, counted, "{share:?} of {batches}");
                }
            }
        }
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        for (rank, ranks, group, expected) in [
            (0, 3, 6, "3 processes: expected a power of two"),
            (0, 0, 6, "0 processes"),
            (0, 4, 6, "6 micro-batches per step cannot be shared by 4 processes"),
            (0, 1, 0, "0 micro-batches"),
            (2, 2, 4, "rank 2 of 2 processes"),
        ] {
            let error = Share::new(rank, ranks, group).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
