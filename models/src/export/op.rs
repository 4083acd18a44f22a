//! The operations that a plain network is made of.

use super::{Array, Value};
use quarterturn_kernels::Window;

/// An operation that every library has; those for adaptive subsampling are made of a few such.
///
/// The padding of convolutions is the same on all sides, and windows that do not fit are left out, as in PyTorch.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// `[N, C_in, H, W]` → `[N, C_out, H', W']`, weight `[C_out, C_in/groups, k, k]`, bias `[C_out]`.
    Conv {
        /// The filters.
        weight: Array,
        /// One value for each output channel.
        bias: Option<Array>,
        /// Stride.
        stride: usize,
        /// Rows and columns of zeros on each side.
        padding: usize,
        /// Distance between taps.
        dilation: usize,
        /// The number of groups of channels, as in PyTorch.
        groups: usize,
    },
    /// A transposed convolution: weight `[C_in, C_out, k, k]`.
    TransposedConv {
        /// The filters.
        weight: Array,
        /// One value for each output channel.
        bias: Option<Array>,
        /// Stride.
        stride: usize,
        /// Rows and columns that are taken away on each side.
        padding: usize,
        /// Distance between taps.
        dilation: usize,
        /// Rows and columns that are added at the bottom and on the right.
        output_padding: usize,
    },
    /// `(x − mean)/√(var + eps)·weight + bias`, each one value for a channel.
    Norm {
        /// Factor.
        weight: Array,
        /// What is added.
        bias: Array,
        /// Running mean.
        mean: Array,
        /// Running variance.
        var: Array,
        /// Keeps the root above 0.
        eps: f64,
    },
    /// `x · weightᵀ + bias`, weight `[out, in]`.
    Linear {
        /// The weight.
        weight: Array,
        /// One value for each output.
        bias: Array,
    },
    /// An elementwise function, one of [`Op::FUNCTIONS`].
    Function(&'static str),
    /// The maximum of each window; padding does not count.
    MaxPool(Window),
    /// The mean of each window; zeros of the padding count.
    AvgPool(Window),
    /// The maximum over these axes, which are removed.
    Max(Vec<usize>),
    /// The mean over these axes, which are removed.
    Mean(Vec<usize>),
    /// Splits the merged axis: `[N, C·G, …]` → `[N, C, G, …]`.
    Part {
        /// Whether the input has height and width.
        is_map: bool,
        /// C.
        channels: usize,
        /// G.
        elements: usize,
    },
    /// Bilinear resize.
    Resize(Size),
    /// Nearest-neighbour upsampling by a whole factor.
    Repeat(usize),
    /// The map without this number of rows and columns on each side.
    Crop(usize),
    /// These entries of an axis.
    Select {
        /// Which.
        axis: usize,
        /// From 0 on.
        indices: Vec<usize>,
    },
    /// The sum of two values.
    Sum,
    /// Concatenation of the channels.
    Concat,
    /// Chooses one of the four grids of a map. The result `[N, 4]` has a weight for each grid, see
    /// [`quarterturn_kernels::choose_grid`]. `inset` rows and columns are left out at each side of the map; if it is
    /// negative, as many rows and columns of zeros are added.
    ChooseGrid {
        /// Rows and columns.
        inset: isize,
        /// Height and width of the map without them.
        extents: [usize; 2],
        /// Each term of a sum is at most 2 to the power of this.
        bits: u32,
        /// Bits that a plane's sum loses.
        spare: u32,
    },
    /// Reads a map of this height and width and the weights of its grids, and returns the samples:
    /// [`quarterturn_kernels::subsample`].
    Subsample([usize; 2]),
    /// Reads a map and the weights of its grids, and returns the map moved onto the chosen grid:
    /// [`quarterturn_kernels::move_onto_grid`].
    MoveOntoGrid {
        /// Rows and columns of zeros before the map.
        before: usize,
        /// Rows and columns of zeros behind it.
        behind: [usize; 2],
        /// Height and width of the result.
        extents: [usize; 2],
    },
    /// Reads samples and the weights of the grids, and returns a map of this height and width:
    /// [`quarterturn_kernels::upsample`]. Without the weights, the samples belong to the first grid.
    GridUpsample([usize; 2]),
}

/// The size of a resized map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// This number of times as high and wide.
    Times(usize),
    /// Height and width.
    Of([usize; 2]),
}

impl Op {
    /// The elementwise functions that can be exported. `gelu` is the exact one, not its approximation.
    pub const FUNCTIONS: [&str; 6] = ["relu", "silu", "gelu", "sigmoid", "tanh", "softplus"];

    /// The elements of each channel of `x` in this order.
    pub(crate) fn selected(x: Value, order: &[usize]) -> Self {
        let indices = (0..x.channels).flat_map(|c| order.iter().map(move |g| c * x.elements + g)).collect();
        Op::Select { axis: 1, indices }
    }

    /// What a plain file calls it: where that is one call, as PyTorch does.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Conv { .. } => "conv2d",
            Op::TransposedConv { .. } => "conv_transpose2d",
            Op::Norm { .. } => "batch_norm",
            Op::Linear { .. } => "linear",
            Op::Function(name) => name,
            Op::MaxPool(_) => "max_pool2d",
            Op::AvgPool(_) => "avg_pool2d",
            Op::Max(_) => "amax",
            Op::Mean(_) => "mean",
            Op::Part { .. } => "unflatten",
            Op::Resize(_) | Op::Repeat(_) => "interpolate",
            Op::Crop(_) => "pad",
            Op::Select { .. } => "index_select",
            Op::Sum => "add",
            Op::Concat => "concat",
            Op::ChooseGrid { .. } => "choose_grid",
            Op::Subsample(_) => "subsample",
            Op::MoveOntoGrid { .. } => "move_onto_grid",
            Op::GridUpsample(_) => "grid_upsample",
        }
    }

    /// Its parameters, with the names that PyTorch gives them.
    pub fn arrays(&self) -> Vec<(&'static str, &Array)> {
        match self {
            Op::Conv { weight, bias, .. } | Op::TransposedConv { weight, bias, .. } => {
                let bias = bias.as_ref().map(|bias| ("bias", bias));
                [("weight", weight)].into_iter().chain(bias).collect()
            }
            Op::Norm { weight, bias, mean, var, .. } => {
                vec![("weight", weight), ("bias", bias), ("running_mean", mean), ("running_var", var)]
            }
            Op::Linear { weight, bias } => vec![("weight", weight), ("bias", bias)],
            _ => Vec::new(),
        }
    }
}
