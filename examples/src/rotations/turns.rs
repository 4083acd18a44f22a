//! How the training digits are turned.

use quarterturn::core::Stream;
use std::{fmt, str::FromStr};

/// Streams of the angles: one per digit and epoch, one per batch, one per digit for good.
const DIGIT: u32 = u32::from_be_bytes(*b"turd");
const BATCH: u32 = u32::from_be_bytes(*b"turb");
const FIXED: u32 = u32::from_be_bytes(*b"turf");

/// A distribution of angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turns {
    /// All at 0°.
    Upright,
    /// Uniform over the circle, drawn anew each epoch.
    Uniform,
    /// Uniform over the circle, drawn once for each digit: RotMNIST.
    Fixed,
    /// Normal, drawn anew each epoch.
    Normal {
        /// Degrees.
        mean: f64,
        /// Degrees.
        std: f64,
    },
}

impl Turns {
    /// The angle of each digit of a batch, in degrees. `indices` are the digits' places in the training set.
    pub fn of_digits(self, seed: u64, epoch: u32, indices: &[usize]) -> Vec<f32> {
        let stream = match self {
            Turns::Fixed => Stream::new(seed, FIXED, 0),
            _ => Stream::new(seed, DIGIT, epoch),
        };
        indices.iter().map(|&index| self.draw(stream, index as u64)).collect()
    }

    /// One angle for a whole batch of `n` digits, the `step`-th of its epoch; RotMNIST's are of each digit all the same.
    pub fn of_batch(self, seed: u64, epoch: u32, step: u32, indices: &[usize]) -> Vec<f32> {
        match self {
            Turns::Fixed => self.of_digits(seed, epoch, indices),
            _ => vec![self.draw(Stream::new(seed, BATCH, epoch), step.into()); indices.len()],
        }
    }

    fn draw(self, stream: Stream, index: u64) -> f32 {
        match self {
            Turns::Upright => 0.0,
            Turns::Uniform | Turns::Fixed => 360.0 * stream.uniform(index),
            Turns::Normal { mean, std } => (mean + std * stream.normal(index)) as f32,
        }
    }

    /// The density at an angle in degrees, per degree, wrapped around the circle; `None` where all is at one angle.
    pub fn density(self, degrees: f64) -> Option<f64> {
        match self {
            Turns::Upright => None,
            Turns::Uniform | Turns::Fixed => Some(1.0 / 360.0),
            Turns::Normal { std: 0.0, .. } => None,
            Turns::Normal { mean, std } => {
                let reach = (6.0 * std / 360.0).ceil() as i32 + 1;
                let bell = |around: i32| {
                    let z = (degrees - mean - 360.0 * f64::from(around)) / std;
                    (-0.5 * z * z).exp() / (std * std::f64::consts::TAU.sqrt())
                };
                let centre = ((degrees - mean) / 360.0).round() as i32;
                Some((centre - reach..=centre + reach).map(bell).sum())
            }
        }
    }

    /// The name in formulas.
    pub fn title(self) -> String {
        match self {
            Turns::Upright => "upright digits".into(),
            Turns::Uniform => "any angle, anew each epoch".into(),
            Turns::Fixed => "any angle, fixed (RotMNIST)".into(),
            Turns::Normal { mean, std } => format!("N({mean}°, {std}°)"),
        }
    }

    /// The name in files, where a point would end it.
    pub fn key(self) -> String {
        self.to_string().replace(':', "-").replace('.', "p")
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Turns::Upright => write!(f, "upright"),
            Turns::Uniform => write!(f, "uniform"),
            Turns::Fixed => write!(f, "rotmnist"),
            Turns::Normal { mean, std } => write!(f, "normal:{mean}:{std}"),
        }
    }
}

impl FromStr for Turns {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let degrees = |text: &str| text.parse().ok().filter(|v: &f64| v.abs() <= 1e4);
        match *text.split(':').collect::<Vec<_>>() {
            ["upright"] => Ok(Turns::Upright),
            ["uniform"] => Ok(Turns::Uniform),
            ["rotmnist"] => Ok(Turns::Fixed),
            ["normal", mean, std] => match (degrees(mean), degrees(std)) {
                (Some(mean), Some(std)) if std >= 0.0 => Ok(Turns::Normal { mean, std }),
                _ => Err("expected normal:MEAN:STD in degrees, such as normal:45:20".into()),
            },
            _ => Err("expected upright, uniform, rotmnist, or normal:MEAN:STD".into()),
        }
    }
}
