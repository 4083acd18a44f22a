//! Layers that subsample by 2 on a grid which the feature map itself chooses, so that they are exact at every size; and
//! the layer that undoes it in a U-Net.
//!
//! Several layers can share one choice, by its name. The first of them in a forward pass chooses, the others use the
//! same grid. This is needed in two cases: the branch and the shortcut of a residual block must keep the same pixels,
//! and a U-Net must put samples back at the pixels that they came from. A name stands for one choice in the whole
//! network. For the rule see [`quarterturn_kernels::choose_grid`].

use crate::{
    GroupConv, Layer, Module, MultiplyAdds, Node, Pass, Site, Symmetry, Trace,
    export::{Grid, Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape, window_extent};
use quarterturn_kernels::{Cosets, Window, grid_score_bits};

/// A convolution of stride 2 on the grid that its input chooses.
#[derive(Debug)]
pub struct AdaptiveConv {
    conv: GroupConv,
    grid: Option<String>,
}

/// Max pooling (`MAX`) or average pooling of stride 2, on the grid that the pooled values choose.
#[derive(Clone, Debug)]
pub struct AdaptivePool<const MAX: bool> {
    window: Window,
    grid: Option<String>,
}

/// Max pooling of stride 2 on the grid that the maxima choose.
pub type AdaptiveMaxPool = AdaptivePool<true>;

/// Average pooling of stride 2 on the grid that the means choose.
pub type AdaptiveAvgPool = AdaptivePool<false>;

/// Upsampling by 2: puts the samples on the grid that an earlier layer has chosen, with zeros elsewhere:
/// `[…, ⌈n/2⌉, ⌈m/2⌉]` → `[…, n, m]`. A convolution after it fills the gaps.
#[derive(Clone, Debug)]
pub struct GridUpsample {
    grid: String,
}

/// The setting that names a shared choice.
const GRID: &str = "grid";

/// The name of a shared choice, if the node has one.
fn shared_grid(node: &Node) -> Result<Option<String>> {
    let named = node.settings.iter().any(|(name, _)| name == GRID);
    named.then(|| node.setting(GRID)).transpose()
}

/// The window of a layer that subsamples by 2.
fn halving_window(node: &Node, site: &Site<'_>) -> Result<Window> {
    let window = node.window()?;
    match window.stride {
        2 => Ok(window),
        stride => {
            Err(site.unfit(format!("expected stride 2, not {stride}: a larger one is made of several steps by 2")))
        }
    }
}

/// Extents of the map that the windows make of `x` with stride 1, which is then sampled by 2.
fn dense_extents(x: Shape, window: Window, trace: &Trace) -> Result<[usize; 2]> {
    let &[.., height, width] = x.dims() else {
        return Err(trace.unfit(format!("expected maps […, H, W], got {x:?}")));
    };
    let Window { kernel_size: k, padding, .. } = window;
    trace.expect_room([height, width], padding)?;
    match [height, width].map(|i| window_extent(i, k, 1, padding)) {
        [Some(n), Some(m)] if height > 0 && width > 0 => Ok([n, m]),
        _ => Err(trace.unfit(format!("a {k}×{k} window does not fit a {height}×{width} map"))),
    }
}

/// The shape with these last extents, halved.
fn halved(x: Shape, dense: [usize; 2]) -> Shape {
    let leading = &x.dims()[..x.rank() - 2];
    Shape::new(&[leading, &dense.map(|n| n.div_ceil(2))].concat())
}

/// Extents of the map that the windows would make with stride 1.
fn export_dense(x: Value, window: Window, plain: &mut Plain) -> Result<[usize; 2]> {
    let Window { kernel_size: k, padding, .. } = window;
    match plain.extents(x)?.map(|i| window_extent(i, k, 1, padding)) {
        [Some(n), Some(m)] => Ok([n, m]),
        _ => Err(plain.refused("its window does not fit")),
    }
}

/// As [`quarterturn_kernels::choose_grid_of_windows`].
fn export_choice_of_windows(x: Value, window: Window, plain: &mut Plain) -> Result<Grid> {
    let extents = export_dense(x, window, plain)?;
    let inset = (window.kernel_size as isize - 1) / 2 - window.padding as isize;
    let means = Window { kernel_size: 2, stride: 1, padding: 0 };
    let is_open = extents.iter().any(|n| n % 2 == 0);
    // An even window has its centre between samples.
    let scored = match window.kernel_size % 2 {
        0 if is_open => {
            let made = plain.windowed(x, means, 1);
            plain.push_as("means", Op::AvgPool(means), &[x], made)
        }
        _ => x,
    };
    Ok(export_choice(scored, inset, extents, plain))
}

/// As [`quarterturn_kernels::choose_grid`]; nothing is chosen where both extents are odd.
fn export_choice(z: Value, inset: isize, extents: [usize; 2], plain: &mut Plain) -> Grid {
    let weights = extents.iter().any(|n| n % 2 == 0).then(|| {
        let [bits, spare] = grid_score_bits(extents, z.joined());
        let made = Value { channels: 4, elements: 1, is_map: false, extents: None, index: 0 };
        plain.push_as("grid", Op::ChooseGrid { inset, extents, bits, spare }, &[z], made)
    });
    Grid { weights, extents }
}

impl Layer for AdaptiveConv {
    const KIND: &'static str = "adaptive_conv";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        let grid = shared_grid(node)?;
        halving_window(node, site)?;
        node.knows_only(&["out_channels", "kernel_size", "stride", "padding", "bias", GRID])?;
        let mut conv = node.clone();
        conv.settings.retain(|(name, _)| name != GRID);
        Ok(AdaptiveConv { conv: GroupConv::make(&conv, site)?, grid })
    }
}

