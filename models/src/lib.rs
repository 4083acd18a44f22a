//! Layers, networks and the training loop. Layers in `nn`, architectures in `zoo`, one file each.
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

mod check;
pub mod export;
mod io;
mod nn;
#[cfg(feature = "onnx")]
mod onnx;
mod train;
mod zoo;

#[cfg(feature = "onnx")]
pub use check::onnx::{JudgedLayer, Judgement, OnnxExactness, OnnxModel};
pub use check::{
    BreakingLayer, DepthError, EquivarianceError, Exactness, LayerKind, LayerSummary, MultiplyAdds, Standing, Summary,
    Symmetry, Trace, Verdict, WindowedLayer, transform_output,
};
pub use io::checkpoint::{self, Checkpoint};
pub use nn::{
    Activation, AdaptiveAvgPool, AdaptiveConv, AdaptiveMaxPool, AdaptivePool, AvgPool, BatchNorm, BlurPool, Builder,
    Chain, Config, ConvNorm, CosetMax, CosetMean, Description, DropoutMaps, GridUpsample, GroupConv, Init,
    Interpolation, Join, Layer, Layers, Linear, MaxPool, Mode, Module, Network, Node, Parallel, Pass, Relu, Resize,
    Restrict, Scheme, SeparableConv, Sequential, Site, SpatialMax, SpatialMean, SubgroupMax, SubgroupMean,
    SubgroupPool, TransposedConv, Upsample,
};
pub use zoo::{
    Block, Head, MnistCnn, MnistCnnConfig, ResNet, ResNetConfig, Stem, Subsampling, SubsamplingNet, UNetConfig, unet,
};

pub mod training {
    //! Training for any task: objectives, the loop, its state in a file, metrics on held-out data.

    pub use crate::train::{
        Best, Classes, Clip, Confusion, Difference, Metric, Objective, OwnMetric, OwnObjective, Progress, Report,
        Scores, Tally, Trainer, Training, Validation, evaluate, train, train_step,
    };
}
