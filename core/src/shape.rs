//! Shapes of tensors, and the formula for the output size of a sliding window.

use crate::{Error, Result};
use std::{fmt, ops::Index};

/// The most axes that a tensor can have.
pub const MAX_RANK: usize = 6;

/// Most elements of a tensor: their bytes as `f64` can be counted and addressed.
const MOST_ELEMENTS: usize = isize::MAX as usize / size_of::<f64>();

/// The extents (lengths of the axes) of a tensor, as `torch.Size`. The last axis is contiguous in memory.
///
/// The number of elements and of their bytes does not overflow: this is checked once, where a shape is made.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    extents: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape of these extents.
    ///
    /// # Panics
    /// Where [`Shape::try_new`] is an error.
    #[track_caller]
    pub fn new(extents: &[usize]) -> Self {
        Self::try_new(extents).unwrap_or_else(|error| panic!("Shape: {error}"))
    }

    /// As [`Shape::new`], with an error in place of the panic: for extents from a file or a user.
    ///
    /// # Errors
    /// [`Error::Invalid`] with more than [`MAX_RANK`] axes; [`Error::TooLarge`] if the extents, an extent of 0 counted
    /// as 1, come to more than `isize::MAX / 8` elements.
    pub fn try_new(extents: &[usize]) -> Result<Self> {
        if extents.len() > MAX_RANK {
            return Err(Error::Invalid(format!("expected at most {MAX_RANK} axes, got {extents:?}")));
        }
        // A part of the axes may be multiplied without those that are 0.
        let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)));
        if product.is_none_or(|product| product > MOST_ELEMENTS) {
            return Err(Error::TooLarge(format!("a tensor {extents:?}: expected at most {MOST_ELEMENTS} elements")));
        }
        let mut padded = [1; MAX_RANK];
        padded[..extents.len()].copy_from_slice(extents);
        Ok(Shape { extents: padded, rank: extents.len() })
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

impl AsRef<[usize]> for Shape {
    fn as_ref(&self) -> &[usize] {
        self.dims()
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
/// `o = ⌊(i + 2p − k) / s⌋ + 1` (Eq. 7 of Edixhoven et al. 2023, with padding), or `None` if not one fits,
/// `k` or `s` is zero, or the padded extent overflows.
pub fn window_extent(i: usize, k: usize, s: usize, p: usize) -> Option<usize> {
    free_extent(i, k, p)?.checked_div(s)?.checked_add(1)
}

/// `(i + 2p − k) mod s`: how many rows (or columns) at the end the last window does not reach. We say that the window
/// *leaves them over*. The layer commutes with quarter turns and mirroring iff this is 0 on both axes (Eq. 3 of
/// Edixhoven et al. 2023, with padding). `None` as in [`window_extent`].
pub fn window_residual(i: usize, k: usize, s: usize, p: usize) -> Option<usize> {
    free_extent(i, k, p)?.checked_rem(s)
}

/// `d(k − 1) + 1`: how many samples a filter of `k` taps with dilation `d` reaches over. `None` if `k` or `d` is zero,
/// or on overflow.
pub fn dilated_extent(k: usize, d: usize) -> Option<usize> {
    if d == 0 { None } else { k.checked_sub(1)?.checked_mul(d)?.checked_add(1) }
}

/// The output size of a transposed convolution on `i` samples: `s(i − 1) + k − 2p + r`, where `r` is the output
/// padding. For `r` below `s`, a convolution with the same window maps this size back to `i`, and leaves `r` over.
/// `None` if that is below 1, if `i`, `k` or `s` is zero, or on overflow.
pub fn transposed_extent(i: usize, k: usize, s: usize, p: usize, r: usize) -> Option<usize> {
    if k == 0 || s == 0 {
        return None;
    }
    let full = i.checked_sub(1)?.checked_mul(s)?.checked_add(k)?.checked_add(r)?;
    full.checked_sub(p.checked_mul(2)?).filter(|&extent| extent > 0)
}

/// `i + 2p − k`, how far a window can be moved; `None` if it does not fit, is of size zero, or the sum overflows.
fn free_extent(i: usize, k: usize, p: usize) -> Option<usize> {
    let padded = p.checked_mul(2)?.checked_add(i)?;
    if k == 0 { None } else { padded.checked_sub(k) }
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
        for (i, p) in [(4, usize::MAX / 2 + 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!((window_extent(i, 3, 1, p), window_residual(i, 3, 1, p)), (None, None), "i={i} p={p}");
        }
    }

    #[test]
    fn dilated_windows_reach_from_the_first_tap_to_the_last() {
        for (k, d) in (1..8).flat_map(|k| (1..8).map(move |d| (k, d))) {
            assert_eq!(dilated_extent(k, d), (0..k).map(|tap| tap * d + 1).max(), "k={k} d={d}");
        }
        for (k, d) in [(0, 1), (1, 0), (3, usize::MAX), (2, usize::MAX)] {
            assert_eq!(dilated_extent(k, d), None, "k={k} d={d}");
        }
    }

    #[test]
    fn transposed_windows_make_what_windows_are_made_of() {
        for (k, s, p, r) in
            (1..6).flat_map(|k| (1..4).flat_map(move |s| (0..4).flat_map(move |p| (0..s).map(move |r| (k, s, p, r)))))
        {
            for i in 1..8 {
                if let Some(made) = transposed_extent(i, k, s, p, r) {
                    assert_eq!((window_extent(made, k, s, p), window_residual(made, k, s, p)), (Some(i), Some(r)));
                } else {
                    assert!(s * (i - 1) + k + r <= 2 * p, "i={i} k={k} s={s} p={p} r={r}");
                }
            }
        }
        for (i, k, s, p) in [(0, 3, 1, 1), (4, 0, 1, 0), (4, 3, 0, 1), (usize::MAX, 3, 2, 0), (4, 3, 1, usize::MAX)] {
            assert_eq!(transposed_extent(i, k, s, p, 0), None, "i={i} k={k} s={s} p={p}");
        }
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

    #[test]
    fn no_product_of_extents_wraps() {
        for extents in [
            &[6148914691236518206, 3, 1, 1, 1][..],
            &[1 << 32, 1 << 32],
            &[1 << 61],
            &[usize::MAX],
            // Products of a part of the axes, and in another order.
            &[0, 1 << 32, 1 << 32],
            &[1 << 32, 1 << 32, 0],
            &[1 << 20; 4],
        ] {
            assert!(matches!(Shape::try_new(extents), Err(Error::TooLarge(_))), "{extents:?}");
        }
        assert!(matches!(Shape::try_new(&[1; 7]), Err(Error::Invalid(_))));
        let largest = Shape::new(&[MOST_ELEMENTS]);
        assert_eq!((largest.len(), largest.len().checked_mul(8).is_some()), (MOST_ELEMENTS, true));
        assert!(Shape::new(&[0, 1 << 30, 1 << 20]).is_empty());
    }

    #[test]
    #[should_panic(expected = "Shape: too large: a tensor [4294967296, 4294967296]")]
    fn a_shape_too_large_is_a_panic_in_code() {
        let _ = Shape::from([1 << 32, 1 << 32]);
    }
}
