//! The middle of maps.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Error, Result, Shape};
use quarterturn_kernels::Cosets;

/// No map is larger than this, so no margin is.
const LARGEST: usize = 1 << 20;

/// Maps without their outermost rows and columns, `margin` on each side: `y[…, i, j] = x[…, i + margin, j + margin]`,
/// `[…, H, W]` → `[…, H − 2·margin, W − 2·margin]`.
///
/// As the margin is the same on all sides, it is exact at every size. The result has the same pixels as that of a
/// convolution with a kernel size of `2·margin + 1` and no padding, so the two can be added or concatenated.
#[derive(Clone, Copy, Debug)]
pub struct Crop {
    margin: usize,
}

impl Layer for Crop {
    const KIND: &'static str = "crop";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["margin"])?;
        let margin = node.setting("margin")?;
        if margin > LARGEST {
            return Err(Error::Invalid(format!("{}: expected a margin of at most {LARGEST}, got {margin}", node.name)));
        }
        Ok(Crop { margin })
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
