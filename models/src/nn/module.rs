//! The trait of layers, blocks and networks, as `nn.Module`.

use crate::{
    MultiplyAdds, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Parts, Var};
use quarterturn_core::{Result, Shape, Tensor};
use quarterturn_kernels::{Cosets, GridChoice};
use std::{collections::BTreeMap, rc::Rc};

/// Training or evaluation, as `model.train()` and `model.eval()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Training: norms use the statistics of the batch, and dropout is active. Its random numbers depend on `seed` and
    /// `step`.
    Train {
        /// The run's seed.
        seed: u64,
        /// The step, counted over the whole run.
        step: u32,
    },
    /// Evaluation: norms use running statistics, and there is no dropout.
    Eval,
}

/// A layer, a block or a network: a function of one tensor, with parameters (PyTorch: `nn.Module`).
///
/// A layer implements [`Module::apply`] (the forward pass), [`Module::trace`] (the output shape) and [`Module::visit`]
/// (the list of parameters; with parameters, [`Module::read`] too). Optional are [`Module::symmetry`], for the checker,
/// and [`Module::export`], for other programs. Blocks of layers ([`crate::Chain`], [`crate::Parallel`]) pass each of
/// these calls on.
///
/// A layer of your own, without parameters:
///
/// ```
/// use quarterturn_autograd::{Param, Parts, Var};
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
    /// The forward pass: the output for the input `x`. It takes `x` by value, so that in evaluation its memory is freed
    /// early.
    ///
    /// # Panics
    /// If the input's shape is one that [`Module::trace`] refuses; for users' images see [`crate::Network::predict`].
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t>;

    /// The shape of the output for an input of shape `x`. A layer with a window (kernel size, stride, padding) reports
    /// it by [`Trace::window`].
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer that does not fit.
    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape>;

    /// Whether the layer is equivariant: does turning its input, of shape `x`, turn its output, in every bit?
    /// [`crate::Exactness`] asks every layer. `axis` tells the group ([`Cosets::group`]), and what the group axis of
    /// `x` stands for. Without this method the answer is [`Symmetry::Unknown`], for the layer and for a network that
    /// contains it.
    ///
    /// A block answers only for what it computes itself. Its layers, which it calls by [`Trace::through`], are asked
    /// separately.
    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        let _ = (x, axis);
        Symmetry::Unknown
    }

    /// Adds operations of ordinary CNNs to `plain` that compute what the layer computes in evaluation mode, and returns
    /// the result for the input `x`. Without this method, networks with the layer cannot be exported.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer, by [`Plain::refused`].
    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let _ = x;
        Err(plain.refused("this type of layer does not say one (Module::export)"))
    }

    /// The number of multiply-adds for an input of shape `x` and an output of shape `y`, for [`crate::Summary`]. Layers
    /// that are called by [`Trace::through`] are not included: they are asked separately.
    fn multiply_adds(&self, x: Shape, y: Shape) -> MultiplyAdds {
        let _ = (x, y);
        MultiplyAdds::default()
    }

    /// Calls `f` with each parameter and its name, always in the same order (PyTorch: `named_parameters` and
    /// `named_buffers`).
    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param));

    /// As [`Module::visit`], without the right to change the parameters. A layer with parameters implements both
    /// methods; [`crate::Builder::build`] returns an error if they list different parameters.
    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        let _ = f;
    }

    /// The forward pass without a watcher. In a training loop call this.
    ///
    /// # Panics
    /// As [`Module::apply`].
    fn forward<'t>(&self, x: Var<'t>, mode: Mode) -> Var<'t> {
        self.apply(x, &mut Pass::new(mode))
    }

    /// As [`Module::visit`], with `prefix.` before each name.
    fn visit_as(&mut self, prefix: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        if prefix.is_empty() {
            return self.visit(f);
        }
        self.visit(&mut |name, param| f(&format!("{prefix}.{name}"), param));
    }

    /// As [`Module::read`], with `prefix.` before each name.
    fn read_as(&self, prefix: &str, f: &mut dyn FnMut(&str, &Param)) {
        if prefix.is_empty() {
            return self.read(f);
        }
        self.read(&mut |name, param| f(&format!("{prefix}.{name}"), param));
    }
}

/// One forward pass: its mode, and the watcher of feature maps, if there is one.
pub struct Pass<'w> {
    mode: Mode,
    watch: Option<Watch<'w>>,
    /// Choices that adaptive layers share, by name.
    grids: BTreeMap<String, GridChoice>,
    /// The parts of the batch of which this is one.
    parts: Option<Rc<dyn Parts>>,
}

struct Watch<'w> {
    path: Path,
    told: &'w mut dyn FnMut(&str, &Tensor),
}

impl<'w> Pass<'w> {
    /// A pass without a watcher.
    pub fn new(mode: Mode) -> Self {
        Pass { mode, watch: None, grids: BTreeMap::new(), parts: None }
    }

    /// A pass that calls `told` with the name and the output of every named layer and block, a block after its layers
    /// (PyTorch: forward hooks).
    pub fn watched(mode: Mode, told: &'w mut dyn FnMut(&str, &Tensor)) -> Self {
        Pass { watch: Some(Watch { path: Path::default(), told }), ..Self::new(mode) }
    }

    /// The same pass, for one of several parts of a batch. In training, norms take the statistics of all `parts`
    /// together (synchronised batch norm).
    #[must_use]
    pub fn of_part(self, parts: Rc<dyn Parts>) -> Self {
        Pass { parts: Some(parts), ..self }
    }

    /// The parts of the batch, if this is one of them.
    pub(crate) fn parts(&self) -> Option<&Rc<dyn Parts>> {
        self.parts.as_ref()
    }

    /// Whether somebody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// Training or evaluation.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The grid that adaptive layers share under this name. If no earlier layer has chosen it, `choose` does so now. A
    /// choice without a name is not shared.
    pub fn grid(&mut self, name: Option<&str>, choose: impl FnOnce() -> GridChoice) -> GridChoice {
        match name {
            Some(name) => self.grids.entry(name.into()).or_insert_with(choose).clone(),
            None => choose(),
        }
    }

    /// Stores a choice under this name, for later layers.
    pub fn leave_grid(&mut self, name: Option<&str>, choice: GridChoice) {
        if let Some(name) = name {
            self.grids.insert(name.into(), choice);
        }
    }

    /// Runs `module`, a layer within a block, under `name`. The watcher gets its output under that name. With an empty
    /// name the watcher is not called: the layer counts as a part of the block.
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
