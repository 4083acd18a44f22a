//! From `--images` and `--masks` to pictures in folders.

use clap::Args;
use quarterturn::{
    core::{Error, Result},
    data::{Part, Samples},
    models::Checkpoint,
};
use std::{path::PathBuf, sync::Arc};

/// Pictures to look at in place of digits.
#[derive(Args)]
pub struct PictureArgs {
    /// A folder with a subfolder of images for each class, in place of digits; with --masks, a folder of images
    #[arg(long, value_name = "DIR", conflicts_with_all = ["data", "download", "protocol"])]
    images: Option<PathBuf>,
    /// Masks of a network for segmentation: for each of --images a file of the same name
    #[arg(long, value_name = "DIR", requires = "images")]
    masks: Option<PathBuf>,
    /// The grey levels of the classes in the masks, such as 0,255
    #[arg(long, value_name = "LEVELS", value_delimiter = ',', default_value = "0,1", requires = "masks")]
    levels: Vec<u8>,
}

impl PictureArgs {
    /// Whether there are any.
    pub fn is_given(&self) -> bool {
        self.images.is_some()
    }

    /// Whether there are masks for them.
    pub fn has_masks(&self) -> bool {
        self.masks.is_some()
    }

    /// The first `n` of them, or all.
    ///
    /// # Errors
    /// If none are given, a folder cannot be read, or there are fewer.
    pub fn open(&self, n: Option<u64>) -> Result<Arc<dyn Samples>> {
        let all = self.all()?;
        Ok(match n {
            Some(n) => Arc::new(Part::first(all, n as usize)?),
            None => all,
        })
    }

    #[cfg(feature = "images")]
    fn all(&self) -> Result<Arc<dyn Samples>> {
        use quarterturn::data::{ImageFolder, MaskFolder};
        match (&self.images, &self.masks) {
            (Some(images), Some(masks)) => Ok(Arc::new(MaskFolder::open(images, masks, &self.levels)?)),
            (Some(images), None) => Ok(Arc::new(ImageFolder::open(images)?)),
            (None, _) => Err(Error::Invalid("no folder of images is given".into())),
        }
    }

    #[cfg(not(feature = "images"))]
    fn all(&self) -> Result<Arc<dyn Samples>> {
        Err(super::args::without("images", "--images"))
    }

    /// Refuses a folder whose classes are not those that the file names, for its labels would mean something else.
    ///
    /// # Errors
    /// What differs.
    pub fn expect_classes(&self, samples: &dyn Samples, checkpoint: &Checkpoint) -> Result<()> {
        let Some(known) = checkpoint.notes().remove("classes") else { return Ok(()) };
        let known: Vec<&str> = known.lines().collect();
        let found = self.class_names()?;
        if known.iter().eq(found.iter()) {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{}: the folder has the classes {}, the network was trained on {}",
            samples.name(),
            found.join(", "),
            known.join(", ")
        )))
    }

    #[cfg(feature = "images")]
    fn class_names(&self) -> Result<Vec<String>> {
        let folder = self.images.as_deref().unwrap_or(std::path::Path::new("."));
        Ok(quarterturn::data::ImageFolder::open(folder)?.class_names().to_vec())
    }

    #[cfg(not(feature = "images"))]
    fn class_names(&self) -> Result<Vec<String>> {
        Err(super::args::without("images", "--images"))
    }
}
