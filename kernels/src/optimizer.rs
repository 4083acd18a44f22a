//! One optimizer step on one parameter, in a single sweep. PyTorch's formulas (L2 weight decay added to the gradient).
use quarterturn_core::Tensor;

/// SGD: `g ← dw + weight_decay·w; v ← momentum·v + g; w ← w − lr·v` (v starts as g).
pub struct Sgd {
    /// Step size.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// L2 penalty.
    pub weight_decay: f64,
}
/// Adam's settings, and `step` ≥ 1.
pub struct Adam {
    /// Step size.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// L2 penalty.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

/// Updates in place where the tensor is not shared; `velocity` zeros at the start.
#[track_caller]
pub fn sgd_step(w: &mut Tensor, velocity: &mut Tensor, dw: &Tensor, settings: &Sgd) {
    todo!()
}
/// Updates in place where the tensors are not shared; moments zeros at the start.
#[track_caller]
pub fn adam_step(w: &mut Tensor, moment1: &mut Tensor, moment2: &mut Tensor, dw: &Tensor, settings: &Adam) {
    todo!()
}
