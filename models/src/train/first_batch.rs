//! What is remembered of the data, so that a run that goes on notices if they are others.

use super::state::TRAINING;
use crate::{Checkpoint, io::Encoder};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use quarterturn_kernels::{self as kernels, Window};

/// So many values of the images are kept at most.
const SAMPLE: usize = 1024;

/// The first batch of an epoch: its shape, its targets, and thumbnails of its images.
///
/// Thumbnails are means over large windows: they differ between data sets, and where images are turned, but hardly between devices,
/// so that a run may go on on another one.
#[derive(Clone, Debug)]
pub(super) struct FirstBatch {
    /// As text: `128x1x1x28x28`.
    images: String,
    /// Still on the device. Of class labels all are kept, of what has more axes a sample.
    targets: Tensor,
    thumbnails: Tensor,
}

impl FirstBatch {
    /// Of images `[N, C, 1, H, W]` that fit the network.
    pub fn of(images: &Tensor, targets: &Tensor) -> Self {
        let dims = images.dims();
        let kernel_size = (dims[3].min(dims[4]) / 4).max(1);
        let thumbnails = kernels::avg_pool(images, Window { kernel_size, stride: kernel_size, padding: 0 });
        let extents: Vec<String> = dims.iter().map(ToString::to_string).collect();
        FirstBatch { images: extents.join("x"), targets: targets.clone(), thumbnails }
    }

    fn targets(&self) -> Result<Vec<f64>> {
        let values = self.targets.to_f64()?;
        Ok(if self.targets.dims().len() == 1 { values } else { sample(&values) })
    }

    /// The names under which it is kept: a setting and two tensors.
    pub const SETTING: &str = "batch";
    pub const TENSORS: [&str; 2] = ["labels", "thumbnails"];

    /// # Errors
    /// What went wrong on the GPU.
    pub fn write(&self, archive: &mut Encoder) -> Result<()> {
        archive.setting(format!("{TRAINING}{}", Self::SETTING), self.images.clone());
        let values = [self.targets()?, sample(&self.thumbnails.to_f64()?)];
        for (name, values) in Self::TENSORS.into_iter().zip(values) {
            archive.tensor(format!("{TRAINING}{name}"), &Tensor::reference([values.len()], values))?;
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Checkpoint`] with the name of what is missing or unfit.
    pub fn read(state: &Checkpoint) -> Result<Self> {
        let tensor = |name: &str| {
            let name = format!("{TRAINING}{name}");
            let values = state.shapes().get(&name).map_or(0, |shape| shape.iter().product());
            state.tensor_of(&name, Shape::from([values]), &Device::Reference)
        };
        let name = format!("{TRAINING}{}", Self::SETTING);
        let images = state.config().get(&name).cloned();
        let images =
            images.ok_or_else(|| Error::Checkpoint { name, message: "the file has no such setting".into() })?;
        let [targets, thumbnails] = Self::TENSORS.map(tensor);
        Ok(FirstBatch { images, targets: targets?, thumbnails: thumbnails? })
    }

    /// Makes sure that `again`, the first batch of the same epoch, is the same.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of what differs; what went wrong on the GPU.
    pub fn expect(&self, again: &Self) -> Result<()> {
        let refused =
            |name: &str, message: String| Err(Error::Checkpoint { name: format!("{TRAINING}{name}"), message });
        if self.images != again.images {
            let message = format!("the run was begun with batches {}, and goes on with {}", self.images, again.images);
            return refused(Self::SETTING, message);
        }
        let (targets, now) = (self.targets()?, again.targets()?);
        let differ = |&at: &usize| match (targets.get(at), now.get(at)) {
            // Whole numbers are labels; others may be computed, on another device too.
            (Some(a), Some(b)) => {
                a != b && (a.fract() == 0.0 && b.fract() == 0.0 || (a - b).abs() > 1e-4 * (1.0 + a.abs()))
            }
            _ => true,
        };
        if let Some(at) = (0..targets.len().max(now.len())).find(differ) {
            let [was, is] = [&targets, &now].map(|targets| targets.get(at).map_or("missing".into(), f64::to_string));
            let whose = if again.targets.dims().len() == 1 { "that of image" } else { "number" };
            return refused("labels", format!("{whose} {at} was {was} and is {is}: these are other data"));
        }
        let (pixels, now) = (sample(&self.thumbnails.to_f64()?), sample(&again.thumbnails.to_f64()?));
        let same =
            pixels.len() == now.len() && pixels.iter().zip(&now).all(|(a, b)| (a - b).abs() <= 1e-3 * (1.0 + a.abs()));
        if !same {
            return refused("thumbnails", "the images are not those that the run was begun with".into());
        }
        Ok(())
    }
}

/// Evenly spaced values, few enough to be kept.
fn sample(values: &[f64]) -> Vec<f64> {
    values.iter().copied().step_by(values.len().div_ceil(SAMPLE).max(1)).collect()
}
