//! What the processor could do at best, to report speeds as a fraction of it.

use crate::simd::{Isa, Simd, Task};
use rayon::prelude::*;
use std::{hint::black_box, time::Instant};

/// Multiply-adds per thread and repetition.
const ROUNDS: usize = 1 << 20;
/// Independent chains: enough to hide the latency of an addition on two units, few enough for 16 registers.
const CHAINS: usize = 12;

/// Floating-point operations per second (a multiply-add counts as two) that all threads of the pool reach together on
/// registers alone: the best of a few short runs.
pub fn peak_flops() -> f64 {
    let threads = rayon::current_num_threads();
    let isa = Isa::current();
    (0..5)
        .map(|_| {
            let start = Instant::now();
            let lanes = (0..threads).into_par_iter().map(|_| isa.run(Chains)).max().unwrap_or(1);
            (threads * ROUNDS * CHAINS * lanes * 2) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}

struct Chains;

impl Task for Chains {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self) -> usize {
        let (scale, shift) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
        let mut chains = [S::splat(black_box(1.0)); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut chains {
                *chain = S::mul_add(*chain, scale, shift);
            }
        }
        black_box(chains);
        S::LANES
    }
}
