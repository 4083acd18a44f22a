//! The GPU path: one launch for a convolution, one for its `dx`, two for its `dw`; more on tensor cores. See the shaders
//! beside this file.

mod tensor_cores;

use super::{
    Conv, Extents, GivenNorm,
    tiling::{Chunks, Geometry, SPAN, Tiling, channels_per_vector, depth},
};
use crate::{Group, filter_orbit, launch};
use quarterturn_core::{
    Shape, Tensor,
    gpu::{Checks, Gpu, GpuBuffer, Kernel, Size},
};
pub use tensor_cores::{TensorCoreUse, tensor_core_use};

static SHADER: &str = concat!(
    include_str!("../prelude.wgsl"),
    include_str!("spectra.wgsl"),
    include_str!("panels.wgsl"),
    include_str!("convolve.wgsl"),
    include_str!("runs.wgsl"),
    include_str!("weight_gradient.wgsl"),
);

static DIRECT: &str = concat!(
    include_str!("../prelude.wgsl"),
    include_str!("spectra.wgsl"),
    include_str!("panels.wgsl"),
    include_str!("convolve.wgsl"),
    include_str!("direct.wgsl"),
);

/// The entry points of one group.
struct Kernels {
    conv: &'static str,
    direct: &'static str,
    partial: &'static str,
    fold: &'static str,
    /// Vectors of four floats that a partial sum takes.
    vectors: usize,
}

impl Kernels {
    const fn of(group: Group) -> Self {
        match group {
            Group::C1 => {
                Kernels { conv: "conv_c1", direct: "direct_c1", partial: "partial_c1", fold: "fold_c1", vectors: 1 }
            }
            Group::C4 => {
                Kernels { conv: "conv_c4", direct: "direct_c4", partial: "partial_c4", fold: "fold_c4", vectors: 1 }
            }
            Group::D4 => {
                Kernels { conv: "conv_d4", direct: "direct_d4", partial: "partial_d4", fold: "fold_d4", vectors: 2 }
            }
        }
    }
}

/// What follows a convolution in the same launch.
#[derive(Clone, Copy, Default)]
struct Epilogue<'a> {
    bias: Option<&'a Tensor>,
    norm: Option<GivenNorm<'a>>,
}

impl Epilogue<'_> {
    fn overrides(&self) -> Overrides {
        let flag = |flag| f64::from(u8::from(flag));
        vec![
            ("BIASED", flag(self.bias.is_some())),
            ("NORM", flag(self.norm.is_some())),
            ("RELU", flag(self.norm.is_some_and(|norm| norm.relu))),
        ]
    }
}

/// One sum over windows: a convolution, its adjoint, or its weight's gradient.
struct Pass {
    group: Group,
    k: usize,
    /// Samples from a window's first tap to its last.
    window: usize,
    stride: usize,
    /// Distance of two taps.
    dilation: usize,
    /// Distance of two samples of the source, with zeros between them.
    spread: usize,
    adjoint: bool,
    /// Channels, planes per channel and extents of the source.
    c_in: usize,
    planes: usize,
    source: (usize, usize),
    /// Channels and extents of the result.
    c_out: usize,
    result: (usize, usize),
    batch: usize,
    lead: isize,
}

