//! What is said, through the `log` facade, of a use that is allowed but most likely not meant.

use crate::{Exactness, Network};
use quarterturn_core::{Device, Result, Tensor};
#[cfg(feature = "gpu")]
use quarterturn_kernels as kernels;
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// No normalised image has a value above this, and hardly an image of 8 bits has none: normalised digits reach 20.
const LARGEST_VALUE: f64 = 50.0;

/// Says so, once per process, if the network breaks its symmetry at the size of `images`, and which sizes do not: it would learn
/// to profit from that, and nobody would notice. Likewise if the images look as if nobody had normalised them.
///
/// # Errors
/// [`quarterturn_core::Error::Invalid`] if the images do not fit; what went wrong on the GPU, for which this waits.
pub(crate) fn warn_of<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<()> {
    network.output_shape(images.shape())?;
    let exactness = Exactness::of(network, [images.dims()[3], images.dims()[4]])?;
    if let Some(warning) = exactness.warning() {
        warn_once(warning);
    }
    warn_of_pixels(network, images)
}

/// The second half of [`warn_of`].
///
/// # Errors
/// What went wrong on the GPU, for which this waits.
pub(crate) fn warn_of_pixels<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<()> {
    if largest(images)? > LARGEST_VALUE {
        let model = network.config().remove("model").unwrap_or_default();
        warn_once(format!(
            "{model}: the images have values above {LARGEST_VALUE}, like pixels of 8 bits; networks expect normalised ones, such as \
             (pixel / 255 − mean) / std"
        ));
    }
    Ok(())
}

/// The largest value, for each device in the way that costs least.
fn largest(images: &Tensor) -> Result<f64> {
    let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::NEG_INFINITY, f64::max);
    if images.is_empty() {
        return Ok(f64::NEG_INFINITY);
    }
    match images.device() {
        Device::Cpu => Ok(largest(&mut images.f32s().iter().map(|&v| f64::from(v)))),
        Device::Reference => Ok(largest(&mut images.f64s().iter().copied())),
        // Of each image, then of all of them.
        #[cfg(feature = "gpu")]
        Device::Gpu(_) => {
            let n = images.dims()[0];
            let of_each = kernels::coset_max(&images.reshape([1, n, images.len() / n]));
            Ok(kernels::coset_max(&of_each.reshape([1, 1, n])).to_f64()?[0])
        }
    }
}

/// Logs `warning`, unless this process has done so before.
fn warn_once(warning: String) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.contains(&warning) {
        log::warn!("{warning}");
        told.insert(warning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::testing;

    #[test]
    fn the_largest_value_is_found_on_every_device() {
        for device in testing::devices().into_iter().chain([Device::Reference]) {
            for at in [0, 77, 2 * 3 * 5 * 7 - 1] {
                let mut values = vec![-300.0; 2 * 3 * 5 * 7];
                values[at] = 51.0;
                let images = Tensor::from_vec([2, 3, 1, 5, 7], values, &device).unwrap();
                assert_eq!(largest(&images).unwrap(), 51.0, "{device}");
            }
        }
    }
}
