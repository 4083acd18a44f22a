//! Adaptive pooling of stride 2.

use super::{
    GridChoice, choose_grid, made_with_stride_1,
    sampling::{Sampling, Weights},
    score::{PlaneScore, Region, Scores},
    subsample, upsample,
};
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    Window, avg_pool, avg_pool_vjp,
    dense::Dense,
    jobs::{for_each_chunk, map_items_init},
    max_pool, max_pool_vjp,
    plane::{Planes, with_planes},
    pool::Geometry,
    sweep::{PIECE, for_each_piece2},
};

use quarterturn_core::{Device, HostBuffer, Shape, Tensor};

/// Max pooling that is exact at every size: [`max_pool`] with stride 1, then [`subsample`] on the grid that
/// [`choose_grid`] finds for the pooled map. Where the window leaves no row or column over, the result is [`max_pool`]
/// itself, in every bit. (PyTorch's `AdaptiveMaxPool2d` is something else: it is told the size of its result.)
///
/// `[N, …, H, W]` → `[N, …, ⌈n/2⌉, ⌈m/2⌉]` with n = H + 2p − k + 1 and m = W + 2p − k + 1. Returns the choice too.
///
/// # Panics
/// As [`max_pool`]; if the stride is not 2, or `x` has fewer than three axes or no element.
#[track_caller]
pub fn adaptive_max_pool(x: &Tensor, window: Window) -> (Tensor, GridChoice) {
    const OP: &str = "adaptive_max_pool";
    let pool = Pool::new(OP, x.shape(), window);
    if !pool.is_open() {
        return (max_pool(x, window), pool.closed(x));
    }
    match x.device() {
        Device::Cpu => pool.on_cpu(x),
        Device::Reference => {
            let made = max_pool(x, Window { stride: 1, ..window });
            let choice = choose_grid(&made);
            (subsample(&made, &choice), choice)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let (weights, [height, width]) = (pool.scores.choose_on(&gpu, x, pool.batch), pool.extents());
            let choice = GridChoice { weights, height, width };
            let [out_height, out_width] = choice.sampled();
            let (planes, padding) = ((pool.x.count / pool.batch) as u32, window.padding as u32);
            let extents = [pool.x.height, pool.x.width, out_height, out_width].map(|v| v as u32);
            let uniform = [extents[0], extents[1], extents[2], extents[3], planes, 2, padding];
            let kernel = launch::kernel("grid_max", super::sampling::SHADER);
            let overrides = [("WINDOW", window.kernel_size as f64)];
            let shape = with_planes(x.shape(), out_height, out_width);
            let y = launch::each(&gpu, kernel, &overrides, &[x, &choice.weights], shape, &uniform);
            (y, choice)
        }
    }
}

/// Gradient of [`adaptive_max_pool`], with the choice as a constant: it goes to the first maximum of each window. Where
/// several grids have the same score, it is shared among them.
///
/// # Panics
/// As [`adaptive_max_pool`], or if `choice` or `dy` is not of its result.
#[track_caller]
pub fn adaptive_max_pool_vjp(x: &Tensor, dy: &Tensor, window: Window, choice: &GridChoice) -> Tensor {
    const OP: &str = "adaptive_max_pool_vjp";
    let pool = Pool::new(OP, x.shape(), window);
    let [height, width] = choice.sampled();
    assert_eq!(pool.extents(), choice.extents(), "{OP}: a choice for other windows");
    assert_eq!(dy.shape(), with_planes(x.shape(), height, width), "{OP}: dy must have the shape of the result");
    choice.check(OP, x);
    if !pool.is_open() {
        return max_pool_vjp(x, dy, window);
    }
    match choice.check(OP, dy) {
        Device::Cpu => pool.vjp_on_cpu(x, dy, choice),
        _ => max_pool_vjp(x, &upsample(dy, choice), Window { stride: 1, ..window }),
    }
}

/// Average pooling that is exact at every size; otherwise as [`adaptive_max_pool`].
///
/// # Panics
/// As there.
#[track_caller]
pub fn adaptive_avg_pool(x: &Tensor, window: Window) -> (Tensor, GridChoice) {
    let pool = Pool::new("adaptive_avg_pool", x.shape(), window);
    if !pool.is_open() {
        return (avg_pool(x, window), pool.closed(x));
    }
    let made = avg_pool(x, Window { stride: 1, ..window });
    let choice = choose_grid(&made);
    (subsample(&made, &choice), choice)
}

/// Gradient of [`adaptive_avg_pool`], with the choice as a constant.
///
/// # Panics
/// As there, or if `choice` or `dy` is not of its result.
#[track_caller]
pub fn adaptive_avg_pool_vjp(dy: &Tensor, x_shape: Shape, window: Window, choice: &GridChoice) -> Tensor {
    const OP: &str = "adaptive_avg_pool_vjp";
    let pool = Pool::new(OP, x_shape, window);
    assert_eq!(pool.extents(), choice.extents(), "{OP}: a choice for other windows");
    match pool.is_open() {
        true => avg_pool_vjp(&upsample(dy, choice), x_shape, Window { stride: 1, ..window }),
        false => avg_pool_vjp(dy, x_shape, window),
    }
}

/// A pool of stride 2.
struct Pool {
    window: Window,
    batch: usize,
    x: Planes,
    /// Of what the window makes with stride 1.
    scores: Scores,
}