type Overrides = Vec<(&'static str, f64)>;

/// An entry point of [`SHADER`], without clamped indices.
fn unchecked(name: &'static str) -> Kernel {
    // SAFETY: as in `launch::kernel`. No index depends on a tensor's values. Samples, filters and dy are read at index 0 where `select` has not
    // found them to exist, and results are stored where they exist. Indices into workgroup memory are bounded by its
    // sizes, but for places of samples: those stay within RANGE, which `the_range_holds_every_run_of_windows` checks
    // against every run of windows.
    unsafe { launch::kernel(name, SHADER).with_checks(Checks::None) }
}

impl Pass {
    fn forward(e: &Extents, conv: Conv) -> Self {
        Pass {
            group: conv.group,
            k: e.k,
            window: e.window,
            stride: conv.stride,
            dilation: conv.dilation,
            spread: 1,
            adjoint: false,
            c_in: e.c_in,
            planes: e.g_in,
            source: (e.height, e.width),
            c_out: e.c_out,
            result: (e.out_height, e.out_width),
            batch: e.batch,
            lead: conv.padding as isize,
        }
    }

    /// The same sum with the adjoint filters over `dy`, its samples spread out by the stride.
    fn adjoint(e: &Extents, conv: Conv) -> Self {
        Pass {
            stride: 1,
            spread: conv.stride,
            adjoint: true,
            c_in: e.c_out,
            planes: e.g_in,
            source: (e.out_height, e.out_width),
            c_out: e.c_in,
            result: (e.height, e.width),
            lead: e.window as isize - 1 - conv.padding as isize,
            ..Pass::forward(e, conv)
        }
    }

    fn lifting(&self) -> bool {
        self.planes < self.group.order()
    }

    fn taps(&self) -> usize {
        if self.lifting() { (self.k / 2) * self.k.div_ceil(2) + self.k % 2 } else { self.k * self.k }
    }

    /// Runs of the weight's gradient; see `weight_gradient.wgsl`.
    fn runs(&self) -> usize {
        self.c_in.div_ceil(depth(self.group, self.c_in)) * self.taps()
    }

    /// Result channels in vectors of left factors.
    fn rows(&self) -> usize {
        self.c_out.div_ceil(channels_per_vector(self.group))
    }

    /// Rows and columns of the windows of one phase of the spread source, of which there are spread².
    fn grid(&self) -> [usize; 2] {
        [self.result.0, self.result.1].map(|extent| extent.div_ceil(self.spread))
    }

    /// What its tiling depends on.
    fn geometry(&self) -> Geometry {
        let [rows, columns] = self.grid();
        Geometry {
            group: self.group,
            planes: self.planes,
            taps: self.taps(),
            span: self.window.div_ceil(self.spread),
            stride: self.stride,
            rows,
            columns,
            images: self.batch,
            phases: self.spread * self.spread,
            c_in: self.c_in,
            vectors: self.rows(),
        }
    }

    /// What every kernel is specialised for.
    fn overrides(&self) -> Overrides {
        let flag = |flag| f64::from(u8::from(flag));
        vec![
            ("K", self.k as f64),
            ("STRIDE", self.stride as f64),
            ("SPREAD", self.spread as f64),
            ("DILATION", self.dilation as f64),
            ("LIFTING", flag(self.lifting())),
            ("ADJOINT", flag(self.adjoint)),
        ]
    }

    /// The uniform, for windows in so many strips of so many columns; `chunks` of the weight's gradient.
    fn uniform(
        &self,
        strips: (usize, usize),
        [parts, workgroups]: [usize; 2],
        eps: f64,
        chunks: [usize; 3],
    ) -> [u32; 20] {
        let [rows, columns] = self.grid();
        let positions = self.batch * strips.0 * rows * strips.1;
        [
            self.c_in as u32,
            self.c_out as u32,
            self.planes as u32,
            self.source.0 as u32,
            self.source.1 as u32,
            self.result.0 as u32,
            self.result.1 as u32,
            self.batch as u32,
            rows as u32,
            columns as u32,
            strips.0 as u32,
            strips.1 as u32,
            positions as u32,
            self.lead as i32 as u32,
            parts as u32,
            workgroups as u32,
            (eps as f32).to_bits(),
            chunks[0] as u32,
            chunks[1] as u32,
            chunks[2] as u32,
        ]
    }

    /// Workgroups across the result's channels, and all that a convolution takes.
    fn workgroups(&self, tiling: Tiling) -> [usize; 2] {
        let geometry = self.geometry();
        let parts = geometry.vectors.div_ceil(tiling.vectors());
        [parts, geometry.phases * geometry.positions().div_ceil(tiling.windows(self.group)) * parts]
    }

    /// The kernel of the convolution, as `tiling` and `epilogue` specialise it.
    fn conv_kernel(&self, tiling: Tiling, epilogue: Epilogue) -> (Kernel, Overrides) {
        let geometry = self.geometry();
        let (row, strip) = geometry.strip();
        let windows = tiling.windows(self.group);
        let range = geometry.range(windows);
        let mut overrides = self.overrides();
        overrides.extend([
            ("TILE", tiling.tile as f64),
            ("VECTORS", tiling.vectors() as f64),
            ("COLUMNS", tiling.columns as f64),
            ("WINDOWS", windows as f64),
            ("THREADS", tiling.threads() as f64),
            ("CHANNELS", tiling.channels as f64),
            ("ROW", row as f64),
            ("STRIP", strip as f64),
            ("RANGE", range as f64),
            ("SAMPLES", (tiling.channels * geometry.planes * range) as f64),
            ("FILTERS", (tiling.channels * geometry.taps * tiling.vectors()) as f64),
            ("TAPS", geometry.taps as f64),
        ]);
        overrides.extend(epilogue.overrides());
        let kernel = unchecked(Kernels::of(self.group).conv);
        (kernel.workgroup(tiling.threads() as u32, tiling.memory(&geometry) as u32), overrides)
    }

    /// What a convolution reads. Something must be bound where there is no bias or norm.
    fn operands<'b>(x: &'b GpuBuffer, weight: &'b GpuBuffer, epilogue: Epilogue<'b>) -> [&'b GpuBuffer; 7] {
        let bias = epilogue.bias.map_or(weight, Tensor::buffer);
        let [gamma, beta, mean, var] = match epilogue.norm {
            Some(norm) => [norm.weight, norm.bias, norm.mean, norm.var].map(Tensor::buffer),
            None => [weight; 4],
        };
        [x, weight, bias, gamma, beta, mean, var]
    }

    /// Floats of the result.
    fn result_len(&self) -> usize {
        self.batch * self.c_out * self.group.order() * self.result.0 * self.result.1
    }

    fn run(&self, gpu: &Gpu, x: &GpuBuffer, weight: &GpuBuffer, epilogue: Epilogue) -> GpuBuffer {
        match self.tiles(gpu) {
            Some(tiles) => self.run_matrices(tiles, gpu, x, weight, epilogue),
            None => self.run_fp32(gpu, x, weight, epilogue),
        }
    }

    fn run_fp32(&self, gpu: &Gpu, x: &GpuBuffer, weight: &GpuBuffer, epilogue: Epilogue) -> GpuBuffer {
        match Tiling::of(&self.geometry(), gpu.workgroup_memory()) {
            Some(tiling) => self.run_tiled(tiling, gpu, x, weight, epilogue),
            None => self.run_direct(gpu, x, weight, epilogue),
        }
    }

    /// Without tiles: the samples that windows of far apart taps reach fit no workgroup's memory.
    fn run_direct(&self, gpu: &Gpu, x: &GpuBuffer, weight: &GpuBuffer, epilogue: Epilogue) -> GpuBuffer {
        let y = gpu.output(self.result_len());
        let geometry = self.geometry();
        let threads = geometry.vectors * geometry.positions() * geometry.phases;
        let eps = epilogue.norm.map_or(0.0, |norm| norm.eps);
        let uniform = self.uniform(geometry.strips(), [1, 0], eps, [0; 3]);
        let mut overrides = self.overrides();
        overrides.extend(epilogue.overrides());
        let kernel = launch::kernel(Kernels::of(self.group).direct, DIRECT);
        let operands = Self::operands(x, weight, epilogue);
        gpu.launch(&kernel, &overrides, &operands, &[&y], &uniform, Size::Threads(threads));
        y
    }

    fn run_tiled(&self, tiling: Tiling, gpu: &Gpu, x: &GpuBuffer, weight: &GpuBuffer, epilogue: Epilogue) -> GpuBuffer {
        let y = gpu.output(self.result_len());
        let (kernel, overrides) = self.conv_kernel(tiling, epilogue);
        let workgroups = self.workgroups(tiling);
        let eps = epilogue.norm.map_or(0.0, |norm| norm.eps);
        let uniform = self.uniform(self.geometry().strips(), workgroups, eps, [0; 3]);
        let operands = Self::operands(x, weight, epilogue);
        gpu.launch(&kernel, &overrides, &operands, &[&y], &uniform, Size::Groups(workgroups[1]));
        y
    }

    fn chunks(&self) -> Chunks {
        let windows = self.batch * self.result.0 * self.result.1;
        Chunks::of(self.group, self.c_in, self.c_out, self.runs() + 1, windows)
    }

    /// The first pass of the weight gradient.
    fn partial_kernel(&self, chunks: Chunks) -> (Kernel, Overrides) {
        let [left_pitch, right_pitch] = chunks.pitches();
        let mut overrides = self.overrides();
        overrides.extend([
            ("DEPTH", depth(self.group, self.c_in) as f64),
            ("TILE", chunks.tile as f64),
            ("COUNT", chunks.count as f64),
            ("COLUMNS", chunks.columns as f64),
            ("SLICE", chunks.slice() as f64),
            ("SLICES", chunks.slices as f64),
            ("THREADS", chunks.threads() as f64),
            ("LEFT_PITCH", left_pitch as f64),
            ("RIGHT_PITCH", right_pitch as f64),
            ("LEFT", (SPAN * left_pitch) as f64),
            ("RIGHT", (SPAN * right_pitch) as f64),
            ("EXCHANGE", chunks.exchange() as f64),
            ("LEFT_CHANNELS", chunks.vectors() as f64),
            ("RUNS", chunks.runs as f64),
            ("SPLIT", chunks.split as f64),
        ]);
        let kernel = unchecked(Kernels::of(self.group).partial);
        (kernel.workgroup(chunks.threads() as u32, chunks.memory(self.group) as u32), overrides)
    }

    /// The second: a sum per lane, and dψ of the taps at hand. Runs are of `depth` source channels.
    fn fold_kernel(&self, depth: usize) -> (Kernel, Overrides) {
        let taps = if self.lifting() { self.taps() } else { 1 };
        let mut overrides = self.overrides();
        overrides.extend([("DEPTH", depth as f64), ("FOLDED", taps as f64)]);
        let vectors = if self.group == Group::C1 { 64 } else { 64 + 2 * taps };
        let kernel = unchecked(Kernels::of(self.group).fold);
        (kernel.workgroup(64, 16 * vectors as u32), overrides)
    }

    /// The gradients of weight and bias, of these lengths.
    fn weight_gradient(&self, gpu: &Gpu, x: &GpuBuffer, dy: &GpuBuffer, lengths: [usize; 2]) -> [GpuBuffer; 2] {
        match self.cut(gpu) {
            Some(cut) => self.weight_gradient_matrices(cut, gpu, x, dy, lengths),
            None => self.weight_gradient_fp32(gpu, x, dy, lengths),
        }
    }

    fn weight_gradient_fp32(&self, gpu: &Gpu, x: &GpuBuffer, dy: &GpuBuffer, lengths: [usize; 2]) -> [GpuBuffer; 2] {
        let chunks = self.chunks();
        let cut = [chunks.bands, chunks.chunk, chunks.chunks];
        let depth = depth(self.group, self.c_in);
        let terms = (self.runs() + 1) * depth;
        let vectors = chunks.chunks * self.rows() * terms * Kernels::of(self.group).vectors;
        let partials = gpu.output(4 * vectors);
        let (kernel, overrides) = self.partial_kernel(chunks);
        let workgroups = chunks.chunks * chunks.bands * chunks.parts;
        let strips = (1, self.grid()[1]);
        let uniform = self.uniform(strips, [chunks.parts, workgroups], 0.0, cut);
        gpu.launch(&kernel, &overrides, &[x, dy], &[&partials], &uniform, Size::Groups(workgroups));
        self.fold(gpu, &partials, depth, chunks.chunks, lengths)
    }

    /// The second pass, of the partial sums of so many chunks.
    fn fold(
        &self,
        gpu: &Gpu,
        partials: &GpuBuffer,
        depth: usize,
        chunks: usize,
        lengths: [usize; 2],
    ) -> [GpuBuffer; 2] {
        let gradients = lengths.map(|len| gpu.output(len));
        let (kernel, overrides) = self.fold_kernel(depth);
        let shares = if self.lifting() { 1 } else { self.taps() };
        let workgroups = self.rows() * (self.c_in + 1) * shares;
        let uniform = self.uniform((1, self.grid()[1]), [1, workgroups], 0.0, [0, 0, chunks]);
        let [dweight, dbias] = &gradients;
        gpu.launch(&kernel, &overrides, &[partials], &[dweight, dbias], &uniform, Size::Groups(workgroups));
        gradients
    }
}

