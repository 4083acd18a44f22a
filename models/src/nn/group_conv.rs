//! The convolution layer: plain, lifting or on the group.

use crate::{
    Init, Layer, LayerKind, Module, MultiplyAdds, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
    nn::conv_settings::ConvSettings,
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::{Conv, Cosets, FilterCache, GivenNorm, Group, Window, filter_orbit};

/// A convolution on a group, `y = weight ⋆ x + bias`; for the formula see [`quarterturn_kernels::group_conv`]. Weight
/// `[C_out, C_in, G_in, k, k]`, one bias per output channel.
#[derive(Debug)]
pub struct GroupConv {
    weight: Param,
    bias: Option<Param>,
    conv: Conv,
    filters: FilterCache,
}

impl GroupConv {
    /// A convolution on the group: `[N, in, G, H, W]` → `[N, out, G, H', W']`; for [`Group::C1`] an ordinary one. The
    /// weight is initialised by `init`, the bias by PyTorch's default, U(±1/√fan_in), with the true fan-in
    /// `C_in · G_in · k²`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(
        in_channels: usize,
        out_channels: usize,
        kernel_size: usize,
        conv: Conv,
        init: &mut Init,
        device: &Device,
    ) -> Result<Self> {
        Self::with_group_axis(in_channels, conv.group.order(), out_channels, kernel_size, conv, init, device)
    }

    /// A lifting convolution, for the first layer: it reads images `[N, in, 1, H, W]` and writes feature maps on the
    /// group, `[N, out, G, H', W']`. Initialised as [`GroupConv::new`].
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn lifting(
        in_channels: usize,
        out_channels: usize,
        kernel_size: usize,
        conv: Conv,
        init: &mut Init,
        device: &Device,
    ) -> Result<Self> {
        Self::with_group_axis(in_channels, 1, out_channels, kernel_size, conv, init, device)
    }

    fn with_group_axis(
        in_channels: usize,
        g_in: usize,
        out_channels: usize,
        kernel_size: usize,
        conv: Conv,
        init: &mut Init,
        device: &Device,
    ) -> Result<Self> {
        let fan_in = in_channels * g_in * kernel_size * kernel_size;
        let shape = [out_channels, in_channels, g_in, kernel_size, kernel_size];
        let weight = Param::weight(init.filters(shape, conv.group, device)?);
        let bias = Some(Param::weight(init.uniform([out_channels], fan_in, device)?));
        Ok(GroupConv { weight, bias, conv, filters: FilterCache::default() })
    }

    /// The same layer without a bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// Group, stride, padding and dilation.
    pub fn conv(&self) -> Conv {
        self.conv
    }

    /// The weight.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The bias, if it has one.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// Kernel size, stride and padding. For the dilation see [`GroupConv::conv`].
    pub fn window(&self) -> Window {
        let Conv { stride, padding, .. } = self.conv;
        Window { kernel_size: self.weight.value().shape()[3], stride, padding }
    }

    /// The convolution, by a window that slides otherwise.
    pub(crate) fn apply_with<'t>(&self, x: Var<'t>, window: Window) -> Var<'t> {
        let conv = Conv { stride: window.stride, padding: window.padding, ..self.conv };
        if !x.tape().is_recording() {
            return self.evaluate(x, conv, None);
        }
        self.forget();
        let tape = x.tape();
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        x.group_conv(&tape.param(&self.weight), bias.as_ref(), conv)
    }

    /// The convolution and the norm after it, if there is one, without gradients. The filters' transforms are kept for the
    /// next time.
    pub(crate) fn evaluate<'t>(&self, x: Var<'t>, conv: Conv, norm: Option<GivenNorm>) -> Var<'t> {
        let (weight, bias) = (self.weight.value(), self.bias.as_ref().map(Param::value));
        x.tape().constant(self.filters.group_conv(x.value(), weight, bias, conv, norm))
    }

    /// Drops what evaluation keeps, since the weights will change.
    pub(crate) fn forget(&self) {
        self.filters.clear();
    }

    /// The convolution before a norm in training, which subtracts what the bias adds: the bias has no gradient.
    pub(crate) fn apply_before_norm<'t>(&self, x: Var<'t>) -> Var<'t> {
        self.forget();
        let tape = x.tape();
        let bias = self.bias.as_ref().map(|bias| tape.constant(bias.value().clone()));
        x.group_conv(&tape.param(&self.weight), bias.as_ref(), self.conv)
    }

    /// The orbit of its filters as one dense convolution, by a window that slides otherwise.
    pub(crate) fn export_with(&self, x: Value, window: Window, plain: &mut Plain) -> Result<Value> {
        let Conv { group, dilation, .. } = self.conv;
        let (weight, order) = (self.weight.value(), group.order());
        let op = Op::Conv {
            weight: Array::of(&filter_orbit(weight, group))?,
            bias: self.bias.as_ref().map(|bias| Array::of(bias.value())).transpose()?.map(|bias| bias.repeated(order)),
            stride: window.stride,
            padding: window.padding,
            dilation,
            groups: 1,
        };
        let made = plain.windowed(x, window, dilation);
        Ok(plain.push(op, &[x], Value { channels: weight.shape()[0], elements: order, ..made }))
    }

    /// What it would make of `x` if its window kept the extents.
    pub(crate) fn trace_at_every_place(&self, x: Shape, trace: &Trace) -> Result<[usize; 5]> {
        let w = self.weight.value().shape();
        let &[n, c, g, height, width] = x.dims() else {
            return Err(trace.unfit(format!("expected an input [N, C, G, H, W] (images with G = 1), got {x:?}")));
        };
        if n == 0 {
            return Err(trace.unfit(format!("expected at least one image, got {x:?}")));
        }
        if (c, g) != (w[1], w[2]) {
            let (channels, order) = (w[1], w[2]);
            return Err(trace.unfit(format!("expected {channels} channels and a group axis of {order}, got {x:?}")));
        }
        Ok([n, w[0], self.conv.group.order(), height, width])
    }
}

