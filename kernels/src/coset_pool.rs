//! Max and mean over the group axis: `[N, C, G, …]` → `[N, C, …]`.
use quarterturn_core::{Shape, Tensor};

/// `y[n, c, p] = max_g x[n, c, g, p]`.
#[track_caller]
pub fn coset_max(x: &Tensor) -> Tensor {
    todo!()
}
/// Gradient: to the first maximum.
#[track_caller]
pub fn coset_max_vjp(x: &Tensor, dy: &Tensor) -> Tensor {
    todo!()
}
/// `y[n, c, p] = (1/G) Σ_g x[n, c, g, p]`, summed over left cosets `(v0+v2)+(v1+v3)` (and the mirrored half likewise, then added).
#[track_caller]
pub fn coset_mean(x: &Tensor) -> Tensor {
    todo!()
}
/// Gradient of [`coset_mean`].
#[track_caller]
pub fn coset_mean_vjp(dy: &Tensor, x_shape: Shape) -> Tensor {
    todo!()
}
