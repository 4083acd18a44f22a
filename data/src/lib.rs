//! Data sets and batches: MNIST from its files, and the way from either to tensors.
//!
//! Everything ends up as a [`Dataset`]: 8-bit images and class indices in memory. [`Dataset::batches`] turns it into
//! tensors `[N, C, 1, H, W]`, which a lifting convolution takes as they are.

mod batches;
mod dataset;
pub mod idx;
pub mod mnist;
mod normalization;

pub use batches::{Batch, Batches};
pub use dataset::Dataset;
pub use normalization::Normalization;
