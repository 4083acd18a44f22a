//! The batch norm layer, with the ReLU and dropout that follow it.

use crate::{GroupConv, Mode, Module};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Stream, Tensor};
use quarterturn_kernels::{self as kernels, Activation, GivenNorm};

/// The first of the streams that dropout draws from; each layer adds its number.
const DROPOUT: u32 = u32::from_be_bytes(*b"drop");

/// `y = dropout(relu((x − mean) / √(var + eps) · weight + bias))`, one statistic per channel, shared over the group.
/// PyTorch's constants: eps 1e-5, momentum 0.1.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Param,
    bias: Param,
    running_mean: Param,
    running_var: Param,
    eps: f64,
    momentum: f64,
    relu: bool,
    dropout: Option<(f32, u32)>,
}

impl BatchNorm {
    /// The plain normalisation: weight 1, bias 0, running mean 0 and variance 1.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let full = |value| Tensor::full([channels], value, device);
        Ok(BatchNorm {
            weight: Param::weight(full(1.0)?),
            bias: Param::weight(full(0.0)?),
            running_mean: Param::buffer(full(0.0)?),
            running_var: Param::buffer(full(1.0)?),
            eps: 1e-5,
            momentum: 0.1,
            relu: false,
            dropout: None,
        })
    }

    /// Followed by a ReLU.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// Followed by a ReLU and, in training, by dropout with probability `p`; `layer` tells this layer's dropout from
    /// that of others. With `p` = 0, by a ReLU alone.
    #[must_use]
    pub fn with_dropout(mut self, p: f32, layer: u32) -> Self {
        self.relu = true;
        self.dropout = (p > 0.0).then_some((p, DROPOUT + layer));
        self
    }

    /// The norm of what `conv` makes of `x`. In evaluation without gradients, one operation.
    ///
    /// In training, the norm subtracts whatever the convolution's bias adds, so that the bias's gradient is exactly 0: it
    /// is not computed, and the bias keeps its value. Unlike in PyTorch, where Adam scales what rounding leaves of that
    /// gradient up to whole steps, behind which the running mean then lags.
    pub fn after<'t>(&self, conv: &GroupConv, x: Var<'t>, mode: Mode) -> Var<'t> {
        if mode != Mode::Eval {
            return self.forward(conv.forward_fixed_bias(x), mode);
        }
        if x.tape().is_recording() {
            return self.forward(conv.forward(x, mode), mode);
        }
        let norm = GivenNorm {
            weight: self.weight.value(),
            bias: self.bias.value(),
            mean: self.running_mean.value(),
            var: self.running_var.value(),
            eps: self.eps,
            relu: self.relu,
        };
        let (weight, bias) = (conv.weight().value(), conv.bias().map(Param::value));
        x.tape().constant(kernels::group_conv_norm(x.value(), weight, bias, conv.conv(), norm))
    }
}

impl Module for BatchNorm {
    fn forward<'t>(&self, x: Var<'t>, mode: Mode) -> Var<'t> {
        let tape = x.tape();
        let (weight, bias) = (tape.param(&self.weight), tape.param(&self.bias));
        let (mean, var) = (self.running_mean.value(), self.running_var.value());
        match mode {
            Mode::Eval => {
                let activation = Activation { relu: self.relu, dropout: None };
                x.batch_norm_eval(&weight, &bias, mean, var, self.eps, activation)
            }
            Mode::Train { seed, step } => {
                let dropout = self.dropout.map(|(p, stream)| (p, Stream::new(seed, stream, step)));
                let activation = Activation { relu: self.relu, dropout };
                let count = x.value().len() / x.shape()[1];
                let (y, forward) = x.batch_norm_train(&weight, &bias, self.eps, activation);
                let (mean, var) = kernels::update_running(mean, var, &forward, self.momentum, count);
                tape.update_buffer(&self.running_mean, mean);
                tape.update_buffer(&self.running_var, var);
                y
            }
        }
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.weight);
        f("bias", &mut self.bias);
        f("running_mean", &mut self.running_mean);
        f("running_var", &mut self.running_var);
    }
}
