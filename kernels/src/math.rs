//! Functions of `f32` for the CPU code of [`crate::Elementwise`] operations. They have no branches and no calls, so the
//! compiler can vectorise loops over them. Results have the same bits on every machine and at every vector width.
//!
//! Polynomials and splitting of arguments are those of Moshier's Cephes library, and for [`erfc`] those of Press et al.,
//! Numerical Recipes, §6.2. Errors are given in units in the last place (ulp) where results are normal numbers; a test
//! holds them.

use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// ln 2 in two parts, of which multiples of the first by whole numbers below 2¹⁵ are exact.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];

/// `eˣ`, within 2 ulp; below 2⁻¹²⁶ as exact as such (subnormal) numbers are. NaN for NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // eˣ = 2ⁿ·eʳ with |r| ≤ ½ ln 2. Beyond these ends the result is 0 or infinite anyway. (A comparison keeps NaN.)
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    // Adding 1.5·2²³ leaves a whole number in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let rounded = x * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN_2[0] - n * LN_2[1];
    let p = polynomial(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5]);
    let n = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    // In two steps, for 2ⁿ alone may lie beyond what a number can be.
    let half = n >> 1;
    (p * r * r + r + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `2ⁿ`, −126 ≤ n ≤ 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `ln x`, within 2 ulp; −∞ for 0, NaN for NaN and for negative numbers.
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    // x = m·2ᵉ with m from √½ to √2; what is too small for that grows first.
    let tiny = x < f32::MIN_POSITIVE;
    let bits = if tiny { x * 8_388_608.0 } else { x }.to_bits();
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let shifted = bits.wrapping_add(0x3f80_0000 - ROOT_HALF);
    let e = ((shifted >> 23) as i32 - 127) as f32 - if tiny { 23.0 } else { 0.0 };
    let f = f32::from_bits((shifted & 0x007f_ffff) + ROOT_HALF) - 1.0;
    let p = polynomial(
        f,
        [
            7.037_683_6e-2,
            -0.115_146_1,
            0.116_769_98,
            -0.124_201_41,
            0.142_493_23,
            -0.166_680_57,
            0.200_007_15,
            -0.249_999_94,
            0.333_333_3,
        ],
    );
    let square = f * f;
    let y = e * LN_2[0] + (f + (p * f * square + e * LN_2[1] - 0.5 * square));
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x >= 0.0 { y } else { f32::NAN }
}

/// `ln(1 + x)`, within 2 ulp, also for an `x` so small that 1 + x rounds to 1. NaN below −1.
#[inline(always)]
pub fn ln_1p(x: f32) -> f32 {
    let sum = 1.0 + x;
    // What the sum has lost, to first order.
    let lost = if sum == f32::INFINITY || sum == 0.0 { 0.0 } else { (x - (sum - 1.0)) / sum };
    // x itself where nothing of it is left; −0 too.
    if sum == 1.0 { x } else { ln(sum) + lost }
}

/// `1 / (1 + e⁻ˣ)`, within 3 ulp.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    (if x < 0.0 { e } else { 1.0 }) / (1.0 + e)
}

/// The hyperbolic tangent, within 2 ulp.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let small = polynomial(square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 0.133_314_42, -0.333_332_8]);
    let large = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.625 { small * square * x + x } else { large }
}

/// The complementary error function `2/√π · ∫ₓ^∞ e^(−t²) dt`: its relative error is below 5e-7 up to x = 2, and 3e-6 up to
/// where the result is below 2⁻¹²⁶.
#[inline(always)]
pub fn erfc(x: f32) -> f32 {
    let z = x.abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = polynomial(
        t,
        [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ],
    );
    let tail = t * exp(p - z * z);
    if x < 0.0 { 2.0 - tail } else { tail }
}

/// The probability `Φ(x)` that a standard normal variable is below `x`: ½ erfc(−x/√2).
#[inline(always)]
pub fn normal_cdf(x: f32) -> f32 {
    0.5 * erfc(-FRAC_1_SQRT_2 * x)
}

/// By Horner's rule, the highest power first.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut y = coefficients[0];
    for c in &coefficients[1..] {
        y = y * x + c;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every 1000th number, of all sizes.
    fn numbers() -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(9973).map(f32::from_bits)
    }

    /// The greatest error in ulp where both results are normal numbers; others must agree but for the smallest of all.
    fn greatest_error(f: fn(f32) -> f32, exact: fn(f64) -> f64, within: f32) -> f64 {
        let mut greatest = 0.0f64;
        for x in numbers().filter(|x| x.is_nan() || x.abs() <= within) {
            let (y, expected) = (f(x), exact(f64::from(x)));
            let rounded = expected as f32;
            if rounded.is_nan() || rounded.is_infinite() || y.is_infinite() {
                // The last number that is not infinite may round to it.
                let near = expected.abs() > f64::from(f32::MAX) * (1.0 - 1e-6) && y.abs() > f32::MAX * 0.999_999;
                assert!(y == rounded || (y.is_nan() && rounded.is_nan()) || near, "f({x:e}) = {y:e}, not {rounded:e}");
            } else if rounded.abs() < f32::MIN_POSITIVE {
                assert!((f64::from(y) - expected).abs() <= 3e-45, "f({x:e}) = {y:e}, not {expected:e}");
            } else {
                let ulp = f64::from(f32::from_bits(rounded.abs().to_bits() + 1) - rounded.abs());
                greatest = greatest.max((f64::from(y) - expected).abs() / ulp);
            }
        }
        greatest
    }

    #[test]
    fn errors_are_as_promised() {
        let all = f32::INFINITY;
        for (name, f, exact, ulps) in [
            ("exp", exp as fn(f32) -> f32, f64::exp as fn(f64) -> f64, 2.0),
            ("ln", ln, f64::ln, 2.0),
            ("ln_1p", ln_1p, f64::ln_1p, 2.0),
            ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3.0),
            ("tanh", tanh, f64::tanh, 2.0),
        ] {
            let error = greatest_error(f, exact, all);
            println!("{name}: {error:.2} ulp");
            assert!(error <= ulps, "{name}: {error} ulp");
        }
    }

    #[test]
    fn the_error_function_at_a_few_places() {
        let exact = [
            (-8.0, 2.0),
            (-1.0, 1.842700792949715),
            (-0.125, 1.1403162048013338),
            (0.0, 1.0),
            (0.125, 0.8596837951986662),
            (0.5, 0.4795001221869535),
            (1.0, 0.15729920705028513),
            (1.5, 0.033894853524689274),
            (2.0, 0.004677734981047265),
            (3.0, 2.2090496998585438e-05),
            (5.0, 1.5374597944280351e-12),
            (8.0, 1.1224297172982928e-29),
            (9.0, 4.13703174651381e-37),
        ];
        for (x, expected) in exact {
            let error = (f64::from(erfc(x as f32)) / expected - 1.0f64).abs();
            println!("{x} {error:e}");
            assert!(error < if x <= 2.0 { 5e-7 } else { 6e-6 }, "erfc({x}): {error:e}");
        }
        assert!((erfc(f32::NEG_INFINITY), erfc(f32::INFINITY)) == (2.0, 0.0) && erfc(f32::NAN).is_nan());
        assert!((normal_cdf(1.0) - 0.841_344_8).abs() < 1e-6);
    }
}
