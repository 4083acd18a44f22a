//! A test of a GPU adapter: whether equivariance to the last bit holds on it.
//!
//! WGSL lets a driver reorder additions and fuse them with products. The shaders leave little room for that: a
//! convolution's terms are chained by `fma`, sums over orbits and cosets have no product inside, and factors beside
//! sums are powers of two. But no rule forbids a driver to change more, so this module tests it.

use crate::{
    Conv, GivenNorm, Group, Window, adaptive_avg_pool, adaptive_max_pool, avg_pool, blur_pool, choose_grid,
    choose_grid_of_windows, coset_max, coset_mean, depthwise_conv, group_conv, group_conv_norm, max_pool,
    move_onto_grid, relu, resize, resize_nearest, spatial_mean, subsample, transform_feature_map, transform_plane,
    transposed_group_conv, upsample,
};
use quarterturn_core::{Device, Result, Shape, Stream, Tensor, gpu::Gpu};
use std::{fmt, sync::Arc};

/// The result for one layer: whether `f(T x) == T′ f(x)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerExactness {
    /// The layer, its group and its sizes, in words.
    pub layer: String,
    /// Largest `|f(T x) − T′ f(x)|` over all elements T of the group: 0 if every bit is right. NaN if a result is.
    pub difference: f32,
}

/// The outcome of [`bit_exactness`].
#[derive(Clone, Debug, PartialEq)]
pub struct BitExactness {
    /// The adapter that was tested.
    pub adapter: String,
    /// Every layer, at sizes where it should be exact.
    pub layers: Vec<LayerExactness>,
    /// Layers at sizes where they cannot be exact. There the comparison must find a difference; otherwise the test is
    /// worthless.
    pub controls: Vec<LayerExactness>,
}

impl BitExactness {
    /// Whether every layer was exact and every control was not.
    pub fn is_exact(&self) -> bool {
        let finds = |layer: &LayerExactness| layer.difference > 1e-3;
        self.inexact().next().is_none() && !self.controls.is_empty() && self.controls.iter().all(finds)
    }

    /// The layers that were not exact.
    pub fn inexact(&self) -> impl Iterator<Item = &LayerExactness> {
        self.layers.iter().filter(|layer| layer.difference != 0.0)
    }
}

/// One line: the verdict and, if it is no, the worst layer.
impl fmt::Display for BitExactness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (adapter, all) = (&self.adapter, self.layers.len());
        if self.is_exact() {
            return write!(f, "{adapter}: equivariant to the last bit ({all} of {all} layers, every element)");
        }
        let beyond = |layer: &LayerExactness| if layer.difference.is_nan() { f32::INFINITY } else { layer.difference };
        match self.inexact().max_by(|a, b| beyond(a).total_cmp(&beyond(b))) {
            Some(worst) => write!(
                f,
                "{adapter}: NOT equivariant to the last bit in {} of {all} layers, worst {}: differs by {:e}",
                self.inexact().count(),
                worst.layer,
                worst.difference
            ),
            None => write!(f, "{adapter}: equivariance could not be judged: where it must fail, nothing differs"),
        }
    }
}

/// Runs small layers on an input and on all its turned and mirrored forms, and compares with `==`. The layers are
/// convolutions of all kinds on p4 and p4m (lifting, group, transposed, depthwise, with strides, dilations and a norm),
/// pools, adaptive subsampling and means. The first call on a [`Gpu`] compiles some thirty kernels and runs each once;
/// later calls return the same result.
///
/// # Errors
/// Whatever the GPU reports.
pub fn bit_exactness(gpu: &Gpu) -> Result<Arc<BitExactness>> {
    gpu.remember(|| {
        let device = Device::Gpu(gpu.clone());
        let judge = |layer: &Layer| layer.judge(&device);
        let layers = layers(0).iter().map(judge).collect::<Result<_>>()?;
        let controls = controls().iter().map(judge).collect::<Result<_>>()?;
        Ok(BitExactness { adapter: gpu.to_string(), layers, controls })
    })
}

/// As [`bit_exactness`], without blocking (for browsers).
///
/// # Errors
/// Whatever the GPU reports.
pub async fn bit_exactness_async(gpu: &Gpu) -> Result<Arc<BitExactness>> {
    if let Some(known) = gpu.remembered() {
        return Ok(known);
    }
    let device = Device::Gpu(gpu.clone());
    let mut judged = [Vec::new(), Vec::new()];
    for (layers, judged) in [layers(0), controls()].iter().zip(&mut judged) {
        for layer in layers {
            let results = layer.results(&device)?;
            judged.push(layer.compare(results.dims(), &results.to_vec_async().await?)?);
        }
    }
    let [layers, controls] = judged;
    gpu.remember(|| Ok(BitExactness { adapter: gpu.to_string(), layers, controls }))
}

