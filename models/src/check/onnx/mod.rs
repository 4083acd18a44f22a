//! Whether the layers of an ONNX model of any origin break quarter turns at an input size.

mod rules;
mod shapes;
#[cfg(test)]
mod tests;
mod walk;
mod windows;

use crate::{
    io::regular,
    onnx::{LARGEST_FILE, proto::Model},
};
use prost::Message;
use quarterturn_core::{Error, Result};
use std::{
    fmt,
    io::{self, Read},
    path::Path,
};
use walk::Walk;

/// No exact size is looked for further away than this.
const FURTHEST: usize = 256;
/// No side of an image may be longer.
const LARGEST: usize = 1 << 14;

/// An ONNX model, which can be judged at any input size.
///
/// Sizes are judged, not weights. A layer that is called inexact breaks quarter turns whatever its filters are. A layer
/// that is called exact reads the turned pixels of a turned image. The model is equivariant only if its filters turn
/// too, as in a group-equivariant network.
#[derive(Debug)]
pub struct OnnxModel {
    model: Model,
}

/// The judgement of all layers of an [`OnnxModel`] at one size.
#[derive(Clone, Debug)]
pub struct OnnxExactness {
    /// Height and width of the images.
    pub input: [usize; 2],
    /// The layers that could break quarter turns, in the order of the file.
    pub layers: Vec<JudgedLayer>,
    /// The nearest smaller size at which no layer breaks quarter turns, apart from those that do so at every size.
    /// Height and width change by the same number.
    pub below: Option<[usize; 2]>,
    /// The nearest larger size, likewise.
    pub above: Option<[usize; 2]>,
}

/// A layer that could break quarter turns.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedLayer {
    /// The node's name, or that of its result.
    pub name: String,
    /// The operator.
    pub op: String,
    /// Height and width of the map that it reads, if it reads one.
    pub input: Option<[usize; 2]>,
    /// Its geometry: `3×3, stride 2, padding 1`.
    pub what: String,
    /// Whether that breaks quarter turns.
    pub judgement: Judgement,
}

/// Whether a layer breaks quarter turns.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// Not at this size: of a turned map it reads the turned pixels.
    Exact,
    /// At this size, for this reason: `leaves 1 over` (the last window does not reach one row or column).
    Inexact(String),
    /// At every size, for this reason.
    Never(String),
    /// Not known, for this reason. Layers that read its output are not judged.
    Unknown(String),
}

impl OnnxModel {
    /// Reads the file at `path`. Parameters in files beside it are not needed.
    ///
    /// # Errors
    /// [`Error::Io`], for other than regular files of at most 2 GiB too; [`Error::Corrupt`] if it is no ONNX model.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let read = || {
            let (file, length) = regular::open(path, LARGEST_FILE)?;
            let mut bytes = Vec::with_capacity(length as usize);
            file.take(length).read_to_end(&mut bytes).map(|_| bytes)
        };
        let bytes = read().map_err(|error: io::Error| Error::io(path, &error))?;
        Self::from_bytes(&bytes, path)
    }

    /// The model in `bytes`, which are those of the file at `path` or come from elsewhere: errors name it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are no ONNX model.
    pub fn from_bytes(bytes: &[u8], path: impl AsRef<Path>) -> Result<Self> {
        let corrupt = |message: String| Error::Corrupt { path: path.as_ref().into(), offset: 0, message };
        let model = Model::decode(bytes).map_err(|error| corrupt(format!("no ONNX model: {error}")))?;
        match &model.graph {
            Some(graph) if !graph.nodes.is_empty() => Ok(OnnxModel { model }),
            _ => Err(corrupt("no ONNX model, or one without a node".into())),
        }
    }

    /// The size of images that the file declares, if it does.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the model takes no images.
    pub fn declared_size(&self) -> Result<Option<[usize; 2]>> {
        Ok(Walk::new(&self.model, [1, 1])?.declared_size())
    }

    /// Judges the layers for images of this height and width.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it takes no images, or they do not fit at this size; with the layer.
    pub fn exactness(&self, input: [usize; 2]) -> Result<OnnxExactness> {
        if input.iter().any(|side| !(1..=LARGEST).contains(side)) {
            return Err(Error::Invalid(format!("expected sides of 1 to {LARGEST}, not {}×{}", input[0], input[1])));
        }
        let judged = |input| Walk::new(&self.model, input)?.judge();
        let layers = judged(input)?;
        let breaks = |layer: &JudgedLayer| matches!(layer.judgement, Judgement::Inexact(_));
        let known = layers.iter().filter(|layer| matches!(layer.judgement, Judgement::Unknown(_))).count();
        // What becomes unknown at another size hides what would be judged here.
        let fits = |layers: Vec<JudgedLayer>| {
            let unknown = layers.iter().filter(|layer| matches!(layer.judgement, Judgement::Unknown(_))).count();
            !layers.iter().any(breaks) && unknown <= known
        };
        let exact = |size: &[usize; 2]| judged(*size).is_ok_and(fits);
        let lesser = (1..=FURTHEST).map_while(|by| {
            let [height, width] = input;
            Some([height.checked_sub(by).filter(|&side| side > 0)?, width.checked_sub(by).filter(|&side| side > 0)?])
        });
        let greater = (1..=FURTHEST).map(|by| input.map(|side| side + by));
        let (below, above) = (lesser.into_iter().find(exact), greater.into_iter().find(exact));
        Ok(OnnxExactness { input, layers, below, above })
    }
}

