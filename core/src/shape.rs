//! Extents of a dense row-major tensor, and the one formula for the output extent of a sliding window.

use std::{fmt, ops::Index};

/// Most axes a tensor can have: `[N, C, G, H, W]` and one to spare.
pub const MAX_RANK: usize = 6;

/// The extents of a dense row-major tensor; the last axis is contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape of these extents.
    ///
    /// # Panics
    /// With more than [`MAX_RANK`] axes.
    #[track_caller]
    pub fn new(extents: &[usize]) -> Self {
        assert!(extents.len() <= MAX_RANK, "Shape: at most {MAX_RANK} axes, got {extents:?}");
        let mut padded = [1; MAX_RANK];
        padded[..extents.len()].copy_from_slice(extents);
        Shape { extents: padded, rank: extents.len() }
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.extents[..self.rank]
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims().iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.dims()[axis]
    }
}

impl<const R: usize> From<[usize; R]> for Shape {
    #[track_caller]
    fn from(extents: [usize; R]) -> Self {
        Shape::new(&extents)
    }
}

impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(extents: &[usize]) -> Self {
        Shape::new(extents)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Number of windows of size `k` at stride `s` on `i` samples padded by `p` on both sides:
/// `o = ⌊(i + 2p − k) / s⌋ + 1` (Eq. 7 of Edixhoven et al. 2023, with padding), or `None` if not one fits
/// or `k` or `s` is zero.
pub fn window_extent(i: usize, k: usize, s: usize, p: usize) -> Option<usize> {
    if k == 0 || s == 0 { None } else { (i + 2 * p).checked_sub(k).map(|free| free / s + 1) }
}

/// `(i + 2p − k) mod s`: how many samples the last window leaves over. The layer commutes with quarter turns and
/// mirroring iff this is 0 on both axes (Eq. 3 of Edixhoven et al. 2023, with padding). `None` as in [`window_extent`].
pub fn window_residual(i: usize, k: usize, s: usize, p: usize) -> Option<usize> {
    if k == 0 || s == 0 { None } else { (i + 2 * p).checked_sub(k).map(|free| free % s) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_extent_counts_the_windows_that_fit() {
        for (i, k, s, p) in
            (1..12).flat_map(|i| (1..6).flat_map(move |k| (1..4).flat_map(move |s| (0..3).map(move |p| (i, k, s, p)))))
        {
            let starts = (0..i + 2 * p).step_by(s).filter(|j| j + k <= i + 2 * p).count();
            assert_eq!(window_extent(i, k, s, p), (starts > 0).then_some(starts), "i={i} k={k} s={s} p={p}");
        }
        assert_eq!(window_extent(4, 2, 0, 0), None);
        assert_eq!(window_extent(4, 0, 1, 0), None);
    }

    #[test]
    fn residual_of_the_papers_examples() {
        assert_eq!(window_residual(5, 2, 2, 0), Some(1)); // Figure 1
        assert_eq!(window_residual(33, 3, 2, 1), Some(0)); // Figure 3
        assert_eq!(window_residual(32, 3, 2, 1), Some(1));
    }

    #[test]
    fn shape_multiplies_and_indexes() {
        let shape = Shape::from([2, 3, 5]);
        assert_eq!((shape.len(), shape.rank(), shape[1]), (30, 3, 3));
        assert_eq!(Shape::new(&[]).len(), 1);
        assert!(Shape::from([2, 0]).is_empty());
    }
}
