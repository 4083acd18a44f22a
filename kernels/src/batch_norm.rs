//! Batch norm, one statistic per channel (axis 1) over all other axes, with the ReLU and dropout that follow it fused in.
use crate::{
    dropout::Rule,
    order::{passes, positive_part},
    pool::Geometry,
    simd::wide,
    sweep::{LANES, PIECE, for_each_piece, lane_sums, masked, total},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, GpuBuffer, Kernel, Size};

use quarterturn_core::{Device, HostBuffer, Stream, Tensor, common_device};
use rayon::prelude::*;

/// What follows the normalisation in the same sweep: `y = dropout(relu(z))`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activation {
    /// Apply `max(z, 0)`.
    pub relu: bool,
    /// Drop each element with this probability, as [`crate::dropout`] does (needs `relu`: the gradient finds what was
    /// kept as `y > 0`, or NaN).
    pub dropout: Option<(f32, Stream)>,
}

/// Training-mode results.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Output, shape of `x`.
    pub y: Tensor,
    /// Batch mean `[C]`.
    pub mean: Tensor,
    /// Biased batch variance `[C]`.
    pub var: Tensor,
    /// Elements per channel, of which they are.
    pub count: usize,
}

/// `z = (x − mean) / √(var + eps) · weight + bias`, mean and (biased) var of the batch: one per channel over all axes
/// but axis 1, so over the group too. `x` is `[N, C, …]`, `weight` and `bias` `[C]`; `y = dropout(relu(z))` as
/// `activation` says.
///
/// On the CPU the moments of pieces of a few thousand elements are taken in `f32` about each piece's own mean and
/// merged in `f64` (Chan, Golub & LeVeque 1979), so that a large mean costs no digits.
///
/// # Panics
/// If the shapes do not fit, `x` is empty, devices differ, or there is dropout without relu.
#[track_caller]
pub fn batch_norm_train(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, activation: Activation) -> BatchNorm {
    let axes = Axes::of("batch_norm_train", x, &[weight, bias]);
    let after = After::new("batch_norm_train", activation);
    assert!(!x.is_empty(), "batch_norm_train: expected a batch that is not empty, got {:?}", x.shape());
    match common_device("batch_norm_train", &[x, weight, bias]) {
        Device::Cpu => {
            let blocks = x.f32s().par_chunks_exact(axes.block).with_min_len(axes.blocks_per_job());
            let moments: Vec<Moments> = blocks.map(Moments::of).collect();
            batch_norm_of_moments(x, &moments, weight, bias, eps, activation, None)
        }
        Device::Reference => {
            let count = axes.count() as f64;
            let (mut mean, mut var) = (vec![0.0; axes.channels], vec![0.0; axes.channels]);
            for (i, v) in x.f64s().iter().enumerate() {
                mean[axes.channel(i)] += v / count;
            }
            for (i, v) in x.f64s().iter().enumerate() {
                var[axes.channel(i)] += (v - mean[axes.channel(i)]).powi(2) / count;
            }
            let (mean, var) = (Tensor::reference([axes.channels], mean), Tensor::reference([axes.channels], var));
            let y = reference_forward(axes, x, weight, bias, &mean, &var, eps, after);
            BatchNorm { y, mean, var, count: axes.count() }
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let norm = GpuBatchNorm::new(&gpu, axes, after, eps, Statistics::Batch);
            let [y, mean, var] = norm.normalise_batch(x, weight, bias);
            BatchNorm { y, mean, var, count: axes.count() }
        }
    }
}

/// [`batch_norm_train`] on the CPU, of which the moments of each image's channels `[N][C]` are known; and the maxima that
/// follow it, if any.
#[track_caller]
pub(crate) fn batch_norm_of_moments(
    x: &Tensor,
    moments: &[Moments],
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
    pool: Option<Geometry>,
) -> BatchNorm {
    let axes = Axes::of("batch_norm_train", x, &[weight, bias]);
    let after = After::new("batch_norm_train", activation);
    let (mean, var): (Vec<f32>, Vec<f32>) = (0..axes.channels)
        .map(|c| {
            let of_channel = moments[c..].iter().step_by(axes.channels);
            of_channel.copied().fold(Moments::default(), Moments::merged).mean_and_var()
        })
        .unzip();
    let affines = Affine::of_channels(weight.f32s(), bias.f32s(), &mean, &var, eps);
    let y = match pool {
        None => Tensor::cpu(x.shape(), axes.normalised(x.f32s(), &affines, after)),
        Some(pool) => Tensor::cpu(pool.y_shape(x.shape()), axes.pooled(x.f32s(), &affines, after, pool)),
    };
    let [mean, var] = [mean, var].map(|values| Tensor::cpu([axes.channels], values.into()));
    BatchNorm { y, mean, var, count: axes.count() }
}

