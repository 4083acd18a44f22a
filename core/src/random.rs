//! Random numbers without state (counter-based). Each is a pure function of (seed, stream, epoch, index), so every
//! thread on every device computes the same one, in any order.
//!
//! Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). Only 32-bit integer
//! operations, so that `prelude.wgsl` can hold the same function.

/// Multipliers and key increments of Philox4x32.
const M: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const W: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words: ten rounds of Philox4x32.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(M[0]) * u64::from(counter[0]);
        let b = u64::from(M[1]) * u64::from(counter[2]);
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [key[0].wrapping_add(W[0]), key[1].wrapping_add(W[1])];
    }
    counter
}

/// A sequence of random numbers, named by what it is for. Sequences with different streams are independent.
///
/// ```
/// let noise = quarterturn_core::Stream::new(7, 0, 0);
/// assert_eq!(noise.uniform(3), noise.uniform(3)); // number 3 of the sequence, always the same
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// The run's seed.
    pub seed: u64,
    /// What the numbers are used for: a layer, shuffling, an augmentation.
    pub stream: u32,
    /// The pass over the data, or the training step.
    pub epoch: u32,
}

impl Stream {
    /// The stream of this seed, use and epoch.
    pub fn new(seed: u64, stream: u32, epoch: u32) -> Self {
        Stream { seed, stream, epoch }
    }

    /// Four random words: block `block` of the sequence.
    #[inline(always)]
    pub fn block(&self, block: u64) -> [u32; 4] {
        philox(
            [block as u32, (block >> 32) as u32, self.stream, self.epoch],
            [self.seed as u32, (self.seed >> 32) as u32],
        )
    }

    /// Word `index` of the sequence.
    #[inline]
    pub fn word(&self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// Value `index`, uniform on [0, 1): a multiple of 2⁻²⁴, hence exact on every device.
    #[inline]
    pub fn uniform(&self, index: u64) -> f32 {
        (self.word(index) >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    /// Value `index`, normal with mean 0 and variance 1 (Box–Muller in `f64`; host only).
    pub fn normal(&self, index: u64) -> f64 {
        let words = self.block(index);
        // (0, 1] for the logarithm, 53 bits from two words each.
        let unit = |hi: u32, lo: u32| ((u64::from(hi) << 32 | u64::from(lo)) >> 11) as f64 / (1u64 << 53) as f64;
        let radius = (-2.0 * (1.0 - unit(words[0], words[1])).ln()).sqrt();
        radius * (std::f64::consts::TAU * unit(words[2], words[3])).cos()
    }

    /// A permutation of `0..n` (Fisher–Yates).
    pub fn permutation(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            // 64 random bits make the bias of the remainder negligible (< n · 2⁻⁶⁴).
            let words = self.block(i as u64);
            let draw = u64::from(words[0]) << 32 | u64::from(words[1]);
            order.swap(i, (draw % (i as u64 + 1)) as usize);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    /// Known answers of the Random123 distribution (philox4x32-10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn moments_of_uniform_and_normal() {
        let stream = Stream::new(1, 2, 3);
        let n = 100_000;
        let mean = (0..n).map(|i| f64::from(stream.uniform(i))).sum::<f64>() / n as f64;
        assert_abs_diff_eq!(mean, 0.5, epsilon = 0.005);
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let v = stream.normal(i);
            sum += v;
            squares += v * v;
        }
        assert_abs_diff_eq!(sum / n as f64, 0.0, epsilon = 0.02);
        assert_abs_diff_eq!(squares / n as f64, 1.0, epsilon = 0.02);
    }

    #[test]
    fn streams_epochs_and_seeds_differ_and_permutations_are_permutations() {
        let words = |seed, stream, epoch| Stream::new(seed, stream, epoch).word(0);
        let all = [words(1, 1, 1), words(2, 1, 1), words(1, 2, 1), words(1, 1, 2), words(1 << 40, 1, 1)];
        for i in 0..all.len() {
            assert!(!all[..i].contains(&all[i]));
        }
        let mut order = Stream::new(7, 0, 0).permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert!(order.iter().copied().eq(0..1000));
    }
}
