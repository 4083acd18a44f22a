//! Convolutions: plain (z2), lifting (Z²→G) and group (G→G).
//!
//! ```text
//! y[n, o, g, p] = bias[o] + Σ_c Σ_h Σ_u (act_g weight[o, c, g⁻¹h])[u] · x[n, c, h, s·p + d·u − padding]
//! ```
//!
//! (Cohen & Welling 2016, Eqs. 10 and 11). When lifting, the group axis of `x` has length 1 and h runs over one value.
//! `Reference` evaluates this formula as it stands; `Cpu` and `Gpu` first transform `x` and the filters to the group's
//! irreps, which takes 2.67× (p4) or 5.33× (p4m) fewer multiplications and commutes with the group to the last bit. On
//! the CPU a p4 convolution's gradient of the input, that of a wide layer's weight and [`group_conv_norm_train`] take 3.2×
//! fewer, and commute up to rounding. A plain 3×3 convolution at stride 1 takes 4× fewer there: from 8 channels on, forward and for
//! the gradient of its input (`winograd.rs`), and from 10 channels on for that of its weight (`gradient_squares.rs`). Small images are
//! left out.

mod depthwise;
#[cfg(feature = "gpu")]
mod gpu;
mod gradient;
mod gradient_panels;
mod gradient_squares;
mod irrep;
mod kept;
mod layout;
mod norm;
mod packed;
mod panel;
mod pass;
mod reference;
mod tile;
#[cfg(feature = "gpu")]
mod tiling;
mod transposed;
mod winograd;

use crate::{Group, Isa, filter_orbit};
pub use depthwise::*;
#[cfg(feature = "gpu")]
pub use gpu::{TensorCoreUse, tensor_core_use};
use gradient::ResultGradient;
pub use kept::*;
pub use norm::*;
use quarterturn_core::{Device, Shape, Tensor, common_device, dilated_extent, window_extent};
pub use transposed::*;

/// The settings of a convolution that do not follow from the shapes of its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv {
    /// The symmetry group; [`Group::C1`] is ordinary convolution.
    pub group: Group,
    /// Distance between output samples.
    pub stride: usize,
    /// Zeros added on each side.
    pub padding: usize,
    /// Distance between the taps of the filter, 1 for an ordinary one. A filter reaches over `dilation·(k − 1) + 1`
    /// samples.
    pub dilation: usize,
}

impl Conv {
    /// Stride 1, no padding, dilation 1. For others write `Conv { stride: 2, padding: 1, ..Conv::new(group) }`.
    pub const fn new(group: Group) -> Self {
        Conv { group, stride: 1, padding: 0, dilation: 1 }
    }
}

impl Conv {
    /// The number of multiplications for one input channel, one output channel and one output pixel, all group elements
    /// together: `[by the formula, as computed]`. `g_in` is the length of the input's group axis (1 when lifting). Winograd's
    /// products, which some plain 3×3 layers take on the CPU, are not counted: they are a quarter.
    pub fn products(self, g_in: usize, kernel_size: usize) -> [usize; 2] {
        let taps = kernel_size * kernel_size;
        let formula = taps * g_in * self.group.order();
        let of_term = match self.group {
            Group::C1 => return [formula; 2],
            Group::C4 => 6,
            Group::D4 => 12,
        };
        let lifts = g_in == 1;
        [formula, of_term * if lifts { taps.div_ceil(4) } else { taps }]
    }
}

/// The extents of one convolution, checked against each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extents {
    batch: usize,
    c_in: usize,
    c_out: usize,
    /// Group elements of the input: 1 when lifting.
    g_in: usize,
    /// Group elements of the output: the order of the group.
    g_out: usize,
    k: usize,
    /// Samples from a window's first tap to its last: `dilation·(k − 1) + 1`.
    window: usize,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
}