/// How the group acts.
#[derive(Clone, Copy)]
enum Acts {
    /// On the two last axes.
    OnPlanes,
    /// On those and the group axis.
    OnMaps,
}

impl Acts {
    fn apply(self, x: &Tensor, g: usize, group: Group) -> Tensor {
        match self {
            Acts::OnPlanes => transform_plane(x, g),
            Acts::OnMaps => transform_feature_map(x, g, group),
        }
    }
}

type Run = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// A layer, the input that it is tried on, and how the group acts before and behind it.
struct Layer {
    name: String,
    group: Group,
    before: Acts,
    behind: Acts,
    /// Channels, group axis and extent of the input.
    input: [usize; 3],
    run: Run,
}

impl Layer {
    fn judge(&self, device: &Device) -> Result<LayerExactness> {
        let results = self.results(device)?;
        self.compare(results.dims(), &results.to_vec()?)
    }

    /// What it makes of an input and all its transforms, which are one batch, and so lie in different places of the tiles.
    fn results(&self, device: &Device) -> Result<Tensor> {
        let [channels, axis, extent] = self.input;
        let one = Shape::from([1, channels, axis, extent, extent]);
        let x = random(one, 1, &Device::Cpu)?;
        let inputs = self.group.elements().map(|g| self.before.apply(&x, g, self.group).to_vec());
        let inputs = inputs.collect::<Result<Vec<_>>>()?.concat();
        let inputs = Tensor::from_vec([self.group.order(), channels, axis, extent, extent], inputs, device)?;
        (self.run)(&inputs)
    }

    /// How far its results, of these `dims`, are from transforms of the first of them.
    fn compare(&self, dims: &[usize], results: &[f32]) -> Result<LayerExactness> {
        let mut dims = dims.to_vec();
        dims[0] = 1;
        let results: Vec<&[f32]> = results.chunks(results.len() / self.group.order()).collect();
        let upright = Tensor::from_vec(&dims[..], results[0].to_vec(), &Device::Cpu)?;
        let mut difference = 0f32;
        for (g, got) in self.group.elements().zip(&results) {
            let expected = self.behind.apply(&upright, g, self.group);
            for (&got, expected) in got.iter().zip(expected.to_vec()?) {
                let apart = (got - expected).abs();
                difference = if apart > difference || apart.is_nan() { apart } else { difference };
            }
        }
        Ok(LayerExactness { layer: self.name.clone(), difference })
    }
}

fn random(shape: Shape, stream: u32, device: &Device) -> Result<Tensor> {
    let stream = Stream::new(1, stream, 0);
    Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), device)
}

/// A convolution without a bias; with `norm`, behind it a norm and a ReLU.
fn conv(group: Group, lift: bool, c_in: usize, c_out: usize, extent: usize, k: usize, conv: Conv, norm: bool) -> Layer {
    let axis = if lift { 1 } else { group.order() };
    let kind = if lift { "lift_conv" } else { "group_conv" };
    let after = if norm { " norm" } else { "" };
    let Conv { stride, padding, dilation, .. } = conv;
    let run = move |x: &Tensor| {
        let device = x.device();
        let vector = |stream| random(Shape::from([c_out]), stream, &device);
        let weight = random(Shape::from([c_out, c_in, axis, k, k]), 2, &device)?;
        if !norm {
            return Ok(group_conv(x, &weight, None, conv));
        }
        let (gamma, beta, mean, var) = (vector(3)?, vector(4)?, vector(5)?, Tensor::full([c_out], 1.7, &device)?);
        let norm = GivenNorm { weight: &gamma, bias: &beta, mean: &mean, var: &var, eps: 1e-5, relu: true };
        Ok(group_conv_norm(x, &weight, None, conv, norm))
    };
    Layer {
        name: format!("{kind} {group} {c_in}→{c_out} k{k} s{stride} p{padding} d{dilation} at {extent}{after}"),
        group,
        before: if lift { Acts::OnPlanes } else { Acts::OnMaps },
        behind: Acts::OnMaps,
        input: [c_in, axis, extent],
        run: Box::new(run),
    }
}