impl OnnxExactness {
    /// The layers with this judgement.
    fn with(&self, wanted: impl Fn(&Judgement) -> bool) -> impl Iterator<Item = &JudgedLayer> {
        self.layers.iter().filter(move |layer| wanted(&layer.judgement))
    }

    /// The layers that break quarter turns at this size.
    pub fn inexact(&self) -> impl Iterator<Item = &JudgedLayer> {
        self.with(|judgement| matches!(judgement, Judgement::Inexact(_)))
    }

    /// The layers that break them at every size.
    pub fn never(&self) -> impl Iterator<Item = &JudgedLayer> {
        self.with(|judgement| matches!(judgement, Judgement::Never(_)))
    }

    /// The layers that could not be judged.
    pub fn unknown(&self) -> impl Iterator<Item = &JudgedLayer> {
        self.with(|judgement| matches!(judgement, Judgement::Unknown(_)))
    }

    /// Whether every layer is known, and none breaks quarter turns at this size.
    pub fn is_exact(&self) -> bool {
        self.layers.iter().all(|layer| layer.judgement == Judgement::Exact)
    }
}

impl fmt::Display for JudgedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JudgedLayer { name, op, input, what, judgement } = self;
        write!(f, "{name} ({op}")?;
        if !what.is_empty() {
            write!(f, " {what}")?;
        }
        if let Some([height, width]) = input {
            write!(f, ", on {height}×{width}")?;
        }
        match judgement {
            Judgement::Exact => write!(f, ")"),
            Judgement::Inexact(why) | Judgement::Never(why) | Judgement::Unknown(why) => write!(f, "): {why}"),
        }
    }
}

impl fmt::Display for OnnxExactness {
    /// The verdict in a few lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |[height, width]: [usize; 2]| match height == width {
            true => height.to_string(),
            false => format!("{height}×{width}"),
        };
        let input = size(self.input);
        let first = |layers: &mut dyn Iterator<Item = &JudgedLayer>| {
            let first = layers.next()?.to_string();
            let (more, is) = (layers.count(), |n| if n == 1 { "layer does" } else { "layers do" });
            Some(if more == 0 { first } else { format!("{first} (and {more} more {})", is(more)) })
        };
        let (inexact, never) = (first(&mut self.inexact()), first(&mut self.never()));
        match &inexact {
            Some(layer) => {
                write!(f, "breaks quarter turns at {input}, first by {layer}; ")?;
                match (self.below.map(size), self.above.map(size)) {
                    (Some(below), Some(above)) => write!(f, "no window does at {below} and {above}")?,
                    (Some(near), None) | (None, Some(near)) => write!(f, "no window does at {near}")?,
                    (None, None) => write!(f, "some window does at every size nearby")?,
                }
            }
            None => write!(f, "no window breaks quarter turns at {input}")?,
        }
        if let Some(layer) = never {
            write!(f, "\nbreaks quarter turns at every size by {layer}")?;
        }
        if let Some(layer) = first(&mut self.unknown()) {
            write!(f, "\nnot known: {layer}")?;
        }
        Ok(())
    }
}
