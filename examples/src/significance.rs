//! Whether two samples differ: intervals of means, Welch's t-test, which takes no variances to be equal, and the paired one.

use super::rotations::statistics;
use statrs::distribution::{ContinuousCDF, FisherSnedecor, StudentsT};

/// Half the width of the interval around the mean that covers the true one with probability 95%: `t₀.₉₇₅(n−1)·s/√n`.
/// `None` with fewer than two values.
pub fn interval95(values: &[f64]) -> Option<f64> {
    let (_, std) = statistics(values);
    let n = values.len() as f64;
    let students = StudentsT::new(0.0, 1.0, n - 1.0).ok().filter(|_| values.len() > 1)?;
    Some(students.inverse_cdf(0.975) * std / n.sqrt())
}

/// The outcome of a t-test.
#[derive(Clone, Copy, Debug)]
pub struct TTest {
    /// `mean(a) − mean(b)` in units of its standard error.
    pub t: f64,
    /// Degrees of freedom.
    pub freedom: f64,
    /// Probability of a difference as large or larger, either way, if the true means are equal.
    pub p: f64,
    /// Half the width of the interval around `mean(a) − mean(b)` that covers the true one with probability 95%.
    pub half: f64,
}

/// Compares the means of two samples (Welch 1947). `None` with fewer than two values in one, or if neither varies.
pub fn welch(a: &[f64], b: &[f64]) -> Option<TTest> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let ((mean_a, std_a), (mean_b, std_b)) = (statistics(a), statistics(b));
    let (n_a, n_b) = (a.len() as f64, b.len() as f64);
    let (error_a, error_b) = (std_a * std_a / n_a, std_b * std_b / n_b);
    let error = error_a + error_b;
    let freedom = error * error / (error_a * error_a / (n_a - 1.0) + error_b * error_b / (n_b - 1.0));
    let t = (mean_a - mean_b) / error.sqrt();
    let students = StudentsT::new(0.0, 1.0, freedom).ok()?;
    Some(TTest { t, freedom, p: 2.0 * students.sf(t.abs()), half: students.inverse_cdf(0.975) * error.sqrt() })
}

/// Compares samples whose values belong together, one by one: whether the mean of their differences is 0 (Student 1908). `None` if
/// there are not as many of both, with fewer than two, or if the differences do not vary.
pub fn paired(a: &[f64], b: &[f64]) -> Option<TTest> {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let half = interval95(&differences).filter(|&half| a.len() == b.len() && half > 0.0)?;
    let (mean, std) = statistics(&differences);
    let freedom = differences.len() as f64 - 1.0;
    let t = mean / (std / (freedom + 1.0).sqrt());
    Some(TTest { t, freedom, p: 2.0 * StudentsT::new(0.0, 1.0, freedom).ok()?.sf(t.abs()), half })
}

/// `mean(a) − mean(b)` with its 95% interval and p, as text: `+1.20 ± 0.45 (p 0.003)`. `None` where [`welch`] is.
pub fn difference(a: &[f64], b: &[f64]) -> Option<String> {
    let TTest { half, p, .. } = welch(a, b)?;
    let p = if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") };
    Some(format!("{:+.2} ± {half:.2} (p {p})", statistics(a).0 - statistics(b).0))
}

/// Probability of a ratio of variances as far from 1 or farther, either way, if the true ones are equal and the values normal: the
/// F-test. `None` with fewer than two values in one, or if one does not vary.
pub fn variances_differ(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() < 2 || b.len() < 2 {
        return None;
    }
    let ratio = (statistics(a).1 / statistics(b).1).powi(2);
    let f = FisherSnedecor::new(a.len() as f64 - 1.0, b.len() as f64 - 1.0).ok()?;
    (ratio.is_finite() && ratio > 0.0).then(|| 2.0 * f.cdf(ratio).min(f.sf(ratio)))
}

/// Holm's adjustment (1979): if only those tests are called significant whose adjusted p is below 5%, the probability that any of
/// them is so by chance is below 5%, however they depend on each other. In the order of `p`.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let (mut adjusted, mut least) = (vec![0.0; p.len()], 0.0f64);
    for (rank, &i) in order.iter().enumerate() {
        least = least.max(p[i] * (p.len() - rank) as f64).min(1.0);
        adjusted[i] = least;
    }
    adjusted
}
