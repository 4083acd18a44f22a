//! A loss made of operations that exist and one elementwise function.

use quarterturn::{autograd::Var, kernels::Elementwise};

/// `ln cosh x`: as x²/2 near 0, as |x| − ln 2 far away. The processor's path is derived from the definition.
static LOG_COSH: Elementwise = Elementwise {
    name: "log_cosh",
    parameters: [],
    value: |x, []| x.abs() + (-2.0 * x.abs()).exp().ln_1p() - std::f64::consts::LN_2,
    slope: |x, []| x.tanh(),
    cpu: None,
    wgsl: ["abs(x) + ln_1p(exp(-2.0 * abs(x))) - 0.6931472", "tanh(clamp(x, -15.0, 15.0))"],
};

/// The mean of `ln cosh(prediction − target)`.
#[track_caller]
pub fn log_cosh_loss<'t>(prediction: &Var<'t>, target: &Var<'t>) -> Var<'t> {
    let n = prediction.value().len() as f64;
    prediction.sub(target).map(&LOG_COSH).sum().scale(1.0 / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{all_devices, random};
    use quarterturn::{autograd::gradcheck, core::Device};

    #[test]
    fn the_function_and_the_loss_are_right() {
        assert_eq!(LOG_COSH.check([], &[-30.0, -1.5, 0.2, 4.0], &all_devices()).unwrap(), Ok(()));
        let operands = [1, 2].map(|stream| random(&[4, 3], stream, &Device::Reference));
        assert_eq!(gradcheck(|_, v| log_cosh_loss(&v[0], &v[1]), &operands, 1e-7), Ok(()));
    }
}
