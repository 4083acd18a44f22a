//! Sizes of images on the command line.

use std::str::FromStr;

/// Height and width.
#[derive(Clone, Copy)]
pub struct Input(pub [usize; 2]);

impl FromStr for Input {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let extent = |text: &str| {
            let extent = text.parse().ok().filter(|extent| (1..=16_384).contains(extent));
            extent.ok_or(format!("'{text}' is not a whole number from 1 to 16384"))
        };
        match text.split_once(['x', '×']) {
            Some((height, width)) => Ok(Input([extent(height)?, extent(width)?])),
            None => extent(text).map(|extent| Input([extent; 2])),
        }
    }
}
