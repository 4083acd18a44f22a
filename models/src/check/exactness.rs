//! Whether a network is exactly equivariant at an input size, and at which sizes nearby it is.

use crate::{BreakingLayer, Network, Trace, WindowedLayer, nn::CHAIN};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{Group, Subgroup};
use std::{collections::BTreeSet, fmt};

/// No exact size is looked for further away than this.
const FURTHEST: usize = 4096;

/// The checker: whether a network is equivariant in every bit at one input size, and if not, because of which layers.
/// It looks at layers and sizes, not at weights, and computes no forward pass.
///
/// ```
/// use quarterturn_core::Device;
/// use quarterturn_models::{Exactness, MnistCnn, MnistCnnConfig};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
/// assert!(Exactness::of(&network, [28, 28])?.is_exact());
/// let at_27 = Exactness::of(&network, [27, 27])?;
/// assert_eq!(at_27.first_inexact().unwrap().name, "pool2");
/// assert_eq!((at_27.below, at_27.above), (Some([26, 26]), Some([28, 28])));
/// # Ok(())
/// # }
/// ```
///
/// A layer commutes with a turn if turning its input turns its output. A window of size k, stride s and padding p on i
/// samples commutes with quarter turns and reflections iff `(i + 2p − k) mod s = 0` (Eq. 3 of Edixhoven et al. 2023,
/// with padding). With dilation d, put `d(k − 1) + 1` for k. A network commutes if all its windows do, on both axes and
/// in shortcuts too, and all its other layers. The verdict is about evaluation mode, on
/// [`quarterturn_core::Device::Cpu`] and on GPUs. ([`quarterturn_core::Device::Reference`] sums in another order for
/// each element of the group, and so rounds differently.)
///
/// A network that the checker calls exact is exact. One that it calls inexact may be exact nevertheless, in two cases,
/// where the rows that a window skips do not matter. After upsampling or resizing to the nearest pixel, rows repeat: a
/// max pooling that skips the second of two equal rows misses nothing. And after a transposed convolution with output
/// padding, a window may skip just the rows that were added.
///
/// For each layer the checker relies on [`crate::Module::symmetry`]. If a layer of your own does not implement it, the
/// verdict is [`Verdict::Unknown`].
#[derive(Clone, Debug, PartialEq)]
pub struct Exactness {
    /// The architecture's name.
    pub model: String,
    /// The network's group.
    pub group: Group,
    /// The group under which the output is equivariant. It is a subgroup of the network's if a layer restricts feature
    /// maps ([`crate::Restrict`]).
    pub symmetry: Subgroup,
    /// Height and width of the images.
    pub input: [usize; 2],
    /// Every layer with a window, in order. Those of a shortcut come after those of the branch.
    pub layers: Vec<WindowedLayer>,
    /// The layers that break the symmetry at every size, in order.
    pub breaking: Vec<BreakingLayer>,
    /// The layers of which it is not known whether they commute, in order.
    pub unknown: Vec<String>,
    /// The shape of the output for one image.
    pub output: Shape,
    /// The nearest smaller size at which every window meets the condition, if there is one. Height and width are looked for
    /// separately: if only one of them breaks the condition, the other stays as it is. If none does, both become smaller.
    pub below: Option<[usize; 2]>,
    /// The nearest larger size, found in the same way.
    pub above: Option<[usize; 2]>,
}

/// The answer of the checker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A turned (on p4m also: mirrored) image has the same output, to the last bit. So it is for logits after a mean or
    /// maximum over all pixels and over the group.
    Invariant,
    /// The output for a turned image is the turned output of the upright one, to the last bit. The output is a map, or
    /// has a group axis.
    Equivariant,
    /// A layer breaks the symmetry.
    Inexact,
    /// No layer is known to break the symmetry, but at least one does not implement [`crate::Module::symmetry`].
    Unknown,
    /// The group is z2, or feature maps are restricted to z2: an ordinary CNN, of which no symmetry under turns is
    /// expected.
    NoSymmetry,
}

