//! From an image file to what a saved network reads.

use super::{
    args::{DeviceArgs, NetworkArgs},
    device,
};
use clap::Args;
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Pipeline, image_file},
    models::{
        Checkpoint, Network,
        checkpoint::{self, Preparation, Step},
    },
};
use std::path::Path;

/// A saved network that reads image files, on the command line.
#[derive(Args)]
pub struct ReaderArgs {
    #[command(flatten)]
    network: NetworkArgs,
    /// How images are prepared, in place of what the file says: such as "resize 224x224; normalize 0.5,0.5,0.5 0.5,0.5,0.5"
    #[arg(long, value_name = "STEPS")]
    preparation: Option<Preparation>,
    #[command(flatten)]
    device: DeviceArgs,
}

impl ReaderArgs {
    /// The network, on its device; what else its file says; and what prepares images for it.
    ///
    /// # Errors
    /// If there is no such device, the file cannot be read, or as [`Reader::new`].
    pub fn open(&self) -> Result<(Box<dyn Network>, Checkpoint, Reader)> {
        let device = device::open(self.device.device)?;
        let checkpoint = self.network.read()?;
        let network = checkpoint.network(&device)?;
        let reader = Reader::new(self.preparation.as_ref(), &checkpoint, &self.network.checkpoint, &*network)?;
        Ok((network, checkpoint, reader))
    }
}

/// Prepares images for a network.
pub struct Reader {
    preparation: Preparation,
    pipeline: Pipeline,
}

impl Reader {
    /// As `given`, or else as the checkpoint says, which was read from `path`.
    ///
    /// # Errors
    /// If neither says it, or the prepared images are none for the network.
    pub fn new(
        given: Option<&Preparation>,
        checkpoint: &Checkpoint,
        path: &Path,
        network: &dyn Network,
    ) -> Result<Self> {
        let Some(mut preparation) = given.cloned().map_or_else(|| checkpoint.preparation(), |given| Ok(Some(given)))?
        else {
            return Err(Error::Invalid(format!(
                "{}: the file does not say how images are prepared; --preparation does",
                path.display()
            )));
        };
        let channels = network.in_channels();
        // Files are read in colour.
        if !preparation.steps.iter().any(|step| matches!(step, Step::Channels(_))) {
            preparation.steps.insert(0, Step::Channels(channels));
        }
        let pipeline = Pipeline::of(&preparation, 3)?;
        let prepared = pipeline.normalization.mean.len();
        if prepared != channels {
            return Err(Error::Invalid(format!(
                "the network takes images of {channels} channels, prepared they have {prepared}: {preparation}"
            )));
        }
        Ok(Reader { preparation, pipeline })
    }

    /// The image, `[1, C, 1, H, W]`.
    ///
    /// # Errors
    /// If the file cannot be read or its image not be prepared.
    pub fn read(&self, path: &Path, device: &Device) -> Result<Tensor> {
        let named = |error: Error| match error {
            Error::Invalid(why) => Error::Invalid(format!("{}: {why}", path.display())),
            other => other,
        };
        let image = self.pipeline.prepare(image_file::read(path)?, device).map_err(named)?;
        checkpoint::finish(&self.preparation, &image)
    }

    /// What [`Reader::read`] has made, as brightness from 0 to 1 again.
    pub fn brightness(&self, image: &Tensor) -> Result<Vec<f32>> {
        let mut values = image.to_vec()?;
        let (mean, std) = (&self.pipeline.normalization.mean, &self.pipeline.normalization.std);
        let plane = values.len() / mean.len();
        for (channel, plane) in values.chunks_exact_mut(plane).enumerate() {
            plane.iter_mut().for_each(|value| *value = mean[channel] + std[channel] * *value);
        }
        Ok(values)
    }
}
