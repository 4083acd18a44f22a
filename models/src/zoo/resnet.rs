//! ResNet-18 and ResNet-44 on z2, p4 and p4m, of Figure 4 and Table 2 of Edixhoven et al. 2023, after He et al. 2016.

use crate::{
    Builder, Chain, Config, Init, Network,
    checkpoint::Checkpoint,
    nn::{expect_model, setting, setting_or_default},
    zoo::Subsampling,
};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Group, Window};
use std::{fmt, path::Path, str::FromStr};

/// The architecture's name in checkpoints.
const MODEL: &str = "resnet";
/// No number of channels may exceed this, nor stages and blocks of a stage the next.
const LARGEST: usize = 1 << 16;
const MOST_BLOCKS: usize = 1 << 10;

/// A 3×3 window that keeps the extent, or halves it.
const fn three(stride: usize) -> Window {
    Window { kernel_size: 3, stride, padding: 1 }
}

/// The window of a shortcut that changes the extent or the channels.
const fn one(stride: usize) -> Window {
    Window { kernel_size: 1, stride, padding: 0 }
}

/// The layers before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7×7 convolution with stride 2 and padding 3, then 3×3 max pooling with stride 2 and padding 1, as He et al. for ImageNet.
    Large,
    /// 3×3 convolution with stride 1 and padding 1, as He et al. for CIFAR, and the paper's published code throughout.
    Small,
}

/// The order of layers in a residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// `relu(norm(conv(relu(norm(conv(x))))) + x)`: He et al. 2016a.
    Standard,
    /// `conv(relu(norm(conv(relu(norm(x)))))) + x`, and a norm and ReLU after the last stage: He et al. 2016b. A
    /// shortcut that changes the shape reads `relu(norm(x))`, and has a norm after its convolution.
    PreActivation,
    /// As [`Block::PreActivation`], but a shortcut that changes the shape reads `x`, as in the paper's published code.
    /// Parameters have the same names and shapes, but logits differ.
    RawShortcut,
}

/// The pooling between the last feature map and the linear layer. The first two make the logits invariant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Head {
    /// The mean over pixels, then the maximum over the group.
    #[default]
    MeanThenMax,
    /// The maximum over the group at each pixel, then the mean over pixels. The exact networks of the paper's Table 2
    /// have this, except for PatchCamelyon.
    MaxThenMean,
    /// The mean over pixels only; the linear layer has a weight for each element of the group. The logits are not
    /// invariant. This is the default of the paper's published code.
    Mean,
}

/// Settings of a [`ResNet`].
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// C1 for z2, C4 for p4, D4 for p4m.
    pub group: Group,
    /// The layers before the first stage.
    pub stem: Stem,
    /// The kind of blocks.
    pub block: Block,
    /// Channels of each stage. Every stage but the first starts with stride 2.
    pub widths: Vec<usize>,
    /// Blocks of each stage, of two convolutions each.
    pub blocks: Vec<usize>,
    /// Channels of the images.
    pub in_channels: usize,
    /// Number of classes.
    pub classes: usize,
    /// The pooling before the linear layer.
    pub head: Head,
    /// Whether layers of stride 2 are ordinary or adaptive.
    pub subsampling: Subsampling,
}

impl ResNetConfig {
    /// ResNet-18 as He et al. for ImageNet (1000 classes). Channels divided by √G, rounded, for about as many parameters: on p4
    /// 32, 64, 128, 256. Exact at 193, 225, 257: at 1 mod 32.
    pub fn resnet18(group: Group) -> Self {
        let widths = match group {
            Group::C1 => vec![64, 128, 256, 512],
            Group::C4 => vec![32, 64, 128, 256],
            Group::D4 => vec![23, 45, 91, 181],
        };
        ResNetConfig {
            group,
            stem: Stem::Large,
            block: Block::Standard,
            widths,
            blocks: vec![2; 4],
            in_channels: 3,
            classes: 1000,
            head: Head::MeanThenMax,
            subsampling: Subsampling::Plain,
        }
    }

    /// ResNet-18 with a 3×3 stem and pre-activation, as the paper's published code has it but for the shortcuts
    /// ([`Block::RawShortcut`]). Exact at 217, 225, 233: at 1 mod 8.
    pub fn resnet18_small_stem(group: Group) -> Self {
        ResNetConfig { stem: Stem::Small, block: Block::PreActivation, ..Self::resnet18(group) }
    }

