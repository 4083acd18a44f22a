//! Z2CNN and P4CNN of Section 5.1 of Edixhoven et al. 2023, after Cohen & Welling 2016.

use crate::{
    Builder, Chain, Config, Init, Network,
    checkpoint::Checkpoint,
    nn::{expect_model, setting, setting_or_default},
    zoo::Subsampling,
};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Group, Window};
use std::path::Path;

/// The architecture's name in checkpoints.
const MODEL: &str = "mnist_cnn";
/// Kernel size and padding of each convolution.
const CONVS: [(usize, usize); 7] = [(3, 1), (3, 1), (3, 1), (3, 1), (3, 1), (3, 1), (4, 0)];
/// The layer that the 2×2 pooling follows, and those that dropout follows, counted from 1.
const POOLED: usize = 2;
const DROPPED: [usize; 4] = [1, 3, 4, 5];
const POOL: Window = Window { kernel_size: 2, stride: 2, padding: 0 };
/// No setting of the builder may exceed this.
const LARGEST: usize = 1 << 16;

/// Settings of an [`MnistCnn`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MnistCnnConfig {
    /// C1 for Z2CNN, C4 for P4CNN, D4 for the same network on p4m.
    pub group: Group,
    /// Channels of each layer.
    pub width: usize,
    /// Channels of the images.
    pub in_channels: usize,
    /// Number of classes.
    pub classes: usize,
    /// Dropout probability.
    pub dropout: f32,
    /// Whether the pooling is ordinary or adaptive.
    pub subsampling: Subsampling,
}

impl MnistCnnConfig {
    /// Z2CNN: 20 channels, 25,210 parameters.
    pub fn z2cnn() -> Self {
        MnistCnnConfig { group: Group::C1, width: 20, ..Self::p4cnn() }
    }

    /// P4CNN: 10 channels, 24,810 parameters.
    pub fn p4cnn() -> Self {
        MnistCnnConfig {
            group: Group::C4,
            width: 10,
            in_channels: 1,
            classes: 10,
            dropout: 0.3,
            subsampling: Subsampling::Plain,
        }
    }

    /// The same network on p4m: 7 channels, 24,202 parameters.
    pub fn p4mcnn() -> Self {
        MnistCnnConfig { group: Group::D4, width: 7, ..Self::p4cnn() }
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        let MnistCnnConfig { group, width, in_channels, classes, .. } = *self;
        let [width, in_channels, classes] = [width, in_channels, classes].map(|v| v as u64);
        let convs = CONVS.iter().enumerate().map(|(i, &(k, _))| {
            let inputs = if i == 0 { in_channels } else { width * group.order() as u64 };
            width * inputs * (k * k) as u64 + width
        });
        convs.sum::<u64>() + CONVS.len() as u64 * 2 * width + classes * width + classes
    }

    pub(super) fn check(&self) -> Result<()> {
        for (name, value) in [("width", self.width), ("in_channels", self.in_channels), ("classes", self.classes)] {
            if !(1..=LARGEST).contains(&value) {
                return Err(Error::Invalid(format!("{MODEL}: {name} must be 1 to {LARGEST}, not {value}")));
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::Invalid(format!(
                "{MODEL}: dropout must be at least 0 and below 1, not {}",
                self.dropout
            )));
        }
        Ok(())
    }

    fn from_config(config: &Config) -> Result<Self> {
        expect_model(config, MODEL)?;
        Ok(MnistCnnConfig {
            group: setting(config, "group", "z2, p4 or p4m")?,
            width: setting(config, "width", "a whole number")?,
            in_channels: setting(config, "in_channels", "a whole number")?,
            classes: setting(config, "classes", "a whole number")?,
            dropout: setting(config, "dropout", "a number")?,
            subsampling: setting_or_default(config, "subsampling", "plain or adaptive")?,
        })
    }
}

