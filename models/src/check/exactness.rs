//! Whether a network is exactly equivariant at an input size, and at which sizes nearby it is.

use crate::{Network, Trace, WindowedLayer};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Group;
use std::{collections::BTreeSet, fmt};

/// No exact size is looked for further away than this.
const FURTHEST: usize = 4096;

/// What the geometry of a network says of its symmetry at one input size.
///
/// A window of size k, stride s and padding p on i samples commutes with quarter turns and reflections iff
/// `(i + 2p − k) mod s = 0` (Eq. 3 of Edixhoven et al. 2023, with padding). A network does if all its windows do, those of
/// shortcuts included, on both axes. In evaluation mode it then makes the same bits of a turned image as of the upright one.
#[derive(Clone, Debug, PartialEq)]
pub struct Exactness {
    /// The architecture's name.
    pub model: String,
    /// The network's group.
    pub group: Group,
    /// Height and width of the images.
    pub input: [usize; 2],
    /// Every layer with a window, in order, those of a shortcut after those beside it.
    pub layers: Vec<WindowedLayer>,
    /// The layer that treats the elements of the group differently, if there is one: then no size makes the logits invariant.
    pub group_reader: Option<String>,
    /// The largest smaller size whose windows leave nothing over, if there is one. Each axis counts on its own, and one that is
    /// exact keeps its extent (unless both are).
    pub below: Option<[usize; 2]>,
    /// The smallest larger size, likewise.
    pub above: Option<[usize; 2]>,
}

/// What follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A turned (on p4m also: mirrored) image has the same logits, to the last bit.
    Exact,
    /// It does not.
    Inexact,
    /// The group is z2, which promises no symmetry but translation.
    NoSymmetry,
}

impl Exactness {
    /// Looks at `network` for images of `input` = `[height, width]`.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`], naming the layer, if such images do not fit the network.
    pub fn of<N: Network + ?Sized>(network: &N, input: [usize; 2]) -> Result<Self> {
        let trace = trace(network, input)?;
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
            input,
            group_reader: trace.group_reader().map(Into::into),
            layers: trace.into_windows(),
            below,
            above,
        })
    }

    /// What follows for the logits.
    pub fn verdict(&self) -> Verdict {
        match self.group {
            Group::C1 => Verdict::NoSymmetry,
            _ if self.first_inexact().is_none() && self.group_reader.is_none() => Verdict::Exact,
            _ => Verdict::Inexact,
        }
    }

    /// Whether the verdict is [`Verdict::Exact`].
    pub fn is_exact(&self) -> bool {
        self.verdict() == Verdict::Exact
    }

    /// The first layer whose window leaves something over.
    pub fn first_inexact(&self) -> Option<&WindowedLayer> {
        self.layers.iter().find(|layer| !layer.is_exact())
    }

    /// Steps that leave something over, and steps in all, in which maps shrink; a shortcut's beside a branch counts as one.
    pub fn subsampling(&self) -> (usize, usize) {
        let steps = |layers: &dyn Fn(&&WindowedLayer) -> bool| {
            let inputs = self.layers.iter().filter(|layer| layer.window.stride > 1).filter(layers);
            inputs.map(|layer| layer.input).collect::<BTreeSet<_>>().len()
        };
        (steps(&|layer| !layer.is_exact()), steps(&|_| true))
    }

    /// One line that says what is wrong and how to mend it; `None` if the network is exact, or promises nothing.
    pub fn warning(&self) -> Option<String> {
        if self.verdict() != Verdict::Inexact {
            return None;
        }
        let (model, group) = (&self.model, self.group);
        let mut reasons = Vec::new();
        if let Some(layer) = self.first_inexact() {
            let input = Extents(self.input);
            let remedy = self.remedy();
            reasons.push(format!("{model} on {group} is inexact at {input}: {layer} breaks the symmetry; {remedy}"));
        }
        if let Some(layer) = &self.group_reader {
            reasons.push(format!(
                "{model} on {group}: {layer} has a weight for each element of the group, so that its logits are not invariant at \
                 any size; take the maximum over the group first"
            ));
        }
        Some(reasons.join("; "))
    }

    /// The sizes to take instead.
    fn remedy(&self) -> String {
        match (self.below.map(Extents), self.above.map(Extents)) {
            (Some(below), Some(above)) => format!("nearest exact sizes {below} and {above}"),
            (Some(size), None) | (None, Some(size)) => format!("nearest exact size {size}"),
            (None, None) => "no size nearby is exact".into(),
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
        let Exactness { model, group, .. } = self;
        let input = Extents(self.input);
        match (self.verdict(), self.warning()) {
            (_, Some(warning)) => f.write_str(&warning),
            (Verdict::NoSymmetry, _) => {
                write!(f, "{model} on {group}: no symmetry is promised")?;
                match self.first_inexact() {
                    None => write!(f, " (its windows leave nothing over at {input})"),
                    Some(_) => write!(f, " (its windows leave something over at {input}; {})", self.remedy()),
                }
            }
            _ => {
                let moved = if *group == Group::D4 { "turned or mirrored" } else { "turned" };
                write!(
                    f,
                    "{model} on {group} is exact at {input}: a {moved} image has the same logits, to the last bit"
                )
            }
        }
    }
}

fn trace<N: Network + ?Sized>(network: &N, [height, width]: [usize; 2]) -> Result<Trace> {
    let mut trace = Trace::default();
    network.trace(Shape::from([1, network.in_channels(), 1, height, width]), &mut trace)?;
    Ok(trace)
}

/// Whether images of this extent fit, and no window leaves anything over.
fn is_exact<N: Network + ?Sized>(network: &N, extent: usize) -> bool {
    trace(network, [extent; 2]).is_ok_and(|trace| trace.windows().iter().all(WindowedLayer::is_exact))
}
