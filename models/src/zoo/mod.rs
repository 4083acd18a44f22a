//! Architectures, one file each.

mod densenet;
mod gc_p4cnn;
mod mnist_cnn;
mod resnet;
mod subsampling;
mod subsampling_net;
mod unet;

pub use densenet::{DenseNetConfig, densenet};
pub use gc_p4cnn::gc_p4cnn;
pub use mnist_cnn::{MnistCnn, MnistCnnConfig};
pub use resnet::{Block, Head, ResNet, ResNetConfig, Stem};
pub use subsampling::Subsampling;
pub use subsampling_net::SubsamplingNet;
pub use unet::{UNetConfig, unet};
