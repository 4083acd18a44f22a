//! Networks that subsample adaptively are exact at every size, on CPU and GPU with `==`; the same networks with plain subsampling
//! are not, and at sizes that suit them both are one.

use quarterturn_core::{Device, Stream, Tensor, testing};
use quarterturn_kernels::{Group, Window, transform_feature_map, transform_plane};
use quarterturn_models::{
    Builder, Exactness, Init, MnistCnn, MnistCnnConfig, Mode, Module, Network, ResNet, ResNetConfig, Sequential, Stem,
    Subsampling, UNetConfig, Verdict, unet,
};

fn images(shape: [usize; 5], device: &Device) -> Tensor {
    let (len, stream) = (shape.iter().product::<usize>() as u64, Stream::new(3, 1, 0));
    Tensor::from_vec(shape, (0..len).map(|i| stream.normal(i) as f32).collect(), device).unwrap()
}

/// Whether `network(T x)` has the same bits as `network(x)`, moved if it is a map, for every element of the group.
fn is_exact(network: &dyn Network, images: &Tensor) -> bool {
    let (group, outputs) = (network.group(), network.predict(images).unwrap());
    let moved = |g| match outputs.dims().len() {
        2 => outputs.clone(),
        4 => transform_plane(&outputs, g),
        _ => transform_feature_map(&outputs, g, group),
    };
    let bits = |t: &Tensor| t.to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    group.elements().all(|g| bits(&network.predict(&transform_plane(images, g)).unwrap()) == bits(&moved(g)))
}

fn check(make: &dyn Fn(Subsampling, &Device) -> Box<dyn Network>, extent: usize, suits_plain: bool) {
    for device in testing::devices() {
        let [plain, adaptive] = [Subsampling::Plain, Subsampling::Adaptive].map(|way| make(way, &device));
        let what = format!("{} on {device} at {extent}", plain.description().name);
        let x = images([2, plain.in_channels(), 1, extent, extent], &device);
        assert!(is_exact(&*adaptive, &x), "{what}");
        assert_eq!(is_exact(&*plain, &x), suits_plain, "{what}, plain");
        let verdict = |network: &dyn Network| Exactness::of(network, [extent; 2]).unwrap().verdict();
        assert_eq!(verdict(&*adaptive), Verdict::Invariant, "{what}");
        assert_eq!(verdict(&*plain) == Verdict::Invariant, suits_plain, "{what}");
        let logits = |network: &dyn Network| network.predict(&x).unwrap().to_vec().unwrap();
        assert!(!suits_plain || logits(&*plain) == logits(&*adaptive), "{what}: where plain is exact, both are one");
    }
}

#[test]
fn p4cnn_is_exact_at_27_28_and_29() {
    for group in [Group::C4, Group::D4] {
        let make = |subsampling, device: &Device| -> Box<dyn Network> {
            let config = MnistCnnConfig { group, width: 2, subsampling, ..MnistCnnConfig::p4cnn() };
            Box::new(MnistCnn::new(config, 1, device).unwrap())
        };
        for extent in [27, 28, 29] {
            check(&make, extent, extent % 2 == 0);
        }
    }
}

#[test]
fn resnets_are_exact_at_even_sizes() {
    let narrow = |config: ResNetConfig| {
        move |subsampling, device: &Device| -> Box<dyn Network> {
            let config =
                ResNetConfig { widths: vec![2; config.widths.len()], classes: 5, subsampling, ..config.clone() };
            Box::new(ResNet::new(config, Init::kaiming(1), device).unwrap())
        }
    };
    let small = |config: ResNetConfig| ResNetConfig { blocks: vec![1; config.blocks.len()], ..config };
    check(&narrow(small(ResNetConfig::resnet44(Group::C4))), 32, false);
    check(&narrow(small(ResNetConfig::resnet44(Group::D4))), 33, true);
    check(&narrow(small(ResNetConfig::resnet18(Group::C4))), 64, false);
    check(&narrow(ResNetConfig { stem: Stem::Small, ..small(ResNetConfig::resnet18(Group::D4)) }), 24, false);
}

