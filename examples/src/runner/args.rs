//! Options of the runner.

use clap::Args;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// How to go through a grid.
#[derive(Args)]
pub struct RunnerArgs {
    /// Seconds between checkpoints of a run in progress; 0 saves after each step
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub checkpoint_every: u64,
    /// Compute only each n-th run, from the i-th on (such as 2/4), so that several machines share a grid
    #[arg(long, value_name = "i/n")]
    pub shard: Option<Shard>,
    /// Join the results of shards that are kept in these folders; compute nothing
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "shard")]
    pub merge: Vec<PathBuf>,
}

impl RunnerArgs {
    /// Time between checkpoints.
    pub fn interval(&self) -> Duration {
        Duration::from_secs(self.checkpoint_every)
    }
}

/// One of n parts of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1.
    index: usize,
    /// Number of parts.
    pub count: usize,
}

impl Shard {
    /// Whether run `i` of the plan belongs to it.
    pub fn takes(self, i: usize) -> bool {
        i % self.count == self.index - 1
    }

    /// How its files are told from those of the others.
    pub fn suffix(self) -> String {
        format!("-{}-of-{}", self.index, self.count)
    }

    /// Whether this is some shard's [`Shard::suffix`].
    pub fn has_suffix(text: &str) -> bool {
        let numbers = text.strip_prefix('-').and_then(|text| text.split_once("-of-"));
        numbers.is_some_and(|(i, n)| format!("{i}/{n}").parse::<Shard>().is_ok_and(|shard| shard.suffix() == text))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((index, count)) if (1..=count).contains(&index) => Ok(Shard { index, count }),
            _ => Err("expected i/n with i from 1 to n, such as 2/4".into()),
        }
    }
}
