//! Layers one after another.

use crate::{
    Module, Node, Pass, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Error, Result, Shape};
use quarterturn_kernels::{Cosets, Group};
use std::{collections::BTreeSet, fmt};

/// Named layers and blocks, applied one after another. [`crate::Builder`] makes it.
#[derive(Debug)]
pub struct Chain {
    group: Group,
    in_channels: usize,
    links: Vec<Link>,
    /// What it was made of, if it is the whole of a network.
    nodes: Vec<Node>,
}

/// A layer or block, its name, which is empty if it is part of what it stands in, and what descriptions call its type.
pub(crate) struct Link {
    pub name: String,
    pub kind: String,
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
    ///
    /// # Errors
    /// [`Error::Invalid`] with a parameter that has the name of another, or that not both [`Module::visit`] and [`Module::read`] tell
    /// of: layers of one's own name their parameters themselves.
    pub(crate) fn described(mut self, nodes: Vec<Node>) -> Result<Self> {
        let unfit = |name: &str, message: &str| Err(Error::Invalid(format!("{name}: {message}")));
        let (mut visited, mut read) = (Vec::new(), Vec::new());
        self.visit(&mut |name, param| visited.push((name.to_string(), param.id())));
        self.read(&mut |name, param| read.push((name.to_string(), param.id())));
        let mut names = BTreeSet::new();
        if let Some((name, _)) = visited.iter().find(|(name, _)| !names.insert(name)) {
            return unfit(name, "two parameters have this name");
        }
        let differs = |i: &usize| visited.get(*i) != read.get(*i);
        if let Some(i) = (0..visited.len().max(read.len())).find(differs) {
            let (name, _) = visited.get(i).unwrap_or_else(|| &read[i]);
            return unfit(name, "Module::visit and Module::read do not tell of the same parameters");
        }
        Ok(Chain { nodes, ..self })
    }

    /// The description of its layers, if this chain is a whole network and not a part of one.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The group of the network.
    pub fn group(&self) -> Group {
        self.group
    }

    /// The number of channels of its input.
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
        self.links.iter().try_fold(x, |x, link| trace.through_kind(&link.name, &link.kind, &*link.module, x))
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        self.links.iter().try_fold(x, |x, link| plain.through(&link.name, &*link.module, x))
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        for link in &mut self.links {
            link.module.visit_as(&link.name, f);
        }
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        for link in &self.links {
            link.module.read_as(&link.name, f);
        }
    }
}
