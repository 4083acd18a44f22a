//! A U-Net for segmentation on z2, p4 and p4m, after Ronneberger et al. 2015: its mask turns with the image.

use crate::{Builder, Init, Sequential};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Group, Window};

/// Settings of [`unet`].
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// C1 for z2, C4 for p4, D4 for p4m.
    pub group: Group,
    /// Channels of the images.
    pub in_channels: usize,
    /// Number of classes.
    pub classes: usize,
    /// Channels of each level, from the finest to the coarsest. Each further level has half the height and width.
    pub widths: Vec<usize>,
}

const KEEPING: Window = Window { kernel_size: 3, stride: 1, padding: 1 };
const POINT: Window = Window { kernel_size: 1, stride: 1, padding: 0 };
/// With stride 1 it would keep the extent, so that the way back leads to just that extent.
const HALVING: Window = Window { kernel_size: 3, stride: 2, padding: 1 };

/// Makes a U-Net: images `[N, in_channels, 1, H, W]` → logits for each pixel `[N, classes, H, W]`, at every size from a
/// few pixels on.
///
/// ```
/// use quarterturn_core::{Device, Tensor};
/// use quarterturn_kernels::Group;
/// use quarterturn_models::{Init, Network, UNetConfig, unet};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![4, 8] };
/// let network = unet(&config, Init::kaiming(0), &Device::Cpu)?;
/// let logits = network.predict(&Tensor::full([1, 1, 1, 16, 16], 0.5, &Device::Cpu)?)?;
/// assert_eq!(logits.dims(), [1, 2, 16, 16]);
/// # Ok(())
/// # }
/// ```
///
/// Each level has two 3×3 convolutions with norm and ReLU. Adaptive max pooling leads to the next level. On the way
/// back, the samples are put onto the grid that the pooling has chosen, and a convolution fills the gaps. The result is
/// concatenated with the skip connection, and two more convolutions follow. At the end come a 1×1 convolution and, at
/// each pixel, the maximum over the group.
///
/// Because of the adaptive pooling, the segmentation of a turned image is the turned segmentation, to the last bit, at
/// every size.
///
/// # Errors
/// [`Error::Invalid`] without a level, or with settings out of range; or when the GPU has no room.
pub fn unet(config: &UNetConfig, init: Init, device: &Device) -> Result<Sequential> {
    let UNetConfig { group, in_channels, classes, widths } = config;
    if widths.is_empty() {
        return Err(Error::Invalid("unet: expected the width of at least one level".into()));
    }
    let builder = level(Builder::new(*group, *in_channels, init, device), widths, 1);
    let layers = builder.conv("head", *classes, POINT).coset_max().build()?;
    Ok(Sequential::new("unet", layers))
}

/// A level and those below it.
fn level(x: Builder, widths: &[usize], number: usize) -> Builder {
    let width = widths[0];
    let x = two_convs(x, &format!("down{number}"), width);
    if widths.len() == 1 {
        return x;
    }
    let (grid, pool, fill) = (number.to_string(), format!("pool{number}"), format!("fill{number}"));
    let below = |x: Builder| {
        let x = level(x.adaptive_max_pool(&pool, HALVING, Some(&grid)), &widths[1..], number + 1);
        x.grid_upsample(&format!("up{number}"), &grid).conv_without_bias(&fill, width, KEEPING)
    };
    two_convs(x.concat("", |x| x, below), &format!("join{number}"), width)
}

fn two_convs(x: Builder, name: &str, width: usize) -> Builder {
    x.chain(name, |x| {
        let x = x.conv_without_bias("conv1", width, KEEPING).norm("norm1").relu();
        x.conv_without_bias("conv2", width, KEEPING).norm("norm2").relu()
    })
}
