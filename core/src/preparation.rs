//! How images are prepared for a network, as text. `quarterturn_data` carries the steps out; a checkpoint stores them.

use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// The steps that turn an image into a network's input, in order. A network that gets images prepared in another way
/// than in training is less accurate, and no error tells. So a checkpoint stores the steps.
///
/// The text form is one line: steps separated by `; `, each a name and its numbers.
///
/// ```
/// use quarterturn_core::{Preparation, Step};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let steps = vec![
///     Step::Normalize { mean: vec![0.13084], std: vec![0.04348] },
///     Step::Resize([28, 28]),
///     Step::CircleCrop { radius: None, fill: vec![] },
/// ];
/// let preparation = Preparation { steps };
/// let text = preparation.to_string();
/// assert_eq!(text, "normalize 0.13084 0.04348; resize 28x28; circle_crop");
/// assert_eq!(text.parse::<Preparation>()?, preparation);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preparation {
    /// The steps. Those before [`Step::Normalize`] work on 8-bit pixels, those after it on normalised values.
    pub steps: Vec<Step>,
}

/// One step of a [`Preparation`].
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// `channels 3` copies a grey image into three channels. `channels 1` converts a colour image to grey.
    Channels(usize),
    /// `resize 28x32`: to this height and width. Before `normalize` (on 8-bit pixels) with the triangle filter of
    /// `quarterturn_data::Transform::Resize`; after it bilinearly, with `quarterturn_kernels::resize`.
    Resize([usize; 2]),
    /// `resize_shorter 256`: makes the shorter side this long and keeps the proportions.
    ResizeShorter(usize),
    /// `center_crop 224x224`: the middle of this height and width.
    CenterCrop([usize; 2]),
    /// `pad 32x32`: zeros on all sides, up to this height and width.
    Pad([usize; 2]),
    /// `circle_crop`, `circle_crop 47.5` or `circle_crop 47.5 179,137,176`: sets what lies outside a circle about the
    /// centre, of this radius in pixels, to zero or to this value of each channel. Without a radius it is the inscribed
    /// circle.
    CircleCrop {
        /// In pixels.
        radius: Option<f32>,
        /// Of 8-bit pixels, one value for each channel; empty for zero.
        fill: Vec<u8>,
    },
    /// `normalize 0.4914,0.4822,0.4465 0.247,0.2435,0.2616`: `(p / 255 − mean) / std` of a pixel p of 0 to 255, a mean and a
    /// standard deviation for each channel.
    Normalize {
        /// Of values in 0..=1.
        mean: Vec<f32>,
        /// As many, all above 0.
        std: Vec<f32>,
    },
}

impl Preparation {
    /// The name of the checkpoint's note that holds the text form.
    pub const NOTE: &str = "preparation";

    /// Mean and standard deviation of each channel, if the images are normalised.
    pub fn normalization(&self) -> Option<(&[f32], &[f32])> {
        self.steps.iter().find_map(|step| match step {
            Step::Normalize { mean, std } => Some((&mean[..], &std[..])),
            _ => None,
        })
    }

    /// The steps in two parts: those on 8-bit pixels, up to and including [`Step::Normalize`], and those after it.
    pub fn split(&self) -> (&[Step], &[Step]) {
        let last = self.steps.iter().position(|step| matches!(step, Step::Normalize { .. }));
        self.steps.split_at(last.map_or(self.steps.len(), |last| last + 1))
    }

    /// Height and width of the prepared image, if they are the same for every image.
    pub fn size(&self) -> Option<[usize; 2]> {
        self.steps.iter().fold(None, |size, step| match step {
            Step::Resize(size) | Step::CenterCrop(size) | Step::Pad(size) => Some(*size),
            Step::ResizeShorter(_) => None,
            Step::Channels(_) | Step::CircleCrop { .. } | Step::Normalize { .. } => size,
        })
    }
}

impl fmt::Display for Preparation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(ToString::to_string).collect();
        f.write_str(&steps.join("; "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[f32]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        match self {
            Step::Channels(channels) => write!(f, "channels {channels}"),
            Step::Resize([height, width]) => write!(f, "resize {height}x{width}"),
            Step::ResizeShorter(side) => write!(f, "resize_shorter {side}"),
            Step::CenterCrop([height, width]) => write!(f, "center_crop {height}x{width}"),
            Step::Pad([height, width]) => write!(f, "pad {height}x{width}"),
            Step::CircleCrop { radius: None, .. } => write!(f, "circle_crop"),
            Step::CircleCrop { radius: Some(radius), fill } if fill.is_empty() => write!(f, "circle_crop {radius}"),
            Step::CircleCrop { radius: Some(radius), fill } => {
                let fill: Vec<_> = fill.iter().map(ToString::to_string).collect();
                write!(f, "circle_crop {radius} {}", fill.join(","))
            }
            Step::Normalize { mean, std } => write!(f, "normalize {} {}", list(mean), list(std)),
        }
    }
}