impl Extents {
    #[track_caller]
    fn new(op: &str, x: Shape, weight: Shape, conv: Conv) -> Self {
        assert!(
            x.rank() == 5 && weight.rank() == 5 && x[1] == weight[1] && x[2] == weight[2] && weight[3] == weight[4],
            "{op}: expected x [N, C, G, H, W] and weight [C_out, C, G, k, k], got {x:?} and {weight:?}"
        );
        assert!(!x.is_empty() && !weight.is_empty(), "{op}: expected elements, got x {x:?} and weight {weight:?}");
        let g_out = conv.group.order();
        assert!(
            x[2] == 1 || x[2] == g_out,
            "{op}: a {} convolution takes a group axis of 1 (lifting) or {g_out}, got {x:?}",
            conv.group
        );
        let window = dilated_extent(weight[3], conv.dilation);
        let extent = |i| {
            window.and_then(|window| window_extent(i, window, conv.stride, conv.padding)).unwrap_or_else(|| {
                panic!(
                    "{op}: kernel {} at stride {}, dilation {} does not fit {i} samples, padding {}",
                    weight[3], conv.stride, conv.dilation, conv.padding
                )
            })
        };
        Extents {
            batch: x[0],
            c_in: x[1],
            c_out: weight[0],
            g_in: x[2],
            g_out,
            k: weight[3],
            window: window.unwrap_or_default(),
            height: x[3],
            width: x[4],
            out_height: extent(x[3]),
            out_width: extent(x[4]),
        }
    }

    fn x(&self) -> Shape {
        Shape::from([self.batch, self.c_in, self.g_in, self.height, self.width])
    }

    fn y(&self) -> Shape {
        Shape::from([self.batch, self.c_out, self.g_out, self.out_height, self.out_width])
    }

    fn weight(&self) -> Shape {
        Shape::from([self.c_out, self.c_in, self.g_in, self.k, self.k])
    }

    #[track_caller]
    fn check_y(&self, op: &str, dy: &Tensor) {
        assert_eq!(dy.shape(), self.y(), "{op}: dy must have the shape of the output");
    }
}

/// Convolution over a group (Cohen & Welling 2016, Eqs. 10 and 11), in the convention of PyTorch and GrouPy: a correlation, the
/// filter is not flipped.
///
/// ```text
/// y[n, o, g, p] = bias[o] + Σ_c Σ_h Σ_u (act_g weight[o, c, g⁻¹h])[u] · x[n, c, h, s·p + d·u − padding]
/// ```
///
/// - `x` is `[N, C_in, G_in, H, W]`, `weight` `[C_out, C_in, G_in, k, k]`, `bias` `[C_out]`, `y` `[N, C_out, G, H', W']`, where G is the
///   order of the group, `s` the stride and `d` the dilation.
/// - g and h are elements of the group in the order of [`Group`]: 0 to 3 are so many quarter turns counter-clockwise, 4 to 7
///   those followed by a flip from top to bottom. `act_g` moves the entries of a filter as [`crate::transform_plane`] does.
/// - A filter is stored once, for g = 0. For another g it is turned by g, and its planes are exchanged: for h it uses
///   the stored plane `g⁻¹h`. [`crate::filter_orbit`] writes the filters for all g out, as the weight of an ordinary
///   convolution.
/// - The first layer lifts: there `G_in` = 1, the sum over h has one term, and `weight[o, c]` has one plane. With
///   [`Group::C1`], G = G_in = 1, it is PyTorch's `conv2d`.
///
/// Where (i + 2p − d(k − 1) − 1) mod s = 0 along both axes, a turned or mirrored `x` gives `y` turned or mirrored in every bit on the CPU and
/// on a GPU. [`Device::Reference`] keeps the formula as it stands, in `f64`, and there it holds up to rounding.
///
/// If an input or a filter has NaN or ∞, the output has NaN or ∞ at least where the formula gives it. The CPU and GPUs
/// compute with differences of samples, so an infinite input may give NaN.
///
/// # Panics
/// If shapes or devices do not fit, or not one window fits the padded input.
#[doc(alias = "conv2d")]
#[track_caller]
pub fn group_conv(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, conv: Conv) -> Tensor {
    let e = Extents::new("group_conv", x.shape(), weight.shape(), conv);
    let mut operands = vec![x, weight];
    if let Some(bias) = bias {
        assert_eq!(bias.dims(), [e.c_out], "group_conv: bias must be [C_out]");
        operands.push(bias);
    }
    match common_device("group_conv", &operands) {
        Device::Cpu => {
            let epilogue = pass::Epilogue::bias(e.c_out, bias.map(Tensor::f32s));
            Tensor::cpu(e.y(), pass::forward(&e, conv, Isa::current(), x.f32s(), weight.f32s(), epilogue))
        }
        Device::Reference => {
            Tensor::reference(e.y(), reference::forward(&e, conv, x.f64s(), weight.f64s(), bias.map(Tensor::f64s)))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu::forward(&gpu, x, weight, bias, conv),
    }
}

/// Gradient of [`group_conv`] with respect to its input, `[N, C_in, G_in, H, W]`. On p4 on the CPU it is equivariant up
/// to rounding, not to the last bit.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn group_conv_dx(dy: &Tensor, weight: &Tensor, x_shape: Shape, conv: Conv) -> Tensor {
    let e = Extents::new("group_conv_dx", x_shape, weight.shape(), conv);
    e.check_y("group_conv_dx", dy);
    match common_device("group_conv_dx", &[dy, weight]) {
        Device::Cpu if e.g_in != e.g_out => {
            // Lifting is a plain convolution with the orbits of its filters.
            let dy = dy.reshape([e.batch, e.c_out * e.g_out, 1, e.out_height, e.out_width]);
            let dense = filter_orbit(weight, conv.group).reshape([e.c_out * e.g_out, e.c_in, 1, e.k, e.k]);
            group_conv_dx(&dy, &dense, x_shape, Conv { group: Group::C1, ..conv })
        }
        Device::Cpu => {
            Tensor::cpu(e.x(), pass::dx_then(&e, conv, Isa::current(), dy.f32s(), weight.f32s(), &pass::Nothing))
        }
        Device::Reference => Tensor::reference(e.x(), reference::dx(&e, conv, dy.f64s(), weight.f64s())),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu::dx(&gpu, dy, weight, x_shape, conv),
    }
}

