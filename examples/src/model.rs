//! Architectures by name, as several examples offer them. One more is a line of [`Model`], and one of each of its methods.

use clap::ValueEnum;
use quarterturn::{
    core::{Device, Result},
    kernels::Group,
    models::{DenseNetConfig, Init, MnistCnn, MnistCnnConfig, Network, ResNet, ResNetConfig, densenet, gc_p4cnn},
};

/// An architecture of the library.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Model {
    /// ResNet-18 with a 7×7 stem and max pooling, as for ImageNet
    Resnet18,
    /// ResNet-18 with a 3×3 stem, as the paper's published code
    Resnet18SmallStem,
    /// ResNet-44, as for CIFAR
    Resnet44,
    /// The seven-layer network of the MNIST experiments (on z2: Z2CNN)
    P4cnn,
    /// The same with separable convolutions: a seventh of the parameters
    GcP4cnn,
    /// The densely connected network of Veeling et al. 2018, for PatchCamelyon's images of 96×96
    Densenet,
}

/// What a network is for, where that is not the architecture's own.
#[derive(Clone, Copy, Default)]
pub struct Fitted {
    /// Channels of the images, and classes.
    pub ends: Option<[usize; 2]>,
    /// Channels of the first stage.
    pub width: Option<usize>,
}

impl Model {
    /// The network, with starting values that are a function of `seed`.
    ///
    /// # Errors
    /// If a setting is out of range, or the device has no room.
    pub fn build(self, group: Group, fitted: Fitted, seed: u64, device: &Device) -> Result<Box<dyn Network>> {
        let init = Init::kaiming(seed);
        Ok(match self {
            Model::Resnet18 => Box::new(ResNet::new(fitted.resnet(ResNetConfig::resnet18(group)), init, device)?),
            Model::Resnet18SmallStem => {
                Box::new(ResNet::new(fitted.resnet(ResNetConfig::resnet18_small_stem(group)), init, device)?)
            }
            Model::Resnet44 => Box::new(ResNet::new(fitted.resnet(ResNetConfig::resnet44(group)), init, device)?),
            Model::P4cnn => Box::new(MnistCnn::new(fitted.mnist_cnn(group), seed, device)?),
            Model::GcP4cnn => Box::new(gc_p4cnn(&fitted.mnist_cnn(group), init, device)?),
            Model::Densenet => {
                let config = DenseNetConfig::pcam(group);
                let [in_channels, classes] = fitted.ends.unwrap_or([config.in_channels, config.classes]);
                let growth = fitted.width.unwrap_or(config.growth);
                Box::new(densenet(&DenseNetConfig { in_channels, classes, growth, ..config }, init, device)?)
            }
        })
    }

    /// The size that people give it.
    pub fn usual_input(self) -> usize {
        match self {
            Model::Resnet18 | Model::Resnet18SmallStem => 224,
            Model::Resnet44 => 32,
            Model::P4cnn | Model::GcP4cnn => 28,
            Model::Densenet => 96,
        }
    }

    /// A size at which it is exact, not above half of ImageNet's.
    pub fn exact_input(self) -> usize {
        match self {
            Model::Resnet18 | Model::Resnet18SmallStem => 97,
            Model::Resnet44 => 33,
            Model::P4cnn | Model::GcP4cnn | Model::Densenet => self.usual_input(),
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().into())
    }
}

impl Fitted {
    fn resnet(self, config: ResNetConfig) -> ResNetConfig {
        let [in_channels, classes] = self.ends.unwrap_or([config.in_channels, config.classes]);
        let widths = match self.width {
            Some(width) => (0..config.widths.len()).map(|stage| width << stage).collect(),
            None => config.widths.clone(),
        };
        ResNetConfig { in_channels, classes, widths, ..config }
    }

    fn mnist_cnn(self, group: Group) -> MnistCnnConfig {
        let config = match group {
            Group::C1 => MnistCnnConfig::z2cnn(),
            Group::C4 => MnistCnnConfig::p4cnn(),
            Group::D4 => MnistCnnConfig::p4mcnn(),
        };
        let [in_channels, classes] = self.ends.unwrap_or([config.in_channels, config.classes]);
        MnistCnnConfig { in_channels, classes, width: self.width.unwrap_or(config.width), ..config }
    }
}
