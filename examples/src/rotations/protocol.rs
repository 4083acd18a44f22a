//! From normalised digits to what a network sees.

use super::Drawn;
use clap::ValueEnum;
use quarterturn::{
    core::{Result, Tensor},
    data::{Dataset, Normalization, mnist},
    kernels::{Group, circle_crop, resize, rotate},
    models::{
        Init, Scheme,
        checkpoint::{Preparation, Step},
    },
};
use std::fmt;

/// How an image is prepared. Either way it is normalised (mean 0.13084, standard deviation 0.04348: the background
/// becomes −3.0), resized from 28×28 to the network's input, bilinearly, and then rotated about its centre,
/// bilinearly: after the resizing, so that what a quarter turn permutes are the network's own inputs, at every size.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// One channel; what a rotation brings in from outside is background; CircleCrop sets what lies outside the
    /// inscribed circle to 0, in training as in tests; each digit is turned by an angle of its own
    Paper,
    /// Three equal channels; what a rotation brings in from outside is 0, brighter than the background; no CircleCrop;
    /// each training batch is turned by one angle; the weights of the best epoch on upright validation digits are tested;
    /// starting values on p4 leave the size of the group out of the fan-in
    Published,
}

/// The weights that are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TestedEpoch {
    /// Of the epoch with the most validation digits recognised, the first of equal ones. These digits stay upright
    Best,
    /// Of the last epoch
    Last,
}

impl Protocol {
    /// Channels of the images.
    pub fn channels(self) -> usize {
        match self {
            Protocol::Paper => 1,
            Protocol::Published => 3,
        }
    }

    /// A data set of one channel, with the channels that this protocol has.
    ///
    /// # Errors
    /// None that a data set of one channel could cause.
    pub fn dataset(self, digits: Dataset) -> Result<Dataset> {
        let [channels, height, width] = digits.extents();
        if channels == self.channels() {
            return Ok(digits);
        }
        let copies = self.channels();
        let images = digits.pixels().chunks_exact(height * width);
        let pixels = images.flat_map(|image| image.repeat(copies)).collect();
        Dataset::new(digits.name(), pixels, digits.labels().to_vec(), [copies, height, width], digits.classes())
    }

    /// The normalisation of every channel.
    pub fn normalization(self) -> Normalization {
        let Normalization { mean, std } = mnist::papers_normalization();
        Normalization { mean: mean.repeat(self.channels()), std: std.repeat(self.channels()) }
    }

    /// What is done to a digit, as a checkpoint says it; turned it is behind the resizing.
    pub fn preparation(self, size: usize) -> Preparation {
        let Normalization { mean, std } = self.normalization();
        let mut steps = vec![Step::Normalize { mean, std }, Step::Resize([size, size])];
        match self {
            Protocol::Paper => steps.push(Step::CircleCrop { radius: None, fill: Vec::new() }),
            Protocol::Published => steps.insert(0, Step::Channels(self.channels())),
        }
        Preparation { steps }
    }

    /// What a rotation brings in from outside.
    pub fn fill(self) -> f32 {
        match self {
            Protocol::Paper => mnist::papers_normalization().black()[0],
            Protocol::Published => 0.0,
        }
    }

    /// Images `[N, C, 1, H, W]` as `[N, C, size, size]`.
    pub fn resized(self, images: &Tensor, size: usize) -> Tensor {
        let [n, channels, _, height, width] = *images.dims() else { unreachable!("batches have five axes") };
        let images = images.reshape([n, channels, height, width]);
        if (height, width) == (size, size) { images } else { resize(&images, size, size) }
    }

    /// [`Protocol::resized`] images, turned by `degrees` and ready for a network.
    pub fn turned(self, resized: &Tensor, degrees: &[f32]) -> Tensor {
        let [n, channels, height, width] = *resized.dims() else { unreachable!("resized images have four axes") };
        let upright = degrees.iter().all(|&degrees| degrees == 0.0);
        let turned = if upright { resized.clone() } else { rotate(resized, degrees, self.fill()) };
        let seen = match self {
            Protocol::Paper => circle_crop(&turned),
            Protocol::Published => turned,
        };
        seen.reshape([n, channels, 1, height, width])
    }

    /// How often an angle of a training digit is drawn, unless a distribution says it itself.
    pub fn drawn(self) -> Drawn {
        match self {
            Protocol::Paper => Drawn::Digit,
            Protocol::Published => Drawn::Batch,
        }
    }

    /// Which weights are tested, unless the user says it. The paper is silent; the published runs tested those of the best
    /// epoch.
    pub fn tested(self) -> TestedEpoch {
        match self {
            Protocol::Paper => TestedEpoch::Last,
            Protocol::Published => TestedEpoch::Best,
        }
    }

    /// Starting values on `group`. The published code leaves the size of the group out of the fan-in; on z2 it takes PyTorch's
    /// default.
    pub fn init(self, group: Group, seed: u64) -> Init {
        match (self, group) {
            (Protocol::Paper, _) | (Protocol::Published, Group::C1) => Init::new(seed),
            (Protocol::Published, _) => Init::with_scheme(seed, Scheme::Published),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Paper => "paper",
            Protocol::Published => "published",
        })
    }
}

impl fmt::Display for TestedEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TestedEpoch::Best => "best",
            TestedEpoch::Last => "last",
        })
    }
}
