//! Data sets and batches: MNIST from its files, digits drawn on the spot, and the way from either to tensors.
//!
//! Everything ends up as a [`Dataset`]: 8-bit images and class indices in memory. [`Dataset::batches`] turns it into
//! tensors `[N, C, 1, H, W]`, which a lifting convolution takes as they are.
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

mod batches;
pub mod cifar;
mod dataset;
mod dice;
pub mod digits;
#[cfg(feature = "download")]
pub mod download;
#[cfg(feature = "images")]
pub mod flowers;
pub mod idx;
mod image;
#[cfg(feature = "images")]
pub mod image_file;
#[cfg(feature = "images")]
pub mod image_folder;
mod loader;
#[cfg(feature = "images")]
pub mod mat5;
pub mod mnist;
mod normalization;
mod part;
#[cfg(feature = "hdf5")]
pub mod pcam;
mod recipe;
mod samples;
mod split;
#[cfg(test)]
mod testing;
pub mod textures;
mod transform;

pub use batches::{Batch, Batches};
pub use dataset::Dataset;
pub use image::{Image, MAX_BYTES, MAX_SIDE};
#[cfg(feature = "images")]
pub use image_folder::ImageFolder;
pub use loader::{Epoch, Loader};
pub use normalization::Normalization;
pub use part::Part;
pub use recipe::{Pipeline, Recipe};
pub use samples::Samples;
pub use split::Split;
pub use transform::{Angle, Transform};
