//! Batch norm on the CPU: the sweep forward, the sums and the sweep backward.

use super::{After, Axes, Statistics, moments::Moments};
use crate::{
    jobs::{collect, collect_init, map_items, map_items_init},
    order::{passes, positive_part},
    pool::Geometry,
    simd::wide,
    sweep::{LANES, for_each_piece, masked, total},
};
use quarterturn_core::{HostBuffer, Tensor};

/// The vjp on the CPU, of one channel after the other: what its sums have brought into a cache, its sweep still finds there.
/// `y` is not read where there is pooling.
pub(crate) fn gradient_by_channel(
    statistics: Statistics,
    axes: Axes,
    gradients: &[Gradient],
    x: &[f32],
    y: &[f32],
    dy: &[f32],
) -> (HostBuffer, HostBuffer, HostBuffer) {
    let mut dx = HostBuffer::scratch(x.len());
    let dy_axes = Axes { block: gradients[0].dy_block(axes.block), ..axes };
    let (x, y, dy) = (axes.by_channel(x), axes.by_channel(y), dy_axes.by_channel(dy));
    let sums = map_items(axes.by_channel_mut(&mut dx).into_iter(), 1, |c, dx| {
        let (x, y, dy, gradient) = (&x[c], &y[c], &dy[c], &gradients[c]);
        let (start, jobs) = (|n| (n * axes.channels + c) * axes.block, axes.blocks_per_job());
        let of_block = |scratch: &mut Vec<f32>, n: usize| gradient.sums(start(n), x[n], y[n], dy[n], scratch);
        let sums = collect_init(x.len(), jobs, Vec::new, of_block);
        let sums = sums.iter().fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        let through = match statistics {
            Statistics::Batch => Some(gradient.through_statistics(sums, axes.count())),
            Statistics::Given => None,
        };
        map_items_init(dx.into_iter(), jobs, Vec::new, |scratch, n, dx| {
            gradient.sweep(start(n), x[n], y[n], dy[n], through, dx, scratch);
        });
        gradient.of_parameters(sums)
    });
    let (dweight, dbias): (Vec<f32>, Vec<f32>) = sums.into_iter().unzip();
    (dx, dweight.into(), dbias.into())
}

impl Axes {
    /// Those of each block.
    pub(super) fn moments(self, x: &[f32]) -> Vec<Moments> {
        let block = |i: usize| &x[i * self.block..][..self.block];
        collect(x.len() / self.block, self.blocks_per_job(), |i| Moments::of(block(i)))
    }

    /// The blocks of each channel.
    fn by_channel(self, x: &[f32]) -> Vec<Vec<&[f32]>> {
        let mut channels = vec![Vec::with_capacity(self.batch); self.channels];
        for (i, block) in x.chunks_exact(self.block.max(1)).enumerate() {
            channels[i % self.channels].push(block);
        }
        channels
    }

    /// The blocks of each channel, for writing.
    fn by_channel_mut(self, y: &mut [f32]) -> Vec<Vec<&mut [f32]>> {
        let mut channels: Vec<_> = (0..self.channels).map(|_| Vec::with_capacity(self.batch)).collect();
        for (i, block) in y.chunks_exact_mut(self.block.max(1)).enumerate() {
            channels[i % self.channels].push(block);
        }
        channels
    }

    /// `dropout(relu(affine(x)))`, with an affine map for each channel.
    pub(super) fn normalised(self, x: &[f32], affines: &[Affine], after: After) -> HostBuffer {
        let mut y = HostBuffer::scratch(x.len());
        for_each_piece(x, self.block, &mut y, self.block, &|i, x, y| {
            normalise(x, y, affines[i % self.channels], after, i * self.block);
        });
        y
    }

    /// The maxima of [`Axes::normalised`], of which only a block is ever there.
    pub(super) fn pooled(self, x: &[f32], affines: &[Affine], after: After, pool: Geometry) -> HostBuffer {
        let (shrunk, blocks) = (pool.shrunk(self.block), x.len() / self.block);
        let mut y = HostBuffer::scratch(blocks * shrunk);
        let pieces = x.chunks_exact(self.block).zip(y.chunks_exact_mut(shrunk));
        let unpooled = || vec![0.0; self.block];
        map_items_init(pieces, self.blocks_per_job(), unpooled, |unpooled, i, (x, y)| {
            normalise(x, unpooled, affines[i % self.channels], after, i * self.block);
            pool.maxima(unpooled, y);
        });
        y
    }
}

/// One channel's normalisation: `z = (x − centre)·scale + shift`. Near its mean `x − centre` rounds nothing away; what the
/// mean has beyond `centre` is in the shift.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    centre: f32,
    /// mean − centre
    rest: f32,
    inv_std: f32,
    scale: f32,
    shift: f32,
}

