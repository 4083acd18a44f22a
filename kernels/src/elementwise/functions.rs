//! The elementwise functions of this library, for [`crate::map`] and `Var::map`.

use super::{Elementwise, each};
use crate::math;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// The sigmoid `σ(x) = 1 / (1 + e⁻ˣ)`.
pub static SIGMOID: Elementwise = Elementwise {
    name: "sigmoid",
    parameters: [],
    value: |x, []| sigmoid(x),
    slope: |x, []| sigmoid(x) * sigmoid(-x),
    cpu: Some([|x, y, []| each(x, y, math::sigmoid), |x, y, []| each(x, y, |x| math::sigmoid(x) * math::sigmoid(-x))]),
    wgsl: ["sigmoid(x)", "sigmoid(x) * sigmoid(-x)"],
};

/// `x·σ(x)`, also called swish (Elfwing et al. 2018).
pub static SILU: Elementwise = Elementwise {
    name: "silu",
    parameters: [],
    value: |x, []| x.max(-800.0) * sigmoid(x),
    slope: |x, []| sigmoid(x) * (1.0 + x.clamp(-800.0, 800.0) * sigmoid(-x)),
    cpu: Some([
        |x, y, []| each(x, y, |x| x.max(-150.0) * math::sigmoid(x)),
        |x, y, []| each(x, y, |x| math::sigmoid(x) * (1.0 + x.clamp(-150.0, 150.0) * math::sigmoid(-x))),
    ]),
    wgsl: ["max(x, -150.0) * sigmoid(x)", "sigmoid(x) * (1.0 + clamp(x, -150.0, 150.0) * sigmoid(-x))"],
};

/// `x·Φ(x)`, Φ the standard normal distribution (Hendrycks & Gimpel 2016); not its approximation by a tanh.
pub static GELU: Elementwise = Elementwise {
    name: "gelu",
    parameters: [],
    value: |x, []| x.max(-40.0) * normal_cdf(x),
    slope: |x, []| normal_cdf(x) + x.clamp(-40.0, 40.0) * (-0.5 * x * x).exp() / (2.0 * PI).sqrt(),
    cpu: Some([
        |x, y, []| each(x, y, |x| x.max(-20.0) * math::normal_cdf(x)),
        |x, y, []| each(x, y, |x| math::normal_cdf(x) + x.clamp(-20.0, 20.0) * math::exp(-0.5 * x * x) * 0.398_942_3),
    ]),
    wgsl: [
        "max(x, -20.0) * normal_cdf(x)",
        "normal_cdf(x) + clamp(x, -20.0, 20.0) * exp(-0.5 * min(x * x, 200.0)) * 0.3989423",
    ],
};

/// The hyperbolic tangent.
pub static TANH: Elementwise = Elementwise {
    name: "tanh",
    parameters: [],
    value: |x, []| x.tanh(),
    slope: |x, []| 4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x),
    cpu: Some([
        |x, y, []| each(x, y, math::tanh),
        |x, y, []| each(x, y, |x| 4.0 * math::sigmoid(2.0 * x) * math::sigmoid(-2.0 * x)),
    ]),
    wgsl: ["tanh(clamp(x, -15.0, 15.0))", "4.0 * sigmoid(2.0 * x) * sigmoid(-2.0 * x)"],
};

/// `ln(1 + eˣ)`, a smooth ReLU.
pub static SOFTPLUS: Elementwise = Elementwise {
    name: "softplus",
    parameters: [],
    value: |x, []| x.max(0.0) + (-x.abs()).exp().ln_1p(),
    slope: |x, []| sigmoid(x),
    cpu: Some([
        |x, y, []| each(x, y, |x| x.max(0.0) + math::ln_1p(math::exp(-x.abs()))),
        |x, y, []| each(x, y, math::sigmoid),
    ]),
    wgsl: ["softplus(x)", "sigmoid(x)"],
};

