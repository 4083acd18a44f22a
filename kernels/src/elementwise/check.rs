//! A check of elementwise operations, for tests.

use super::{Elementwise, map, map_vjp};
use quarterturn_core::{Device, Result, Tensor};

impl<const P: usize> Elementwise<P> {
    /// Checks the operation, for tests. On [`Device::Reference`], `slope` at each of the points `smooth` must agree
    /// with a finite difference of `value`. On each of `devices`, values and gradients must agree with the reference,
    /// within `2e-5·|expected| + 1e-6`. This is checked at `smooth` and at numbers of all sizes and both signs,
    /// including 0 and ±∞. NaN must stay NaN. `Ok(Err(…))` says where a check fails.
    ///
    /// # Errors
    /// Errors of a GPU, such as WGSL that does not compile.
    pub fn check(
        &self,
        parameters: [f64; P],
        smooth: &[f64],
        devices: &[Device],
    ) -> Result<std::result::Result<(), String>> {
        let name = self.name;
        for &x in smooth {
            let h = 1e-5 * if x == 0.0 { 1e-3 } else { x.abs() };
            let [value, slope] = [self.value, self.slope].map(|f| move |x| f(x, parameters));
            let (difference, slope) = ((value(x + h) - value(x - h)) / (2.0 * h), slope(x));
            // Written so that NaN fails.
            let agrees = (slope - difference).abs() <= 1e-6 * slope.abs() + 1e-9;
            if !agrees {
                return Ok(Err(format!("{name}: the slope at {x} is {slope}, the difference quotient {difference}")));
            }
        }
        let sizes = [1e-30, 1e-5, 1.0, 15.0, 70.0, 88.0, 89.0, 104.0, 1e4, 1e9, 3e38, f64::INFINITY, 0.0];
        let mut xs: Vec<f64> = sizes.into_iter().flat_map(|x| [x, -x]).chain(smooth.iter().copied()).collect();
        xs.push(f64::NAN);
        // Each in several places, for a vector and what a vector leaves over may go different ways.
        let xs: Vec<f64> = xs.iter().cycle().take(3 * xs.len()).map(|&x| f64::from(x as f32)).collect();
        let parameters = parameters.map(|p| f64::from(p as f32));
        let results = |device: &Device| -> Result<[Vec<f64>; 2]> {
            let x = Tensor::from_f64([xs.len()], xs.clone(), device)?;
            let dy = Tensor::full([xs.len()], -0.5, device)?;
            Ok([map(&x, self, parameters).to_f64()?, map_vjp(&x, &dy, self, parameters).to_f64()?])
        };
        let expected = results(&Device::Reference)?;
        for device in devices {
            for (what, (got, expected)) in ["value", "gradient"].iter().zip(results(device)?.iter().zip(&expected)) {
                for ((&x, &got), &expected) in xs.iter().zip(got).zip(expected) {
                    if !agree(x, got, expected) {
                        return Ok(Err(format!("{name}: {what} {got:e} at {x:e} on {device}, expected {expected:e}")));
                    }
                }
            }
        }
        Ok(Ok(()))
    }
}

fn agree(x: f64, got: f64, expected: f64) -> bool {
    if x.is_nan() || expected.is_nan() {
        return got.is_nan();
    }
    // Functions of a GPU have absolute errors, as of a logarithm near 1.
    let close = (got - expected).abs() <= 2e-5 * expected.abs() + 1e-6;
    // What is nearly too large for f32 may be infinite.
    let large = expected.abs() > 1e38 && got.abs() > 1e38 && got.signum() == expected.signum();
    close || large
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SILU;

    fn told(f: &Elementwise) -> String {
        f.check([], &[-1.0, 0.5], &[Device::Reference, Device::Cpu]).unwrap().unwrap_err()
    }

    #[test]
    fn what_is_wrong_is_told() {
        let slope = Elementwise { slope: |x, []| x, ..SILU };
        assert!(told(&slope).starts_with("silu: the slope at -1 is -1, the difference quotient 0.07"));
        let cpu = SILU.cpu.unwrap();
        let value = Elementwise { cpu: Some([|x, y, []| crate::each(x, y, |x| x), cpu[1]]), ..SILU };
        assert!(
            told(&value).starts_with("silu: value 9.999999747378752e-6 at 9.999999747378752e-6 on "),
            "{}",
            told(&value)
        );
        let gradient = Elementwise { cpu: Some([cpu[0], |_, y, []| y.fill(1.0)]), ..SILU };
        assert!(
            told(&gradient).starts_with("silu: gradient -5e-1 at 1.0000000031710769e-30 on "),
            "{}",
            told(&gradient)
        );
    }

    #[test]
    fn what_the_cpu_is_not_given_it_derives() {
        let derived = Elementwise { cpu: None, ..SILU };
        assert_eq!(derived.check([], &[-1.0, 0.5], &[Device::Cpu]).unwrap(), Ok(()));
    }
}
