//! The residual block.

use crate::{Chain, Module, Pass, Symmetry, Trace};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::Group;

/// `y = branch(x) + shortcut(x)`, or `max(·, 0)` of it; an empty shortcut is the identity.
#[derive(Debug)]
pub struct Residual {
    branch: Chain,
    shortcut: Chain,
    relu: bool,
}

/// What the shortcut is called in names of layers and parameters; the branch's layers belong to the block itself.
pub(crate) const SHORTCUT: &str = "shortcut";

impl Residual {
    /// The sum of the two.
    pub fn new(branch: Chain, shortcut: Chain) -> Self {
        Residual { branch, shortcut, relu: false }
    }

    /// Followed by a ReLU.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// The shortcut's name: none if there is nothing to name.
    fn shortcut_name(&self) -> &'static str {
        if self.shortcut.is_empty() { "" } else { SHORTCUT }
    }
}

impl Module for Residual {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let branch = pass.through("", &self.branch, x.clone());
        let shortcut = pass.through(self.shortcut_name(), &self.shortcut, x);
        if self.relu { branch.add_relu(&shortcut) } else { branch.add(&shortcut) }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let branch = trace.through("", &self.branch, x)?;
        let shortcut = trace.through(self.shortcut_name(), &self.shortcut, x)?;
        if branch == shortcut {
            return Ok(branch);
        }
        Err(trace.unfit(format!("the branch makes {branch:?} of {x:?}, the shortcut {shortcut:?}")))
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Group) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.branch.visit(f);
        self.shortcut.visit_as(SHORTCUT, f);
    }

    fn parameter_device(&self) -> Option<Device> {
        self.branch.parameter_device().or_else(|| self.shortcut.parameter_device())
    }
}
