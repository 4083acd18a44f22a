//! What layers, blocks and networks have in common: one description, from which the forward pass, the geometry and the list
//! of parameters come.

use crate::{
    MultiplyAdds, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape, Tensor};
use quarterturn_kernels::{Cosets, GridChoice};
use std::collections::BTreeMap;

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch, and dropout keyed by the run's seed and the step.
    Train {
        /// The run's seed.
        seed: u64,
        /// The step, counted over the whole run.
        step: u32,
    },
    /// Running statistics, no dropout.
    Eval,
}

/// Something with parameters that maps a value to a value: a layer, a block or a network.
///
/// A layer implements the views of itself side by side: [`Module::apply`] on values, [`Module::trace`] on shapes,
/// [`Module::symmetry`] for the checker, [`Module::export`] for other programs, [`Module::visit`] and [`Module::read`] on parameters. What is made of layers ([`crate::Chain`],
/// [`crate::Parallel`]) passes each of them on.
///
/// A layer of one's own, without parameters:
///
/// ```
/// use quarterturn_autograd::{Param, Var};
/// use quarterturn_core::{Device, Result, Shape};
/// use quarterturn_kernels::{Cosets, Group, Window};
/// use quarterturn_models::{Builder, Exactness, Init, Module, Pass, Sequential, Symmetry, Trace, Verdict};
///
/// /// `y = 2x`.
/// struct Double;
///
/// impl Module for Double {
///     fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
///         x.scale(2.0)
///     }
///
///     fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
///         Ok(x)
///     }
///
///     // Every value is treated alike. Without this method, the verdict below would be `Unknown`.
///     fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
///         Symmetry::Commutes
///     }
///
///     fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
/// }
///
/// # fn main() -> Result<()> {
/// let window = Window { kernel_size: 3, stride: 1, padding: 1 };
/// let layers = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).conv("conv", 2, window).layer("double", Double).build()?;
/// let exactness = Exactness::of(&Sequential::new("mine", layers), [9, 9])?;
/// assert_eq!(exactness.verdict(), Verdict::Equivariant);
/// # Ok(())
/// # }
/// ```
pub trait Module: Send + Sync {
    /// The output. Takes the input by value, so that in evaluation it is freed once it has been read.
    ///
    /// # Panics
    /// If the input's shape is one that [`Module::trace`] refuses; for users' images see [`crate::Network::predict`].
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t>;

    /// The shape of the output for an input of shape `x`; tells `trace` of the windows that slide on the way.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer that does not fit.
    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape>;

    /// Whether it commutes with the elements of the group, for an input of shape `x`: what [`crate::Exactness`] asks. `axis` tells
    /// the group ([`Cosets::group`]), and what the group axis of `x` stands for. A layer that does not say is not known to commute, and
    /// neither is a network that has it.
    ///
    /// It speaks for itself alone: layers inside, which [`Trace::through`] walks through, are asked on their own.
    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        let _ = (x, axis);
        Symmetry::Unknown
    }

    /// Adds what it computes in evaluation mode to `plain`, in operations of ordinary CNNs: the value that it makes of `x`. A layer
    /// that does not say has no plain form, and neither has a network that has it.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer, by [`Plain::refused`].
    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let _ = x;
        Err(plain.refused("this type of layer does not say one (Module::export)"))
    }

    /// The multiplications, each with an addition, that make an output of shape `y` of an input of shape `x`: what
    /// [`crate::Summary`] adds up. Of the layer alone, without those that [`Trace::through`] walks through.
    fn multiply_adds(&self, x: Shape, y: Shape) -> MultiplyAdds {
        let _ = (x, y);
        MultiplyAdds::default()
    }

    /// Calls `f` with each parameter and its name, always in the same order.
    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param));

    /// As [`Module::visit`], for who only looks. A layer that has parameters implements both; [`crate::Builder::build`] refuses one
    /// that does not tell of the same parameters in both.
    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        let _ = f;
    }

    /// The output, with nobody watching.
    ///
    /// # Panics
    /// As [`Module::apply`].
    fn forward<'t>(&self, x: Var<'t>, mode: Mode) -> Var<'t> {
        self.apply(x, &mut Pass::new(mode))
    }

    /// Visits with `prefix.` before each name.
    fn visit_as(&mut self, prefix: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        if prefix.is_empty() {
            return self.visit(f);
        }
        self.visit(&mut |name, param| f(&format!("{prefix}.{name}"), param));
    }

    /// Reads with `prefix.` before each name.
    fn read_as(&self, prefix: &str, f: &mut dyn FnMut(&str, &Param)) {
        if prefix.is_empty() {
            return self.read(f);
        }
        self.read(&mut |name, param| f(&format!("{prefix}.{name}"), param));
    }
}

