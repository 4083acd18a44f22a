//! A network's geometry: what its layers make of shapes, and what each of them says of its symmetry on the way.

use crate::{
    LayerSummary, Module, Standing,
    nn::{CHAIN, OWN, Path},
};
use quarterturn_core::{Error, Result, Shape, dilated_extent, window_extent, window_residual};
use quarterturn_kernels::{Cosets, Group, Window};
use std::{collections::BTreeMap, fmt};

/// What a layer says of itself: whether `layer(T x) = T′ layer(x)`, to the last bit, for every element T of the group. T′ is
/// what T does to the output, by its axes: it moves the places of a map `[…, H, W]`, and the entries of a group axis
/// `[N, C, G, …]` of as many entries as the group has elements; `[N, C]` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symmetry {
    /// It does, whatever the size.
    Commutes,
    /// It does where its windows, of which it tells [`Trace::window`], leave nothing over.
    Windowed,
    /// It never does, for this reason: `it adds a ramp`.
    Breaks(String),
    /// It does not say.
    Unknown,
}

/// What kind of layer a window belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// A plain convolution, Z² → Z².
    Conv,
    /// A lifting convolution, Z² → G.
    LiftConv,
    /// A convolution on the group, G → G.
    GroupConv,
    /// A separable convolution, plain, lifting or on the group.
    SeparableConv,
    /// Max pooling.
    MaxPool,
    /// Average pooling.
    AvgPool,
    /// Pooling by binomial weights.
    BlurPool,
}

impl LayerKind {
    /// The field's name.
    pub const fn name(self) -> &'static str {
        match self {
            LayerKind::Conv => "conv",
            LayerKind::LiftConv => "lift_conv",
            LayerKind::GroupConv => "group_conv",
            LayerKind::SeparableConv => "separable_conv",
            LayerKind::MaxPool => "max_pool",
            LayerKind::AvgPool => "avg_pool",
            LayerKind::BlurPool => "blur_pool",
        }
    }

    /// What slides: the word for an error.
    const fn noun(self) -> &'static str {
        match self {
            LayerKind::MaxPool | LayerKind::AvgPool | LayerKind::BlurPool => "window",
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
    /// Distance between the window's taps; 1 if they lie side by side.
    pub dilation: usize,
    /// `(i + 2p − d(k − 1) − 1) mod s` of height and width: what the last window leaves over.
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
        let WindowedLayer { name, input: [height, width], window, dilation, residual: [down, across], .. } = self;
        let Window { kernel_size: k, stride, padding } = window;
        write!(f, "{name} ({k}×{k}, stride {stride}, padding {padding}, ")?;
        if *dilation != 1 {
            write!(f, "dilation {dilation}, ")?;
        }
        write!(f, "on {height}×{width}")?;
        match (down, across) {
            (0, 0) => write!(f, ")"),
            (down, across) if down == across => write!(f, ", leaves {down} over)"),
            (down, across) => write!(f, ", leaves {down} and {across} over)"),
        }
    }
}

/// A layer that commutes at no size, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakingLayer {
    /// Its name, from the network down.
    pub name: String,
    /// What it says of itself.
    pub reason: String,
}

impl fmt::Display for BreakingLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// The most samples of a map of one channel (1 GiB) that padding has made more than [`MOST_PADDED`] times as many of.
const LARGEST_PLANE: usize = 1 << 28;
const MOST_PADDED: usize = 9;

/// A walk through a network with shapes for values.
#[derive(Debug)]
pub struct Trace {
    axis: Cosets,
    path: Path,
    pub(super) windows: Vec<WindowedLayer>,
    pub(super) breaking: Vec<BreakingLayer>,
    pub(super) unknown: Vec<String>,
    outputs: Vec<(String, Shape)>,
    /// What the group axes of `outputs` stand for.
    axes: Vec<Cosets>,
    /// Choices that adaptive layers share, and the extents of the maps that they are made for.
    grids: BTreeMap<String, [usize; 2]>,
    lone_norm: Option<String>,
    /// What a summary says of each layer, if there is to be one.
    pub(super) rows: Option<Vec<LayerSummary>>,
}

impl Trace {
    /// A walk through a network on `group`.
    pub fn new(group: Group) -> Self {
        let path = Path::default();
        Trace {
            axis: Cosets::one(group),
            path,
            windows: vec![],
            breaking: vec![],
            unknown: vec![],
            outputs: vec![],
            axes: vec![],
            grids: BTreeMap::new(),
            lone_norm: None,
            rows: None,
        }
    }

