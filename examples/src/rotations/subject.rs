//! A network of the paper and its input size.

use quarterturn::{kernels::Group, models::MnistCnnConfig};
use std::{fmt, str::FromStr};

/// `p4:28`: P4CNN on 28×28.
#[derive(Clone, Copy, PartialEq)]
pub struct Subject {
    pub group: Group,
    pub size: usize,
}

impl Subject {
    /// The network's settings, for images of so many channels.
    pub fn config(self, in_channels: usize) -> MnistCnnConfig {
        let config = match self.group {
            Group::C1 => MnistCnnConfig::z2cnn(),
            Group::C4 => MnistCnnConfig::p4cnn(),
            Group::D4 => MnistCnnConfig::p4mcnn(),
        };
        MnistCnnConfig { in_channels, ..config }
    }

    /// The paper's name.
    pub fn model(self) -> &'static str {
        match self.group {
            Group::C1 => "Z2CNN",
            Group::C4 => "P4CNN",
            Group::D4 => "P4MCNN",
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {1}×{1}", self.model(), self.size)
    }
}

impl FromStr for Subject {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (group, size) = text.split_once(':').ok_or("expected group:size, such as p4:28")?;
        let size = size
            .parse()
            .ok()
            .filter(|size| (8..=128).contains(size))
            .ok_or("the size must be a whole number from 8 to 128")?;
        Ok(Subject { group: group.parse()?, size })
    }
}
