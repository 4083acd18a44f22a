//! A table of a network's layers: shapes, parameters, multiply-adds and memory.

use super::exactness::trace_with;
use crate::{Exactness, Module, Network, Trace, WindowedLayer};
use quarterturn_autograd::Kind;
use quarterturn_core::{Result, Shape};
use std::{fmt, iter, ops::Add};

/// A table of a network's layers for one image of a given size. Print it with `{}`.
///
/// ```
/// use quarterturn_core::{Device, Result};
/// use quarterturn_models::{MnistCnn, MnistCnnConfig, Summary};
///
/// # fn main() -> Result<()> {
/// let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
/// let summary = Summary::of(&network, [28, 28])?;
/// assert_eq!(summary.parameters(), 24_810);
/// let (work, conv2) = (summary.multiply_adds(), &summary.layers[2]);
/// assert_eq!((conv2.name.as_str(), conv2.output.dims()), ("conv2", &[1, 10, 4, 28, 28][..]));
/// assert!(work.dense as f64 / work.computed as f64 > 2.6);
/// println!("{summary}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The layers in the order in which they are computed. A sum or concatenation comes after its branches.
    pub layers: Vec<LayerSummary>,
    /// The checker's result for the network at this size.
    pub exactness: Exactness,
}

/// One layer of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSummary {
    /// Its full name, with those of the blocks around it. A layer without a name has the name of its block.
    pub name: String,
    /// The type of layer, as in descriptions.
    pub kind: String,
    /// The shape of its output for one image.
    pub output: Shape,
    /// Trained values. Running statistics do not count.
    pub parameters: usize,
    /// The multiplications of one forward pass.
    pub multiply_adds: MultiplyAdds,
    /// Bytes of its output, in `f32`. In training the output stays in memory until the backward pass has read it.
    /// Layers that are fused with the next may keep less.
    pub bytes: usize,
    /// Its window, if it has one.
    pub window: Option<WindowedLayer>,
    /// Whether it keeps the symmetry.
    pub standing: Standing,
}

/// Whether a layer is equivariant at the size of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Equivariant, in every bit.
    Exact,
    /// Not equivariant at this size: the layer's window does not reach the last rows or columns.
    LeavesOver,
    /// Not equivariant at any size.
    Breaks,
    /// Not known, because the layer does not implement [`crate::Module::symmetry`].
    Unknown,
}

/// The number of multiply-adds. Only convolutions and linear layers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MultiplyAdds {
    /// The number for an ordinary convolution with each filter in all its orientations, as other libraries compute it.
    pub dense: u64,
    /// The number that this library needs in evaluation, after transforming the group axis to irreducible
    /// representations. (Training on p4 takes fewer still, and so do
    /// some plain 3×3 layers on the CPU: see [`quarterturn_kernels::group_conv`].)
    pub computed: u64,
}

impl MultiplyAdds {
    /// So many times `[dense, computed]`.
    pub(crate) fn new(times: usize, [dense, computed]: [usize; 2]) -> Self {
        let product = |each: usize| times as u64 * each as u64;
        MultiplyAdds { dense: product(dense), computed: product(computed) }
    }
}

impl Add for MultiplyAdds {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        MultiplyAdds { dense: self.dense + other.dense, computed: self.computed + other.computed }
    }
}

impl LayerSummary {
    /// The table row of `module`, which maps shape `x` to shape `y`. If it is no leaf, its inner layers have rows of their own, and
    /// its parameters are not counted here.
    pub(super) fn of(
        name: &str,
        kind: &str,
        module: &dyn Module,
        [x, y]: [Shape; 2],
        is_leaf: bool,
        window: Option<WindowedLayer>,
        standing: Standing,
    ) -> Self {
        let mut parameters = 0;
        if is_leaf {
            module.read(&mut |_, param| {
                if param.kind() == Kind::Weight {
                    parameters += param.value().len();
                }
            });
        }
        let (multiply_adds, bytes) = (module.multiply_adds(x, y), size_of::<f32>() * y.len());
        let (name, kind) = (name.into(), kind.into());
        LayerSummary { name, kind, output: y, parameters, multiply_adds, bytes, window, standing }
    }
}

