//! Every layer and every network commutes with every element of its group where (i + 2p − k) mod s = 0, and does not
//! where a window leaves something over. On CPU and GPU with `==`.

use quarterturn_autograd::Tape;
use quarterturn_core::{Device, Shape, Stream, Tensor, testing};
use quarterturn_kernels::{
    Conv,
    Group::{self, C4, D4},
    Window, transform_feature_map, transform_plane,
};
use quarterturn_models::{BatchNorm, GroupConv, Init, MnistCnn, MnistCnnConfig, Mode, Module, Network, SubsamplingNet};

/// All devices, with the error relative to the largest value that each may make: none, but for the reference, which is
/// the plain formula and sums in another order for each element of the group. WGSL allows a driver to reorder sums too;
/// one that does so fails here.
fn devices() -> Vec<(Device, f64)> {
    let tolerance = |device: &Device| match device {
        Device::Cpu => 0.0,
        Device::Reference => 1e-12,
        #[cfg(feature = "gpu")]
        Device::Gpu(_) => 0.0,
    };
    let mut devices = testing::devices();
    devices.push(Device::Reference);
    devices.into_iter().map(|device| (device.clone(), tolerance(&device))).collect()
}

fn random(shape: impl Into<Shape>, stream: u32, device: &Device) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(17, stream, 0));
    Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), device).unwrap()
}

/// Gives every parameter a random value; variances are positive.
fn randomise(module: &mut dyn Module) {
    let mut stream = 100;
    module.visit(&mut |name, param| {
        let value = random(param.value().shape(), stream, &Device::Cpu);
        let scaled: Vec<f32> = match name.rsplit('.').next() {
            Some("running_var") => value.f32s().iter().map(|v| 0.5 + v * v).collect(),
            _ if name.contains("norm") => value.f32s().to_vec(),
            _ => value.f32s().iter().map(|v| 0.3 * v).collect(),
        };
        let device = param.value().device();
        param.set(Tensor::from_vec(value.shape(), scaled, &device).unwrap());
        stream += 1;
    });
}

fn eval(module: &dyn Module, x: &Tensor) -> Tensor {
    module.forward(Tape::evaluation().constant(x.clone()), Mode::Eval).value().clone()
}

/// `T_g` on an input: a feature map on the group, or on Z² before lifting.
fn act(x: &Tensor, g: usize, group: Group) -> Tensor {
    if x.dims()[2] == group.order() { transform_feature_map(x, g, group) } else { transform_plane(x, g) }
}

/// Largest difference relative to the largest value.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f64().unwrap(), b.to_f64().unwrap());
    let largest = b.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "nothing to compare");
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}

/// `layer(T_g x) = T_g layer(x)` for all g.
fn commutes(what: &str, layer: impl Fn(&Tensor) -> Tensor, x: &Tensor, group: Group, tolerance: f64) {
    let y = layer(x);
    for g in group.elements() {
        let error = difference(&layer(&act(x, g, group)), &act(&y, g, group));
        assert!(error <= tolerance, "{what} on {}, {group} element {g}: error {error:e}", x.device());
    }
}

/// `layer(T_g x)` differs from `T_g layer(x)` by more than a hundredth for some g.
fn breaks(what: &str, layer: impl Fn(&Tensor) -> Tensor, x: &Tensor, group: Group) {
    let y = layer(x);
    let worst = group.elements().map(|g| difference(&layer(&act(x, g, group)), &act(&y, g, group)));
    let worst = worst.fold(0.0, f64::max);
    assert!(worst > 0.01, "{what} on {}: error {worst:e} though a window leaves something over", x.device());
}

#[test]
fn convolutions_commute_where_windows_leave_nothing_over() {
    for (device, tolerance) in devices() {
        for group in [C4, D4] {
            for (k, stride, padding, size, exact) in [
                (1, 1, 0, 5, true),
                (2, 1, 0, 6, true),
                (3, 1, 0, 7, true),
                (3, 1, 1, 8, true),
                (4, 1, 1, 7, true),
                (5, 1, 2, 9, true),
                (7, 2, 3, 11, true),
                (3, 2, 1, 9, true),
                (2, 2, 0, 8, true),
                (1, 2, 0, 9, true),
                (3, 2, 1, 8, false),
                (2, 2, 0, 9, false),
                (1, 2, 0, 8, false),
                (3, 3, 0, 10, false),
            ] {
                let conv = Conv { stride, padding, ..Conv::new(group) };
                let mut init = Init::new(3);
                let lifting = GroupConv::lifting(2, 5, k, conv, &mut init, &device).unwrap();
                let on_group = GroupConv::new(3, 5, k, conv, &mut init, &device).unwrap();
                let cases = [
                    ("lifting", lifting, random([2, 2, 1, size, size], 1, &device)),
                    ("group", on_group, random([2, 3, group.order(), size, size], 2, &device)),
                ];
                for (kind, layer, x) in cases {
                    let what = format!("{kind} convolution, k {k} s {stride} p {padding} at {size}");
                    match exact {
                        true => commutes(&what, |x| eval(&layer, x), &x, group, tolerance),
                        false => breaks(&what, |x| eval(&layer, x), &x, group),
                    }
                }
            }
        }
    }
}

