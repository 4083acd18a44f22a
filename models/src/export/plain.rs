//! A network as a list of operations that every library has.

use super::Op;
use crate::nn::Path;
use quarterturn_core::{Error, Result, Tensor, dilated_extent, transposed_extent, window_extent};
use quarterturn_kernels::Window;
use std::{collections::BTreeMap, fmt};

/// Parameters of an operation, in `f64` until they are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Extents of the axes.
    pub dims: Vec<usize>,
    /// The values, row-major.
    pub values: Vec<f64>,
}

impl Array {
    /// The values of a tensor.
    ///
    /// # Errors
    /// What made a tensor on a GPU meaningless.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Array { dims: tensor.dims().to_vec(), values: tensor.to_f64()? })
    }

    /// Repeats each value `times` times: from one value for each channel to one for each channel and group element.
    #[must_use]
    pub fn repeated(self, times: usize) -> Self {
        let values: Vec<f64> = self.values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect();
        Array { dims: vec![values.len()], values }
    }
}

/// An intermediate result in a plain network: `[N, C·G, H, W]`, or `[N, C·G]` after a mean or maximum over pixels. The
/// group axis is merged into the channels: channel c and group element g are at index c·G + g.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// Its number: 0 for the images, i + 1 for the output of `steps[i]`.
    pub index: usize,
    /// C.
    pub channels: usize,
    /// G: 1 before lifting and after a maximum or mean over the group.
    pub elements: usize,
    /// Whether it has height and width.
    pub is_map: bool,
    /// Height and width, if the size of the images is known.
    pub extents: Option<[usize; 2]>,
}

impl Value {
    /// The length of the merged axis, C·G.
    pub fn joined(&self) -> usize {
        self.channels * self.elements
    }
}

/// An operation within a plain network.
#[derive(Clone, Debug)]
pub struct Step {
    /// The name of the layer that it comes from; empty if that has none.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The results that it reads, by [`Value::index`].
    pub inputs: Vec<usize>,
}

/// A plain network: a list of operations on images `[N, C, H, W]`, in the order in which they are computed. The output
/// of the last one is the result.
pub struct Plain {
    pub(crate) in_channels: usize,
    pub(crate) steps: Vec<Step>,
    /// The size of the images, if it is known.
    pub(super) size: Option<[usize; 2]>,
    /// The layer because of which images of that size alone fit, if there is one.
    pub(super) fixed_by: Option<String>,
    /// What comes out, before its group axis is parted from the channels.
    pub(crate) result: Value,
    path: Path,
    /// Choices that adaptive layers share, by name: what each grid counts for, and the extents that are sampled.
    grids: BTreeMap<String, Grid>,
}

/// The choice of a grid: where it is written, unless nothing is left over; and the extents of what is sampled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub weights: Option<Value>,
    pub extents: [usize; 2],
}

impl Plain {
    pub(super) fn new(in_channels: usize, size: Option<[usize; 2]>) -> Self {
        let (path, grids) = (Path::default(), BTreeMap::new());
        let images = Value { index: 0, channels: in_channels, elements: 1, is_map: true, extents: size };
        Plain { in_channels, steps: Vec::new(), size, fixed_by: None, result: images, path, grids }
    }

    /// The operations.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Exports `module`, a layer within a block, called `name`, for the input `x`. Returns its output.
    ///
    /// # Errors
    /// What [`crate::Module::export`] reports.
    pub fn through(&mut self, name: &str, module: &dyn crate::Module, x: Value) -> Result<Value> {
        if name.is_empty() {
            return module.export(x, self);
        }
        self.path.enter(name);
        let y = module.export(x, self)?;
        self.path.leave();
        Ok(y)
    }

    /// Adds an operation on `inputs`. Returns its output, whose shape is that of `made`.
    pub fn push(&mut self, op: Op, inputs: &[Value], made: Value) -> Value {
        let inputs = inputs.iter().map(|value| value.index).collect();
        self.steps.push(Step { name: self.path.as_str().into(), op, inputs });
        Value { index: self.steps.len(), ..made }
    }

    /// As [`Plain::push`], with the name `name` within the layer.
    pub fn push_as(&mut self, name: &str, op: Op, inputs: &[Value], made: Value) -> Value {
        self.path.enter(name);
        let value = self.push(op, inputs, made);
        self.path.leave();
        value
    }

    /// An error with this reason, which names the layer that cannot be exported.
    pub fn refused(&self, why: impl fmt::Display) -> Error {
        let layer = match self.path.as_str() {
            "" => "a layer without a name",
            path => path,
        };
        Error::Invalid(format!("{layer}: no plain form: {why}"))
    }

    /// Height and width of `x`, for a layer whose operations depend on the size.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the size of the images is not known.
    pub(crate) fn extents(&mut self, x: Value) -> Result<[usize; 2]> {
        let Some(extents) = x.extents else {
            return Err(self.refused("it depends on the size of the images, which was not given"));
        };
        self.fixed_by.get_or_insert_with(|| self.path.as_str().into());
        Ok(extents)
    }

    /// `x` with extents that a window of this reach makes of it.
    pub(crate) fn windowed(&self, x: Value, window: Window, dilation: usize) -> Value {
        let Window { kernel_size, stride, padding } = window;
        let reach = dilated_extent(kernel_size, dilation).unwrap_or(0);
        let made = |i| window_extent(i, reach, stride, padding);
        Value { extents: both(x.extents, made), ..x }
    }

    /// `x` with the extents that a transposed convolution makes of it.
    pub(crate) fn widened(&self, x: Value, window: Window, dilation: usize, output_padding: usize) -> Value {
        let Window { kernel_size, stride, padding } = window;
        let reach = dilated_extent(kernel_size, dilation).unwrap_or(0);
        let made = |i| transposed_extent(i, reach, stride, padding, output_padding);
        Value { extents: both(x.extents, made), ..x }
    }

    /// The choice called `name`, if a layer has made it.
    pub(crate) fn grid(&self, name: Option<&str>) -> Option<Grid> {
        self.grids.get(name?).copied()
    }

    /// Leaves a choice to later layers.
    pub(crate) fn leave_grid(&mut self, name: Option<&str>, grid: Grid) {
        if let Some(name) = name {
            self.grids.insert(name.into(), grid);
        }
    }
}

fn both(extents: Option<[usize; 2]>, made: impl Fn(usize) -> Option<usize>) -> Option<[usize; 2]> {
    let [height, width] = extents?;
    Some([made(height)?, made(width)?])
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.steps.iter().map(|step| (&step.name, step.op.name(), &step.inputs))).finish()
    }
}
