//! The two last axes of a tensor as a stack of planes.

use quarterturn_core::Shape;

/// `count` planes of `height` × `width`.
#[derive(Clone, Copy)]
pub(crate) struct Planes {
    pub count: usize,
    pub height: usize,
    pub width: usize,
}

impl Planes {
    /// The planes of a tensor of this shape.
    ///
    /// # Panics
    /// In the name of `op`, with fewer than two axes.
    #[track_caller]
    pub fn of(op: &str, shape: Shape) -> Self {
        let [leading @ .., height, width] = shape.dims() else { panic!("{op}: expected [..., H, W], got {shape:?}") };
        Planes { count: leading.iter().product(), height: *height, width: *width }
    }

    /// Elements of one plane.
    pub fn len(self) -> usize {
        self.height * self.width
    }
}

/// `shape` with the two last axes replaced.
pub(crate) fn with_planes(shape: Shape, height: usize, width: usize) -> Shape {
    let mut dims = shape.dims().to_vec();
    let rank = dims.len();
    dims[rank - 2..].copy_from_slice(&[height, width]);
    Shape::new(&dims)
}

/// `shape` without the two last axes.
pub(crate) fn without_planes(shape: Shape) -> Shape {
    Shape::new(&shape.dims()[..shape.rank() - 2])
}

/// The orbits of a `height` × `width` plane's positions under its own symmetries (all eight of the square, or the
/// four of a rectangle), in an order that those symmetries keep.
///
/// An orbit of eight is stored as two halves of four, one of four as one half: the positions `[a, b, c, d]` of a half
/// are two pairs of opposite points, and summing `(a + b) + (c + d)`, then the halves, gives the same bits whichever
/// symmetry moved the plane: each either keeps the operands of an addition or exchanges them.
pub(crate) fn orbits(height: usize, width: usize) -> Vec<Orbit> {
    let at = |y: usize, x: usize| y * width + x;
    let mut orbits = Vec::new();
    if height == width {
        let last = height.wrapping_sub(1);
        // y ≤ x ≤ last/2: one position of each orbit.
        for y in 0..height.div_ceil(2) {
            for x in y..height.div_ceil(2) {
                let half = |y: usize, x: usize| [at(y, x), at(last - y, last - x), at(x, last - y), at(last - x, y)];
                orbits.push(if last == 2 * y && last == 2 * x {
                    Orbit::One(at(y, x))
                } else if y == x || last == 2 * x {
                    Orbit::Four(half(y, x))
                } else {
                    Orbit::Eight(half(y, x), half(y, last - x))
                });
            }
        }
    } else {
        // The longer axis outside, so that a turned rectangle meets its orbits in the same order.
        let (long, short) = (height.max(width), height.min(width));
        let at = |i: usize, j: usize| if height > width { at(i, j) } else { at(j, i) };
        for i in 0..long.div_ceil(2) {
            for j in 0..short.div_ceil(2) {
                let (i2, j2) = (long - 1 - i, short - 1 - j);
                orbits.push(match (i == i2, j == j2) {
                    (true, true) => Orbit::One(at(i, j)),
                    (true, false) | (false, true) => Orbit::Two([at(i, j), at(i2, j2)]),
                    (false, false) => Orbit::Four([at(i, j), at(i2, j2), at(i, j2), at(i2, j)]),
                });
            }
        }
    }
    orbits
}

/// The positions of one orbit; see [`orbits`].
#[derive(Clone, Debug)]
pub(crate) enum Orbit {
    One(usize),
    Two([usize; 2]),
    Four([usize; 4]),
    Eight([usize; 4], [usize; 4]),
}

impl Orbit {
    /// The orbit with every position replaced.
    pub fn map(self, f: impl Fn(usize) -> usize) -> Self {
        match self {
            Orbit::One(a) => Orbit::One(f(a)),
            Orbit::Two(two) => Orbit::Two(two.map(f)),
            Orbit::Four(four) => Orbit::Four(four.map(f)),
            Orbit::Eight(first, second) => Orbit::Eight(first.map(&f), second.map(&f)),
        }
    }

    /// The positions, by halves; the second half is empty but of an orbit of eight.
    pub fn positions(&self) -> [&[usize]; 2] {
        match self {
            Orbit::One(a) => [std::slice::from_ref(a), &[]],
            Orbit::Two(two) => [two, &[]],
            Orbit::Four(four) => [four, &[]],
            Orbit::Eight(first, second) => [first, second],
        }
    }

    /// The sum of `v` over the orbit, in the order that the symmetries keep.
    #[inline(always)]
    pub fn sum(&self, v: impl Fn(usize) -> f32) -> f32 {
        let half = |[a, b, c, d]: [usize; 4]| (v(a) + v(b)) + (v(c) + v(d));
        match *self {
            Orbit::One(a) => v(a),
            Orbit::Two([a, b]) => v(a) + v(b),
            Orbit::Four(four) => half(four),
            Orbit::Eight(first, second) => half(first) + half(second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Group;

    #[test]
    fn orbits_partition_the_plane_and_are_closed_under_its_symmetries() {
        for (height, width) in (0..8).flat_map(|h| (0..8).map(move |w| (h, w))) {
            let mut seen = vec![0; height * width];
            for orbit in orbits(height, width) {
                let members = orbit.positions().concat();
                for &member in &members {
                    seen[member] += 1;
                    for g in Group::D4.elements().filter(|g| height == width || g % 2 == 0) {
                        let (y, x) = Group::move_entry(g, member / width, member % width, height, width);
                        assert!(members.contains(&(y * width + x)), "{height}x{width} g={g}");
                    }
                }
            }
            assert!(seen.iter().all(|&times| times == 1), "{height}x{width}: {seen:?}");
        }
    }
}
