//! Mixup: training on images that are blended in pairs.

use quarterturn_autograd::Var;
use quarterturn_core::{Result, Stream, Tensor};
use quarterturn_kernels as kernels;

/// Keys of the random numbers, beside those of dropout.
const SHARES: u32 = u32::from_be_bytes(*b"mixs");
const PARTNERS: u32 = u32::from_be_bytes(*b"mixp");
/// Shares are multiples of this, so that the last bit of a logarithm, which differs between machines, decides nothing.
const STEP: f64 = 1.0 / 65_536.0;

/// How the images of one batch are blended.
pub(super) struct Mix {
    /// λ.
    share: f64,
    /// For each image the other one.
    partners: Vec<usize>,
}

impl Mix {
    /// For the batch of `n` images at this step of the run: λ of Beta(α, α), and each image's partner by a permutation.
    pub fn draw(alpha: f64, seed: u64, step: u32, n: usize) -> Self {
        let partners = Stream::new(seed, PARTNERS, step).permutation(n);
        Mix { share: beta(alpha, Stream::new(seed, SHARES, step)), partners }
    }

    /// `λ·x[n] + (1 − λ)·x[partner(n)]`.
    pub fn blend(&self, x: &Tensor) -> Tensor {
        let others = kernels::index_select(x, 0, &self.partners);
        kernels::add(&kernels::scale(x, self.share), &kernels::scale(&others, 1.0 - self.share))
    }

    /// `λ·loss(y) + (1 − λ)·loss(y[partner])`.
    pub fn loss<'t>(&self, targets: &Tensor, loss: impl Fn(&Tensor) -> Result<Var<'t>>) -> Result<Var<'t>> {
        let others = kernels::index_select(targets, 0, &self.partners);
        Ok(loss(targets)?.scale(self.share).add(&loss(&others)?.scale(1.0 - self.share)))
    }
}

/// A number from 0 to 1 of the distribution Beta(α, α), by Jöhnk's method: of pairs u, v of uniform numbers the first for which
/// `u^(1/α) + v^(1/α) ≤ 1`, and of that `u^(1/α) / (u^(1/α) + v^(1/α))`.
fn beta(alpha: f64, stream: Stream) -> f64 {
    for pair in 0u64.. {
        // In logarithms, as powers of small numbers are 0.
        let log = |index| f64::from(stream.uniform(2 * pair + index).max(f32::MIN_POSITIVE)).ln() / alpha;
        let (u, v) = (log(0), log(1));
        if u.exp() + v.exp() <= 1.0 {
            return (1.0 / (1.0 + (v - u).exp()) / STEP).round() * STEP;
        }
    }
    unreachable!("a pair is accepted with a probability of more than 1 % for each α that is allowed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::Objective;
    use quarterturn_autograd::Tape;
    use quarterturn_core::Device;
    use quarterturn_kernels::softmax;

    /// `−(1/N) Σ_n Σ_k t[n, k] log p[n, k]` with `t[n] = λ·onehot(y[n]) + (1 − λ)·onehot(y[partner(n)])`.
    #[test]
    fn the_loss_of_classes_is_that_of_blended_labels() {
        let mix = Mix { share: 0.25, partners: vec![2, 0, 3, 1] };
        let noise = Stream::new(1, 0, 0);
        let logits = (0..12).map(|i| noise.normal(i) as f32).collect();
        let logits = Tensor::from_vec([4, 3], logits, &Device::Cpu).unwrap();
        let classes = [0.0, 2.0, 1.0, 0.0];
        let labels = Tensor::from_vec([4], classes.to_vec(), &Device::Cpu).unwrap();
        let tape = Tape::new();
        let outputs = tape.constant(logits.clone());
        let loss = mix.loss(&labels, |targets| Objective::default().of_fit(&outputs, targets)).unwrap();
        let p = softmax(&logits, 1).to_vec().unwrap();
        let lost = |n: usize, class: f32| -f64::from(p[3 * n + class as usize]).ln() / 4.0;
        let expected: f64 = (0..4).map(|n| 0.25 * lost(n, classes[n]) + 0.75 * lost(n, classes[mix.partners[n]])).sum();
        assert!((f64::from(loss.value().to_vec().unwrap()[0]) - expected).abs() < 1e-5, "{expected}");
        let blended = mix.blend(&labels).to_vec().unwrap();
        assert_eq!(blended, [0.75, 0.5, 0.25, 1.5]);
    }

    /// Mean 1/2, and the variance 1/(4(2α + 1)).
    #[test]
    fn shares_have_the_moments_of_their_distribution() {
        for alpha in [0.05, 0.2, 1.0, 4.0] {
            let shares: Vec<f64> = (0..4000).map(|step| beta(alpha, Stream::new(1, SHARES, step))).collect();
            assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
            let mean = shares.iter().sum::<f64>() / 4000.0;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 4000.0;
            let expected = 0.25 / (2.0 * alpha + 1.0);
            assert!(
                (mean - 0.5).abs() < 0.03 && (variance / expected - 1.0).abs() < 0.08,
                "{alpha}: {mean}, {variance}"
            );
        }
    }
}