impl Verdict {
    /// The verdict in one word, for tables and files.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Invariant => "invariant",
            Verdict::Equivariant => "equivariant",
            Verdict::Inexact => "inexact",
            Verdict::Unknown => "unknown",
            Verdict::NoSymmetry => "no symmetry",
        }
    }
}

impl Exactness {
    /// Checks `network` for images of `input` = `[height, width]`.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer, if such images do not fit the network.
    pub fn of<N: Network + ?Sized>(network: &N, input: [usize; 2]) -> Result<Self> {
        let (trace, output) = trace(network, input)?;
        let period = trace.windows().iter().fold(1, |period: usize, layer| {
            // What a layer leaves over depends on the input's extent modulo the strides up to it.
            period.saturating_mul(layer.window.stride).min(FURTHEST)
        });
        let exact = input.map(|n| is_exact(network, n));
        let nearest = |search: &dyn Fn(usize) -> Option<usize>| {
            let [height, width] = input;
            match exact {
                [true, false] => Some([height, search(width)?]),
                [false, true] => Some([search(height)?, width]),
                _ => Some([search(height)?, search(width)?]),
            }
        };
        let below = nearest(&|n| (1..n).rev().take(period).find(|&n| is_exact(network, n)));
        let above = nearest(&|n| (n + 1..=n + period).find(|&n| is_exact(network, n)));
        Ok(Exactness {
            model: network.config().remove("model").unwrap_or_default(),
            group: network.group(),
            symmetry: trace.axis().group(),
            input,
            layers: trace.windows,
            breaking: trace.breaking,
            unknown: trace.unknown,
            output,
            below,
            above,
        })
    }

    /// The answer for the network's output.
    pub fn verdict(&self) -> Verdict {
        // By its axes: places, or the elements of the group.
        let moves = match *self.output.dims() {
            [_, _, _, _, ..] => true,
            [_, _, elements] => elements > 1,
            _ => false,
        };
        match self.symmetry {
            Subgroup::Z2 => Verdict::NoSymmetry,
            _ if self.first_inexact().is_some() || !self.breaking.is_empty() => Verdict::Inexact,
            _ if !self.unknown.is_empty() => Verdict::Unknown,
            _ if moves => Verdict::Equivariant,
            _ => Verdict::Invariant,
        }
    }

    /// Whether the verdict is [`Verdict::Invariant`] or [`Verdict::Equivariant`].
    pub fn is_exact(&self) -> bool {
        matches!(self.verdict(), Verdict::Invariant | Verdict::Equivariant)
    }

    /// The first layer whose window breaks the condition: its last step does not reach the last row or column.
    pub fn first_inexact(&self) -> Option<&WindowedLayer> {
        self.layers.iter().find(|layer| !layer.is_exact())
    }

    /// How many layers subsample (have a stride above 1): first the number of those that break the condition, then of
    /// all. Layers that read maps of the same size, such as a branch and its shortcut, count once.
    pub fn subsampling(&self) -> (usize, usize) {
        let steps = |layers: &dyn Fn(&&WindowedLayer) -> bool| {
            let inputs = self.layers.iter().filter(|layer| layer.window.stride > 1).filter(layers);
            inputs.map(|layer| layer.input).collect::<BTreeSet<_>>().len()
        };
        (steps(&|layer| !layer.is_exact()), steps(&|_| true))
    }

