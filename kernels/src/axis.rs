//! A tensor along one of its axes.

use quarterturn_core::Shape;

/// A tensor as `[outer, extent, inner]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Along {
    pub axis: usize,
    /// Product of the axes before.
    pub outer: usize,
    pub extent: usize,
    /// Product of the axes behind: how far a step along the axis goes.
    pub inner: usize,
}

impl Along {
    /// # Panics
    /// In the name of `op`, if the shape does not have this axis.
    #[track_caller]
    pub fn of(op: &str, shape: Shape, axis: usize) -> Self {
        assert!(axis < shape.rank(), "{op}: expected an axis below {}, got {axis} of {shape:?}", shape.rank());
        let (outer, inner) = (&shape.dims()[..axis], &shape.dims()[axis + 1..]);
        Along { axis, outer: outer.iter().product(), extent: shape[axis], inner: inner.iter().product() }
    }

    /// Elements of one outer index.
    pub fn len(self) -> usize {
        self.extent * self.inner
    }

    /// `shape` with another extent of this axis.
    pub fn with_extent(self, shape: Shape, extent: usize) -> Shape {
        let mut dims = shape.dims().to_vec();
        dims[self.axis] = extent;
        Shape::new(&dims)
    }

    /// `shape` without this axis.
    pub fn without(self, shape: Shape) -> Shape {
        let mut dims = shape.dims().to_vec();
        dims.remove(self.axis);
        Shape::new(&dims)
    }

    /// Where these indices lie.
    pub fn index(self, outer: usize, place: usize, inner: usize) -> usize {
        (outer * self.extent + place) * self.inner + inner
    }

    /// The values along the axis at `place` of outer and inner indices together.
    pub fn column<T: Copy>(self, x: &[T], place: usize) -> Vec<T> {
        let (outer, inner) = (place / self.inner, place % self.inner);
        (0..self.extent).map(|k| x[self.index(outer, k, inner)]).collect()
    }

    /// The outer index, the place along the axis and the inner index of element `i`.
    pub fn position(self, i: usize) -> (usize, usize, usize) {
        (i / self.len(), i / self.inner % self.extent, i % self.inner)
    }
}