impl Layer for GroupConv {
    const KIND: &'static str = "conv";

    /// On the group; lifting, if the group has not been reached yet.
    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        let ConvSettings { in_channels, elements, out_channels, kernel_size, conv, bias } =
            ConvSettings::of(node, &[], site)?;
        site.expect("weight", &[out_channels, in_channels, elements, kernel_size, kernel_size])?;
        if bias {
            site.expect("bias", &[out_channels])?;
        }
        let (device, init) = (site.device(), site.init());
        let layer = Self::with_group_axis(in_channels, elements, out_channels, kernel_size, conv, init, device)?;
        Ok(if bias { layer } else { layer.without_bias() })
    }
}

impl Module for GroupConv {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        self.apply_with(x, self.window())
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let [n, channels, order, ..] = self.trace_at_every_place(x, trace)?;
        let kind = match (self.conv.group, self.weight.value().shape()[2]) {
            (Group::C1, _) => LayerKind::Conv,
            (_, 1) => LayerKind::LiftConv,
            _ => LayerKind::GroupConv,
        };
        let [height, width] = trace.dilated_window(kind, x, self.window(), self.conv.dilation)?;
        Ok(Shape::from([n, channels, order, height, width]))
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        self.export_with(x, self.window(), plain)
    }

    fn symmetry(&self, _: Shape, axis: Cosets) -> Symmetry {
        match self.conv.group {
            own if axis.group() == own.into() => Symmetry::Windowed,
            own => Symmetry::Breaks(format!("it convolves on {own}, in a network on {}", axis.group())),
        }
    }

    fn multiply_adds(&self, _: Shape, y: Shape) -> MultiplyAdds {
        let w = self.weight.value().shape();
        MultiplyAdds::new(w[0] * w[1] * y[0] * y[3] * y[4], self.conv.products(w[2], w[3]))
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
