//! Preparing decoded images for a network.

use crate::{Dice, Image, Normalization, Transform, batches::normalize};
use quarterturn_core::{Device, Error, Preparation, Result, Step, Stream, Tensor};

/// Transforms of 8-bit images, then normalisation: all steps between decoding and the network (torchvision: `Compose`).
///
/// ```
/// use quarterturn_data::{Normalization, Pipeline, Transform};
///
/// let normalization = Normalization { mean: vec![0.13], std: vec![0.3] };
/// let pipeline = Pipeline { transforms: vec![Transform::Resize { size: [28, 28] }, Transform::QuarterTurn],
/// normalization };
/// # let _ = pipeline;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// The transforms, in the order in which they are applied.
    pub transforms: Vec<Transform>,
    /// The normalisation, which comes last.
    pub normalization: Normalization,
}

impl Pipeline {
    /// No transforms; values from 0 to 1.
    pub fn plain(channels: usize) -> Self {
        Pipeline { transforms: Vec::new(), normalization: Normalization::none(channels) }
    }

    /// The pipeline for the steps of `preparation` up to and including [`Step::Normalize`]. Without that step, values
    /// are from 0 to 1, of this number of `channels`. `quarterturn_models::checkpoint::finish` carries out the later
    /// steps.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a step cannot be done to pixels, or the channels are not those of the normalisation.
    pub fn of(preparation: &Preparation, channels: usize) -> Result<Self> {
        let (mut channels, mut transforms, mut normalization) = (channels, Vec::new(), None);
        for step in preparation.split().0 {
            match *step {
                Step::Channels(count) => {
                    channels = count;
                    transforms.push(Transform::Channels { channels });
                }
                Step::Resize(size) => transforms.push(Transform::Resize { size }),
                Step::ResizeShorter(size) => transforms.push(Transform::ResizeShorter { size }),
                // What an image is too small for stays black.
                Step::CenterCrop(size) | Step::Pad(size) => transforms.push(Transform::CenterCrop { size }),
                Step::CircleCrop { radius: Some(radius), ref fill } => {
                    transforms.push(Transform::CircleCrop { radius, fill: fill.clone() });
                }
                Step::CircleCrop { radius: None, .. } => {
                    let why = "needs a radius before normalize; without one it has to stand behind it";
                    return Err(Error::Invalid(format!("preparation: {step}: {why}")));
                }
                Step::Normalize { ref mean, ref std } => {
                    normalization = Some(Normalization { mean: mean.clone(), std: std.clone() });
                }
            }
        }
        let normalization = normalization.unwrap_or(Normalization::none(channels));
        let means = normalization.mean.len();
        if means != channels {
            let why =
                format!("{means} means for {channels} channels; `channels {means}` before normalize changes them");
            return Err(Error::Invalid(format!("preparation: {why}")));
        }
        Ok(Pipeline { transforms, normalization })
    }

    /// The steps of this pipeline, for a checkpoint.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a transform is random or of your own.
    pub fn preparation(&self) -> Result<Preparation> {
        let step = |transform: &Transform| match *transform {
            Transform::Channels { channels } => Ok(Step::Channels(channels)),
            Transform::Resize { size } => Ok(Step::Resize(size)),
            Transform::ResizeShorter { size } => Ok(Step::ResizeShorter(size)),
            Transform::CenterCrop { size } => Ok(Step::CenterCrop(size)),
            Transform::CircleCrop { radius, ref fill } => {
                Ok(Step::CircleCrop { radius: Some(radius), fill: fill.clone() })
            }
            ref other => Err(Error::Invalid(format!("{other:?} is no step of a preparation"))),
        };
        let mut steps = self.transforms.iter().map(step).collect::<Result<Vec<_>>>()?;
        let Normalization { mean, std } = self.normalization.clone();
        steps.push(Step::Normalize { mean, std });
        Ok(Preparation { steps })
    }

    /// Prepares one image for a network: returns `[1, C, 1, H, W]`. Random transforms draw with seed 0.
    ///
    /// # Errors
    /// Errors of the transforms; [`Error::Invalid`] if the image does not have the channels of the normalisation;
    /// errors of the device.
    pub fn prepare(&self, image: Image, device: &Device) -> Result<Tensor> {
        let mut dice = Dice::new(Stream::new(0, 0, 0), 0);
        let image = self.transforms.iter().try_fold(image, |image, transform| transform.apply(image, &mut dice))?;
        let [channels, height, width] = image.extents();
        let means = self.normalization.mean.len();
        if channels != means {
            let why = format!("an image of {channels} channels, and a normalisation of {means}");
            return Err(Error::Invalid(why));
        }
        let tables: Vec<_> = (0..channels).map(|channel| self.normalization.table(channel)).collect();
        let mut values = vec![0.0; image.pixels().len()];
        normalize(image.pixels(), &tables, &mut values);
        Tensor::from_vec([1, channels, 1, height, width], values, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Loader};

    #[test]
    fn a_preparation_comes_back_and_what_is_random_is_none() {
        let text =
            "channels 3; resize_shorter 8; center_crop 7x6; circle_crop 2.5 10,0,255; normalize 0.1,0.2,0.3 1,2,3";
        let pipeline = Pipeline::of(&text.parse().unwrap(), 1).unwrap();
        assert_eq!(pipeline.preparation().unwrap().to_string(), text);
        assert_eq!(Pipeline::of(&Preparation::default(), 2).unwrap(), Pipeline::plain(2));
        let padded = Pipeline::of(&"pad 9x9; normalize 0 1; resize 5x5".parse().unwrap(), 1).unwrap();
        assert_eq!(padded.transforms, [Transform::CenterCrop { size: [9, 9] }]);
        for (text, channels, wanted) in [
            ("circle_crop; normalize 0 1", 1, "needs a radius"),
            ("normalize 0.5,0.5,0.5 1,1,1", 1, "`channels 3` before normalize"),
            ("channels 3; normalize 0.5 1", 1, "1 means for 3 channels"),
        ] {
            let error = Pipeline::of(&text.parse().unwrap(), channels).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        let random = Pipeline { transforms: vec![Transform::QuarterTurn], ..Pipeline::plain(1) };
        assert!(random.preparation().unwrap_err().to_string().contains("QuarterTurn"));
    }

    #[test]
    fn one_image_is_prepared_as_a_loader_does() {
        let pixels: Vec<u8> = (0..63).map(|i| (i * 37 % 251) as u8).collect();
        let pipeline =
            Pipeline::of(&"channels 3; resize 5x4; normalize 0.1,0.2,0.3 1,2,3".parse().unwrap(), 1).unwrap();
        let image = Image::new(pixels.clone(), [1, 7, 9]).unwrap();
        let prepared = pipeline.prepare(image.clone(), &Device::Cpu).unwrap();
        let dataset = Dataset::new("x", pixels, vec![0], [1, 7, 9], 1).unwrap();
        let batch = Loader::new(dataset, pipeline, 1).epoch(0).next().unwrap().unwrap();
        assert_eq!(prepared.dims(), [1, 3, 1, 5, 4]);
        assert!(prepared.f32s() == batch.images.f32s());
        let error = Pipeline::plain(3).prepare(image, &Device::Cpu).unwrap_err().to_string();
        assert_eq!(error, "an image of 1 channels, and a normalisation of 3");
    }
}