impl FromStr for Preparation {
    type Err = Error;

    /// # Errors
    /// [`Error::Checkpoint`] with the step that is not understood.
    fn from_str(text: &str) -> Result<Self> {
        let steps = text.split(';').map(str::trim).filter(|step| !step.is_empty());
        Ok(Preparation { steps: steps.map(str::parse).collect::<Result<_>>()? })
    }
}

impl FromStr for Step {
    type Err = Error;

    /// # Errors
    /// [`Error::Checkpoint`] with the step, if it is not understood.
    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let step = match words[..] {
            ["channels", channels] => positive(channels).map(Step::Channels),
            ["resize", size] => extents(size).map(Step::Resize),
            ["resize_shorter", side] => positive(side).map(Step::ResizeShorter),
            ["center_crop", size] => extents(size).map(Step::CenterCrop),
            ["pad", size] => extents(size).map(Step::Pad),
            ["circle_crop"] => Some(Step::CircleCrop { radius: None, fill: Vec::new() }),
            ["circle_crop", radius] => circle(radius, Some(Vec::new())),
            ["circle_crop", radius, fill] => circle(radius, fill.split(',').map(|value| value.parse().ok()).collect()),
            ["normalize", mean, std] => match (numbers(mean), numbers(std)) {
                (Some(mean), Some(std)) if mean.len() == std.len() && std.iter().all(|&std| std > 0.0) => {
                    Some(Step::Normalize { mean, std })
                }
                _ => None,
            },
            _ => None,
        };
        let message = || {
            let known = "channels, resize, resize_shorter, center_crop, pad, circle_crop and normalize";
            format!("'{text}' is no step that is known here; {known}, with their numbers, are")
        };
        step.ok_or_else(|| Error::Checkpoint { name: Preparation::NOTE.into(), message: message() })
    }
}

/// No image has more channels, rows or columns: a file that says so is not believed.
const MOST: usize = 1 << 16;

fn positive(text: &str) -> Option<usize> {
    text.parse().ok().filter(|number| (1..=MOST).contains(number))
}

/// Height and width.
fn extents(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once('x')?;
    Some([positive(height)?, positive(width)?])
}

/// A circle of a radius above 0.
fn circle(radius: &str, fill: Option<Vec<u8>>) -> Option<Step> {
    let radius = radius.parse().ok().filter(|radius: &f32| radius.is_finite() && *radius > 0.0)?;
    Some(Step::CircleCrop { radius: Some(radius), fill: fill? })
}

fn numbers(text: &str) -> Option<Vec<f32>> {
    text.split(',').map(|number| number.parse().ok().filter(|number: &f32| number.is_finite())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_read_back_and_nothing_else_is_read() {
        let steps = vec![
            Step::Channels(3),
            Step::ResizeShorter(256),
            Step::CenterCrop([224, 225]),
            Step::Pad([230, 231]),
            Step::CircleCrop { radius: Some(47.5), fill: vec![] },
            Step::CircleCrop { radius: Some(47.5), fill: vec![179, 137, 0] },
            Step::Normalize { mean: vec![0.1, 1e-7, -3.0], std: vec![f32::MIN_POSITIVE, 0.1, 16_777_216.0] },
            Step::Resize([28, 32]),
            Step::CircleCrop { radius: None, fill: vec![] },
        ];
        let preparation = Preparation { steps };
        assert_eq!(preparation.to_string().parse::<Preparation>().unwrap(), preparation);
        assert_eq!("".parse::<Preparation>().unwrap(), Preparation::default());
        for text in [
            "swirl",
            "resize",
            "resize 28",
            "resize 0x28",
            "resize 28x28 nearest",
            "circle_crop -1",
            "circle_crop inf",
            "circle_crop 4 256",
            "circle_crop 4 1,,2",
            "normalize 0.5",
            "normalize 0.5 0",
            "normalize 0.5 nan",
            "normalize 0.5,0.5 0.5",
            "channels 0",
            "channels 18446744073709551615",
            "resize_shorter 65537",
            "pad 4294967296x4294967296",
        ] {
            let error = format!("circle_crop; {text}").parse::<Preparation>().unwrap_err();
            assert!(error.to_string().contains(&format!("'{text}' is no step")), "{error}");
        }
    }
}
