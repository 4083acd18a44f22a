//! Architectures that are functions from settings to a description: their shapes, where they are exact, with `==`, and that a file
//! brings them back.

use quarterturn_core::{Device, Stream, Tensor, testing};
use quarterturn_kernels::{Group, transform_plane};
use quarterturn_models::{
    Checkpoint, DenseNetConfig, Description, Exactness, Init, MnistCnnConfig, Network, Sequential, Verdict, checkpoint,
    densenet, gc_p4cnn,
};

#[allow(dead_code, reason = "random networks are tried by others")]
mod support;

fn images([channels, size]: [usize; 2], device: &Device) -> Tensor {
    let (stream, shape) = (Stream::new(3, 0, 0), [2, channels, 1, size, size]);
    let values = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i) as f32).collect();
    Tensor::from_vec(shape, values, device).unwrap()
}

/// The checker says of `sizes` which are exact, every element of the group leaves every bit there and not elsewhere, on every device, and
/// the file of the network makes it again.
fn is_exact_at(mut network: Sequential, sizes: &[(usize, bool)]) {
    support::settle(&mut network);
    let Description { name, group, .. } = network.description();
    let file = std::env::temp_dir().join(format!("quarterturn-zoo-{}-{name}-{group}", std::process::id()));
    for device in testing::devices() {
        network.to_device(&device).unwrap();
        checkpoint::save(&file, &network).unwrap();
        let loaded = Checkpoint::read(&file).unwrap().network(&device).unwrap();
        assert_eq!(loaded.description(), network.description());
        for &(size, exact) in sizes {
            let images = images([network.in_channels(), size], &device);
            let bits = |network: &dyn Network, g| {
                let logits = network.predict(&transform_plane(&images, g)).unwrap().to_vec().unwrap();
                logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
            };
            let upright = bits(&network, 0);
            assert_eq!(bits(&*loaded, 0), upright);
            let (first, second) = upright.split_at(upright.len() / 2);
            assert_ne!(first, second, "nothing died in a ReLU");
            let verdict = Exactness::of(&network, [size, size]).unwrap().verdict();
            assert_eq!(verdict, if exact { Verdict::Invariant } else { Verdict::Inexact }, "{size}");
            let holds = network.group().elements().all(|g| bits(&network, g) == upright);
            assert_eq!(holds, exact, "{name} on {group} at {size}, {device}");
        }
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn the_densenet_for_96_pixels_is_exact_there() {
    for group in [Group::C4, Group::D4] {
        let config = DenseNetConfig { growth: 2, ..DenseNetConfig::pcam(group) };
        let network = densenet(&config, Init::kaiming(1), &Device::Cpu).unwrap();
        is_exact_at(network, &[(96, true), (97, false)]);
    }
    let pcam = |group| densenet(&DenseNetConfig::pcam(group), Init::kaiming(1), &Device::Cpu).unwrap();
    let counts = Group::ALL.map(|group| pcam(group).parameters());
    assert!(counts.iter().all(|&count| (90_000..160_000).contains(&count)), "{counts:?}");
    let shapes = Exactness::of(&pcam(Group::C4), [96, 96]).unwrap();
    let pools: Vec<usize> = shapes.layers.iter().filter(|layer| layer.window.stride == 2).map(|l| l.input[0]).collect();
    assert_eq!(pools, [92, 44, 20, 8]);
    // Smaller images leave nothing within a margin.
    let error = pcam(Group::C4).output_shape([1, 3, 1, 60, 60].into()).unwrap_err().to_string();
    assert!(error.contains("block5.layer1"), "{error}");
    let none = DenseNetConfig { layers: vec![], ..DenseNetConfig::pcam(Group::C4) };
    assert!(densenet(&none, Init::new(1), &Device::Cpu).is_err());
}

#[test]
fn a_separable_p4cnn_is_exact_where_p4cnn_is() {
    for config in [MnistCnnConfig::p4cnn(), MnistCnnConfig::p4mcnn()] {
        let network = gc_p4cnn(&config, Init::kaiming(1), &Device::Cpu).unwrap();
        is_exact_at(network, &[(28, true), (27, false)]);
    }
    let network = gc_p4cnn(&MnistCnnConfig::p4cnn(), Init::kaiming(1), &Device::Cpu).unwrap();
    assert_eq!(network.parameters(), 3_379);
    let none = MnistCnnConfig { width: 0, ..MnistCnnConfig::p4cnn() };
    assert!(gc_p4cnn(&none, Init::new(1), &Device::Cpu).is_err());
}
