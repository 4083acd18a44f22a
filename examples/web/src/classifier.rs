//! A trained network, asked for all four quarter turns of a turned digit at once.

use crate::drawing::SIDE;
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Image, Pipeline},
    kernels::{circle_crop, resize, rotate},
    models::{Checkpoint, Exactness, Network, checkpoint::Preparation, checkpoint::Step},
};

/// A network of a checkpoint, and how the checkpoint says that images are prepared for it.
pub struct Classifier {
    network: Box<dyn Network>,
    pipeline: Pipeline,
    preparation: Preparation,
    size: usize,
    /// What the checker says of it at its size.
    pub exactness: Exactness,
}

/// What a network answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Of the digit at the angle asked for, and then turned by 90°, 180° and 270° more: classes side by side.
    pub logits: Vec<f32>,
    /// What the network saw at the angle asked for: grey values, `size` × `size`.
    pub seen: Vec<u8>,
}

impl Classifier {
    /// # Errors
    /// If the bytes are no checkpoint of such a network, or do not say how images are prepared; `name` is in the errors.
    pub fn new(bytes: Vec<u8>, name: &str, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::from_bytes(bytes, name)?;
        let network = checkpoint.network(device)?;
        let unfit = |why: String| Error::Invalid(format!("{name}: {why}"));
        let preparation = checkpoint.preparation()?;
        let preparation = preparation.ok_or_else(|| unfit("the file does not say how images are prepared".into()))?;
        let pipeline = Pipeline::of(&preparation, 1)?;
        let Some([size, width]) = preparation.size() else {
            return Err(unfit(format!("images of no certain size: {preparation}")));
        };
        let turned_between = |steps: &[Step]| matches!(steps, [Step::Resize(_), Step::CircleCrop { radius: None, .. }]);
        if size != width || pipeline.normalization.mean.len() != 1 || !turned_between(preparation.split().1) {
            return Err(unfit(format!("expected square images of one channel, cropped last: {preparation}")));
        }
        let exactness = Exactness::of(&*network, [size; 2])?;
        Ok(Classifier { network, pipeline, preparation, size, exactness })
    }

    /// Height and width of what it sees.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Its trained values.
    pub fn parameters(&self) -> usize {
        self.network.parameters()
    }

    /// Its answers to a digit of 28×28 pixels, turned clockwise by `degrees` and by three quarter turns more. The digit is resized
    /// before it is turned, as in training, so that quarter turns only move the pixels that the network sees.
    ///
    /// # Errors
    /// If the digit has another size, or the device fails.
    pub async fn answer(&self, digit: &[u8], degrees: f32) -> Result<Answer> {
        let size = self.size;
        let image = Image::new(digit.to_vec(), [1, SIDE, SIDE])?;
        let values = self.pipeline.prepare(image, &Device::Cpu)?.reshape([1, 1, SIDE, SIDE]);
        let resized = if size == SIDE { values } else { resize(&values, size, size) };
        let four = Tensor::from_vec([4, 1, size, size], resized.to_vec()?.repeat(4), &Device::Cpu)?;
        // `rotate` turns the other way round.
        let degrees: Vec<f32> = (0..4).map(|turn| -degrees - 90.0 * turn as f32).collect();
        let turned = rotate(&four, &degrees, self.pipeline.normalization.black()[0]);
        let images = circle_crop(&turned).reshape([4, 1, 1, size, size]);
        let seen = self.greys(&turned.to_vec()?[..size * size]);
        let logits = self.network.predict(&images.to_device(&self.network.device())?)?.to_vec_async().await?;
        Ok(Answer { logits, seen })
    }

    /// Normalised values as grey values again.
    fn greys(&self, values: &[f32]) -> Vec<u8> {
        let (mean, std) = (self.pipeline.normalization.mean[0], self.pipeline.normalization.std[0]);
        values.iter().map(|value| (255.0 * (value * std + mean)).round().clamp(0.0, 255.0) as u8).collect()
    }

    /// The steps of its file.
    pub fn preparation(&self) -> &Preparation {
        &self.preparation
    }
}

impl Answer {
    /// Classes.
    pub fn classes(&self) -> usize {
        self.logits.len() / 4
    }

    /// Whether the four quarter turns have the same logits, to the last bit. Logits that are no numbers are equal to nothing.
    pub fn same_bits(&self) -> bool {
        let (upright, turned) = self.logits.split_at(self.classes());
        let all = turned.chunks_exact(self.classes()).flat_map(|logits| logits.iter().zip(upright));
        self.logits.iter().all(|logit| !logit.is_nan()) && all.into_iter().all(|(a, b)| a.to_bits() == b.to_bits())
    }
}
