//! Blocks of several branches that read the same value.

use crate::{
    Chain, Module, Pass, Symmetry, Trace,
    export::{Op, Plain, Value},
    nn::assembly::CHAIN,
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Cosets;

/// The axis of channels.
const CHANNELS: usize = 1;
/// What the shortcut of a residual block is called in names of layers and parameters; the branch's layers belong to the block
/// itself.
pub(crate) const SHORTCUT: &str = "shortcut";

/// Branches that read the same input, and how their outputs are joined. A branch without layers is the identity. A
/// residual block is the sum of two branches, one of which is often the identity. A level of a U-Net concatenates two
/// branches: the skip connection, and the path through the coarser levels.
#[derive(Debug)]
pub struct Parallel {
    /// Names (empty: the layers belong to the block itself) and layers; at least one.
    branches: Vec<(String, Chain)>,
    join: Join,
    relu: bool,
}

/// How the outputs of branches are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// `y = branch₁(x) + branch₂(x) + …`
    Sum,
    /// Concatenation of the channels, in the order of the branches.
    Concat,
}

impl Join {
    /// What descriptions call it.
    pub(crate) const fn kind(self) -> &'static str {
        match self {
            Join::Sum => "sum",
            Join::Concat => "concat",
        }
    }
}

impl Parallel {
    pub(crate) fn new(branches: Vec<(String, Chain)>, join: Join) -> Self {
        Parallel { branches, join, relu: false }
    }

    /// What becomes of the results.
    pub(crate) fn join(&self) -> Join {
        self.join
    }

    /// Adds a ReLU after the join.
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

impl Module for Parallel {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let last = self.branches.len() - 1;
        // The last branch takes the input itself, which is then freed as early as can be.
        let mut x = Some(x);
        let mut results = self.branches.iter().enumerate().map(|(i, branch)| {
            let input = if i == last { x.take() } else { x.clone() };
            pass.through(shown(branch), &branch.1, input.expect("taken by the last branch"))
        });
        match self.join {
            Join::Concat => {
                let results: Vec<_> = results.collect();
                let y = Var::concat(&results.iter().collect::<Vec<_>>(), CHANNELS);
                if self.relu { y.relu() } else { y }
            }
            Join::Sum => {
                let first = results.next().expect("a block has a branch");
                let (sum, number) = results.fold((first, 0), |(sum, number), y| {
                    let fused = self.relu && number + 1 == last;
                    (if fused { sum.add_relu(&y) } else { sum.add(&y) }, number + 1)
                });
                if self.relu && number == 0 { sum.relu() } else { sum }
            }
        }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let (start, mut end) = (trace.axis(), None::<Cosets>);
        let mut results = Vec::with_capacity(self.branches.len());
        for branch in &self.branches {
            trace.set_axis(start);
            results.push(trace.through_kind(shown(branch), CHAIN, &branch.1, x)?);
            end = end.map_or(Some(trace.axis()), |end| end.in_sum(trace.axis()).or(Some(end)));
        }
        trace.set_axis(end.unwrap_or(start));
        let joined = |shape: &Shape| match (self.join, shape.dims()) {
            (Join::Sum, dims) => dims.to_vec(),
            // All but the channels.
            (Join::Concat, dims) => {
                dims.iter().enumerate().filter(|(axis, _)| *axis != CHANNELS).map(|(_, n)| *n).collect()
            }
        };
        let first = results[0];
        if let Some(i) = results.iter().position(|shape| joined(shape) != joined(&first)) {
            let (name, other) = (&self.branches[i].0, results[i]);
            return Err(trace.unfit(format!("the branch makes {first:?} of {x:?}, the {name} {other:?}")));
        }
        let mut dims = first.dims().to_vec();
        if self.join == Join::Concat {
            if dims.len() <= CHANNELS {
                return Err(trace.unfit(format!("expected branches that make [N, C, …], got {first:?}")));
            }
            dims[CHANNELS] = results.iter().map(|shape| shape[CHANNELS]).sum();
        }
        Ok(Shape::new(&dims))
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let mut results = Vec::with_capacity(self.branches.len());
        for branch in &self.branches {
            results.push(plain.through(shown(branch), &branch.1, x)?);
        }
        let (&first, others) = results.split_first().expect("a block has a branch");
        let y = match self.join {
            Join::Sum => others.iter().fold(first, |sum, &y| plain.push(Op::Sum, &[sum, y], sum)),
            Join::Concat => {
                let channels = results.iter().map(|y| y.channels).sum();
                plain.push(Op::Concat, &results, Value { channels, ..first })
            }
        };
        Ok(if self.relu { plain.push(Op::Function("relu"), &[y], y) } else { y })
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        for (name, branch) in &mut self.branches {
            branch.visit_as(name, f);
        }
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        for (name, branch) in &self.branches {
            branch.read_as(name, f);
        }
    }
}
