//! Strides of operands that are broadcast, permuted or reduced.
//!
//! A place is an index into extents, and each operand has a stride for every axis (0: the same value all along it). Axes
//! are joined wherever every operand steps evenly through both, so that what remains is as few and as long as can be.

use quarterturn_core::{MAX_RANK, Shape};
use std::ops::Range;

/// Extents, and for each of `N` operands the strides along them; the last axis is the innermost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strided<const N: usize> {
    axes: [Axis<N>; MAX_RANK],
    rank: usize,
}

#[derive(Clone, Copy, Debug)]
struct Axis<const N: usize> {
    extent: usize,
    strides: [usize; N],
}

impl<const N: usize> Strided<N> {
    /// Axes as (extent, strides), the outermost first. There is always one left, if only of extent 1.
    pub fn new(axes: impl IntoIterator<Item = (usize, [usize; N])>) -> Self {
        let one = Axis { extent: 1, strides: [0; N] };
        let mut joined = Strided { axes: [one; MAX_RANK], rank: 0 };
        for (extent, strides) in axes.into_iter().filter(|&(extent, _)| extent != 1) {
            match joined.axes[..joined.rank].last_mut() {
                Some(outer) if (0..N).all(|i| outer.strides[i] == extent * strides[i]) => {
                    *outer = Axis { extent: outer.extent * extent, strides };
                }
                _ => {
                    joined.axes[joined.rank] = Axis { extent, strides };
                    joined.rank += 1;
                }
            }
        }
        joined.rank = joined.rank.max(1);
        joined
    }

    /// Number of places.
    pub fn len(&self) -> usize {
        self.axes().iter().map(|axis| axis.extent).product()
    }

    /// The stride of every operand along the innermost axis.
    pub fn inner_strides(&self) -> [usize; N] {
        self.axes[self.rank - 1].strides
    }

    /// The extent of the innermost axis.
    pub fn inner_extent(&self) -> usize {
        self.axes[self.rank - 1].extent
    }

    /// Where place `i` lies in every operand.
    pub fn offsets(&self, i: usize) -> [usize; N] {
        let (mut rest, mut offsets) = (i, [0; N]);
        for axis in self.axes().iter().rev() {
            let at = rest % axis.extent;
            rest /= axis.extent;
            for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                *offset += at * stride;
            }
        }
        offsets
    }

    /// Cuts `places` at the ends of the innermost axis: `f(run, offsets)`, where `run` counts from the first place, and
    /// `offsets` are those of the run's first place.
    pub fn for_each_run(&self, places: Range<usize>, mut f: impl FnMut(Range<usize>, [usize; N])) {
        let (outer, inner) = (&self.axes[..self.rank - 1], self.axes[self.rank - 1]);
        if places.is_empty() {
            return;
        }
        // The row that the next run is in: its index along each outer axis, and its offsets.
        let (mut row, mut column) = (places.start / inner.extent, places.start % inner.extent);
        let (mut at, mut offsets) = ([0; MAX_RANK], [0; N]);
        for (at, axis) in at.iter_mut().zip(outer).rev() {
            *at = row % axis.extent;
            row /= axis.extent;
            for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                *offset += *at * stride;
            }
        }
        let mut done = 0;
        loop {
            let len = (inner.extent - column).min(places.len() - done);
            let mut first = offsets;
            for (offset, stride) in first.iter_mut().zip(inner.strides) {
                *offset += column * stride;
            }
            f(done..done + len, first);
            done += len;
            if done == places.len() {
                return;
            }
            column = 0;
            for (at, axis) in at.iter_mut().zip(outer).rev() {
                let ends = *at + 1 == axis.extent;
                for (offset, stride) in offsets.iter_mut().zip(axis.strides) {
                    *offset = if ends { *offset - *at * stride } else { *offset + stride };
                }
                *at = if ends { 0 } else { *at + 1 };
                if !ends {
                    break;
                }
            }
        }
    }

    fn axes(&self) -> &[Axis<N>] {
        &self.axes[..self.rank]
    }
}

/// The words of `strided.wgsl`'s uniform: one or two lists of axes, and up to four words that are the kernel's own.
#[cfg(feature = "gpu")]
pub(crate) fn words<const N: usize, const OWN: usize>(
    first: &Strided<N>,
    second: Option<&Strided<N>>,
    own: [u32; OWN],
) -> Vec<u32> {
    let mut words = vec![first.rank as u32, second.map_or(0, |second| second.rank as u32), 0, 0];
    words.extend(own);
    words.resize(8, 0);
    for axis in [Some(first), second].into_iter().flatten().flat_map(|strided| strided.axes().iter().rev()) {
        let mut axis_words = [axis.extent as u32, 0, 0, 0];
        for (word, stride) in axis_words[1..].iter_mut().zip(axis.strides) {
            *word = stride as u32;
        }
        words.extend(axis_words);
    }
    words.resize(8 + 4 * GPU_AXES, 0);
    words
}

/// Axes in the uniform of `strided.wgsl`: two lists may each be left with one of extent 1.
#[cfg(feature = "gpu")]
const GPU_AXES: usize = MAX_RANK + 2;

/// The strides of a dense tensor.
pub(crate) fn dense(shape: Shape) -> [usize; MAX_RANK] {
    let mut strides = [0; MAX_RANK];
    let mut stride = 1;
    for (axis, &extent) in shape.dims().iter().enumerate().rev() {
        strides[axis] = stride;
        stride *= extent;
    }
    strides
}

/// The strides by which a tensor of shape `x` is read along `y`, which it is spread over: 0 where its extent is 1 or the
/// axis is missing. `None` if it does not spread.
pub(crate) fn spread(x: Shape, y: Shape) -> Option<[usize; MAX_RANK]> {
    let missing = y.rank().checked_sub(x.rank())?;
    let own = dense(x);
    let mut strides = [0; MAX_RANK];
    for (axis, &extent) in x.dims().iter().enumerate() {
        match extent {
            _ if extent == y[missing + axis] => strides[missing + axis] = own[axis],
            1 => {}
            _ => return None,
        }
    }
    Some(strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(strided: &Strided<2>) -> Vec<[usize; 2]> {
        (0..strided.len()).map(|i| strided.offsets(i)).collect()
    }

    #[test]
    fn axes_are_joined_where_every_operand_steps_evenly() {
        let strided = Strided::new([(2, [12, 3]), (3, [4, 1]), (4, [1, 0])]);
        assert_eq!((strided.rank, strided.axes[0].extent, strided.inner_extent()), (2, 6, 4));
        assert_eq!(strided.inner_strides(), [1, 0]);
        let apart: Vec<_> = (0..24).map(|i| [i, i / 4]).collect();
        assert_eq!(places(&strided), apart);
        assert_eq!(Strided::<1>::new([(1, [5]), (1, [7])]).len(), 1);
    }

    #[test]
    fn runs_pass_every_place_once_wherever_they_begin() {
        let strided = Strided::new([(3, [1, 0]), (2, [40, 3]), (1, [9, 9]), (5, [3, 1])]);
        let all = places(&strided);
        for start in 0..=all.len() {
            for end in start..=all.len() {
                let mut passed = Vec::new();
                let [a, b] = strided.inner_strides();
                strided.for_each_run(start..end, |run, offsets| {
                    assert_eq!(run.start, passed.len());
                    passed.extend((0..run.len()).map(|i| [offsets[0] + i * a, offsets[1] + i * b]));
                });
                assert_eq!(passed, all[start..end], "{start}..{end}");
            }
        }
    }
}