impl Pool {
    #[track_caller]
    fn new(op: &str, x: Shape, window: Window) -> Self {
        assert!(x.rank() >= 3 && !x.is_empty(), "{op}: expected [N, …, H, W] with elements, got {x:?}");
        assert!(window.padding < window.kernel_size, "{op}: expected padding below kernel_size, got {window:?}");
        let [height, width] = made_with_stride_1(op, x, window);
        let (batch, planes) = (x[0], Planes::of(op, x));
        let region = Region { height, width, inset: -(window.padding as isize), window: window.kernel_size };
        Pool { window, batch, x: planes, scores: Scores::new(region, planes.count / batch) }
    }

    fn extents(&self) -> [usize; 2] {
        [self.scores.region.height, self.scores.region.width]
    }

    fn is_open(&self) -> bool {
        self.extents().iter().any(|extent| extent.is_multiple_of(2))
    }

    fn closed(&self, x: &Tensor) -> GridChoice {
        let [height, width] = self.extents();
        GridChoice::closed(self.batch, height, width, &x.device())
    }

    /// Image by image, so that the map is still in a cache when the grid is known.
    fn on_cpu(&self, x: &Tensor) -> (Tensor, GridChoice) {
        let (pitch, [height, width]) = (self.scores.pitch(), self.extents());
        let shape = with_planes(x.shape(), height.div_ceil(2), width.div_ceil(2));
        // Rows of the map are longer than the map, with zeros behind.
        let y = [height.div_ceil(2), width.div_ceil(2)];
        let sampling = Sampling::by_two([height, pitch], y);
        let (image, map, sampled) = (x.len() / self.batch, height * pitch, y[0] * y[1]);
        let mut results = HostBuffer::scratch(shape.len());
        let images = x.f32s().chunks_exact(image).zip(results.chunks_exact_mut(shape.len() / self.batch));
        // Images are shared out over the cores, and only large ones once more.
        let planes_per_job = (4 * PIECE).div_ceil(self.x.len());
        let dense = || Dense::new(self.x, self.window.kernel_size, self.window.padding, f32::NEG_INFINITY);
        let of_image = |maps: &mut HostBuffer, _: usize, (x, y): (&[f32], &mut [f32])| {
            let scores = map_items_init(maps.chunks_exact_mut(map), planes_per_job, dense, |dense, plane, z| {
                self.score_of_plane(&x[plane * self.x.len()..], dense, z)
            });
            let weights = self.scores.weights(&scores);
            for_each_chunk(y, sampled, planes_per_job, &|plane, y| {
                sampling.gather_plane(&weights, &maps[plane * map..][..map], y);
            });
            weights
        };
        let maps = || HostBuffer::scratch(self.x.count / self.batch * map);
        let weights = map_items_init(images, 1, maps, of_image);
        let weights = Tensor::cpu([self.batch, 4], weights.into_iter().flatten().collect());
        (Tensor::cpu(shape, results), GridChoice { weights, height, width })
    }

    /// Makes the map `z` of a plane, with which `x` begins, zeros behind its rows.
    fn score_of_plane(&self, x: &[f32], dense: &mut Dense, z: &mut [f32]) -> PlaneScore {
        self.scores.plane_of_windows(&x[..self.x.len()], dense.view(x), z)
    }

    /// Each chosen grid's windows are plain ones, of stride 2, on the plane moved by where it begins.
    fn vjp_on_cpu(&self, x: &Tensor, dy: &Tensor, choice: &GridChoice) -> Tensor {
        let window = Window { padding: 0, ..self.window };
        let moves = Sampling::of_windows(x.shape(), choice, self.window);
        let geometry = Geometry::of("adaptive_max_pool_vjp", Shape::from(moves.y), window);
        let everywhere = Geometry::of(
            "adaptive_max_pool_vjp",
            Shape::from([self.x.height, self.x.width]),
            Window { stride: 1, ..self.window },
        );
        let weights = Weights::of(choice.weights.f32s(), x, self.x.len());
        let mut dx = HostBuffer::scratch(x.len());
        let (x_len, y_len) = (self.x.len(), dy.len() / self.x.count);
        for_each_piece2(x.f32s(), x_len, dy.f32s(), y_len, &mut dx, x_len, &|plane, x, dy, dx| {
            let weights = weights.of_plane(plane);
            if weights[0].is_nan() {
                // As of all grids, with weights that are NaN.
                return everywhere.maxima_vjp(x, &vec![f32::NAN; everywhere.y.len()], dx);
            }
            dx.fill(0.0);
            let mut moved = vec![f32::NEG_INFINITY; moves.y[0] * moves.y[1]];
            let mut gradient = vec![0.0; moved.len()];
            for (grid, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
                moved.fill(f32::NEG_INFINITY);
                moves.for_each_row(grid, |to, from| {
                    let len = to.len();
                    moved[to].copy_from_slice(&x[from..][..len]);
                });
                geometry.maxima_vjp(&moved, dy, &mut gradient);
                moves.for_each_row(grid, |from, to| {
                    dx[to..].iter_mut().zip(&gradient[from]).for_each(|(dx, d)| *dx += weight * d);
                });
            }
        });
        Tensor::cpu(x.shape(), dx)
    }
}
