//! Global mean over the two last axes, summed over rotation orbits first so that it is bit-exact.
use quarterturn_core::{Shape, Tensor};

/// `[…, H, W]` → `[…]`.
#[track_caller]
pub fn spatial_mean(x: &Tensor) -> Tensor {
    todo!()
}
/// Gradient.
#[track_caller]
pub fn spatial_mean_vjp(dy: &Tensor, x_shape: Shape) -> Tensor {
    todo!()
}
