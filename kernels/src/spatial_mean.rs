//! Global average pooling, the same to the last bit for a turned image.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    plane::{Orbit, Planes, orbits, without_planes},
    sweep::for_each_piece,
};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// The mean over all pixels (global average pooling), `y[…] = (1/HW) Σ_yx x[…, y, x]`: `[…, H, W]` → `[…]`.
///
/// The pixels that turns move onto each other (an orbit) are added first, opposite ones before all:
/// `((v[y,x] + v[H−1−y,W−1−x]) + (v[x,W−1−y] + v[H−1−x,y])) + (the same mirrored)`. A turn or flip only exchanges
/// operands of an addition. So turned or mirrored planes give the same bits, on squares and rectangles.
///
/// # Panics
/// With fewer than two axes, or an empty plane.
#[doc(alias = "adaptive_avg_pool2d")]
#[track_caller]
pub fn spatial_mean(x: &Tensor) -> Tensor {
    let planes = Planes::of("spatial_mean", x.shape());
    assert!(planes.len() > 0, "spatial_mean: expected planes that are not empty, got {:?}", x.shape());
    let shape = without_planes(x.shape());
    match x.device() {
        Device::Cpu => {
            let orbits = orbits(planes.height, planes.width);
            let mut y = HostBuffer::scratch(planes.count);
            for_each_piece(x.f32s(), planes.len(), &mut y, 1, &|_, plane, y| y[0] = plane_mean(plane, &orbits));
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let mean = |plane: &[f64]| plane.iter().sum::<f64>() / planes.len() as f64;
            Tensor::reference(shape, x.f64s().chunks_exact(planes.len()).map(mean).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let extents = [planes.height as u32, planes.width as u32];
            launch::each(&gpu, launch::kernel("spatial_mean", SHADER), &[], &[x], shape, &extents)
        }
    }
}

fn plane_mean(plane: &[f32], orbits: &[Orbit]) -> f32 {
    let mut total = 0.0;
    for orbit in orbits {
        total += orbit.sum(|position| plane[position]);
    }
    total / plane.len() as f32
}

/// Gradient of [`spatial_mean`]: `dx[…, y, x] = dy[…] / HW`.
///
/// # Panics
/// If `dy` does not have the shape of the means of `x_shape`.
#[track_caller]
pub fn spatial_mean_vjp(dy: &Tensor, x_shape: Shape) -> Tensor {
    let planes = Planes::of("spatial_mean_vjp", x_shape);
    assert_eq!(
        dy.shape(),
        without_planes(x_shape),
        "spatial_mean_vjp: expected dy of the means of {x_shape:?}, got {:?}",
        dy.shape()
    );
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x_shape.len());
            let count = planes.len() as f32;
            for_each_piece(dy.f32s(), 1, &mut dx, planes.len().max(1), &|_, dy, dx| dx.fill(dy[0] / count));
            Tensor::cpu(x_shape, dx)
        }
        Device::Reference => {
            let count = planes.len();
            let spread = |&dy: &f64| std::iter::repeat_n(dy / count as f64, count);
            Tensor::reference(x_shape, dy.f64s().iter().flat_map(spread).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let extents = [planes.height as u32, planes.width as u32];
            launch::each(&gpu, launch::kernel("spatial_mean_vjp", SHADER), &[], &[dy], x_shape, &extents)
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str =
    concat!(include_str!("prelude.wgsl"), include_str!("plane.wgsl"), include_str!("spatial_mean.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{EXTENTS, Tolerance, all_elements, check, check_adjoint, check_equivariant, random};

    #[test]
    fn parity_and_adjoint() {
        let squares = EXTENTS.map(|n| vec![3, 1, n, n]);
        let others = [vec![1, 1], vec![2, 5, 4, 11, 11], vec![5, 7], vec![1, 64, 15], vec![40, 10, 4, 11, 11]];
        for dims in squares.into_iter().chain(others) {
            let shape = Shape::new(&dims);
            let plane: usize = dims[dims.len() - 2..].iter().product();
            // Squares, so that the sum is as large as its terms.
            let x = crate::mul(&random(shape, 1), &random(shape, 1));
            let dy = random(without_planes(shape), 2);
            check(&format!("spatial_mean {dims:?}"), &[&x], Tolerance::Terms(plane), |t| vec![spatial_mean(&t[0])]);
            check(&format!("spatial_mean_vjp {dims:?}"), &[&dy], Tolerance::Terms(1), |t| {
                vec![spatial_mean_vjp(&t[0], shape)]
            });
            check_adjoint(&format!("{dims:?}"), shape, spatial_mean, |dy| spatial_mean_vjp(dy, shape));
        }
    }

    #[test]
    fn the_mean_keeps_every_bit_under_all_symmetries() {
        for (height, width) in (1..13).flat_map(|h| (1..13).map(move |w| (h, w))) {
            let name = format!("{height}x{width}");
            check_equivariant(&name, [3, 2, height, width], &all_elements(), true, spatial_mean);
        }
    }

    #[test]
    fn a_mean_by_hand() {
        let x = Tensor::cpu([2, 2, 2], vec![1.0, 2.0, 3.0, 6.0, 0.0, 0.0, 0.0, 1.0].into());
        assert_eq!(spatial_mean(&x).f32s(), [3.0, 0.25]);
    }
}
