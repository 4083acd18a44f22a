//! Initial values of weights.

use crate::{Checkpoint, io::missing};
use quarterturn_core::{Device, Error, Result, Shape, Stream, Tensor};
use quarterturn_kernels::Group;
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The first of the streams that starting values are drawn from.
const INIT: u32 = u32::from_be_bytes(*b"init");

/// Draws initial values. They depend on the seed alone and are the same on every device.
#[derive(Debug)]
pub struct Init {
    seed: u64,
    scheme: Scheme,
    drawn: u32,
    /// Names and shapes of the file that the values will be taken from, if there is one.
    stored: Option<BTreeMap<String, Vec<usize>>>,
}

/// How the filters of convolutions are initialised. Biases and linear layers have PyTorch's default in every scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// PyTorch's default: U(±1/√fan_in), with the true fan-in C_in · G_in · k² (Kaiming's rule with slope √5).
    Uniform,
    /// He et al. 2015: N(0, 2/fan_out), with the true fan-out C_out · G · k².
    Kaiming,
    /// As in the code published with Edixhoven et al. 2023: on p4 and p4m U(±1/√(C_in · k²)), which leaves out the size
    /// of the group; on z2 Kaiming.
    Published,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 3] = [Scheme::Uniform, Scheme::Kaiming, Scheme::Published];

    /// Its name on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Scheme::Uniform => "uniform",
            Scheme::Kaiming => "kaiming",
            Scheme::Published => "published",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scheme {
    type Err = String;
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let known = Scheme::ALL.into_iter().find(|scheme| scheme.name() == name);
        known.ok_or(format!("no starting values '{name}': uniform, kaiming or published"))
    }
}

impl Init {
    /// PyTorch's default ([`Scheme::Uniform`]), drawn with `seed`.
    pub fn new(seed: u64) -> Self {
        Self::with_scheme(seed, Scheme::Uniform)
    }

    /// He's initialisation ([`Scheme::Kaiming`]), drawn with `seed`.
    pub fn kaiming(seed: u64) -> Self {
        Self::with_scheme(seed, Scheme::Kaiming)
    }

    /// Any scheme, drawn with `seed`.
    pub fn with_scheme(seed: u64, scheme: Scheme) -> Self {
        Init { seed, scheme, drawn: 0, stored: None }
    }

    /// Nothing is drawn: zeros, in whose place the file's values come. A parameter that the file does not have in its shape is an
    /// error before memory is taken for it, so that settings of a file cannot take more than its tensors do.
    pub(crate) fn restoring(checkpoint: &Checkpoint) -> Self {
        Init { stored: Some(checkpoint.shapes()), ..Self::new(0) }
    }

    /// # Errors
    /// [`Error::Checkpoint`] if the values are to come from a file that has no such parameter.
    pub(crate) fn expect(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some(stored) = &self.stored else { return Ok(()) };
        let message = match stored.get(name) {
            Some(found) if found == shape => return Ok(()),
            Some(found) => format!("expected shape {shape:?}, found {found:?}"),
            None => missing(name, stored.keys().map(String::as_str)),
        };
        Err(Error::Checkpoint { name: name.into(), message })
    }

    /// Filters `[C_out, C_in, G_in, k, k]` of a convolution on `group`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn filters(&mut self, shape: [usize; 5], group: Group, device: &Device) -> Result<Tensor> {
        let [c_out, c_in, g_in, k, _] = shape;
        match (self.scheme, group) {
            (Scheme::Uniform, _) => self.uniform(shape, c_in * g_in * k * k, device),
            (Scheme::Published, Group::C4 | Group::D4) => self.uniform(shape, c_in * k * k, device),
            (Scheme::Kaiming | Scheme::Published, _) => {
                let deviation = (2.0 / (c_out * group.order() * k * k) as f64).sqrt();
                self.draw(shape.into(), device, |stream, i| stream.normal(i) * deviation)
            }
        }
    }

    /// Uniform on ±1/√`fan_in`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn uniform(&mut self, shape: impl Into<Shape>, fan_in: usize, device: &Device) -> Result<Tensor> {
        let bound = 1.0 / (fan_in as f64).sqrt();
        self.draw(shape.into(), device, |stream, i| (2.0 * f64::from(stream.uniform(i)) - 1.0) * bound)
    }

    fn draw(&mut self, shape: Shape, device: &Device, value: impl Fn(&Stream, u64) -> f64) -> Result<Tensor> {
        if self.stored.is_some() {
            return Tensor::full(shape, 0.0, device);
        }
        let stream = Stream::new(self.seed, INIT + self.drawn, 0);
        self.drawn += 1;
        Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| value(&stream, i) as f32).collect(), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fill_the_interval_alike_on_all_devices_and_differ_per_tensor_and_seed() {
        let draw = |seed, device: &Device| {
            let mut init = Init::new(seed);
            [(); 2].map(|()| init.uniform([1000], 25, device).unwrap().to_f64().unwrap())
        };
        let [first, second] = draw(1, &Device::Cpu);
        assert_eq!(draw(1, &Device::Reference), [first.clone(), second.clone()]);
        assert_ne!(first, second);
        assert_ne!(first, draw(2, &Device::Cpu)[0]);
        let largest = first.iter().fold(0.0f64, |a, v| a.max(v.abs()));
        assert!((0.19..=0.2 + 1e-7).contains(&largest), "{largest}");
    }

    /// The variance of each scheme's filters: U(±b) has b²/3.
    #[test]
    fn schemes_have_their_variances() {
        let shape = |g_in| [20, 10, g_in, 3, 3];
        for (scheme, group, g_in, variance) in [
            (Scheme::Uniform, Group::C4, 4, 1.0 / (3.0 * 360.0)),
            (Scheme::Kaiming, Group::C1, 1, 2.0 / 180.0),
            (Scheme::Kaiming, Group::C4, 1, 2.0 / 720.0),
            (Scheme::Kaiming, Group::D4, 8, 2.0 / 1440.0),
            (Scheme::Published, Group::C1, 1, 2.0 / 180.0),
            (Scheme::Published, Group::C4, 4, 1.0 / (3.0 * 90.0)),
            (Scheme::Published, Group::D4, 8, 1.0 / (3.0 * 90.0)),
        ] {
            let values = Init::with_scheme(1, scheme).filters(shape(g_in), group, &Device::Reference).unwrap();
            let values = values.f64s();
            let measured = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            assert!((measured / variance - 1.0).abs() < 0.1, "{scheme} {group}: {measured:e}, expected {variance:e}");
        }
        for scheme in Scheme::ALL {
            assert_eq!(scheme.name().parse::<Scheme>().unwrap(), scheme);
        }
    }
}
