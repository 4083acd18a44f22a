//! Layers one after another.

use crate::{
    Module, Node, Pass, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::Group;
use std::fmt;

/// Named layers and blocks, each of which reads what the one before has made. [`crate::Builder`] makes it.
#[derive(Debug)]
pub struct Chain {
    group: Group,
    in_channels: usize,
    links: Vec<Link>,
    /// What it was made of, if it is the whole of a network.
    nodes: Vec<Node>,
}

/// A layer or block and its name, which is empty if it is part of what it stands in.
pub(crate) struct Link {
    pub name: String,
    pub module: Box<dyn Module>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

impl Chain {
    pub(crate) fn new(group: Group, in_channels: usize, links: Vec<Link>) -> Self {
        Chain { group, in_channels, links, nodes: Vec::new() }
    }

    /// The same, as the whole of a network with this description.
    pub(crate) fn described(self, nodes: Vec<Node>) -> Self {
        Chain { nodes, ..self }
    }

    /// What describes its layers, if it is the whole of a network.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The group that its layers work on.
    pub fn group(&self) -> Group {
        self.group
    }

    /// Channels of its input.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Whether it has no layer, so that its output is its input.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }
}

impl Module for Chain {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        self.links.iter().fold(x, |x, link| pass.through(&link.name, &*link.module, x))
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        self.links.iter().try_fold(x, |x, link| trace.through(&link.name, &*link.module, x))
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        self.links.iter().try_fold(x, |x, link| plain.through(&link.name, &*link.module, x))
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Group) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        for link in &mut self.links {
            link.module.visit_as(&link.name, f);
        }
    }

    fn parameter_device(&self) -> Option<Device> {
        self.links.iter().find_map(|link| link.module.parameter_device())
    }
}
