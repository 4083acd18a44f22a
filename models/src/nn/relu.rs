//! The ReLU, where it is not fused with a norm or a residual sum before it.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Cosets;

/// `y = max(x, 0)`.
#[derive(Clone, Copy, Debug)]
pub struct Relu;

impl Layer for Relu {
    const KIND: &'static str = "relu";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        Ok(Relu)
    }
}

impl Module for Relu {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.relu()
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        Ok(plain.push(Op::Function("relu"), &[x], x))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
