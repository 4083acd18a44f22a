//! What all convolutions have among their settings.

use crate::{Node, Site};
use quarterturn_core::Result;
use quarterturn_kernels::{Conv, Cosets, Window};

/// The taps of a described filter are at most so far apart: what lies between them takes memory too.
const FURTHEST: usize = 64;

/// A convolution as a node describes it: on the group; lifting, if the group has not been reached yet.
pub(super) struct ConvSettings {
    pub in_channels: usize,
    /// Elements of what it reads: 1 when it lifts.
    pub elements: usize,
    pub out_channels: usize,
    pub kernel_size: usize,
    pub conv: Conv,
    pub bias: bool,
}

impl ConvSettings {
    /// The settings of `node`, which may have those called `more` too. Tells the site what the layer makes.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`] if one is missing or does not fit.
    pub fn of(node: &Node, more: &[&str], site: &mut Site<'_>) -> Result<Self> {
        let own = ["out_channels", "kernel_size", "stride", "padding", "dilation", "bias"];
        node.knows_only(&[&own, more].concat())?;
        let (out_channels, bias) = (node.setting("out_channels")?, node.setting("bias")?);
        let (group, in_channels, elements) = (site.group()?, site.channels(), site.elements());
        let Window { kernel_size, stride, padding } = node.window()?;
        let dilation = node.setting_or("dilation", 1)?;
        if !(1..=FURTHEST).contains(&dilation) {
            return Err(site.unfit(format!("expected a dilation of 1 to {FURTHEST}, not {dilation}")));
        }
        site.makes(out_channels, Cosets::elements(group))?;
        let conv = Conv { group, stride, padding, dilation };
        Ok(ConvSettings { in_channels, elements, out_channels, kernel_size, conv, bias })
    }
}
