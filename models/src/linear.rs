//! The linear layer.

use crate::{Init, Mode, Module};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result};

/// `y = x · weightᵀ + bias`, weight `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    weight: Param,
    bias: Param,
}

impl Linear {
    /// Starts at PyTorch's default, U(±1/√in), weight and bias.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(in_features: usize, out_features: usize, init: &mut Init, device: &Device) -> Result<Self> {
        let weight = Param::weight(init.uniform([out_features, in_features], in_features, device)?);
        let bias = Param::weight(init.uniform([out_features], in_features, device)?);
        Ok(Linear { weight, bias })
    }

    /// The weight.
    pub fn weight(&self) -> &Param {
        &self.weight
    }
}

impl Module for Linear {
    fn forward<'t>(&self, x: Var<'t>, _: Mode) -> Var<'t> {
        let tape = x.tape();
        x.linear(&tape.param(&self.weight), Some(&tape.param(&self.bias)))
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.weight);
        f("bias", &mut self.bias);
    }
}
