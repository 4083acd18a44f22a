//! Max and average pooling over the two last axes.
use quarterturn_core::Tensor;

/// A square sliding window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Extent in samples.
    pub kernel_size: usize,
    /// Distance between windows.
    pub stride: usize,
    /// Samples added on each side; -∞ for max, zeros (that count) for average.
    pub padding: usize,
}

/// Any leading axes, then `[H, W]` → `[H', W']`. `y = max over the window`.
#[track_caller]
pub fn max_pool(x: &Tensor, window: Window) -> Tensor {
    todo!()
}
/// Gradient: to the first maximum of each window in row-major order.
#[track_caller]
pub fn max_pool_vjp(x: &Tensor, dy: &Tensor, window: Window) -> Tensor {
    todo!()
}
/// `y = (1/k²) Σ over the window`, padding zeros counted; the sum over rotation orbits of the window, bit-exact.
#[track_caller]
pub fn avg_pool(x: &Tensor, window: Window) -> Tensor {
    todo!()
}
/// Gradient of [`avg_pool`].
#[track_caller]
pub fn avg_pool_vjp(dy: &Tensor, x_shape: quarterturn_core::Shape, window: Window) -> Tensor {
    todo!()
}