/// Gradients of [`group_conv`] with respect to weight `[C_out, C_in, G_in, k, k]` and bias `[C_out]`.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn group_conv_dw(x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> (Tensor, Tensor) {
    let e = Extents::new("group_conv_dw", x.shape(), weight_shape, conv);
    e.check_y("group_conv_dw", dy);
    match common_device("group_conv_dw", &[x, dy]) {
        Device::Cpu => {
            let (dw, db) = gradient::dw(&e, conv, Isa::current(), x.f32s(), ResultGradient::Given(dy.f32s()));
            (Tensor::cpu(e.weight(), dw), Tensor::cpu([e.c_out], db))
        }
        Device::Reference => {
            let (dw, db) = reference::dw(&e, conv, x.f64s(), dy.f64s());
            (Tensor::reference(e.weight(), dw), Tensor::reference([e.c_out], db))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu::dw(&gpu, x, dy, weight_shape, conv),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{transform_feature_map, transform_plane};
    use quarterturn_core::{Stream, window_residual};

    /// (group, lift, batch, c_in, c_out, height, width, k, stride, padding, dilation)
    pub(super) type Case = (Group, bool, usize, usize, usize, usize, usize, usize, usize, usize, usize);

    pub(super) const CASES: &[Case] = &[
        (Group::C1, false, 2, 3, 5, 9, 8, 3, 2, 1, 1),
        (Group::C1, false, 9, 20, 20, 14, 14, 3, 1, 1, 1),
        (Group::C4, true, 2, 1, 4, 7, 7, 3, 1, 1, 1),
        (Group::C4, true, 1, 3, 2, 9, 9, 4, 1, 1, 1),
        (Group::C4, true, 1, 2, 3, 10, 11, 5, 2, 2, 1),
        (Group::C4, false, 2, 5, 3, 5, 5, 3, 1, 1, 1),
        (Group::C4, false, 1, 3, 13, 8, 5, 3, 1, 0, 1),
        (Group::C4, false, 1, 2, 3, 7, 7, 4, 1, 0, 1),
        (Group::C4, false, 1, 2, 3, 6, 6, 2, 2, 0, 1),
        (Group::C4, false, 3, 2, 3, 8, 8, 3, 2, 1, 1),
        (Group::C4, false, 1, 2, 2, 11, 11, 7, 2, 3, 1),
        (Group::C4, false, 1, 3, 4, 7, 7, 1, 2, 0, 1),
        (Group::C4, false, 1, 2, 2, 3, 3, 1, 1, 2, 1),
        (Group::C4, false, 2, 10, 10, 28, 28, 3, 1, 1, 1),
        (Group::C4, false, 1, 17, 25, 6, 6, 3, 1, 1, 1),
        (Group::C4, false, 1, 65, 4, 4, 4, 3, 1, 1, 1),
        // Large enough to be taken in bands on the CPU.
        (Group::C4, false, 1, 8, 2, 65, 65, 3, 2, 1, 1),
        (Group::C4, false, 1, 8, 1, 70, 65, 3, 1, 1, 1),
        (Group::D4, true, 1, 2, 3, 8, 8, 3, 1, 1, 1),
        (Group::D4, true, 1, 2, 3, 8, 8, 4, 2, 1, 1),
        (Group::D4, false, 2, 3, 5, 6, 6, 3, 1, 1, 1),
        (Group::D4, false, 1, 2, 7, 9, 9, 3, 2, 1, 1),
        (Group::D4, false, 1, 9, 11, 8, 8, 3, 1, 0, 1),
        (Group::D4, false, 1, 2, 2, 5, 8, 5, 1, 2, 1),
        // Wide enough for panels on the CPU.
        (Group::C1, false, 3, 5, 64, 9, 8, 3, 1, 1, 1),
        (Group::C1, false, 2, 17, 129, 6, 5, 3, 1, 1, 1),
        (Group::C4, true, 2, 3, 32, 9, 9, 7, 2, 3, 1),
        (Group::C4, false, 3, 17, 33, 5, 5, 3, 1, 1, 1),
        (Group::C4, false, 2, 17, 33, 7, 7, 3, 2, 1, 1),
        (Group::D4, false, 3, 13, 14, 5, 5, 3, 1, 1, 1),
        (Group::D4, false, 2, 12, 13, 8, 8, 3, 2, 1, 1),
        (Group::D4, false, 2, 17, 46, 3, 3, 3, 1, 1, 1),
        // Taps apart: by less than the stride, more, and so much that only few windows fit.
        (Group::C1, false, 2, 3, 5, 9, 8, 3, 1, 2, 2),
        (Group::C1, false, 1, 2, 2, 11, 10, 2, 3, 1, 4),
        (Group::C4, true, 2, 2, 3, 8, 8, 3, 1, 2, 2),
        (Group::C4, true, 1, 1, 2, 11, 11, 4, 2, 2, 3),
        (Group::C4, false, 2, 5, 3, 9, 9, 3, 1, 2, 2),
        (Group::C4, false, 1, 2, 3, 9, 9, 3, 2, 2, 2),
        (Group::C4, false, 1, 2, 3, 10, 10, 3, 2, 3, 3),
        (Group::C4, false, 1, 2, 2, 9, 12, 2, 2, 1, 3),
        (Group::C4, false, 1, 8, 1, 70, 65, 3, 1, 3, 3),
        (Group::D4, true, 1, 2, 3, 9, 9, 3, 1, 2, 2),
        (Group::D4, false, 1, 2, 3, 21, 21, 3, 1, 9, 9),
        (Group::D4, false, 1, 2, 2, 10, 10, 3, 2, 2, 2),
    ];

    pub(crate) fn random(shape: Shape, stream: u32, device: &Device) -> Tensor {
        let stream = Stream::new(1, stream, 0);
        Tensor::from_vec(shape, (0..shape.len()).map(|i| stream.normal(i as u64) as f32).collect(), device).unwrap()
    }

    /// |got − expected| ≤ tolerance · max |expected|.
    pub(crate) fn close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
        assert_eq!(got.shape(), expected.shape(), "{name}");
        let (got, expected) = (got.to_f64().unwrap(), expected.to_f64().unwrap());
        let scale = expected.iter().fold(1e-30, |m: f64, v| m.max(v.abs()));
        for (i, (g, e)) in got.iter().zip(&expected).enumerate() {
            assert!((g - e).abs() <= tolerance * scale, "{name}: element {i}: {g} instead of {e} (scale {scale})");
        }
    }

    /// x, weight and bias of a case.
    pub(super) fn operands(case: Case, device: &Device) -> (Tensor, Tensor, Tensor, Conv) {
        let (group, lift, n, c_in, c_out, h, w, k, stride, padding, dilation) = case;
        let g_in = if lift { 1 } else { group.order() };
        let x = random(Shape::from([n, c_in, g_in, h, w]), 1, device);
        let weight = random(Shape::from([c_out, c_in, g_in, k, k]), 2, device);
        (x, weight, random(Shape::from([c_out]), 3, device), Conv { group, stride, padding, dilation })
    }

    /// What the reference makes of a case: y, a random dy, dx, dw and db.
    pub(super) fn expected(case: Case) -> [Tensor; 5] {
        let (x, weight, bias, conv) = operands(case, &Device::Reference);
        let y = group_conv(&x, &weight, Some(&bias), conv);
        let dy = random(y.shape(), 4, &Device::Reference);
        let dx = group_conv_dx(&dy, &weight, x.shape(), conv);
        let (dw, db) = group_conv_dw(&x, &dy, weight.shape(), conv);
        [y, dy, dx, dw, db]
    }

    /// An image's results are those that it has alone, and the number of threads is nowhere in them.
    #[test]
    fn neither_batch_nor_threads_change_a_bit() {
        for (group, n, c_in, c_out, extent, stride) in [
            (Group::C1, 5, 5, 7, 12, 1),
            (Group::C4, 7, 3, 7, 10, 2),
            (Group::D4, 3, 2, 4, 9, 1),
            (Group::C4, 2, 8, 3, 65, 2),
            (Group::C1, 5, 17, 129, 7, 1),
            (Group::C1, 33, 17, 18, 9, 1),
            (Group::C4, 5, 17, 33, 5, 1),
            (Group::D4, 3, 12, 13, 9, 2),
            (Group::D4, 3, 17, 46, 3, 1),
        ] {
            let (x, weight, _, conv) =
                operands((group, false, n, c_in, c_out, extent, extent, 3, stride, 1, 1), &Device::Cpu);
            let run = |threads: usize, x: &Tensor| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| {
                    let y = group_conv(x, &weight, None, conv);
                    let dx = group_conv_dx(&y, &weight, x.shape(), conv);
                    let (dw, db) = group_conv_dw(x, &y, weight.shape(), conv);
                    [y, dx, dw, db]
                })
            };
            let whole = run(1, &x);
            for threads in [2, 3, 5] {
                for (one, other) in whole.iter().zip(run(threads, &x)) {
                    assert!(one.f32s() == other.f32s(), "{group}, {threads} threads");
                }
            }
            for (i, image) in x.f32s().chunks(x.len() / n).enumerate() {
                let image = Tensor::cpu([1, c_in, group.order(), extent, extent], image.to_vec().into());
                for (one, whole) in run(2, &image)[..2].iter().zip(&whole[..2]) {
                    assert!(one.f32s() == &whole.f32s()[i * one.len()..][..one.len()], "{group}, image {i}");
                }
            }
        }
    }

    /// `f(T x) == T' f(x)` to the last bit where (i + 2p − k) mod s = 0, with every instruction set; and not otherwise.
    #[test]
    fn exact_sizes_commute_with_the_group_to_the_last_bit() {
        for &case in CASES {
            let (group, lift, _, _, c_out, h, w, ..) = case;
            if h != w {
                continue;
            }
            let (x, weight, _, conv) = operands(case, &Device::Cpu);
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            let exact = window_residual(h, e.window, conv.stride, conv.padding) == Some(0);
            for &isa in Isa::available() {
                let forward = |x: &Tensor| {
                    let epilogue = pass::Epilogue::bias(c_out, None);
                    Tensor::cpu(e.y(), pass::forward(&e, conv, isa, x.f32s(), weight.f32s(), epilogue))
                };
                let y = forward(&x);
                for g in 1..group.order() {
                    let turned = match lift {
                        true => transform_plane(&x, g),
                        false => transform_feature_map(&x, g, group),
                    };
                    let equal = forward(&turned).f32s() == transform_feature_map(&y, g, group).f32s();
                    // The mirroring at the main diagonal, 5, moves no window.
                    assert!(equal == (exact || g == 5), "{case:?} {isa}, element {g}: equal is {equal}");
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_the_reference() {
        for &case in CASES {
            let [y, dy, dx, dw, db] = expected(case);
            let (x, weight, bias, conv) = operands(case, &Device::Cpu);
            let dy = dy.to_device(&Device::Cpu).unwrap();
            let e = Extents::new("test", x.shape(), weight.shape(), conv);
            for &isa in Isa::available() {
                let name = |what| format!("{what} {case:?} {isa}");
                let (x, weight, dy) = (x.f32s(), weight.f32s(), dy.f32s());
                let got = Tensor::cpu(
                    e.y(),
                    pass::forward(&e, conv, isa, x, weight, pass::Epilogue::bias(e.c_out, Some(bias.f32s()))),
                );
                close(&name("y"), &got, &y, 2e-6);
                if e.g_in == e.g_out {
                    close(
                        &name("dx"),
                        &Tensor::cpu(e.x(), pass::dx_then(&e, conv, isa, dy, weight, &pass::Nothing)),
                        &dx,
                        2e-6,
                    );
                }
                let (got_w, got_b) = gradient::dw(&e, conv, isa, x, ResultGradient::Given(dy));
                close(&name("dw"), &Tensor::cpu(e.weight(), got_w), &dw, 2e-6);
                close(&name("db"), &Tensor::cpu([e.c_out], got_b), &db, 2e-6);
            }
        }
    }
}
