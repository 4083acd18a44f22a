//! Networks taken out: what they are then made of, what is refused, and, where there is a Python with PyTorch and onnxruntime, that
//! they compute the same there.
//!
//! `QUARTERTURN_PYTHON` names such a Python; `REQUIRE_PYTHON=1` makes it a failure that there is none. With
//! `QUARTERTURN_FULL_WIDTH=1` ResNets have the widths of their papers instead of an eighth, which takes minutes.

use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Result, Shape, Stream, Tensor};
use quarterturn_kernels::{
    GELU,
    Group::{self, C1, C4, D4},
    SIGMOID, SILU, SOFTPLUS, TANH, Window,
};
use quarterturn_models::{
    Builder, DenseNetConfig, Init, Interpolation, MnistCnn, MnistCnnConfig, Module, Network, Pass, ResNet,
    ResNetConfig, Sequential, Subsampling, Trace, UNetConfig,
    checkpoint::Notes,
    densenet,
    export::{Op, Plain},
    gc_p4cnn, unet,
};
use std::{collections::HashMap, env, fs, path::Path, process::Command};

mod support;

const KEEPING: Window = Window { kernel_size: 3, stride: 1, padding: 1 };
const HALVING: Window = Window { kernel_size: 3, stride: 2, padding: 1 };

fn builder(group: Group) -> Builder {
    Builder::new(group, 2, Init::kaiming(1), &Device::Cpu)
}

fn headed(name: &str, layers: Builder) -> Sequential {
    Sequential::new(name, layers.spatial_mean().coset_max().linear("linear", 3).build().unwrap())
}

fn names(plain: &Plain) -> Vec<&'static str> {
    plain.steps().iter().map(|step| step.op.name()).collect()
}

#[test]
fn norms_are_folded_where_a_convolution_stands_before_them_alone() {
    let layers = builder(C4).norm("first").conv("conv1", 2, KEEPING).norm("norm1").relu();
    let block = layers.residual("block", |x| x.norm("norm2").relu().conv("conv2", 2, KEEPING), |x| x).norm("last");
    let mut network = headed("net", block);
    support::settle(&mut network);
    let kept = Plain::of(&network, None).unwrap();
    let head = ["mean", "unflatten", "amax", "linear"];
    let body = ["batch_norm", "conv2d", "batch_norm", "relu", "batch_norm", "relu", "conv2d", "add", "batch_norm"];
    assert_eq!(names(&kept), [&body[..], &head].concat());
    let folded = kept.with_norms_folded();
    let body = ["batch_norm", "conv2d", "relu", "batch_norm", "relu", "conv2d", "add", "batch_norm"];
    assert_eq!(names(&folded), [&body[..], &head].concat());
    let add = folded.steps().iter().find(|step| step.op == Op::Sum).unwrap();
    assert_eq!((add.name.as_str(), &add.inputs[..]), ("block", &[6, 3][..]));
}

#[test]
fn what_has_no_plain_form_is_named() {
    struct Own;
    impl Module for Own {
        fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
            x
        }
        fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
            Ok(x)
        }
        fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
    }
    let message = |network: &Sequential, size| Plain::of(network, size).unwrap_err().to_string();
    let own = headed("net", builder(C4).conv("conv", 2, KEEPING).chain("stage", |x| x.layer("mine", Own)));
    assert_eq!(message(&own, None), "stage.mine: no plain form: this type of layer does not say one (Module::export)");
    let adaptive = headed("net", builder(C4).adaptive_conv("conv", 2, HALVING, None));
    assert_eq!(
        message(&adaptive, None),
        "conv: no plain form: it depends on the size of the images, which was not given"
    );
    assert!(Plain::of(&adaptive, Some([8, 8])).unwrap().only_size() == Some([8, 8]));
    let pooled = headed("net", builder(C4).max_pool("pool", HALVING));
    assert_eq!(message(&pooled, Some([0, 8])), "pool: a 3×3 window does not fit a 0×8 map");
    assert_eq!(Plain::of(&pooled, Some([8, 8])).unwrap().only_size(), None);
}

/// A network, and the size of the images that it is tried on.
type Case = (Box<dyn Network>, [usize; 2]);

