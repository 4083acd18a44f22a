//! Padding along an axis, and its inverse, a part of an axis.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{axis::Along, sweep::for_each_piece};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

#[cfg(feature = "gpu")]
use quarterturn_core::Shape;
use quarterturn_core::{Device, HostBuffer, Tensor};

/// The kind of padding, for an axis of length E.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Padding {
    /// Zeros.
    #[default]
    Zeros,
    /// Mirrored at the first and last entry, which are not repeated: `x[−i] = x[i]`, `x[E − 1 + i] = x[E − 1 − i]`.
    Reflection,
    /// Periodic, from the other end: `x[−i] = x[E − i]`, `x[E − 1 + i] = x[i − 1]`.
    Circular,
}

/// Pads `axis`: `y[…, o, …] = x[…, o − before, …]`. Its length E becomes `before + E + after`. The new entries are as
/// `padding` says. Gradient: [`pad_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`; if a reflection is as long as the axis or a circular padding longer.
#[track_caller]
pub fn pad(x: &Tensor, axis: usize, before: usize, after: usize, padding: Padding) -> Tensor {
    let along = Along::of("pad", x.shape(), axis);
    let padded = Padded::new("pad", along, before, after, padding);
    if before + after == 0 {
        return x.clone();
    }
    let shape = along.with_extent(x.shape(), padded.extent());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let inner = along.inner;
            let (x_len, y_len) = (along.len(), padded.extent() * inner);
            if x_len == 0 {
                y.fill(0.0);
            }
            for_each_piece(x.f32s(), x_len.max(1), &mut y, y_len.max(1), &|_, x, y| {
                y[before * inner..][..x_len].copy_from_slice(x);
                for o in padded.beyond() {
                    let y = &mut y[o * inner..][..inner];
                    match padded.source(o) {
                        Some(i) => y.copy_from_slice(&x[i * inner..][..inner]),
                        None => y.fill(0.0),
                    }
                }
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let value = |i: usize| {
                let (outer, o, inner) = padded.position(i);
                padded.source(o).map_or(0.0, |i| x.f64s()[along.index(outer, i, inner)])
            };
            Tensor::reference(shape, (0..shape.len()).map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => padded.gpu(&gpu, "pad", x, shape),
    }
}

/// As [`pad`], by `amount` on all four sides of the two last axes. (Convolutions pad with zeros by themselves.)
/// Commutes with every symmetry of the square in every bit. Gradient: [`pad_plane_vjp`].
///
/// # Panics
/// As [`pad`], or with fewer than two axes.
#[track_caller]
pub fn pad_plane(x: &Tensor, amount: usize, padding: Padding) -> Tensor {
    let rank = x.shape().rank();
    assert!(rank >= 2, "pad_plane: expected [..., H, W], got {:?}", x.shape());
    pad(&pad(x, rank - 2, amount, amount, padding), rank - 1, amount, amount, padding)
}

/// The two last axes without their outermost `margin` places on all four sides: `y[…, i, j] = x[…, i + margin, j + margin]`. Commutes
/// with every symmetry of the square in every bit. Gradient: [`pad_plane`] by zeros, whose adjoint it is.
///
/// # Panics
/// With fewer than two axes, or if an extent is below twice the margin.
#[track_caller]
pub fn crop_plane(x: &Tensor, margin: usize) -> Tensor {
    let rank = x.shape().rank();
    assert!(rank >= 2, "crop_plane: expected [..., H, W], got {:?}", x.shape());
    [rank - 2, rank - 1].into_iter().fold(x.clone(), |x, axis| {
        let inner = x.shape()[axis].checked_sub(margin.saturating_mul(2));
        let inner =
            inner.unwrap_or_else(|| panic!("crop_plane: expected a margin within {:?}, got {margin}", x.shape()));
        narrow(&x, axis, margin, inner)
    })
}

/// Gradient of [`pad`]: each entry gets the sum of the gradients of its copies,
/// `dx[…, i, …] = Σ_o [o shows i] dy[…, o, …]`.
///
/// # Panics
/// As [`pad`], or if `axis` of `dy` is not longer than the padding.
#[track_caller]
pub fn pad_vjp(dy: &Tensor, axis: usize, before: usize, after: usize, padding: Padding) -> Tensor {
    let along = Along::of("pad_vjp", dy.shape(), axis);
    assert!(
        along.extent >= before + after,
        "pad_vjp: expected an axis longer than the padding {before} + {after}, got {:?}",
        dy.shape()
    );
    let extent = along.extent - before - after;
    if padding == Padding::Zeros {
        return narrow(dy, axis, before, extent);
    }
    if before + after == 0 {
        return dy.clone();
    }
    let shape = along.with_extent(dy.shape(), extent);
    let padded = Padded::new("pad_vjp", Along::of("pad_vjp", shape, axis), before, after, padding);
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(shape.len());
            let inner = along.inner;
            let (dx_len, dy_len) = (extent * inner, along.len());
            for_each_piece(dy.f32s(), dy_len.max(1), &mut dx, dx_len.max(1), &|_, dy, dx| {
                dx.copy_from_slice(&dy[before * inner..][..dx_len]);
                for o in padded.beyond() {
                    let i = padded.source(o).expect("nothing but zeros has no source");
                    for (dx, &dy) in dx[i * inner..][..inner].iter_mut().zip(&dy[o * inner..]) {
                        *dx += dy;
                    }
                }
            });
            Tensor::cpu(shape, dx)
        }
        Device::Reference => {
            let mut dx = vec![0.0; shape.len()];
            for (i, &dy) in dy.f64s().iter().enumerate() {
                let (outer, o, inner) = padded.position(i);
                let source = padded.source(o).expect("nothing but zeros has no source");
                dx[padded.x.index(outer, source, inner)] += dy;
            }
            Tensor::reference(shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => padded.gpu(&gpu, "pad_vjp", dy, shape),
    }
}

/// Gradient of [`pad_plane`].
///
/// # Panics
/// As [`pad_plane`], or if `dy` is not larger than the padding.
#[track_caller]
pub fn pad_plane_vjp(dy: &Tensor, amount: usize, padding: Padding) -> Tensor {
    let rank = dy.shape().rank();
    assert!(rank >= 2, "pad_plane_vjp: expected [..., H, W], got {:?}", dy.shape());
    pad_vjp(&pad_vjp(dy, rank - 1, amount, amount, padding), rank - 2, amount, amount, padding)
}

/// A slice, `y[…, i, …] = x[…, start + i, …]`: `len` entries of `axis`. Gradient: [`narrow_vjp`].
///
/// # Panics
/// If `axis` is not one of `x`, or does not have these places.
#[track_caller]
pub fn narrow(x: &Tensor, axis: usize, start: usize, len: usize) -> Tensor {
    let along = Along::of("narrow", x.shape(), axis);
    let end = start.saturating_add(len);
    assert!(end <= along.extent, "narrow: expected places of axis {axis} of {:?}, got {start}..{end}", x.shape());
    if len == along.extent {
        return x.clone();
    }
    let shape = along.with_extent(x.shape(), len);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let (first, y_len) = (start * along.inner, len * along.inner);
            for_each_piece(x.f32s(), along.len().max(1), &mut y, y_len.max(1), &|_, x, y| {
                y.copy_from_slice(&x[first..][..y_len]);
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let y = Along::of("narrow", shape, axis);
            let value = |i: usize| {
                let (outer, i, inner) = y.position(i);
                x.f64s()[along.index(outer, start + i, inner)]
            };
            Tensor::reference(shape, (0..shape.len()).map(value).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let words = [along.inner, along.extent, len, start, 0].map(|v| v as u32);
            launch::each(&gpu, launch::kernel("narrow", SHADER), &[], &[x], shape, &words)
        }
    }
}

/// Gradient of [`narrow`]: an axis of length `extent` with `dy` at its place and zeros elsewhere.
///
/// # Panics
/// If `axis` is not one of `dy`, or `extent` does not have these places.
#[track_caller]
pub fn narrow_vjp(dy: &Tensor, axis: usize, start: usize, extent: usize) -> Tensor {
    let end = start + Along::of("narrow_vjp", dy.shape(), axis).extent;
    assert!(end <= extent, "narrow_vjp: expected places of an axis of {extent}, got {start}..{end}");
    pad(dy, axis, start, extent - end, Padding::Zeros)
}

/// An axis and what stands beyond its ends.
struct Padded {
    x: Along,
    before: usize,
    after: usize,
    padding: Padding,
}

impl Padded {
    #[track_caller]
    fn new(op: &str, x: Along, before: usize, after: usize, padding: Padding) -> Self {
        let most = match padding {
            Padding::Zeros => usize::MAX,
            Padding::Reflection => x.extent.saturating_sub(1),
            Padding::Circular => x.extent,
        };
        assert!(
            before.max(after) <= most,
            "{op}: expected at most {most} of {padding:?} beyond an axis of {}, got {before} and {after}",
            x.extent
        );
        Padded { x, before, after, padding }
    }

    /// Extent of the result.
    fn extent(&self) -> usize {
        self.before + self.x.extent + self.after
    }

    /// The result's places beyond the ends.
    fn beyond(&self) -> impl Iterator<Item = usize> {
        (0..self.before).chain(self.before + self.x.extent..self.extent())
    }

    /// Which place of the axis stands at place `o` of the result.
    fn source(&self, o: usize) -> Option<usize> {
        let (before, extent) = (self.before, self.x.extent);
        if (before..before + extent).contains(&o) {
            return Some(o - before);
        }
        match self.padding {
            Padding::Zeros => None,
            Padding::Reflection if o < before => Some(before - o),
            Padding::Reflection => Some(before + 2 * (extent - 1) - o),
            Padding::Circular if o < before => Some(o + extent - before),
            Padding::Circular => Some(o - before - extent),
        }
    }

    /// The outer index, the place along the axis and the inner index of element `i` of the result.
    fn position(&self, i: usize) -> (usize, usize, usize) {
        Along { extent: self.extent(), ..self.x }.position(i)
    }

    #[cfg(feature = "gpu")]
    fn gpu(&self, gpu: &Gpu, name: &'static str, operand: &Tensor, shape: Shape) -> Tensor {
        let padding = match self.padding {
            Padding::Zeros => 0,
            Padding::Reflection => 1,
            Padding::Circular => 2,
        };
        let words = [self.x.inner, self.x.extent, self.extent(), self.before, padding].map(|v| v as u32);
        launch::each(gpu, launch::kernel(name, SHADER), &[], &[operand], shape, &words)
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("pad.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_adjoint, check_equivariant, random};

    const PADDINGS: [Padding; 3] = [Padding::Zeros, Padding::Reflection, Padding::Circular];

    /// Shape, axis, before, after.
    const CASES: [(&[usize], usize, usize, usize); 12] = [
        (&[5], 0, 0, 0),
        (&[5], 0, 2, 0),
        (&[5], 0, 0, 4),
        (&[5], 0, 4, 4),
        (&[2], 0, 1, 1),
        (&[2, 3, 4], 1, 2, 1),
        (&[2, 3, 4], 0, 1, 1),
        (&[2, 3, 4, 5, 6], 3, 1, 2),
        (&[2, 3, 4, 5, 6], 4, 3, 1),
        (&[2, 3, 4, 17, 64], 4, 1, 1),
        (&[7, 3, 4, 17, 65], 3, 2, 2),
        (&[0, 3], 1, 1, 1),
    ];

    #[test]
    fn parity_and_adjoint() {
        for (dims, axis, before, after) in CASES {
            for padding in PADDINGS {
                let name = format!("{dims:?}, axis {axis}, {before} + {after} {padding:?}");
                let there = |x: &Tensor| pad(x, axis, before, after, padding);
                let back = |dy: &Tensor| pad_vjp(dy, axis, before, after, padding);
                let x = random(dims, 1);
                check(&name, &[&x], Tolerance::Exact, |t| vec![there(&t[0])]);
                check(&name, &[&there(&x)], Tolerance::Terms(3), |t| vec![back(&t[0])]);
                check_adjoint(&name, dims, there, back);
            }
            let (name, extent) = (format!("{dims:?}, axis {axis}"), dims[axis]);
            for (start, len) in [(0, extent), (0, 1), (extent - 1, 1), (extent / 2, extent - extent / 2), (1, 0)] {
                let there = |x: &Tensor| narrow(x, axis, start, len);
                let back = |dy: &Tensor| narrow_vjp(dy, axis, start, extent);
                check(&name, &[&random(dims, 1)], Tolerance::Exact, |t| vec![there(&t[0])]);
                check_adjoint(&format!("{name}, {len} from {start}"), dims, there, back);
            }
        }
    }

    #[test]
    fn the_middle_is_the_adjoint_of_zeros_around_it() {
        for (shape, margin) in [([2, 3, 9, 7], 3), ([1, 2, 2, 6], 0), ([2, 1, 70, 33], 16)] {
            let (name, there) = (format!("{shape:?} without {margin}"), |x: &Tensor| crop_plane(x, margin));
            check(&name, &[&random(shape, 1)], Tolerance::Exact, |t| vec![there(&t[0])]);
            check_adjoint(&name, shape, there, |dy| pad_plane(dy, margin, Padding::Zeros));
        }
        let x = Tensor::cpu([3, 4], (0..12u8).map(f32::from).collect::<Vec<_>>().into());
        assert_eq!(crop_plane(&x, 1).f32s(), [5.0, 6.0]);
    }

    #[test]
    #[should_panic(expected = "crop_plane: expected a margin within [2, 3], got 2")]
    fn a_margin_beyond_the_middle_is_refused() {
        crop_plane(&random([2, 3], 1), 2);
    }

    /// What is the same on all sides commutes, what is not does not.
    #[test]
    fn every_bit_is_kept_under_all_symmetries() {
        for (height, width) in [(2, 2), (5, 5), (4, 7), (6, 6)] {
            for padding in PADDINGS {
                let name = format!("{height}x{width} {padding:?}");
                let shape = [2, 3, height, width];
                check_equivariant(&name, shape, &all_elements(), true, |x| pad_plane(x, 1, padding));
                check_equivariant(&name, shape, &all_elements(), false, |x| pad(x, 3, 1, 0, padding));
                check_equivariant(&name, shape, &all_elements(), true, |x| pad(x, 1, 1, 2, Padding::Zeros));
            }
        }
        for (height, width) in [(3, 3), (5, 5), (4, 7), (6, 6)] {
            let name = format!("the middle of {height}x{width}");
            check_equivariant(&name, [2, 3, height, width], &all_elements(), true, |x| crop_plane(x, 1));
        }
        check_equivariant("a corner", [2, 5, 5], &all_elements(), false, |x| narrow(&narrow(x, 1, 0, 3), 2, 0, 3));
    }

    #[test]
    fn paddings_by_hand() {
        let x = Tensor::cpu([4], vec![1.0, 2.0, 3.0, 4.0].into());
        let padded = |padding| pad(&x, 0, 2, 3, padding).to_vec().unwrap();
        assert_eq!(padded(Padding::Zeros), [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0]);
        assert_eq!(padded(Padding::Reflection), [3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(padded(Padding::Circular), [3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0]);
        assert_eq!(narrow(&x, 0, 1, 2).f32s(), [2.0, 3.0]);
        let none = Tensor::cpu([0, 2], vec![].into());
        assert_eq!(pad(&none, 0, 1, 1, Padding::Zeros).f32s(), [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "pad: expected at most 2 of Reflection beyond an axis of 3, got 1 and 3")]
    fn a_reflection_longer_than_the_axis_is_refused() {
        pad(&random([2, 3], 1), 1, 1, 3, Padding::Reflection);
    }

    #[test]
    #[should_panic(expected = "narrow: expected places of axis 1 of [2, 3], got 2..4")]
    fn places_beyond_the_axis_are_refused() {
        narrow(&random([2, 3], 1), 1, 2, 2);
    }
}
