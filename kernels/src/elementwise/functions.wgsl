// What elementwise operations can call beside WGSL's own functions; none needs an argument that is finite.

// ln(1 + x), also of an x that 1 + x loses.
fn ln_1p(x: f32) -> f32 {
    return select(log(1.0 + x), x * (1.0 - 0.5 * x), abs(x) < 1e-3);
}

// 1 / (1 + e⁻ˣ)
fn sigmoid(x: f32) -> f32 {
    let e = exp(-min(abs(x), 100.0));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

// ln(1 + eˣ)
fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + ln_1p(exp(-min(abs(x), 100.0)));
}

// The probability that a standard normal variable is below x (Press et al., Numerical Recipes, §6.2).
fn normal_cdf(x: f32) -> f32 {
    let z = min(abs(x), 20.0) * 0.70710678;
    let t = 1.0 / (1.0 + 0.5 * z);
    let a = -0.82215223 + t * 0.17087277;
    let b = 0.27886807 + t * (-1.13520398 + t * (1.48851587 + t * a));
    let c = 0.37409196 + t * (0.09678418 + t * (-0.18628806 + t * b));
    let tail = 0.5 * t * exp(-z * z - 1.26551223 + t * (1.00002368 + t * c));
    return select(tail, 1.0 - tail, x > 0.0);
}
