//! Ordinary and adaptive subsampling.

use std::{fmt, str::FromStr};

/// Where layers of stride 2 start: they keep every other row and column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subsampling {
    /// At the upper left corner, as usual. The network is exact only at sizes where every window reaches the last row
    /// and column.
    #[default]
    Plain,
    /// At the first or second row and column, as the feature map itself decides (see
    /// [`quarterturn_kernels::choose_grid`]). The network is exact at every size. Where [`Subsampling::Plain`] is
    /// exact, both compute the same bits.
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