/// (dx, dweight, dbias) of [`batch_norm_train`]: with `x̂ = (x − mean)/√(var + eps)`, `dz = dy · ∂y/∂z` and n elements
/// per channel, `dbias = Σ dz`, `dweight = Σ dz·x̂`, `dx = weight/√(var + eps) · (dz − dbias/n − x̂·dweight/n)`.
///
/// # Panics
/// As [`batch_norm_train`], or if `dy` does not have the shape of `x`.
#[track_caller]
pub fn batch_norm_train_vjp(
    x: &Tensor,
    forward: &BatchNorm,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
    dy: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let statistics = Statistics::Batch;
    let BatchNorm { y, mean, var, .. } = forward;
    vjp("batch_norm_train_vjp", statistics, x, y, weight, bias, mean, var, eps, activation, dy)
}

/// `new = (1 − momentum) · running + momentum · batch`, the variance unbiased (`var · count/(count − 1)`): returns
/// (running_mean, running_var).
///
/// # Panics
/// If the shapes do not fit, or `count < 2`, of which there is no unbiased variance.
#[track_caller]
pub fn update_running(
    running_mean: &Tensor,
    running_var: &Tensor,
    forward: &BatchNorm,
    momentum: f64,
) -> (Tensor, Tensor) {
    let count = forward.count;
    let operands = [running_mean, running_var, &forward.mean, &forward.var];
    let shapes = operands.map(Tensor::shape);
    assert!(shapes.iter().all(|s| *s == shapes[0]), "update_running: expected one shape [C], got {shapes:?}");
    assert!(count > 1, "update_running: expected at least 2 elements per channel, got {count}");
    let unbiased = count as f64 / (count - 1) as f64;
    let mix = |running: f64, batch: f64| (1.0 - momentum) * running + momentum * batch;
    match common_device("update_running", &operands) {
        Device::Cpu => {
            let update = |running: &Tensor, batch: &Tensor, factor: f64| {
                let pairs = running.f32s().iter().zip(batch.f32s());
                let new = pairs.map(|(&r, &b)| mix(f64::from(r), f64::from(b) * factor) as f32).collect();
                Tensor::cpu(running.shape(), new)
            };
            (update(running_mean, &forward.mean, 1.0), update(running_var, &forward.var, unbiased))
        }
        Device::Reference => {
            let update = |running: &Tensor, batch: &Tensor, factor: f64| {
                let pairs = running.f64s().iter().zip(batch.f64s());
                Tensor::reference(running.shape(), pairs.map(|(&r, &b)| mix(r, b * factor)).collect())
            };
            (update(running_mean, &forward.mean, 1.0), update(running_var, &forward.var, unbiased))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let new = [gpu.alloc(running_mean.len()), gpu.alloc(running_var.len())];
            let uniform = [momentum as f32, unbiased as f32].map(f32::to_bits);
            let (kernel, threads) = (Kernel::new("update_running", SHADER), Size::Threads(running_mean.len()));
            gpu.launch(&kernel, &[], &operands.map(Tensor::buffer), &[&new[0], &new[1]], &uniform, threads);
            let [mean, var] = new.map(|buffer| Tensor::gpu(running_mean.shape(), buffer));
            (mean, var)
        }
    }
}

/// As [`batch_norm_train`] with given statistics `mean` and `var` `[C]`: evaluation. Elementwise, hence bit-exactly
/// equivariant.
///
/// # Panics
/// If the shapes do not fit, devices differ, or there is dropout without relu.
#[track_caller]
pub fn batch_norm_eval(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    activation: Activation,
) -> Tensor {
    let axes = Axes::of("batch_norm_eval", x, &[weight, bias, mean, var]);
    let after = After::new("batch_norm_eval", activation);
    match common_device("batch_norm_eval", &[x, weight, bias, mean, var]) {
        Device::Cpu => {
            let affines = Affine::of_channels(weight.f32s(), bias.f32s(), mean.f32s(), var.f32s(), eps);
            Tensor::cpu(x.shape(), axes.normalised(x.f32s(), &affines, after))
        }
        Device::Reference => reference_forward(axes, x, weight, bias, mean, var, eps, after),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            GpuBatchNorm::new(&gpu, axes, after, eps, Statistics::Given).normalise(x, mean, var, weight, bias)
        }
    }
}

/// (dx, dweight, dbias) of [`batch_norm_eval`]; `y` is its output. The statistics are constants:
/// `dx = weight/√(var + eps) · dz`, the others as in [`batch_norm_train_vjp`].
///
/// # Panics
/// As [`batch_norm_eval`], or if `y` or `dy` does not have the shape of `x`.
#[track_caller]
pub fn batch_norm_eval_vjp(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    activation: Activation,
    dy: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let statistics = Statistics::Given;
    vjp("batch_norm_eval_vjp", statistics, x, y, weight, bias, mean, var, eps, activation, dy)
}

/// Whether mean and variance are functions of x.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Statistics {
    Batch,
    Given,
}

