//! The table of a network's layers.

use quarterturn_core::Device;
use quarterturn_kernels::{Group, Window};
use quarterturn_models::{
    Builder, Init, MnistCnn, MnistCnnConfig, Network, ResNet, ResNetConfig, Sequential, Standing, Summary, UNetConfig,
    unet,
};

#[test]
fn rows_are_the_layers_with_their_work() {
    let halving = Window { kernel_size: 3, stride: 2, padding: 1 };
    let keeping = Window { stride: 1, ..halving };
    let layers = Builder::new(Group::C4, 3, Init::new(1), &Device::Cpu)
        .conv("conv1", 8, halving)
        .norm("norm1")
        .relu()
        .residual("block", |x| x.conv("conv2", 8, keeping).norm("norm2"), |x| x)
        .relu()
        .spatial_mean()
        .coset_max()
        .linear("linear", 10)
        .build()
        .unwrap();
    let summary = Summary::of(&Sequential::new("small", layers), [32, 32]).unwrap();
    let expected = [
        // 3·3·3·8 values and 8 biases; 16×16 places, 3·8 pairs of channels, 9 taps of 4 elements; 3 orbits of taps, 6 products each
        ("conv1", "conv", "[1, 8, 4, 16, 16]", 224, 16 * 16 * 24 * 36, 16 * 16 * 24 * 18, Standing::LeavesOver),
        ("norm1", "norm", "[1, 8, 4, 16, 16]", 16, 0, 0, Standing::Exact),
        // 64 pairs of channels, 9 taps of 16 pairs of elements; 6 products a tap
        ("block.conv2", "conv", "[1, 8, 4, 16, 16]", 2312, 256 * 64 * 144, 256 * 64 * 54, Standing::Exact),
        ("block.norm2", "norm", "[1, 8, 4, 16, 16]", 16, 0, 0, Standing::Exact),
        ("block", "sum", "[1, 8, 4, 16, 16]", 0, 0, 0, Standing::Exact),
        ("mean", "spatial_mean", "[1, 8, 4]", 0, 0, 0, Standing::Exact),
        ("coset", "coset_max", "[1, 8]", 0, 0, 0, Standing::Exact),
        ("linear", "linear", "[1, 10]", 90, 80, 80, Standing::Exact),
    ];
    assert_eq!(summary.layers.len(), expected.len());
    for (layer, (name, kind, output, parameters, dense, computed, standing)) in summary.layers.iter().zip(expected) {
        assert_eq!((layer.name.as_str(), layer.kind.as_str()), (name, kind));
        assert_eq!((format!("{:?}", layer.output), layer.parameters), (output.into(), parameters), "{name}");
        assert_eq!((layer.multiply_adds.dense, layer.multiply_adds.computed), (dense, computed), "{name}");
        assert_eq!((layer.bytes, layer.standing), (4 * layer.output.len(), standing), "{name}");
    }
    let text = summary.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 8 + 1 + 1);
    let cells =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(String::from).collect();
    let conv1: Vec<String> = cells(lines[1]);
    assert_eq!(
        conv1,
        ["conv1", "conv", "3×3 s2 p1", "8×4×16×16", "224", "110,592", "221,184", "32.0 KiB", "1 left over"]
    );
    let all: Vec<String> = cells(lines[9]);
    assert_eq!(all, ["in all", "2,658", "995,408", "2,580,560", "160.2 KiB", "inexact"]);
    assert!(lines[10].starts_with("small on p4 is inexact at 32: conv1"), "{text}");
}

/// Nothing is left out, and nothing counted twice.
#[test]
fn sums_are_those_of_the_network() {
    let network = |config| Box::new(MnistCnn::new(config, 1, &Device::Cpu).unwrap()) as Box<dyn Network>;
    let resnet = |group| Box::new(ResNet::new(ResNetConfig::resnet44_pcam(group), Init::new(1), &Device::Cpu).unwrap());
    let config = UNetConfig { group: Group::D4, in_channels: 3, classes: 2, widths: vec![2, 3, 4] };
    let networks: [(Box<dyn Network>, f64); 5] = [
        (network(MnistCnnConfig::z2cnn()), 1.0),
        (network(MnistCnnConfig::p4cnn()), 16.0 / 6.0),
        (network(MnistCnnConfig::p4mcnn()), 64.0 / 12.0),
        (resnet(Group::C4), 16.0 / 6.0),
        (Box::new(unet(&config, Init::new(1), &Device::Cpu).unwrap()), 64.0 / 12.0),
    ];
    for (network, ratio) in networks {
        let summary = Summary::of(&*network, [33, 33]).unwrap();
        assert_eq!(summary.parameters(), network.parameters());
        let work = summary.multiply_adds();
        let found = work.dense as f64 / work.computed as f64;
        assert!((0.94 * ratio..=ratio).contains(&found), "{found}, expected nearly {ratio}");
    }
}