impl Module for AdaptiveConv {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let window = self.conv.window();
        let choice = pass.grid(self.grid.as_deref(), || x.choose_grid_of_windows(window));
        let (moved, on_grid) = x.move_onto_grid(&choice, window);
        drop(x);
        self.conv.apply_with(moved, on_grid)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let window = self.conv.window();
        let y = Shape::from(self.conv.trace_at_every_place(x, trace)?);
        let dense = dense_extents(x, window, trace)?;
        trace.grid(self.grid.as_deref(), dense)?;
        Ok(halved(y, dense))
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let (window, name) = (self.conv.window(), self.grid.as_deref());
        let grid = match plain.grid(name) {
            Some(grid) => grid,
            None => export_choice_of_windows(x, window, plain)?,
        };
        plain.leave_grid(name, grid);
        let Some(weights) = grid.weights else { return self.conv.export_with(x, window, plain) };
        let Window { kernel_size, padding: before, .. } = window;
        let extents = grid.extents.map(|n| 2 * (n.div_ceil(2) - 1) + kernel_size);
        let [height, width] = plain.extents(x)?;
        // A grid that begins at 1 reaches one further.
        let behind = [extents[0].saturating_sub(height + before) + 1, extents[1].saturating_sub(width + before) + 1];
        let moved = Value { extents: Some(extents), ..x };
        let moved = plain.push_as("move", Op::MoveOntoGrid { before, behind, extents }, &[x, weights], moved);
        self.conv.export_with(moved, Window { padding: 0, ..window }, plain)
    }

    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        match self.conv.symmetry(x, axis) {
            Symmetry::Windowed => Symmetry::Commutes,
            other => other,
        }
    }

    fn multiply_adds(&self, x: Shape, y: Shape) -> MultiplyAdds {
        self.conv.multiply_adds(x, y)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.conv.visit(f);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        self.conv.read(f);
    }
}

impl<const MAX: bool> Layer for AdaptivePool<MAX> {
    const KIND: &'static str = if MAX { "adaptive_max_pool" } else { "adaptive_avg_pool" };

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["kernel_size", "stride", "padding", GRID])?;
        Ok(AdaptivePool { window: halving_window(node, site)?, grid: shared_grid(node)? })
    }
}

impl<const MAX: bool> Module for AdaptivePool<MAX> {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let (y, choice) = if MAX { x.adaptive_max_pool(self.window) } else { x.adaptive_avg_pool(self.window) };
        pass.leave_grid(self.grid.as_deref(), choice);
        y
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_pool(x, self.window, self.grid.as_deref(), trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let pool = |window| if MAX { Op::MaxPool(window) } else { Op::AvgPool(window) };
        let extents = export_dense(x, self.window, plain)?;
        let halved = Value { extents: Some(extents.map(|n| n.div_ceil(2))), ..x };
        if extents.iter().all(|n| n % 2 == 1) {
            plain.leave_grid(self.grid.as_deref(), Grid { weights: None, extents });
            return Ok(plain.push(pool(self.window), &[x], halved));
        }
        let dense = Value { extents: Some(extents), ..x };
        let dense = plain.push_as("dense", pool(Window { stride: 1, ..self.window }), &[x], dense);
        let grid = export_choice(dense, 0, extents, plain);
        plain.leave_grid(self.grid.as_deref(), grid);
        Ok(match grid.weights {
            Some(weights) => plain.push(Op::Subsample(extents), &[dense, weights], halved),
            None => dense,
        })
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

/// A pool makes a choice of its own, by what it yields, and leaves it to others.
fn trace_pool(x: Shape, window: Window, grid: Option<&str>, trace: &mut Trace) -> Result<Shape> {
    if window.padding >= window.kernel_size {
        return Err(trace.unfit(format!("expected padding below the kernel size, got {window:?}")));
    }
    let dense = dense_extents(x, window, trace)?;
    if let Some(name) = grid
        && trace.grid_of(name).is_some()
    {
        return Err(trace.unfit(format!("a layer before has made the choice '{name}'; a pool makes its own")));
    }
    trace.grid(grid, dense)?;
    Ok(halved(x, dense))
}

impl Layer for GridUpsample {
    const KIND: &'static str = "grid_upsample";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[GRID])?;
        Ok(GridUpsample { grid: node.setting(GRID)? })
    }
}

impl Module for GridUpsample {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let choice = pass.grid(Some(&self.grid), || panic!("{}: no layer before has made this choice", self.grid));
        x.upsample(&choice)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let Some(dense) = trace.grid_of(&self.grid) else {
            return Err(trace.unfit(format!("no layer before has made the choice '{}'", self.grid)));
        };
        let expected = dense.map(|n| n.div_ceil(2));
        match x.dims() {
            [leading @ .., height, width] if [*height, *width] == expected => {
                Ok(Shape::new(&[leading, &dense].concat()))
            }
            _ => Err(trace.unfit(format!("expected maps of {expected:?}, as were sampled of {dense:?}, got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let Some(Grid { weights, extents }) = plain.grid(Some(&self.grid)) else {
            return Err(plain.refused(format_args!("no layer before has made the choice '{}'", self.grid)));
        };
        let inputs: Vec<Value> = [x].into_iter().chain(weights).collect();
        Ok(plain.push(Op::GridUpsample(extents), &inputs, Value { extents: Some(extents), ..x }))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}
