//! Colour images to train ResNets on: built-in textures, or a data set from its files.

use super::fingerprint;
use clap::{Args, ValueEnum};
#[cfg(feature = "hdf5")]
use quarterturn::data::pcam;
#[cfg(feature = "images")]
use quarterturn::data::{ImageFolder, flowers};
use quarterturn::{
    core::{Error, Result},
    data::{Part, Recipe, Samples, Split, cifar, textures},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Images to train on, to test on, and to validate on.
type Parts = (Arc<dyn Samples>, Arc<dyn Samples>, Option<Arc<dyn Samples>>);

/// Seeds of the built-in textures: the same in every run, as a data set's files are.
const TEXTURES: [u64; 2] = [4, 5];

/// Images of each part whose pixels the fingerprint takes in, at most.
const PROBED: usize = 16;

/// Which data, and how much of it.
#[derive(Args)]
pub struct ImageArgs {
    /// Folder of the data set [default: textures that the program draws itself]
    #[arg(long, value_name = "DIR", requires = "format")]
    pub data: Option<PathBuf>,
    /// What is in the folder
    #[arg(long, value_enum, requires = "data")]
    pub format: Option<Format>,
    /// Training images, drawn by the seed [default: all; textures 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub train: Option<u64>,
    /// Test images, drawn by the seed, and as many to validate on where that is done [default: all; textures 200]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub test: Option<u64>,
    /// Test on N of the training images instead, drawn by the seed and left out of training: to choose a setting such as --lr
    /// without looking at the test images
    #[arg(long, value_name = "N", conflicts_with = "test", value_parser = clap::value_parser!(u64).range(1..))]
    pub held_out: Option<u64>,
    /// Of --format pcam: whole tiles. By default what lies outside of the inscribed circle is replaced by the mean colour, as
    /// the paper says; its code does so on request
    #[arg(long, requires = "data")]
    pub no_circle_crop: bool,
}

/// How a data set lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// train/CLASS/*.jpg and test/CLASS/*.jpg (or val), JPEG, PNG or (feature `tiff`) TIFF; prepared as ImageNet
    Imagefolder,
    /// The same, prepared as CIFAR
    CifarFolder,
    /// CIFAR-10's binary files
    #[value(alias = "cifar")]
    Cifar10,
    /// CIFAR-100's binary files
    Cifar100,
    /// Flowers-102: jpg/, imagelabels.mat and setid.mat
    Flowers,
    /// PatchCamelyon's six HDF5 files; needs the feature `hdf5`
    Pcam,
}

/// Images to train and test on.
pub struct Images {
    /// What they are, for captions.
    pub name: String,
    pub train: Arc<dyn Samples>,
    pub test: Arc<dyn Samples>,
    /// To choose an epoch's weights by, where the data set is used that way: of PatchCamelyon.
    pub validation: Option<Arc<dyn Samples>>,
    format: Option<Format>,
    /// What lies outside of the inscribed circle is hidden: of PatchCamelyon.
    circle_crop: bool,
}

/// The parts of a data set.
fn load(folder: &Path, format: Format) -> Result<Parts> {
    match format {
        #[cfg(feature = "images")]
        Format::Imagefolder | Format::CifarFolder => {
            let parts = ImageFolder::parts(folder)?;
            let test = parts.test.or(parts.validation).ok_or_else(|| quarterturn::core::Error::Io {
                path: folder.into(),
                message: "no folder of test images (test or val)".into(),
            })?;
            Ok((Arc::new(parts.train), Arc::new(test), None))
        }
        Format::Cifar10 | Format::Cifar100 => {
            let which = if format == Format::Cifar10 { cifar::Cifar::Ten } else { cifar::Cifar::Hundred };
            let parts = cifar::load(folder, which)?;
            Ok((Arc::new(parts.train), Arc::new(parts.test), None))
        }
        #[cfg(feature = "images")]
        Format::Flowers => {
            let parts = flowers::load(folder)?;
            Ok((Arc::new(parts.train_and_validation), Arc::new(parts.test), None))
        }
        #[cfg(feature = "hdf5")]
        Format::Pcam => {
            let parts = pcam::load(folder)?;
            Ok((Arc::new(parts.train), Arc::new(parts.test), Some(Arc::new(parts.validation))))
        }
        #[cfg(not(feature = "images"))]
        Format::Imagefolder | Format::CifarFolder | Format::Flowers => Err(super::args::without("images", "--format")),
        #[cfg(not(feature = "hdf5"))]
        Format::Pcam => Err(super::args::without("hdf5", "--format pcam")),
    }
}

