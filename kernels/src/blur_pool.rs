//! BlurPool: subsampling after a low-pass filter, against aliasing.

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{Window, pool::Geometry, simd::wide, sweep::for_each_piece};
use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// BlurPool (Zhang 2019, *Making Convolutional Networks Shift-Invariant Again*):
/// `y[…, i, j] = Σ_{u,v<k} b_u b_v x[…, i·s + u − p, j·s + v − p]`, with zeros in the padding. The binomial weights are
/// `b = (1, 2, 1)/4` for `kernel_size` 3 and `b = (1, 4, 6, 4, 1)/16` for 5. Any leading axes, then `[H, W]` →
/// `[H', W']` by [`quarterturn_core::window_extent`].
///
/// Samples with the same weight are added first, in the order of [`crate::avg_pool`]. So turning or mirroring the input
/// turns or mirrors the output to the bit, on the CPU and on a GPU, where (H + 2p − k) mod s = 0 (likewise W).
/// Gradient: [`blur_pool_vjp`].
///
/// # Panics
/// If `kernel_size` is neither 3 nor 5; with fewer than two axes, if no window fits, or with `padding ≥ kernel_size`.
#[track_caller]
pub fn blur_pool(x: &Tensor, window: Window) -> Tensor {
    let weights = weights("blur_pool", window);
    let geometry = Geometry::of("blur_pool", x.shape(), window);
    let shape = geometry.y_shape(x.shape());
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(shape.len());
            let [x_len, y_len] = geometry.piece();
            for_each_piece(x.f32s(), x_len, &mut y, y_len, &|_, x, y| {
                geometry.weighted_sums(x, y, |u, v| weights[u] * weights[v]);
            });
            Tensor::cpu(shape, y)
        }
        Device::Reference => {
            let x = x.f64s();
            let sum = |(i, at)| weight_of(i, at, &weights, geometry) * x[at];
            Tensor::reference(shape, geometry.reference_windows(|taps| taps.map(sum).sum()))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => geometry.launch(&gpu, launch::kernel("blur_pool", SHADER), &[x], shape, shape.len()),
    }
}

/// Gradient of [`blur_pool`], its adjoint: each sample of a window gets `b_u b_v dy`.
///
/// # Panics
/// As [`blur_pool`], or if `dy` does not have the shape of its result.
#[track_caller]
pub fn blur_pool_vjp(dy: &Tensor, x_shape: Shape, window: Window) -> Tensor {
    let weights = weights("blur_pool_vjp", window);
    let geometry = Geometry::of("blur_pool_vjp", x_shape, window);
    geometry.assert_result("blur_pool_vjp", x_shape, dy);
    match dy.device() {
        Device::Cpu => {
            let mut dx = HostBuffer::scratch(x_shape.len());
            for_each_piece(dy.f32s(), geometry.y.len(), &mut dx, geometry.x.len(), &|_, dy, dx| {
                spread(dy, dx, &weights, geometry);
            });
            Tensor::cpu(x_shape, dx)
        }
        Device::Reference => {
            let (dy, mut dx) = (dy.f64s(), vec![0.0; x_shape.len()]);
            geometry.reference_windows(|taps| {
                taps.for_each(|(i, at)| dx[at] += weight_of(i, at, &weights, geometry) * dy[i]);
            });
            Tensor::reference(x_shape, dx)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let kernel = launch::kernel("blur_pool_vjp", SHADER);
            geometry.launch(&gpu, kernel, &[dy], x_shape, x_shape.len())
        }
    }
}

/// The weights along one axis.
#[track_caller]
fn weights(op: &str, window: Window) -> Vec<f32> {
    match window.kernel_size {
        3 => [1.0, 2.0, 1.0].map(|weight| weight / 4.0).to_vec(),
        5 => [1.0, 4.0, 6.0, 4.0, 1.0].map(|weight| weight / 16.0).to_vec(),
        k => panic!("{op}: expected kernel_size 3 or 5, got {k}"),
    }
}

/// That of the sample `at` of x in the window `i` of y.
fn weight_of(i: usize, at: usize, weights: &[f32], Geometry { x, y, window }: Geometry) -> f64 {
    let along = |at: usize, i: usize| f64::from(weights[at + window.padding - i * window.stride]);
    let (at, i) = (at % x.len(), i % y.len());
    along(at / x.width, i / y.width) * along(at % x.width, i % y.width)
}