/// `ln σ(x) = −ln(1 + e⁻ˣ)`, the logarithm of a probability without its rounding to 0.
pub static LOG_SIGMOID: Elementwise = Elementwise {
    name: "log_sigmoid",
    parameters: [],
    value: |x, []| x.min(0.0) - (-x.abs()).exp().ln_1p(),
    slope: |x, []| sigmoid(-x),
    cpu: Some([
        |x, y, []| each(x, y, |x| x.min(0.0) - math::ln_1p(math::exp(-x.abs()))),
        |x, y, []| each(x, y, |x| math::sigmoid(-x)),
    ]),
    wgsl: ["-softplus(-x)", "sigmoid(-x)"],
};

/// `x` where that is above 0, else `slope·x` (Maas et al. 2013).
pub static LEAKY_RELU: Elementwise<1> = Elementwise {
    name: "leaky_relu",
    parameters: ["slope"],
    value: |x, [slope]| if x > 0.0 { x } else { slope * x },
    slope: |x, [slope]| if x > 0.0 { 1.0 } else { slope },
    cpu: Some([
        |x, y, [slope]| each(x, y, |x| if x > 0.0 { x } else { slope * x }),
        |x, y, [slope]| each(x, y, |x| if x > 0.0 { 1.0 } else { slope }),
    ]),
    wgsl: ["select(slope * x, x, x > 0.0)", "select(slope, 1.0, x > 0.0)"],
};

/// `eˣ`.
pub static EXP: Elementwise = Elementwise {
    name: "exp",
    parameters: [],
    value: |x, []| x.exp(),
    slope: |x, []| x.exp(),
    cpu: Some([|x, y, []| each(x, y, math::exp), |x, y, []| each(x, y, math::exp)]),
    wgsl: ["exp(x)", "exp(x)"],
};

/// The natural logarithm; −∞ for 0, NaN for negative numbers.
pub static LOG: Elementwise = Elementwise {
    name: "log",
    parameters: [],
    value: |x, []| x.ln(),
    slope: |x, []| 1.0 / x,
    cpu: Some([|x, y, []| each(x, y, math::ln), |x, y, []| each(x, y, |x| 1.0 / x)]),
    wgsl: ["select(select(log(x), -infinity, x == 0.0), nan, x < 0.0)", "1.0 / x"],
};

/// The square root; NaN for negative numbers. Its slope at 0 is infinite.
pub static SQRT: Elementwise = Elementwise {
    name: "sqrt",
    parameters: [],
    value: |x, []| x.sqrt(),
    slope: |x, []| 0.5 / x.sqrt(),
    cpu: Some([|x, y, []| each(x, y, f32::sqrt), |x, y, []| each(x, y, |x| 0.5 / x.sqrt())]),
    wgsl: ["select(sqrt(x), nan, x < 0.0)", "select(0.5 / sqrt(x), nan, x < 0.0)"],
};

/// `|x|`; its slope at 0 is 0.
pub static ABS: Elementwise = Elementwise {
    name: "abs",
    parameters: [],
    value: |x, []| x.abs(),
    slope: |x, []| if x == 0.0 { 0.0 } else { x.signum() },
    cpu: Some([
        |x, y, []| each(x, y, f32::abs),
        |x, y, []| each(x, y, |x| if x == 0.0 { 0.0 } else { 1f32.copysign(x) }),
    ]),
    wgsl: ["abs(x)", "sign(x)"],
};

/// `x²`.
pub static SQUARE: Elementwise = Elementwise {
    name: "square",
    parameters: [],
    value: |x, []| x * x,
    slope: |x, []| 2.0 * x,
    cpu: Some([|x, y, []| each(x, y, |x| x * x), |x, y, []| each(x, y, |x| 2.0 * x)]),
    wgsl: ["x * x", "2.0 * x"],
};

