//! The orbit of a filter under the group, as one dense convolution weight.
use crate::Group;
use quarterturn_core::{Shape, Tensor};

/// Row (o, g), column (c, h): `act_g(weight[o, c, g⁻¹h])`: `[C_out, C_in, G_in, k, k]` → `[C_out·G, C_in·G_in, k, k]`; `G_in` is 1 when lifting.
#[track_caller]
pub fn filter_orbit(weight: &Tensor, group: Group) -> Tensor {
    todo!()
}
/// Adjoint: sums the gradient over the orbit.
#[track_caller]
pub fn filter_orbit_vjp(d: &Tensor, weight_shape: Shape, group: Group) -> Tensor {
    todo!()
}