#[track_caller]
fn vjp(
    op: &str,
    statistics: Statistics,
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    activation: Activation,
    dy: &Tensor,
) -> (Tensor, Tensor, Tensor) {
    let axes = Axes::of(op, x, &[weight, bias, mean, var]);
    let after = After::new(op, activation);
    let shapes = (x.shape(), y.shape(), dy.shape());
    assert!(shapes.0 == shapes.1 && shapes.0 == shapes.2, "{op}: expected x, y, dy of one shape, got {shapes:?}");
    let channels = [axes.channels];
    match common_device(op, &[x, y, weight, bias, mean, var, dy]) {
        Device::Cpu => {
            let gradients = Gradient::of_channels(weight, bias, mean, var, eps, after, None);
            let (dx, dweight, dbias) = gradient_by_channel(statistics, axes, &gradients, x.f32s(), y.f32s(), dy.f32s());
            (Tensor::cpu(x.shape(), dx), Tensor::cpu(channels, dweight), Tensor::cpu(channels, dbias))
        }
        Device::Reference => {
            let (mean, var, weight) = (mean.f64s(), var.f64s(), weight.f64s());
            let inv_std = |i: usize| 1.0 / (var[axes.channel(i)] + eps).sqrt();
            let x_hat = |i: usize| (x.f64s()[i] - mean[axes.channel(i)]) * inv_std(i);
            let dz = |i: usize| match after {
                After::Nothing => dy.f64s()[i],
                After::Relu if passes(y.f64s()[i]) => dy.f64s()[i],
                After::ReluDropout(rule) if passes(y.f64s()[i]) => dy.f64s()[i] / rule.kept_fraction(),
                _ => 0.0,
            };
            let (mut dweight, mut dbias) = (vec![0.0; axes.channels], vec![0.0; axes.channels]);
            for i in 0..x.len() {
                dweight[axes.channel(i)] += dz(i) * x_hat(i);
                dbias[axes.channel(i)] += dz(i);
            }
            let n = axes.count() as f64;
            let dx = |i: usize| {
                let c = axes.channel(i);
                let through_statistics = match statistics {
                    Statistics::Batch => (dbias[c] + x_hat(i) * dweight[c]) / n,
                    Statistics::Given => 0.0,
                };
                weight[c] * inv_std(i) * (dz(i) - through_statistics)
            };
            let dx = Tensor::reference(x.shape(), (0..x.len()).map(dx).collect());
            (dx, Tensor::reference(channels, dweight), Tensor::reference(channels, dbias))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => GpuBatchNorm::new(&gpu, axes, after, eps, statistics).vjp([x, y, dy], [mean, var, weight]),
    }
}

/// The vjp on the CPU, of one channel after the other: what its sums have brought into a cache, its sweep still finds there.
/// `y` is not read where there is pooling.
pub(crate) fn gradient_by_channel(
    statistics: Statistics,
    axes: Axes,
    gradients: &[Gradient],
    x: &[f32],
    y: &[f32],
    dy: &[f32],
) -> (HostBuffer, HostBuffer, HostBuffer) {
    let mut dx = HostBuffer::scratch(x.len());
    let dy_axes = Axes { block: gradients[0].dy_block(axes.block), ..axes };
    let blocks = (axes.by_channel(x), axes.by_channel(y), dy_axes.by_channel(dy), axes.by_channel_mut(&mut dx));
    let sums: Vec<(f32, f32)> = blocks
        .into_par_iter()
        .zip(gradients)
        .enumerate()
        .map(|(c, ((x, y, dy, dx), gradient))| {
            let (start, jobs) = (|n| (n * axes.channels + c) * axes.block, axes.blocks_per_job());
            let blocks = (x.par_iter(), y.par_iter(), dy.par_iter()).into_par_iter().enumerate().with_min_len(jobs);
            let sums = blocks.map_init(Vec::new, |scratch, (n, (x, y, dy))| gradient.sums(start(n), x, y, dy, scratch));
            let sums: Vec<[f64; 2]> = sums.collect();
            let sums = sums.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
            let through = match statistics {
                Statistics::Batch => gradient.through_statistics(sums, axes.count()),
                Statistics::Given => Through::default(),
            };
            let blocks = (x, y, dy, dx).into_par_iter().enumerate().with_min_len(jobs);
            blocks.for_each_init(Vec::new, |scratch, (n, (x, y, dy, dx))| {
                gradient.sweep(start(n), x, y, dy, through, dx, scratch);
            });
            gradient.of_parameters(sums)
        })
        .collect();
    let (dweight, dbias): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
    (dx, dweight.into(), dbias.into())
}

fn reference_forward(
    axes: Axes,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    mean: &Tensor,
    var: &Tensor,
    eps: f64,
    after: After,
) -> Tensor {
    let y = |(i, &x): (usize, &f64)| {
        let c = axes.channel(i);
        let z = (x - mean.f64s()[c]) / (var.f64s()[c] + eps).sqrt() * weight.f64s()[c] + bias.f64s()[c];
        match after {
            After::Nothing => z,
            After::Relu => positive_part(z),
            After::ReluDropout(rule) if rule.keeps(i) => positive_part(z) / rule.kept_fraction(),
            After::ReluDropout(_) => 0.0,
        }
    };
    Tensor::reference(x.shape(), x.f64s().iter().enumerate().map(y).collect())
}

/// [`Activation`], checked.
#[derive(Clone, Copy)]
pub(crate) enum After {
    Nothing,
    Relu,
    ReluDropout(Rule),
}

impl After {
    #[track_caller]
    pub fn new(op: &str, activation: Activation) -> Self {
        match (activation.relu, activation.dropout) {
            (false, None) => After::Nothing,
            (true, None) => After::Relu,
            (true, Some((p, stream))) => After::ReluDropout(Rule::new(op, p, stream)),
            (false, Some(_)) => panic!("{op}: expected relu where there is dropout"),
        }
    }
}

/// `[N, C, …]` as N·C blocks of `block` contiguous elements.
#[derive(Clone, Copy)]
pub(crate) struct Axes {
    pub batch: usize,
    pub channels: usize,
    pub block: usize,
}

impl Axes {
    #[track_caller]
    pub fn of(op: &str, x: &Tensor, per_channel: &[&Tensor]) -> Self {
        let [batch, channels, rest @ ..] = x.dims() else {
            panic!("{op}: expected x [N, C, ...], got {:?}", x.shape())
        };
        for tensor in per_channel {
            assert_eq!(
                tensor.dims(),
                [*channels],
                "{op}: expected a value per channel of {:?}, got {:?}",
                x.shape(),
                { tensor.shape() }
            );
        }
        Axes { batch: *batch, channels: *channels, block: rest.iter().product() }
    }

    /// Elements per channel.
    pub fn count(self) -> usize {
        self.batch * self.block
    }

    /// The channel of element `i`.
    fn channel(self, i: usize) -> usize {
        i / self.block % self.channels
    }

    fn blocks_per_job(self) -> usize {
        PIECE.div_ceil(self.block.max(1))
    }

    /// The blocks of each channel.
    fn by_channel(self, x: &[f32]) -> Vec<Vec<&[f32]>> {
        let mut channels = vec![Vec::with_capacity(self.batch); self.channels];
        for (i, block) in x.chunks_exact(self.block.max(1)).enumerate() {
            channels[i % self.channels].push(block);
        }
        channels
    }

    /// The blocks of each channel, for writing.
    fn by_channel_mut(self, y: &mut [f32]) -> Vec<Vec<&mut [f32]>> {
        let mut channels: Vec<_> = (0..self.channels).map(|_| Vec::with_capacity(self.batch)).collect();
        for (i, block) in y.chunks_exact_mut(self.block.max(1)).enumerate() {
            channels[i % self.channels].push(block);
        }
        channels
    }

    /// `dropout(relu(affine(x)))`, with an affine map for each channel.
    fn normalised(self, x: &[f32], affines: &[Affine], after: After) -> HostBuffer {
        let mut y = HostBuffer::scratch(x.len());
        for_each_piece(x, self.block, &mut y, self.block, |i, x, y| {
            normalise(x, y, affines[i % self.channels], after, i * self.block);
        });
        y
    }

    /// The maxima of [`Axes::normalised`], of which only a block is ever there.
    fn pooled(self, x: &[f32], affines: &[Affine], after: After, pool: Geometry) -> HostBuffer {
        let (shrunk, blocks) = (pool.shrunk(self.block), x.len() / self.block);
        let mut y = HostBuffer::scratch(blocks * shrunk);
        let pieces = (x.par_chunks_exact(self.block), y.par_chunks_exact_mut(shrunk)).into_par_iter();
        pieces.enumerate().with_min_len(self.blocks_per_job()).for_each_init(
            || vec![0.0; self.block],
            |unpooled, (i, (x, y))| {
                normalise(x, unpooled, affines[i % self.channels], after, i * self.block);
                pool.maxima(unpooled, y);
            },
        );
        y
    }
}

/// Count, mean and sum of squared deviations from it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    /// Elements whose moments are taken in `f32`: they must fit the first cache, for they are read twice.
    const PIECE: usize = 4096;

    pub(crate) fn of(x: &[f32]) -> Self {
        x.chunks(Self::PIECE).map(piece_moments).fold(Moments::default(), Moments::merged)
    }

    fn merged(self, other: Moments) -> Moments {
        let count = self.count + other.count;
        let step = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + step * (other.count / count),
            squares: self.squares + other.squares + step * step * (self.count * other.count / count),
        }
    }

    fn mean_and_var(self) -> (f32, f32) {
        (self.mean as f32, (self.squares / self.count) as f32)
    }
}

