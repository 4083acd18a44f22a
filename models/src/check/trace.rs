//! A network's geometry: what its layers make of shapes, and the windows that slide on the way.

use crate::{Module, nn::Path};
use quarterturn_core::{Error, Result, Shape, window_extent, window_residual};
use quarterturn_kernels::Window;
use std::fmt;

/// What kind of layer a window belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A plain convolution, Z² → Z².
    Conv,
    /// A lifting convolution, Z² → G.
    LiftConv,
    /// A convolution on the group, G → G.
    GroupConv,
    /// Max pooling.
    MaxPool,
    /// Average pooling.
    AvgPool,
}

impl LayerKind {
    /// The field's name.
    pub const fn name(self) -> &'static str {
        match self {
            LayerKind::Conv => "conv",
            LayerKind::LiftConv => "lift_conv",
            LayerKind::GroupConv => "group_conv",
            LayerKind::MaxPool => "max_pool",
            LayerKind::AvgPool => "avg_pool",
        }
    }

    /// What slides: the word for an error.
    const fn noun(self) -> &'static str {
        match self {
            LayerKind::MaxPool | LayerKind::AvgPool => "window",
            _ => "filter",
        }
    }
}

impl fmt::Display for LayerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A layer whose window slides over maps of a certain size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowedLayer {
    /// Its name, from the network down.
    pub name: String,
    /// What it is.
    pub kind: LayerKind,
    /// Height and width of the maps that it reads.
    pub input: [usize; 2],
    /// Its window.
    pub window: Window,
    /// `(i + 2p − k) mod s` of height and width: what the last window leaves over.
    pub residual: [usize; 2],
}

impl WindowedLayer {
    /// Whether it commutes with quarter turns and reflections: it leaves nothing over on either axis.
    pub fn is_exact(&self) -> bool {
        self.residual == [0, 0]
    }
}

impl fmt::Display for WindowedLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WindowedLayer { name, input: [height, width], window, residual: [down, across], .. } = self;
        let Window { kernel_size: k, stride, padding } = window;
        write!(f, "{name} ({k}×{k}, stride {stride}, padding {padding}, on {height}×{width}")?;
        match (down, across) {
            (0, 0) => write!(f, ")"),
            (down, across) if down == across => write!(f, ", leaves {down} over)"),
            (down, across) => write!(f, ", leaves {down} and {across} over)"),
        }
    }
}

/// A walk through a network with shapes for values.
#[derive(Debug, Default)]
pub struct Trace {
    path: Path,
    windows: Vec<WindowedLayer>,
    outputs: Vec<(String, Shape)>,
    group_reader: Option<String>,
}

impl Trace {
    /// The shape of the output of `module`, which is called `name` where it stands; as [`crate::Pass::through`].
    ///
    /// # Errors
    /// What [`Module::trace`] reports.
    pub fn through(&mut self, name: &str, module: &dyn Module, x: Shape) -> Result<Shape> {
        if name.is_empty() {
            return module.trace(x, self);
        }
        self.path.enter(name);
        let y = module.trace(x, self)?;
        self.outputs.push((self.path.as_str().into(), y));
        self.path.leave();
        Ok(y)
    }

    /// Notes that the layer's window slides over `x` `[…, H, W]`; the extents of the result.
    ///
    /// # Errors
    /// [`Error::Invalid`] if not one window fits.
    pub fn window(&mut self, kind: LayerKind, x: Shape, window: Window) -> Result<[usize; 2]> {
        let &[.., height, width] = x.dims() else {
            return Err(self.unfit(format!("expected maps […, H, W], got {x:?}")));
        };
        let Window { kernel_size: k, stride, padding } = window;
        let input = [height, width];
        let extents = input.map(|i| window_extent(i, k, stride, padding));
        let ([Some(down), Some(across)], true) = (extents, height > 0 && width > 0) else {
            let noun = kind.noun();
            return Err(self.unfit(format!("a {k}×{k} {noun} does not fit a {height}×{width} map")));
        };
        let residual = input.map(|i| window_residual(i, k, stride, padding).unwrap_or(0));
        self.windows.push(WindowedLayer { name: self.path.as_str().into(), kind, input, window, residual });
        Ok([down, across])
    }

    /// Notes that the layer treats the elements of the group differently, so that what it makes of a turned image is not what
    /// it makes of the upright one.
    pub fn reads_group(&mut self) {
        self.group_reader.get_or_insert_with(|| self.path.as_str().into());
    }

    /// The error of the layer that does not fit.
    pub fn unfit(&self, message: impl fmt::Display) -> Error {
        match self.path.as_str() {
            "" => Error::Invalid(message.to_string()),
            layer => Error::Invalid(format!("{layer}: {message}")),
        }
    }

    /// The windows so far, in order, those of a shortcut after those beside it.
    pub fn windows(&self) -> &[WindowedLayer] {
        &self.windows
    }

    /// As [`Trace::windows`].
    pub fn into_windows(self) -> Vec<WindowedLayer> {
        self.windows
    }

    /// Names and output shapes of all layers and blocks so far, in the order in which [`crate::Network::predict_watched`] tells
    /// of them.
    pub fn outputs(&self) -> &[(String, Shape)] {
        &self.outputs
    }

    /// The first layer that treats the elements of the group differently, if there is one.
    pub fn group_reader(&self) -> Option<&str> {
        self.group_reader.as_deref()
    }
}
