//! Data sets, augmentation and batches. There are readers for MNIST, CIFAR, Flowers-102, PatchCamelyon, MedMNIST and
//! RotMNIST, and for folders of images, by class or with masks. Built-in digits, textures and outlines need no files.
//!
//! A small data set is a [`Dataset`]: 8-bit images and class indices in memory. [`Dataset::batches`] turns it into
//! tensors `[N, C, 1, H, W]`, the input of a network.
//!
//! ```
//! use quarterturn_core::Device;
//! use quarterturn_data::{Normalization, digits};
//!
//! let train = digits::generate(7, digits::Split::Train, 100)?;
//! let normalization = Normalization::of(&train);
//! for batch in train.batches(32).shuffled(7, 0).normalized(&normalization).on(&Device::Cpu) {
//!     let batch = batch?;
//!     assert_eq!(batch.images.dims()[1..], [1, 1, 28, 28]);
//! }
//! # Ok::<(), quarterturn_core::Error>(())
//! ```
//!
//! The trait [`Samples`] is PyTorch's `Dataset`: it has labels, and reads image number i on demand. A `Dataset`, a
//! [`Part`] of another data set, and a folder of any size implement it. A [`Loader`] is PyTorch's `DataLoader`: it
//! decodes and augments images on threads of its own and returns batches. A [`Pipeline`] says how, as a list of
//! [`Transform`]s; a [`Recipe`] has the pipelines of the paper's experiments.
//!
//! ```
//! # #[cfg(feature = "images")] {
//! use quarterturn_core::Device;
//! use quarterturn_data::{ImageFolder, Loader, Recipe};
//!
//! # let folder = std::env::temp_dir().join(format!("quarterturn-doc-{}", std::process::id()));
//! # for (i, class) in ["bee", "wasp"].into_iter().enumerate() {
//! #     std::fs::create_dir_all(folder.join("train").join(class)).unwrap();
//! #     for name in ["1.png", "2.jpg", "3.jpg"] {
//! #         let picture = image::RgbImage::from_pixel(40, 30, image::Rgb([90 * i as u8; 3]));
//! #         picture.save(folder.join("train").join(class).join(name)).unwrap();
//! #     }
//! # }
//! // folder/train/bee/1.png, folder/train/wasp/1.png and so on; the size 33 is exact for ResNet-44.
//! let images = ImageFolder::parts(&folder)?;
//! assert_eq!(images.train.class_names(), ["bee", "wasp"]);
//! let loader = Loader::new(images.train, Recipe::imagenet(33).train, 4).seed(7).shuffled().on(&Device::Cpu);
//! for epoch in 0..2 {
//!     for batch in loader.epoch(epoch) {
//!         let batch = batch?; // or an error that names the file
//!         assert_eq!(batch.images.dims()[1..], [3, 1, 33, 33]);
//!     }
//! }
//! // The same epoch again, from its second batch on.
//! let batch = loader.epoch(1).starting_at(1).next().unwrap()?;
//! assert_eq!(batch.indices.len(), 2);
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # }
//! # Ok::<(), quarterturn_core::Error>(())
//! ```
//!
//! # Features
//! Without any feature, the crate needs only `flate2`, `byteorder` and `rayon`. It then has MNIST, CIFAR, MedMNIST,
//! RotMNIST, the built-in data sets, images in memory with classes, masks or numbers, and the loader.
//! - `images`: folders of JPEG and PNG files, by class or with masks; Flowers-102.
//! - `tiff`: TIFF files too, wherever images are read.
//! - `hdf5`: PatchCamelyon.
//! - `formats`: all of these.
//! - `download`: fetching data sets over HTTPS.

pub mod amat;
mod annotated;
mod batches;
pub mod cifar;
mod dataset;
mod dice;
pub mod digits;
#[cfg(feature = "download")]
pub mod download;
#[cfg(feature = "images")]
pub mod flowers;
#[cfg(any(feature = "hdf5", feature = "images"))]
mod guard;
mod gzip;
pub mod idx;
mod image;
#[cfg(feature = "images")]
pub mod image_file;
#[cfg(feature = "images")]
pub mod image_folder;
mod loader;
#[cfg(feature = "images")]
mod mask_folder;
#[cfg(feature = "images")]
pub mod mat5;
pub mod medmnist;
pub mod mnist;
#[cfg(feature = "images")]
mod normal_form;
mod normalization;
pub mod npz;
pub mod outlines;
mod part;
#[cfg(feature = "hdf5")]
pub mod pcam;
mod pipeline;
mod recipe;
mod samples;
mod split;
#[cfg(test)]
mod testing;
pub mod textures;
mod transform;

pub use annotated::Annotated;
pub use batches::{Batch, Batches};
pub use dataset::Dataset;
pub use dice::Dice;
pub use image::{Image, MAX_BYTES, MAX_SIDE};
#[cfg(feature = "images")]
pub use image_folder::ImageFolder;
pub use loader::{Epoch, Loader, fingerprint};
#[cfg(feature = "images")]
pub use mask_folder::MaskFolder;
pub use normalization::Normalization;
pub use part::Part;
pub use pipeline::Pipeline;
pub use recipe::Recipe;
pub use samples::{Samples, Target};
pub use split::Split;
pub use transform::{Angle, Augment, OwnTransform, Transform};
