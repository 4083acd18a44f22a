//! Elementwise functions as layers.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{self as kernels, Cosets, Elementwise};

/// The functions that a description can name.
static FUNCTIONS: [&Elementwise; 5] =
    [&kernels::SILU, &kernels::GELU, &kernels::SIGMOID, &kernels::TANH, &kernels::SOFTPLUS];

/// `y = f(x)`, elementwise. (The ReLU is another layer, [`crate::Relu`], which is fused with the convolution or norm
/// before it.)
#[derive(Clone, Copy, Debug)]
pub struct Activation(pub &'static Elementwise);

impl Layer for Activation {
    const KIND: &'static str = "activation";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["function"])?;
        let name: String = node.setting("function")?;
        let known = FUNCTIONS.into_iter().find(|function| function.name == name);
        known.map(Activation).ok_or_else(|| {
            let names = FUNCTIONS.map(|function| function.name).join(", ");
            site.unfit(format!("no function is called '{name}'; there are {names}"))
        })
    }
}

impl Module for Activation {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.map(self.0)
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        match Op::FUNCTIONS.into_iter().find(|&name| name == self.0.name) {
            Some(name) => Ok(plain.push(Op::Function(name), &[x], x)),
            None => Err(plain.refused(format_args!("none is known of the function {}", self.0.name))),
        }
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
