//! Starting values.

use quarterturn_core::{Device, Result, Shape, Stream, Tensor};

/// The first of the streams that starting values are drawn from.
const INIT: u32 = u32::from_be_bytes(*b"init");

/// Draws starting values, the same on every device: tensor number `n` of a network has a stream of its own.
#[derive(Debug)]
pub struct Init {
    seed: u64,
    drawn: u32,
}

impl Init {
    /// Values that are a function of `seed`.
    pub fn new(seed: u64) -> Self {
        Init { seed, drawn: 0 }
    }

    /// Uniform on ±1/√`fan_in`: PyTorch's default of convolutions and linear layers, weight and bias alike
    /// (Kaiming's rule with slope √5).
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn uniform(&mut self, shape: impl Into<Shape>, fan_in: usize, device: &Device) -> Result<Tensor> {
        let shape = shape.into();
        let stream = Stream::new(self.seed, INIT + self.drawn, 0);
        self.drawn += 1;
        let bound = 1.0 / (fan_in as f64).sqrt();
        let value = |i| ((2.0 * f64::from(stream.uniform(i)) - 1.0) * bound) as f32;
        Tensor::from_vec(shape, (0..shape.len() as u64).map(value).collect(), device)
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
}
