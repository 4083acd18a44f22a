//! Matrix product and linear layer.
use quarterturn_core::Tensor;

/// `y[m, n] = Σ_k a[m, k] b[k, n]`; `transpose_a` reads `a` as `[k, m]`, `transpose_b` reads `b` as `[n, k]`.
#[track_caller]
pub fn matmul(a: &Tensor, b: &Tensor, transpose_a: bool, transpose_b: bool) -> Tensor {
    todo!()
}
/// `y[n, o] = Σ_i x[n, i] weight[o, i] + bias[o]`. Gradients are matmuls and [`sum_rows`].
#[track_caller]
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    todo!()
}
/// `y[o] = Σ_n x[n, o]`.
#[track_caller]
pub fn sum_rows(x: &Tensor) -> Tensor {
    todo!()
}
