//! The middle of maps.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Cosets;

/// Maps without their outermost rows and columns, `margin` on each side: `y[…, i, j] = x[…, i + margin, j + margin]`,
/// `[…, H, W]` → `[…, H − 2·margin, W − 2·margin]`.
///
/// As the margin is the same on all sides, it is exact at every size. Behind it a map has the places that a convolution of
/// `2·margin + 1` taps without padding has, so that the two can be joined.
#[derive(Clone, Copy, Debug)]
pub struct Crop {
    margin: usize,
}

impl Layer for Crop {
    const KIND: &'static str = "crop";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["margin"])?;
        Ok(Crop { margin: node.setting("margin")? })
    }
}

impl Module for Crop {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.crop_plane(self.margin)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let margin = self.margin;
        let inner = |extent: usize| extent.checked_sub(margin.checked_mul(2)?).filter(|&inner| inner > 0);
        match *x.dims() {
            [ref leading @ .., height, width] if leading.len() >= 2 => match (inner(height), inner(width)) {
                (Some(down), Some(across)) => Ok(Shape::new(&[leading, &[down, across]].concat())),
                _ => Err(trace.unfit(format!("a {height}×{width} map has nothing within a margin of {margin}"))),
            },
            _ => Err(trace.unfit(format!("expected maps […, H, W], got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let extents = x.extents.map(|extents| extents.map(|extent| extent - 2 * self.margin));
        Ok(plain.push(Op::Crop(self.margin), &[x], Value { extents, ..x }))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