    /// ResNet-44 for CIFAR-10: 2.64, 2.63 and 2.96 million parameters on z2, p4 and p4m. Exact at 29, 33, 37: at 1 mod 4.
    pub fn resnet44(group: Group) -> Self {
        let width = match group {
            Group::C1 => 32,
            Group::C4 => 16,
            Group::D4 => 12,
        };
        ResNetConfig {
            group,
            stem: Stem::Small,
            block: Block::PreActivation,
            widths: vec![width, 2 * width, 4 * width],
            blocks: vec![7; 3],
            in_channels: 3,
            classes: 10,
            head: Head::MeanThenMax,
            subsampling: Subsampling::Plain,
        }
    }

    /// ResNet-44 for PatchCamelyon, two classes: 129,538 parameters on z2, 128,652 on p4. The paper has none on p4m; its widths
    /// here are those of p4 divided by √2, rounded: 131,915 parameters.
    pub fn resnet44_pcam(group: Group) -> Self {
        let widths = match group {
            Group::C1 => vec![8, 14, 28],
            Group::C4 => vec![4, 7, 14],
            Group::D4 => vec![3, 5, 10],
        };
        ResNetConfig { widths, classes: 2, ..Self::resnet44(group) }
    }

    fn check(&self) -> Result<()> {
        let invalid = |message| Err(Error::Invalid(format!("{MODEL}: {message}")));
        let (widths, blocks) = (&self.widths, &self.blocks);
        if widths.is_empty() || widths.len() != blocks.len() || widths.len() > MOST_BLOCKS {
            return invalid(format!(
                "expected a width and a number of blocks for each stage, got {widths:?} and {blocks:?}"
            ));
        }
        let channels = widths.iter().chain([&self.in_channels, &self.classes]);
        if let Some(unfit) = channels.copied().find(|channels| !(1..=LARGEST).contains(channels)) {
            return invalid(format!("widths, in_channels and classes must be 1 to {LARGEST}, not {unfit}"));
        }
        if let Some(unfit) = blocks.iter().find(|blocks| !(1..=MOST_BLOCKS).contains(blocks)) {
            return invalid(format!("a stage must have 1 to {MOST_BLOCKS} blocks, not {unfit}"));
        }
        Ok(())
    }

    fn from_config(config: &Config) -> Result<Self> {
        expect_model(config, MODEL)?;
        let list = |name| setting::<List>(config, name, "whole numbers with commas").map(|List(list)| list);
        Ok(ResNetConfig {
            group: setting(config, "group", "z2, p4 or p4m")?,
            stem: setting(config, "stem", "large or small")?,
            block: setting(config, "block", "standard, pre_activation or raw_shortcut")?,
            widths: list("widths")?,
            blocks: list("blocks")?,
            in_channels: setting(config, "in_channels", "a whole number")?,
            classes: setting(config, "classes", "a whole number")?,
            head: setting(config, "coset_max", "true, false or first")?,
            subsampling: setting_or_default(config, "subsampling", "plain or adaptive")?,
        })
    }
}

/// A residual network: stem → stages of residual blocks → mean over pixels and maximum over the group (see [`Head`]) →
/// linear.
///
/// Layers are called `stem.conv`, `stage2.block1.conv1`, `stage2.block1.shortcut.conv`, …, `linear`. The norm after a
/// convolution has its name, with `norm` for `conv`. No convolution has a bias.
#[derive(Debug)]
pub struct ResNet {
    config: ResNetConfig,
    layers: Chain,
}

impl ResNet {
    /// A network with weights initialised by `init`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings out of range; or when the GPU has no room.
    pub fn new(config: ResNetConfig, init: Init, device: &Device) -> Result<Self> {
        config.check()?;
        let pre = config.block != Block::Standard;
        let mut builder = Builder::new(config.group, config.in_channels, init, device);
        let mut channels = config.widths[0];
        builder = builder.chain("stem", |x| {
            let window = match config.stem {
                Stem::Large => Window { kernel_size: 7, stride: 2, padding: 3 },
                Stem::Small => three(1),
            };
            let x = conv(x, config.subsampling, "conv", channels, window, None);
            // With pre-activation, the first block's norm follows.
            let x = if pre { x } else { x.norm("norm").relu() };
            match config.stem {
                Stem::Large => match config.subsampling {
                    Subsampling::Plain => x.max_pool("pool", three(2)),
                    Subsampling::Adaptive => x.adaptive_max_pool("pool", three(2), None),
                },
                Stem::Small => x,
            }
        });
        for (stage, (&width, &blocks)) in (1..).zip(config.widths.iter().zip(&config.blocks)) {
            builder = builder.chain(&format!("stage{stage}"), |mut x| {
                for number in 1..=blocks {
                    let stride = if stage > 1 && number == 1 { 2 } else { 1 };
                    let (name, reshaping) = (format!("block{number}"), stride > 1 || width != channels);
                    let grid = format!("stage{stage}");
                    let shape = BlockShape { subsampling: config.subsampling, grid: &grid, width, stride, reshaping };
                    x = match config.block {
                        Block::Standard => standard_block(x, &name, shape),
                        Block::PreActivation => pre_activation_block(x, &name, shape),
                        Block::RawShortcut => raw_shortcut_block(x, &name, shape),
                    };
                    channels = width;
                }
                x
            });
        }
        if pre {
            builder = builder.norm("norm").relu();
        }
        builder = match config.head {
            Head::MeanThenMax => builder.spatial_mean().coset_max(),
            Head::MaxThenMean => builder.coset_max().spatial_mean(),
            Head::Mean => builder.spatial_mean(),
        };
        let layers = builder.linear("linear", config.classes).build()?;
        Ok(ResNet { config, layers })
    }

