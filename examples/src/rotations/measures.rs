//! What is measured of a trained network besides its accuracies.

use super::Sample;
use quarterturn::{
    core::{Error, Result, Tensor},
    kernels::{Padding, argmax, narrow, pad_plane},
    models::{EquivarianceError, Network},
};

/// Images that are evaluated together.
const BATCH: usize = 250;

/// In how many of 100 cases the answer is the same after a shift of the image by one pixel, in all eight directions. What leaves
/// at one side comes in at the other: background, as digits do not reach the border.
///
/// # Errors
/// If the device fails.
pub fn shift_consistency(sample: &Sample) -> Result<f64> {
    let [n, _, height, width] = *sample.images.dims() else { unreachable!("images have four axes") };
    let border = pad_plane(&sample.images, 1, Padding::Circular);
    let answers = |down: usize, right: usize| -> Result<Vec<f32>> {
        let shifted = narrow(&narrow(&border, 2, 2 - down, height), 3, 2 - right, width);
        argmax(&predict(sample.network, &sample.protocol.turned(&shifted, &vec![0.0; n]))?, 1).to_vec()
    };
    let there = answers(1, 1)?;
    let mut same = 0;
    for (down, right) in (0..9).filter(|&shift| shift != 4).map(|shift| (shift / 3, shift % 3)) {
        same += answers(down, right)?.iter().zip(&there).filter(|(a, b)| a == b).count();
    }
    Ok(100.0 * same as f64 / (8 * n) as f64)
}

/// How far the logits move if the images are turned by `degrees`: `√(Σ |f(R x) − f(x)|² / Σ |f(x)|²)`, in per cent.
///
/// # Errors
/// If the device fails.
pub fn relative_change(sample: &Sample, degrees: f32) -> Result<f64> {
    let n = sample.images.dims()[0];
    let logits =
        |degrees: f32| predict(sample.network, &sample.protocol.turned(&sample.images, &vec![degrees; n]))?.to_f64();
    let (upright, turned) = (logits(0.0)?, logits(degrees)?);
    let differences: f64 = upright.iter().zip(&turned).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok(100.0 * (differences / upright.iter().map(|a| a * a).sum::<f64>()).sqrt())
}

/// The relative equivariance error ([`quarterturn::models::DepthError::relative`]) behind each of the layers, in per cent.
///
/// # Errors
/// If the device fails.
pub fn equivariance_errors(sample: &Sample, layers: &[&str]) -> Result<Vec<f64>> {
    let mut error = EquivarianceError::at(|name| layers.contains(&name));
    let n = sample.images.dims()[0];
    let images = sample.protocol.turned(&sample.images, &vec![0.0; n]);
    for part in parts(&images) {
        error.add(sample.network, &part)?;
    }
    let depths = error.depths();
    if depths.len() != layers.len() {
        return Err(Error::Invalid(format!("of the layers {layers:?}, the network has {}", depths.len())));
    }
    Ok(depths.into_iter().map(|depth| 100.0 * depth.relative).collect())
}

/// The mean of a layer's positive values by distance from the border, the outermost first, in units of their mean over all places:
/// 1 everywhere where a response does not depend on the place. `layer` is a convolution, and what it is told of stands behind its
/// norm and ReLU.
///
/// # Errors
/// If the device fails.
pub fn rings(network: &dyn Network, images: &Tensor, layer: &str) -> Result<Vec<f64>> {
    let (mut sums, mut places) = (Vec::new(), Vec::new());
    for part in parts(images) {
        let mut found = None;
        network.predict_watched(&part, &mut |name, y| {
            if name == layer {
                found = Some(y.clone());
            }
        })?;
        let Some(map) = found else { return Err(Error::Invalid(format!("the network has no layer {layer}"))) };
        let &[.., height, width] = map.dims() else { unreachable!("a feature map has rows and columns") };
        let count = height.min(width).div_ceil(2);
        sums.resize(count, 0.0);
        places.resize(count, 0.0);
        for (i, value) in map.to_f64()?.into_iter().enumerate() {
            let (row, column) = (i / width % height, i % width);
            let ring = row.min(column).min(height - 1 - row).min(width - 1 - column);
            sums[ring] += value.max(0.0);
            places[ring] += 1.0;
        }
    }
    let mean = sums.iter().sum::<f64>() / places.iter().sum::<f64>();
    // A layer that is silent everywhere responds the same everywhere.
    let response = |(sum, places): (&f64, &f64)| if mean > 0.0 { sum / places / mean } else { 1.0 };
    Ok(sums.iter().zip(&places).map(response).collect())
}

fn predict(network: &dyn Network, images: &Tensor) -> Result<Tensor> {
    let logits = parts(images).map(|part| network.predict(&part)).collect::<Result<Vec<_>>>()?;
    Ok(quarterturn::kernels::concat(&logits.iter().collect::<Vec<_>>(), 0))
}

/// The images `[N, …]`, some at a time.
fn parts(images: &Tensor) -> impl Iterator<Item = Tensor> {
    let n = images.dims()[0];
    (0..n).step_by(BATCH).map(move |from| narrow(images, 0, from, BATCH.min(n - from)))
}
