//! The linear layer.

use crate::{
    Init, Layer, Module, MultiplyAdds, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::Cosets;

/// `y = x · weightᵀ + bias`, weight `[out, in]`. The input is `[N, in]`, or `[N, C, G]` (means over pixels of a map on
/// the group); then in = C · G, with a weight for each group element.
#[derive(Debug)]
pub struct Linear {
    weight: Param,
    bias: Param,
}

impl Linear {
    /// Weight and bias are initialised by PyTorch's default, U(±1/√in).
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

    /// The bias.
    pub fn bias(&self) -> &Param {
        &self.bias
    }

    fn in_features(&self) -> usize {
        self.weight.value().shape()[1]
    }
}

impl Layer for Linear {
    const KIND: &'static str = "linear";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["out_features"])?;
        let out_features = node.setting("out_features")?;
        let in_features = site.channels() * site.elements();
        site.makes_invariant(out_features)?;
        site.expect("weight", &[out_features, in_features])?;
        site.expect("bias", &[out_features])?;
        let device = site.device();
        Linear::new(in_features, out_features, site.init(), device)
    }
}

impl Module for Linear {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let tape = x.tape();
        let x = if x.shape().rank() == 2 { x } else { x.reshape([x.shape()[0], self.in_features()]) };
        x.linear(&tape.param(&self.weight), Some(&tape.param(&self.bias)))
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let features = self.in_features();
        match *x.dims() {
            [n, c] if c == features => Ok(Shape::from([n, self.bias.value().len()])),
            [n, c, g] if c * g == features => Ok(Shape::from([n, self.bias.value().len()])),
            [_, _, _, _, ..] => {
                let message =
                    format!("expected {features} features of each image, got maps {x:?}: a mean over space is missing");
                Err(trace.unfit(message))
            }
            _ => Err(trace.unfit(format!("expected {features} features of each image, got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let (weight, bias) = (Array::of(self.weight.value())?, Array::of(self.bias.value())?);
        let made = Value { channels: weight.dims[0], elements: 1, ..x };
        Ok(plain.push(Op::Linear { weight, bias }, &[x], made))
    }

    fn symmetry(&self, x: Shape, _: Cosets) -> Symmetry {
        match *x.dims() {
            [_, _, elements] if elements > 1 => Symmetry::Breaks(
                "it has a weight for each element of the group; take the maximum over the group first".into(),
            ),
            _ => Symmetry::Commutes,
        }
    }

    fn multiply_adds(&self, x: Shape, _: Shape) -> MultiplyAdds {
        MultiplyAdds::new(x[0] * self.weight.value().len(), [1; 2])
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.weight);
        f("bias", &mut self.bias);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f("weight", &self.weight);
        f("bias", &self.bias);
    }
}
