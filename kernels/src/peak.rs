//! What a device could do at best, to report speeds as a fraction of it.

#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    jobs::collect,
    simd::{Isa, Simd, Task},
};
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Result, Tensor,
    gpu::{Gpu, GpuBuffer, Size},
};
use std::{hint::black_box, time::Instant};

/// Multiply-adds per thread and repetition.
const ROUNDS: usize = 1 << 20;
/// Independent chains: enough to hide the latency of an addition on two units, few enough for 16 registers.
const CHAINS: usize = 12;

/// Measures the peak of the CPU: the floating-point operations per second (a multiply-add counts as two) that all
/// threads together reach on multiply-adds in registers. It is the best of a few short runs.
pub fn peak_flops() -> f64 {
    let threads = rayon::current_num_threads();
    let isa = Isa::current();
    (0..5)
        .map(|_| {
            let start = Instant::now();
            let lanes = collect(threads, 1, |_| isa.run(Chains)).into_iter().max().unwrap_or(1);
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

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("peak.wgsl"));

/// As [`peak_flops`] for a GPU: multiply-adds of `f32` on registers alone.
///
/// # Errors
/// Whatever the GPU reports.
#[cfg(feature = "gpu")]
pub fn gpu_peak_flops(gpu: &Gpu) -> Result<f64> {
    /// Enough to fill the largest GPU several times over.
    const INVOCATIONS: usize = 1 << 18;
    const ROUNDS: u32 = 1 << 12;
    const LAUNCHES: usize = 8;
    let wait = |y: &GpuBuffer| Tensor::gpu([y.len()], y.clone()).to_vec();
    // Compiles the kernel.
    wait(&chains(gpu, 64, 1))?;
    let mut peak: f64 = 0.0;
    for _ in 0..3 {
        let start = Instant::now();
        let results: Vec<GpuBuffer> = (0..LAUNCHES).map(|_| chains(gpu, INVOCATIONS, ROUNDS)).collect();
        // Everything launched before it is done by then; a short one, so that little is read.
        wait(&chains(gpu, 64, 1))?;
        let operations = (results.len() * INVOCATIONS * ROUNDS as usize * GPU_CHAINS * 2) as f64;
        peak = peak.max(operations / start.elapsed().as_secs_f64());
    }
    Ok(peak)
}

/// Chains of an invocation of `peak.wgsl`.
#[cfg(feature = "gpu")]
const GPU_CHAINS: usize = 32;

/// What they come to.
#[cfg(feature = "gpu")]
fn chains(gpu: &Gpu, invocations: usize, rounds: u32) -> GpuBuffer {
    let y = gpu.output(invocations);
    let uniform = [rounds, 0.5f32.to_bits(), 0.25f32.to_bits()];
    gpu.launch(&launch::kernel("peak", SHADER), &[], &[], &[&y], &uniform, Size::Threads(invocations));
    y
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "gpu")]
    #[test]
    fn every_chain_of_the_shader_runs_its_rounds() {
        let Some(gpu) = quarterturn_core::testing::gpu() else { return };
        for rounds in [0, 1, 3] {
            let y = super::chains(&gpu, 65, rounds);
            let sums = quarterturn_core::Tensor::gpu([65], y).to_vec().unwrap();
            for (i, sum) in sums.into_iter().enumerate() {
                // The starts of the 32 chains: those of b to h come in pairs about i; x ↦ x/2 + 1/4 is linear.
                let starts = 32.0 * i as f32 + 1.5;
                let expected = (0..rounds).fold(starts, |sum, _| sum / 2.0 + 32.0 * 0.25);
                assert_eq!(sum, expected, "invocation {i}, {rounds} rounds");
            }
        }
    }
}
