//! A network and its input size.

use super::Design;
use quarterturn::{
    core::Device,
    core::Result,
    kernels::Group,
    models::{Init, Network},
};
use std::{fmt, str::FromStr};

/// `p4:28`: P4CNN on 28×28. `p4:27:adaptive`: with another design.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subject {
    pub group: Group,
    pub size: usize,
    pub design: Design,
}

impl Subject {
    /// The network, for images of so many channels, as `init` starts it.
    ///
    /// # Errors
    /// If the input is too small for it, or the device has no room.
    pub fn network(self, in_channels: usize, init: Init, device: &Device) -> Result<Box<dyn Network>> {
        self.design.network(self.group, in_channels, init, device)
    }

    /// The paper's name, and what is not as in the paper.
    pub fn model(self) -> String {
        let name = match self.group {
            Group::C1 => "Z2CNN",
            Group::C4 => "P4CNN",
            Group::D4 => "P4MCNN",
        };
        match self.design {
            Design::Plain => name.into(),
            design => format!("{name} ({})", design.title()),
        }
    }

    /// Its name in files.
    pub fn key(self) -> String {
        let Subject { group, size, design } = self;
        match design {
            Design::Plain => format!("{group}-{size}"),
            _ => format!("{group}-{size}-{design}"),
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
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (group, rest) = text.split_once(':').ok_or("expected group:size, such as p4:28")?;
        let (size, design) = match rest.split_once(':') {
            Some((size, design)) => (size, design.parse()?),
            None => (rest, Design::Plain),
        };
        let size = size
            .parse()
            .ok()
            .filter(|size| (8..=128).contains(size))
            .ok_or("the size must be a whole number from 8 to 128")?;
        Ok(Subject { group: group.parse()?, size, design })
    }
}