impl Images {
    /// Opens what the user asked for; textures are drawn at `size`.
    ///
    /// # Errors
    /// What is missing or damaged, or that there are fewer images than asked for.
    pub fn open(args: &ImageArgs, size: usize, seed: u64) -> Result<Self> {
        let part = |whole: Arc<dyn Samples>, n: Option<u64>| -> Result<Arc<dyn Samples>> {
            Ok(match n {
                Some(n) => Arc::new(Part::split(whole, n as usize, seed)?.0),
                None => whole,
            })
        };
        if args.no_circle_crop && args.format != Some(Format::Pcam) {
            let why = "--no-circle-crop: only the images of --format pcam are cropped to a circle";
            return Err(Error::Invalid(why.into()));
        }
        let (parts, mut name): (Parts, String) = match (&args.data, args.format) {
            (Some(folder), Some(format)) => {
                let parts = load(folder, format)?;
                let name = parts.0.name().to_string();
                (parts, name)
            }
            _ => {
                let draw = |which: usize, split, n: u64| textures::generate(TEXTURES[which], split, n as usize, size);
                let n = args.train.unwrap_or(1000).saturating_add(args.held_out.unwrap_or(0));
                let train: Arc<dyn Samples> = Arc::new(draw(0, Split::Train, n)?);
                let test: Arc<dyn Samples> = Arc::new(draw(1, Split::Test, args.test.unwrap_or(200))?);
                ((train, test, None), "built-in textures".into())
            }
        };
        if args.no_circle_crop {
            name += ", whole tiles";
        }
        let (mut train, mut test, mut validation) = parts;
        if let Some(n) = args.held_out {
            let (held_out, others) = Part::split(train, n as usize, seed)?;
            (train, test) = (Arc::new(others), Arc::new(held_out));
            name += ", images held out of the training set to test on";
        }
        if args.format.is_some() {
            (train, test) = (part(train, args.train)?, part(test, args.test)?);
            validation = validation.map(|whole| part(whole, args.test)).transpose()?;
        }
        Ok(Images { name, train, test, validation, format: args.format, circle_crop: !args.no_circle_crop })
    }

    /// What other images would almost surely not have: their numbers, labels, and the pixels of a few from each part.
    ///
    /// # Errors
    /// If one of the few cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        if self.format.is_none() {
            return Ok("drawn by the program".into());
        }
        let mut bytes = Vec::new();
        let number = |bytes: &mut Vec<u8>, n: usize| bytes.extend((n as u64).to_le_bytes());
        for part in [Some(&self.train), self.validation.as_ref(), Some(&self.test)].into_iter().flatten() {
            number(&mut bytes, part.len());
            number(&mut bytes, part.classes());
            (0..part.len()).for_each(|i| number(&mut bytes, part.label(i)));
            for i in (0..part.len()).step_by(part.len().div_ceil(PROBED).max(1)) {
                let image = part.decode(i)?;
                image.extents().into_iter().for_each(|extent| number(&mut bytes, extent));
                bytes.extend(image.pixels());
            }
        }
        Ok(fingerprint::of(bytes))
    }

    /// How images are prepared for tests, as text.
    ///
    /// # Errors
    /// None for the recipes that there are.
    pub fn prepared(&self, size: usize) -> Result<String> {
        Ok(self.recipe(size).test.preparation()?.to_string())
    }

    /// How images are prepared for a network of input size `size`.
    pub fn recipe(&self, size: usize) -> Recipe {
        match self.format {
            // A turned texture is of another class, and so may be a flipped one: no augmentation.
            None => {
                let test = Recipe::cifar(size).test;
                Recipe { train: test.clone(), test }
            }
            Some(Format::CifarFolder | Format::Cifar10 | Format::Cifar100) => Recipe::cifar(size),
            Some(Format::Imagefolder) => Recipe::imagenet(size),
            Some(Format::Flowers) => Recipe::flowers(size),
            Some(Format::Pcam) => Recipe::pcam(size, self.circle_crop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_held_out_are_training_images_that_are_not_trained_on() {
        let args = |train, held_out| ImageArgs {
            data: None,
            format: None,
            train: Some(train),
            test: None,
            held_out,
            no_circle_crop: false,
        };
        let pixels = |part: &Arc<dyn Samples>| -> Vec<Vec<u8>> {
            (0..part.len()).map(|i| part.decode(i).unwrap().pixels().to_vec()).collect()
        };
        let whole = pixels(&Images::open(&args(30, None), 16, 3).unwrap().train);
        let images = Images::open(&args(20, Some(10)), 16, 3).unwrap();
        let (train, held_out) = (pixels(&images.train), pixels(&images.test));
        assert_eq!([train.len(), held_out.len()], [20, 10]);
        let mut both = [train, held_out].concat();
        let mut all = whole;
        both.sort();
        all.sort();
        assert!(both == all, "each training image is on one side");
        assert!(images.name.contains("held out"));
    }
}