/// A convolution of another kind, by `run(x, weight)` with a weight of these extents.
fn kindred(
    name: &str,
    group: Group,
    [channels, axis, extent]: [usize; 3],
    weight: [usize; 5],
    run: impl Fn(&Tensor, &Tensor) -> Tensor + 'static,
) -> Layer {
    Layer {
        name: format!("{name} {group} from {axis} at {extent}"),
        group,
        before: if axis == 1 { Acts::OnPlanes } else { Acts::OnMaps },
        behind: Acts::OnMaps,
        input: [channels, axis, extent],
        run: Box::new(move |x| Ok(run(x, &random(weight.into(), 2, &x.device())?))),
    }
}

/// An operation without weights on a map of `group`.
fn plain(name: &str, group: Group, behind: Acts, extent: usize, run: fn(&Tensor) -> Tensor) -> Layer {
    Layer {
        name: format!("{name} {group} at {extent}"),
        group,
        before: Acts::OnMaps,
        behind,
        input: [3, group.order(), extent],
        run: Box::new(move |x| Ok(run(x))),
    }
}

const POOL: Window = Window { kernel_size: 2, stride: 2, padding: 0 };

const BLUR: Window = Window { kernel_size: 5, stride: 2, padding: 2 };

/// Layers that are exact at `extra` = 0 and not at 1, which is a row and column of the input or an output padding.
fn layers_with_stride(extra: usize) -> Vec<Layer> {
    let mut layers = Vec::new();
    for group in [Group::C4, Group::D4] {
        let strided = Conv { stride: 2, padding: 1, ..Conv::new(group) };
        layers.push(conv(group, false, 3, 4, 9 + extra, 3, strided, false));
        layers.push(conv(group, true, 2, 3, 8 + extra, 4, strided, false));
        let apart = Conv { stride: 2, padding: 2, dilation: 2, group };
        layers.push(conv(group, false, 3, 4, 9 + extra, 3, apart, false));
        // So far apart that a workgroup cannot hold what the windows reach.
        let far = Conv { stride: 2, padding: 9, dilation: 9, group };
        layers.push(conv(group, false, 2, 3, 21 + extra, 3, far, false));
        let order = group.order();
        layers.push(kindred("depthwise_conv", group, [3, order, 9 + extra], [3, 1, 1, 3, 3], move |x, w| {
            depthwise_conv(x, w, strided)
        }));
        for axis in [1, order] {
            layers.push(kindred("transposed_group_conv", group, [2, axis, 5], [2, 3, axis, 3, 3], move |x, w| {
                transposed_group_conv(x, w, None, strided, extra)
            }));
        }
        layers.push(plain("max_pool", group, Acts::OnMaps, 8 + extra, |x| max_pool(x, POOL)));
    }
    layers.push(plain("avg_pool", Group::C4, Acts::OnMaps, 8 + extra, |x| avg_pool(x, POOL)));
    layers.push(plain("blur_pool", Group::D4, Acts::OnMaps, 9 + extra, |x| blur_pool(x, BLUR)));
    layers
}

/// One more row and column than the strides can use.
fn controls() -> Vec<Layer> {
    layers_with_stride(1)
}

