//! Layers, networks and the training loop. One file per layer and per architecture of the paper.
//!
//! ```
//! use quarterturn_core::{Device, Tensor};
//! use quarterturn_models::{MnistCnn, MnistCnnConfig, Network};
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &Device::Cpu)?;
//! let images = Tensor::full([2, 1, 1, 28, 28], 0.0, &Device::Cpu)?;
//! let logits = network.predict(&images)?;
//! assert_eq!(logits.dims(), [2, 10]);
//! # Ok(())
//! # }
//! ```

mod batch_norm;
pub mod checkpoint;
mod group_conv;
mod init;
mod linear;
mod mnist_cnn;
mod module;
mod safetensors;
mod subsampling_net;
pub mod training;

pub use batch_norm::BatchNorm;
pub use checkpoint::Checkpoint;
pub use group_conv::GroupConv;
pub use init::Init;
pub use linear::Linear;
pub use mnist_cnn::{MnistCnn, MnistCnnConfig};
pub use module::{Config, Mode, Module, Network};
pub use subsampling_net::SubsamplingNet;
