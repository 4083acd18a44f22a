//! Restriction of feature maps to a subgroup.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{Cosets, Group, Subgroup};

/// Reads a feature map on a group as one on its subgroup K, with `G/|K|` times the channels:
/// [`quarterturn_kernels::restrict`]. Only whole planes change places; no value changes. Later layers convolve on K,
/// and the network is equivariant under the elements of K alone. A map with a group axis of length 1 stays as it is. So
/// does a map on p4m that was pooled over pm: it has four planes, which turns exchange as those of a map on p4.
#[derive(Clone, Copy, Debug)]
pub struct Restrict {
    from: Cosets,
    to: Subgroup,
    way: Way,
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Nothing.
    Keep,
    /// Each entry of the group axis is a channel of its own.
    Split,
    /// The right cosets of the subgroup are channels of their own.
    Select(Group),
}

impl Restrict {
    /// What the result's group axis stands for.
    fn made(self) -> Cosets {
        if self.from.order() == 1 { Cosets::one(self.to) } else { Cosets::elements(self.to) }
    }

    /// Channels that one becomes.
    fn channels(self) -> usize {
        self.from.order() / self.made().order()
    }
}

impl Layer for Restrict {
    const KIND: &'static str = "restrict";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["to"])?;
        let (from, to) = (site.axis(), node.setting("to")?);
        let group = from.group();
        if !group.contains(to) || matches!(to, Subgroup::PM | Subgroup::P2MM) {
            return Err(site.unfit(format!("expected z2, p2, p4 or p4m, and a subgroup of {group}, not {to}")));
        }
        let is_map = from == Cosets::elements(group);
        let way = match group.group() {
            _ if from.order() == 1 || (is_map && to == group) => Way::Keep,
            _ if from == Cosets::new(Subgroup::P4M, Subgroup::PM) && to == Subgroup::P4 => Way::Keep,
            _ if to == Subgroup::Z2 => Way::Split,
            Some(group) if is_map => Way::Select(group),
            _ => {
                let message = format!("what was pooled over {} cannot be restricted to {to}", from.pooled());
                return Err(site.unfit(message));
            }
        };
        let layer = Restrict { from, to, way };
        site.makes(site.channels() * layer.channels(), layer.made())?;
        Ok(layer)
    }
}

impl Module for Restrict {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        match self.way {
            Way::Keep => x,
            Way::Split => {
                let shape = x.shape();
                x.reshape([shape[0], shape[1] * shape[2], 1, shape[3], shape[4]])
            }
            Way::Select(group) => x.restrict(group, self.to),
        }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let order = self.from.order();
        let y = match *x.dims() {
            [_, _, _, _] if order == 1 => x,
            [n, c, elements, h, w] if elements == order => {
                Shape::from([n, c * self.channels(), self.made().order(), h, w])
            }
            _ => return Err(trace.unfit(format!("expected a map [N, C, {order}, H, W], got {x:?}"))),
        };
        trace.set_axis(self.made());
        Ok(y)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let (channels, elements) = (x.channels * self.channels(), self.made().order());
        Ok(match self.way {
            // The group axis is joined with the channels, so that nothing moves.
            Way::Keep | Way::Split => Value { channels, elements, ..x },
            Way::Select(group) => {
                let op = Op::selected(x, &self.to.restriction_of(group));
                plain.push(op, &[x], Value { channels, elements, ..x })
            }
        })
    }

    // With the elements of the subgroup, which are all that what follows is asked for.
    fn symmetry(&self, _: Shape, axis: Cosets) -> Symmetry {
        match axis == self.from {
            true => Symmetry::Commutes,
            false => Symmetry::Breaks(format!("it restricts maps on {}, not on {}", self.from.group(), axis.group())),
        }
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
