//! Layers, networks and the training loop. One file per layer and per architecture of the paper.
//!
//! A network is described once, layer by layer ([`Builder`]). From that come the forward pass, the shapes and the errors of what
//! does not fit, the parameters with their names, and what can be said of its symmetry: by its geometry ([`Exactness`]) and by
//! measurement ([`EquivarianceError`]).
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
mod builder;
mod chain;
pub mod checkpoint;
mod conv_norm;
mod equivariance;
mod exactness;
mod group_conv;
mod init;
mod linear;
mod mnist_cnn;
mod module;
mod network;
mod pool;
mod relu;
mod residual;
mod resnet;
mod safetensors;
mod sequential;
mod subsampling_net;
mod trace;
pub mod training;

pub use batch_norm::BatchNorm;
pub use builder::Builder;
pub use chain::Chain;
pub use checkpoint::Checkpoint;
pub use conv_norm::ConvNorm;
pub use equivariance::{DepthError, EquivarianceError};
pub use exactness::{Exactness, Verdict};
pub use group_conv::GroupConv;
pub use init::{Init, Scheme};
pub use linear::Linear;
pub use mnist_cnn::{MnistCnn, MnistCnnConfig};
pub use module::{Mode, Module, Pass};
pub use network::{Config, Network};
pub use pool::{AvgPool, CosetMax, CosetMean, MaxPool, SpatialMean};
pub use relu::Relu;
pub use residual::Residual;
pub use resnet::{Block, ResNet, ResNetConfig, Stem};
pub use sequential::Sequential;
pub use subsampling_net::SubsamplingNet;
pub use trace::{LayerKind, Trace, WindowedLayer};
