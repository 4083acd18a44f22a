//! The densely connected network of Veeling et al. 2018, "Rotation equivariant CNNs for digital pathology", on z2, p4 and p4m.

use crate::{Builder, Init, Sequential};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Group, Window};

/// Settings of [`densenet`].
#[derive(Clone, Debug, PartialEq)]
pub struct DenseNetConfig {
    /// C1 for z2, C4 for p4, D4 for p4m.
    pub group: Group,
    /// Channels of the images.
    pub in_channels: usize,
    /// Number of classes.
    pub classes: usize,
    /// Channels that each layer adds, and that the first convolution makes.
    pub growth: usize,
    /// Layers of each dense block, from the finest to the coarsest. Each block but the first works on maps half as high and wide.
    pub layers: Vec<usize>,
}

impl DenseNetConfig {
    /// For PatchCamelyon's images of 96×96: five blocks of one layer. The number of channels depends on the group, so
    /// that all groups have about as many parameters.
    pub fn pcam(group: Group) -> Self {
        let growth = match group {
            Group::C1 => 24,
            Group::C4 => 13,
            Group::D4 => 9,
        };
        DenseNetConfig { group, in_channels: 3, classes: 2, growth, layers: vec![1; 5] }
    }
}

/// Without padding, so that a map loses a row and a column on each side.
const UNPADDED: Window = Window { kernel_size: 3, stride: 1, padding: 0 };
const POINT: Window = Window { kernel_size: 1, stride: 1, padding: 0 };
const HALVING: Window = Window { kernel_size: 2, stride: 2, padding: 0 };

/// Images `[N, in_channels, 1, H, W]` → logits `[N, classes]`.
///
/// An unpadded 3×3 convolution, then dense blocks. Each layer of a block is norm, ReLU and an unpadded 3×3 convolution.
/// Its output channels are appended to the channels of its input, which is cropped to the same size. Between two blocks
/// there is a transition: norm, ReLU, a 1×1 convolution that keeps the number of channels, and the mean of each 2×2
/// window. At the end come norm, ReLU, the mean over space, the maximum over the group, and a linear layer.
///
/// The network is exact if height and width are even before each pooling. With five blocks of one layer, 96 is such a
/// size: the maps have a height and width of 94, 92, 46, 44, 22, 20, 10, 8, 4 and 2.
///
/// Instead of the mean and the linear layer, the paper's network ends in a convolution over all pixels that are left.
///
/// # Errors
/// [`Error::Invalid`] without a block, or with settings out of range; or when the GPU has no room.
pub fn densenet(config: &DenseNetConfig, init: Init, device: &Device) -> Result<Sequential> {
    let DenseNetConfig { group, in_channels, classes, growth, layers } = config;
    if layers.is_empty() {
        return Err(Error::Invalid("densenet: expected the number of layers of at least one block".into()));
    }
    let mut x = Builder::new(*group, *in_channels, init, device).conv_without_bias("stem", *growth, UNPADDED);
    let mut channels = *growth;
    for (block, &depth) in (1..).zip(layers) {
        for layer in 1..=depth {
            x = dense_layer(x, &format!("block{block}.layer{layer}"), *growth);
            channels += growth;
        }
        if block < layers.len() {
            x = transition(x, &format!("transition{block}"), channels);
        }
    }
    let head = x.norm("norm").relu().spatial_mean().coset_max().linear("linear", *classes);
    Ok(Sequential::new("densenet", head.build()?))
}

/// The channels of `x`, and behind them so many new ones.
fn dense_layer(x: Builder, name: &str, growth: usize) -> Builder {
    let new = |x: Builder| x.norm("norm").relu().conv_without_bias("conv", growth, UNPADDED);
    x.concat(name, |x| x.crop("crop", 1), new)
}

fn transition(x: Builder, name: &str, channels: usize) -> Builder {
    x.chain(name, |x| x.norm("norm").relu().conv_without_bias("conv", channels, POINT).avg_pool("pool", HALVING))
}
