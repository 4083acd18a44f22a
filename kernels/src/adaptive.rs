//! Adaptive subsampling: subsampling by 2 that commutes with turns and reflections at every size.
//!
//! Let `z` be the map that a window of stride 2 would make at stride 1. If an extent of `z` is even, a sample is left over there,
//! and a turn moves the grid of sampled places onto another grid. There are four grids: rows `a, a + 2, …` and columns `b, b + 2, …`,
//! with `a` and `b` 0 or 1. Each image chooses its own: the grid with the largest sum of squares. So the choice turns with the
//! image (adaptive polyphase sampling, Chaman & Dokmanic 2021, made for translations; group equivariant subsampling, Xu et al.
//! 2021). If both extents are odd, grid (0, 0) is taken, and results have the bits of the plain layer.
//!
//! The choice turns with the map in every bit, for the sums of squares are sums of integers (`score.rs`), which have no order.
//! Where grids tie, as in a blank image or one with a symmetry of its own, no choice of one could turn with the map: their mean
//! is taken. A NaN anywhere in an image leaves no choice, and makes all of its results NaN.
//!
//! The choice is a value of its own, [`GridChoice`]. A residual block chooses once, from its input, and hands the choice to its
//! branch and to its shortcut. What was sampled goes back with [`upsample`], the adjoint of [`subsample`], to the very grid that it
//! came from: so a U-Net turns in every bit at every size too.

mod pool;
mod sampling;
mod score;

pub use pool::*;
use quarterturn_core::{Device, Shape, Tensor, common_device};
use sampling::{Sampling, gather, spread};
use score::{Region, Scores};

use crate::{
    Window, avg_pool,
    plane::{Planes, with_planes},
};

/// Which grid of pixels each image of a batch keeps when it is subsampled by 2. There are up to four: rows start at 0
/// or 1, and so do columns. Cloning shares the choice.
#[derive(Clone, Debug)]
pub struct GridChoice {
    /// `[N, 4]`.
    weights: Tensor,
    /// Extents of the maps that are sampled.
    height: usize,
    width: usize,
}

impl GridChoice {
    /// The weight of each grid, `[N, 4]`, for first row and column (0, 0), (0, 1), (1, 0) and (1, 1). The chosen grid
    /// has weight 1 and the others 0. If t grids have the same score, each has weight 1/t. NaN if the image has a NaN.
    pub fn weights(&self) -> &Tensor {
        &self.weights
    }

