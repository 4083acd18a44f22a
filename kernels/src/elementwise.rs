//! Elementwise add, multiply, scale, ReLU.
use quarterturn_core::Tensor;

/// `y = a + b`, same shape.
#[track_caller]
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    todo!()
}
/// `y = a · b`, same shape.
#[track_caller]
pub fn mul(a: &Tensor, b: &Tensor) -> Tensor {
    todo!()
}
/// `y = factor · x`.
pub fn scale(x: &Tensor, factor: f64) -> Tensor {
    todo!()
}
/// `y = max(x, 0)`.
pub fn relu(x: &Tensor) -> Tensor {
    todo!()
}
/// `dx = dy where y > 0, else 0`.
#[track_caller]
pub fn relu_vjp(y: &Tensor, dy: &Tensor) -> Tensor {
    todo!()
}
/// Sum of all elements, shape `[]`.
pub fn sum(x: &Tensor) -> Tensor {
    todo!()
}
/// `y[i] = x` for all `i`: spreads a scalar (shape `[]`) over `shape`; gradient of [`sum`].
pub fn broadcast(x: &Tensor, shape: quarterturn_core::Shape) -> Tensor {
    todo!()
}
