//! Batch norm, one statistic per channel (axis 1) over all other axes, with the ReLU and dropout that follow it fused in.
mod cpu;
#[cfg(feature = "gpu")]
mod gpu;
mod moments;
mod sync;

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    dropout::Rule,
    order::{passes, positive_part},
    pool::Geometry,
    sweep::PIECE,
};
use cpu::Affine;
pub(crate) use cpu::{Gradient, Through, gradient_by_channel};
#[cfg(feature = "gpu")]
use gpu::GpuBatchNorm;
pub(crate) use moments::Moments;
use moments::Statistic;
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Size;
pub use sync::*;

use quarterturn_core::{Device, Stream, Tensor, common_device};

/// What follows the normalisation in the same operation: `y = dropout(relu(z))`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activation {
    /// Apply `max(z, 0)`.
    pub relu: bool,
    /// Drop each element with this probability and these random numbers, as [`crate::dropout`] does. It needs `relu`,
    /// because the backward pass recognises kept elements by `y > 0` (or NaN).
    pub dropout: Option<(f32, Stream)>,
}

/// Results of [`batch_norm_train`].
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// Output, shape of `x`.
    pub y: Tensor,
    /// Batch mean `[C]`.
    pub mean: Tensor,
    /// Biased batch variance `[C]`.
    pub var: Tensor,
    /// Number of elements per channel.
    pub count: usize,
    /// What is subtracted from x, `[C]` or `[2, C]`: the mean, or two parts whose sum it is, of which the first is near enough
    /// to the channel's values that subtracting it rounds little away.
    pub(crate) mean_parts: Tensor,
}

/// Batch norm in training: `z = (x − mean) / √(var + eps) · weight + bias` with mean and (biased) variance of the
/// batch, one for each channel over all axes but axis 1, so over the group too. `x` is `[N, C, …]`, `weight` and `bias`
/// are `[C]`. Then `y = dropout(relu(z))`, if `activation` says so.
///
/// A large mean does not make the variance inaccurate. On the CPU, mean and variance are computed in `f32` for pieces
/// of a few thousand elements, about each piece's own mean, and merged in `f64` (Chan, Golub & LeVeque 1979). On the
/// GPU, all values are taken relative to the mean of up to 256 elements of the channel. The mean is subtracted in two
/// parts, so that it is not rounded to `f32` first. `var` is never below 0, and is 0 for equal values.
///
/// A channel whose variance is beyond the largest `f32`, 3.4·10³⁸, or that holds an infinity or NaN, has no statistics: its y,
/// mean and var are NaN, on every device.
///
/// # Panics
/// If the shapes do not fit, `x` is empty, devices differ, or there is dropout without relu.
#[track_caller]
pub fn batch_norm_train(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, activation: Activation) -> BatchNorm {
    let axes = Axes::of("batch_norm_train", x, &[weight, bias]);
    let after = After::new("batch_norm_train", activation);
    assert!(!x.is_empty(), "batch_norm_train: expected a batch that is not empty, got {:?}", x.shape());
    match common_device("batch_norm_train", &[x, weight, bias]) {
        Device::Cpu => batch_norm_of_moments(x, &axes.moments(x.f32s()), weight, bias, eps, activation, None),
        Device::Reference => {
            let count = axes.count() as f64;
            let (mut mean, mut var) = (vec![0.0; axes.channels], vec![0.0; axes.channels]);
            // About the first value, so that the mean of equal ones is theirs.
            let first = |c: usize| x.f64s()[c * axes.block];
            for (i, v) in x.f64s().iter().enumerate() {
                mean[axes.channel(i)] += (v - first(axes.channel(i))) / count;
            }
            for (c, mean) in mean.iter_mut().enumerate() {
                *mean += first(c);
            }
            for (i, v) in x.f64s().iter().enumerate() {
                var[axes.channel(i)] += (v - mean[axes.channel(i)]).powi(2) / count;
            }
            for (mean, var) in mean.iter_mut().zip(&mut var).filter(|(_, var)| !(**var as f32).is_finite()) {
                (*mean, *var) = (f64::NAN, f64::NAN);
            }
            let (mean, var) = (Tensor::reference([axes.channels], mean), Tensor::reference([axes.channels], var));
            let y = reference_forward(axes, x, weight, bias, &mean, &var, eps, after);
            BatchNorm { y, mean_parts: mean.clone(), mean, var, count: axes.count() }
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let norm = GpuBatchNorm::new(&gpu, axes, after, eps, Statistics::Batch);
            let [y, mean, var, mean_parts] = norm.normalise_batch(x, weight, bias);
            BatchNorm { y, mean, var, count: axes.count(), mean_parts }
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
    let statistic = |c: usize| -> Statistic { Moments::of_channel(moments, c, axes.channels).statistic() };
    let statistics: Vec<Statistic> = (0..axes.channels).map(statistic).collect();
    let of_channels = |f: fn(&Statistic) -> f32| statistics.iter().map(f);
    let var: Vec<f32> = of_channels(|s| s.var).collect();
    let mean_parts: Vec<f32> = of_channels(|s| s.mean).chain(of_channels(|s| s.rest)).collect();
    let affines = Affine::of_channels(weight.f32s(), bias.f32s(), &mean_parts, &var, eps);
    let y = match pool {
        None => Tensor::cpu(x.shape(), axes.normalised(x.f32s(), &affines, after)),
        Some(pool) => Tensor::cpu(pool.y_shape(x.shape()), axes.pooled(x.f32s(), &affines, after, pool)),
    };
    let mean = Tensor::cpu([axes.channels], of_channels(|s| s.mean).collect());
    let mean_parts = Tensor::cpu([2, axes.channels], mean_parts.into());
    BatchNorm { y, mean, var: Tensor::cpu([axes.channels], var.into()), count: axes.count(), mean_parts }
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
    let BatchNorm { y, mean_parts, var, .. } = forward;
    vjp("batch_norm_train_vjp", statistics, x, y, weight, bias, mean_parts, var, eps, activation, dy)
}

/// `new = (1 − momentum) · running + momentum · batch`, the variance unbiased (`var · count/(count − 1)`): returns
/// (running_mean, running_var).
///
/// # Panics
/// If the shapes do not fit, or if `count < 2`, where the unbiased variance is undefined.
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
            let new = [gpu.output(running_mean.len()), gpu.output(running_var.len())];
            let uniform = [momentum as f32, unbiased as f32].map(f32::to_bits);
            let (kernel, threads) = (launch::kernel("update_running", gpu::SINGLES), Size::Threads(running_mean.len()));
            gpu.launch(&kernel, &[], &operands.map(Tensor::buffer), &[&new[0], &new[1]], &uniform, threads);
            let [mean, var] = new.map(|buffer| Tensor::gpu(running_mean.shape(), buffer));
            (mean, var)
        }
    }
}

/// Batch norm in evaluation: as [`batch_norm_train`] with given statistics `mean` and `var` `[C]`. It is elementwise,
/// so it commutes with turns to the last bit.
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
    Axes::of("batch_norm_eval_vjp", x, &[mean]);
    vjp("batch_norm_eval_vjp", statistics, x, y, weight, bias, mean, var, eps, activation, dy)
}

/// Whether mean and variance are functions of x.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Statistics {
    Batch,
    Given,
}

/// `mean` is as [`BatchNorm`]'s `mean_parts`.
#[track_caller]
pub(crate) fn vjp(
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
    let axes = Axes::of(op, x, &[weight, bias, var]);
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
}

#[cfg(test)]
mod tests;
