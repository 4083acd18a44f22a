//! The gradient of a weight on units for matrix products.

use super::{RUN, close, kernel, noise};
use crate::{
    Group,
    group_conv::{gpu::Overrides, gpu::Pass, tiling::BUSY},
    transform_feature_map,
};
use quarterturn_core::{
    Device, Result, Shape, Stream, Tensor,
    gpu::{Gpu, GpuBuffer, Kernel, MatrixUnits, Size},
};

/// Source channels of a run: the shader lays down four terms of one run at a time.
const DEPTH: usize = 8;
/// Tiles of terms and of result channels in a workgroup, by preference, and windows that are laid down at a time. Each of
/// these divides RUN of the shader, so none of all this changes a bit.
const SHAPES: [[usize; 2]; 4] = [[2, 4], [2, 2], [1, 2], [1, 1]];
const SPANS: [usize; 2] = [32, 16];
/// Workgroups that look for the largest value of a channel.
const PIECES: usize = 8;

/// How the sum over windows is cut for the units.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Cut {
    units: MatrixUnits,
    /// Whether floats have a low half too.
    split: bool,
    group: Group,
    /// Tiles of terms, and of result channels, in a workgroup.
    rows: usize,
    cols: usize,
    /// Windows laid down at a time.
    span: usize,
    /// Workgroups across terms, and across result channels.
    bands: usize,
    parts: usize,
    /// Terms with those of the bias's run.
    terms: usize,
    /// Windows of a partial sum, and partial sums. They depend on the layer's shape and the batch alone.
    chunk: usize,
    chunks: usize,
}

impl Cut {
    /// That of a pass, if it has one on the units and workgroups have enough memory.
    pub(super) fn of(pass: &Pass, units: MatrixUnits, split: bool, memory: usize) -> Option<Self> {
        if pass.group == Group::C1 {
            return None;
        }
        let size = units.size as usize;
        let terms = (pass.c_in.div_ceil(DEPTH) * pass.taps() + 1) * DEPTH;
        let windows = pass.batch * pass.result.0 * pass.result.1;
        // A subgroup of 32 makes 16 × 16 sums.
        let chunks = (2 * BUSY).div_ceil((terms * pass.c_out).div_ceil(8));
        let chunk = windows.div_ceil(chunks).next_multiple_of(RUN);
        let of = |[rows, cols]: [usize; 2], span| {
            let cols = cols.min(pass.c_out.div_ceil(size));
            Cut {
                units,
                split,
                group: pass.group,
                rows,
                cols,
                span,
                bands: terms.div_ceil(rows * size),
                parts: pass.c_out.div_ceil(cols * size),
                terms,
                chunk,
                chunks: windows.div_ceil(chunk),
            }
        };
        let mut all = SHAPES.into_iter().flat_map(|shape| SPANS.map(|span| of(shape, span)));
        all.find(|cut| cut.memory() <= memory)
    }

    fn size(self) -> usize {
        self.units.size as usize
    }

    fn threads(self) -> usize {
        self.rows * self.cols * self.units.subgroup as usize
    }

    fn workgroups(self) -> usize {
        self.bands * self.parts * self.chunks
    }

    /// Distance of two rows of factors: some halves more, against bank conflicts.
    fn pitch(self) -> usize {
        self.span + 8
    }

    /// Halves of the factors of one tile.
    fn factors(self) -> usize {
        self.group.order() * if self.split { 2 } else { 1 } * self.size() * self.pitch()
    }

    fn results(self) -> usize {
        self.rows * self.cols * self.size() * self.size()
    }

    /// Bytes of workgroup memory: factors, results, exponents, and the windows of a run.
    fn memory(self) -> usize {
        let tiles = self.rows + self.cols;
        2 * tiles * self.factors() + 4 * self.results() + 4 * tiles * self.size() + (16 + 4) * RUN
    }

    /// The kernel of the products.
    fn kernel(self, pass: &Pass) -> (Kernel, Overrides) {
        let mut overrides = pass.overrides();
        overrides.extend([
            ("SPLIT", f64::from(u8::from(self.split))),
            ("CHUNK", self.span as f64),
            ("ROWS", self.rows as f64),
            ("COLS", self.cols as f64),
            ("TERMS", (self.rows * self.size()) as f64),
            ("OUTPUTS", (self.cols * self.size()) as f64),
            ("PITCH", self.pitch() as f64),
            ("LEFTS", (self.rows * self.factors()) as f64),
            ("RIGHTS", (self.cols * self.factors()) as f64),
            ("RESULTS", self.results() as f64),
            ("DEPTH", DEPTH as f64),
            ("SUBGROUP", f64::from(self.units.subgroup)),
            ("THREADS", self.threads() as f64),
        ]);
        let name = if self.group == Group::D4 { "gradient_d4" } else { "gradient_c4" };
        (kernel(self.units, name, self.threads(), self.memory()), overrides)
    }
}

