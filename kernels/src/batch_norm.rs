//! Batch norm, one statistic per channel (axis 1) over all other axes, with the ReLU and dropout that follow it fused in.
use quarterturn_core::{Stream, Tensor};

/// What follows the normalisation in the same sweep: `y = dropout(relu(z))`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activation {
    /// Apply `max(z, 0)`.
    pub relu: bool,
    /// Drop each element with this probability (needs `relu`; the mask is re-derived from `y > 0` in the gradient).
    pub dropout: Option<(f32, Stream)>,
}

/// Training-mode results.
pub struct BatchNorm {
    /// Output, shape of `x`.
    pub y: Tensor,
    /// Batch mean `[C]`.
    pub mean: Tensor,
    /// Biased batch variance `[C]`.
    pub var: Tensor,
}

/// `z = (x − mean) / √(var + eps) · weight + bias`, mean and var of the batch.
#[track_caller]
pub fn batch_norm_train(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, activation: Activation) -> BatchNorm {
    todo!()
}
/// (dx, dweight, dbias).
#[track_caller]
pub fn batch_norm_train_vjp(
    x: &Tensor,
    forward: &BatchNorm,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
    dy: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    todo!()
}
/// `new = (1 − momentum) running + momentum batch`, the variance unbiased: returns (running_mean, running_var).
/// `count` is the number of elements per channel.
#[track_caller]
pub fn update_running(
    running_mean: &Tensor,
    running_var: &Tensor,
    forward: &BatchNorm,
    momentum: f64,
    count: usize,
) -> (Tensor, Tensor) {
    todo!()
}
/// With given statistics (evaluation).
#[track_caller]
pub fn batch_norm_eval(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    activation: Activation,
) -> Tensor {
    todo!()
}
/// (dx, dweight, dbias) of [`batch_norm_eval`].
#[track_caller]
pub fn batch_norm_eval_vjp(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    activation: Activation,
    dy: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    todo!()
}