    /// The same walk, with a summary of each layer.
    pub(super) fn with_summary(self) -> Self {
        Trace { rows: Some(Vec::new()), ..self }
    }

    /// The shape of the output of `module`, a layer inside of another that is called `name`; the counterpart of
    /// [`crate::Pass::through`]. Notes what the module says of its symmetry.
    ///
    /// # Errors
    /// What [`Module::trace`] reports.
    pub fn through(&mut self, name: &str, module: &dyn Module, x: Shape) -> Result<Shape> {
        self.through_kind(name, OWN, module, x)
    }

    /// As [`Trace::through`], of a layer that descriptions call `kind`.
    pub(crate) fn through_kind(&mut self, name: &str, kind: &str, module: &dyn Module, x: Shape) -> Result<Shape> {
        if name.is_empty() {
            return self.summed(kind, module, x);
        }
        self.path.enter(name);
        let y = self.summed(kind, module, x)?;
        self.outputs.push((self.path.as_str().into(), y));
        self.axes.push(self.axis);
        self.path.leave();
        Ok(y)
    }

    /// As [`Trace::through_kind`], of a layer of whose output [`crate::Pass`] does not tell.
    pub(crate) fn through_untold(&mut self, name: &str, kind: &str, module: &dyn Module, x: Shape) -> Result<Shape> {
        self.path.enter(name);
        let y = self.summed(kind, module, x)?;
        self.path.leave();
        Ok(y)
    }

    /// As [`Trace::judged`], with a row of the summary, if there is to be one.
    fn summed(&mut self, kind: &str, module: &dyn Module, x: Shape) -> Result<Shape> {
        let (windows, breaking, unknown) = (self.windows.len(), self.breaking.len(), self.unknown.len());
        let inner = self.rows.as_ref().map(Vec::len);
        let y = self.judged(module, x)?;
        let Some(rows) = &mut self.rows else { return Ok(y) };
        // What a chain is, its layers say.
        if kind == CHAIN {
            return Ok(y);
        }
        let is_leaf = inner == Some(rows.len());
        let standing = match is_leaf {
            true if self.breaking.len() > breaking => Standing::Breaks,
            true if self.unknown.len() > unknown => Standing::Unknown,
            true if self.windows[windows..].iter().any(|window| !window.is_exact()) => Standing::LeavesOver,
            _ => Standing::Exact,
        };
        let window = self.windows.get(windows).filter(|_| is_leaf).cloned();
        rows.push(LayerSummary::of(self.path.as_str(), kind, module, [x, y], is_leaf, window, standing));
        Ok(y)
    }

    fn judged(&mut self, module: &dyn Module, x: Shape) -> Result<Shape> {
        let windows = self.windows.len();
        // The module's own word comes before that of the layers in it, so that the first to be named is the outer one.
        let said = module.symmetry(x, self.axis);
        match &said {
            Symmetry::Breaks(reason) => {
                self.breaking.push(BreakingLayer { name: self.layer().into(), reason: reason.clone() });
            }
            Symmetry::Unknown => self.unknown.push(self.layer().into()),
            Symmetry::Commutes | Symmetry::Windowed => {}
        }
        let y = module.trace(x, self)?;
        self.axis = seen(self.axis, y);
        // What it says depends on windows that nobody was told of.
        if said == Symmetry::Windowed && self.windows.len() == windows {
            self.unknown.push(self.layer().into());
        }
        Ok(y)
    }

    /// What the group axis of the present value stands for, and with it the group that its layers keep to.
    pub fn axis(&self) -> Cosets {
        self.axis
    }

    /// Notes that the present value has another group axis: a layer has restricted it, or pooled over a part of the group. (That a layer
    /// lifts to the group, or pools over the whole of it, is seen by the shapes.)
    pub fn set_axis(&mut self, axis: Cosets) {
        self.axis = axis;
    }

    /// The name of the present layer, for people.
    fn layer(&self) -> &str {
        match self.path.as_str() {
            "" => "a layer without a name",
            path => path,
        }
    }

    /// Notes that the layer's window slides over `x` `[…, H, W]`; the extents of the result.
    ///
    /// # Errors
    /// [`Error::Invalid`] if not one window fits.
    pub fn window(&mut self, kind: LayerKind, x: Shape, window: Window) -> Result<[usize; 2]> {
        self.dilated_window(kind, x, window, 1)
    }

