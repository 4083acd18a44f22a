//! A training step (forward, backward, Adam; dropout included; 28×28) and an evaluation of the MNIST networks:
//! `cargo bench --bench train_step`.
//!
//! Ids are `train_step/{p4cnn,z2cnn,p4mcnn}/n{128,256}/cpu` and `evaluate/{…}/n512/cpu`. Operations are those of the
//! dense convolutions, three passes for a step.

mod support;

use criterion::Criterion;
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Stream, Tensor},
    models::{
        MnistCnn, MnistCnnConfig, Mode,
        training::{evaluate, train_step},
    },
};

const EXTENT: usize = 28;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut report = support::Report::new();
    let nets =
        [("p4cnn", MnistCnnConfig::p4cnn()), ("z2cnn", MnistCnnConfig::z2cnn()), ("p4mcnn", MnistCnnConfig::p4mcnn())];
    for (name, config) in nets {
        for batch in [128, 256] {
            let mut network = MnistCnn::new(config, 1, &Device::Cpu).expect("the paper's settings");
            let mut optimizer = Optimizer::adam(1e-5);
            let (images, labels) = batch_of(batch);
            let mut step = 0;
            let flops = 3.0 * batch as f64 * dense_flops(&config);
            report.measure(&mut criterion, &format!("train_step/{name}/n{batch}/cpu"), flops, || {
                let mode = Mode::Train { seed: 1, step };
                train_step(&mut network, &mut optimizer, 0.01, mode, &images, &labels).expect("the images fit");
                step += 1;
            });
        }
        let network = MnistCnn::new(config, 1, &Device::Cpu).expect("the paper's settings");
        let (images, labels) = batch_of(512);
        report.measure(&mut criterion, &format!("evaluate/{name}/n512/cpu"), 512.0 * dense_flops(&config), || {
            evaluate(&network, &images, &labels).expect("the images fit");
        });
    }
    criterion.final_summary();
    report.print();
}

fn batch_of(n: usize) -> (Tensor, Tensor) {
    let stream = Stream::new(1, 1, 0);
    let pixels = n * EXTENT * EXTENT;
    let images = Tensor::cpu([n, 1, 1, EXTENT, EXTENT], (0..pixels as u64).map(|i| stream.uniform(i)).collect());
    (images, Tensor::cpu([n], (0..n).map(|i| (i % 10) as f32).collect()))
}

/// Operations of the convolutions for one image, a multiply-add counting as two.
fn dense_flops(config: &MnistCnnConfig) -> f64 {
    let channels = config.width * config.group.order();
    let (full, half) = (EXTENT * EXTENT, EXTENT * EXTENT / 4);
    let taps = config.in_channels * 9 * full + channels * (9 * full + 4 * 9 * half + 16 * (EXTENT / 2 - 3).pow(2));
    2.0 * (channels * taps) as f64
}