/// `1/x`.
pub static RECIPROCAL: Elementwise = Elementwise {
    name: "reciprocal",
    parameters: [],
    value: |x, []| 1.0 / x,
    slope: |x, []| -1.0 / (x * x),
    cpu: Some([|x, y, []| each(x, y, |x| 1.0 / x), |x, y, []| each(x, y, |x| -1.0 / (x * x))]),
    wgsl: ["1.0 / x", "-1.0 / (x * x)"],
};

/// `x`, but no less than `low` and no more than `high`; its slope is 1 from `low` to `high`, and 0 elsewhere.
pub static CLAMP: Elementwise<2> = Elementwise {
    name: "clamp",
    parameters: ["low", "high"],
    value: |x, [low, high]| x.max(low).min(high),
    slope: |x, [low, high]| f64::from(u8::from(low <= x && x <= high)),
    cpu: Some([
        |x, y, [low, high]| each(x, y, |x| x.max(low).min(high)),
        |x, y, [low, high]| each(x, y, |x| if low <= x && x <= high { 1.0 } else { 0.0 }),
    ]),
    wgsl: ["min(max(x, low), high)", "select(0.0, 1.0, low <= x && x <= high)"],
};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `Φ(x) = ½ + φ(x)·(x + x³/3 + x⁵/(3·5) + …)`, φ the density.
fn normal_cdf(x: f64) -> f64 {
    if x.abs() > 10.0 {
        return if x > 0.0 { 1.0 } else { 0.0 };
    }
    let (mut term, mut sum, mut n) = (x, x, 1.0);
    while term.abs() > 1e-17 * sum.abs() {
        n += 2.0;
        term *= x * x / n;
        sum += term;
    }
    0.5 + FRAC_1_SQRT_2 / PI.sqrt() * (-0.5 * x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        elementwise::{map::Part, shader::validate},
        parity::devices_and_reference,
    };

    /// Where the operations are smooth, near and far.
    const EVERYWHERE: &[f64] = &[-90.0, -17.0, -4.2, -1.1, -0.3, -0.002, 0.004, 0.25, 0.9, 3.7, 12.0, 87.0];
    const POSITIVE: &[f64] = &[1e-6, 0.004, 0.25, 0.9, 1.1, 3.7, 12.0, 87.0, 1e9];

    fn check<const P: usize>(f: &Elementwise<P>, parameters: [f64; P], smooth: &[f64]) {
        assert_eq!(f.check(parameters, smooth, &devices_and_reference()).unwrap(), Ok(()));
        for part in [Part::Value, Part::Slope] {
            validate(&f.expression(part), part.name());
        }
    }

    #[test]
    fn values_slopes_and_devices() {
        for f in [SIGMOID, SILU, GELU, TANH, SOFTPLUS, LOG_SIGMOID, EXP, ABS, SQUARE, RECIPROCAL] {
            check(&f, [], EVERYWHERE);
        }
        for f in [LOG, SQRT] {
            check(&f, [], POSITIVE);
        }
        check(&LEAKY_RELU, [0.01], EVERYWHERE);
        check(&CLAMP, [-1.0, 2.5], EVERYWHERE);
    }

    #[test]
    fn limits_at_infinity() {
        let at = |f: &Elementwise| [f64::NEG_INFINITY, f64::INFINITY].map(|x| [(f.value)(x, []), (f.slope)(x, [])]);
        let infinity = f64::INFINITY;
        for (f, limits) in [
            (SIGMOID, [[0.0, 0.0], [1.0, 0.0]]),
            (SILU, [[0.0, 0.0], [infinity, 1.0]]),
            (GELU, [[0.0, 0.0], [infinity, 1.0]]),
            (TANH, [[-1.0, 0.0], [1.0, 0.0]]),
            (SOFTPLUS, [[0.0, 0.0], [infinity, 1.0]]),
            (EXP, [[0.0, 0.0], [infinity, infinity]]),
        ] {
            assert_eq!(at(&f), limits, "{}", f.name);
        }
    }
}
