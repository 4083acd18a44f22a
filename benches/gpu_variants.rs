//! GPU kernels that there are two of, each with its own id, so that a measurement can choose: `cargo bench --bench gpu_variants`.
//!
//! Ids are `norm/{train,train_vjp,eval}/{10x4x28x28_n256,64x4x56x56_n64}/{quads,single}/gpu` (elements read four at a time, or
//! one), `train_step/{p4cnn/n256,p4resnet44_32/n128}/{quads,single}/gpu` (whole steps with either), and
//! `update/{adam,sgd}/{p4cnn,p4resnet44}/{together,each}/gpu` (the optimizer's step alone: up to seven weights a launch, or
//! one). Operations of norms and updates are elements read and written, not multiply-adds.

#[cfg(feature = "gpu")]
mod support;

#[cfg(feature = "gpu")]
fn main() {
    measured::main();
}

#[cfg(not(feature = "gpu"))]
fn main() {
    eprintln!("note: this needs the feature gpu");
}

#[cfg(feature = "gpu")]
mod measured {
    use super::support::{self, Report, random, suffix, untimed};
    use criterion::Criterion;
    use quarterturn::{
        autograd::{Kind, Optimizer},
        core::{
            Device, Stream, Tensor,
            gpu::{Gpu, GpuOptions},
        },
        kernels::{
            Activation, Adam, Group, Sgd, Updates, Variants, batch_norm_eval, batch_norm_train, batch_norm_train_vjp,
        },
        models::{Init, MnistCnn, MnistCnnConfig, Mode, Network, ResNet, ResNetConfig, training::train_step},
    };

    const EPS: f64 = 1e-5;

    pub fn main() {
        support::on_every_device(|device, criterion| {
            let Device::Gpu(gpu) = device else { return };
            // Of its own, for a GPU's first choice holds.
            let options = GpuOptions { adapter: Some(gpu.adapter().name.clone()), ..GpuOptions::default() };
            let single = Gpu::open(&options).expect("it was opened before");
            Variants { norm_quads: false }.choose(&single).expect("nothing has run there");
            for (device, name) in [(device.clone(), "quads"), (Device::Gpu(single), "single")] {
                let mut report = Report::new(&device);
                norms(&device, name, criterion, &mut report);
                steps(&device, name, criterion, &mut report);
                report.print();
            }
            let mut report = Report::new(device);
            updates(device, criterion, &mut report);
            report.print();
        });
    }

    fn norms(device: &Device, name: &str, criterion: &mut Criterion, report: &mut Report) {
        let sizes = [("10x4x28x28_n256", [256, 10, 4, 28, 28]), ("64x4x56x56_n64", [64, 64, 4, 56, 56])];
        for (size, mut dims) in sizes {
            // A software adapter shows that it runs, not how fast.
            if untimed() {
                dims[0] = 1;
            }
            let (x, dy) = (random(dims, 1, device), random(dims, 2, device));
            let [weight, bias] = [3, 4].map(|stream| random([dims[1]], stream, device));
            let activation = Activation { relu: true, dropout: Some((0.3, Stream::new(1, 5, 0))) };
            let forward = batch_norm_train(&x, &weight, &bias, EPS, activation);
            let elements = x.len() as f64;
            let id = |pass| format!("norm/{pass}/{size}/{name}/{}", suffix(device));
            report.measure(criterion, &id("train"), 2.0 * elements, || {
                drop(batch_norm_train(&x, &weight, &bias, EPS, activation));
            });
            report.measure(criterion, &id("train_vjp"), 4.0 * elements, || {
                drop(batch_norm_train_vjp(&x, &forward, &weight, &bias, EPS, activation, &dy));
            });
            let relu = Activation { relu: true, dropout: None };
            report.measure(criterion, &id("eval"), 2.0 * elements, || {
                drop(batch_norm_eval(&x, &weight, &bias, &forward.mean, &forward.var, EPS, relu));
            });
        }
    }

    fn steps(device: &Device, name: &str, criterion: &mut Criterion, report: &mut Report) {
        let mut measure =
            |id: &str, network: &mut dyn Network, mut optimizer: Optimizer, batch: usize, extent: usize| {
                let batch = if untimed() { 2 } else { batch };
                let images = random([batch, network.in_channels(), 1, extent, extent], 1, device);
                let labels = (0..batch).map(|i| (i % 10) as f32).collect();
                let labels = Tensor::from_vec([batch], labels, device).expect("the device holds the labels");
                let mut step = 0;
                report.measure(criterion, &format!("train_step/{id}/{name}/{}", suffix(device)), batch as f64, || {
                    let mode = Mode::Train { seed: 1, step };
                    train_step(network, &mut optimizer, 0.01, mode, &images, &labels).expect("the images fit");
                    step += 1;
                });
            };
        let mut p4cnn = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, device).expect("the paper's settings");
        measure("p4cnn/n256", &mut p4cnn, Optimizer::adam(1e-5), 256, 28);
        measure("p4resnet44_32/n128", &mut narrow44(device), Optimizer::sgd(0.9, 1e-4), 128, 32);
    }

    fn narrow44(device: &Device) -> ResNet {
        let config = ResNetConfig { widths: vec![8, 16, 32], ..ResNetConfig::resnet44(Group::C4) };
        ResNet::new(config, Init::kaiming(1), device).expect("the paper's settings")
    }

    fn updates(device: &Device, criterion: &mut Criterion, report: &mut Report) {
        let p4cnn = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, device).expect("the paper's settings");
        let networks: [(&str, Box<dyn Network>); 2] =
            [("p4cnn", Box::new(p4cnn)), ("p4resnet44", Box::new(narrow44(device)))];
        for (network_name, mut network) in networks {
            let mut weights = Vec::new();
            network.visit(&mut |_, param| {
                if param.kind() == Kind::Weight {
                    let of = |stream| random(param.value().shape(), stream, device);
                    weights.push([
                        of(1),
                        of(2),
                        Tensor::full(param.value().shape(), 1.0, device).expect("it fits"),
                        of(3),
                    ]);
                }
            });
            let elements: usize = weights.iter().map(|[w, ..]| w.len()).sum();
            let adam =
                Adam { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-5, decoupled: false, step: 10 };
            let sgd = Sgd { lr: 1e-3, momentum: 0.9, weight_decay: 1e-4, nesterov: false };
            for (way, updates) in [("together", Updates::new as fn() -> Updates), ("each", Updates::one_by_one)] {
                let id = format!("update/adam/{network_name}/{way}/{}", suffix(device));
                report.measure(criterion, &id, 7.0 * elements as f64, || {
                    let mut updates = updates();
                    for [w, m, v, dw] in &mut weights {
                        updates.adam(w, m, v, dw, &adam);
                    }
                });
                let id = format!("update/sgd/{network_name}/{way}/{}", suffix(device));
                report.measure(criterion, &id, 5.0 * elements as f64, || {
                    let mut updates = updates();
                    for [w, m, _, dw] in &mut weights {
                        updates.sgd(w, m, dw, &sgd);
                    }
                });
            }
        }
    }
}