wide! {
    fn piece_moments(x: &[f32]) -> Moments {
        let count = x.len() as f64;
        let mean = lane_sums(x, |v| v) / count;
        let centre = mean as f32;
        // About `centre`, which is the mean up to rounding; what rounding left is a term of the second order.
        let squares = lane_sums(x, |v| (v - centre) * (v - centre));
        let off = mean - f64::from(centre);
        Moments { count, mean, squares: squares - count * off * off }
    }
}

/// One channel's normalisation.
#[derive(Clone, Copy)]
struct Affine {
    mean: f32,
    inv_std: f32,
    scale: f32,
    bias: f32,
}

impl Affine {
    fn new(weight: f32, bias: f32, mean: f32, var: f32, eps: f64) -> Self {
        let inv_std = 1.0 / (f64::from(var) + eps).sqrt();
        Affine { mean, inv_std: inv_std as f32, scale: (f64::from(weight) * inv_std) as f32, bias }
    }

    /// One for each channel.
    fn of_channels(weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32], eps: f64) -> Vec<Affine> {
        (0..weight.len()).map(|c| Affine::new(weight[c], bias[c], mean[c], var[c], eps)).collect()
    }

    /// `z`; the gradient repeats this very expression to find where `z` passes.
    #[inline(always)]
    fn z(self, x: f32) -> f32 {
        (x - self.mean) * self.scale + self.bias
    }
}

