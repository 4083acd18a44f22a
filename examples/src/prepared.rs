//! Images, prepared for a network as a [`Preparation`] says, and turned on the way.

use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Loader, Pipeline, Samples, Transform},
    kernels::{add, circle_crop, resize, rotate},
    models::checkpoint::{Preparation, Step},
};

/// Images are made no higher or wider: a file that asks for more asks for all memory.
const LARGEST: usize = 2048;

/// A preparation, taken apart at the place where images are turned: behind all that changes their size, so that a quarter
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
    /// For images of so many `channels`, on `device`. What a turn brings in from outside is black, or `fill`.
    ///
    /// # Errors
    /// If a step cannot follow the others, or makes images of more than 2048 pixels a side.
    pub fn new(preparation: &Preparation, channels: usize, fill: Option<f32>, device: &Device) -> Result<Self> {
        for step in &preparation.steps {
            let side = match *step {
                Step::Resize(size) | Step::CenterCrop(size) | Step::Pad(size) => size[0].max(size[1]),
                Step::ResizeShorter(side) => side,
                _ => 0,
            };
            if side > LARGEST {
                let why = format!("images are made at most {LARGEST} pixels high and wide");
                return Err(Error::Invalid(format!("preparation: {step}: {why}")));
            }
        }
        let pipeline = Pipeline::of(preparation, channels)?;
        let channels = pipeline.normalization.mean.len();
        let steps = preparation.split().1;
        let (before, behind) = steps.split_at(steps.iter().take_while(|step| matches!(step, Step::Resize(_))).count());
        if let Some(step) = behind.iter().find(|step| !matches!(step, Step::CircleCrop { radius: None, .. })) {
            let why = "is not done here to images that are normalised";
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

    /// With pictures of any colour made grey, or repeated, for as many channels as the first step expects.
    #[must_use]
    pub fn of_pictures(mut self, channels: usize) -> Self {
        self.pipeline.transforms.insert(0, Transform::Channels { channels });
        self
    }

    /// Batches of `images`, as far as they are prepared before they are turned.
    pub fn loader(&self, images: impl Samples + 'static, batch: usize) -> Loader {
        Loader::new(images, self.pipeline.clone(), batch)
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
