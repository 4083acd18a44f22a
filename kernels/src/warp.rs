//! Resampling of images `[N, C, H, W]`: bilinear rotation and resize, circle crop.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    Group,
    plane::{Planes, with_planes},
    simd::wide,
    sweep::{for_each_piece, masked, select},
    transform::Moved,
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Gpu;

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// Rotates image `n` by `degrees[n]` counter-clockwise (the sense of [`crate::transform_plane`]) about the centre
/// ((H−1)/2, (W−1)/2), with bilinear interpolation. Pixels outside of the image count as `fill`. Height and width stay.
/// A pixel with interpolation weight 0 is ignored, even if it is NaN.
///
/// The angle is split into quarter turns, which only move pixels, and a rest below 90°. So for square images, multiples
/// of 90° have no rounding, and `rotate(x, a + 90°)` is a quarter turn of `rotate(x, a)` to the bit. A rectangle turned
/// by 90° or 270° is cropped to its height and width; if these differ by an odd number, it is interpolated.
///
/// # Panics
/// If `x` is not `[N, C, H, W]`, or there is not one finite angle per image.
#[track_caller]
pub fn rotate(x: &Tensor, degrees: &[f32], fill: f32) -> Tensor {
    let images = Images::of("rotate", x.shape(), degrees);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            for_each_piece(x.f32s(), images.len(), &mut y, images.len(), &|n, x, y| {
                let rotation = Rotation::new(degrees[n], images.plane);
                if let Some(g) = rotation.permutation() {
                    let moved = Moved::new(images.plane, g);
                    let planes = x.chunks_exact(images.plane.len()).zip(y.chunks_exact_mut(images.plane.len()));
                    planes.for_each(|(x, y)| moved.copy(x, y));
                } else {
                    rotate_image(x, y, rotation, fill);
                }
            });
            Tensor::cpu(x.shape(), y)
        }
        Device::Reference => {
            let values = x.f64s();
            let mut y = vec![0.0; x.len()];
            images.reference_taps(degrees, |to, from, weight| {
                y[to] += weight * from.map_or(f64::from(fill), |from| values[from]);
            });
            Tensor::reference(x.shape(), y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_rotate(&gpu, "rotate", x, &images, degrees, fill),
    }
}

/// Gradient of [`rotate`]. The fill has none.
///
/// # Panics
/// As [`rotate`].
#[track_caller]
pub fn rotate_vjp(dy: &Tensor, degrees: &[f32]) -> Tensor {
    let images = Images::of("rotate_vjp", dy.shape(), degrees);
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::zeros(dy.len());
            for_each_piece(dy.f32s(), images.len(), &mut dx, images.len(), &|n, dy, dx| {
                rotate_image_vjp(dy, dx, Rotation::new(degrees[n], images.plane));
            });
            Tensor::cpu(dy.shape(), dx)
        }
        Device::Reference => {
            let values = dy.f64s();
            let mut dx = vec![0.0; dy.len()];
            images.reference_taps(degrees, |to, from, weight| {
                if let Some(from) = from {
                    dx[from] += weight * values[to];
                }
            });
            Tensor::reference(dy.shape(), dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_rotate(&gpu, "rotate_vjp", dy, &images, degrees, 0.0),
    }
}

/// Bilinear resize to `height` × `width`, half-pixel centres, edges repeated, no antialiasing (PyTorch's
/// `interpolate(mode="bilinear", align_corners=False)`): sample i of o along an axis of n reads position
/// `(i + ½)·n/o − ½`, clamped to [0, n − 1]. `[…, H, W]` → `[…, height, width]`. A pixel with weight 0 is ignored, even
/// if it is NaN.
///
/// On the CPU and the GPU it commutes in every bit with turns and reflections, at all sizes: the resized image of a turned image
/// is the turned resized image (`height` and `width` exchanged by a quarter turn).
///
/// # Panics
/// With fewer than two axes, or where an extent is 0.
#[doc(alias = "interpolate")]
#[track_caller]
pub fn resize(x: &Tensor, height: usize, width: usize) -> Tensor {
    let resized = Resized::new("resize", x.shape(), with_planes_checked("resize", x.shape(), height, width));
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(resized.y_shape.len());
            for_each_piece(x.f32s(), resized.x.len(), &mut y, resized.y.len(), &|_, x, y| {
                resize_plane(x, y, &resized);
            });
            Tensor::cpu(resized.y_shape, y)
        }
        Device::Reference => {
            let values = x.f64s();
            let mut y = vec![0.0; resized.y_shape.len()];
            resized.reference_taps(|to, from, weight| y[to] += weight * values[from]);
            Tensor::reference(resized.y_shape, y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_resize(&gpu, "resize", x, resized.y_shape, &resized),
    }
}