wide! {
    fn normalise(x: &[f32], y: &mut [f32], affine: Affine, after: After, start: usize) {
        match after {
            After::Nothing => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = affine.z(x);
                }
            }
            After::Relu => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = positive_part(affine.z(x));
                }
            }
            After::ReluDropout(rule) => rule.for_each_run(start, x.len(), |run, draws| {
                for ((y, &x), &draw) in y[run.clone()].iter_mut().zip(&x[run]).zip(draws) {
                    *y = rule.apply(positive_part(affine.z(x)), draw);
                }
            }),
        }
    }
}

/// What the gradient of one channel needs.
#[derive(Clone, Copy)]
pub(crate) struct Gradient {
    affine: Affine,
    after: After,
    /// The maxima that follow, whose operand is made again.
    pool: Option<Geometry>,
}

/// What flows back through the statistics: the mean of dz, and its slope in x.
#[derive(Clone, Copy, Default)]
pub(crate) struct Through {
    dz_mean: f32,
    slope: f32,
}

impl Gradient {
    /// One for each channel.
    pub fn of_channels(
        weight: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
        eps: f64,
        after: After,
        pool: Option<Geometry>,
    ) -> Vec<Gradient> {
        let affines = Affine::of_channels(weight.f32s(), bias.f32s(), mean.f32s(), var.f32s(), eps);
        affines.into_iter().map(|affine| Gradient { affine, after, pool }).collect()
    }

    /// Elements of dy for a block of x.
    pub fn dy_block(self, block: usize) -> usize {
        self.pool.map_or(block, |pool| pool.shrunk(block))
    }

    /// `[Σ dz, Σ dz·(x − mean)]` of a block, which starts at element `start` of the whole tensor.
    pub fn sums(self, start: usize, x: &[f32], y: &[f32], dy: &[f32], scratch: &mut Vec<f32>) -> [f64; 2] {
        if let (Some(pool), After::Relu) = (self.pool, self.after) {
            // All but the greatest of each window have a gradient of 0.
            scratch.resize(dy.len(), 0.0);
            if pool.greatest(x, |x| self.affine.z(x), scratch) {
                return self.unpooled_sums(scratch, scratch, dy);
            }
        }
        let (y, dy) = self.unpooled(start, x, y, dy, scratch);
        self.unpooled_sums(x, y, dy)
    }

    /// The sums, where `y` and `dy` have the samples of `x`.
    fn unpooled_sums(self, x: &[f32], y: &[f32], dy: &[f32]) -> [f64; 2] {
        let pieces = x.chunks(Moments::PIECE).zip(y.chunks(Moments::PIECE)).zip(dy.chunks(Moments::PIECE));
        pieces.map(|((x, y), dy)| gradient_sums(x, y, dy, self)).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]])
    }

    /// What flows back through the statistics of a batch, of `count` elements a channel, with these sums.
    pub fn through_statistics(self, [dz, dz_x]: [f64; 2], count: usize) -> Through {
        let (inv_std, count) = (f64::from(self.affine.inv_std), count as f64);
        Through { dz_mean: (dz / count) as f32, slope: (dz_x * inv_std * inv_std / count) as f32 }
    }

    /// The gradients of weight and bias, with these sums.
    pub fn of_parameters(self, [dz, dz_x]: [f64; 2]) -> (f32, f32) {
        ((dz_x * f64::from(self.affine.inv_std)) as f32, dz as f32)
    }

    /// dx of a block.
    pub fn sweep(
        self,
        start: usize,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        through: Through,
        dx: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (y, dy) = self.unpooled(start, x, y, dy, scratch);
        gradient_sweep(x, y, dy, dx, self, through);
    }

    /// y and its gradient before the pooling.
    fn unpooled<'a>(
        self,
        start: usize,
        x: &[f32],
        y: &'a [f32],
        dy: &'a [f32],
        scratch: &'a mut Vec<f32>,
    ) -> (&'a [f32], &'a [f32]) {
        let Some(pool) = self.pool else { return (y, dy) };
        scratch.resize(2 * x.len(), 0.0);
        let (y, unpooled) = scratch.split_at_mut(x.len());
        normalise(x, y, self.affine, self.after, start);
        pool.maxima_vjp(y, dy, unpooled);
        (y, unpooled)
    }
}