impl Summary {
    /// The summary of `network` for images of `input` = `[height, width]`.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer, if such images do not fit the network.
    pub fn of<N: Network + ?Sized>(network: &N, input: [usize; 2]) -> Result<Self> {
        let (trace, _) = trace_with(network, Trace::new(network.group()).with_summary(), input)?;
        Ok(Summary { layers: trace.rows.unwrap_or_default(), exactness: Exactness::of(network, input)? })
    }

    /// The number of trainable parameters.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.parameters).sum()
    }

    /// The multiplications of one forward pass.
    pub fn multiply_adds(&self) -> MultiplyAdds {
        self.layers.iter().fold(MultiplyAdds::default(), |sum, layer| sum + layer.multiply_adds)
    }

    /// An upper bound of the bytes that a training step keeps for each image: the outputs of all layers.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| layer.bytes).sum()
    }

    /// The column headings of the table, and its rows.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let headings =
            ["layer", "kind", "window", "output", "parameters", "multiply-adds", "as a dense sum", "memory", "exact"];
        let row = |name: &str, kind: &str, window: String, output: String, sums: [u64; 4], exact: String| {
            let [parameters, computed, dense, bytes] = sums;
            let number = |v: u64| if v == 0 { String::new() } else { grouped(v) };
            let numbers = [number(parameters), number(computed), number(dense), memory(bytes)];
            [name.into(), kind.into(), window, output].into_iter().chain(numbers).chain([exact]).collect()
        };
        let layers = self.layers.iter().map(|layer| {
            let MultiplyAdds { dense, computed } = layer.multiply_adds;
            let window = layer.window.as_ref().map_or_else(String::new, shown_window);
            let sums = [layer.parameters as u64, computed, dense, layer.bytes as u64];
            row(&layer.name, &layer.kind, window, shown_shape(layer.output), sums, shown_standing(layer))
        });
        let MultiplyAdds { dense, computed } = self.multiply_adds();
        let sums = [self.parameters() as u64, computed, dense, self.bytes() as u64];
        let all = row("in all", "", String::new(), String::new(), sums, self.exactness.verdict().name().into());
        (headings.to_vec(), layers.chain(iter::once(all)).collect())
    }
}

/// `3×3, stride 2, padding 1`, short.
fn shown_window(layer: &WindowedLayer) -> String {
    let k = layer.window.kernel_size;
    let mut text = format!("{k}×{k}");
    for (letter, value, usual) in
        [('s', layer.window.stride, 1), ('p', layer.window.padding, 0), ('d', layer.dilation, 1)]
    {
        if value != usual {
            text.push_str(&format!(" {letter}{value}"));
        }
    }
    text
}

/// Without the axis of images: `10×4×28×28`.
fn shown_shape(shape: Shape) -> String {
    shape.dims()[1..].iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

fn shown_standing(layer: &LayerSummary) -> String {
    match layer.standing {
        Standing::Exact => "yes".into(),
        Standing::LeavesOver => match layer.window.as_ref().map(|window| window.residual) {
            Some([down, across]) if down != across => format!("{down}, {across} left over"),
            Some([down, _]) => format!("{down} left over"),
            None => "no".into(),
        },
        Standing::Breaks => "no".into(),
        Standing::Unknown => "unknown".into(),
    }
}

/// `24,810`.
fn grouped(v: u64) -> String {
    let digits = v.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that suits them.
fn memory(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

impl fmt::Display for Summary {
    /// The table, and the verdict below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (headings, rows) = self.table();
        let headings: Vec<String> = headings.into_iter().map(String::from).collect();
        let lines: Vec<&Vec<String>> = iter::once(&headings).chain(&rows).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        for line in &lines {
            let mut text = String::new();
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                let is_number = (4..8).contains(&column);
                text.push_str(&if is_number { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") });
            }
            writeln!(f, "{}", text.trim_end())?;
        }
        write!(f, "{}", self.exactness)
    }
}
