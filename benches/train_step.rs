//! A training step (forward, backward, Adam; dropout included; 28×28) and an evaluation of the MNIST networks, and a
//! training step (SGD with momentum) and an evaluation of p4-ResNet-18 at 224² and of p4-ResNet-44 at 32² with 8, 16 and
//! 32 channels: `cargo bench --bench train_step`.
//!
//! Ids are `train_step/{p4cnn,z2cnn,p4mcnn}/n{128,256}/{cpu,gpu}`, `evaluate/{…}/n512/{cpu,gpu}`, and of the ResNets
//! `{train_step,evaluate}/{p4resnet18_224/n4,p4mresnet18_225/n4,p4resnet44_32/n32}/cpu` and
//! `{train_step,evaluate}/{p4resnet18_224/n64,p4mresnet18_225/n32,p4resnet44_32/n128}/gpu`, which fill a GPU. Operations are those of
//! the dense convolutions, three passes for a step. Where a GPU is not timed, a ResNet gets a batch of one, under the same id.

mod support;

use criterion::Criterion;
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Tensor},
    kernels::Group,
    models::{
        Init, MnistCnn, MnistCnnConfig, Mode, Network, ResNet, ResNetConfig, Summary,
        training::{Tally, train_step},
    },
};

const EXTENT: usize = 28;

fn main() {
    support::on_every_device(measure_on);
}

fn measure_on(device: &Device, criterion: &mut Criterion) {
    let mut report = support::Report::new(device);
    let end = support::suffix(device);
    let nets =
        [("p4cnn", MnistCnnConfig::p4cnn()), ("z2cnn", MnistCnnConfig::z2cnn()), ("p4mcnn", MnistCnnConfig::p4mcnn())];
    for (name, config) in nets {
        for batch in [128, 256] {
            let mut network = MnistCnn::new(config, 1, device).expect("the paper's settings");
            let id = format!("train_step/{name}/n{batch}/{end}");
            measure_step(criterion, &mut report, &id, &mut network, Optimizer::adam(1e-5), (batch, EXTENT), device);
        }
        let network = MnistCnn::new(config, 1, device).expect("the paper's settings");
        measure_evaluation(
            criterion,
            &mut report,
            &format!("evaluate/{name}/n512/{end}"),
            &network,
            (512, EXTENT),
            device,
        );
    }
    let narrow44 = ResNetConfig { widths: vec![8, 16, 32], ..ResNetConfig::resnet44(Group::C4) };
    let on_cpu = matches!(device, Device::Cpu);
    for (name, config, batches, extent) in [
        ("p4resnet18_224", ResNetConfig::resnet18(Group::C4), [4, 64], 224),
        ("p4mresnet18_225", ResNetConfig::resnet18(Group::D4), [4, 32], 225),
        ("p4resnet44_32", narrow44, [32, 128], 32),
    ] {
        let batch = batches[usize::from(!on_cpu)];
        let mut network = ResNet::new(config, Init::kaiming(1), device).expect("the paper's settings");
        let id = format!("train_step/{name}/n{batch}/{end}");
        measure_step(criterion, &mut report, &id, &mut network, Optimizer::sgd(0.9, 1e-4), (batch, extent), device);
        let id = format!("evaluate/{name}/n{batch}/{end}");
        measure_evaluation(criterion, &mut report, &id, &network, (batch, extent), device);
    }
    report.print();
}

/// What is computed where nothing is timed.
fn shown(batch: usize, extent: usize, device: &Device) -> usize {
    let software = support::untimed() && !matches!(device, Device::Cpu);
    if software && extent > EXTENT { 1 } else { batch }
}

fn measure_step(
    criterion: &mut Criterion,
    report: &mut support::Report,
    id: &str,
    network: &mut dyn Network,
    mut optimizer: Optimizer,
    (batch, extent): (usize, usize),
    device: &Device,
) {
    let batch = shown(batch, extent, device);
    let (images, labels) = batch_of(batch, network.in_channels(), extent, device);
    let mut step = 0;
    let flops = 3.0 * batch as f64 * dense_flops(network, extent);
    report.measure(criterion, id, flops, || {
        let mode = Mode::Train { seed: 1, step };
        train_step(network, &mut optimizer, 0.01, mode, &images, &labels).expect("the images fit");
        step += 1;
    });
}

fn measure_evaluation(
    criterion: &mut Criterion,
    report: &mut support::Report,
    id: &str,
    network: &dyn Network,
    (batch, extent): (usize, usize),
    device: &Device,
) {
    let batch = shown(batch, extent, device);
    let (images, labels) = batch_of(batch, network.in_channels(), extent, device);
    let flops = batch as f64 * dense_flops(network, extent);
    let mut tally = Tally::new(1);
    report.measure(criterion, id, flops, || {
        tally.count(network, &images, &labels, |images, _| images.clone()).expect("the images fit");
    });
}

fn batch_of(n: usize, channels: usize, extent: usize, device: &Device) -> (Tensor, Tensor) {
    let labels = (0..n).map(|i| (i % 10) as f32).collect();
    let labels = Tensor::from_vec([n], labels, device).expect("the device holds the labels");
    (support::random([n, channels, 1, extent, extent], 1, device), labels)
}

/// Operations for one image, a multiply-add counting as two: each filter of the orbit at each place.
fn dense_flops(network: &dyn Network, extent: usize) -> f64 {
    2.0 * Summary::of(network, [extent; 2]).expect("the images fit").multiply_adds().dense as f64
}