    /// One line for users: which layer breaks the symmetry and which sizes to take instead, or which layers are
    /// unknown. `None` if the network is exact, or on z2.
    pub fn warning(&self) -> Option<String> {
        if !matches!(self.verdict(), Verdict::Inexact | Verdict::Unknown) {
            return None;
        }
        let Exactness { model, .. } = self;
        let (input, group) = (Extents(self.input), self.groups());
        let mut reasons = Vec::new();
        if let Some(layer) = self.first_inexact() {
            reasons.push(format!("is inexact at {input}: {layer} breaks the symmetry; {}", self.remedy()));
        }
        if let Some(layer) = self.breaking.first() {
            reasons.push(format!("is inexact at any size: {layer}"));
        }
        if let Some(layer) = self.unknown.first() {
            reasons
                .push(format!("is unknown beyond {layer}, which does not say whether it commutes (Module::symmetry)"));
        }
        Some(format!("{model} on {group} {}", reasons.join("; it ")))
    }

    /// The group, and what maps are restricted to.
    fn groups(&self) -> String {
        match self.symmetry {
            own if own == self.group.into() => own.to_string(),
            other => format!("{}, restricted to {other},", self.group),
        }
    }

    /// The sizes to take instead: exact ones, unless other layers than those with windows matter too.
    fn remedy(&self) -> String {
        let windows_alone = self.breaking.is_empty() && self.unknown.is_empty();
        match (self.below.map(Extents), self.above.map(Extents), windows_alone) {
            (Some(below), Some(above), true) => format!("nearest exact sizes {below} and {above}"),
            (Some(size), None, true) | (None, Some(size), true) => format!("nearest exact size {size}"),
            (Some(below), Some(above), false) => format!("its windows leave nothing over at {below} and {above}"),
            (Some(size), None, false) | (None, Some(size), false) => {
                format!("its windows leave nothing over at {size}")
            }
            (None, None, true) => "no size nearby is exact".into(),
            (None, None, false) => "its windows leave something over at every size nearby".into(),
        }
    }
}

/// Height and width as people write them: one number for a square.
struct Extents([usize; 2]);

impl fmt::Display for Extents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [height, width] if height == width => write!(f, "{height}"),
            [height, width] => write!(f, "{height}×{width}"),
        }
    }
}

impl fmt::Display for Exactness {
    /// The verdict in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Exactness { model, .. } = self;
        let (input, group) = (Extents(self.input), self.groups());
        let moved = match self.symmetry {
            Subgroup::P4M => "turned or mirrored",
            Subgroup::P2 => "half-turned",
            _ => "turned",
        };
        match self.verdict() {
            Verdict::Inexact | Verdict::Unknown => f.write_str(&self.warning().unwrap_or_default()),
            Verdict::NoSymmetry => {
                write!(f, "{model} on {group}: no symmetry is promised")?;
                match self.first_inexact() {
                    None => write!(f, " (its windows leave nothing over at {input})"),
                    Some(_) => write!(f, " (its windows leave something over at {input}; {})", self.remedy()),
                }
            }
            Verdict::Invariant => write!(
                f,
                "{model} on {group} is exact at {input}: a {moved} image has the same output, to the last bit"
            ),
            Verdict::Equivariant => write!(
                f,
                "{model} on {group} is exact at {input}: the output of a {moved} image is that of the upright one, {moved}, to the \
                 last bit"
            ),
        }
    }
}

/// What the layers say, and the shape of the output.
pub(super) fn trace<N: Network + ?Sized>(network: &N, [height, width]: [usize; 2]) -> Result<(Trace, Shape)> {
    trace_with(network, Trace::new(network.group()), [height, width])
}

/// As [`trace`], with a walk that has been begun.
pub(super) fn trace_with<N: Network + ?Sized>(
    network: &N,
    mut trace: Trace,
    [height, width]: [usize; 2],
) -> Result<(Trace, Shape)> {
    let image = Shape::from([1, network.in_channels(), 1, height, width]);
    let output = trace.through_kind("", CHAIN, network.layers(), image)?;
    Ok((trace, output))
}

/// Whether images of this extent fit, and no window leaves anything over.
fn is_exact<N: Network + ?Sized>(network: &N, extent: usize) -> bool {
    trace(network, [extent; 2]).is_ok_and(|(trace, _)| trace.windows().iter().all(WindowedLayer::is_exact))
}