/// The layers of a network with these settings, whose convolutions are what `conv` makes of a name, channels and a window.
pub(super) fn layers(
    mut builder: Builder,
    config: &MnistCnnConfig,
    conv: impl Fn(Builder, &str, usize, Window) -> Builder,
) -> Builder {
    for (layer, (kernel_size, padding)) in (1..).zip(CONVS) {
        let window = Window { kernel_size, stride: 1, padding };
        builder = conv(builder, &format!("conv{layer}"), config.width, window).norm(&format!("norm{layer}")).relu();
        if DROPPED.contains(&layer) {
            builder = builder.dropout(config.dropout);
        }
        if layer == POOLED {
            let name = format!("pool{layer}");
            builder = match config.subsampling {
                Subsampling::Plain => builder.max_pool(&name, POOL),
                Subsampling::Adaptive => builder.adaptive_max_pool(&name, POOL, None),
            };
        }
    }
    builder.spatial_mean().coset_max().linear("linear", config.classes)
}

/// Six 3×3 convolutions and a 4×4 one, each followed by batch norm and ReLU; 2×2 max pooling after the second; then
/// the mean over space, the maximum over the group, and a linear layer.
///
/// It is exact for even image sizes (28): there a turned image has the same logits, to the last bit. At odd sizes (27,
/// 29) the pooling skips a row and a column, and the network is only approximately invariant, unless the
/// [`Subsampling`] is adaptive. Images must be at least 8×8.
#[derive(Debug)]
pub struct MnistCnn {
    config: MnistCnnConfig,
    layers: Chain,
}

impl MnistCnn {
    /// A network with random weights that are a function of `seed`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for settings out of range; or when the GPU has no room.
    pub fn new(config: MnistCnnConfig, seed: u64, device: &Device) -> Result<Self> {
        Self::with_init(config, Init::new(seed), device)
    }

    /// A network with weights initialised by `init`.
    ///
    /// # Errors
    /// As [`MnistCnn::new`].
    pub fn with_init(config: MnistCnnConfig, init: Init, device: &Device) -> Result<Self> {
        config.check()?;
        let builder = Builder::new(config.group, config.in_channels, init, device);
        Ok(MnistCnn { config, layers: layers(builder, &config, Builder::conv).build()? })
    }

    /// Loads the network from a checkpoint file, with its settings.
    ///
    /// # Errors
    /// See [`Checkpoint`].
    pub fn from_checkpoint(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::restored(&Checkpoint::read(path)?, device)
    }

    /// Loads the network from a checkpoint that has been read.
    ///
    /// # Errors
    /// See [`Checkpoint`].
    pub fn restored(checkpoint: &Checkpoint, device: &Device) -> Result<Self> {
        let config = MnistCnnConfig::from_config(checkpoint.config())?;
        checkpoint.fill(|init| Self::with_init(config, init, device))
    }

    /// Its settings.
    pub fn settings(&self) -> MnistCnnConfig {
        self.config
    }
}

impl Network for MnistCnn {
    fn config(&self) -> Config {
        let MnistCnnConfig { group, width, in_channels, classes, dropout, subsampling } = self.config;
        let mut config = Config::from([
            ("model".into(), MODEL.into()),
            ("group".into(), group.to_string()),
            ("width".into(), width.to_string()),
            ("in_channels".into(), in_channels.to_string()),
            ("classes".into(), classes.to_string()),
            ("dropout".into(), dropout.to_string()),
        ]);
        if subsampling != Subsampling::default() {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Mode, Module};
    use quarterturn_core::Tensor;

    #[test]
    fn the_papers_widths_make_the_papers_parameter_counts() {
        for (config, count) in [
            (MnistCnnConfig::p4cnn(), 24_810),
            (MnistCnnConfig::z2cnn(), 25_210),
            (MnistCnnConfig { in_channels: 3, ..MnistCnnConfig::p4cnn() }, 24_990),
            (MnistCnnConfig { in_channels: 3, ..MnistCnnConfig::z2cnn() }, 25_570),
            (MnistCnnConfig::p4mcnn(), 24_202),
        ] {
            let network = MnistCnn::new(config, 1, &Device::Cpu).unwrap();
            assert_eq!((network.parameters(), config.parameters()), (count, count as u64), "{config:?}");
        }
    }

    #[test]
    fn names_are_stable() {
        let mut names = Vec::new();
        MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &Device::Cpu)
            .unwrap()
            .visit(&mut |name, _| names.push(name.to_string()));
        assert_eq!(names.len(), 7 * 6 + 2);
        assert_eq!(
            names[..6],
            ["conv1.weight", "conv1.bias", "norm1.weight", "norm1.bias", "norm1.running_mean", "norm1.running_var"]
        );
        assert_eq!(names[40..], ["norm7.running_mean", "norm7.running_var", "linear.weight", "linear.bias"]);
    }