/// `y = weight ⋆ x + bias`.
pub(super) fn forward(gpu: &Gpu, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    let e = Extents::new("group_conv", x.shape(), weight.shape(), conv);
    let y = Pass::forward(&e, conv).run(gpu, x.buffer(), weight.buffer(), Epilogue { bias, norm: None });
    Tensor::gpu(e.y(), y)
}

/// [`forward`], then the norm, as a scale and a shift of the sums before they are stored.
pub(super) fn forward_norm(
    gpu: &Gpu,
    e: &Extents,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
    norm: GivenNorm,
) -> Tensor {
    let epilogue = Epilogue { bias, norm: Some(norm) };
    Tensor::gpu(e.y(), Pass::forward(e, conv).run(gpu, x.buffer(), weight.buffer(), epilogue))
}

/// Gradient of the input. Lifting is a plain convolution with the orbits of its filters.
pub(super) fn dx(gpu: &Gpu, dy: &Tensor, weight: &Tensor, x_shape: Shape, conv: Conv) -> Tensor {
    let e = Extents::new("group_conv_dx", x_shape, weight.shape(), conv);
    if e.g_in != e.g_out {
        let rows = e.c_out * e.g_out;
        let dense = filter_orbit(weight, conv.group).reshape([rows, e.c_in, 1, e.k, e.k]);
        let dy = dy.reshape([e.batch, rows, 1, e.out_height, e.out_width]);
        return dx(gpu, &dy, &dense, x_shape, Conv { group: Group::C1, ..conv });
    }
    Tensor::gpu(x_shape, Pass::adjoint(&e, conv).run(gpu, dy.buffer(), weight.buffer(), Epilogue::default()))
}