wide! {
    fn gradient_sums(x: &[f32], y: &[f32], dy: &[f32], gradient: Gradient) -> [f64; 2] {
        let Gradient { affine, after, .. } = gradient;
        match after {
            After::Nothing => gradient_lane_sums(x, dy, dy, affine, |_, _, dy| dy),
            // Reading x alone saves the sweep a third of its memory traffic.
            After::Relu => gradient_lane_sums(x, dy, dy, affine, |x, _, dy| masked(passes(affine.z(x)), dy)),
            After::ReluDropout(rule) => gradient_lane_sums(x, y, dy, affine, |_, y, dy| masked(passes(y), dy * rule.factor)),
        }
    }
}

#[inline(always)]
fn gradient_lane_sums(x: &[f32], y: &[f32], dy: &[f32], affine: Affine, dz: impl Fn(f32, f32, f32) -> f32) -> [f64; 2] {
    // Two sums, so half the lanes each.
    const HALF: usize = LANES / 2;
    let mut sums = [[0f32; HALF]; 2];
    let whole = x.len() - x.len() % HALF;
    let chunks = x.chunks_exact(HALF).zip(y.chunks_exact(HALF)).zip(dy.chunks_exact(HALF));
    for ((x, y), dy) in chunks {
        for lane in 0..HALF {
            let dz = dz(x[lane], y[lane], dy[lane]);
            sums[0][lane] += dz;
            sums[1][lane] += dz * (x[lane] - affine.mean);
        }
    }
    for (lane, i) in (whole..x.len()).enumerate() {
        let dz = dz(x[i], y[i], dy[i]);
        sums[0][lane] += dz;
        sums[1][lane] += dz * (x[i] - affine.mean);
    }
    [total(&sums[0]), total(&sums[1])]
}

wide! {
    /// `dx = scale · (dz − dz_mean − (x − mean)·slope)`.
    fn gradient_sweep(x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32], gradient: Gradient, through: Through) {
        let (Gradient { affine, after, .. }, Through { dz_mean, slope }) = (gradient, through);
        let dx_of = |x: f32, dz: f32| affine.scale * (dz - dz_mean - (x - affine.mean) * slope);
        match after {
            After::Nothing => {
                for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = dx_of(x, dy);
                }
            }
            After::Relu => {
                for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                    *dx = dx_of(x, masked(passes(affine.z(x)), dy));
                }
            }
            After::ReluDropout(rule) => {
                for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                    *dx = dx_of(x, masked(passes(y), dy * rule.factor));
                }
            }
        }
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("batch_norm.wgsl"));

/// Invocations of a workgroup, each of which has an octet of elements at a time.
#[cfg(feature = "gpu")]
const GPU_LANES: usize = 256;

/// Batch norm on the GPU: a workgroup has a piece of a channel, some octets of elements; see `batch_norm.wgsl`.
#[cfg(feature = "gpu")]
struct GpuBatchNorm<'a> {
    gpu: &'a Gpu,
    axes: Axes,
    pieces: usize,
    activation: f64,
    uniform: [u32; 15],
}

#[cfg(feature = "gpu")]
impl<'a> GpuBatchNorm<'a> {
    fn new(gpu: &'a Gpu, axes: Axes, after: After, eps: f64, statistics: Statistics) -> Self {
        // Octets of a piece, at least; and pieces of a channel, at most, for each piece adds up the sums of all.
        const SHORTEST: usize = GPU_LANES;
        const MOST: usize = 256;
        // Where blocks are not whole octets, each may begin and end amid one.
        let octets = if axes.block.is_multiple_of(8) { axes.block / 8 } else { axes.block.div_ceil(8) + 1 };
        let all = axes.batch * octets;
        let piece = all.div_ceil(MOST).next_multiple_of(GPU_LANES).max(SHORTEST);
        let pieces = all.div_ceil(piece).max(1);
        let (activation, [key0, key1, stream, epoch, threshold, factor]) = match after {
            After::Nothing => (0.0, [0; 6]),
            // Nothing is dropped, so nothing is scaled.
            After::Relu => (1.0, [0, 0, 0, 0, 0, 1f32.to_bits()]),
            After::ReluDropout(rule) => (2.0, rule.words()),
        };
        let [channels, block, count, octets, all, per_channel, piece] =
            [axes.channels, axes.block, axes.count(), octets, all, pieces, piece].map(|v| v as u32);
        let training = u32::from(statistics == Statistics::Batch);
        let eps = (eps as f32).to_bits();
        let extents = [channels, block, count, octets, all, per_channel, piece, eps, training];
        let mut uniform = [0; 15];
        uniform[..9].copy_from_slice(&extents);
        uniform[9..].copy_from_slice(&[stream, epoch, threshold, key0, key1, factor]);
        GpuBatchNorm { gpu, axes, pieces, activation, uniform }
    }

