//! Layers, and what makes networks of them.

mod adaptive;
pub(crate) mod assembly;
mod batch_norm;
mod builder;
mod chain;
mod conv_norm;
mod description;
mod group_conv;
mod init;
mod layer;
mod linear;
mod module;
mod network;
mod parallel;
mod pool;
mod relu;
mod sequential;

pub use adaptive::{AdaptiveAvgPool, AdaptiveConv, AdaptiveMaxPool, GridUpsample};
pub use batch_norm::BatchNorm;
pub use builder::Builder;
pub use chain::Chain;
pub use conv_norm::ConvNorm;
pub use description::{Description, Node};
pub use group_conv::GroupConv;
pub use init::{Init, Scheme};
pub use layer::{Layer, Layers, Site};
pub use linear::Linear;
pub(crate) use module::Path;
pub use module::{Mode, Module, Pass};
pub use network::{Config, Network};
pub(crate) use network::{expect_model, setting, setting_or_default};
pub use parallel::Sum;
pub use pool::{AvgPool, CosetMax, CosetMean, MaxPool, SpatialMean};
pub use relu::Relu;
pub use sequential::Sequential;