impl Pass {
    /// How the gradient of its weight is cut, if it is computed on the units.
    pub(in super::super) fn cut(&self, gpu: &Gpu) -> Option<Cut> {
        let (units, split) = self.units(gpu)?;
        Cut::of(self, units, split, gpu.workgroup_memory())
    }

    /// In four launches: the largest values of the channels of x and of dy, the products, and the second pass.
    pub(in super::super) fn weight_gradient_matrices(
        &self,
        cut: Cut,
        gpu: &Gpu,
        x: &GpuBuffer,
        dy: &GpuBuffer,
        lengths: [usize; 2],
    ) -> [GpuBuffer; 2] {
        let result = Pass { c_in: self.c_out, planes: self.group.order(), source: self.result, ..*self };
        let peaks = [(self, x), (&result, dy)].map(|(of, values)| of.channel_peaks(cut, gpu, values));
        let partials = gpu.output(cut.chunks * self.c_out * cut.terms * self.group.order());
        let uniform = self.cut_uniform(cut);
        let (kernel, overrides) = cut.kernel(self);
        let operands = [x, dy, &peaks[0], &peaks[1]];
        gpu.launch(&kernel, &overrides, &operands, &[&partials], &uniform, Size::Groups(cut.workgroups()));
        self.fold(gpu, &partials, DEPTH, cut.chunks, lengths)
    }

    fn channel_peaks(&self, cut: Cut, gpu: &Gpu, values: &GpuBuffer) -> GpuBuffer {
        let peaks = gpu.output(self.c_in * PIECES);
        let find = kernel(cut.units, "find_channel_peaks", 256, 4 * 256);
        gpu.launch(&find, &[], &[values], &[&peaks], &self.cut_uniform(cut), Size::Groups(self.c_in * PIECES));
        peaks
    }

    fn cut_uniform(&self, cut: Cut) -> [u32; 20] {
        let strips = (1, self.grid()[1]);
        self.uniform(strips, [cut.parts, cut.workgroups()], 0.0, [cut.bands, cut.chunk, cut.chunks])
    }
}

/// What is wrong with gradients of a weight, if anything; x, the weight and dy have these shapes.
pub(super) fn probe(gpu: &Gpu, pass: &Pass, cut: Cut, [x, weight, dy]: [Shape; 3]) -> Result<Option<String>> {
    let lengths = [weight.len(), pass.c_out];
    let both = |x: &Tensor, dy: &Tensor| -> Result<[Vec<f32>; 2]> {
        let [on_units, _] = pass.weight_gradient_matrices(cut, gpu, x.buffer(), dy.buffer(), lengths);
        let [plain, _] = pass.weight_gradient_fp32(gpu, x.buffer(), dy.buffer(), lengths);
        Ok([on_units.read()?, plain.read()?])
    };
    let group = pass.group;
    let [got, plain] = both(&noise(x, 3, gpu)?, &noise(dy, 4, gpu)?)?;
    if !close(&got, &plain, cut.split) {
        return Ok(Some(format!("gradients of weights on {group} differ from fp32")));
    }
    // A turn changes the order of the sum. Of small whole numbers no order is rounded.
    let (x, dy) = (whole_numbers(x, 5, gpu)?, whole_numbers(dy, 6, gpu)?);
    let [_, plain] = both(&x, &dy)?;
    for g in group.elements() {
        let [got, _] = both(&transform_feature_map(&x, g, group), &transform_feature_map(&dy, g, group))?;
        if got != plain {
            return Ok(Some(format!("gradients of weights on {group} do not commute with element {g}")));
        }
    }
    Ok(None)
}

/// From −2 to 2.
fn whole_numbers(shape: Shape, stream: u64, gpu: &Gpu) -> Result<Tensor> {
    let noise = Stream::new(stream, 0, 0);
    let values = (0..shape.len() as u64).map(|i| (5.0 * noise.uniform(i)).floor() - 2.0).collect();
    Tensor::from_vec(shape, values, &Device::Gpu(gpu.clone()))
}

#[cfg(test)]
mod tests;