/// Down on the grids that the maps choose and up again: a map of the image's size, exact at every size.
#[test]
fn what_goes_down_comes_back_to_its_places() {
    let (halving, keeping) =
        (Window { kernel_size: 3, stride: 2, padding: 1 }, Window { kernel_size: 3, stride: 1, padding: 1 });
    for group in [Group::C4, Group::D4] {
        for device in testing::devices() {
            let builder = Builder::new(group, 1, Init::new(4), &device).conv("first", 2, keeping).relu();
            let down = builder.adaptive_max_pool("down1", halving, Some("1")).conv("middle", 2, keeping).relu();
            let down = down.adaptive_conv("down2", 3, halving, Some("2")).relu();
            let up = down.grid_upsample("up2", "2").conv("fill2", 2, keeping).relu();
            let layers = up.grid_upsample("up1", "1").conv("fill1", 1, keeping).build().unwrap();
            let network = Sequential::new("autoencoder", layers);
            for extent in [9, 10, 11, 12] {
                let x = images([3, 1, 1, extent, extent], &device);
                assert_eq!(network.output_shape(x.shape()).unwrap().dims(), [3, 1, group.order(), extent, extent]);
                assert!(is_exact(&network, &x), "{group} on {device} at {extent}");
                let exactness = Exactness::of(&network, [extent; 2]).unwrap();
                assert_eq!(exactness.verdict(), Verdict::Equivariant);
            }
        }
    }
}

/// The mask of a turned image is the turned mask.
#[test]
fn a_u_net_turns_with_the_image_at_every_size() {
    for group in [Group::C4, Group::D4] {
        for device in testing::devices() {
            let config = UNetConfig { group, in_channels: 2, classes: 3, widths: vec![2, 3, 3] };
            let network = unet(&config, Init::kaiming(1), &device).unwrap();
            for extent in [11, 12, 14] {
                let x = images([2, 2, 1, extent, extent], &device);
                assert_eq!(network.output_shape(x.shape()).unwrap().dims(), [2, 3, extent, extent]);
                let verdict = Exactness::of(&network, [extent; 2]).unwrap().verdict();
                assert_eq!(verdict, Verdict::Equivariant);
                assert!(is_exact(&network, &x), "{group} on {device} at {extent}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_layers_name() {
    let halving = Window { kernel_size: 3, stride: 2, padding: 1 };
    let builder = || Builder::new(Group::C4, 1, Init::new(4), &Device::Cpu);
    let message = |builder: Builder| {
        let network = builder.build().map(|layers| Sequential::new("odd", layers));
        let shape = |network: Sequential| network.output_shape([1, 1, 1, 12, 12].into());
        network.and_then(shape).unwrap_err().to_string()
    };
    let large = Window { stride: 3, ..halving };
    assert_eq!(
        message(builder().adaptive_conv("down", 1, large, None)),
        "down: expected stride 2, not 3: a larger one is made of several steps by 2"
    );
    assert_eq!(message(builder().grid_upsample("up", "1")), "up: no layer before has made the choice '1'");
    let twice = builder().adaptive_conv("a", 1, halving, Some("1")).adaptive_conv("b", 1, halving, Some("1"));
    assert_eq!(message(twice), "b: the choice '1' was made for maps of [12, 12], and not of [6, 6]");
    let pool = builder().adaptive_max_pool("a", halving, Some("1")).grid_upsample("b", "1");
    assert_eq!(
        message(pool.adaptive_max_pool("c", halving, Some("1"))),
        "c: a layer before has made the choice '1'; a pool makes its own"
    );
    let far = builder().adaptive_max_pool("a", halving, Some("1")).adaptive_max_pool("b", halving, None);
    assert_eq!(
        message(far.grid_upsample("c", "1")),
        "c: expected maps of [6, 6], as were sampled of [12, 12], got [1, 1, 1, 3, 3]"
    );
}

/// A training step runs, and reaches every weight.
#[test]
fn gradients_flow_through_the_chosen_grids() {
    let config = MnistCnnConfig { width: 2, subsampling: Subsampling::Adaptive, ..MnistCnnConfig::p4cnn() };
    let mut network = MnistCnn::new(config, 1, &Device::Cpu).unwrap();
    let tape = quarterturn_autograd::Tape::new();
    let x = tape.constant(images([4, 1, 1, 11, 11], &Device::Cpu));
    let logits = network.forward(x, Mode::Train { seed: 1, step: 0 });
    let gradients = logits.mul(&logits).sum().backward().unwrap();
    network.visit(&mut |name, param| {
        if name.ends_with("weight") {
            let gradient = gradients.of(param).unwrap_or_else(|| panic!("{name} has no gradient"));
            assert!(gradient.f32s().iter().any(|&d| d != 0.0), "{name}");
        }
    });
}
