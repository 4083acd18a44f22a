//! The trait of data sets, and targets.

use crate::{Dataset, Image};
use quarterturn_core::Result;
use std::sync::Arc;

/// The target of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One class, for classification.
    Class(usize),
    /// A class for each pixel, for segmentation: an image of one channel and the same size, whose bytes are class
    /// indices. Pixels of 255 are ignored.
    Mask(Image),
    /// Numbers, the same count for each image: labels of 0 or 1 (multi-label classification), or values (regression).
    Numbers(Vec<f32>),
}

impl Target {
    /// The byte of ignored pixels in masks.
    pub const IGNORED: u8 = 255;
}

/// A data set: images with targets, by index (PyTorch: `Dataset`). A [`crate::Loader`] makes batches of it.
///
/// Labels and the number of images are known from the start; pixels are read on demand, from any thread.
pub trait Samples: Send + Sync {
    /// The name of the data set, for tables and figures.
    fn name(&self) -> &str;

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes (of images or pixels); labels are below it. Where targets are numbers, their count for each
    /// image.
    fn classes(&self) -> usize;

    /// The class of image `index`; 0 where targets are not one class.
    ///
    /// # Panics
    /// If there is no such image.
    fn label(&self, index: usize) -> usize;

    /// The target of image `index`. The default is its class. Called from many threads at once.
    ///
    /// # Errors
    /// As [`Samples::decode`].
    ///
    /// # Panics
    /// If there is no such image.
    fn target(&self, index: usize) -> Result<Target> {
        Ok(Target::Class(self.label(index)))
    }

    /// Reads image `index`. Called from many threads at once.
    ///
    /// # Errors
    /// Errors of reading, which name the file.
    ///
    /// # Panics
    /// If there is no such image.
    fn decode(&self, index: usize) -> Result<Image>;

    /// How an error names image `index`: by its file where it has one of its own.
    fn describe(&self, index: usize) -> String {
        format!("{}: image {index}", self.name())
    }
}

impl<S: Samples + ?Sized> Samples for Arc<S> {
    fn name(&self) -> &str {
        (**self).name()
    }
    fn len(&self) -> usize {
        (**self).len()
    }
    fn classes(&self) -> usize {
        (**self).classes()
    }
    fn label(&self, index: usize) -> usize {
        (**self).label(index)
    }
    fn target(&self, index: usize) -> Result<Target> {
        (**self).target(index)
    }
    fn decode(&self, index: usize) -> Result<Image> {
        (**self).decode(index)
    }
    fn describe(&self, index: usize) -> String {
        (**self).describe(index)
    }
}

impl Samples for Dataset {
    fn name(&self) -> &str {
        Dataset::name(self)
    }
    fn len(&self) -> usize {
        Dataset::len(self)
    }
    fn classes(&self) -> usize {
        Dataset::classes(self)
    }
    fn label(&self, index: usize) -> usize {
        usize::from(self.labels()[index])
    }
    fn decode(&self, index: usize) -> Result<Image> {
        Image::of_planes(self.image(index).to_vec(), self.extents())
    }
}
