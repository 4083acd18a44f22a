//! Nearest-neighbour resizing.

use crate::{index_select, index_select_vjp, plane::Planes};
use quarterturn_core::Tensor;

/// Nearest-neighbour resize to `height` × `width`, as PyTorch's `interpolate(mode="nearest-exact")`: along an axis of
/// `in` pixels, pixel o of `out` is a copy of pixel `⌊(o + ½)·in/out⌋`, in which its centre lies. `[…, H, W]` →
/// `[…, height, width]`. Gradient: [`resize_nearest_vjp`].
///
/// It commutes with turns and reflections, in every bit and on every device, where [`nearest_commutes`] along both
/// axes. Otherwise some centre lies on the edge between two pixels. The second of them is taken, which in a mirrored
/// image is the other one.
///
/// # Panics
/// With fewer than two axes, or where an extent is 0.
#[track_caller]
pub fn resize_nearest(x: &Tensor, height: usize, width: usize) -> Tensor {
    let planes = planes("resize_nearest", x, height, width);
    let rank = x.shape().rank();
    let rows = index_select(x, rank - 2, &nearest_pixels(planes.height, height));
    index_select(&rows, rank - 1, &nearest_pixels(planes.width, width))
}

/// Gradient of [`resize_nearest`]: each pixel gets the sum of the gradients of its copies. `height` and `width` are
/// those of the image before resizing.
///
/// # Panics
/// As [`resize_nearest`].
#[track_caller]
pub fn resize_nearest_vjp(dy: &Tensor, height: usize, width: usize) -> Tensor {
    let planes = planes("resize_nearest_vjp", dy, height, width);
    let rank = dy.shape().rank();
    let rows = index_select_vjp(dy, rank - 2, &nearest_pixels(height, planes.height), height);
    index_select_vjp(&rows, rank - 1, &nearest_pixels(width, planes.width), width)
}

/// Whether [`resize_nearest`] from `from` to `to` pixels along an axis commutes with mirroring that axis: iff `from`
/// has no more factors of 2 than `to`. (Centre o lies on an edge iff `2·to` divides `(2o + 1)·from`.)
pub fn nearest_commutes(from: usize, to: usize) -> bool {
    from.trailing_zeros() <= to.trailing_zeros()
}

#[track_caller]
fn planes(op: &str, x: &Tensor, height: usize, width: usize) -> Planes {
    let planes = Planes::of(op, x.shape());
    let shape = x.shape();
    assert!(planes.len() * height * width > 0, "{op}: expected extents above 0, got {shape:?} and {height}×{width}");
    planes
}

/// For each of `to` pixels, the index of the pixel of `from` that it copies.
pub fn nearest_pixels(from: usize, to: usize) -> Vec<usize> {
    (0..to).map(|o| (2 * o + 1) * from / (2 * to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{Tolerance, all_elements, check, check_adjoint, random, same_bits},
        transform_plane,
    };
    use quarterturn_core::Device;

    #[test]
    fn pixels_by_hand() {
        let x = Tensor::cpu([1, 4], vec![1.0, 2.0, 3.0, 4.0].into());
        assert_eq!(resize_nearest(&x, 2, 2).f32s(), [2.0, 4.0, 2.0, 4.0]);
        assert_eq!(resize_nearest(&x, 1, 3).f32s(), [1.0, 3.0, 4.0]);
        assert_eq!(resize_nearest(&x, 1, 8).f32s(), [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        let dy = Tensor::cpu([1, 3], vec![1.0, 2.0, 4.0].into());
        assert_eq!(resize_nearest_vjp(&dy, 1, 4).f32s(), [1.0, 0.0, 2.0, 4.0]);
    }

    #[test]
    fn parity_and_adjoint() {
        for (shape, [height, width]) in [([2, 3, 5, 7], [10, 3]), ([1, 1, 1, 1], [4, 5]), ([2, 1, 16, 9], [9, 33])] {
            let (x, dy) = (random(shape, 1), random([shape[0], shape[1], height, width], 2));
            let (name, [.., h, w]) = (format!("{shape:?} to {height}×{width}"), shape);
            check(&name, &[&x], Tolerance::Exact, |t| vec![resize_nearest(&t[0], height, width)]);
            check(&name, &[&dy], Tolerance::Terms(64), |t| vec![resize_nearest_vjp(&t[0], h, w)]);
            let back = |dy: &Tensor| resize_nearest_vjp(dy, h, w);
            check_adjoint(&name, shape, |x| resize_nearest(x, height, width), back);
        }
    }

    /// The rule, for all extents up to 40 and 60.
    #[test]
    fn the_factors_of_2_decide() {
        for (from, to) in (1..=40).flat_map(|from| (1..=60).map(move |to| (from, to))) {
            let (taken, mut mirrored) = (nearest_pixels(from, to), nearest_pixels(from, to));
            mirrored.reverse();
            let commutes = taken.iter().zip(mirrored).all(|(&taken, mirrored)| taken == from - 1 - mirrored);
            assert_eq!(commutes, nearest_commutes(from, to), "{from} to {to}");
        }
    }

    #[test]
    fn it_commutes_with_the_square_where_the_rule_says_so() {
        for device in quarterturn_core::testing::devices() {
            for (from, to) in [(3, 5), (5, 10), (6, 10), (6, 9), (8, 12), (4, 12), (7, 3), (12, 18)] {
                let x = random([2, from, from], 1).to_device(&device).unwrap();
                let y = resize_nearest(&x, to, to);
                let keeps =
                    |&g: &usize| same_bits(&resize_nearest(&transform_plane(&x, g), to, to), &transform_plane(&y, g));
                let all = all_elements().iter().all(keeps);
                assert_eq!(all, nearest_commutes(from, to), "{from} to {to} on {device}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "resize_nearest: expected extents above 0, got [2, 3] and 0×4")]
    fn nothing_is_refused() {
        resize_nearest(&Tensor::full([2, 3], 0.0, &Device::Cpu).unwrap(), 0, 4);
    }
}