    #[test]
    fn sizes_of_the_paper_and_rectangles_have_logits() {
        let network = MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() }, 1, &Device::Cpu).unwrap();
        for (height, width) in [(27, 27), (28, 28), (29, 29), (8, 8), (10, 13)] {
            let logits = network.predict(&Tensor::full([3, 1, 1, height, width], 0.5, &Device::Cpu).unwrap()).unwrap();
            assert_eq!(logits.dims(), [3, 10]);
            assert!(logits.f32s().iter().all(|v| v.is_finite()));
        }
    }

    #[test]
    fn unfit_images_and_settings_are_errors_that_name_the_place() {
        let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &Device::Cpu).unwrap();
        for (shape, expected) in [
            (vec![1, 1, 1, 7, 28], "conv7: a 4×4 filter does not fit"),
            (vec![1, 1, 1, 1, 1], "pool2"),
            (vec![1, 3, 1, 28, 28], "conv1: expected 1 channels"),
            (vec![1, 1, 28, 28], "conv1: expected an input [N, C, G, H, W] (images with G = 1), got [1, 1, 28, 28]"),
        ] {
            let images = Tensor::full(&shape[..], 0.0, &Device::Cpu).unwrap();
            let Err(Error::Invalid(message)) = network.predict(&images) else { panic!("{shape:?} is accepted") };
            assert!(message.contains(expected), "{message}");
        }
        let elsewhere = Tensor::full([1, 1, 1, 28, 28], 0.0, &Device::Reference).unwrap();
        assert!(matches!(network.predict(&elsewhere), Err(Error::Invalid(_))));
        for config in [
            MnistCnnConfig { width: 0, ..MnistCnnConfig::p4cnn() },
            MnistCnnConfig { classes: usize::MAX, ..MnistCnnConfig::p4cnn() },
            MnistCnnConfig { dropout: f32::NAN, ..MnistCnnConfig::p4cnn() },
            MnistCnnConfig { dropout: 1.0, ..MnistCnnConfig::p4cnn() },
        ] {
            assert!(matches!(MnistCnn::new(config, 1, &Device::Cpu), Err(Error::Invalid(_))), "{config:?}");
        }
    }

    #[test]
    fn a_network_moved_to_another_device_gives_the_same_logits() {
        let mut network =
            MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() }, 1, &Device::Cpu).unwrap();
        let x = Tensor::full([1, 1, 1, 10, 10], 0.7, &Device::Cpu).unwrap();
        let here = network.predict(&x).unwrap().to_f64().unwrap();
        network.to_device(&Device::Reference).unwrap();
        let there = network.predict(&x.to_device(&Device::Reference).unwrap()).unwrap();
        assert!(here.iter().zip(there.f64s()).all(|(a, b)| (a - b).abs() < 1e-5), "{here:?} {:?}", there.f64s());
    }

    /// Without gradients, convolution and norm are one operation; with them, two.
    #[test]
    fn both_ways_of_evaluation_agree() {
        let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &Device::Cpu).unwrap();
        let x =
            Tensor::from_vec([2, 1, 1, 12, 12], (0..288).map(|i| (i as f32).sin()).collect(), &Device::Cpu).unwrap();
        let fused = network.predict(&x).unwrap();
        let tape = quarterturn_autograd::Tape::new();
        let recorded = network.forward(tape.constant(x), Mode::Eval);
        let pairs = fused.f32s().iter().zip(recorded.value().f32s());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", pairs.collect::<Vec<_>>());
    }

    #[test]
    fn dropout_differs_between_layers_and_steps() {
        let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &Device::Cpu).unwrap();
        let x = Tensor::full([2, 1, 1, 10, 10], 1.0, &Device::Cpu).unwrap();
        let logits = |step| {
            let tape = quarterturn_autograd::Tape::evaluation();
            network.forward(tape.constant(x.clone()), Mode::Train { seed: 1, step }).value().f32s().to_vec()
        };
        assert_eq!(logits(0), logits(0));
        assert_ne!(logits(0), logits(1));
    }
}
