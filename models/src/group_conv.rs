//! The convolution layer: plain, lifting or on the group.

use crate::{Init, Mode, Module};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Error, Result, Shape, window_extent};
use quarterturn_kernels::Conv;

/// `y = weight ⋆ x + bias`. Weight `[C_out, C_in, G_in, k, k]`, one bias per output channel.
#[derive(Debug)]
pub struct GroupConv {
    weight: Param,
    bias: Option<Param>,
    conv: Conv,
}

impl GroupConv {
    /// A convolution on the group: `[N, in, G, H, W]` → `[N, out, G, H', W']`; plain for [`quarterturn_kernels::Group::C1`]. Starts at
    /// PyTorch's default, U(±1/√fan_in), with the true fan-in `C_in · G_in · k²`; so does the bias.
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

    /// A lifting convolution Z² → G: `[N, in, 1, H, W]` → `[N, out, G, H', W']`. Starts as [`GroupConv::new`].
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
        let weight = Param::weight(init.uniform(shape, fan_in, device)?);
        let bias = Some(Param::weight(init.uniform([out_channels], fan_in, device)?));
        Ok(GroupConv { weight, bias, conv })
    }

    /// The same layer without a bias.
    #[must_use]
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// Group, stride and padding.
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

    /// The shape of the output for an input of shape `x`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with `layer`'s name.
    pub fn output_shape(&self, layer: &str, x: Shape) -> Result<Shape> {
        let w = self.weight.value().shape();
        let Conv { group, stride, padding } = self.conv;
        let &[n, c, g, height, width] = x.dims() else {
            return Err(Error::Invalid(format!("{layer}: expected an input [N, C, G, H, W], got {x:?}")));
        };
        if n == 0 {
            return Err(Error::Invalid(format!("{layer}: expected at least one image, got {x:?}")));
        }
        if (c, g) != (w[1], w[2]) {
            let (channels, order) = (w[1], w[2]);
            return Err(Error::Invalid(format!(
                "{layer}: expected {channels} channels and a group axis of {order}, got {x:?}"
            )));
        }
        let extents = [height, width].map(|i| window_extent(i, w[3], stride, padding));
        let [Some(height), Some(width)] = extents else {
            let k = w[3];
            return Err(Error::Invalid(format!("{layer}: a {k}×{k} filter does not fit a {height}×{width} input")));
        };
        Ok(Shape::from([n, w[0], group.order(), height, width]))
    }
}

impl GroupConv {
    /// As [`Module::forward`], but without a gradient of the bias, which keeps its value.
    pub(crate) fn forward_fixed_bias<'t>(&self, x: Var<'t>) -> Var<'t> {
        let tape = x.tape();
        let bias = self.bias.as_ref().map(|bias| tape.constant(bias.value().clone()));
        x.group_conv(&tape.param(&self.weight), bias.as_ref(), self.conv)
    }
}

impl Module for GroupConv {
    fn forward<'t>(&self, x: Var<'t>, _: Mode) -> Var<'t> {
        let tape = x.tape();
        let bias = self.bias.as_ref().map(|bias| tape.param(bias));
        x.group_conv(&tape.param(&self.weight), bias.as_ref(), self.conv)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.weight);
        if let Some(bias) = &mut self.bias {
            f("bias", bias);
        }
    }
}
