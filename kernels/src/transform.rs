//! Turning and flipping tensors by elements of a group.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    Group,
    plane::{Planes, with_planes},
    sweep::for_each_piece,
};
#[cfg(feature = "gpu")]
use quarterturn_core::{Shape, gpu::Gpu};

use quarterturn_core::{Device, HostBuffer, Tensor};

/// Turns and flips the two last axes by element g: `g` quarter turns counter-clockwise for g from 0 to 3
/// (`torch.rot90`), and for 4 to 7 `g − 4` quarter turns and a flip from top to bottom. Height and width of rectangles
/// are exchanged by odd numbers of turns. The inverse, and the gradient, is the same function with [`Group::inverse`]
/// of `g`, by [`Group::D4`].
///
/// # Panics
/// With fewer than two axes, or if `g` is not below 8.
#[doc(alias = "flip")]
#[doc(alias = "rot90")]
#[track_caller]
pub fn transform_plane(x: &Tensor, g: usize) -> Tensor {
    assert!(g < Group::D4.order(), "transform_plane: expected an element of p4m, 0 to 7, got {g}");
    let moved = Moved::new(Planes::of("transform_plane", x.shape()), g);
    let shape = with_planes(x.shape(), moved.height, moved.width);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            let len = moved.x.len().max(1);
            for_each_piece(x.f32s(), len, &mut y, len, &|_, x, y| moved.copy(x, y));
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let mut y = vec![0.0; x.len()];
            for (i, &v) in x.f64s().iter().enumerate() {
                y[moved.target(i)] = v;
            }
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_transform(&gpu, x, moved, 1, shape),
    }
}

