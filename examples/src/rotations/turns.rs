//! How the training digits are turned.

use super::Protocol;
use quarterturn::core::Stream;
use std::{fmt, str::FromStr};

/// Streams of the angles: one per digit and epoch, one per batch, one per digit for good.
const DIGIT: u32 = u32::from_be_bytes(*b"turd");
const BATCH: u32 = u32::from_be_bytes(*b"turb");
const ONCE: u32 = u32::from_be_bytes(*b"turf");

/// A distribution of angles, and how often an angle is drawn from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turns {
    pub angles: Angles,
    /// `None`: as the protocol says.
    pub drawn: Option<Drawn>,
}

/// A distribution of angles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Angles {
    /// All at 0°.
    Upright,
    /// Uniform over the circle.
    Uniform,
    /// Normal.
    Normal {
        /// Degrees.
        mean: f64,
        /// Degrees.
        std: f64,
    },
}

/// How often an angle is drawn. The paper's words and its published code allow three readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// For each digit, anew in each epoch.
    Digit,
    /// For each batch: all its digits are turned alike.
    Batch,
    /// For each digit, once and for all epochs.
    Once,
}

impl Turns {
    /// Upright digits.
    pub const UPRIGHT: Turns = Turns { angles: Angles::Upright, drawn: None };
    /// RotMNIST: each digit by a uniform angle of its own, the same in all epochs.
    pub const ROTMNIST: Turns = Turns { angles: Angles::Uniform, drawn: Some(Drawn::Once) };

    /// How often an angle is drawn.
    pub fn drawn(self, protocol: Protocol) -> Drawn {
        self.drawn.unwrap_or(protocol.drawn())
    }

    /// The angle of each digit of a batch, in degrees: step `step` of `epoch`, the digits `indices` of the training set.
    pub fn of(self, drawn: Drawn, seed: u64, epoch: u32, step: u32, indices: &[usize]) -> Vec<f32> {
        let each = |stream: Stream| indices.iter().map(|&index| self.draw(stream, index as u64)).collect();
        match drawn {
            Drawn::Digit => each(Stream::new(seed, DIGIT, epoch)),
            Drawn::Once => each(Stream::new(seed, ONCE, 0)),
            Drawn::Batch => vec![self.draw(Stream::new(seed, BATCH, epoch), step.into()); indices.len()],
        }
    }

    fn draw(self, stream: Stream, index: u64) -> f32 {
        match self.angles {
            Angles::Upright => 0.0,
            Angles::Uniform => 360.0 * stream.uniform(index),
            Angles::Normal { mean, std } => (mean + std * stream.normal(index)) as f32,
        }
    }

    /// The density at an angle in degrees, per degree, wrapped around the circle; `None` where all is at one angle.
    pub fn density(self, degrees: f64) -> Option<f64> {
        match self.angles {
            Angles::Upright => None,
            Angles::Uniform => Some(1.0 / 360.0),
            Angles::Normal { std: 0.0, .. } => None,
            Angles::Normal { mean, std } => {
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

    /// The name in figures and tables. How often an angle is drawn is said where it is not left to the protocol.
    pub fn title(self) -> String {
        let angles = match self.angles {
            Angles::Upright => "upright digits".into(),
            Angles::Uniform => "any angle".into(),
            Angles::Normal { mean, std } => format!("N({mean}°, {std}°)"),
        };
        match self.drawn {
            Some(drawn) => format!("{angles}, {}", drawn.title()),
            None => angles,
        }
    }

    /// The name in files, where a point would end it.
    pub fn key(self) -> String {
        self.to_string().replace(':', "-").replace('.', "p")
    }
}

impl Drawn {
    /// Every reading.
    pub const ALL: [Drawn; 3] = [Drawn::Digit, Drawn::Batch, Drawn::Once];

    /// The name on a command line and in CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Drawn::Digit => "digit",
            Drawn::Batch => "batch",
            Drawn::Once => "once",
        }
    }

    /// Behind the name of a distribution.
    pub const fn title(self) -> &'static str {
        match self {
            Drawn::Digit => "per digit and epoch",
            Drawn::Batch => "per batch",
            Drawn::Once => "per digit for good",
        }
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Turns::ROTMNIST {
            return write!(f, "rotmnist");
        }
        match self.angles {
            Angles::Upright => write!(f, "upright")?,
            Angles::Uniform => write!(f, "uniform")?,
            Angles::Normal { mean, std } => write!(f, "normal:{mean}:{std}")?,
        }
        self.drawn.map_or(Ok(()), |drawn| write!(f, ":{}", drawn.name()))
    }
}

impl FromStr for Turns {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let degrees = |text: &str| text.parse().ok().filter(|v: &f64| v.abs() <= 1e4);
        let mut words: Vec<&str> = text.split(':').collect();
        let last = words.last().copied();
        let drawn = Drawn::ALL.into_iter().find(|drawn| last == Some(drawn.name()));
        if drawn.is_some() {
            words.pop();
        }
        let turns = |angles| Ok(Turns { angles, drawn });
        match *words {
            ["upright"] if drawn.is_none() => turns(Angles::Upright),
            ["uniform"] => turns(Angles::Uniform),
            ["rotmnist"] if drawn.is_none() => Ok(Turns::ROTMNIST),
            ["normal", mean, std] => match (degrees(mean), degrees(std)) {
                (Some(mean), Some(std)) if std >= 0.0 => turns(Angles::Normal { mean, std }),
                _ => Err("expected normal:MEAN:STD in degrees, such as normal:45:20".into()),
            },
            _ => Err("expected upright, uniform, rotmnist, or normal:MEAN:STD; but for upright and rotmnist with \
                      :digit, :batch or :once behind it, if wanted"
                .into()),
        }
    }
}
