//! The GPU path: transform the filters, then one fused kernel for all positions; see `group_conv.wgsl`.

use super::{Conv, Extents};
use crate::{Group, filter_orbit};
use quarterturn_core::{
    Shape, Tensor,
    gpu::{Gpu, GpuBuffer, Kernel, Size},
};

static SHADER: &str = concat!(include_str!("../prelude.wgsl"), include_str!("../group_conv.wgsl"));

/// Positions that one partial weight gradient sums, at least; and invocations that are enough to keep a GPU busy.
const CHUNK: usize = 64;
const BUSY: usize = 8192;

/// The kernels of one group.
struct Kernels {
    filters: &'static str,
    conv: &'static str,
    products: &'static str,
    fold: &'static str,
    /// Result channels and positions of an invocation, and terms of the weight gradient.
    tile: usize,
    positions: usize,
    terms: usize,
    /// Floats of a transformed filter tap of one channel.
    values: usize,
}

impl Kernels {
    const fn of(group: Group) -> Self {
        match group {
            Group::C1 => Kernels {
                filters: "filters_c1",
                conv: "conv_c1",
                products: "products_c1",
                fold: "fold_c1",
                tile: 20,
                positions: 4,
                terms: 4,
                values: 1,
            },
            Group::C4 => Kernels {
                filters: "filters_c4",
                conv: "conv_c4",
                products: "products_c4",
                fold: "fold_c4",
                tile: 5,
                positions: 4,
                terms: 4,
                values: 4,
            },
            Group::D4 => Kernels {
                filters: "filters_d4",
                conv: "conv_d4",
                products: "products_d4",
                fold: "fold_d4",
                tile: 4,
                positions: 2,
                terms: 2,
                values: 8,
            },
        }
    }
}

/// One sum over windows: a convolution, its adjoint, or its weight's gradient.
struct Pass<'a> {
    gpu: &'a Gpu,
    group: Group,
    kernels: Kernels,
    k: usize,
    stride: usize,
    dilation: usize,
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

