//! Pooling over windows, over all pixels, and over the group.

use crate::{
    Layer, LayerKind, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::{Cosets, Window};

/// Max pooling.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool(pub Window);

/// Average pooling. Zeros of the padding count, as in PyTorch by default.
#[derive(Clone, Copy, Debug)]
pub struct AvgPool(pub Window);

/// Subsampling after a binomial low-pass filter, against aliasing (BlurPool): [`quarterturn_kernels::blur_pool`].
#[derive(Clone, Copy, Debug)]
pub struct BlurPool(Window);

/// The mean over all pixels (global average pooling): `[…, H, W]` → `[…]`.
#[derive(Clone, Copy, Debug)]
pub struct SpatialMean;

/// The maximum over all pixels (global max pooling): `[…, H, W]` → `[…]`. Its gradient is shared equally by all pixels
/// that have the maximum.
#[derive(Clone, Copy, Debug)]
pub struct SpatialMax;

/// The maximum over the group axis: `[N, C, G, …]` → `[N, C, …]` (escnn: `GroupPooling`).
#[derive(Clone, Copy, Debug)]
pub struct CosetMax;

/// The mean over the group axis: `[N, C, G, …]` → `[N, C, …]`.
#[derive(Clone, Copy, Debug)]
pub struct CosetMean;

impl Layer for MaxPool {
    const KIND: &'static str = "max_pool";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["kernel_size", "stride", "padding"])?;
        Ok(MaxPool(node.window()?))
    }
}

impl Layer for AvgPool {
    const KIND: &'static str = "avg_pool";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["kernel_size", "stride", "padding"])?;
        Ok(AvgPool(node.window()?))
    }
}

impl Layer for BlurPool {
    const KIND: &'static str = "blur_pool";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["kernel_size", "stride", "padding"])?;
        match node.window()? {
            window @ Window { kernel_size: 3 | 5, .. } => Ok(BlurPool(window)),
            Window { kernel_size, .. } => {
                Err(site.unfit(format!("expected a binomial filter of kernel_size 3 or 5, not {kernel_size}")))
            }
        }
    }
}

impl Layer for SpatialMean {
    const KIND: &'static str = "spatial_mean";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        Ok(SpatialMean)
    }
}

impl Layer for SpatialMax {
    const KIND: &'static str = "spatial_max";

    fn make(node: &Node, _: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        Ok(SpatialMax)
    }
}

impl Layer for CosetMax {
    const KIND: &'static str = "coset_max";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        site.makes_invariant(site.channels())?;
        Ok(CosetMax)
    }
}

impl Layer for CosetMean {
    const KIND: &'static str = "coset_mean";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        site.makes_invariant(site.channels())?;
        Ok(CosetMean)
    }
}

impl Module for MaxPool {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.max_pool(self.0)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_window(LayerKind::MaxPool, self.0, x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let made = plain.windowed(x, self.0, 1);
        Ok(plain.push(Op::MaxPool(self.0), &[x], made))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Windowed
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl Module for AvgPool {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.avg_pool(self.0)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_window(LayerKind::AvgPool, self.0, x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let made = plain.windowed(x, self.0, 1);
        Ok(plain.push(Op::AvgPool(self.0), &[x], made))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Windowed
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl Module for BlurPool {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.blur_pool(self.0)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_window(LayerKind::BlurPool, self.0, x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let Window { kernel_size, stride, padding } = self.0;
        let binomial: &[f64] = if kernel_size == 3 { &[0.25, 0.5, 0.25] } else { &[0.0625, 0.25, 0.375, 0.25, 0.0625] };
        let filter: Vec<f64> = binomial.iter().flat_map(|u| binomial.iter().map(move |v| u * v)).collect();
        let groups = x.joined();
        let weight = Array { dims: vec![groups, 1, kernel_size, kernel_size], values: filter.repeat(groups) };
        let made = plain.windowed(x, self.0, 1);
        Ok(plain.push(Op::Conv { weight, bias: None, stride, padding, dilation: 1, groups }, &[x], made))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Windowed
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

fn trace_window(kind: LayerKind, window: Window, x: Shape, trace: &mut Trace) -> Result<Shape> {
    if window.padding >= window.kernel_size {
        return Err(trace.unfit(format!("expected padding below the kernel size, got {window:?}")));
    }
    let extents = trace.window(kind, x, window)?;
    let leading = &x.dims()[..x.rank() - 2];
    Ok(Shape::new(&[leading, &extents].concat()))
}

impl Module for SpatialMean {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.spatial_mean()
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_space(x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        Ok(plain.push(Op::Mean(vec![2, 3]), &[x], without_space(x)))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl Module for SpatialMax {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let rank = x.shape().rank();
        x.max_axes(&[rank - 2, rank - 1], false)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_space(x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        Ok(plain.push(Op::Max(vec![2, 3]), &[x], without_space(x)))
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

fn without_space(x: Value) -> Value {
    Value { is_map: false, extents: None, ..x }
}

fn trace_space(x: Shape, trace: &Trace) -> Result<Shape> {
    match x.dims() {
        [leading @ .., height, width] if leading.len() >= 2 && height * width > 0 => Ok(Shape::new(leading)),
        _ => Err(trace.unfit(format!("expected maps [N, C, G, H, W] or [N, C, H, W], got {x:?}"))),
    }
}

impl Module for CosetMax {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.coset_max()
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_coset(x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        Ok(export_coset(x, Op::Max(vec![2]), plain))
    }

    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        coset_symmetry(x, axis)
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

impl Module for CosetMean {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.coset_mean()
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        trace_coset(x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        Ok(export_coset(x, Op::Mean(vec![2]), plain))
    }

    fn symmetry(&self, x: Shape, axis: Cosets) -> Symmetry {
        coset_symmetry(x, axis)
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

/// The joined axis in two, and the pool over the second of them.
fn export_coset(x: Value, pool: Op, plain: &mut Plain) -> Value {
    if x.elements == 1 {
        return x;
    }
    let parted = plain.push(Op::Part { is_map: x.is_map, channels: x.channels, elements: x.elements }, &[x], x);
    plain.push(pool, &[parted], Value { elements: 1, ..x })
}

fn trace_coset(x: Shape, trace: &mut Trace) -> Result<Shape> {
    match x.dims() {
        // [N, C, H, W] has no group axis.
        [n, c, _, rest @ ..] if rest.len() != 1 => Ok(Shape::new(&[&[*n, *c], rest].concat())),
        _ => Err(trace.unfit(format!("expected a map [N, C, G, H, W] or means [N, C, G], got {x:?}"))),
    }
}

fn coset_symmetry(x: Shape, axis: Cosets) -> Symmetry {
    match x.dims() {
        [_, _, elements, ..] if *elements == axis.order() || *elements == 1 => Symmetry::Commutes,
        _ => Symmetry::Breaks(format!("it pools over a group axis of {x:?}, in a network on {}", axis.group())),
    }
}
