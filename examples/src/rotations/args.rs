//! Options of the experiments on rotated digits.

use super::{Protocol, Subject, TestedEpoch};
use crate::{
    args::{DataArgs, DeviceArgs, OutArgs, positive},
    runner::RunnerArgs,
};
use clap::{CommandFactory, FromArgMatches, Parser};

/// What the help of these experiments ends with.
pub const BUILT_IN_AND_RESUMED: &str = "Without --data or --download, built-in digits stand in for MNIST. The same command \
                                         goes on where the last one was stopped.";

/// Data, networks, and the size of the experiment.
#[derive(Parser)]
pub struct RotationArgs {
    #[command(flatten)]
    pub out: OutArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// What to train (z2, p4 or p4m) and on which input size (8 to 128), as group:size, separated by commas. Behind it
    /// :adaptive (pooling on the grid that the map chooses), :zero-N, :circular-N or :reflection-N (padding of the first N of
    /// six layers, none elsewhere), or :break-N (three poolings, adaptive but for those that N names) [default: as the
    /// figure needs; of the paper's figures z2:28,p4:27,p4:28,p4:29]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub networks: Vec<Subject>,
    /// What the paper says, or what its published code did
    #[arg(long, value_enum, default_value_t = Protocol::Paper)]
    pub protocol: Protocol,
    /// The weights that are tested: of the best epoch on upright validation digits (a quarter as many as are trained on), or
    /// of the last one [default: last; with --protocol published best, as the published runs]
    #[arg(long, value_enum)]
    pub tested: Option<TestedEpoch>,
    /// First seed; it decides starting weights, training digits, their order and angles, and dropout
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Number of seeds to average over [default: figures of the paper 1, with --full 10; others 3, table1 with --full 100]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub seeds: Option<u64>,
    /// Passes over the training digits [default: MNIST 10, built-in digits 12; with --quick 5, with --full 50]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub epochs: Option<u64>,
    /// Training digits: of MNIST, from the 10,000 of its t10k file as in the paper, 2,000 of them set aside [default: MNIST 8000, built-in digits 2000; with --quick 400, with --full 8000]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub train: Option<u64>,
    /// Test digits, each tested at every angle: of MNIST, from the 60,000 of its train file as in the paper [default: MNIST 2000, built-in digits 500; with --quick 100, with --full 60000]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub test: Option<u64>,
    /// Test angles, evenly spaced from 0° [default: 36, built-in digits 24; with --quick 8, with --full 36]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub angles: Option<u64>,
    /// Digits per training step [default: 64; with --quick 16, with --full 256]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub batch: Option<u64>,
    /// Epochs after which the learning rate is halved, again and again [default: a fifth of the epochs]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub halve_every: Option<u64>,
    /// The first learning rate
    #[arg(long, value_name = "RATE", default_value_t = 0.01, value_parser = positive)]
    pub lr: f64,
    /// A run of seconds, to see that everything works
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// The paper's run: all seeds, 50 epochs, all digits, 36 angles; hours on a CPU
    #[arg(long)]
    pub full: bool,
    #[command(flatten)]
    pub runner: RunnerArgs,
}

impl RotationArgs {
    /// The options of a program that takes no others, as `clap::Parser::parse` reads them; its help begins and ends with
    /// these words.
    pub fn read(about: &'static str, after_help: &'static str) -> Self {
        let matches = Self::command().about(about).after_help(after_help).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1_000_000)
}