    /// Height and width of the maps before subsampling. Those of the result are half of these, rounded up.
    pub fn extents(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Whether there was a choice: height or width is even.
    pub fn is_open(&self) -> bool {
        self.open() != [false; 2]
    }

    /// Whether rows, and whether columns, could begin at 1.
    fn open(&self) -> [bool; 2] {
        self.extents().map(|extent| extent.is_multiple_of(2))
    }

    fn batch(&self) -> usize {
        self.weights.shape()[0]
    }

    /// Extents of what is sampled.
    fn sampled(&self) -> [usize; 2] {
        self.extents().map(|extent| extent.div_ceil(2))
    }

    /// The choice for maps of these extents, where there is none.
    fn closed(batch: usize, height: usize, width: usize, device: &Device) -> Self {
        let grids = || (0..4 * batch).map(|i| if i % 4 == 0 { 1.0 } else { 0.0 });
        let weights = match device {
            Device::Cpu => Tensor::cpu([batch, 4], grids().collect()),
            Device::Reference => Tensor::reference([batch, 4], grids().map(f64::from).collect()),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => Tensor::gpu([batch, 4], gpu.constant(&grids().collect::<Vec<_>>())),
        };
        GridChoice { weights, height, width }
    }

    /// That this is a choice for as many images, and as they are on `device`.
    #[track_caller]
    fn check(&self, op: &str, x: &Tensor) -> Device {
        let batch = x.dims().first().copied().filter(|_| x.shape().rank() >= 3);
        assert_eq!(batch, Some(self.batch()), "{op}: expected [N, …, H, W] of {} images, got {x:?}", self.batch());
        common_device(op, &[x, &self.weights])
    }
}

/// Chooses a grid for each image of `z` `[N, …, H, W]`: the one with the largest sum of squares over all planes. If the
/// planes are turned or mirrored, the choice turns with them. The order of the planes does not matter. (Adaptive
/// polyphase sampling, Chaman & Dokmanic 2021; group equivariant subsampling, Xu et al. 2021.)
///
/// Sums of squares in floating point would depend on their order, so they are computed in integers. The score of a grid
/// of one plane is `Σ round(2ᵇ z²/4ᵉ)`. Here `2ᵉ` is the power of two above the largest `|z|` of the plane, and b ≤ 22
/// is as large as a 32-bit sum allows. The scores of an image's planes are added as multiples of the largest `4ᵉ`.
/// (Values above 2¹²⁶ count as 2¹²⁶.)
///
/// # Panics
/// If `z` has fewer than three axes, or an empty plane.
#[track_caller]
pub fn choose_grid(z: &Tensor) -> GridChoice {
    choose("choose_grid", z, 0)
}

/// The rounding of [`choose_grid`], for code that computes the same scores in another program. Arguments are height and
/// width of the map and the number of planes of an image. Returns `b`, and the number of bits by which a plane's sum is
/// shortened, so that the sum over all planes fits.
pub fn grid_score_bits([height, width]: [usize; 2], planes: usize) -> [u32; 2] {
    Scores::new(Region { height, width, inset: 0, window: 1 }, planes).rounding()
}

/// Chooses the grid for windows of stride 2 on `x` `[N, …, H, W]`, without computing the outputs of the windows. The
/// score of a grid is computed from `x` at the centres of its windows. Where `kernel_size` is even, it is computed from
/// the means of the four samples around each centre. Centres outside of the map do not count. For a dilated filter,
/// pass `d(k − 1) + 1` as `kernel_size`.
///
/// Two layers on the same input can share the choice if, with stride 1, they would have outputs of the same size.
///
/// # Panics
/// If the stride is not 2, `x` has fewer than three axes or an empty plane, or no window fits.
#[track_caller]
pub fn choose_grid_of_windows(x: &Tensor, window: Window) -> GridChoice {
    const OP: &str = "choose_grid_of_windows";
    let [height, width] = made_with_stride_1(OP, x.shape(), window);
    if height % 2 == 1 && width % 2 == 1 {
        return GridChoice::closed(x.shape()[0], height, width, &x.device());
    }
    // Window o of stride 1 has its centre at sample o + inset; between two samples of an even one there is one of the means.
    let inset = (window.kernel_size as isize - 1) / 2 - window.padding as isize;
    match window.kernel_size % 2 {
        1 => choose(OP, x, inset),
        _ => choose(OP, &avg_pool(x, Window { kernel_size: 2, stride: 1, padding: 0 }), inset),
    }
}

/// By `x` without `inset` samples at each side, or with as many zeros more.
#[track_caller]
fn choose(op: &str, x: &Tensor, inset: isize) -> GridChoice {
    assert!(x.shape().rank() >= 3, "{op}: expected [N, …, H, W], got {:?}", x.shape());
    let planes = Planes::of(op, x.shape());
    let batch = x.shape()[0];
    assert!(!x.is_empty(), "{op}: expected planes that are not empty, got {:?}", x.shape());
    let [height, width] = [planes.height, planes.width].map(|extent| extent.saturating_add_signed(-2 * inset));
    assert!(height > 0 && width > 0, "{op}: no window fits {:?}", x.shape());
    if height % 2 == 1 && width % 2 == 1 {
        return GridChoice::closed(batch, height, width, &x.device());
    }
    let region = Region { height, width, inset, window: 1 };
    let scores = Scores::new(region, planes.count / batch);
    let weights = match x.device() {
        Device::Cpu => Tensor::cpu([batch, 4], scores.choose(x.f32s(), planes)),
        Device::Reference => Tensor::reference([batch, 4], scores.choose_reference(x.f64s(), planes)),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => scores.choose_on(&gpu, x, batch),
    };
    GridChoice { weights, height, width }
}

/// Extents of the map that windows make with stride 1 of `[…, H, W]`.
#[track_caller]
fn made_with_stride_1(op: &str, x: Shape, window: Window) -> [usize; 2] {
    let planes = Planes::of(op, x);
    let Window { kernel_size, stride, padding } = window;
    assert_eq!(stride, 2, "{op}: only a stride of 2 has four grids to choose from; larger ones are made of several");
    [planes.height, planes.width].map(|extent| {
        let made = quarterturn_core::window_extent(extent, kernel_size, 1, padding);
        made.unwrap_or_else(|| panic!("{op}: a window of {kernel_size} does not fit {x:?}, padding {padding}"))
    })
}

/// Keeps the samples of the chosen grid: `[N, …, H, W]` → `[N, …, ⌈H/2⌉, ⌈W/2⌉]`. The formula is
/// `y[n, …, i, j] = Σ_ab w[n, a, b] · z[n, …, 2i + a, 2j + b]` with the weights w of the choice; indices outside of the
/// map are left out. Where several grids have the same score, opposite grids are added first, so that a turn only
/// exchanges operands of additions.
///
/// # Panics
/// If number, height, width or device of the images differ from those that the choice was made for.
#[track_caller]
pub fn subsample(z: &Tensor, choice: &GridChoice) -> Tensor {
    assert_planes("subsample", z, choice.extents());
    gather("subsample", z, choice, Sampling::by_two(choice.extents(), choice.sampled()))
}

/// Puts the samples of `y` `[N, …, ⌈H/2⌉, ⌈W/2⌉]` back on the chosen grid, with zeros elsewhere. This is the adjoint of
/// [`subsample`]. If t grids have the same score, each gets the samples divided by t.
///
/// # Panics
/// If the shape of `y` is not that of [`subsample`] with this choice.
#[track_caller]
pub fn upsample(y: &Tensor, choice: &GridChoice) -> Tensor {
    assert_planes("upsample", y, choice.sampled());
    spread("upsample", y, choice, Sampling::by_two(choice.extents(), choice.sampled()))
}

/// Shifts `x` `[N, …, H, W]` so that an ordinary layer of stride 2 on it uses the windows of the chosen grid. Returns
/// the shifted map, which includes the zeros of the padding, and the window without padding to use on it. If there is
/// no choice, `x` and `window` are returned as they are. If several grids have the same score, the map is the mean of
/// the shifted maps; a linear operation, such as a convolution, then gives the mean of the results.
///
/// # Panics
/// If the stride is not 2, or the choice is not one for these windows on `x`.
#[track_caller]
pub fn move_onto_grid(x: &Tensor, choice: &GridChoice, window: Window) -> (Tensor, Window) {
    const OP: &str = "move_onto_grid";
    assert_eq!(made_with_stride_1(OP, x.shape(), window), choice.extents(), "{OP}: a choice for other windows");
    if !choice.is_open() {
        choice.check(OP, x);
        return (x.clone(), window);
    }
    let moved = gather(OP, x, choice, Sampling::of_windows(x.shape(), choice, window));
    (moved, Window { padding: 0, ..window })
}

/// Gradient of [`move_onto_grid`]: its adjoint.
///
/// # Panics
/// As there, or if `dy` does not have the shape of its result.
#[track_caller]
pub fn move_onto_grid_vjp(dy: &Tensor, x_shape: Shape, choice: &GridChoice, window: Window) -> Tensor {
    const OP: &str = "move_onto_grid_vjp";
    assert_eq!(made_with_stride_1(OP, x_shape, window), choice.extents(), "{OP}: a choice for other windows");
    if !choice.is_open() {
        choice.check(OP, dy);
        return dy.clone();
    }
    let sampling = Sampling::of_windows(x_shape, choice, window);
    assert_planes(OP, dy, sampling.y);
    spread(OP, dy, choice, sampling)
}

#[track_caller]
fn assert_planes(op: &str, x: &Tensor, [height, width]: [usize; 2]) {
    let planes = Planes::of(op, x.shape());
    let expected = with_planes(x.shape(), height, width);
    assert!((planes.height, planes.width) == (height, width), "{op}: expected {expected:?}, got {:?}", x.shape());
}

#[cfg(test)]
mod tests;
