//! Digits, prepared for a network as a [`Preparation`] says, and turned on the way.

use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Dataset, Loader, Pipeline},
    kernels::{add, circle_crop, resize, rotate},
    models::checkpoint::{Preparation, Step},
};

/// A preparation, taken apart at the place where digits are turned: behind all that changes their size, so that a quarter
/// turn permutes what the network gets, and before a circle is cut out of it.
pub struct Prepared {
    channels: usize,
    /// Of pixels.
    pipeline: Pipeline,
    /// Of values, before and behind the turn.
    before: Vec<Step>,
    behind: Vec<Step>,
    outside: Outside,
}

/// What a turn brings in from outside.
enum Outside {
    /// The same in all channels.
    Fill(f32),
    /// A value for each channel, `[1, C, 1, 1]`, and its opposite.
    Each([Tensor; 2]),
}

impl Prepared {
    /// For digits of one channel, on `device`. What a turn brings in from outside is their background, or `fill`.
    ///
    /// # Errors
    /// If a step is for photographs, or cannot follow the others.
    pub fn new(preparation: &Preparation, fill: Option<f32>, device: &Device) -> Result<Self> {
        let pipeline = Pipeline::of(preparation, 1)?;
        let channels = pipeline.normalization.mean.len();
        let steps = preparation.split().1;
        let (before, behind) = steps.split_at(steps.iter().take_while(|step| matches!(step, Step::Resize(_))).count());
        if let Some(step) = behind.iter().find(|step| !matches!(step, Step::CircleCrop { radius: None })) {
            let why = "is not done to digits here once they are normalised so";
            return Err(Error::Invalid(format!("preparation: {step}: {why}")));
        }
        let (before, behind) = (before.to_vec(), behind.to_vec());
        let fill = fill.map_or(pipeline.normalization.black(), |fill| vec![fill; channels]);
        let outside = if fill.iter().all(|&value| value == fill[0]) {
            Outside::Fill(fill[0])
        } else {
            let opposite = fill.iter().map(|value| -value).collect();
            let each = |values| Tensor::from_vec([1, channels, 1, 1], values, device);
            Outside::Each([each(fill)?, each(opposite)?])
        };
        Ok(Prepared { channels, pipeline, before, behind, outside })
    }

    /// Channels of the images.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Batches of `digits`, as far as they are prepared before they are normalised.
    ///
    /// # Errors
    /// If the digits have more than one channel.
    pub fn loader(&self, digits: &Dataset, batch: usize) -> Result<Loader> {
        let [channels, ..] = digits.extents();
        if channels != 1 {
            return Err(Error::Invalid(format!("{}: digits have one channel, found {channels}", digits.name())));
        }
        Ok(Loader::new(digits.clone(), self.pipeline.clone(), batch))
    }

    /// A batch's images `[N, C, 1, H, W]`, ready to be turned: `[N, C, H, W]`.
    pub fn upright(&self, images: &Tensor) -> Tensor {
        let [n, channels, _, height, width] = *images.dims() else { unreachable!("batches have five axes") };
        let images = images.reshape([n, channels, height, width]);
        self.before.iter().fold(images, |images, step| match *step {
            Step::Resize([height, width]) if images.dims()[2..] != [height, width] => resize(&images, height, width),
            _ => images,
        })
    }

    /// [`Prepared::upright`] images, turned by `degrees` and ready for a network.
    pub fn turned(&self, upright: &Tensor, degrees: f32) -> Tensor {
        let [n, channels, height, width] = *upright.dims() else { unreachable!("upright images have four axes") };
        let turn = |images: &Tensor, fill| rotate(images, &vec![degrees; n], fill);
        let turned = match &self.outside {
            _ if degrees == 0.0 => upright.clone(),
            Outside::Fill(fill) => turn(upright, *fill),
            // With the background at 0 in between.
            Outside::Each([background, opposite]) => add(&turn(&add(upright, opposite), 0.0), background),
        };
        let seen = self.behind.iter().fold(turned, |images, _| circle_crop(&images));
        seen.reshape([n, channels, 1, height, width])
    }
}
