//! How networks subsample.

use std::{fmt, str::FromStr};

/// How a network's layers of stride 2 choose the places that they sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subsampling {
    /// From the upper left corner on, as everybody does: exact only at sizes where no window leaves anything over.
    #[default]
    Plain,
    /// On the grid that the map itself chooses: exact at every size. Where no window leaves anything over, it is the plain one,
    /// with the same weights and the same bits.
    Adaptive,
}

impl Subsampling {
    /// Its name in checkpoints and on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Subsampling::Plain => "plain",
            Subsampling::Adaptive => "adaptive",
        }
    }
}

impl fmt::Display for Subsampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Subsampling {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let known = [Subsampling::Plain, Subsampling::Adaptive].into_iter().find(|way| way.name() == name);
        known.ok_or(format!("no way of subsampling '{name}': plain or adaptive"))
    }
}
