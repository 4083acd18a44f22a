//! The separable convolution layer: a depthwise convolution, then a 1×1 convolution.

use crate::{
    GroupConv, Init, Layer, LayerKind, Module, MultiplyAdds, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
    nn::conv_settings::ConvSettings,
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::{Conv, Cosets, Window, filter_orbit};

/// `y = pointwise ⋆ (depthwise ⋆ x) + bias`. The depthwise convolution has one filter for each channel, which is turned
/// for each group element ([`quarterturn_kernels::depthwise_conv`]). The pointwise convolution has 1×1 filters over
/// channels and group elements. For each channel, group element and pixel this takes `k² + C_out·G` multiplications,
/// where the dense form of [`GroupConv`] takes `k²·C_out·G`. Weights `depthwise.weight` `[C_in, 1, 1, k, k]` and
/// `pointwise.weight` `[C_out, C_in, G, 1, 1]`, and `pointwise.bias`, one per output channel.
#[derive(Debug)]
pub struct SeparableConv {
    depthwise: Param,
    pointwise: GroupConv,
    conv: Conv,
    /// Elements of what it reads: 1 when it lifts.
    elements: usize,
}

impl SeparableConv {
    /// `[N, in, group_axis, H, W]` → `[N, out, G, H', W']`; with a `group_axis` of 1 it lifts. The depthwise filters
    /// are initialised as those of a convolution of one channel, the pointwise filters as those of a 1×1 convolution.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(
        in_channels: usize,
        group_axis: usize,
        out_channels: usize,
        kernel_size: usize,
        conv: Conv,
        init: &mut Init,
        device: &Device,
    ) -> Result<Self> {
        // Each plane of a channel is filtered on its own.
        let fan_in = kernel_size * kernel_size;
        let filters = init.uniform([in_channels, 1, 1, kernel_size, kernel_size], fan_in, device)?;
        let pointwise = GroupConv::new(in_channels, out_channels, 1, Conv::new(conv.group), init, device)?;
        Ok(SeparableConv { depthwise: Param::weight(filters), pointwise, conv, elements: group_axis })
    }

    /// The same layer without a bias.
    #[must_use]
    pub fn without_bias(self) -> Self {
        SeparableConv { pointwise: self.pointwise.without_bias(), ..self }
    }

    fn window(&self) -> Window {
        let Conv { stride, padding, .. } = self.conv;
        Window { kernel_size: self.depthwise.value().shape()[3], stride, padding }
    }
}

impl Layer for SeparableConv {
    const KIND: &'static str = "separable_conv";

    /// On the group; lifting, if the group has not been reached yet.
    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        let ConvSettings { in_channels, elements, out_channels, kernel_size, conv, bias } =
            ConvSettings::of(node, &[], site)?;
        site.expect("depthwise.weight", &[in_channels, 1, 1, kernel_size, kernel_size])?;
        site.expect("pointwise.weight", &[out_channels, in_channels, conv.group.order(), 1, 1])?;
        if bias {
            site.expect("pointwise.bias", &[out_channels])?;
        }
        let (device, init) = (site.device(), site.init());
        let layer = Self::new(in_channels, elements, out_channels, kernel_size, conv, init, device)?;
        Ok(if bias { layer } else { layer.without_bias() })
    }
}

impl Module for SeparableConv {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let filters = x.tape().param(&self.depthwise);
        let filtered = x.depthwise_conv(&filters, self.conv);
        drop(x);
        self.pointwise.apply(filtered, pass)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let (channels, axis) = (self.depthwise.value().shape()[0], self.elements);
        match *x.dims() {
            [n, c, g, ..] if x.rank() == 5 && n > 0 && (c, g) == (channels, axis) => {
                let [height, width] =
                    trace.dilated_window(LayerKind::SeparableConv, x, self.window(), self.conv.dilation)?;
                let out_channels = self.pointwise.weight().value().shape()[0];
                Ok(Shape::from([n, out_channels, self.conv.group.order(), height, width]))
            }
            _ => Err(trace.unfit(format!(
                "expected at least one image with {channels} channels and a group axis of {axis}, [N, C, G, H, W], got {x:?}"
            ))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let Conv { group, dilation, .. } = self.conv;
        let window = self.window();
        let weight = Array::of(&filter_orbit(self.depthwise.value(), group))?;
        // Lifting, every element of a channel reads its one plane.
        let groups = x.joined();
        let Window { stride, padding, .. } = window;
        let op = Op::Conv { weight, bias: None, stride, padding, dilation, groups };
        let made = Value { elements: group.order(), ..plain.windowed(x, window, dilation) };
        let filtered = plain.push_as("depthwise", op, &[x], made);
        plain.through("pointwise", &self.pointwise, filtered)
    }

    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        self.pointwise.symmetry(x, axis)
    }

    fn multiply_adds(&self, x: Shape, y: Shape) -> MultiplyAdds {
        let w = self.depthwise.value().shape();
        let filtered = MultiplyAdds::new(w[0] * y[0] * y[2] * y[3] * y[4], [w[3] * w[3]; 2]);
        filtered + self.pointwise.multiply_adds(x, y)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("depthwise.weight", &mut self.depthwise);
        self.pointwise.visit_as("pointwise", f);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f("depthwise.weight", &self.depthwise);
        self.pointwise.read_as("pointwise", f);
    }
}