    /// Loads the network from a checkpoint file, with its settings.
    ///
    /// # Errors
    /// See [`Checkpoint`].
    pub fn from_checkpoint(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::restored(&Checkpoint::read(path)?, device)
    }

    /// As [`ResNet::from_checkpoint`], of a file that has been read.
    ///
    /// # Errors
    /// See [`Checkpoint`].
    pub fn restored(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let config = ResNetConfig::from_config(checkpoint.config())?;
        checkpoint.fill(|init| Self::new(config, init, device))
    }

    /// Its settings.
    pub fn settings(&self) -> &ResNetConfig {
        &self.config
    }
}

/// What a block makes of its input, and how.
#[derive(Clone, Copy)]
struct BlockShape<'a> {
    subsampling: Subsampling,
    /// The choice of a grid that branch and shortcut share: a stage subsamples once.
    grid: &'a str,
    width: usize,
    stride: usize,
    /// Whether the shortcut changes the shape.
    reshaping: bool,
}

impl BlockShape<'_> {
    /// The first convolution of the branch, or the shortcut's.
    fn first_conv(self, x: Builder, name: &str, window: Window) -> Builder {
        conv(x, self.subsampling, name, self.width, window, Some(self.grid))
    }

    /// A shortcut that changes the shape.
    fn projection(self, x: Builder) -> Builder {
        self.first_conv(x, "conv", one(self.stride)).norm("norm")
    }
}

/// A convolution without a bias; where it subsamples, in the network's way.
fn conv(
    x: Builder,
    subsampling: Subsampling,
    name: &str,
    channels: usize,
    window: Window,
    grid: Option<&str>,
) -> Builder {
    match subsampling {
        Subsampling::Adaptive if window.stride == 2 => x.adaptive_conv_without_bias(name, channels, window, grid),
        _ => x.conv_without_bias(name, channels, window),
    }
}

fn standard_block(x: Builder, name: &str, shape: BlockShape<'_>) -> Builder {
    let branch = |x: Builder| {
        let x = shape.first_conv(x, "conv1", three(shape.stride)).norm("norm1").relu();
        x.conv_without_bias("conv2", shape.width, three(1)).norm("norm2")
    };
    x.residual(name, branch, |x| if shape.reshaping { shape.projection(x) } else { x }).relu()
}

fn pre_activation_block(x: Builder, name: &str, shape: BlockShape<'_>) -> Builder {
    if shape.reshaping {
        let (branch, shortcut) = (|x| pre_activation_convs(x, shape), |x| shape.projection(x));
        x.chain(name, |x| x.norm("norm1").relu().residual("", branch, shortcut))
    } else {
        raw_shortcut_block(x, name, shape)
    }
}

/// Where the shortcut leaves its shape alone, this is [`pre_activation_block`].
fn raw_shortcut_block(x: Builder, name: &str, shape: BlockShape<'_>) -> Builder {
    let branch = |x: Builder| pre_activation_convs(x.norm("norm1").relu(), shape);
    x.residual(name, branch, |x| if shape.reshaping { shape.projection(x) } else { x })
}

/// The convolutions of a block, and what is between them.
fn pre_activation_convs(x: Builder, shape: BlockShape<'_>) -> Builder {
    let x = shape.first_conv(x, "conv1", three(shape.stride)).norm("norm2").relu();
    x.conv_without_bias("conv2", shape.width, three(1))
}

impl Network for ResNet {
    fn config(&self) -> Config {
        let ResNetConfig { group, stem, block, widths, blocks, in_channels, classes, head, subsampling } = &self.config;
        let mut config = Config::from([
            ("model".into(), MODEL.into()),
            ("group".into(), group.to_string()),
            ("stem".into(), stem.to_string()),
            ("block".into(), block.to_string()),
            ("widths".into(), List(widths.clone()).to_string()),
            ("blocks".into(), List(blocks.clone()).to_string()),
            ("in_channels".into(), in_channels.to_string()),
            ("classes".into(), classes.to_string()),
            ("coset_max".into(), head.to_string()),
        ]);
        if *subsampling != Subsampling::default() {
            config.insert("subsampling".into(), subsampling.to_string());
        }
        config
    }

