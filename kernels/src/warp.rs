//! Resampling of images `[N, C, H, W]`: bilinear rotation and resize, circle crop.
use quarterturn_core::Tensor;

/// Rotates image `n` by `degrees[n]` counter-clockwise about the centre, bilinear, `fill` outside.
/// Multiples of 90° are exact permutations. Square images for odd multiples of 90°: rectangles keep their extents otherwise.
#[track_caller]
pub fn rotate(x: &Tensor, degrees: &[f32], fill: f32) -> Tensor {
    todo!()
}
/// Gradient of [`rotate`].
#[track_caller]
pub fn rotate_vjp(dy: &Tensor, degrees: &[f32]) -> Tensor {
    todo!()
}
/// Bilinear resize, half-pixel centres, no antialiasing (PyTorch's `interpolate(align_corners=False)`).
#[track_caller]
pub fn resize(x: &Tensor, height: usize, width: usize) -> Tensor {
    todo!()
}
/// Gradient of [`resize`].
#[track_caller]
pub fn resize_vjp(dy: &Tensor, height: usize, width: usize) -> Tensor {
    todo!()
}
/// Sets to 0 what lies outside the largest inscribed circle (Fig. 2); its own gradient.
#[track_caller]
pub fn circle_crop(x: &Tensor) -> Tensor {
    todo!()
}
