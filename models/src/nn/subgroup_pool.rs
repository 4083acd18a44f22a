//! Pooling over a part of the group.

use crate::{
    Layer, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{Cosets, Group, Subgroup};

/// The maximum (`MAX`) or mean over each coset of a subgroup K, that is over |K| planes of the group axis at a time:
/// `[N, C, G, H, W]` → `[N, C, G/|K|, H, W]`. See [`quarterturn_kernels::subgroup_max`].
#[derive(Clone, Copy, Debug)]
pub struct SubgroupPool<const MAX: bool> {
    group: Group,
    subgroup: Subgroup,
}

/// The maximum over each coset of a subgroup.
pub type SubgroupMax = SubgroupPool<true>;

/// The mean over each coset of a subgroup.
pub type SubgroupMean = SubgroupPool<false>;

impl<const MAX: bool> SubgroupPool<MAX> {
    /// What the result's group axis stands for.
    fn made(self) -> Cosets {
        Cosets::new(self.group.into(), self.subgroup)
    }
}

impl<const MAX: bool> Layer for SubgroupPool<MAX> {
    const KIND: &'static str = if MAX { "subgroup_max" } else { "subgroup_mean" };

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["subgroup"])?;
        let (axis, subgroup) = (site.axis(), node.setting("subgroup")?);
        let group = match axis.group().group() {
            Some(group) if axis == Cosets::elements(group) => group,
            _ => return Err(site.unfit("expected a map on z2, p4 or p4m: a convolution before it")),
        };
        if !axis.group().contains(subgroup) {
            return Err(site.unfit(format!("expected a subgroup of {group}, not {subgroup}")));
        }
        let layer = SubgroupPool { group, subgroup };
        site.makes(site.channels(), layer.made())?;
        Ok(layer)
    }
}

impl<const MAX: bool> Module for SubgroupPool<MAX> {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        if MAX { x.subgroup_max(self.group, self.subgroup) } else { x.subgroup_mean(self.group, self.subgroup) }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let order = self.group.order();
        match *x.dims() {
            [n, c, elements, h, w] if elements == order => {
                trace.set_axis(self.made());
                Ok(Shape::from([n, c, self.made().order(), h, w]))
            }
            _ => Err(trace.unfit(format!("expected a map [N, C, {order}, H, W], got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let (elements, cosets) = (self.subgroup.order(), self.made().order());
        if elements == 1 {
            return Ok(x);
        }
        let by_cosets = plain.push_as("cosets", Op::selected(x, &self.subgroup.pooling_of(self.group)), &[x], x);
        let channels = x.channels * cosets;
        let parted = plain.push_as("part", Op::Part { is_map: x.is_map, channels, elements }, &[by_cosets], x);
        let pool = if MAX { Op::Max(vec![2]) } else { Op::Mean(vec![2]) };
        Ok(plain.push(pool, &[parted], Value { elements: cosets, ..x }))
    }

    fn symmetry(&self, _: Shape, axis: Cosets) -> Symmetry {
        match axis == Cosets::elements(self.group) {
            true => Symmetry::Commutes,
            false => {
                Symmetry::Breaks(format!("it pools over a part of {}, in a network on {}", self.group, axis.group()))
            }
        }
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