/// One forward pass: what it is for, and who watches the feature maps that it makes.
pub struct Pass<'w> {
    mode: Mode,
    watch: Option<Watch<'w>>,
    /// Choices that adaptive layers share, by name.
    grids: BTreeMap<String, GridChoice>,
}

struct Watch<'w> {
    path: Path,
    told: &'w mut dyn FnMut(&str, &Tensor),
}

impl<'w> Pass<'w> {
    /// A pass that nobody watches.
    pub fn new(mode: Mode) -> Self {
        Pass { mode, watch: None, grids: BTreeMap::new() }
    }

    /// A pass that tells `told` of the output of every named layer and block, in order, a block after its layers.
    pub fn watched(mode: Mode, told: &'w mut dyn FnMut(&str, &Tensor)) -> Self {
        Pass { mode, watch: Some(Watch { path: Path::default(), told }), grids: BTreeMap::new() }
    }

    /// Whether somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// What it is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The choice of a grid that layers share under this name: what an earlier one has made, else what `choose` makes now. One
    /// without a name is not shared.
    pub fn grid(&mut self, name: Option<&str>, choose: impl FnOnce() -> GridChoice) -> GridChoice {
        match name {
            Some(name) => self.grids.entry(name.into()).or_insert_with(choose).clone(),
            None => choose(),
        }
    }

    /// Leaves a choice to later layers, under this name.
    pub fn leave_grid(&mut self, name: Option<&str>, choice: GridChoice) {
        if let Some(name) = name {
            self.grids.insert(name.into(), choice);
        }
    }

    /// Runs `module`, a layer inside of another, as `name`. A watcher is told its output under that name. With an empty name it is
    /// not told separately: the layer counts as a part of the one around it.
    pub fn through<'t>(&mut self, name: &str, module: &dyn Module, x: Var<'t>) -> Var<'t> {
        if name.is_empty() || self.watch.is_none() {
            return module.apply(x, self);
        }
        if let Some(watch) = &mut self.watch {
            watch.path.enter(name);
        }
        let y = module.apply(x, self);
        if let Some(watch) = &mut self.watch {
            (watch.told)(watch.path.as_str(), y.value());
            watch.path.leave();
        }
        y
    }

    /// Tells of the output of a layer called `name`, which was computed without [`Pass::through`].
    pub(crate) fn tell(&mut self, name: &str, y: &Var<'_>) {
        if let Some(watch) = &mut self.watch {
            watch.path.enter(name);
            (watch.told)(watch.path.as_str(), y.value());
            watch.path.leave();
        }
    }
}

/// The names from a network down to one of its layers, joined by dots.
#[derive(Debug, Default)]
pub(crate) struct Path {
    joined: String,
    /// Lengths of `joined` before each name.
    lengths: Vec<usize>,
}

impl Path {
    pub fn enter(&mut self, name: &str) {
        self.lengths.push(self.joined.len());
        if !self.joined.is_empty() {
            self.joined.push('.');
        }
        self.joined.push_str(name);
    }

    pub fn leave(&mut self) {
        let length = self.lengths.pop().expect("every name is entered before it is left");
        self.joined.truncate(length);
    }

    pub fn as_str(&self) -> &str {
        &self.joined
    }
}