/// Gradient of [`resize`]. `height` and `width` are those of the image before resizing.
///
/// # Panics
/// As [`resize`].
#[track_caller]
pub fn resize_vjp(dy: &Tensor, height: usize, width: usize) -> Tensor {
    let x_shape = with_planes_checked("resize_vjp", dy.shape(), height, width);
    let resized = Resized::new("resize_vjp", x_shape, dy.shape());
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::zeros(x_shape.len());
            for_each_piece(dy.f32s(), resized.y.len(), &mut dx, resized.x.len(), &|_, dy, dx| {
                resize_plane_vjp(dy, dx, &resized);
            });
            Tensor::cpu(x_shape, dx)
        }
        Device::Reference => {
            let values = dy.f64s();
            let mut dx = vec![0.0; x_shape.len()];
            resized.reference_taps(|to, from, weight| dx[from] += weight * values[to]);
            Tensor::reference(x_shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_resize(&gpu, "resize_vjp", dy, x_shape, &resized),
    }
}

/// Sets to 0 the pixels whose centre lies outside the largest inscribed circle, radius min(H, W)/2 about the centre
/// (CircleCrop, Fig. 2 of Edixhoven et al. 2023): these are the pixels that a rotation can bring in from outside.
/// `[…, H, W]`. The gradient is the same function. The crop commutes with turns and mirroring exactly.
///
/// # Panics
/// With fewer than two axes.
#[track_caller]
pub fn circle_crop(x: &Tensor) -> Tensor {
    let plane = Planes::of("circle_crop", x.shape());
    let inside: Vec<bool> = (0..plane.len()).map(|at| in_circle(at, plane)).collect();
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            let len = plane.len().max(1);
            for_each_piece(x.f32s(), len, &mut y, len, &|_, x, y| {
                for ((y, &x), &inside) in y.iter_mut().zip(x).zip(&inside) {
                    *y = if inside { x } else { 0.0 };
                }
            });
            Tensor::cpu(x.shape(), y)
        }
        Device::Reference => {
            let cropped = |(i, &v): (usize, &f64)| if inside[i % plane.len()] { v } else { 0.0 };
            Tensor::reference(x.shape(), x.f64s().iter().enumerate().map(cropped).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let [height, width] = [plane.height as u32, plane.width as u32];
            let extents = [height, width, height, width];
            launch::each(&gpu, launch::kernel("circle_crop", SHADER), &[], &[x], x.shape(), &extents)
        }
    }
}

/// Whether a pixel's centre is in the inscribed circle: twice the distance against the diameter, squared.
fn in_circle(at: usize, plane: Planes) -> bool {
    let twice_offset = |i: usize, extent: usize| (2 * i + 1).abs_diff(extent);
    let (dy, dx) = (twice_offset(at / plane.width, plane.height), twice_offset(at % plane.width, plane.width));
    dy * dy + dx * dx <= plane.height.min(plane.width).pow(2)
}

/// `[N, C, H, W]`.
struct Images {
    channels: usize,
    plane: Planes,
}

impl Images {
    #[track_caller]
    fn of(op: &str, shape: Shape, degrees: &[f32]) -> Self {
        let [n, channels, _, _] = *shape.dims() else {
            panic!("{op}: expected images [N, C, H, W] (reshape [N, C, 1, H, W] to that), got {shape:?}")
        };
        assert_eq!(degrees.len(), n, "{op}: expected an angle for each image of {shape:?}, got {}", degrees.len());
        assert!(degrees.iter().all(|a| a.is_finite()), "{op}: expected finite angles, got {degrees:?}");
        Images { channels, plane: Planes::of(op, shape) }
    }

    /// Elements of one image; at least 1, for cutting.
    fn len(&self) -> usize {
        (self.channels * self.plane.len()).max(1)
    }

