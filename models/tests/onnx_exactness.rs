//! The layers of ONNX models, judged: networks of this library are judged as their own description is.
#![cfg(feature = "onnx")]

use quarterturn_core::Device;
use quarterturn_kernels::{Group::C4, Window};
use quarterturn_models::{
    Exactness, Init, JudgedLayer, Judgement, MnistCnn, MnistCnnConfig, Network, OnnxModel, ResNet, ResNetConfig,
    checkpoint::Notes, export::Plain,
};
use std::{env, fs, path::PathBuf};

mod support;

/// The network as an ONNX model.
fn model(network: &dyn Network, size: [usize; 2], name: &str) -> OnnxModel {
    let file: PathBuf = env::temp_dir().join(format!("quarterturn-judged-{name}-{}.onnx", std::process::id()));
    let plain = Plain::of(network, Some(size)).unwrap().with_norms_folded();
    plain.save_onnx(&file, &Notes::new()).unwrap();
    let model = OnnxModel::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    model
}

fn names(layers: &[&JudgedLayer]) -> Vec<String> {
    layers.iter().map(|layer| layer.name.rsplit_once('/').map_or("", |(name, _)| name).to_string()).collect()
}

#[test]
fn exported_networks_are_judged_as_they_are_here() {
    let config = ResNetConfig { widths: vec![1; 4], ..ResNetConfig::resnet18(C4) };
    let resnet = ResNet::new(config, Init::new(1), &Device::Cpu).unwrap();
    let mnist = MnistCnn::new(MnistCnnConfig { width: 1, ..MnistCnnConfig::p4cnn() }, 1, &Device::Cpu).unwrap();
    for (network, sizes) in [(&resnet as &dyn Network, [193, 224, 225]), (&mnist, [27, 28, 29])] {
        let onnx = model(network, [sizes[1]; 2], "known");
        assert_eq!(onnx.declared_size().unwrap(), None);
        for size in sizes {
            let (here, there) = (Exactness::of(network, [size; 2]).unwrap(), onnx.exactness([size; 2]).unwrap());
            let inexact: Vec<&String> =
                here.layers.iter().filter(|layer| !layer.is_exact()).map(|layer| &layer.name).collect();
            assert_eq!(names(&there.inexact().collect::<Vec<_>>()).iter().collect::<Vec<_>>(), inexact, "{size}");
            assert_eq!((there.below, there.above), (here.below, here.above), "{size}");
            assert_eq!((there.is_exact(), there.unknown().count()), (here.is_exact(), 0), "{size}: {there}");
        }
    }
    let at_224 = model(&resnet, [224, 224], "text").exactness([224, 224]).unwrap();
    let text = at_224.to_string();
    assert!(
        text.starts_with(
            "breaks quarter turns at 224, first by stem.conv/Conv (Conv 7×7, stride 2, padding 3, on 224×224): leaves 1 over (and 7 \
             more layers do); no window does at 193 and 225"
        ),
        "{text}"
    );
}

#[test]
fn random_networks_are_judged_as_they_are_here() {
    let (mut exact, mut inexact) = (0, 0);
    for number in 0..150 {
        let (network, extent) = support::network(number);
        let description = network.description().to_string();
        // What chooses its places itself is made of parts that would break turns on their own.
        if description.contains("adaptive") {
            continue;
        }
        let here = Exactness::of(&network, [extent; 2]).unwrap();
        let there = model(&network, [extent; 2], "random").exactness([extent; 2]).unwrap();
        let breaks = here.first_inexact().is_some() || !here.breaking.is_empty();
        assert_eq!(there.is_exact(), !breaks, "at {extent}: {there}\n{here}\n{description}");
        assert_eq!(there.unknown().count(), 0, "{there}\n{description}");
        *(if breaks { &mut inexact } else { &mut exact }) += 1;
    }
    assert!(exact > 20 && inexact > 20, "{exact} {inexact}");
}

#[test]
fn an_adaptive_network_is_not_called_exact() {
    let layers = quarterturn_models::Builder::new(C4, 1, Init::new(1), &Device::Cpu);
    let halving = Window { kernel_size: 3, stride: 2, padding: 1 };
    let layers = layers.adaptive_max_pool("pool", halving, None).spatial_mean().coset_max().build().unwrap();
    let network = quarterturn_models::Sequential::new("net", layers);
    let judged = model(&network, [8, 8], "adaptive").exactness([8, 8]).unwrap();
    assert!(judged.unknown().any(|layer| matches!(layer.judgement, Judgement::Unknown(_))), "{judged}");
}

#[test]
fn what_is_no_model_is_an_error_with_the_files_name() {
    for bytes in [&b""[..], b"PK\x03\x04 no model", b"\x08\x08"] {
        let error = OnnxModel::from_bytes(bytes, "x.onnx").unwrap_err().to_string();
        assert!(error.contains("x.onnx") && error.contains("no ONNX model"), "{error}");
    }
}

#[test]
#[cfg(unix)]
fn what_never_ends_is_not_read() {
    let error = OnnxModel::read("/dev/zero").unwrap_err().to_string();
    assert!(error.contains("/dev/zero") && error.contains("no regular file"), "{error}");
}