/// Turns and flips a feature map `[N, C, G, H, W]` by element g: every plane as [`transform_plane`], and the planes
/// along G change places. The formula is `(T_g f)(p, h) = f(g⁻¹p, g⁻¹h)`. The inverse, and the gradient, is the same
/// function with `g⁻¹`.
///
/// # Panics
/// If `x` does not have five axes with the group's order third, or `g` is not an element of `group`.
#[track_caller]
pub fn transform_feature_map(x: &Tensor, g: usize, group: Group) -> Tensor {
    let order = group.order();
    assert!(g < order, "transform_feature_map: expected an element of {group}, 0 to {}, got {g}", order - 1);
    assert!(
        x.shape().rank() == 5 && x.shape()[2] == order,
        "transform_feature_map: expected [N, C, {order}, H, W] for {group}, got {:?}",
        x.shape()
    );
    let moved = Moved::new(Planes::of("transform_feature_map", x.shape()), g);
    let shape = with_planes(x.shape(), moved.height, moved.width);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            let plane = moved.x.len();
            let map = (plane * order).max(1);
            for_each_piece(x.f32s(), map, &mut y, map, &|_, x, y| {
                for h in group.elements() {
                    let to = group.product(g, h);
                    moved.copy(&x[h * plane..][..plane], &mut y[to * plane..][..plane]);
                }
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let mut y = vec![0.0; x.len()];
            for (i, &v) in x.f64s().iter().enumerate() {
                let (plane, position) = (i / moved.x.len(), i % moved.x.len());
                let to = plane / order * order + group.product(g, plane % order);
                y[to * moved.x.len() + moved.target(position)] = v;
            }
            Tensor::reference(shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_transform(&gpu, x, moved, order, shape),
    }
}

/// Planes moved by one element.
#[derive(Clone, Copy)]
pub(crate) struct Moved {
    g: usize,
    x: Planes,
    /// Extents of the result.
    height: usize,
    width: usize,
}

impl Moved {
    pub fn new(x: Planes, g: usize) -> Self {
        let (height, width) = if g % 2 == 1 { (x.width, x.height) } else { (x.height, x.width) };
        Moved { g, x, height, width }
    }

    /// Where element `i` of a stack of planes goes.
    fn target(self, i: usize) -> usize {
        let (plane, position) = (i / self.x.len(), i % self.x.len());
        let (row, column) = (position / self.x.width, position % self.x.width);
        let (y, x) = Group::move_entry(self.g, row, column, self.x.height, self.x.width);
        plane * self.x.len() + y * self.width + x
    }

    /// One plane. Source indices are affine in the target's row and column, so two steps say all.
    pub fn copy(self, x: &[f32], y: &mut [f32]) {
        if x.is_empty() {
            return;
        }
        let source = |row: usize, column: usize| {
            let (y, x) = Group::move_entry(Group::D4.inverse(self.g), row, column, self.height, self.width);
            (y * self.x.width + x) as isize
        };
        let start = source(0, 0);
        let row_step = if self.height > 1 { source(1, 0) - start } else { 0 };
        let column_step = if self.width > 1 { source(0, 1) - start } else { 0 };
        for (row, y) in y.chunks_exact_mut(self.width).enumerate() {
            let first = start + row as isize * row_step;
            match column_step {
                1 => y.copy_from_slice(&x[first as usize..][..self.width]),
                -1 => {
                    let x = &x[first as usize + 1 - self.width..=first as usize];
                    for (y, &v) in y.iter_mut().zip(x.iter().rev()) {
                        *y = v;
                    }
                }
                _ => {
                    let mut at = first;
                    for y in y {
                        *y = x[at as usize];
                        at += column_step;
                    }
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("transform.wgsl"));

/// Moves the planes of `x` and, in maps of `order` planes, their order.
#[cfg(feature = "gpu")]
fn gpu_transform(gpu: &Gpu, x: &Tensor, moved: Moved, order: usize, shape: Shape) -> Tensor {
    let motion = [moved.g, order, moved.height, moved.width].map(|v| v as u32);
    launch::each(gpu, launch::kernel("transform", SHADER), &[], &[x], shape, &motion)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{EXTENTS, Tolerance, check, check_adjoint, devices_and_reference, random, same_bits};
    use quarterturn_core::Shape;

    fn shapes() -> Vec<Shape> {
        let mut shapes: Vec<Shape> = EXTENTS.iter().map(|&n| Shape::from([2, n, n])).collect();
        shapes.extend([[3, 1, 65], [1, 64, 1], [5, 7, 3], [4, 16, 17], [300, 11, 13]].map(Shape::from));
        shapes.push(Shape::from([3, 4]));
        shapes
    }

    #[test]
    fn parity_adjoint_and_inverse() {
        for shape in shapes() {
            let x = random(shape, 1);
            for g in Group::D4.elements() {
                let (name, inverse) = (format!("{shape:?} {g}"), Group::D4.inverse(g));
                check(&name, &[&x], Tolerance::Exact, |t| vec![transform_plane(&t[0], g)]);
                check_adjoint(&name, shape, |x| transform_plane(x, g), |dy| transform_plane(dy, inverse));
                assert!(same_bits(&transform_plane(&transform_plane(&x, g), inverse), &x), "{name}");
            }
        }
    }

    #[test]
    fn feature_maps_too() {
        for group in Group::ALL {
            let order = group.order();
            for dims in [[1, 1, order, 1, 1], [2, 3, order, 4, 4], [1, 5, order, 3, 7], [5, 7, order, 16, 65]] {
                let x = random(dims, 1);
                for g in group.elements() {
                    let (name, inverse) = (format!("{group} {dims:?} {g}"), group.inverse(g));
                    check(&name, &[&x], Tolerance::Exact, |t| vec![transform_feature_map(&t[0], g, group)]);
                    let there = |x: &Tensor| transform_feature_map(x, g, group);
                    check_adjoint(&name, dims, there, |dy| transform_feature_map(dy, inverse, group));
                }
            }
        }
    }

    #[test]
    fn transforms_compose_as_the_group_does() {
        let x = random([2, 3, 8, 3, 5], 1);
        for device in devices_and_reference() {
            let x = x.to_device(&device).unwrap();
            for (g, h) in Group::D4.elements().flat_map(|g| Group::D4.elements().map(move |h| (g, h))) {
                let gh = Group::D4.product(g, h);
                let both = transform_plane(&transform_plane(&x, h), g);
                assert!(same_bits(&both, &transform_plane(&x, gh)), "{g} {h} on {device}");
                let both = transform_feature_map(&transform_feature_map(&x, h, Group::D4), g, Group::D4);
                assert!(same_bits(&both, &transform_feature_map(&x, gh, Group::D4)), "{g} {h} on {device}");
            }
        }
    }

    #[test]
    fn turns_by_hand() {
        let x = Tensor::cpu([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0].into());
        assert_eq!(transform_plane(&x, 1).dims(), [3, 2]);
        assert_eq!(transform_plane(&x, 1).f32s(), [3.0, 6.0, 2.0, 5.0, 1.0, 4.0]);
        assert_eq!(transform_plane(&x, 2).f32s(), [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(transform_plane(&x, 4).f32s(), [4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
    }
}
