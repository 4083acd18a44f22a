//! How the paper trains a ResNet on each data set (Table 2 of Edixhoven et al. 2023), with what its published code adds.

use super::{args::positive, images::Format};
use clap::{Args, ValueEnum};
use quarterturn::{
    autograd::{Optimizer, Rule, Schedule},
    kernels::Group,
    models::{Block, Head, Init, ResNetConfig},
};
use std::fmt;

/// Whose choices are followed where the paper and its published code differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// The paper's: He et al.'s stem (a 3×3 stem for Flowers-102, as the code has it where the paper is silent), Kaiming's
    /// starting values, and the mean over space, then the maximum over the group, before the linear layer
    Paper,
    /// Its code's: a 3×3 stem, shortcuts that read a block's raw input, its starting values, and (but for PatchCamelyon) the
    /// maximum over the group at each place, then the mean over space: without it, which is the code's default, no size is
    /// exact, while the exact rows of Table 2 are
    Published,
}

/// A kind of data set, as far as training differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Textures,
    Cifar,
    Flowers,
    Pcam,
    ImageNet,
}

/// Network and training, as far as they may differ from the paper's.
#[derive(Args)]
pub struct SettingArgs {
    /// Whose choices are followed where the paper and its published code differ
    #[arg(long, value_enum, default_value_t = Protocol::Paper)]
    pub protocol: Protocol,
    /// Channels of the first stage on p4; each stage doubles them, z2 and p4m take √|G| more or fewer [default: the
    /// paper's; textures 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    width: Option<u32>,
    /// Blocks of each stage [default: the paper's; textures 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    blocks: Option<u32>,
    /// Passes over the training images [default: the paper's; textures 12]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: Option<u32>,
    /// Images per training step [default: the paper's; textures 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: Option<u32>,
    /// The highest learning rate of the schedule [default: the paper's; textures 0.01]
    #[arg(long, value_name = "RATE", value_parser = positive)]
    lr: Option<f64>,
}

impl SettingArgs {
    /// The network on `group`.
    pub fn network(&self, setting: Setting, group: Group, classes: usize) -> ResNetConfig {
        let mut config = setting.network(self.protocol, group);
        let stages = config.widths.len();
        if let Some(width) = self.width {
            config.widths = widths(width as usize, group, stages);
        }
        if let Some(blocks) = self.blocks {
            config.blocks = vec![blocks as usize; stages];
        }
        ResNetConfig { classes, ..config }
    }

    /// The training run.
    pub fn plan(&self, setting: Setting) -> Plan {
        setting.plan(self.epochs, self.batch, self.lr)
    }
}

/// The numbers of a training run.
pub struct Plan {
    pub epochs: u32,
    pub batch: u32,
    pub rule: Rule,
    pub schedule: Schedule,
}

impl Setting {
    /// By how the images lie on the disk; textures without.
    pub fn of(format: Option<Format>) -> Self {
        match format {
            None => Setting::Textures,
            Some(Format::CifarFolder | Format::Cifar10 | Format::Cifar100) => Setting::Cifar,
            Some(Format::Flowers) => Setting::Flowers,
            Some(Format::Pcam) => Setting::Pcam,
            Some(Format::Imagefolder) => Setting::ImageNet,
        }
    }

    /// Input sizes at which the p4-network is inexact and exact; the first is that of the images.
    pub fn sizes(self) -> [usize; 2] {
        match self {
            Setting::Textures | Setting::Cifar => [32, 33],
            Setting::Flowers | Setting::ImageNet => [224, 225],
            Setting::Pcam => [96, 97],
        }
    }

    /// The network on `group`. Textures get ResNet-14, a ResNet-44 with two blocks per stage in place of seven, 4 channels
    /// in its first stage on p4.
    fn network(self, protocol: Protocol, group: Group) -> ResNetConfig {
        let published = protocol == Protocol::Published;
        let config = match self {
            Setting::Textures => {
                let config = ResNetConfig { blocks: vec![2; 3], ..ResNetConfig::resnet44(group) };
                ResNetConfig { widths: widths(4, group, 3), ..config }
            }
            Setting::Cifar => ResNetConfig::resnet44(group),
            Setting::Pcam => ResNetConfig::resnet44_pcam(group),
            Setting::Flowers => ResNetConfig::resnet18_small_stem(group),
            Setting::ImageNet if published => ResNetConfig::resnet18_small_stem(group),
            Setting::ImageNet => ResNetConfig::resnet18(group),
        };
        let head = if published && self != Setting::Pcam { Head::MaxThenMean } else { Head::MeanThenMax };
        let block = if published && config.block == Block::PreActivation { Block::RawShortcut } else { config.block };
        ResNetConfig { head, block, ..config }
    }

    /// The training run; what is `None` is the paper's. Milestones move with the number of epochs, ImageNet's learning
    /// rate with the batch.
    fn plan(self, epochs: Option<u32>, batch: Option<u32>, lr: Option<f64>) -> Plan {
        let (papers_epochs, papers_batch) = match self {
            Setting::Textures => (12, 32),
            Setting::Cifar | Setting::Flowers => (200, 256),
            Setting::Pcam => (30, 32),
            Setting::ImageNet => (90, 256),
        };
        let (epochs, batch) = (epochs.unwrap_or(papers_epochs), batch.unwrap_or(papers_batch));
        let moved = |epoch: u32| {
            let moved = f64::from(epoch) * f64::from(epochs) / f64::from(papers_epochs);
            (moved.round() as u32).max(1)
        };
        let (rule, schedule) = match self {
            Setting::Textures | Setting::Cifar | Setting::Flowers => {
                let papers_lr = if self == Setting::Textures { 1e-2 } else { 1e-3 };
                (Optimizer::adam(1e-5).rule(), Schedule::OneCycle { max_lr: lr.unwrap_or(papers_lr) })
            }
            Setting::Pcam => {
                let milestones = [8, 16, 20, 24, 26, 28].map(moved).to_vec();
                let schedule = Schedule::Milestones { lr: lr.unwrap_or(1e-3), factor: 0.75, epochs: milestones };
                (Optimizer::sgd(0.9, 1e-5).rule(), schedule)
            }
            Setting::ImageNet => {
                let lr = lr.unwrap_or(0.1 * f64::from(batch) / 256.0);
                let steps = Schedule::Step { lr, factor: 0.1, every: moved(30) };
                let schedule = Schedule::WarmUp { epochs: moved(5), then: Box::new(steps) };
                (Optimizer::sgd(0.9, 1e-4).rule(), schedule)
            }
        };
        Plan { epochs, batch, rule, schedule }
    }
}

impl Protocol {
    /// Starting values.
    pub fn init(self, seed: u64) -> Init {
        match self {
            Protocol::Paper => Init::kaiming(seed),
            Protocol::Published => Init::with_scheme(seed, quarterturn::models::Scheme::Published),
        }
    }
}

/// Channels of each stage, doubling: `first` for the first on p4, and on z2 and p4m so many more or fewer (√|G| each, rounded)
/// that the networks have about as many parameters.
fn widths(first: usize, group: Group, stages: usize) -> Vec<usize> {
    let scale = (4.0 / group.order() as f64).sqrt();
    (0..stages).map(|stage| (((first << stage) as f64 * scale).round() as usize).max(1)).collect()
}

/// Named as He et al. do, by its layers: two per block, the stem's and the linear one.
pub fn title(config: &ResNetConfig) -> String {
    format!("{}-ResNet-{}", config.group, 2 * config.blocks.iter().sum::<usize>() + 2)
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Paper => "paper",
            Protocol::Published => "published",
        })
    }
}