impl Affine {
    fn new(weight: f32, bias: f32, centre: f32, rest: f32, var: f32, eps: f64) -> Self {
        let inv_std = 1.0 / (f64::from(var) + eps).sqrt();
        let scale = f64::from(weight) * inv_std;
        // An infinite scale leaves z its sign.
        let beyond = if scale.is_finite() { f64::from(rest) * scale } else { 0.0 };
        let shift = (f64::from(bias) - beyond) as f32;
        Affine { centre, rest, inv_std: inv_std as f32, scale: scale as f32, shift }
    }

    /// One for each channel; `mean` as [`super::BatchNorm`]'s `mean_parts`.
    pub fn of_channels(weight: &[f32], bias: &[f32], mean: &[f32], var: &[f32], eps: f64) -> Vec<Affine> {
        let rest = |c: usize| mean.get(weight.len() + c).copied().unwrap_or(0.0);
        (0..weight.len()).map(|c| Affine::new(weight[c], bias[c], mean[c], rest(c), var[c], eps)).collect()
    }

    /// `z`; the gradient repeats this very expression to find where `z` passes.
    #[inline(always)]
    fn z(self, x: f32) -> f32 {
        (x - self.centre) * self.scale + self.shift
    }
}

wide! {
    fn normalise(x: &[f32], y: &mut [f32], affine: Affine, after: After, start: usize) {
        match after {
            After::Nothing => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = affine.z(x);
                }
            }
            After::Relu => {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = positive_part(affine.z(x));
                }
            }
            After::ReluDropout(rule) => rule.for_each_run(start, x.len(), |run, draws| {
                for ((y, &x), &draw) in y[run.clone()].iter_mut().zip(&x[run]).zip(draws) {
                    *y = rule.apply(positive_part(affine.z(x)), draw);
                }
            }),
        }
    }
}

/// What the gradient of one channel needs.
#[derive(Clone, Copy)]
pub(crate) struct Gradient {
    affine: Affine,
    after: After,
    /// The maxima that follow, whose operand is made again.
    pool: Option<Geometry>,
}

/// What flows back through the statistics, `dbias/n + x̂·dweight/n`: its value where x is the centre, and its slope in x.
#[derive(Clone, Copy)]
pub(crate) struct Through {
    at_centre: f32,
    slope: f32,
}

impl Gradient {
    /// One for each channel; `mean` as [`super::BatchNorm`]'s `mean_parts`.
    pub fn of_channels(
        weight: &Tensor,
        bias: &Tensor,
        mean: &Tensor,
        var: &Tensor,
        eps: f64,
        after: After,
        pool: Option<Geometry>,
    ) -> Vec<Gradient> {
        let affines = Affine::of_channels(weight.f32s(), bias.f32s(), mean.f32s(), var.f32s(), eps);
        affines.into_iter().map(|affine| Gradient { affine, after, pool }).collect()
    }

    /// Elements of dy for a block of x.
    pub fn dy_block(self, block: usize) -> usize {
        self.pool.map_or(block, |pool| pool.shrunk(block))
    }

    /// `[Σ dz, Σ dz·(x − mean)]` of a block, which starts at element `start` of the whole tensor.
    pub fn sums(self, start: usize, x: &[f32], y: &[f32], dy: &[f32], scratch: &mut Vec<f32>) -> [f64; 2] {
        if let (Some(pool), After::Relu) = (self.pool, self.after) {
            // All but the greatest of each window have a gradient of 0.
            scratch.resize(dy.len(), 0.0);
            if pool.greatest(x, |x| self.affine.z(x), scratch) {
                return self.unpooled_sums(scratch, scratch, dy);
            }
        }
        let (y, dy) = self.unpooled(start, x, y, dy, scratch);
        self.unpooled_sums(x, y, dy)
    }

    /// The sums, where `y` and `dy` have the samples of `x`.
    fn unpooled_sums(self, x: &[f32], y: &[f32], dy: &[f32]) -> [f64; 2] {
        let pieces = x.chunks(Moments::PIECE).zip(y.chunks(Moments::PIECE)).zip(dy.chunks(Moments::PIECE));
        let sums = pieces.map(|((x, y), dy)| gradient_sums(x, y, dy, self));
        let [dz, dz_x] = sums.fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        // 0·∞ would be NaN.
        let beyond = if dz.is_finite() { f64::from(self.affine.rest) * dz } else { 0.0 };
        [dz, dz_x - beyond]
    }

