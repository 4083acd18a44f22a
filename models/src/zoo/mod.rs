//! Architectures, one file each.

mod mnist_cnn;
mod resnet;
mod subsampling_net;

pub use mnist_cnn::{MnistCnn, MnistCnnConfig};
pub use resnet::{Block, ResNet, ResNetConfig, Stem};
pub use subsampling_net::SubsamplingNet;