/// A rectangle turned by 90° swaps its extents; both axes must be exact on their own.
#[test]
fn convolutions_commute_on_rectangles() {
    for (device, tolerance) in devices() {
        for group in [C4, D4] {
            let conv = Conv { stride: 2, padding: 1, ..Conv::new(group) };
            let layer = GroupConv::new(3, 4, 3, conv, &mut Init::new(3), &device).unwrap();
            let map = |height, width| random([2, 3, group.order(), height, width], 2, &device);
            commutes("a rectangular map", |x| eval(&layer, x), &map(9, 13), group, tolerance);
            breaks("an inexact width", |x| eval(&layer, x), &map(9, 12), group);
        }
    }
}

#[test]
fn pools_commute_where_windows_leave_nothing_over() {
    for (device, tolerance) in devices() {
        for group in [C4, D4] {
            for (kernel_size, stride, padding, size, exact) in
                [(2, 2, 0, 8, true), (3, 2, 1, 9, true), (3, 1, 1, 6, true), (2, 2, 0, 7, false), (3, 2, 1, 8, false)]
            {
                let window = Window { kernel_size, stride, padding };
                let x = random([2, 3, group.order(), size, size], 4, &device);
                let max = |x: &Tensor| Tape::evaluation().constant(x.clone()).max_pool(window).value().clone();
                let avg = |x: &Tensor| Tape::evaluation().constant(x.clone()).avg_pool(window).value().clone();
                let what = format!("pooling {window:?} at {size}");
                if exact {
                    commutes(&format!("max {what}"), max, &x, group, tolerance);
                    commutes(&format!("average {what}"), avg, &x, group, tolerance);
                } else {
                    breaks(&format!("max {what}"), max, &x, group);
                    breaks(&format!("average {what}"), avg, &x, group);
                }
            }
        }
    }
}

#[test]
fn norms_and_means_commute() {
    for (device, tolerance) in devices() {
        for group in [C4, D4] {
            for (height, width) in [(6, 6), (7, 7), (4, 9)] {
                let x = random([2, 3, group.order(), height, width], 5, &device);
                let mut norm = BatchNorm::new(3, &device).unwrap().with_dropout(0.3, 1);
                randomise(&mut norm);
                commutes("batch norm", |x| eval(&norm, x), &x, group, tolerance);
                // [N, C, G] is a map of one sample.
                let mean = |x: &Tensor| {
                    let mean = Tape::evaluation().constant(x.clone()).spatial_mean().value().clone();
                    mean.reshape([2, 3, group.order(), 1, 1])
                };
                commutes("spatial mean", mean, &x, group, tolerance);
                // [N, C, H, W] is a map on Z².
                let coset = |mean: bool| {
                    move |x: &Tensor| {
                        let tape = Tape::evaluation();
                        let x = tape.constant(x.clone());
                        let y = if mean { x.coset_mean() } else { x.coset_max() }.value().clone();
                        let &[n, c, h, w] = y.dims() else { panic!("coset pooling of a map: {y:?}") };
                        y.reshape([n, c, 1, h, w])
                    }
                };
                commutes("coset max", coset(false), &x, group, tolerance);
                commutes("coset mean", coset(true), &x, group, tolerance);
            }
        }
    }
}

/// Logits of all turned (and mirrored) images are those of the upright one, to the last bit.
#[test]
fn logits_are_invariant_at_28_and_not_at_27_and_29() {
    for (device, tolerance) in devices() {
        for config in [MnistCnnConfig::p4cnn(), MnistCnnConfig { width: 4, ..MnistCnnConfig::p4mcnn() }] {
            let mut network = MnistCnn::new(config, 1, &device).unwrap();
            randomise(&mut network);
            for (size, exact) in [(28, true), (27, false), (29, false)] {
                // The reference is slow; one image is enough there.
                let n = if matches!(device, Device::Reference) { 1 } else { 3 };
                let x = random([n, 1, 1, size, size], 6, &device);
                let y = network.predict(&x).unwrap();
                let errors = config.group.elements().map(|g| {
                    let turned = network.predict(&transform_plane(&x, g)).unwrap();
                    difference(&turned, &y)
                });
                let worst = errors.fold(0.0, f64::max);
                let what = format!("{} at {size} on {device}: error {worst:e}", config.group);
                assert!(if exact { worst <= tolerance } else { worst > 1e-3 }, "{what}");
            }
        }
    }
}

#[test]
fn the_plain_network_is_not_invariant() {
    let mut network = MnistCnn::new(MnistCnnConfig::z2cnn(), 1, &Device::Cpu).unwrap();
    randomise(&mut network);
    let x = random([2, 1, 1, 28, 28], 6, &Device::Cpu);
    let turned = network.predict(&transform_plane(&x, 1)).unwrap();
    assert!(difference(&turned, &network.predict(&x).unwrap()) > 0.01);
}

#[test]
fn the_subsampling_net_is_invariant_at_33_and_not_at_32() {
    for (device, tolerance) in devices() {
        let network = SubsamplingNet::new(1, &device).unwrap();
        for (size, exact) in [(33, true), (32, false)] {
            let x = random([1, 1, 1, size, size], 7, &device);
            let y = network.predict(&x).unwrap();
            let errors = C4.elements().map(|g| difference(&network.predict(&transform_plane(&x, g)).unwrap(), &y));
            let worst = errors.fold(0.0, f64::max);
            assert!(if exact { worst <= tolerance } else { worst > 1e-4 }, "at {size} on {device}: {worst:e}");
        }
    }
}
