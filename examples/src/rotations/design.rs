//! The networks of the experiments: the paper's, and those that differ from it in one thing.

use quarterturn::{
    autograd::{Param, Var},
    core::{Device, Result, Shape},
    kernels::{Cosets, Group, Padding, Window},
    models::{
        Builder, Init, MnistCnn, MnistCnnConfig, Module, Network, Pass, Sequential, Subsampling, Symmetry, Trace,
    },
};
use std::{fmt, str::FromStr};

/// How a network is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Design {
    /// The paper's.
    Plain,
    /// The paper's, whose pooling samples the grid that the map chooses: exact at every size.
    Adaptive,
    /// The paper's, but that of its six 3×3 convolutions the first `layers` have a padding of 1 with `padding`, and the
    /// others none.
    Padded { padding: Padding, layers: usize },
    /// Three poolings in place of one, each between two convolutions; those that `plain` tells sample as everybody does, the
    /// others the grid that the map chooses. At 31 each plain one leaves a row and a column over: 31 → 15 → 7 → 3.
    ThreePools { plain: [bool; POOLS] },
}

/// Poolings of [`Design::ThreePools`].
pub const POOLS: usize = 3;
/// 3×3 convolutions of the paper's network, and those that dropout follows, counted from 1.
pub const CONVS: usize = 6;
const DROPPED: [usize; 4] = [1, 3, 4, 5];
const DROPOUT: f32 = 0.3;
const POOL: Window = Window { kernel_size: 2, stride: 2, padding: 0 };
const CLASSES: usize = 10;

impl Design {
    /// A network on `group` for images of so many channels.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn network(self, group: Group, in_channels: usize, init: Init, device: &Device) -> Result<Box<dyn Network>> {
        let config = match group {
            Group::C1 => MnistCnnConfig::z2cnn(),
            Group::C4 => MnistCnnConfig::p4cnn(),
            Group::D4 => MnistCnnConfig::p4mcnn(),
        };
        let own = |init, name: &str, layers: &dyn Fn(Builder, usize) -> Builder| -> Result<Box<dyn Network>> {
            let builder = layers(Builder::new(group, in_channels, init, device), config.width);
            let layers = builder.spatial_mean().coset_max().linear("linear", CLASSES).build()?;
            Ok(Box::new(Sequential::new(name, layers)))
        };
        match self {
            Design::Plain | Design::Adaptive => {
                let subsampling = if self == Design::Plain { Subsampling::Plain } else { Subsampling::Adaptive };
                let config = MnistCnnConfig { in_channels, subsampling, ..config };
                Ok(Box::new(MnistCnn::with_init(config, init, device)?))
            }
            Design::Padded { padding, layers } => own(init, "padded_mnist_cnn", &|mut x, width| {
                for layer in 1..=CONVS {
                    let pads = layer <= layers;
                    if pads && padding != Padding::Zeros {
                        x = x.layer(&format!("pad{layer}"), Pad(padding));
                    }
                    let zeros = usize::from(pads && padding == Padding::Zeros);
                    x = block(x, layer, width, 3, zeros);
                    if layer == 2 {
                        x = x.max_pool("pool2", POOL);
                    }
                }
                block(x, CONVS + 1, width, 4, 0)
            }),
            Design::ThreePools { plain } => own(init, "three_pools_mnist_cnn", &|mut x, width| {
                for layer in 1..=CONVS {
                    x = block(x, layer, width, 3, 1);
                    if layer % 2 == 0 {
                        let name = format!("pool{layer}");
                        x = match plain[layer / 2 - 1] {
                            true => x.max_pool(&name, POOL),
                            false => x.adaptive_max_pool(&name, POOL, None),
                        };
                    }
                }
                block(x, CONVS + 1, width, 3, 1)
            }),
        }
    }

    /// In figures and tables.
    pub fn title(self) -> String {
        match self {
            Design::Plain => "plain".into(),
            Design::Adaptive => "adaptive".into(),
            Design::Padded { layers: 0, .. } => "no padding".into(),
            Design::Padded { padding, layers: CONVS } => format!("{} padding", padding_name(padding)),
            Design::Padded { padding, layers } => {
                format!("{} padding in {layers} of {CONVS} layers", padding_name(padding))
            }
            Design::ThreePools { plain } => match plain.iter().filter(|&&plain| plain).count() {
                0 => "no pooling broken".into(),
                POOLS => "all poolings broken".into(),
                _ => {
                    let which = (1..=POOLS).filter(|&pool| plain[pool - 1]).map(|pool| pool.to_string());
                    format!("pooling {} broken", which.collect::<Vec<_>>().join(" and "))
                }
            },
        }
    }
}

/// Convolution, norm, ReLU, and dropout where the paper has it.
fn block(x: Builder, layer: usize, width: usize, kernel_size: usize, padding: usize) -> Builder {
    let window = Window { kernel_size, stride: 1, padding };
    let x = x.conv(&format!("conv{layer}"), width, window).norm(&format!("norm{layer}")).relu();
    if DROPPED.contains(&layer) { x.dropout(DROPOUT) } else { x }
}

/// One more pixel on each side, which is not zero.
struct Pad(Padding);

impl Module for Pad {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.pad_plane(1, self.0)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        match *x.dims() {
            [n, c, g, height, width] if height > 1 && width > 1 => Ok(Shape::new(&[n, c, g, height + 2, width + 2])),
            _ => Err(trace.unfit(format!("expected maps [N, C, G, H, W] of 2×2 or more, got {x:?}"))),
        }
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        // All four sides are treated alike.
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

fn padding_name(padding: Padding) -> &'static str {
    match padding {
        Padding::Zeros => "zero",
        Padding::Circular => "circular",
        Padding::Reflection => "reflection",
    }
}

/// As on a command line and in files: `adaptive`, `circular-6`, `break-13`.
impl fmt::Display for Design {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Design::Plain => f.write_str("plain"),
            Design::Adaptive => f.write_str("adaptive"),
            Design::Padded { padding, layers } => write!(f, "{}-{layers}", padding_name(*padding)),
            Design::ThreePools { plain } => {
                f.write_str("break-")?;
                match (1..=POOLS).any(|pool| plain[pool - 1]) {
                    true => (1..=POOLS).filter(|&pool| plain[pool - 1]).try_for_each(|pool| write!(f, "{pool}")),
                    false => f.write_str("0"),
                }
            }
        }
    }
}

impl FromStr for Design {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let pads = |padding, layers: &str| {
            let layers = layers.parse().ok().filter(|layers| *layers <= CONVS);
            layers.map(|layers| Design::Padded { padding, layers })
        };
        let found = match text.split_once('-') {
            None if text == "plain" => Some(Design::Plain),
            None if text == "adaptive" => Some(Design::Adaptive),
            Some(("zero", layers)) => pads(Padding::Zeros, layers),
            Some(("circular", layers)) => pads(Padding::Circular, layers),
            Some(("reflection", layers)) => pads(Padding::Reflection, layers),
            Some(("break", pools)) if pools.chars().all(|pool| ('0'..='3').contains(&pool)) => {
                let plain = std::array::from_fn(|i| pools.contains(char::from(b'1' + i as u8)));
                Some(Design::ThreePools { plain })
            }
            _ => None,
        };
        found.ok_or(format!(
            "no design '{text}': plain, adaptive, zero-N, circular-N or reflection-N with 0 to {CONVS} padded layers, or \
             break-N with the poolings of three that are not adaptive (break-0, break-13)"
        ))
    }
}
