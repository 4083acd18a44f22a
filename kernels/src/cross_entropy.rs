//! Log-softmax cross-entropy, and accuracy.
use quarterturn_core::Tensor;

/// Mean over the batch of `−log softmax(logits)[label]`: `[N, K]`, `[N]` (class indices stored as numbers) → `[]`.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    todo!()
}
/// `dlogits = (softmax − onehot) · dloss / N`.
#[track_caller]
pub fn cross_entropy_vjp(logits: &Tensor, labels: &Tensor, dloss: &Tensor) -> Tensor {
    todo!()
}
/// `y[n] = argmax_k logits[n, k]`, the first of equals.
#[track_caller]
pub fn argmax(logits: &Tensor) -> Tensor {
    todo!()
}
/// How many rows' argmax is their label, shape `[]`.
#[track_caller]
pub fn count_correct(logits: &Tensor, labels: &Tensor) -> Tensor {
    todo!()
}
