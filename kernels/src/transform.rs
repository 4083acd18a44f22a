//! Exact symmetries: pure permutations.
use crate::Group;
use quarterturn_core::Tensor;

/// Turns and flips the two last axes: `y = act_g(x)` (`flip_rows^m(rot90(x, r))`); rectangles swap their extents.
#[track_caller]
pub fn transform_plane(x: &Tensor, g: usize) -> Tensor {
    todo!()
}
/// `(T_g f)(p, h) = f(g⁻¹p, g⁻¹h)` on a feature map `[N, C, G, H, W]`; inverse and gradient: `g⁻¹`.
#[track_caller]
pub fn transform_feature_map(x: &Tensor, g: usize, group: Group) -> Tensor {
    todo!()
}
