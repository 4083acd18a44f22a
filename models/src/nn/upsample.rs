//! Upsampling and resizing of feature maps.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Size, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{Cosets, nearest_commutes, nearest_pixels};
use std::{fmt, str::FromStr};

/// How the values between pixels are interpolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Interpolation {
    /// Bilinearly from the four pixels around: [`quarterturn_kernels::resize`], exact at every size.
    #[default]
    Bilinear,
    /// From the nearest pixel: [`quarterturn_kernels::resize_nearest`], exact where height and width of the input have
    /// no more factors of 2 than those of the result.
    Nearest,
}

impl Interpolation {
    fn of(node: &Node) -> Result<Self> {
        node.setting_or("interpolation", Interpolation::Bilinear)
    }

    fn apply(self, x: Var<'_>, [height, width]: [usize; 2]) -> Var<'_> {
        match self {
            Interpolation::Bilinear => x.resize(height, width),
            Interpolation::Nearest => x.resize_nearest(height, width),
        }
    }
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interpolation::Bilinear => "bilinear",
            Interpolation::Nearest => "nearest",
        })
    }
}

impl FromStr for Interpolation {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        [Interpolation::Bilinear, Interpolation::Nearest]
            .into_iter()
            .find(|known| known.to_string() == name)
            .ok_or_else(|| format!("expected bilinear or nearest, not {name}"))
    }
}

/// Upsampling by a whole factor: exact at every size, with either interpolation.
#[derive(Clone, Copy, Debug)]
pub struct Upsample {
    factor: usize,
    interpolation: Interpolation,
}

/// Resizing to a given size, square.
#[derive(Clone, Copy, Debug)]
pub struct Resize {
    extent: usize,
    interpolation: Interpolation,
}

/// No map is made larger by more.
const LARGEST: usize = 64;
/// No map that comes of it is higher or wider: a whole number of times as high, and at once.
const HIGHEST: usize = 1 << 16;
const HIGHEST_AT_ONCE: usize = 1 << 14;

impl Layer for Upsample {
    const KIND: &'static str = "upsample";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["factor", "interpolation"])?;
        let interpolation = Interpolation::of(node)?;
        match node.setting("factor")? {
            factor if (1..=LARGEST).contains(&factor) => Ok(Upsample { factor, interpolation }),
            factor => Err(site.unfit(format!("expected a factor of 1 to {LARGEST}, not {factor}"))),
        }
    }
}

impl Module for Upsample {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let shape = x.shape();
        let rank = shape.rank();
        self.interpolation.apply(x, [rank - 2, rank - 1].map(|axis| self.factor * shape[axis]))
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

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let op = match self.interpolation {
            Interpolation::Bilinear => Op::Resize(Size::Times(self.factor)),
            Interpolation::Nearest => Op::Repeat(self.factor),
        };
        let extents = x.extents.map(|extents| extents.map(|extent| self.factor * extent));
        Ok(plain.push(op, &[x], Value { extents, ..x }))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl Layer for Resize {
    const KIND: &'static str = "resize";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["extent", "interpolation"])?;
        let interpolation = Interpolation::of(node)?;
        match node.setting("extent")? {
            extent if (1..=HIGHEST_AT_ONCE).contains(&extent) => Ok(Resize { extent, interpolation }),
            extent => Err(site.unfit(format!("expected an extent of 1 to {HIGHEST_AT_ONCE}, not {extent}"))),
        }
    }
}

impl Module for Resize {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        self.interpolation.apply(x, [self.extent; 2])
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        match x.dims() {
            [leading @ .., height, width] if leading.len() >= 2 && height * width > 0 => {
                Ok(Shape::new(&[leading, &[self.extent; 2]].concat()))
            }
            _ => Err(trace.unfit(format!("expected maps […, H, W], got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let made = Value { extents: Some([self.extent; 2]), ..x };
        if self.interpolation == Interpolation::Bilinear {
            return Ok(plain.push(Op::Resize(Size::Of([self.extent; 2])), &[x], made));
        }
        // Other programs find the pixel in floating point, and where a centre lies on an edge, not all find the same.
        let [height, width] = plain.extents(x)?;
        let rows = Op::Select { axis: 2, indices: nearest_pixels(height, self.extent) };
        let rows = plain.push_as("rows", rows, &[x], made);
        Ok(plain.push_as("columns", Op::Select { axis: 3, indices: nearest_pixels(width, self.extent) }, &[rows], made))
    }

    fn symmetry(&self, x: Shape, _: Cosets) -> Symmetry {
        let to = self.extent;
        match x.dims() {
            [.., height, width] if self.interpolation == Interpolation::Nearest => {
                match [height, width].into_iter().find(|&&from| !nearest_commutes(from, to)) {
                    Some(from) => Symmetry::Breaks(format!(
                        "at {to} places on {from} pixels some lie on the edge between two, as {from} has more factors of 2 than {to}"
                    )),
                    None => Symmetry::Commutes,
                }
            }
            _ => Symmetry::Commutes,
        }
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
