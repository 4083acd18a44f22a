//! The transposed convolution layer: learned upsampling.

use crate::{
    Init, Layer, Module, MultiplyAdds, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
    nn::conv_settings::ConvSettings,
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape, dilated_extent, transposed_extent};
use quarterturn_kernels::{Conv, Cosets, Window, filter_orbit};

/// No described layer makes a map larger by more, nor higher or wider than this.
const LARGEST: usize = 64;
const HIGHEST: usize = 1 << 16;

/// A transposed convolution (PyTorch: `ConvTranspose2d`) with a bias: plain, lifting or on the group. Weight
/// `[C_in, C_out, G_in, k, k]`, one bias per output channel. `H` rows become
/// `s(H − 1) + d(k − 1) + 1 − 2p + output_padding`. See [`quarterturn_kernels::transposed_group_conv`]. With an
/// output padding of 0 it is exact at every size, otherwise at no size.
#[derive(Debug)]
pub struct TransposedConv {
    weight: Param,
    bias: Option<Param>,
    conv: Conv,
    output_padding: usize,
}

impl TransposedConv {
    /// `[N, in, group_axis, H, W]` → `[N, out, G, H', W']`; with a `group_axis` of 1 it lifts. Weight and bias are
    /// initialised as those of PyTorch's `ConvTranspose2d`: the fan-in of a scheme is `C_out · G_in · k²`, the fan-out
    /// `C_in · G · k²`.
    ///
    /// # Errors
    /// When the GPU has no room.
    #[expect(clippy::too_many_arguments, reason = "shape, geometry and where it is made")]
    pub fn new(
        in_channels: usize,
        group_axis: usize,
        out_channels: usize,
        kernel_size: usize,
        conv: Conv,
        output_padding: usize,
        init: &mut Init,
        device: &Device,
    ) -> Result<Self> {
        let shape = [in_channels, out_channels, group_axis, kernel_size, kernel_size];
        let weight = Param::weight(init.filters(shape, conv.group, device)?);
        let fan_in = out_channels * group_axis * kernel_size * kernel_size;
        let bias = Some(Param::weight(init.uniform([out_channels], fan_in, device)?));
        Ok(TransposedConv { weight, bias, conv, output_padding })
    }

    /// The same layer without a bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }
}

impl Layer for TransposedConv {
    const KIND: &'static str = "transposed_conv";

    /// On the group; lifting, if the group has not been reached yet.
    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        let ConvSettings { in_channels, elements, out_channels, kernel_size, conv, bias } =
            ConvSettings::of(node, &["output_padding"], site)?;
        let (stride, output_padding) = (conv.stride, node.setting_or("output_padding", 0)?);
        if stride > LARGEST {
            return Err(site.unfit(format!("expected a stride of 1 to {LARGEST}, not {stride}")));
        }
        if output_padding >= stride {
            let message = format!("expected an output padding below the stride {stride}, not {output_padding}");
            return Err(site.unfit(message));
        }
        site.expect("weight", &[in_channels, out_channels, elements, kernel_size, kernel_size])?;
        if bias {
            site.expect("bias", &[out_channels])?;
        }
        let (device, init) = (site.device(), site.init());
        let layer = Self::new(in_channels, elements, out_channels, kernel_size, conv, output_padding, init, device)?;
        Ok(if bias { layer } else { layer.without_bias() })
    }
}

impl Module for TransposedConv {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let tape = x.tape();
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        x.transposed_group_conv(&tape.param(&self.weight), bias.as_ref(), self.conv, self.output_padding)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let w = self.weight.value().shape();
        let (channels, order) = (w[0], w[2]);
        let (n, extents) = match *x.dims() {
            [n, c, g, height, width] if n > 0 && (c, g) == (channels, order) => (n, [height, width]),
            _ => {
                return Err(trace.unfit(format!(
                    "expected at least one image with {channels} channels and a group axis of {order}, [N, C, G, H, W], got {x:?}"
                )));
            }
        };
        let Conv { group, stride, padding, dilation } = self.conv;
        let reach = dilated_extent(w[3], dilation).unwrap_or(0);
        let made = extents.map(|i| transposed_extent(i, reach, stride, padding, self.output_padding));
        match made {
            [Some(height), Some(width)] if height.max(width) <= HIGHEST => {
                Ok(Shape::from([n, w[1], group.order(), height, width]))
            }
            [Some(height), Some(width)] => {
                Err(trace.unfit(format!("it would make a map of {height}×{width}, which is too large")))
            }
            _ => {
                let [height, width] = extents;
                Err(trace.unfit(format!("of a {height}×{width} map, padding {padding} leaves nothing")))
            }
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let Conv { group, stride, padding, dilation } = self.conv;
        let (weight, order, output_padding) = (self.weight.value(), group.order(), self.output_padding);
        let &[inputs, outputs, elements, kernel_size, _] = weight.dims() else {
            unreachable!("its weight has five axes")
        };
        // Rows (c, h) and columns (o, g), as the adjoint reads them. Lifting, the filters of all pairs of channels stand on their own.
        let orbit = match elements {
            1 => filter_orbit(&weight.reshape([inputs * outputs, 1, 1, kernel_size, kernel_size]), group),
            _ => filter_orbit(weight, group),
        };
        let orbit = orbit.reshape([inputs * elements, outputs * order, kernel_size, kernel_size]);
        let op = Op::TransposedConv {
            weight: Array::of(&orbit)?,
            bias: self.bias.as_ref().map(|bias| Array::of(bias.value())).transpose()?.map(|bias| bias.repeated(order)),
            stride,
            padding,
            dilation,
            output_padding,
        };
        let made = plain.widened(x, Window { kernel_size, stride, padding }, dilation, output_padding);
        Ok(plain.push(op, &[x], Value { channels: outputs, elements: order, ..made }))
    }

    fn symmetry(&self, _: Shape, axis: Cosets) -> Symmetry {
        match self.conv.group {
            own if axis.group() != own.into() => {
                Symmetry::Breaks(format!("it convolves on {own}, in a network on {}", axis.group()))
            }
            _ if self.output_padding > 0 => Symmetry::Breaks(format!(
                "its output padding, {}, adds rows and columns at the bottom and on the right alone",
                self.output_padding
            )),
            _ => Symmetry::Commutes,
        }
    }

    // Element by element, unless it is at once the convolution with turned filters.
    fn multiply_adds(&self, x: Shape, _: Shape) -> MultiplyAdds {
        let w = self.weight.value().shape();
        let [formula, irreps] = self.conv.products(w[2], w[3]);
        let computed = if self.conv.stride == 1 && w[2] > 1 { irreps } else { formula };
        MultiplyAdds::new(w[0] * w[1] * x[0] * x[3] * x[4], [formula, computed])
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            f("bias", bias);
        }
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f("weight", &self.weight);
        if let Some(bias) = &self.bias {
            f("bias", bias);
        }
    }
}
