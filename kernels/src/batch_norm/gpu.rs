//! Batch norm on the GPU; see `batch_norm.wgsl`.

use super::{After, Axes, Statistics};
use crate::{Variants, launch};
use quarterturn_core::{
    Result, Tensor,
    gpu::{Gpu, GpuBuffer, Size},
};

/// For elements one by one.
pub(super) static SINGLES: &str =
    concat!(include_str!("../prelude.wgsl"), include_str!("singles.wgsl"), include_str!("batch_norm.wgsl"));

/// For elements four at a time.
static QUADS: &str =
    concat!(include_str!("../prelude.wgsl"), include_str!("quads.wgsl"), include_str!("batch_norm.wgsl"));

/// Invocations of a workgroup, each of which has an octet of elements at a time.
const GPU_LANES: usize = 256;

/// Batch norm on the GPU: a workgroup has a piece of a channel, some octets of elements.
pub(super) struct GpuBatchNorm<'a> {
    gpu: &'a Gpu,
    axes: Axes,
    pieces: usize,
    /// Whether elements are read four at a time.
    quads: bool,
    activation: f64,
    uniform: [u32; 16],
}

impl<'a> GpuBatchNorm<'a> {
    pub fn new(gpu: &'a Gpu, axes: Axes, after: After, eps: f64, statistics: Statistics) -> Self {
        // Octets of a piece, at least; and pieces of a channel, at most, for each piece adds up the sums of all.
        const SHORTEST: usize = GPU_LANES;
        const MOST: usize = 256;
        // Where blocks are not whole octets, each may begin and end amid one.
        let octets = if axes.block.is_multiple_of(8) { axes.block / 8 } else { axes.block.div_ceil(8) + 1 };
        let all = axes.batch * octets;
        let piece = all.div_ceil(MOST).next_multiple_of(GPU_LANES).max(SHORTEST);
        let pieces = all.div_ceil(piece).max(1);
        let (activation, [key0, key1, stream, epoch, threshold, factor]) = match after {
            After::Nothing => (0.0, [0; 6]),
            // Nothing is dropped, so nothing is scaled.
            After::Relu => (1.0, [0, 0, 0, 0, 0, 1f32.to_bits()]),
            After::ReluDropout(rule) => (2.0, rule.words()),
        };
        let [channels, block, count, octets, all, per_channel, piece] =
            [axes.channels, axes.block, axes.count(), octets, all, pieces, piece].map(|v| v as u32);
        // Between ½/√n and 1/√n, n the elements of a channel.
        let shrink = 0.5f32.powi(((axes.count().max(1) as f64).log2() / 2.0).ceil() as i32);
        let training = u32::from(statistics == Statistics::Batch);
        let eps = (eps as f32).to_bits();
        let extents = [channels, block, count, octets, all, per_channel, piece, eps, training];
        let mut uniform = [0; 16];
        uniform[..9].copy_from_slice(&extents);
        uniform[9..].copy_from_slice(&[stream, epoch, threshold, key0, key1, factor, shrink.to_bits()]);
        let quads = axes.block.is_multiple_of(4) && Variants::of(gpu).norm_quads;
        GpuBatchNorm { gpu, axes, pieces, quads, activation, uniform }
    }

    /// Launches a kernel, one workgroup per piece, with results of these lengths.
    fn launch<const R: usize>(
        &self,
        name: &'static str,
        operands: &[&GpuBuffer],
        lengths: [usize; R],
    ) -> [GpuBuffer; R] {
        // The most that one of them needs: octets, sums and draws, four words each.
        let kernel = launch::kernel(name, if self.quads { QUADS } else { SINGLES })
            .workgroup(GPU_LANES as u32, (3 * GPU_LANES * 16) as u32);
        let results = lengths.map(|len| self.gpu.output(len));
        let outputs: Vec<&GpuBuffer> = results.iter().collect();
        let size = Size::Groups(self.axes.channels * self.pieces);
        self.gpu.launch(&kernel, &[("ACTIVATION", self.activation)], operands, &outputs, &self.uniform, size);
        results
    }

    /// y, the batch's mean and biased variance, and the mean in two parts.
    pub fn normalise_batch(&self, x: &Tensor, weight: &Tensor, bias: &Tensor) -> [Tensor; 4] {
        let channels = self.axes.channels;
        let [moments] = self.launch("moments", &[x.buffer()], [4 * channels * self.pieces]);
        let operands = [x.buffer(), &moments, weight.buffer(), bias.buffer()];
        let lengths = [x.len(), channels, channels, 2 * channels];
        let [y, mean, var, parts] = self.launch("normalise_batch", &operands, lengths);
        let of_channels = [mean, var].map(|values| Tensor::gpu([channels], values));
        let [mean, var] = of_channels;
        [Tensor::gpu(x.shape(), y), mean, var, Tensor::gpu([2, channels], parts)]
    }

    /// `[Σ x, Σ x²]` of each channel, added on the host.
    pub fn sums(&self, x: &Tensor) -> Result<Vec<[f64; 2]>> {
        let len = 4 * self.axes.channels * self.pieces;
        let [moments] = self.launch("moments", &[x.buffer()], [len]);
        let moments = Tensor::gpu([len], moments).to_vec()?;
        let shrink = f64::from(f32::from_bits(self.uniform[15]));
        let of_piece = |piece: &[f32]| {
            let &[count, off, squares, centre] = piece else { unreachable!("four numbers of each piece") };
            let [count, off, squares, centre] = [count, off, squares, centre].map(f64::from);
            let mean = centre + off;
            [count * mean, squares / (shrink * shrink) + count * mean * mean]
        };
        let of_channel =
            |pieces: &[f32]| pieces.chunks_exact(4).map(of_piece).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        Ok(moments.chunks_exact(4 * self.pieces).map(of_channel).collect())
    }

    pub fn normalise(&self, x: &Tensor, mean: &Tensor, var: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
        let [y] = self.launch("normalise", &[x, mean, var, weight, bias].map(Tensor::buffer), [x.len()]);
        Tensor::gpu(x.shape(), y)
    }

    pub fn vjp(&self, [x, y, dy]: [&Tensor; 3], [mean, var, weight]: [&Tensor; 3]) -> (Tensor, Tensor, Tensor) {
        let channels = self.axes.channels;
        let [x_buffer, y, dy, mean, var, weight] = [x, y, dy, mean, var, weight].map(Tensor::buffer);
        let records = channels * self.pieces + channels;
        let [sums] = self.launch("gradient_sums", &[x_buffer, y, dy, mean, var, weight], [4 * records]);
        let [dx, dweight, dbias] = self.launch("gradient", &[x_buffer, y, dy, &sums], [x.len(), channels, channels]);
        (Tensor::gpu(x.shape(), dx), Tensor::gpu([channels], dweight), Tensor::gpu([channels], dbias))
    }
}
