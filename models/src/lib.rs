//! Layers, networks, training, checkpoints, and the checker that says whether a network is equivariant in every bit.
//!
//! Ready networks are [`MnistCnn`] (P4CNN), [`gc_p4cnn`], [`ResNet`], [`densenet`] and [`unet`]. For a network of your own, list its layers with
//! [`Builder`]. From this description come the forward pass, the output shapes, the parameters with their names, and
//! the file format. [`Exactness`] tells from layers and image size whether the network is equivariant;
//! [`EquivarianceError`] measures it. [`training::Trainer`] trains, [`checkpoint::save`] and [`Checkpoint`] write and
//! read files.
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
    Chain, Config, ConvNorm, CosetMax, CosetMean, Crop, Description, DropoutMaps, GridUpsample, GroupConv, Init,
    Interpolation, Join, Layer, Layers, Linear, MaxPool, Mode, Module, Network, Node, Parallel, Pass, Relu, Resize,
    Restrict, Scheme, SeparableConv, Sequential, Site, SpatialMax, SpatialMean, SubgroupMax, SubgroupMean,
    SubgroupPool, TransposedConv, Upsample,
};
pub use zoo::{
    Block, DenseNetConfig, Head, MnistCnn, MnistCnnConfig, ResNet, ResNetConfig, Stem, Subsampling, SubsamplingNet,
    UNetConfig, densenet, gc_p4cnn, unet,
};

pub mod training {
    //! Training: objectives (losses), the training loop, its state in a file, metrics on held-out data.

    pub use crate::train::{
        Alone, Best, Classes, Clip, Confusion, Difference, Metric, Objective, OwnMetric, OwnObjective, Progress, Ranks,
        Report, Scores, Tally, Trainer, Training, Validation, add_over_ranks, evaluate, train, train_step,
    };
}