    /// `f(index in y, index in x or none outside, weight)` for the four pixels around every sample.
    fn reference_taps(&self, degrees: &[f32], mut f: impl FnMut(usize, Option<usize>, f64)) {
        let Planes { height, width, .. } = self.plane;
        for (n, &degrees) in degrees.iter().enumerate() {
            let rotation = Rotation::new(degrees, self.plane);
            for channel in 0..self.channels {
                let image = (n * self.channels + channel) * self.plane.len();
                for row in 0..height {
                    for column in 0..width {
                        let (y, x) = rotation.source(row, column);
                        for (y, weight_y) in neighbours(y) {
                            for (x, weight_x) in neighbours(x) {
                                if weight_y * weight_x == 0.0 {
                                    continue;
                                }
                                let inside = (0.0..height as f64).contains(&y) && (0.0..width as f64).contains(&x);
                                let from = inside.then(|| image + y as usize * width + x as usize);
                                f(image + row * width + column, from, weight_y * weight_x);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The two samples around a position, and their weights.
fn neighbours(position: f64) -> [(f64, f64); 2] {
    let (lower, fraction) = (position.floor(), position - position.floor());
    [(lower, 1.0 - fraction), (lower + 1.0, fraction)]
}

/// Where the pixels of a rotated plane come from.
#[derive(Clone, Copy)]
struct Rotation {
    plane: Planes,
    /// Element of C4 that undoes the whole quarter turns.
    unturn: usize,
    /// Of the rest, in [0°, 90°).
    cos: f64,
    sin: f64,
}

impl Rotation {
    fn new(degrees: f32, plane: Planes) -> Self {
        let degrees = f64::from(degrees).rem_euclid(360.0);
        let turns = (degrees / 90.0).floor();
        let (sin, cos) = (degrees - 90.0 * turns).to_radians().sin_cos();
        Rotation { plane, unturn: Group::C4.inverse(turns as usize % 4), cos, sin }
    }

    /// The element of C4 that the rotation is, if it only permutes pixels.
    fn permutation(self) -> Option<usize> {
        let fits = self.plane.height == self.plane.width || self.unturn.is_multiple_of(2);
        (self.sin == 0.0 && fits).then(|| Group::C4.inverse(self.unturn))
    }

    /// Twice the offset from the centre that pixel (row, column) had before the quarter turns.
    fn unturned(self, row: usize, column: usize) -> (isize, isize) {
        let twice = |i: usize, extent: usize| 2 * i as isize + 1 - extent as isize;
        Group::turn_offset(self.unturn, twice(row, self.plane.height), twice(column, self.plane.width))
    }

    /// The position (y, x) that pixel (row, column) reads.
    fn source(self, row: usize, column: usize) -> (f64, f64) {
        let (dy, dx) = self.unturned(row, column);
        let (dy, dx) = (dy as f64 / 2.0, dx as f64 / 2.0);
        let centre = |extent: usize| (extent as f64 - 1.0) / 2.0;
        (
            self.cos * dy + self.sin * dx + centre(self.plane.height),
            self.cos * dx - self.sin * dy + centre(self.plane.width),
        )
    }
}

/// The samples that one row of pixels reads, as positions in planes with a border: one pixel before, two behind, so
/// that positions clamped to just outside need no further test.
struct RowTaps {
    /// Index of the upper left of the four pixels.
    at: Vec<u32>,
    /// Weights of the lower and the right ones.
    lower: Vec<f32>,
    right: Vec<f32>,
}

/// Pixels that the border adds along each axis.
const BORDER: usize = 3;

impl RowTaps {
    fn new(width: usize) -> Self {
        RowTaps { at: vec![0; width], lower: vec![0.0; width], right: vec![0.0; width] }
    }

    #[inline(always)]
    fn fill(&mut self, rotation: Rotation, row: usize) {
        let Planes { height, width, .. } = rotation.plane;
        let (first, second) = (rotation.unturned(row, 0), rotation.unturned(row, 1));
        let half = |twice: isize| twice as f32 * 0.5;
        let (dy0, dx0) = (half(first.0), half(first.1));
        let (step_y, step_x) = (half(second.0 - first.0), half(second.1 - first.1));
        let (cos, sin) = (rotation.cos as f32, rotation.sin as f32);
        // Positions count from the border's first pixel, one before the plane's.
        let (centre_y, centre_x) = ((height + 1) as f32 * 0.5, (width + 1) as f32 * 0.5);
        let (last_y, last_x) = ((height + 1) as f32, (width + 1) as f32);
        let pitch = (width + BORDER) as u32;
        let taps = self.at.iter_mut().zip(&mut self.lower).zip(&mut self.right);
        for (column, ((at, lower), right)) in taps.enumerate() {
            // Offsets are halves of integers, so exact: they do not depend on the quarter turns.
            let (dy, dx) = (dy0 + column as f32 * step_y, dx0 + column as f32 * step_x);
            let y = (cos * dy + sin * dx + centre_y).clamp(0.0, last_y);
            let x = (cos * dx - sin * dy + centre_x).clamp(0.0, last_x);
            let (whole_y, whole_x) = (y as i32, x as i32);
            *at = whole_y as u32 * pitch + whole_x as u32;
            *lower = y - whole_y as f32;
            *right = x - whole_x as f32;
        }
    }
}

/// The planes of an image, each within a border of `fill`.
#[inline(always)]
fn bordered(x: &[f32], plane: Planes, fill: f32) -> Vec<f32> {
    let pitch = plane.width + BORDER;
    let mut padded = vec![fill; x.len() / plane.len() * pitch * (plane.height + BORDER)];
    let planes = padded.chunks_exact_mut(pitch * (plane.height + BORDER)).zip(x.chunks_exact(plane.len()));
    for (padded, x) in planes {
        for (padded, x) in padded.chunks_exact_mut(pitch).skip(1).zip(x.chunks_exact(plane.width)) {
            padded[1..=plane.width].copy_from_slice(x);
        }
    }
    padded
}

/// What lies at `t` between `a` and `b`; at 0, `b` is not looked at.
#[inline(always)]
fn between(a: f32, b: f32, t: f32) -> f32 {
    f32::from_bits(select(t == 0.0, a.to_bits(), (a * (1.0 - t) + b * t).to_bits()))
}

/// `weight · x`, of which only what has a weight counts.
#[inline(always)]
fn weighted(weight: f32, x: f32) -> f32 {
    masked(weight != 0.0, weight * x)
}

wide! {
    fn rotate_image(x: &[f32], y: &mut [f32], rotation: Rotation, fill: f32) {
        let plane = rotation.plane;
        let pitch = plane.width + BORDER;
        let padded = bordered(x, plane, fill);
        let mut taps = RowTaps::new(plane.width);
        for row in 0..plane.height {
            taps.fill(rotation, row);
            let planes = padded.chunks_exact(pitch * (plane.height + BORDER)).zip(y.chunks_exact_mut(plane.len()));
            for (padded, y) in planes {
                let y = &mut y[row * plane.width..][..plane.width];
                for (((y, &at), &lower), &right) in y.iter_mut().zip(&taps.at).zip(&taps.lower).zip(&taps.right) {
                    let window = &padded[at as usize..][..pitch + 2];
                    let above = between(window[0], window[1], right);
                    let below = between(window[pitch], window[pitch + 1], right);
                    *y = between(above, below, lower);
                }
            }
        }
    }
}

wide! {
    fn rotate_image_vjp(dy: &[f32], dx: &mut [f32], rotation: Rotation) {
        let plane = rotation.plane;
        let pitch = plane.width + BORDER;
        let mut padded = vec![0.0; pitch * (plane.height + BORDER)];
        let mut taps = RowTaps::new(plane.width);
        for (dy, dx) in dy.chunks_exact(plane.len()).zip(dx.chunks_exact_mut(plane.len())) {
            padded.fill(0.0);
            for (row, dy) in dy.chunks_exact(plane.width).enumerate() {
                taps.fill(rotation, row);
                for (((&dy, &at), &lower), &right) in dy.iter().zip(&taps.at).zip(&taps.lower).zip(&taps.right) {
                    let window = &mut padded[at as usize..][..pitch + 2];
                    window[0] += dy * ((1.0 - lower) * (1.0 - right));
                    window[1] += weighted((1.0 - lower) * right, dy);
                    window[pitch] += weighted(lower * (1.0 - right), dy);
                    window[pitch + 1] += weighted(lower * right, dy);
                }
            }
            for (dx, padded) in dx.chunks_exact_mut(plane.width).zip(padded.chunks_exact(pitch).skip(1)) {
                dx.copy_from_slice(&padded[1..=plane.width]);
            }
        }
    }
}

#[track_caller]
fn with_planes_checked(op: &str, shape: Shape, height: usize, width: usize) -> Shape {
    Planes::of(op, shape);
    with_planes(shape, height, width)
}

/// A resize from planes `x` to planes `y`.
struct Resized {
    x: Planes,
    y: Planes,
    y_shape: Shape,
    rows: Vec<Blend>,
    columns: Vec<Blend>,
}

/// A sample between two neighbours, and their weights.
#[derive(Clone, Copy)]
struct Blend {
    lower: usize,
    upper: usize,
    weights: [f64; 2],
}

impl Blend {
    /// Sample `i` of `to` along an axis of `from` samples. The position is a fraction of whole numbers, so the weights of the
    /// mirrored sample are these, exchanged.
    fn new(i: usize, from: usize, to: usize) -> Self {
        let whole = 2 * to;
        let numerator = ((2 * i + 1) * from).saturating_sub(to).min((from - 1) * whole);
        let (lower, part) = (numerator / whole, numerator % whole);
        Blend {
            lower,
            upper: (lower + 1).min(from - 1),
            weights: [whole - part, part].map(|v| v as f64 / whole as f64),
        }
    }

    /// The two samples with their weights.
    fn taps(self) -> [(usize, f64); 2] {
        [(self.lower, self.weights[0]), (self.upper, self.weights[1])]
    }
}

impl Resized {
    #[track_caller]
    fn new(op: &str, x_shape: Shape, y_shape: Shape) -> Self {
        let (x, y) = (Planes::of(op, x_shape), Planes::of(op, y_shape));
        assert!(x.len() > 0 && y.len() > 0, "{op}: expected planes that are not empty, got {x_shape:?}, {y_shape:?}");
        let axis = |from: usize, to: usize| (0..to).map(|i| Blend::new(i, from, to)).collect();
        Resized { x, y, y_shape, rows: axis(x.height, y.height), columns: axis(x.width, y.width) }
    }

    /// `f(index in y, index in x, weight)` for the four pixels that every sample reads.
    fn reference_taps(&self, mut f: impl FnMut(usize, usize, f64)) {
        for plane in 0..self.x.count {
            for (i, row) in self.rows.iter().enumerate() {
                for (j, column) in self.columns.iter().enumerate() {
                    for (y, weight_y) in row.taps() {
                        for (x, weight_x) in column.taps() {
                            let to = plane * self.y.len() + i * self.y.width + j;
                            if weight_y * weight_x != 0.0 {
                                f(to, plane * self.x.len() + y * self.x.width + x, weight_y * weight_x);
                            }
                        }
                    }
                }
            }
        }
    }
}

wide! {
    fn resize_plane(x: &[f32], y: &mut [f32], resized: &Resized) {
        let width = resized.x.width;
        for (y, row) in y.chunks_exact_mut(resized.y.width).zip(&resized.rows) {
            let (above, below) = (&x[row.lower * width..][..width], &x[row.upper * width..][..width]);
            let [up, down] = row.weights.map(|weight| weight as f32);
            for (y, column) in y.iter_mut().zip(&resized.columns) {
                let [left, right] = column.weights.map(|weight| weight as f32);
                // Each diagonal first: turns and reflections exchange operands of these additions, or the two sums.
                let falling = weighted(up * left, above[column.lower]) + weighted(down * right, below[column.upper]);
                let rising = weighted(up * right, above[column.upper]) + weighted(down * left, below[column.lower]);
                *y = falling + rising;
            }
        }
    }
}

fn resize_plane_vjp(dy: &[f32], dx: &mut [f32], resized: &Resized) {
    let width = resized.x.width;
    let mut spread = vec![0f32; width];
    for (dy, row) in dy.chunks_exact(resized.y.width).zip(&resized.rows) {
        spread.fill(0.0);
        for (&dy, column) in dy.iter().zip(&resized.columns) {
            for (to, weight) in column.taps() {
                spread[to] += weighted(weight as f32, dy);
            }
        }
        for (to, weight) in row.taps() {
            for (dx, &spread) in dx[to * width..][..width].iter_mut().zip(&spread) {
                *dx += weighted(weight as f32, spread);
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("warp.wgsl"));

/// `rotate` or `rotate_vjp`.
#[cfg(feature = "gpu")]
fn gpu_rotate(gpu: &Gpu, name: &'static str, x: &Tensor, images: &Images, degrees: &[f32], fill: f32) -> Tensor {
    let rotation = |&degrees: &f32| {
        let Rotation { unturn, cos, sin, .. } = Rotation::new(degrees, images.plane);
        [unturn as f32, cos as f32, sin as f32]
    };
    let rotations: Vec<f32> = degrees.iter().flat_map(rotation).collect();
    let rotations = Tensor::gpu([rotations.len()], gpu.constant(&rotations));
    let extents = [images.channels, images.plane.height, images.plane.width].map(|v| v as u32);
    let uniform = [extents[0], extents[1], extents[2], fill.to_bits()];
    launch::each(gpu, launch::kernel(name, SHADER), &[], &[x, &rotations], x.shape(), &uniform)
}

/// `resize` or `resize_vjp`.
#[cfg(feature = "gpu")]
fn gpu_resize(gpu: &Gpu, name: &'static str, operand: &Tensor, shape: Shape, resized: &Resized) -> Tensor {
    let extents = [resized.x.height, resized.x.width, resized.y.height, resized.y.width].map(|v| v as u32);
    launch::each(gpu, launch::kernel(name, SHADER), &[], &[operand], shape, &extents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{
            Tolerance, all_elements, check, check_adjoint, check_equivariant, devices_and_reference, random, same_bits,
        },
        transform_plane,
    };

    const SHAPES: [[usize; 4]; 10] = [
        [1, 1, 1, 1],
        [3, 1, 2, 2],
        [2, 3, 15, 16],
        [2, 1, 17, 17],
        [3, 2, 28, 28],
        [1, 5, 7, 3],
        [2, 1, 63, 65],
        [1, 1, 1, 64],
        [1, 3, 65, 2],
        [40, 1, 28, 28],
    ];

    const ANGLES: [f32; 12] = [0.0, 10.0, 45.0, 89.9, 90.0, 133.0, 180.0, 200.5, 270.0, -30.0, 359.0, 725.0];

    #[test]
    fn parity_and_adjoint() {
        for shape in SHAPES {
            let x = random(shape, 1);
            for first in 0..ANGLES.len() {
                let degrees: Vec<f32> = (0..shape[0]).map(|n| ANGLES[(first + n) % ANGLES.len()]).collect();
                let name = format!("{shape:?} {degrees:?}");
                // A position has an error of a few units in the last place of the extent.
                let tolerance = Tolerance::Terms(4 * (shape[2] + shape[3]));
                check(&format!("rotate {name}"), &[&x], tolerance, |t| vec![rotate(&t[0], &degrees, 0.5)]);
                check(&format!("rotate_vjp {name}"), &[&x], tolerance, |t| vec![rotate_vjp(&t[0], &degrees)]);
                check_adjoint(&name, shape, |x| rotate(x, &degrees, 0.0), |dy| rotate_vjp(dy, &degrees));
            }
            for (height, width) in [(1, 1), (27, 27), (29, 29), (16, 33), (shape[2], shape[3]), (5, 64)] {
                let name = format!("{shape:?} to {height}x{width}");
                let dy = random([shape[0], shape[1], height, width], 2);
                let tolerance = Tolerance::Terms(16);
                check(&format!("resize {name}"), &[&x], tolerance, |t| vec![resize(&t[0], height, width)]);
                check(&format!("resize_vjp {name}"), &[&dy], Tolerance::Terms(4 * height * width), |t| {
                    vec![resize_vjp(&t[0], shape[2], shape[3])]
                });
                let back = |dy: &Tensor| resize_vjp(dy, shape[2], shape[3]);
                check_adjoint(&name, shape, |x| resize(x, height, width), back);
            }
            check(&format!("circle_crop {shape:?}"), &[&x], Tolerance::Exact, |t| vec![circle_crop(&t[0])]);
            check_adjoint(&format!("{shape:?}"), shape, circle_crop, circle_crop);
            check_equivariant(&format!("{shape:?}"), shape, &all_elements(), true, circle_crop);
        }
    }

    #[test]
    fn quarter_turns_are_exact_permutations() {
        for device in devices_and_reference() {
            for size in [1, 2, 15, 16, 28, 29] {
                let x = random([2, 3, size, size], 1).to_device(&device).unwrap();
                for angle in [0.0, 90.0, 180.0, 270.0, 360.0, -90.0, 810.0] {
                    let g = (angle / 90.0 + 8.0) as usize % 4;
                    let turned = rotate(&x, &[angle; 2], 9.0);
                    assert!(same_bits(&turned, &transform_plane(&x, g)), "{size} {angle} on {device}");
                }
                let (ten, hundred) = (rotate(&x, &[10.0; 2], 0.25), rotate(&x, &[100.0; 2], 0.25));
                assert!(same_bits(&hundred, &transform_plane(&ten, 1)), "{size} on {device}");
            }
            let x = random([1, 1, 4, 7], 1).to_device(&device).unwrap();
            assert!(same_bits(&rotate(&x, &[180.0], 0.0), &transform_plane(&x, 2)), "rectangle on {device}");
        }
    }

    #[test]
    fn rotation_by_hand() {
        // Half-way between two pixels, and a corner that comes from outside.
        let x = Tensor::reference([1, 1, 3, 3], (1..=9).map(f64::from).collect());
        let y = rotate(&x, &[45.0], 100.0);
        assert_eq!(y.f64s()[4], 5.0);
        // The upper edge pixel (0, 1) turns by 45° to the upper left, so it reads 45° back to the right of the top.
        let root = 0.5f64.sqrt();
        let (y0, x0) = (1.0 - root, 1.0 + root);
        let blend = |a: f64, b: f64, t: f64| a * (1.0 - t) + b * t;
        let expected = blend(blend(2.0, 3.0, x0 - 1.0), blend(5.0, 6.0, x0 - 1.0), y0);
        assert!((y.f64s()[1] - expected).abs() < 1e-12, "{} instead of {expected}", y.f64s()[1]);
        assert!(y.f64s()[0] > 9.0);
    }

    #[test]
    fn resize_by_hand() {
        let x = Tensor::cpu([1, 1, 1, 2], vec![0.0, 4.0].into());
        assert_eq!(resize(&x, 1, 4).f32s(), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(resize(&x, 1, 1).f32s(), [2.0]);
        assert_eq!(resize(&x, 2, 2).f32s(), [0.0, 4.0, 0.0, 4.0]);
    }

    /// At all sizes, squares and rectangles, in every bit.
    #[test]
    fn resizing_commutes_with_every_symmetry() {
        let commutes = |[height, width]: [usize; 2], to: [usize; 2], device: &Device| {
            let x = random([2, height, width], 1).to_device(device).unwrap();
            let y = resize(&x, to[0], to[1]);
            for g in all_elements() {
                let [rows, columns] = if g % 2 == 0 { to } else { [to[1], to[0]] };
                let (got, expected) = (resize(&transform_plane(&x, g), rows, columns), transform_plane(&y, g));
                assert!(same_bits(&got, &expected), "{height}x{width} to {to:?}, element {g}, on {device}");
            }
            if [height, width] == to {
                assert!(same_bits(&x, &y), "{to:?} to itself on {device}");
            }
        };
        for device in quarterturn_core::testing::devices() {
            let few = !matches!(device, Device::Cpu);
            for (i, o) in (1..21).flat_map(|i| (1..41).map(move |o| (i, o))) {
                if !few || (i * 7 + o) % 41 == 0 {
                    commutes([i, i], [o, o], &device);
                    commutes([i, 21 - i], [o, 41 - o], &device);
                }
            }
            for (i, o) in [(17, 33), (17, 34), (17, 9), (28, 65), (65, 28), (7, 64)] {
                commutes([i, i], [o, o], &device);
                commutes([i, i + 3], [o, o], &device);
            }
        }
    }

    #[test]
    fn the_circle_touches_the_edges() {
        let ones = |size: usize| Tensor::full([size, size], 1.0, &Device::Cpu).unwrap();
        assert_eq!(circle_crop(&ones(2)).f32s(), [1.0; 4]);
        assert_eq!(circle_crop(&ones(3)).f32s(), [1.0; 9]);
        #[rustfmt::skip]
        let four = [
            0.0, 1.0, 1.0, 0.0,
            1.0, 1.0, 1.0, 1.0,
            1.0, 1.0, 1.0, 1.0,
            0.0, 1.0, 1.0, 0.0,
        ];
        assert_eq!(circle_crop(&ones(4)).f32s(), four);
    }

    #[test]
    #[should_panic(expected = "rotate: expected an angle for each image")]
    fn a_missing_angle_is_refused() {
        rotate(&random([2, 1, 3, 3], 1), &[0.0], 0.0);
    }
}