    /// What flows back through the statistics of a batch, of `count` elements a channel, with these sums.
    pub fn through_statistics(self, [dz, dz_x]: [f64; 2], count: usize) -> Through {
        let (inv_std, count) = (f64::from(self.affine.inv_std), count as f64);
        let slope = dz_x * inv_std * inv_std / count;
        Through { at_centre: (dz / count - f64::from(self.affine.rest) * slope) as f32, slope: slope as f32 }
    }

    /// The gradients of weight and bias, with these sums.
    pub fn of_parameters(self, [dz, dz_x]: [f64; 2]) -> (f32, f32) {
        ((dz_x * f64::from(self.affine.inv_std)) as f32, dz as f32)
    }

    /// dx of a block; nothing flows through given statistics.
    pub fn sweep(
        self,
        start: usize,
        x: &[f32],
        y: &[f32],
        dy: &[f32],
        through: Option<Through>,
        dx: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        let (y, dy) = self.unpooled(start, x, y, dy, scratch);
        gradient_sweep(x, y, dy, dx, self, through);
    }

    /// y and its gradient before the pooling.
    fn unpooled<'a>(
        self,
        start: usize,
        x: &[f32],
        y: &'a [f32],
        dy: &'a [f32],
        scratch: &'a mut Vec<f32>,
    ) -> (&'a [f32], &'a [f32]) {
        let Some(pool) = self.pool else { return (y, dy) };
        scratch.resize(2 * x.len(), 0.0);
        let (y, unpooled) = scratch.split_at_mut(x.len());
        normalise(x, y, self.affine, self.after, start);
        pool.maxima_vjp(y, dy, unpooled);
        (y, unpooled)
    }
}

wide! {
    fn gradient_sums(x: &[f32], y: &[f32], dy: &[f32], gradient: Gradient) -> [f64; 2] {
        let Gradient { affine, after, .. } = gradient;
        match after {
            After::Nothing => gradient_lane_sums(x, dy, dy, affine.centre, |_, _, dy| dy),
            // Reading x alone saves the sweep a third of its memory traffic.
            After::Relu => gradient_lane_sums(x, dy, dy, affine.centre, |x, _, dy| masked(passes(affine.z(x)), dy)),
            After::ReluDropout(rule) => gradient_lane_sums(x, y, dy, affine.centre, |_, y, dy| masked(passes(y), dy * rule.factor)),
        }
    }
}

/// `[Σ dz, Σ dz·(x − centre)]` of one piece.
#[inline(always)]
pub(super) fn gradient_lane_sums(
    x: &[f32],
    y: &[f32],
    dy: &[f32],
    centre: f32,
    dz: impl Fn(f32, f32, f32) -> f32,
) -> [f64; 2] {
    // Two sums, so half the lanes each.
    const HALF: usize = LANES / 2;
    let mut sums = [[0f32; HALF]; 2];
    let whole = x.len() - x.len() % HALF;
    let chunks = x.chunks_exact(HALF).zip(y.chunks_exact(HALF)).zip(dy.chunks_exact(HALF));
    for ((x, y), dy) in chunks {
        for lane in 0..HALF {
            let dz = dz(x[lane], y[lane], dy[lane]);
            sums[0][lane] += dz;
            sums[1][lane] += dz * (x[lane] - centre);
        }
    }
    for (lane, i) in (whole..x.len()).enumerate() {
        let dz = dz(x[i], y[i], dy[i]);
        sums[0][lane] += dz;
        sums[1][lane] += dz * (x[i] - centre);
    }
    [total(&sums[0]), total(&sums[1])]
}

wide! {
    /// `dx = scale · (dz − at_centre − (x − centre)·slope)`, or `scale · dz`.
    fn gradient_sweep(x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32], gradient: Gradient, through: Option<Through>) {
        let Affine { centre, scale, .. } = gradient.affine;
        match through {
            Some(Through { at_centre, slope }) => {
                gradient_by(x, y, dy, dx, gradient, |x, dz| scale * (dz - at_centre - (x - centre) * slope));
            }
            None => gradient_by(x, y, dy, dx, gradient, |_, dz| scale * dz),
        }
    }
}

#[inline(always)]
fn gradient_by(x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32], gradient: Gradient, dx_of: impl Fn(f32, f32) -> f32) {
    let Gradient { affine, after, .. } = gradient;
    match after {
        After::Nothing => {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = dx_of(x, dy);
            }
        }
        After::Relu => {
            for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
                *dx = dx_of(x, masked(passes(affine.z(x)), dy));
            }
        }
        After::ReluDropout(rule) => {
            for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                *dx = dx_of(x, masked(passes(y), dy * rule.factor));
            }
        }
    }
}
