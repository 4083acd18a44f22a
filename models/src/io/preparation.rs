//! The steps of a preparation that are done to normalised values.

pub use quarterturn_core::{Preparation, Step};

use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels::{circle_crop, resize};

/// Carries out the steps of `preparation` after [`Step::Normalize`], on normalised images `[N, C, 1, H, W]`:
/// [`Step::Resize`] with [`resize`], [`Step::CircleCrop`] (inscribed circle only) with [`circle_crop`].
/// `quarterturn_data::Pipeline` carries out the steps before, on 8-bit pixels.
///
/// # Errors
/// [`Error::Invalid`] if there is another step after [`Step::Normalize`].
///
/// # Panics
/// If the images have other than five axes, or a group axis.
#[track_caller]
pub fn finish(preparation: &Preparation, images: &Tensor) -> Result<Tensor> {
    let [n, channels, 1, height, width] = *images.dims() else {
        panic!("finish: expected images [N, C, 1, H, W], got {:?}", images.dims());
    };
    let mut images = images.reshape([n, channels, height, width]);
    for step in preparation.split().1 {
        images = match *step {
            Step::Resize([height, width]) if images.dims()[2..] == [height, width] => images,
            Step::Resize([height, width]) => resize(&images, height, width),
            Step::CircleCrop { radius: None, .. } => circle_crop(&images),
            ref step => {
                let why = "is done to pixels; it has to stand before normalize";
                return Err(Error::Invalid(format!("preparation: {step}: {why}")));
            }
        };
    }
    let [n, channels, height, width] = *images.dims() else { unreachable!("they had four axes") };
    Ok(images.reshape([n, channels, 1, height, width]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::{Device, Stream};

    #[test]
    fn values_are_resized_and_cropped_and_pixels_are_not_awaited() {
        let noise = Stream::new(1, 0, 0);
        let values = (0..2 * 64).map(|i| noise.uniform(i)).collect();
        let images = Tensor::from_vec([2, 1, 1, 8, 8], values, &Device::Cpu).unwrap();
        let of = |text: &str| finish(&text.parse().unwrap(), &images);
        assert!(of("resize 28x28; normalize 0.5 0.5").unwrap().f32s() == images.f32s());
        let expected = circle_crop(&resize(&images.reshape([2, 1, 8, 8]), 9, 5));
        let finished = of("normalize 0.5 0.5; resize 9x5; circle_crop").unwrap();
        assert_eq!(finished.dims(), [2, 1, 1, 9, 5]);
        assert!(finished.f32s() == expected.f32s());
        let error = of("normalize 0.5 0.5; center_crop 4x4").unwrap_err().to_string();
        assert!(error.contains("center_crop 4x4: is done to pixels"), "{error}");
    }
}
