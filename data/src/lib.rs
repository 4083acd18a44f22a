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
mod dataset;
pub mod digits;
#[cfg(feature = "download")]
pub mod download;
pub mod idx;
pub mod mnist;
mod normalization;

pub use batches::{Batch, Batches};
pub use dataset::Dataset;
pub use normalization::Normalization;
