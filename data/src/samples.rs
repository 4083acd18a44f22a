//! Where labelled images come from.

use crate::{Dataset, Image};
use quarterturn_core::Result;
use std::sync::Arc;

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

    /// Number of classes; labels are below it.
    fn classes(&self) -> usize;

    /// The class of image `index`.
    ///
    /// # Panics
    /// If there is no such image.
    fn label(&self, index: usize) -> usize;

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
