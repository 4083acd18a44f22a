//! Synchronised batch norm: a batch is cut into parts, on one device or several. Each part computes its sums, the
//! caller adds those of all parts, and each part is normalised with the statistics of the whole batch.

use super::{Activation, Axes, BatchNorm, Moments, batch_norm_eval};
#[cfg(feature = "gpu")]
use super::{After, GpuBatchNorm, Statistics};
use crate::{add, mul};
use quarterturn_core::{Device, Result, Tensor, common_device};

/// The sums of one part of a batch: `[n, Σ x of each channel, Σ x² of each channel]`, 1 + 2C numbers, where n is the
/// number of elements of a channel. Add the results of all parts number by number, and pass the total to
/// [`batch_norm_of_sums`].
///
/// The sums are computed relative to a mean, as in [`super::batch_norm_train`], and then converted in `f64`. The error
/// that this makes in the variance is smaller than that of rounding x to `f32`.
///
/// # Errors
/// What went wrong on the GPU: the sums are read from it.
///
/// # Panics
/// If `x` is not `[N, C, …]`, or is empty.
#[track_caller]
pub fn batch_norm_sums(x: &Tensor) -> Result<Vec<f64>> {
    let axes = Axes::of("batch_norm_sums", x, &[]);
    assert!(!x.is_empty(), "batch_norm_sums: expected a batch that is not empty, got {:?}", x.shape());
    let of_channels: Vec<[f64; 2]> = match x.device() {
        Device::Cpu => {
            let moments = axes.moments(x.f32s());
            (0..axes.channels).map(|c| Moments::of_channel(&moments, c, axes.channels).sums()).collect()
        }
        Device::Reference => {
            let mut sums = vec![[0.0; 2]; axes.channels];
            for (i, v) in x.f64s().iter().enumerate() {
                let [sum, squares] = &mut sums[axes.channel(i)];
                (*sum, *squares) = (*sum + v, *squares + v * v);
            }
            sums
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => GpuBatchNorm::new(&gpu, axes, After::Nothing, 0.0, Statistics::Batch).sums(x)?,
    };
    let [sums, squares] = [0, 1].map(|which| of_channels.iter().map(move |sums| sums[which]));
    Ok(std::iter::once(axes.count() as f64).chain(sums).chain(squares).collect())
}

/// [`super::batch_norm_train`] for a part of a batch, where `sums` are the [`batch_norm_sums`] of the whole batch. All
/// parts have the same mean `Σx/n` and the same biased variance `Σx²/n − (Σx/n)²`.
///
/// # Panics
/// If there are not 1 + 2C sums; and as [`super::batch_norm_eval`].
#[track_caller]
pub fn batch_norm_of_sums(
    x: &Tensor,
    sums: &[f64],
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    activation: Activation,
) -> BatchNorm {
    let device = common_device("batch_norm_of_sums", &[x, weight, bias]);
    let [mean, var] = statistics("batch_norm_of_sums", sums, weight.len()).map(|values| of_channels(values, &device));
    let y = batch_norm_eval(x, weight, bias, &mean, &var, eps, activation);
    BatchNorm { y, mean_parts: mean.clone(), mean, var, count: sums[0] as usize }
}

/// The gradient dx of [`batch_norm_of_sums`] for a part of a batch:
///
/// `dx = dx_given − weight/√(var + eps) · (dbias + x̂·dweight)/n`, where `x̂ = (x − mean)/√(var + eps)`.
///
/// `dx_given` is the dx of [`super::batch_norm_eval_vjp`], which treats the statistics as constants. What is subtracted
/// flows back through the statistics. `gradients` are dweight and then dbias of [`super::batch_norm_eval_vjp`], 2C
/// numbers, added over all parts of the batch.
///
/// # Panics
/// If there are not 1 + 2C sums and 2C gradients; and as [`super::batch_norm_eval`].
#[track_caller]
pub fn batch_norm_of_sums_dx(
    x: &Tensor,
    sums: &[f64],
    weight: &Tensor,
    eps: f64,
    dx_given: &Tensor,
    gradients: &[f64],
) -> Tensor {
    let (device, channels) = (common_device("batch_norm_of_sums_dx", &[x, weight, dx_given]), weight.len());
    let [mean, var] = statistics("batch_norm_of_sums_dx", sums, channels);
    let expected = 2 * channels;
    assert_eq!(
        gradients.len(),
        expected,
        "batch_norm_of_sums_dx: expected {expected} gradients, got {}",
        gradients.len()
    );
    let [slope, shift] = [&gradients[..channels], &gradients[channels..]].map(|gradients| {
        let part = |(gradient, var): (&f64, &f64)| -gradient / sums[0] / (var + eps).sqrt();
        mul(weight, &of_channels(gradients.iter().zip(&var).map(part).collect(), &device))
    });
    let [mean, var] = [mean, var].map(|values| of_channels(values, &device));
    add(dx_given, &batch_norm_eval(x, &slope, &shift, &mean, &var, eps, Activation::default()))
}

/// Mean and biased variance of each channel.
#[track_caller]
fn statistics(op: &str, sums: &[f64], channels: usize) -> [Vec<f64>; 2] {
    let expected = 1 + 2 * channels;
    assert_eq!(sums.len(), expected, "{op}: expected {expected} sums of {channels} channels, got {}", sums.len());
    let (n, (values, squares)) = (sums[0], sums[1..].split_at(channels));
    let of_channel = |(sum, squares): (&f64, &f64)| {
        let mean = sum / n;
        let var = squares / n - mean * mean;
        // A channel whose variance is no f32 has no statistics. Rounding may leave less than nothing.
        if (var as f32).is_finite() { (mean, var.max(0.0)) } else { (f64::NAN, f64::NAN) }
    };
    let (mean, var) = values.iter().zip(squares).map(of_channel).unzip();
    [mean, var]
}

/// `[C]` on the device, for an operation, which returns no error: if a GPU has no room, what is made of it is marked.
fn of_channels(values: Vec<f64>, device: &Device) -> Tensor {
    let shape = [values.len()];
    let rounded = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
    match device {
        Device::Cpu => Tensor::cpu(shape, rounded(values).into()),
        Device::Reference => Tensor::reference(shape, values),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => Tensor::gpu(shape, gpu.constant(&rounded(values))),
    }
}