    /// As [`Trace::window`], of a window whose taps are `dilation` apart.
    ///
    /// # Errors
    /// As [`Trace::window`].
    pub fn dilated_window(&mut self, kind: LayerKind, x: Shape, window: Window, dilation: usize) -> Result<[usize; 2]> {
        let (&[_, _, height, width] | &[_, _, _, height, width]) = x.dims() else {
            return Err(self.unfit(format!("expected maps [N, C, G, H, W] or [N, C, H, W], got {x:?}")));
        };
        let Window { kernel_size: k, stride, padding } = window;
        let input = [height, width];
        self.expect_room(input, padding)?;
        let reach = dilated_extent(k, dilation).unwrap_or(0);
        let extents = input.map(|i| window_extent(i, reach, stride, padding));
        let ([Some(down), Some(across)], true) = (extents, height > 0 && width > 0) else {
            let noun = kind.noun();
            let dilated = if dilation == 1 { String::new() } else { format!(" of dilation {dilation}") };
            return Err(self.unfit(format!("a {k}×{k} {noun}{dilated} does not fit a {height}×{width} map")));
        };
        let residual = input.map(|i| window_residual(i, reach, stride, padding).unwrap_or(0));
        let name = self.path.as_str().into();
        self.windows.push(WindowedLayer { name, kind, input, window, dilation, residual });
        Ok([down, across])
    }

    /// Refuses a padding that makes maps of these extents so large that nobody can have meant it: a few words of a description
    /// could take all memory.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub(crate) fn expect_room(&self, [height, width]: [usize; 2], padding: usize) -> Result<()> {
        let padded = |i: usize| padding.checked_mul(2)?.checked_add(i);
        let plane = padded(height).zip(padded(width)).and_then(|(height, width)| height.checked_mul(width));
        match plane {
            Some(plane) if plane <= LARGEST_PLANE.max(height.saturating_mul(width).saturating_mul(MOST_PADDED)) => {
                Ok(())
            }
            _ => Err(self.unfit(format!("a {height}×{width} map with a padding of {padding} is too large"))),
        }
    }

    /// Notes that the layer samples a map of these extents by 2 on a grid which it shares with others under this name, if it does;
    /// see [`crate::AdaptiveConv`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the choice `name` is one for other extents.
    pub fn grid(&mut self, name: Option<&str>, dense: [usize; 2]) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        match self.grids.get(name) {
            Some(&made) if made != dense => {
                Err(self.unfit(format!("the choice '{name}' was made for maps of {made:?}, and not of {dense:?}")))
            }
            _ => {
                self.grids.insert(name.into(), dense);
                Ok(())
            }
        }
    }

    /// The extents of the maps that the choice `name` is for, once a layer has made it.
    pub fn grid_of(&self, name: &str) -> Option<[usize; 2]> {
        self.grids.get(name).copied()
    }

    /// Notes that the layer, in training, takes statistics of each channel of `x` `[N, C, …]`.
    pub(crate) fn statistics(&mut self, x: Shape) {
        if x.len() == x.dims()[1] {
            self.lone_norm.get_or_insert_with(|| self.path.as_str().into());
        }
    }

    /// The first layer that has a single value to take the statistics of, if there is one.
    pub(crate) fn lone_norm(&self) -> Option<&str> {
        self.lone_norm.as_deref()
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

    /// Names and output shapes of all layers and blocks so far, in the order in which [`crate::Network::predict_watched`] tells
    /// of them.
    pub fn outputs(&self) -> &[(String, Shape)] {
        &self.outputs
    }

    /// What the group axes of [`Trace::outputs`] stand for.
    pub fn axes(&self) -> &[Cosets] {
        &self.axes
    }

    /// The layers so far that commute at no size.
    pub fn breaking(&self) -> &[BreakingLayer] {
        &self.breaking
    }

    /// The layers so far that do not say whether they commute.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

/// What the group axis of `y` stands for, that comes of a value whose axis stood for `axis`: by its extent.
fn seen(axis: Cosets, y: Shape) -> Cosets {
    let extent = match *y.dims() {
        [_, _, extent] | [_, _, extent, _, _] => extent,
        _ => 1,
    };
    match extent {
        _ if extent == axis.order() => axis,
        1 => Cosets::one(axis.group()),
        _ if extent == axis.group().order() => Cosets::elements(axis.group()),
        _ => axis,
    }
}
