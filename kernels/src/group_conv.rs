//! Convolutions: plain (z2), lifting (Z²→G) and group (G→G).
use crate::Group;
use quarterturn_core::{Shape, Tensor};

/// Everything about a convolution that its tensors' shapes do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// The symmetry group; [`Group::C1`] is ordinary convolution.
    pub group: Group,
    /// Distance between output samples.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
}

/// `y = weight ⋆ x (+ bias)`; `x` is `[N, C_in, G_in, H, W]`, `weight` `[C_out, C_in, G_in, k, k]` with `G_in` = 1
/// when lifting, `bias` `[C_out]`, `y` `[N, C_out, G, H', W']`. With [`Group::C1`], G = G_in = 1.
#[track_caller]
pub fn group_conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    todo!()
}
/// Gradient of the input.
#[track_caller]
pub fn group_conv_dx(dy: &Tensor, weight: &Tensor, x_shape: Shape, conv: Conv) -> Tensor {
    todo!()
}
/// Gradients of weight and bias.
#[track_caller]
pub fn group_conv_dw(x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> (Tensor, Tensor) {
    todo!()
}