/// Networks that have every layer among them.
fn cases() -> Vec<(String, Case)> {
    let mut cases: Vec<(String, Case)> = Vec::new();
    let part = if env::var_os("QUARTERTURN_FULL_WIDTH").is_some() { 1 } else { 8 };
    let narrow = |config: ResNetConfig| ResNetConfig {
        widths: config.widths.iter().map(|w| w.div_ceil(part)).collect(),
        ..config
    };
    let mut case = |name: String, mut network: Box<dyn Network>, size: [usize; 2]| {
        support::settle(&mut *network);
        cases.push((name, (network, size)));
    };
    for (name, config) in
        [("z2cnn", MnistCnnConfig::z2cnn()), ("p4cnn", MnistCnnConfig::p4cnn()), ("p4mcnn", MnistCnnConfig::p4mcnn())]
    {
        case(name.into(), Box::new(MnistCnn::new(config, 1, &Device::Cpu).unwrap()), [28, 28]);
    }
    for (name, config, extent) in [
        ("resnet18", narrow(ResNetConfig::resnet18(C4)), 65),
        ("resnet44", narrow(ResNetConfig::resnet44(C4)), 33),
        ("resnet44-p4m", narrow(ResNetConfig::resnet44(D4)), 33),
        (
            "resnet18-adaptive",
            ResNetConfig { subsampling: Subsampling::Adaptive, ..narrow(ResNetConfig::resnet18(C4)) },
            64,
        ),
    ] {
        let network = ResNet::new(config, Init::kaiming(1), &Device::Cpu).unwrap();
        case(name.into(), Box::new(network), [extent; 2]);
    }
    for (group, size) in [(C4, [24, 24]), (D4, [17, 22]), (C1, [16, 16])] {
        let config = UNetConfig { group, in_channels: 1, classes: 3, widths: vec![4, 6, 8] };
        case(format!("unet-{group}"), Box::new(unet(&config, Init::kaiming(1), &Device::Cpu).unwrap()), size);
    }
    let config = DenseNetConfig { growth: 2, layers: vec![2, 1, 1], ..DenseNetConfig::pcam(D4) };
    case("densenet".into(), Box::new(densenet(&config, Init::kaiming(1), &Device::Cpu).unwrap()), [38, 38]);
    let gc = gc_p4cnn(&MnistCnnConfig::p4cnn(), Init::kaiming(1), &Device::Cpu).unwrap();
    case("gc_p4cnn".into(), Box::new(gc), [28, 28]);
    let functions = [&SILU, &GELU, &SIGMOID, &TANH, &SOFTPLUS].into_iter();
    let layers = builder(C4).conv("lift", 4, KEEPING).norm("norm");
    let layers = functions
        .enumerate()
        .fold(layers, |x, (i, function)| x.activation(function).conv(&format!("conv{i}"), 4, KEEPING));
    case("functions".into(), Box::new(headed("functions", layers)), [9, 12]);
    let pool = Window { kernel_size: 2, stride: 2, padding: 0 };
    let layers = builder(D4).adaptive_avg_pool("avg", HALVING, Some("a")).conv("conv", 3, KEEPING);
    let layers = layers.grid_upsample("up", "a").adaptive_conv("even", 3, pool, None);
    case("adaptive".into(), Box::new(headed("adaptive", layers)), [15, 18]);
    let layers = builder(C4).conv("conv", 3, KEEPING).spatial_max().coset_mean().linear("linear", 2);
    case("maximum".into(), Box::new(Sequential::new("maximum", layers.build().unwrap())), [9, 9]);
    let layers = builder(C4).transposed_conv("lift", 3, HALVING, 1).norm("norm").relu();
    let layers = layers.resize("resize", 7, Interpolation::Nearest).upsample("up", 2);
    case("group-axis".into(), Box::new(Sequential::new("group-axis", layers.build().unwrap())), [6, 9]);
    for number in 0..40 {
        let (network, extent) = support::network(number);
        case(format!("random-{number}"), Box::new(network), [extent; 2]);
    }
    cases
}

/// Images, and among them one that is blank, if wanted.
fn images(channels: usize, [height, width]: [usize; 2], blank: bool) -> Tensor {
    let (stream, len) = (Stream::new(5, 0, 0), (channels * height * width) as u64);
    let value = |i: u64| if i < 2 * len || !blank { stream.normal(i) as f32 } else { 0.0 };
    Tensor::from_vec([3, channels, 1, height, width], (0..3 * len).map(value).collect(), &Device::Cpu).unwrap()
}

/// The networks in `folder`: each plain, as ONNX, and images with what the network makes of them.
fn write_cases(folder: &Path) {
    for (name, (network, size)) in cases() {
        let plain = Plain::of(&*network, Some(size)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let path = |kind: &str| folder.join(format!("{name}.{kind}"));
        let notes = Notes::from([("model".to_string(), name.clone())]);
        plain.save(path("kept.safetensors"), &notes).unwrap();
        let plain = plain.with_norms_folded();
        plain.save(path("plain.safetensors"), &notes).unwrap();
        #[cfg(feature = "onnx")]
        plain.save_onnx(path("onnx"), &notes).unwrap();
        // A blank image has no grid that is better than another; here all count alike, elsewhere rounding takes one of them.
        let images = images(network.in_channels(), size, plain.only_size().is_none());
        let result = network.predict(&images).unwrap();
        let dims = images.dims();
        let images = images.reshape([dims[0], dims[1], dims[3], dims[4]]);
        let bytes = |tensor: &Tensor| tensor.f32s().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let (image_bytes, result_bytes) = (bytes(&images), bytes(&result));
        let view = |tensor: &Tensor, bytes| {
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, tensor.dims().to_vec(), bytes).unwrap()
        };
        let tensors = [("images", view(&images, &image_bytes)), ("result", view(&result, &result_bytes))];
        let group = HashMap::from([("group".to_string(), network.group().to_string())]);
        safetensors::serialize_to_file(tensors, Some(group), &path("case.safetensors")).unwrap();
    }
}

const NO_PYTHON: &str = "QUARTERTURN_PYTHON names no Python with numpy, safetensors, onnx and onnxruntime";

/// onnxruntime, and PyTorch by `plain.py` where there is one, make the same of the same images, to 1e-5 of the largest.
#[test]
fn other_programs_compute_the_same() {
    let Some(python) = env::var_os("QUARTERTURN_PYTHON") else {
        let required = env::var_os("REQUIRE_PYTHON").is_some();
        assert!(!required, "{NO_PYTHON}");
        eprintln!("LEFT OUT: {NO_PYTHON}");
        return;
    };
    let folder = env::temp_dir().join(format!("quarterturn-export-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    write_cases(&folder);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/export/compare.py");
    let output = Command::new(python).arg(script).arg(&folder).output().expect("QUARTERTURN_PYTHON runs");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::remove_dir_all(&folder).unwrap();
}