/// A transposed convolution, in the extents of the one whose adjoint it is.
pub(super) fn transposed(
    gpu: &Gpu,
    e: &Extents,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
) -> Tensor {
    let y = Pass::adjoint(e, conv).run(gpu, x.buffer(), weight.buffer(), Epilogue { bias, norm: None });
    Tensor::gpu(e.transposed_y(), y)
}

/// Gradients of weight and bias.
pub(super) fn dw(gpu: &Gpu, x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> (Tensor, Tensor) {
    let e = Extents::new("group_conv_dw", x.shape(), weight_shape, conv);
    let lengths = [weight_shape.len(), e.c_out];
    let [weight, bias] = Pass::forward(&e, conv).weight_gradient(gpu, x.buffer(), dy.buffer(), lengths);
    (Tensor::gpu(weight_shape, weight), Tensor::gpu([e.c_out], bias))
}

#[cfg(test)]
mod tests {
    use super::super::{
        group_conv, group_conv_dw, group_conv_dx,
        tests::{CASES, Case, close, expected, operands},
        tiling::LEAST_MEMORY,
    };
    use super::*;
    use crate::{transform_feature_map, transform_plane};
    use quarterturn_core::{Device, testing, window_residual};

    /// Beyond [`CASES`]: what straddles a workgroup's windows, channels and chunks, and what a stride leaves over in `dx`.
    const EDGES: &[Case] = &[
        (Group::C1, false, 33, 3, 21, 3, 5, 3, 1, 1, 1),
        (Group::C1, false, 2, 9, 65, 8, 8, 3, 2, 1, 1),
        (Group::C1, false, 1, 1, 1, 1, 1, 1, 1, 0, 1),
        (Group::C4, true, 33, 1, 10, 5, 4, 7, 2, 3, 1),
        (Group::C4, false, 33, 10, 10, 5, 5, 3, 1, 1, 1),
        (Group::C4, false, 3, 9, 41, 7, 6, 3, 2, 1, 1),
        (Group::C4, false, 1, 8, 16, 9, 9, 1, 2, 0, 1),
        (Group::C4, false, 2, 2, 3, 8, 11, 4, 3, 2, 1),
        (Group::C4, false, 1, 1, 1, 1, 1, 1, 1, 0, 1),
        (Group::D4, true, 3, 1, 7, 9, 7, 5, 2, 2, 1),
        (Group::D4, false, 33, 7, 7, 3, 3, 3, 1, 1, 1),
        (Group::D4, false, 2, 5, 9, 6, 7, 2, 2, 0, 1),
        (Group::C4, false, 2, 3, 5, 12, 11, 3, 1, 4, 4),
        (Group::D4, true, 2, 2, 5, 12, 11, 3, 2, 3, 3),
    ];

    fn cases() -> impl Iterator<Item = Case> {
        CASES.iter().chain(EDGES).copied()
    }

    #[test]
    fn the_gpu_agrees_with_the_reference() {
        let Some(gpu) = testing::gpu() else { return };
        let gpu = Device::Gpu(gpu);
        for case in cases() {
            let [y, dy, dx, dw, db] = expected(case);
            let (x, weight, bias, conv) = operands(case, &gpu);
            let dy = dy.to_device(&gpu).unwrap();
            let name = |what| format!("{what} {case:?}");
            close(&name("y"), &group_conv(&x, &weight, Some(&bias), conv), &y, 2e-6);
            close(&name("dx"), &group_conv_dx(&dy, &weight, x.shape(), conv), &dx, 2e-6);
            let (got_w, got_b) = group_conv_dw(&x, &dy, weight.shape(), conv);
            close(&name("dw"), &got_w, &dw, 2e-6);
            close(&name("db"), &got_b, &db, 2e-6);
        }
    }

    /// Where (i + 2p − k) mod s = 0, turning the input turns the output, to the last bit; elsewhere it does not.
    #[test]
    fn the_gpu_commutes_with_every_element_to_the_last_bit() {
        let Some(gpu) = testing::gpu() else { return };
        let gpu = Device::Gpu(gpu);
        for (group, lift, n, c_in, c_out, size, _, k, stride, padding, dilation) in cases() {
            let window = dilation * (k - 1) + 1;
            // The size of the case, and the next that leaves nothing over.
            let exact = size + (stride - (size + 2 * padding - window) % stride) % stride;
            for size in [size, exact] {
                let case = (group, lift, n, c_in, c_out, size, size, k, stride, padding, dilation);
                let (x, weight, bias, conv) = operands(case, &gpu);
                let y = group_conv(&x, &weight, Some(&bias), conv);
                let commutes = |g| {
                    let turned = if lift { transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                    let got = group_conv(&turned, &weight, Some(&bias), conv).to_vec().unwrap();
                    // Without a group, turning the image alone does nothing of the kind.
                    group == Group::C1 || got == transform_feature_map(&y, g, group).to_vec().unwrap()
                };
                let exact = window_residual(size, window, stride, padding) == Some(0);
                for g in group.elements().skip(1) {
                    // The mirroring at the main diagonal, 5, moves no window.
                    assert_eq!(commutes(g), exact || g == 5, "{case:?}, element {g}");
                }
            }
        }
    }

    /// Whatever the tiling, forward and adjoint, the bits are those of the kernel without tiles.
    #[test]
    fn no_tiling_changes_a_bit() {
        let Some(gpu) = testing::gpu() else { return };
        let device = Device::Gpu(gpu.clone());
        for case in [
            (Group::C1, false, 3, 9, 23, 9, 8, 3, 2, 1, 1),
            (Group::C4, true, 2, 2, 5, 9, 9, 5, 1, 2, 1),
            (Group::C4, false, 3, 10, 11, 7, 6, 3, 2, 1, 1),
            (Group::D4, false, 2, 5, 6, 6, 5, 3, 1, 1, 1),
            (Group::C4, false, 3, 5, 6, 9, 8, 3, 2, 2, 2),
        ] {
            let (x, weight, bias, conv) = operands(case, &device);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            let dy = super::super::tests::random(e.y(), 4, &device);
            let forward = Pass::forward(&e, conv);
            let adjoint = Pass::adjoint(&e, conv);
            let passes = [(&forward, x.buffer(), Some(&bias)), (&adjoint, dy.buffer(), None)];
            // The adjoint of lifting is another convolution.
            for (pass, source, bias) in passes.into_iter().take(if forward.lifting() { 1 } else { 2 }) {
                let epilogue = Epilogue { bias, norm: None };
                let direct = pass.run_direct(&gpu, source, weight.buffer(), epilogue).read().unwrap();
                for (tile, rows, columns, channels) in [
                    (4, 1, 16, 2),
                    (5, 1, 8, 1),
                    (4, 2, 32, 1),
                    (5, 3, 8, 2),
                    (4, 7, 4, 3),
                    (3, 8, 8, 1),
                    (1, 1, 64, 1),
                ] {
                    let tile = if case.0 == Group::D4 { tile.min(4) } else { tile };
                    let tiling = Tiling { tile, rows, columns, channels };
                    let tiled = pass.run_tiled(tiling, &gpu, source, weight.buffer(), epilogue).read().unwrap();
                    assert!(tiled == direct, "{case:?} adjoint {} {tiling:?}", pass.adjoint);
                }
                assert!(pass.run(&gpu, source, weight.buffer(), epilogue).read().unwrap() == direct, "{case:?}");
            }
        }
    }

    /// An image's result does not depend on its place in a batch.
    #[test]
    fn a_batch_changes_no_bit() {
        let Some(gpu) = testing::gpu() else { return };
        let gpu = Device::Gpu(gpu);
        let (x, weight, bias, conv) = operands((Group::C4, false, 33, 3, 10, 5, 6, 3, 1, 1, 1), &gpu);
        let all = group_conv(&x, &weight, Some(&bias), conv).to_vec().unwrap();
        let values = x.to_vec().unwrap();
        let (len, result) = (values.len() / 33, all.len() / 33);
        for image in [0, 7, 32] {
            let alone = Tensor::from_vec([1, 3, 4, 5, 6], values[image * len..][..len].to_vec(), &gpu).unwrap();
            let y = group_conv(&alone, &weight, Some(&bias), conv).to_vec().unwrap();
            assert!(y == all[image * result..][..result], "image {image}");
        }
    }

    #[test]
    fn a_convolution_is_one_launch_and_its_weight_gradient_two() {
        let Some(shared) = testing::gpu() else { return };
        // Of its own, so that other tests do not count.
        let name = Some(shared.adapter().name.clone());
        let gpu = Gpu::open(&quarterturn_core::gpu::GpuOptions { adapter: name, ..Default::default() }).unwrap();
        let (x, weight, bias, conv) =
            operands((Group::C4, false, 2, 3, 4, 5, 5, 3, 2, 1, 1), &Device::Gpu(gpu.clone()));
        let launches = |work: &dyn Fn()| {
            let before = gpu.statistics().launches;
            work();
            gpu.statistics().launches - before
        };
        let dy = group_conv(&x, &weight, Some(&bias), conv);
        assert_eq!(launches(&|| drop(group_conv(&x, &weight, Some(&bias), conv))), 1);
        assert_eq!(launches(&|| drop(group_conv_dx(&dy, &weight, x.shape(), conv))), 1);
        assert_eq!(launches(&|| drop(group_conv_dw(&x, &dy, weight.shape(), conv))), 2);
    }

    /// More workgroups than one dimension of a launch holds: all windows, once.
    #[test]
    fn large_launches_are_cut_without_a_rest() {
        // 224 × 224 images, 512 of them: on a stride of 2 each phase of dx has a quarter of the windows.
        let x = Shape::from([512, 64, 4, 225, 224]);
        let conv = Conv { stride: 2, padding: 1, ..Conv::new(Group::C4) };
        let e = Extents::new("test", x, Shape::from([64, 64, 4, 3, 3]), conv);
        let forward = Pass::forward(&e, conv);
        assert_eq!((forward.geometry().positions(), forward.spread), (512 * 113 * 112, 1));
        let adjoint = Pass::adjoint(&e, conv);
        assert_eq!((adjoint.grid(), adjoint.geometry().positions()), ([113, 112], 512 * 113 * 112));
        let tiling = Tiling::of(&adjoint.geometry(), LEAST_MEMORY).unwrap();
        let [parts, workgroups] = adjoint.workgroups(tiling);
        assert_eq!((tiling.vectors() * parts, tiling.windows(Group::C4)), (64, 128));
        assert_eq!(workgroups, parts * 4 * 512 * 113 * 112 / 128);
        assert!(workgroups > 65_535);
    }

    /// Bytes of the workgroup variables that a kernel uses, as naga lays them out. Needs no GPU.
    pub(super) fn workgroup_bytes(kernel: &Kernel, overrides: &Overrides) -> u32 {
        use naga::{AddressSpace, ShaderStage, back::pipeline_constants::process_overrides, valid};
        let module = naga::front::wgsl::parse_str(kernel.source()).unwrap();
        let mut validator = valid::Validator::new(valid::ValidationFlags::all(), valid::Capabilities::all());
        let info = validator.validate(&module).unwrap();
        let constants = overrides.iter().map(|&(name, value)| (name.to_string(), value)).collect();
        let entry = Some((ShaderStage::Compute, kernel.name()));
        let (module, info) = process_overrides(&module, &info, entry, &constants).unwrap();
        assert_eq!(module.entry_points.len(), 1);
        assert_eq!(module.entry_points[0].workgroup_size, [kernel.workgroup_size(), 1, 1], "{}", kernel.name());
        let used = module.global_variables.iter().filter(|(handle, variable)| {
            variable.space == AddressSpace::WorkGroup && !info.get_entry_point(0)[*handle].is_empty()
        });
        used.map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx())).sum()
    }

    /// What a launch says of its workgroup memory is what the shader uses.
    #[test]
    fn the_stated_workgroup_memory_is_right() {
        // Of the last, the weight gradient has memory for one slice only.
        let one_slice = (Group::C4, false, 1, 10, 16, 5, 5, 3, 1, 1, 1);
        for (group, lift, _, c_in, c_out, h, w, k, stride, padding, dilation) in
            EDGES.iter().copied().chain([one_slice])
        {
            let g_in = if lift { 1 } else { group.order() };
            let conv = Conv { group, stride, padding, dilation };
            let weight = Shape::from([c_out, c_in, g_in, k, k]);
            let e = Extents::new("test", Shape::from([1, c_in, g_in, h, w]), weight, conv);
            let pass = Pass::forward(&e, conv);
            let small = Tiling::of(&pass.geometry(), LEAST_MEMORY).unwrap();
            let large = Tiling::of(&pass.geometry(), 2 * LEAST_MEMORY).unwrap();
            let kernels = [
                pass.conv_kernel(small, Epilogue::default()),
                pass.conv_kernel(large, Epilogue::default()),
                pass.partial_kernel(pass.chunks()),
                pass.fold_kernel(depth(group, c_in)),
            ];
            for (kernel, overrides) in kernels {
                let bytes = workgroup_bytes(&kernel, &overrides);
                assert_eq!(bytes, kernel.workgroup_memory(), "{} {group} {c_in} {c_out} {k}", kernel.name());
            }
        }
    }
}
