//! One image at a time, as a service or a program on a device asks: `cargo bench --bench predict`.
//!
//! Ids are `predict/{p4cnn,p4mcnn,z2cnn,resnet18_225,resnet44_33}/n1/{cpu,gpu}`: one call of `Network::predict`, and its
//! logits read. Both ResNets are p4's; ResNet-44 has 8, 16 and 32 channels. Criterion gives means of many calls. Single calls
//! are timed after that, for the median and the 99th percentile, which whoever waits for an answer feels.
//!
//! `benches/peers/predict_torch.py` times the same networks in PyTorch and in onnxruntime. It reads ONNX models that this
//! program writes: `QUARTERTURN_ONNX=folder cargo bench --bench predict --features onnx`.

mod support;

use criterion::Criterion;
use quarterturn::{
    core::{Device, Tensor},
    kernels::Group,
    models::{Init, MnistCnn, MnistCnnConfig, Network, ResNet, ResNetConfig, Summary},
};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// How long single calls of a network are timed, and at most how many.
const LATENCY_TIME: Duration = Duration::from_secs(2);
const MOST_CALLS: usize = 10_000;

fn main() {
    #[cfg(feature = "onnx")]
    if let Some(folder) = std::env::var_os("QUARTERTURN_ONNX") {
        return write_onnx(folder.as_ref());
    }
    support::on_every_device(measure_on);
}

fn measure_on(device: &Device, criterion: &mut Criterion) {
    let mut report = support::Report::new(device);
    let mut latencies = Vec::new();
    for (name, extent, network) in networks(device) {
        let image = support::random([1, network.in_channels(), 1, extent, extent], 1, device);
        let id = format!("predict/{name}/n1/{}", support::suffix(device));
        let flops = 2.0 * Summary::of(&*network, [extent; 2]).expect("the image fits").multiply_adds().dense as f64;
        if report.measure(criterion, &id, flops, || answer(&*network, &image)) {
            latencies.push((id, latency(|| answer(&*network, &image))));
        }
    }
    report.print();
    print_latencies(latencies);
}

/// Name, extent of its images, and network.
fn networks(device: &Device) -> Vec<(&'static str, usize, Box<dyn Network>)> {
    let mnist = |config| Box::new(MnistCnn::new(config, 1, device).expect("the paper's settings"));
    let resnet = |config| Box::new(ResNet::new(config, Init::kaiming(1), device).expect("the paper's settings"));
    let narrow44 = ResNetConfig { widths: vec![8, 16, 32], ..ResNetConfig::resnet44(Group::C4) };
    vec![
        ("p4cnn", 28, mnist(MnistCnnConfig::p4cnn())),
        ("p4mcnn", 28, mnist(MnistCnnConfig::p4mcnn())),
        ("z2cnn", 28, mnist(MnistCnnConfig::z2cnn())),
        ("resnet18_225", 225, resnet(ResNetConfig::resnet18(Group::C4))),
        ("resnet44_33", 33, resnet(narrow44)),
    ]
}

fn answer(network: &dyn Network, image: &Tensor) {
    let logits = network.predict(image).expect("the image fits");
    black_box(logits.to_vec().expect("the device computes"));
}

/// The times of single calls, the shortest first.
fn latency(call: impl Fn()) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = Vec::with_capacity(MOST_CALLS);
    while times.len() < MOST_CALLS && start.elapsed() < LATENCY_TIME {
        let before = Instant::now();
        call();
        times.push(before.elapsed());
    }
    times.sort();
    times
}

fn print_latencies(latencies: Vec<(String, Vec<Duration>)>) {
    if support::untimed() || latencies.is_empty() {
        return;
    }
    println!("\n{:<40} {:>7} {:>10} {:>10}", "single calls", "calls", "median, ms", "99 %, ms");
    for (id, times) in latencies {
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        println!("{id:<40} {:>7} {:>10.3} {:>10.3}", times.len(), at(50), at(99));
    }
}

/// Writes each network as an ONNX model with its norms folded into the convolutions.
#[cfg(feature = "onnx")]
fn write_onnx(folder: &std::path::Path) {
    use quarterturn::models::{checkpoint::Notes, export::Plain};
    for (name, _, network) in networks(&Device::Cpu) {
        let plain = Plain::of(&*network, None).expect("a plain form").with_norms_folded();
        plain.save_onnx(folder.join(name).with_extension("onnx"), &Notes::new()).expect("the folder takes the models");
    }
}