wide! {
    /// The adjoint of a plane's weighted sums.
    fn spread(dy: &[f32], dx: &mut [f32], weights: &[f32], geometry: Geometry) {
        let Geometry { x, y, window: Window { stride, padding, .. } } = geometry;
        let mut across = vec![0.0; x.width];
        dx.fill(0.0);
        for (i, dy) in dy.chunks_exact(y.width).enumerate() {
            across.fill(0.0);
            for (j, dy) in dy.iter().enumerate() {
                let columns = geometry.covered(j, x.width);
                let weights = &weights[columns.start + padding - j * stride..];
                across[columns].iter_mut().zip(weights).for_each(|(across, weight)| *across += weight * dy);
            }
            for row in geometry.covered(i, x.height) {
                let weight = weights[row + padding - i * stride];
                let dx = &mut dx[row * x.width..][..x.width];
                dx.iter_mut().zip(&across).for_each(|(dx, across)| *dx += weight * across);
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(
    include_str!("prelude.wgsl"),
    include_str!("plane.wgsl"),
    include_str!("pool.wgsl"),
    include_str!("blur_pool.wgsl")
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parity::{Tolerance, all_elements, check, check_adjoint, check_equivariant, random};
    use quarterturn_core::window_residual;

    const fn window(kernel_size: usize, stride: usize, padding: usize) -> Window {
        Window { kernel_size, stride, padding }
    }

    #[test]
    fn parity_and_adjoint() {
        for (leading, extents, window) in [
            (&[5usize, 4, 4] as &[usize], [3, 3], window(3, 1, 0)),
            (&[2, 3, 4], [7, 9], window(3, 2, 1)),
            (&[2], [33, 65], window(3, 2, 1)),
            (&[], [5, 18], window(5, 1, 2)),
            (&[2, 5], [16, 19], window(5, 2, 2)),
            (&[3], [4, 40], window(5, 3, 4)),
        ] {
            let (shape, name) =
                (Shape::new(&[leading, &extents].concat()), format!("{leading:?} {extents:?} {window:?}"));
            let x = random(shape, 1);
            let dy = random(blur_pool(&x, window).shape(), 2);
            check(&name, &[&x], Tolerance::Terms(25), |t| vec![blur_pool(&t[0], window)]);
            check(&name, &[&dy], Tolerance::Terms(25), |t| vec![blur_pool_vjp(&t[0], shape, window)]);
            check_adjoint(&name, shape, |x| blur_pool(x, window), |dy| blur_pool_vjp(dy, shape, window));
        }
    }

    #[test]
    fn it_commutes_with_the_square_exactly_where_the_grid_fits() {
        for size in 5..12 {
            for window in [window(3, 2, 1), window(3, 1, 1), window(5, 2, 2), window(5, 3, 1), window(5, 1, 0)] {
                let Window { kernel_size, stride, padding } = window;
                let fits = window_residual(size, kernel_size, stride, padding) == Some(0);
                let name = format!("{size} {window:?}");
                check_equivariant(&name, [2, 3, 1, size, size], &all_elements(), fits, |x| blur_pool(x, window));
            }
        }
    }

    #[test]
    fn the_weights_are_binomial_and_keep_a_constant() {
        let middle = |size: usize| {
            let mut x = vec![0.0; size * size];
            x[size * size / 2] = 256.0;
            Tensor::cpu([size, size], x.into())
        };
        let three = blur_pool(&middle(3), window(3, 1, 1));
        assert_eq!(three.f32s(), [16.0, 32.0, 16.0, 32.0, 64.0, 32.0, 16.0, 32.0, 16.0]);
        let five = blur_pool(&middle(5), window(5, 1, 2));
        assert_eq!(five.f32s()[..10], [1.0, 4.0, 6.0, 4.0, 1.0, 4.0, 16.0, 24.0, 16.0, 4.0]);
        for k in [3, 5] {
            let ones = Tensor::full([9, 9], 1.0, &Device::Cpu).unwrap();
            assert!(blur_pool(&ones, window(k, 2, 0)).f32s().iter().all(|&v| v == 1.0), "{k}");
        }
    }

    #[test]
    #[should_panic(expected = "blur_pool: expected kernel_size 3 or 5, got 4")]
    fn other_windows_are_refused() {
        blur_pool(&random([9, 9], 1), window(4, 2, 0));
    }
}
