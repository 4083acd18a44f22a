//! Larger maps, by interpolation.

use crate::{Layer, Module, Node, Pass, Site, Symmetry, Trace};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Group;

/// Maps a whole number of times as high and wide, interpolated bilinearly between the centres of pixels:
/// [`quarterturn_kernels::resize`].
#[derive(Clone, Copy, Debug)]
pub struct Upsample {
    factor: usize,
}

/// No map is made larger by more.
const LARGEST: usize = 64;
/// No map that comes of it is higher or wider.
const HIGHEST: usize = 1 << 16;

impl Layer for Upsample {
    const KIND: &'static str = "upsample";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["factor"])?;
        match node.setting("factor")? {
            factor if (1..=LARGEST).contains(&factor) => Ok(Upsample { factor }),
            factor => Err(site.unfit(format!("expected a factor of 1 to {LARGEST}, not {factor}"))),
        }
    }
}

impl Module for Upsample {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let extents = |axis: usize| self.factor * x.shape()[axis];
        let rank = x.shape().rank();
        x.resize(extents(rank - 2), extents(rank - 1))
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        match x.dims() {
            [_, _, .., height, width] if *height.max(width) > HIGHEST / self.factor => {
                Err(trace
                    .unfit(format!("a map of {height}×{width}, {} times as high and wide, is too large", self.factor)))
            }
            [leading @ .., height, width] if leading.len() >= 2 && height * width > 0 => {
                Ok(Shape::new(&[leading, &[self.factor * height, self.factor * width]].concat()))
            }
            _ => Err(trace.unfit(format!("expected maps […, H, W], got {x:?}"))),
        }
    }

    fn symmetry(&self, _: Shape, _: Group) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
