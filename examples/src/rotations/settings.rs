//! The size of an experiment.

use super::{Protocol, RotationArgs, TestedEpoch};
use crate::{digits::Digits, runner};
use quarterturn::{autograd::Schedule, models::training::Training};

/// How many seeds an experiment takes, unless the user says otherwise.
pub struct Sizes {
    /// In a default run.
    pub seeds: u64,
    /// In the paper.
    pub full_seeds: u64,
}

/// What the user's options come to.
pub struct Settings {
    pub protocol: Protocol,
    pub tested: TestedEpoch,
    pub seeds: u64,
    pub epochs: u64,
    pub train: u64,
    pub test: u64,
    pub angles: u64,
    pub batch: u64,
    pub halve_every: u64,
    pub lr: f64,
}

impl Settings {
    /// Options, and defaults for what they leave open.
    pub fn new(args: &RotationArgs, sizes: &Sizes, digits: &Digits) -> Self {
        let paper = Settings {
            protocol: args.protocol,
            tested: args.tested.unwrap_or(args.protocol.tested()),
            seeds: sizes.full_seeds,
            epochs: 50,
            train: 8000,
            test: 60_000,
            angles: 36,
            batch: 256,
            halve_every: 10,
            lr: args.lr,
        };
        let seeds = sizes.seeds;
        // Few epochs take small batches, for the number of steps.
        let base = match digits {
            _ if args.full => paper,
            _ if args.quick => Settings { seeds: 1, epochs: 5, train: 400, test: 100, angles: 8, batch: 16, ..paper },
            Digits::Mnist(_) => Settings { seeds, epochs: 10, test: 2000, batch: 64, ..paper },
            Digits::BuiltIn => Settings { seeds, epochs: 12, train: 2000, test: 500, angles: 24, batch: 64, ..paper },
        };
        let epochs = args.epochs.unwrap_or(base.epochs);
        // The paper's 10 of 50 epochs, in proportion.
        let halve_every = args.halve_every.unwrap_or((epochs / 5).max(1));
        Settings {
            seeds: args.seeds.unwrap_or(base.seeds),
            epochs,
            train: args.train.unwrap_or(base.train),
            test: args.test.unwrap_or(base.test),
            angles: args.angles.unwrap_or(base.angles),
            batch: args.batch.unwrap_or(base.batch),
            halve_every,
            ..base
        }
    }

    /// The angles that are tested, in degrees.
    pub fn degrees(&self) -> Vec<f64> {
        (0..self.angles).map(|i| 360.0 * i as f64 / self.angles as f64).collect()
    }

    /// Digits that the best epoch is chosen by: in the paper's proportion, 2,000 to 8,000.
    pub fn validation(&self) -> u64 {
        match self.tested {
            TestedEpoch::Best => (self.train / 4).max(1),
            TestedEpoch::Last => 0,
        }
    }

    /// How a network is trained.
    pub fn training(&self, seed: u64) -> Training {
        let schedule = Schedule::Step { lr: self.lr, factor: 0.5, every: self.halve_every as u32 };
        Training { epochs: self.epochs as u32, schedule, ..Training::mnist(seed) }
    }

    /// What must not change within a folder of results. Networks, trainings and seeds may: they only add runs.
    pub fn in_common(&self, digits: &Digits) -> runner::Settings {
        let mut settings = runner::Settings::default()
            .with("quarterturn", env!("CARGO_PKG_VERSION"))
            .with("data", digits.name())
            .with("data fingerprint", digits.fingerprint())
            .with("protocol", self.protocol)
            .with("epochs", self.epochs)
            .with("train", self.train)
            .with("test", self.test)
            .with("angles", self.angles)
            .with("batch", self.batch)
            .with("halve-every", self.halve_every)
            .with("lr", self.lr);
        // Former versions tested the last epoch, started from the true fan-in, and said neither.
        if self.tested == TestedEpoch::Best {
            settings = settings.with("tested", self.tested);
        }
        if self.protocol == Protocol::Published {
            settings = settings.with("init", "published");
        }
        settings
    }
}
