//! What somebody adds to Quarterturn in a crate of their own: an operation, an elementwise function, a loss and an
//! optimizer, each on every device.

mod cumulative_sum;
mod hard_swish;
mod lion;
mod log_cosh;

pub use cumulative_sum::cumulative_sum;
pub use hard_swish::HARD_SWISH;
pub use lion::Lion;
pub use log_cosh::log_cosh_loss;

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn::{
        autograd::{Averages, Gradients, Param, Tape},
        core::{Device, Result, Stream, Tensor, testing},
    };

    pub(crate) fn all_devices() -> Vec<Device> {
        let mut devices = testing::devices();
        devices.push(Device::Reference);
        devices
    }

    pub(crate) fn random(shape: &[usize], stream: u32, device: &Device) -> Tensor {
        let stream = Stream::new(5, stream, 0);
        let values = (0..shape.iter().product::<usize>()).map(|i| f64::from(stream.normal(i as u64) as f32));
        Tensor::from_f64(shape, values.collect(), device).unwrap()
    }

    pub(crate) fn assert_close(name: &str, got: &Tensor, expected: &Tensor) {
        let (got, expected) = (got.to_f64().unwrap(), expected.to_f64().unwrap());
        let largest = expected.iter().fold(1e-30f64, |largest, v| largest.max(v.abs()));
        for (got, expected) in got.iter().zip(&expected) {
            assert!((got - expected).abs() <= 1e-4 * largest, "{name}: {got}, not {expected}");
        }
    }

    /// Fits `cumulative_sum(hard_swish(x·wᵀ + b))` to its own values at other weights: the losses, and the means of the weights.
    fn fit(device: &Device) -> Result<(Vec<f64>, Vec<Tensor>)> {
        let model = |tape: &Tape, w: &Param, b: &Param, x: &Tensor, target: Option<&Tensor>| {
            let x = tape.constant(x.clone());
            let y = cumulative_sum(&x.linear(&tape.param(w), Some(&tape.param(b))).map(&HARD_SWISH));
            let Some(target) = target else { return Ok((y.value().clone(), Gradients::new())) };
            let loss = log_cosh_loss(&y, &tape.constant(target.clone()));
            Ok::<_, quarterturn::core::Error>((loss.value().clone(), loss.backward()?))
        };
        let param = |shape: &[usize], stream| Param::weight(random(shape, stream, device));
        let (true_w, true_b) = (param(&[4, 3], 1), param(&[4], 2));
        let (mut w, mut b) = (param(&[4, 3], 3), param(&[4], 4));
        let halves = [random(&[8, 3], 5, device), random(&[8, 3], 6, device)];
        let (mut lion, mut averages, mut losses) = (Lion::new(0.9, 0.99, 0.0), Averages::new(0.9), Vec::new());
        for _ in 0..60 {
            let (mut sum, mut loss) = (Gradients::new(), 0.0);
            for x in &halves {
                let (target, _) = model(&Tape::evaluation(), &true_w, &true_b, x, None)?;
                let (value, gradients) = model(&Tape::new(), &w, &b, x, Some(&target))?;
                sum.add(&gradients);
                loss += value.to_f64()?[0] / 2.0;
            }
            sum.scale(0.5);
            sum.clip_norm(1.0);
            let mut visit = |f: &mut dyn FnMut(&str, &mut Param)| {
                f("w", &mut w);
                f("b", &mut b);
            };
            lion.step(&sum, 0.05, &mut visit);
            averages.update(&mut visit);
            losses.push(loss);
        }
        Ok((losses, [&w, &b].map(|param| averages.mean(param).unwrap().clone()).to_vec()))
    }

    #[test]
    fn all_of_it_together_learns_alike_on_every_device() {
        let (expected, means) = fit(&Device::Reference).unwrap();
        assert!(expected[59] < 0.1 * expected[0], "{expected:?}");
        for device in testing::devices() {
            let (losses, means_here) = fit(&device).unwrap();
            let same = losses.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-2 * expected[0]);
            assert!(same, "{device}: {losses:?}, not {expected:?}");
            assert_eq!(means_here.len(), means.len());
        }
    }
}