impl<'a> Pass<'a> {
    fn forward(gpu: &'a Gpu, e: &Extents, conv: Conv) -> Self {
        Pass {
            gpu,
            group: conv.group,
            kernels: Kernels::of(conv.group),
            k: e.k,
            stride: conv.stride,
            dilation: 1,
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
    fn adjoint(gpu: &'a Gpu, e: &Extents, conv: Conv) -> Self {
        Pass {
            stride: 1,
            dilation: conv.stride,
            adjoint: true,
            c_in: e.c_out,
            planes: e.g_out,
            source: (e.out_height, e.out_width),
            c_out: e.c_in,
            result: (e.height, e.width),
            lead: e.k as isize - 1 - conv.padding as isize,
            ..Pass::forward(gpu, e, conv)
        }
    }

    fn lifting(&self) -> bool {
        self.planes < self.group.order()
    }

    fn taps(&self) -> usize {
        if self.lifting() { (self.k / 2) * self.k.div_ceil(2) + self.k % 2 } else { self.k * self.k }
    }

    fn tiles(&self) -> usize {
        self.c_out.div_ceil(self.kernels.tile)
    }

    fn positions(&self) -> usize {
        self.batch * self.result.0 * self.result.1
    }

    /// Terms of a filter's gradient: its taps and the bias.
    fn terms(&self) -> usize {
        self.c_in * self.taps() + 1
    }

    /// Invocations that sum one partial weight gradient.
    fn shares(&self) -> usize {
        self.tiles() * self.terms().div_ceil(self.kernels.terms)
    }

    /// Number of partial weight gradients, and positions of each.
    fn chunks(&self) -> (usize, usize) {
        let chunk = self.positions().div_ceil(BUSY.div_ceil(self.shares())).max(CHUNK);
        (self.positions().div_ceil(chunk), chunk)
    }

    fn launch(&self, name: &'static str, inputs: &[&GpuBuffer], outputs: &[&GpuBuffer], biased: bool, size: Size) {
        let flag = |flag| f64::from(u8::from(flag));
        let overrides = [
            ("K", self.k as f64),
            ("STRIDE", self.stride as f64),
            ("DILATION", self.dilation as f64),
            ("LIFTING", flag(self.lifting())),
            ("ADJOINT", flag(self.adjoint)),
        ];
        let (chunks, chunk) = self.chunks();
        let uniform = [
            self.c_in as u32,
            self.c_out as u32,
            self.tiles() as u32,
            self.planes as u32,
            self.source.0 as u32,
            self.source.1 as u32,
            self.result.0 as u32,
            self.result.1 as u32,
            self.positions() as u32,
            self.lead as i32 as u32,
            u32::from(biased),
            chunk as u32,
            chunks as u32,
        ];
        self.gpu.launch(&Kernel::new(name, SHADER), &overrides, inputs, outputs, &uniform, size);
    }

    /// ψ̃ of every filter, in the order in which `run` reads it.
    fn filters(&self, weight: &GpuBuffer) -> GpuBuffer {
        let filters = self.tiles() * self.kernels.tile * self.c_in * self.taps();
        let transformed = self.gpu.alloc(filters * self.kernels.values);
        // Without a group, an invocation makes four filters of one float.
        let threads = if self.group == Group::C1 { filters / 4 } else { filters };
        self.launch(self.kernels.filters, &[weight], &[&transformed], false, Size::Threads(threads));
        transformed
    }

    fn run(&self, x: &GpuBuffer, weight: &GpuBuffer, bias: Option<&GpuBuffer>) -> GpuBuffer {
        let filters = self.filters(weight);
        let y = self.gpu.alloc(self.positions() * self.c_out * self.group.order());
        let groups = self.positions().div_ceil(64 * self.kernels.positions) * self.tiles();
        // Something must be bound where the bias is missing.
        let inputs = [x, &filters, bias.unwrap_or(weight)];
        self.launch(self.kernels.conv, &inputs, &[&y], bias.is_some(), Size::Groups(groups));
        y
    }

    /// The gradients of weight and bias, of these lengths.
    fn weight_gradient(&self, x: &GpuBuffer, dy: &GpuBuffer, lengths: [usize; 2]) -> [GpuBuffer; 2] {
        let Kernels { tile, values, products, fold, .. } = self.kernels;
        let spectra = match self.group {
            Group::C1 => dy.clone(),
            _ => {
                let spectra = self.gpu.alloc(dy.len());
                let name = if self.group == Group::C4 { "gradient_c4" } else { "gradient_d4" };
                self.launch(name, &[dy], &[&spectra], false, Size::Threads(dy.len() / values));
                spectra
            }
        };
        let chunks = self.chunks().0;
        let sums = self.gpu.alloc(chunks * self.tiles() * self.terms() * tile * values);
        self.launch(products, &[x, &spectra], &[&sums], false, Size::Threads(chunks * self.shares()));
        let gradients = lengths.map(|len| self.gpu.alloc(len));
        let threads = Size::Threads(lengths[0] + lengths[1]);
        self.launch(fold, &[&sums], &[&gradients[0], &gradients[1]], false, threads);
        gradients
    }
}

/// `y = weight ⋆ x + bias`.
pub(super) fn forward(gpu: &Gpu, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    let e = Extents::new("group_conv", x.shape(), weight.shape(), conv);
    let y = Pass::forward(gpu, &e, conv).run(x.buffer(), weight.buffer(), bias.map(Tensor::buffer));
    Tensor::gpu(e.y(), y)
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
    Tensor::gpu(x_shape, Pass::adjoint(gpu, &e, conv).run(dy.buffer(), weight.buffer(), None))
}

/// Gradients of weight and bias.
pub(super) fn dw(gpu: &Gpu, x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> (Tensor, Tensor) {
    let e = Extents::new("group_conv_dw", x.shape(), weight_shape, conv);
    let lengths = [weight_shape.len(), e.c_out];
    let [weight, bias] = Pass::forward(gpu, &e, conv).weight_gradient(x.buffer(), dy.buffer(), lengths);
    (Tensor::gpu(weight_shape, weight), Tensor::gpu([e.c_out], bias))
}

#[cfg(test)]
mod tests {
    use super::super::{
        group_conv, group_conv_dw, group_conv_dx,
        tests::{CASES, close, expected, operands},
    };
    use crate::transform_feature_map;
    use quarterturn_core::{Device, testing};

    #[test]
    fn the_gpu_agrees_with_the_reference() {
        let Some(gpu) = testing::gpu() else { return };
        let gpu = Device::Gpu(gpu);
        for &case in CASES {
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

    /// Wherever (i + 2p − k) mod s = 0, turning the input turns the output, to the last bit.
    #[test]
    fn the_gpu_commutes_with_every_element_to_the_last_bit() {
        let Some(gpu) = testing::gpu() else { return };
        let gpu = Device::Gpu(gpu);
        for &case in CASES {
            let (group, lift, n, c_in, c_out, size, _, k, stride, padding) = case;
            let size = size + (stride - (size + 2 * padding - k) % stride) % stride;
            let (x, weight, bias, conv) = operands((group, lift, n, c_in, c_out, size, size, k, stride, padding), &gpu);
            let y = group_conv(&x, &weight, Some(&bias), conv);
            for g in group.elements() {
                let turned = if lift { crate::transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                let got = group_conv(&turned, &weight, Some(&bias), conv).to_vec().unwrap();
                let expected = transform_feature_map(&y, g, group).to_vec().unwrap();
                assert!(got == expected, "{group} lift {lift} k {k} s {stride} p {padding} size {size} g {g}");
            }
        }
    }
}