    /// Launches `name`, one workgroup per piece, with results of these lengths.
    fn launch<const R: usize>(
        &self,
        name: &'static str,
        operands: &[&GpuBuffer],
        lengths: [usize; R],
    ) -> [GpuBuffer; R] {
        // The most that one of them needs: octets, sums and draws, four words each.
        let kernel = Kernel::new(name, SHADER).workgroup(GPU_LANES as u32, (3 * GPU_LANES * 16) as u32);
        let results = lengths.map(|len| self.gpu.alloc(len));
        let outputs: Vec<&GpuBuffer> = results.iter().collect();
        let size = Size::Groups(self.axes.channels * self.pieces);
        self.gpu.launch(&kernel, &[("ACTIVATION", self.activation)], operands, &outputs, &self.uniform, size);
        results
    }

    /// y, and mean and biased variance of the batch.
    fn normalise_batch(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> [Tensor; 3] {
        let channels = self.axes.channels;
        let [moments] = self.launch("moments", &[x.buffer()], [4 * channels * self.pieces]);
        let operands = [x.buffer(), &moments, weight.buffer(), bias.buffer()];
        let [y, mean, var] = self.launch("normalise_batch", &operands, [x.len(), channels, channels]);
        [Tensor::gpu(x.shape(), y), Tensor::gpu([channels], mean), Tensor::gpu([channels], var)]
    }

    fn normalise(&self, x: &Tensor, mean: &Tensor, var: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let [y] = self.launch("normalise", &[x, mean, var, weight, bias].map(Tensor::buffer), [x.len()]);
        Tensor::gpu(x.shape(), y)
    }

    fn vjp(&self, [x, y, dy]: [&Tensor; 3], [mean, var, weight]: [&Tensor; 3]) -> (Tensor, Tensor, Tensor) {
        let channels = self.axes.channels;
        let [x_buffer, y, dy, mean, var, weight] = [x, y, dy, mean, var, weight].map(Tensor::buffer);
        let records = channels * self.pieces + channels;
        let [sums] = self.launch("gradient_sums", &[x_buffer, y, dy, mean, var, weight], [4 * records]);
        let [dx, dweight, dbias] = self.launch("gradient", &[x_buffer, y, dy, &sums], [x.len(), channels, channels]);
        (Tensor::gpu(x.shape(), dx), Tensor::gpu([channels], dweight), Tensor::gpu([channels], dbias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group, add, mul,
        parity::{Tolerance, all_elements, check, check_equivariant, devices_and_reference, random, same_bits},
        transform_feature_map,
    };
    use quarterturn_core::Shape;

    const EPS: f64 = 1e-5;

    const CASES: [&[usize]; 13] = [
        &[5, 1],
        &[17, 3],
        &[64, 65],
        &[1, 3, 1, 4, 4],
        &[2, 1, 4, 1, 1],
        &[3, 5, 4, 5, 3],
        &[2, 7, 1, 3, 21],
        &[5, 3, 1, 8, 8],
        &[1, 2, 1, 5, 13],
        &[2, 10, 4, 28, 28],
        &[3, 11, 8, 7, 9],
        &[2, 3, 4, 65, 63],
        &[1, 1, 1, 130, 130],
    ];

    fn activations() -> [Activation; 3] {
        let stream = Stream::new(5, 6, 7);
        [
            Activation::default(),
            Activation { relu: true, dropout: None },
            Activation { relu: true, dropout: Some((0.3, stream)) },
        ]
    }

    /// x with a mean of 3, weight and bias.
    fn operands(dims: &[usize]) -> (Tensor, Tensor, Tensor) {
        let shape = Shape::new(dims);
        let x = add(&random(shape, 1), &Tensor::full(shape, 3.0, &Device::Reference).unwrap());
        (x, random([dims[1]], 2), random([dims[1]], 3))
    }

    #[test]
    fn parity() {
        for (dims, activation) in CASES.into_iter().flat_map(|dims| activations().map(|a| (dims, a))) {
            let name = format!("{dims:?} {activation:?}");
            let (x, weight, bias) = operands(dims);
            let dy = random(x.shape(), 4);
            // Normalising divides rounding errors of x by the deviation; small batches may have a small one.
            let tolerance = Tolerance::Terms(200);
            let (running_mean, running_var) = (random([dims[1]], 5), mul(&random([dims[1]], 6), &random([dims[1]], 6)));
            check(&format!("train {name}"), &[&x, &weight, &bias, &running_mean, &running_var], tolerance, |t| {
                let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
                let (mean, var) = update_running(&t[3], &t[4], &forward, 0.1);
                vec![forward.y, forward.mean, forward.var, mean, var]
            });
            check(&format!("train_vjp {name}"), &[&x, &weight, &bias, &dy], tolerance, |t| {
                let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, activation);
                let (dx, dweight, dbias) = batch_norm_train_vjp(&t[0], &forward, &t[1], &t[2], EPS, activation, &t[3]);
                vec![dx, dweight, dbias]
            });
            let mean = random([dims[1]], 7);
            let var = add(&mul(&mean, &mean), &Tensor::full([dims[1]], 0.5, &Device::Reference).unwrap());
            check(&format!("eval {name}"), &[&x, &weight, &bias, &mean, &var, &dy], tolerance, |t| {
                let y = batch_norm_eval(&t[0], &t[1], &t[2], &t[3], &t[4], EPS, activation);
                let (dx, dweight, dbias) =
                    batch_norm_eval_vjp(&t[0], &y, &t[1], &t[2], &t[3], &t[4], EPS, activation, &t[5]);
                vec![y, dx, dweight, dbias]
            });
        }
    }

    #[test]
    fn a_large_mean_costs_no_digits() {
        // Deviations of 1 about 1000: the naive mean of squares would lose six of seven digits.
        let shape = Shape::from([4, 2, 4, 17, 17]);
        let x = add(&random(shape, 1), &Tensor::full(shape, 1000.0, &Device::Reference).unwrap());
        // What f32 can hold of x is the operand on both devices.
        let x = x.to_device(&Device::Cpu).unwrap().to_device(&Device::Reference).unwrap();
        check("var", &[&x, &random([2], 2), &random([2], 3)], Tolerance::Terms(8), |t| {
            let forward = batch_norm_train(&t[0], &t[1], &t[2], EPS, Activation::default());
            vec![forward.mean, forward.var]
        });
    }

    #[test]
    fn evaluation_commutes_with_every_symmetry() {
        let channel = |stream| random([3], stream);
        let var = mul(&channel(5), &channel(5));
        let parameters = [channel(2), channel(3), channel(4), var];
        for activation in &activations()[..2] {
            let eval = |x: &Tensor| {
                let [weight, bias, mean, var] = parameters.each_ref().map(|t| t.to_device(&x.device()).unwrap());
                batch_norm_eval(x, &weight, &bias, &mean, &var, EPS, *activation)
            };
            check_equivariant("eval", [2, 3, 1, 5, 7], &all_elements(), true, eval);
            let x = random([2, 3, 8, 5, 5], 1);
            for device in devices_and_reference() {
                let x = x.to_device(&device).unwrap();
                for g in Group::D4.elements() {
                    let expected = transform_feature_map(&eval(&x), g, Group::D4);
                    assert!(same_bits(&eval(&transform_feature_map(&x, g, Group::D4)), &expected), "{g} on {device}");
                }
            }
        }
    }

    #[test]
    fn dropout_after_relu_is_the_dropout_op() {
        let (x, weight, bias) = operands(&[2, 3, 4, 5, 5]);
        let (p, stream) = (0.3, Stream::new(8, 9, 10));
        for device in devices_and_reference() {
            let [x, weight, bias] = [&x, &weight, &bias].map(|t| t.to_device(&device).unwrap());
            let run = |dropout| batch_norm_train(&x, &weight, &bias, EPS, Activation { relu: true, dropout }).y;
            assert!(same_bits(&run(Some((p, stream))), &crate::dropout(&run(None), p, stream)), "{device}");
        }
    }

    #[test]
    fn two_values_by_hand() {
        let x = Tensor::cpu([2, 1], vec![1.0, 3.0].into());
        let scalar = |v: f32| Tensor::cpu([1], vec![v].into());
        let forward = batch_norm_train(&x, &scalar(2.0), &scalar(0.5), 0.0, Activation { relu: true, dropout: None });
        assert_eq!((forward.mean.f32s(), forward.var.f32s()), (&[2.0][..], &[1.0][..]));
        assert_eq!(forward.y.f32s(), [0.0, 2.5]);
        let (mean, var) = update_running(&scalar(10.0), &scalar(4.0), &forward, 0.5);
        assert_eq!((mean.f32s(), var.f32s()), (&[6.0][..], &[3.0][..]));
    }

    #[test]
    #[should_panic(expected = "batch_norm_train: expected relu where there is dropout")]
    fn dropout_without_relu_is_refused() {
        let (x, weight, bias) = operands(&[2, 3]);
        let dropout = Some((0.5, Stream::new(1, 1, 1)));
        batch_norm_train(&x, &weight, &bias, EPS, Activation { relu: false, dropout });
    }
}
