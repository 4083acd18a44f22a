//! Norms that take the statistics of all micro-batches.

use super::{KEEPING, batch, ranks::on_ranks};
use crate::{
    Builder, Init, Module, Sequential,
    training::{Objective, Ranks, Trainer, Training},
};
use quarterturn_autograd::{Optimizer, Schedule};
use quarterturn_core::{Device, Error, Result, Share, Tensor, testing};
use quarterturn_kernels::{Group, Window};
use std::ops::ControlFlow;

/// Convolutions with norms, fused and not, and pooled.
fn network(device: &Device) -> Sequential {
    let halving = Window { kernel_size: 2, stride: 2, padding: 0 };
    let builder =
        Builder::new(Group::C4, 1, Init::new(1), device).norm("first").conv("conv1", 2, KEEPING).norm("norm1");
    let builder = builder.relu().max_pool("pool", halving).conv("conv2", 3, KEEPING).norm("norm2");
    Sequential::new("small", builder.spatial_mean().coset_max().linear("linear", 2).build().unwrap())
}

fn training(micro_batches: u32) -> Training {
    let schedule = Schedule::Constant { lr: 1.0 };
    Training { micro_batches, sync_batch_norm: true, ..Training::new(1, Optimizer::sgd(0.0, 0.0).rule(), schedule, 3) }
}

/// The ten images of a batch in parts of `sizes`.
fn parts(sizes: &[usize], device: &Device) -> Vec<Result<(Tensor, Tensor)>> {
    let (images, labels) = batch(0);
    let mut from = 0;
    let part = |&count: &usize| {
        let rows = |x: &Tensor| super::super::tally::rows(x, from, count).to_device(device);
        let pair = Ok((rows(&images)?, rows(&labels)?));
        from += count;
        pair
    };
    sizes.iter().map(part).collect()
}

/// The loss of a step on parts of these sizes, and all values of `network` after it.
fn step(network: &mut Sequential, sizes: &[usize]) -> (f64, Vec<(String, Vec<f64>)>) {
    let device = crate::Network::device(network);
    let mut trainer = Trainer::new(network, training(sizes.len() as u32));
    let batches = |_, _| Ok(parts(sizes, &device).into_iter());
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    let loss = trainer.losses()[0];
    let mut values = Vec::new();
    network.read(&mut |name, param| values.push((name.to_string(), param.value().to_f64().unwrap())));
    (loss, values)
}

#[test]
fn a_step_of_parts_is_one_of_the_whole_batch() {
    for device in testing::devices().into_iter().chain([Device::Reference]) {
        let tolerance = if matches!(device, Device::Reference) { 1e-12 } else { 2e-5 };
        let (loss, whole) = step(&mut network(&device), &[10]);
        for sizes in [&[5, 5][..], &[6, 3, 1], &[2, 2, 2, 2, 1, 1]] {
            let (found, values) = step(&mut network(&device), sizes);
            assert!((found - loss).abs() < tolerance, "{device}: {found}, not {loss}");
            for ((name, whole), (_, values)) in whole.iter().zip(&values) {
                for (a, b) in whole.iter().zip(values) {
                    assert!((a - b).abs() < tolerance * (1.0 + a.abs()), "{device}, {sizes:?}: {name} is {b}, not {a}");
                }
            }
        }
    }
}

/// In f64, where a step of SGD moves each weight by its gradient.
#[test]
fn gradients_are_those_of_the_loss_of_all_parts() {
    let (sizes, h) = ([3, 5, 2], 1e-6);
    let network = || network(&Device::Reference);
    let (_, moved) = step(&mut network(), &sizes);
    let mut before = Vec::new();
    network().read(&mut |name, param| before.push((name.to_string(), param.kind(), param.value().f64s().to_vec())));
    let mut checked = 0;
    for ((name, kind, before), (_, after)) in before.iter().zip(&moved) {
        if *kind == quarterturn_autograd::Kind::Buffer || name == "conv1.bias" || name == "conv2.bias" {
            continue;
        }
        for at in (0..before.len()).step_by(5) {
            let loss = |change: f64| {
                let mut network = network();
                network.visit(&mut |found, param| {
                    if found == name {
                        let mut values = param.value().f64s().to_vec();
                        values[at] += change;
                        param.set(Tensor::reference(param.value().shape(), values));
                    }
                });
                step(&mut network, &sizes).0
            };
            let (expected, gradient) = ((loss(h) - loss(-h)) / (2.0 * h), before[at] - after[at]);
            assert!((gradient - expected).abs() < 1e-6, "{name}[{at}]: {gradient}, not {expected}");
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

#[test]
fn one_that_fails_ends_the_others() {
    let outcomes = on_ranks(2, |ranks| {
        let mut network = network(&Device::Cpu);
        let share = Share::new(ranks.rank(), 2, 4).unwrap();
        let own = |_, _| {
            let pairs = parts(&[3, 3, 2, 2], &Device::Cpu).into_iter().enumerate();
            let own = pairs.filter(|(i, _)| share.has(*i)).map(|(i, pair)| match i {
                2 => pair.map(|(images, labels)| (images, quarterturn_kernels::scale(&labels, 7.0))),
                _ => pair,
            });
            Ok(own.collect::<Vec<_>>().into_iter())
        };
        let mut trainer = Trainer::new(&mut network, training(4)).with_ranks(ranks);
        trainer.run(own, |_, _| Ok(ControlFlow::Continue(()))).unwrap_err().to_string()
    });
    assert!(outcomes[0].contains("3 of 4 micro-batches have come to a norm"), "{outcomes:?}");
    assert!(outcomes[1].contains("epoch 1, batch 3: label 7"), "{outcomes:?}");
}

/// What fails behind the norms of some micro-batch.
#[test]
fn an_objective_that_fails_is_told_of() {
    let objective = Objective::own("fussy", |outputs, targets| match targets.dims()[0] {
        1 => Err(Error::Invalid("one image is too few".into())),
        _ => Ok(outputs.mul(outputs).sum()),
    });
    let mut network = network(&Device::Cpu);
    let mut trainer = Trainer::new(&mut network, Training { objective, ..training(3) });
    let batches = |_, _| Ok(parts(&[6, 3, 1], &Device::Cpu).into_iter());
    let error = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap_err().to_string();
    assert!(error.contains("epoch 1, batch 3: one image is too few"), "{error}");
}
