//! Where images and what they are to be taken for come from.

use crate::{Dataset, Image};
use quarterturn_core::Result;
use std::sync::Arc;

/// What a network is to make of an image.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// One class.
    Class(usize),
    /// A class for each pixel: an image of one channel, as high and wide as the other, whose bytes are class indices. 255 is no class:
    /// that pixel is to be ignored.
    Mask(Image),
    /// Numbers, as many for each image: labels that hold (1) or do not (0), or what is to be measured.
    Numbers(Vec<f32>),
}

impl Target {
    /// The byte of a mask's pixel that counts for nothing.
    pub const IGNORED: u8 = 255;
}

/// Labelled images, in memory or not, one at a time and from any thread: what a [`crate::Loader`] runs through.
///
/// Labels and the number of images are known from the start; pixels are read when they are asked for.
pub trait Samples: Send + Sync {
    /// What the images are, for tables and figures.
    fn name(&self) -> &str;

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of classes, of images or of pixels; labels are below it. Where targets are numbers, how many each image has.
    fn classes(&self) -> usize;

    /// The class of image `index`; 0 where targets are not one class.
    ///
    /// # Panics
    /// If there is no such image.
    fn label(&self, index: usize) -> usize;

    /// What image `index` is to be taken for; its class, unless the data set says otherwise. Called from many threads at once.
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
    /// What reading can bring up, with the file's name.
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
