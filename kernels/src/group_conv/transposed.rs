//! Transposed convolution: what [`super::group_conv_dx`] computes, as a layer's own sum, with the bits that turns keep.

#[cfg(feature = "gpu")]
use super::gpu;
use super::{Conv, Extents, group_conv, group_conv_dw, pass, reference};
use crate::{Group, Isa, filter_orbit, filter_orbit_vjp, sum_axes};
use quarterturn_core::{Device, Shape, Tensor, common_device, dilated_extent, transposed_extent};

/// Transposed convolution over a group, in the convention of PyTorch's `conv_transpose2d`: the adjoint of
/// [`group_conv`] with respect to `x`.
///
/// ```text
/// y[n, o, g, q] = bias[o] + Σ_c Σ_h Σ_{p, u: s·p + d·u − padding = q} (act_h weight[c, o, h⁻¹g])[u] · x[n, c, h, p]
/// ```
///
/// - `x` is `[N, C_in, G_in, H, W]`, `weight` `[C_in, C_out, G_in, k, k]`, `bias` `[C_out]`, `y` `[N, C_out, G, H', W']` with
///   `H' = s(H − 1) + d(k − 1) + 1 − 2·padding + output_padding`, where G is the order of the group, s the stride and d the
///   dilation.
/// - With `G_in` = 1 it lifts: the sum over h has one term, with the filter `act_g weight[c, o]`.
/// - `output_padding` rows and columns are added at the bottom and on the right. It must be below the stride. It is how
///   many rows and columns [`group_conv`] with the same window on `y` would leave over.
///
/// Where `output_padding` = 0, a turned or mirrored `x` gives `y` turned or mirrored in every bit, at any size, on the CPU and on
/// a GPU. Otherwise it does not.
///
/// # Panics
/// If shapes or devices do not fit, or there is no output.
#[doc(alias = "conv_transpose2d")]
#[track_caller]
pub fn transposed_group_conv(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    conv: Conv,
    output_padding: usize,
) -> Tensor {
    const OP: &str = "transposed_group_conv";
    let e = Extents::transposed(OP, x.shape(), weight.shape(), conv, output_padding);
    let mut operands = vec![x, weight];
    if let Some(bias) = bias {
        assert_eq!(bias.dims(), [e.c_in], "{OP}: bias must be [C_out]");
        operands.push(bias);
    }
    match common_device(OP, &operands) {
        Device::Cpu => {
            let epilogue = pass::Epilogue::bias(e.c_in, bias.map(Tensor::f32s));
            Tensor::cpu(e.transposed_y(), pass::transposed(&e, conv, Isa::current(), x.f32s(), weight.f32s(), epilogue))
        }
        Device::Reference if e.g_in != e.g_out => {
            let y = transposed_group_conv(x, &dense(weight, conv.group), None, plain(conv), output_padding);
            let y = y.reshape(e.transposed_y());
            match bias {
                Some(bias) => crate::add(&y, &bias.reshape([1, e.c_in, 1, 1, 1])),
                None => y,
            }
        }
        Device::Reference => {
            let y = reference::transposed(&e, conv, x.f64s(), weight.f64s(), bias.map(Tensor::f64s));
            Tensor::reference(e.transposed_y(), y)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu::transposed(&gpu, &e, x, weight, bias, conv),
    }
}

/// Gradient of [`transposed_group_conv`] with respect to its input, where `dy` is the gradient of its output: a
/// convolution of `dy`.
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn transposed_group_conv_dx(dy: &Tensor, weight: &Tensor, x_shape: Shape, conv: Conv) -> Tensor {
    let e = Extents::of_results("transposed_group_conv_dx", x_shape, weight.shape(), conv, dy);
    match e.g_in == e.g_out {
        true => group_conv(dy, weight, None, conv),
        false => group_conv(&as_channels(dy, &e), &dense(weight, conv.group), None, plain(conv)),
    }
}

/// Gradients of weight `[C_in, C_out, G_in, k, k]` and bias `[C_out]` of [`transposed_group_conv`].
///
/// # Panics
/// If shapes or devices do not fit.
#[track_caller]
pub fn transposed_group_conv_dw(x: &Tensor, dy: &Tensor, weight_shape: Shape, conv: Conv) -> (Tensor, Tensor) {
    let e = Extents::of_results("transposed_group_conv_dw", x.shape(), weight_shape, conv, dy);
    let dbias = sum_axes(dy, &[0, 2, 3, 4], false);
    if e.g_in == e.g_out {
        return (group_conv_dw(dy, x, weight_shape, conv).0, dbias);
    }
    let of_orbits = Shape::from([e.c_out, e.c_in * e.g_out, 1, e.k, e.k]);
    let (d, _) = group_conv_dw(&as_channels(dy, &e), x, of_orbits, plain(conv));
    let d = d.reshape([e.c_out * e.c_in * e.g_out, 1, e.k, e.k]);
    (filter_orbit_vjp(&d, filters(weight_shape), conv.group).reshape(weight_shape), dbias)
}

/// What lifts is a plain convolution of channels (o, g) ...
fn plain(conv: Conv) -> Conv {
    Conv { group: Group::C1, ..conv }
}

/// ... with the orbits of its filters, `[C_in, C_out·G, 1, k, k]`.
fn dense(weight: &Tensor, group: Group) -> Tensor {
    let w = weight.shape();
    filter_orbit(&weight.reshape(filters(w)), group).reshape([w[0], w[1] * group.order(), 1, w[3], w[4]])
}

/// The filters of all pairs of channels, each on its own.
fn filters(weight: Shape) -> Shape {
    Shape::from([weight[0] * weight[1], 1, 1, weight[3], weight[4]])
}

fn as_channels(y: &Tensor, e: &Extents) -> Tensor {
    y.reshape([e.batch, e.c_in * e.g_out, 1, e.height, e.width])
}

impl Extents {
    /// Those of the convolution whose adjoint it is: `x` is what that would make. When lifting, `g_in` is still that of `x`.
    #[track_caller]
    fn transposed(op: &str, x: Shape, weight: Shape, conv: Conv, output_padding: usize) -> Self {
        assert!(
            x.rank() == 5 && weight.rank() == 5 && x[1] == weight[0] && x[2] == weight[2] && weight[3] == weight[4],
            "{op}: expected x [N, C_in, G, H, W] and weight [C_in, C_out, G, k, k], got {x:?} and {weight:?}"
        );
        assert!(!x.is_empty() && !weight.is_empty(), "{op}: expected elements, got x {x:?} and weight {weight:?}");
        let order = conv.group.order();
        assert!(
            x[2] == 1 || x[2] == order,
            "{op}: a {} convolution takes a group axis of 1 (lifting) or {order}, got {x:?}",
            conv.group
        );
        assert!(
            output_padding < conv.stride,
            "{op}: expected an output padding below the stride {}, got {output_padding}",
            conv.stride
        );
        let window = dilated_extent(weight[3], conv.dilation);
        let extent = |i| {
            let made =
                window.and_then(|window| transposed_extent(i, window, conv.stride, conv.padding, output_padding));
            made.unwrap_or_else(|| panic!("{op}: of {i} samples, {conv:?} and kernel {} make nothing", weight[3]))
        };
        Extents {
            batch: x[0],
            c_in: weight[1],
            c_out: weight[0],
            g_in: x[2],
            g_out: order,
            k: weight[3],
            window: window.unwrap_or_default(),
            height: extent(x[3]),
            width: extent(x[4]),
            out_height: x[3],
            out_width: x[4],
        }
    }

    /// The shape of its results.
    pub(super) fn transposed_y(&self) -> Shape {
        Shape::from([self.batch, self.c_in, self.g_out, self.height, self.width])
    }

    /// The same, where `dy` says how large the results are.
    #[track_caller]
    fn of_results(op: &str, x: Shape, weight: Shape, conv: Conv, dy: &Tensor) -> Self {
        let e = Self::transposed(op, x, weight, conv, 0);
        let dims = dy.dims();
        let fits = dims.len() == 5 && dims[..3] == [e.batch, e.c_in, e.g_out];
        let along = |made: usize, least: usize| (least..least + conv.stride).contains(&made);
        assert!(
            fits && along(dims[3], e.height) && along(dims[4], e.width),
            "{op}: expected dy of the output's shape {:?}, output padding aside, got {dims:?}",
            e.transposed_y()
        );
        Extents { height: dims[3], width: dims[4], ..e }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        group_conv::tests::{close, random},
        group_conv_dx, transform_feature_map, transform_plane,
    };
    use quarterturn_core::testing;

    /// (group, lift, batch, c_in, c_out, height, width, k, stride, padding, dilation, output padding)
    const CASES: &[(Group, bool, [usize; 10])] = &[
        (Group::C1, false, [2, 3, 5, 4, 5, 3, 2, 1, 1, 1]),
        (Group::C1, false, [1, 2, 3, 5, 5, 4, 2, 1, 1, 0]),
        (Group::C4, true, [2, 2, 3, 5, 5, 3, 2, 1, 1, 0]),
        (Group::C4, true, [1, 1, 3, 4, 6, 4, 3, 0, 1, 2]),
        (Group::C4, true, [1, 2, 2, 5, 5, 3, 1, 2, 2, 0]),
        (Group::C4, false, [2, 3, 2, 5, 5, 3, 2, 1, 1, 0]),
        (Group::C4, false, [2, 3, 2, 5, 5, 3, 2, 1, 1, 1]),
        (Group::C4, false, [1, 2, 3, 4, 4, 4, 2, 1, 1, 0]),
        (Group::C4, false, [1, 2, 9, 4, 5, 2, 2, 0, 1, 0]),
        (Group::C4, false, [1, 2, 2, 4, 4, 1, 2, 0, 1, 1]),
        (Group::C4, false, [1, 2, 2, 6, 6, 3, 1, 1, 1, 0]),
        (Group::C4, false, [1, 2, 2, 6, 6, 2, 1, 2, 1, 0]),
        (Group::C4, false, [1, 2, 2, 4, 4, 3, 3, 1, 2, 2]),
        (Group::D4, true, [1, 2, 3, 5, 5, 4, 2, 1, 1, 0]),
        (Group::D4, false, [1, 2, 3, 4, 4, 3, 2, 1, 1, 0]),
        (Group::D4, false, [1, 2, 3, 4, 4, 3, 2, 1, 1, 1]),
        (Group::D4, false, [1, 2, 1, 4, 4, 3, 2, 2, 2, 0]),
    ];

    fn operands(
        (group, lift, [n, c_in, c_out, h, w, k, stride, padding, dilation, _]): (Group, bool, [usize; 10]),
        device: &Device,
    ) -> (Tensor, Tensor, Tensor, Conv) {
        let g_in = if lift { 1 } else { group.order() };
        let x = random(Shape::from([n, c_in, g_in, h, w]), 1, device);
        let weight = random(Shape::from([c_in, c_out, g_in, k, k]), 2, device);
        (x, weight, random(Shape::from([c_out]), 3, device), Conv { group, stride, padding, dilation })
    }

    /// The adjoint of a convolution, and where it lifts, of the plain one with all orbits; on every device.
    #[test]
    fn devices_agree_with_the_gradient_of_a_convolution() {
        for &case in CASES {
            let (group, lift, [n, .., c_out, _, _, _, _, _, _, output_padding]) = case;
            let (x, weight, bias, conv) = operands(case, &Device::Reference);
            let y = transposed_group_conv(&x, &weight, Some(&bias), conv, output_padding);
            let without = transposed_group_conv(&x, &weight, None, conv, output_padding);
            let expected = match lift {
                false => group_conv_dx(&x, &weight, y.shape(), conv),
                true => {
                    let as_plain = Shape::from([n, c_out * group.order(), 1, y.shape()[3], y.shape()[4]]);
                    group_conv_dx(&x, &dense(&weight, group), as_plain, plain(conv)).reshape(y.shape())
                }
            };
            close(&format!("{case:?}"), &without, &expected, 1e-12);
            let dy = random(y.shape(), 4, &Device::Reference);
            let dx = transposed_group_conv_dx(&dy, &weight, x.shape(), conv);
            let (dw, db) = transposed_group_conv_dw(&x, &dy, weight.shape(), conv);
            for device in testing::devices() {
                let name = |what: &str| format!("{what} {case:?} on {device}");
                let (x, weight, bias, conv) = operands(case, &device);
                let dy = dy.to_device(&device).unwrap();
                let got = transposed_group_conv(&x, &weight, Some(&bias), conv, output_padding);
                close(&name("y"), &got, &y, 2e-6);
                close(&name("dx"), &transposed_group_conv_dx(&dy, &weight, x.shape(), conv), &dx, 2e-6);
                let (got_w, got_b) = transposed_group_conv_dw(&x, &dy, weight.shape(), conv);
                close(&name("dw"), &got_w, &dw, 2e-6);
                close(&name("db"), &got_b, &db, 2e-6);
            }
        }
    }

    /// `f(T x) == T' f(x)` to the last bit where there is no output padding, and not otherwise.
    #[test]
    fn exact_without_output_padding_and_not_with_it() {
        for device in testing::devices() {
            for &case in CASES {
                let (group, lift, [.., h, w, _, _, _, _, output_padding]) = case;
                if h != w {
                    continue;
                }
                let (x, weight, bias, conv) = operands(case, &device);
                let forward = |x: &Tensor| transposed_group_conv(x, &weight, Some(&bias), conv, output_padding);
                let y = forward(&x);
                for g in 1..group.order() {
                    let turned = if lift { transform_plane(&x, g) } else { transform_feature_map(&x, g, group) };
                    let expected = transform_feature_map(&y, g, group).to_vec().unwrap();
                    let equal = forward(&turned).to_vec().unwrap() == expected;
                    // The mirroring at the main diagonal, 5, moves no window.
                    assert!(equal == (output_padding == 0 || g == 5), "{case:?} on {device}, element {g}: {equal}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "transposed_group_conv: expected an output padding below the stride 2, got 2")]
    fn an_output_padding_of_a_whole_step_is_refused() {
        let (x, weight, _, conv) = operands((Group::C4, false, [1, 1, 1, 4, 4, 3, 2, 1, 1, 0]), &Device::Cpu);
        transposed_group_conv(&x, &weight, None, conv, 2);
    }
}
