//! A walk through a network with shapes in place of tensors. It collects output shapes, windows, and each layer's
//! symmetry.

use crate::{
    LayerSummary, Module, Standing,
    nn::{CHAIN, OWN, Path},
};
use quarterturn_core::{Error, Result, Shape, dilated_extent, window_extent, window_residual};
use quarterturn_kernels::{Cosets, Group, Window};
use std::{collections::BTreeMap, fmt};

/// Whether a layer commutes with the group: whether `layer(T x) = T′ layer(x)`, to the last bit, for every element T
/// (turn or flip) of the group. T′ is what T does to the output. It moves the pixels of a map `[…, H, W]`, and it
/// exchanges the planes of a group axis `[N, C, G, …]`. `[N, C]` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Symmetry {
    /// It commutes at every size.
    Commutes,
    /// It commutes at sizes where its windows, reported by [`Trace::window`], reach the last row and column.
    Windowed,
    /// It commutes at no size, for this reason, such as `it adds a ramp`.
    Breaks(String),
    /// Not known.
    Unknown,
}

/// What kind of layer a window belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// An ordinary convolution.
    Conv,
    /// A lifting convolution: from an image to a map on the group.
    LiftConv,
    /// A convolution from a map on the group to one.
    GroupConv,
    /// A separable convolution, plain, lifting or on the group.
    SeparableConv,
    /// Max pooling.
    MaxPool,
    /// Average pooling.
    AvgPool,
    /// BlurPool.
    BlurPool,
}

impl LayerKind {
    /// The name in tables.
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

/// A layer with a window, and the size of its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowedLayer {
    /// Its name, from the network down.
    pub name: String,
    /// The type of layer.
    pub kind: LayerKind,
    /// Height and width of its input.
    pub input: [usize; 2],
    /// Its window.
    pub window: Window,
    /// Dilation; 1 for none.
    pub dilation: usize,
    /// `(i + 2p − d(k − 1) − 1) mod s` of height and width: how many rows and columns at the end no window reaches.
    pub residual: [usize; 2],
}

impl WindowedLayer {
    /// Whether it commutes with quarter turns and reflections: both residuals are 0.
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

/// A layer that breaks the symmetry at every size, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakingLayer {
    /// Its name, from the network down.
    pub name: String,
    /// The reason, as its [`Module::symmetry`] gives it.
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

/// A walk through a network with shapes in place of tensors: see [`Module::trace`].
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
    /// Multiplications of the layers so far.
    work: u64,
    /// What a summary says of each layer, if there is to be one.
    pub(super) rows: Option<Vec<LayerSummary>>,
}

impl Trace {
    /// A new walk through a network on `group`.
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
            work: 0,
            rows: None,
        }
    }

    /// How many multiplications the layers take that it has come through.
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// The same walk, with a summary of each layer.
    pub(super) fn with_summary(self) -> Self {
        Trace { rows: Some(Vec::new()), ..self }
    }

    /// The output shape of `module`, a layer within a block, called `name`. This is the counterpart of
    /// [`crate::Pass::through`]. It also records the symmetry of the module.
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
        self.work += module.multiply_adds(x, y).computed;
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

    /// What the group axis of the present feature map stands for, and with it the present group.
    pub fn axis(&self) -> Cosets {
        self.axis
    }

    /// Records that the present feature map has another group axis, because a layer has restricted it or pooled over a
    /// part of the group. (Lifting, and pooling over the whole group, are recognised by the shapes.)
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

    /// Records the window of the present layer on the input `x` `[…, H, W]`. Returns height and width of the output.
    ///
    /// # Errors
    /// [`Error::Invalid`] if not one window fits.
    pub fn window(&mut self, kind: LayerKind, x: Shape, window: Window) -> Result<[usize; 2]> {
        self.dilated_window(kind, x, window, 1)
    }

    /// As [`Trace::window`], for a dilated window.
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

    /// Records that the present layer subsamples a map of height and width `dense` adaptively, on a grid that it shares
    /// under this name; see [`crate::AdaptiveConv`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the choice `name` was made for another height and width.
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

    /// Height and width of the maps that the choice `name` is for; `None` before a layer has chosen.
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

    /// An error with this message that names the present layer.
    pub fn unfit(&self, message: impl fmt::Display) -> Error {
        match self.path.as_str() {
            "" => Error::Invalid(message.to_string()),
            layer => Error::Invalid(format!("{layer}: {message}")),
        }
    }

    /// The windows so far, in order. Those of a shortcut come after those of the branch.
    pub fn windows(&self) -> &[WindowedLayer] {
        &self.windows
    }

    /// Names and output shapes of all layers and blocks so far, in the order in which
    /// [`crate::Network::predict_watched`] reports them.
    pub fn outputs(&self) -> &[(String, Shape)] {
        &self.outputs
    }

    /// What the group axis of each of [`Trace::outputs`] stands for.
    pub fn axes(&self) -> &[Cosets] {
        &self.axes
    }

    /// The layers so far that break the symmetry at every size.
    pub fn breaking(&self) -> &[BreakingLayer] {
        &self.breaking
    }

    /// The layers so far of which it is not known whether they commute.
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