/// Every layer. Channels choose tiles: of four vectors and of five, in one row and in several, with a rest and without.
fn layers(extra: usize) -> Vec<Layer> {
    let mut layers = layers_with_stride(extra);
    for (group, widths) in
        [(Group::C4, [(3, 4), (10, 10), (9, 33), (16, 17)]), (Group::D4, [(3, 4), (7, 7), (9, 17), (16, 16)])]
    {
        let same = Conv { padding: 1, ..Conv::new(group) };
        for (c_in, c_out) in widths {
            layers.push(conv(group, false, c_in, c_out, 7, 3, same, false));
        }
        layers.push(conv(group, false, 4, 5, 6, 3, same, true));
        layers.push(conv(group, true, 1, 10, 8, 3, same, false));
        layers.push(plain("relu", group, Acts::OnMaps, 5, relu));
        layers.push(plain("resize", group, Acts::OnMaps, 17, |x| resize(x, 33, 33)));
        layers.push(plain("resize_nearest", group, Acts::OnMaps, 6, |x| resize_nearest(x, 10, 10)));
        // Where the plain windows leave one over.
        layers.push(plain("adaptive_max_pool", group, Acts::OnMaps, 9, |x| adaptive_max_pool(x, POOL).0));
        layers.push(plain("adaptive_avg_pool", group, Acts::OnMaps, 9, |x| adaptive_avg_pool(x, POOL).0));
        layers.push(plain("move_onto_grid", group, Acts::OnMaps, 8, |x| {
            let window = Window { kernel_size: 3, stride: 2, padding: 1 };
            move_onto_grid(x, &choose_grid_of_windows(x, window), window).0
        }));
        layers.push(plain("subsample, upsample", group, Acts::OnMaps, 8, |x| {
            let choice = choose_grid(x);
            upsample(&subsample(x, &choice), &choice)
        }));
        layers.push(plain("coset_max", group, Acts::OnPlanes, 5, coset_max));
        layers.push(plain("coset_mean", group, Acts::OnPlanes, 5, coset_mean));
        layers.push(plain("spatial_mean", group, Acts::OnMaps, 7, |x| {
            let [n, c, g, ..] = *x.dims() else { unreachable!("a map has five axes") };
            spatial_mean(x).reshape([n, c, g, 1, 1])
        }));
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::testing;

    /// The library's promise, on the adapter at hand.
    #[test]
    fn the_adapter_is_exact_and_asked_once() {
        let Some(gpu) = testing::gpu() else { return };
        let report = pollster::block_on(bit_exactness_async(&gpu)).unwrap();
        assert!(report.is_exact(), "{report}: {report:#?}");
        assert!(report.layers.len() >= 20 && report.to_string().contains("equivariant to the last bit"), "{report}");
        assert!(Arc::ptr_eq(&report, &bit_exactness(&gpu).unwrap()));
        assert!(Arc::ptr_eq(&report, &pollster::block_on(bit_exactness_async(&gpu)).unwrap()));
        for (layers, awaited) in [(layers(0), &report.layers), (controls(), &report.controls)] {
            let blocking = layers.iter().map(|layer| layer.judge(&Device::Gpu(gpu.clone())).unwrap());
            assert!(blocking.eq(awaited.iter().cloned()), "{awaited:#?}");
        }
    }

    /// What the CPU promises is judged by the same comparison.
    #[test]
    fn the_cpu_is_exact_where_nothing_is_left_over_and_nowhere_else() {
        for layer in layers(0) {
            assert_eq!(layer.judge(&Device::Cpu).unwrap().difference, 0.0, "{}", layer.name);
        }
        for layer in controls() {
            assert!(layer.judge(&Device::Cpu).unwrap().difference > 1e-3, "{}", layer.name);
        }
    }

    /// A convolution over all taps in one order, as other libraries make it, is near, and not exact.
    #[test]
    fn the_plain_sum_is_found_out() {
        let mut layer = conv(Group::C4, false, 3, 4, 7, 3, Conv { padding: 1, ..Conv::new(Group::C4) }, false);
        layer.run = Box::new(|x| {
            let [n, c, g, h, w] = *x.dims() else { unreachable!("a map has five axes") };
            let weight = random(Shape::from([4, 3, 4, 3, 3]), 2, &x.device())?;
            let dense = crate::filter_orbit(&weight, Group::C4).reshape([16, c * g, 1, 3, 3]);
            let plain = Conv { padding: 1, ..Conv::new(Group::C1) };
            Ok(group_conv(&x.reshape([n, c * g, 1, h, w]), &dense, None, plain).reshape([n, 4, g, h, w]))
        });
        for device in testing::devices() {
            let difference = layer.judge(&device).unwrap().difference;
            assert!(difference > 0.0 && difference < 1e-4, "{device}: {difference:e}");
        }
    }

    #[test]
    fn a_verdict_names_the_worst_layer() {
        let layer = |layer: &str, difference| LayerExactness { layer: layer.into(), difference };
        let mut report = BitExactness {
            adapter: "a card".into(),
            layers: vec![layer("fine", 0.0), layer("off", 1e-7), layer("worse", 1e-6)],
            controls: vec![layer("control", 1.0)],
        };
        assert!(!report.is_exact());
        let expected = "a card: NOT equivariant to the last bit in 2 of 3 layers, worst worse: differs by 1e-6";
        assert_eq!(report.to_string(), expected);
        report.layers.truncate(1);
        assert_eq!(report.to_string(), "a card: equivariant to the last bit (1 of 1 layers, every element)");
        report.layers[0].difference = f32::NAN;
        assert!(!report.is_exact());
        report.layers[0].difference = 0.0;
        report.controls[0].difference = 0.0;
        assert!(!report.is_exact() && report.to_string().contains("could not be judged"));
    }
}
