//! P4CNN with separable convolutions, after Lengyel & van Gemert 2021, "Exploiting learned symmetries in group equivariant
//! convolutions".

use crate::{Builder, Init, MnistCnnConfig, Sequential, zoo::mnist_cnn::layers};
use quarterturn_core::{Device, Result};

/// [`crate::MnistCnn`] with a [`crate::SeparableConv`] in place of each convolution: images `[N, in_channels, 1, H, W]`
/// → logits `[N, classes]`. Where P4CNN has a filter of `C·G` planes for each output channel, this network has one
/// plane for each input channel and 1×1 weights over channels and group. So it has 3,379 parameters with
/// [`MnistCnnConfig::p4cnn`], where P4CNN has 24,810. It is exact at the same sizes as P4CNN.
///
/// The paper's gc-convolution first mixes channels and group, and then filters each output channel. Here each input
/// channel is filtered first, and then channels and group are mixed, as in depthwise separable convolutions (Howard et
/// al. 2017).
///
/// # Errors
/// [`quarterturn_core::Error::Invalid`] for settings out of range; or when the GPU has no room.
pub fn gc_p4cnn(config: &MnistCnnConfig, init: Init, device: &Device) -> Result<Sequential> {
    config.check()?;
    let builder = Builder::new(config.group, config.in_channels, init, device);
    Ok(Sequential::new("gc_p4cnn", layers(builder, config, Builder::separable_conv).build()?))
}