    fn layers(&self) -> &Chain {
        &self.layers
    }

    fn layers_mut(&mut self) -> &mut Chain {
        &mut self.layers
    }
}

impl fmt::Display for Stem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stem::Large => "large",
            Stem::Small => "small",
        })
    }
}

impl FromStr for Stem {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = [Stem::Large, Stem::Small].into_iter().find(|stem| stem.to_string() == name);
        known.ok_or(format!("no stem '{name}': large or small"))
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Block::Standard => "standard",
            Block::PreActivation => "pre_activation",
            Block::RawShortcut => "raw_shortcut",
        })
    }
}

impl FromStr for Block {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = [Block::Standard, Block::PreActivation, Block::RawShortcut];
        let known = known.into_iter().find(|block| block.to_string() == name);
        known.ok_or(format!("no block '{name}': standard, pre_activation or raw_shortcut"))
    }
}

/// As the setting `coset_max` of checkpoints says it, which knew two values once.
impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Head::MeanThenMax => "true",
            Head::MaxThenMean => "first",
            Head::Mean => "false",
        })
    }
}

impl FromStr for Head {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = [Head::MeanThenMax, Head::MaxThenMean, Head::Mean];
        let known = known.into_iter().find(|head| head.to_string() == name);
        known.ok_or(format!("no coset_max '{name}': true, false or first"))
    }
}

/// Numbers as a setting keeps them: `16,32,64`.
struct List(Vec<usize>);

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

impl FromStr for List {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        text.split(',').map(str::parse).collect::<std::result::Result<_, _>>().map(List)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Module;
    use Group::{C1, C4, D4};
    use quarterturn_core::Tensor;

    #[test]
    fn the_papers_widths_make_the_papers_parameter_counts() {
        for (config, count) in [
            (ResNetConfig::resnet44(C1), 2_636_458),
            (ResNetConfig::resnet44(C4), 2_632_026),
            (ResNetConfig::resnet44(D4), 2_959_366),
            (ResNetConfig::resnet44_pcam(C1), 129_538),
            (ResNetConfig::resnet44_pcam(C4), 128_652),
            (ResNetConfig::resnet44_pcam(D4), 131_915),
            // Where the norms stand makes no difference.
            (ResNetConfig { block: Block::Standard, ..ResNetConfig::resnet44_pcam(C1) }, 129_538),
            (ResNetConfig { block: Block::Standard, ..ResNetConfig::resnet44_pcam(C4) }, 128_652),
            // PyTorch's ResNet-18.
            (ResNetConfig::resnet18(C1), 11_689_512),
        ] {
            let network = ResNet::new(config.clone(), Init::new(1), &Device::Cpu).unwrap();
            assert_eq!(network.parameters(), count, "{config:?}");
        }
    }

    /// With the first norm of a reshaping block silenced, its branch yields nothing that depends on the image: what then comes out
    /// of the block is what its shortcut reads.
    #[test]
    fn a_raw_shortcut_reads_what_the_block_gets() {
        let image = |stream| {
            let stream = quarterturn_core::Stream::new(1, stream, 0);
            let values = (0..2 * 9 * 9).map(|i| stream.normal(i));
            Tensor::from_f64([1, 2, 1, 9, 9], values.collect(), &Device::Reference).unwrap()
        };
        let tells_images_apart = |block| {
            let config = ResNetConfig {
                block,
                widths: vec![2, 3],
                blocks: vec![1; 2],
                in_channels: 2,
                ..ResNetConfig::resnet44(C4)
            };
            let mut network = ResNet::new(config, Init::new(1), &Device::Reference).unwrap();
            network.visit(&mut |name, param| {
                if name == "stage2.block1.norm1.weight" {
                    param.set(Tensor::full(param.value().shape(), 0.0, &Device::Reference).unwrap());
                }
            });
            let [a, b] = [1, 2].map(|stream| network.predict(&image(stream)).unwrap().to_f64().unwrap());
            a != b
        };
        assert!(tells_images_apart(Block::RawShortcut));
        assert!(!tells_images_apart(Block::PreActivation));
    }

    #[test]
    fn heads_and_blocks_are_named() {
        for head in [Head::MeanThenMax, Head::MaxThenMean, Head::Mean] {
            assert_eq!(head.to_string().parse::<Head>().unwrap(), head);
        }
        for block in [Block::Standard, Block::PreActivation, Block::RawShortcut] {
            assert_eq!(block.to_string().parse::<Block>().unwrap(), block);
        }
    }
}
