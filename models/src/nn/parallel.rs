//! Blocks of several branches that read the same value.

use crate::{Chain, Module, Pass, Symmetry, Trace};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape};
use quarterturn_kernels::Group;

/// What the shortcut of a residual block is called in names of layers and parameters; the branch's layers belong to the block
/// itself.
pub(crate) const SHORTCUT: &str = "shortcut";

/// `y = branch₁(x) + branch₂(x) + …`, or `max(·, 0)` of it. A branch without layers is the identity: a residual block has two
/// branches, one of them often empty.
#[derive(Debug)]
pub struct Sum {
    /// Names (empty: the layers belong to the block itself) and layers.
    branches: Vec<(String, Chain)>,
    relu: bool,
}

impl Sum {
    /// The sum of these, of which there is at least one.
    pub(crate) fn new(branches: Vec<(String, Chain)>) -> Self {
        Sum { branches, relu: false }
    }

    /// Followed by a ReLU.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }
}

/// The name under which a branch is told and traced: none if there is nothing to name.
fn shown((name, chain): &(String, Chain)) -> &str {
    if chain.is_empty() { "" } else { name }
}

impl Module for Sum {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let last = self.branches.len() - 1;
        // The last branch takes the input itself, which is then freed as early as can be.
        let (mut x, mut sum) = (Some(x), None::<Var<'t>>);
        for (i, branch) in self.branches.iter().enumerate() {
            let input = if i == last { x.take() } else { x.clone() };
            let y = pass.through(shown(branch), &branch.1, input.expect("taken by the last branch"));
            sum = Some(match sum {
                Some(sum) if i == last && self.relu => sum.add_relu(&y),
                Some(sum) => sum.add(&y),
                None if i == last && self.relu => y.relu(),
                None => y,
            });
        }
        sum.expect("a block has a branch")
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let mut first = None;
        for branch in &self.branches {
            let y = trace.through(shown(branch), &branch.1, x)?;
            let first = *first.get_or_insert(y);
            if first != y {
                return Err(trace.unfit(format!("the branch makes {first:?} of {x:?}, the {} {y:?}", branch.0)));
            }
        }
        Ok(first.expect("a block has a branch"))
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Group) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        for (name, branch) in &mut self.branches {
            branch.visit_as(name, f);
        }
    }

    fn parameter_device(&self) -> Option<Device> {
        self.branches.iter().find_map(|(_, branch)| branch.parameter_device())
    }
}
