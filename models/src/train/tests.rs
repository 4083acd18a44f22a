//! The training loop.

mod fit;
mod metrics;
mod objectives;
mod ranks;
mod settings;
mod states;
mod sync_norm;
mod tally;

use super::{Training, evaluate, train};
use crate::{Builder, Init, MnistCnn, MnistCnnConfig, Module, Network, Pass, Sequential, Trace};
use quarterturn_autograd::{Param, Schedule, Var};
use quarterturn_core::{Device, Error, HostBuffer, Result, Shape, Stream, Tensor, testing};
use quarterturn_kernels::{Group, Window};

const KEEPING: Window = Window { kernel_size: 3, stride: 1, padding: 1 };

fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(5, stream, 0));
    Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), &Device::Cpu).unwrap()
}

/// Ten images of noise, five of each class; class 1 is brighter.
fn batch(epoch: u32) -> (Tensor, Tensor) {
    let labels: Vec<f32> = (0..10).map(|i| (i % 2) as f32).collect();
    let mut images = random([10, 1, 1, 12, 12], epoch);
    for (image, label) in images.f32s_mut().chunks_mut(144).zip(&labels) {
        image.iter_mut().for_each(|v| *v += label);
    }
    (images, Tensor::from_vec([10], labels, &Device::Cpu).unwrap())
}

fn small() -> MnistCnn {
    let config = MnistCnnConfig { width: 3, classes: 2, ..MnistCnnConfig::p4cnn() };
    MnistCnn::new(config, 1, &Device::Cpu).unwrap()
}

fn run(training: &Training) -> Result<(MnistCnn, Vec<f64>)> {
    let mut network = small();
    let batches = |epoch| Ok([2 * epoch, 2 * epoch + 1].map(|i| Ok(batch(i))).into_iter());
    let losses = train(&mut network, training, batches, |_| ())?;
    Ok((network, losses))
}

#[test]
fn a_small_network_learns() {
    let (network, losses) = run(&Training { epochs: 15, ..Training::mnist(3) }).unwrap();
    assert!(losses[14] < 0.5 * losses[0], "{losses:?}");
    let (images, labels) = batch(1000);
    assert!(evaluate(&network, &images, &labels).unwrap() >= 9);
}

#[test]
fn the_same_seed_makes_the_same_bits_with_1_2_and_3_threads() {
    let bits = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let (mut network, losses) = pool.install(|| run(&Training { epochs: 2, ..Training::mnist(3) })).unwrap();
        let mut values = Vec::new();
        Module::visit(&mut network, &mut |_, param| values.extend_from_slice(param.value().f32s()));
        (values, losses)
    };
    let one = bits(1);
    assert!(one == bits(2), "2 threads differ from 1");
    assert!(one == bits(3), "3 threads differ from 1");
}

#[test]
fn progress_tells_each_step_and_each_epochs_loss() {
    let mut told = Vec::new();
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let batches = |epoch| Ok([epoch, epoch].map(|i| Ok(batch(i))).into_iter());
    let losses = train(&mut small(), &training, batches, |progress| told.push(progress)).unwrap();
    let steps: Vec<_> = told.iter().map(|p| (p.epoch, p.step, p.steps, p.loss)).collect();
    let expected = |epoch, loss| [(epoch, 1, 2, None), (epoch, 2, 2, None), (epoch, 2, 2, Some(loss))];
    assert_eq!(steps, [expected(0, losses[0]), expected(1, losses[1])].concat());
}

#[test]
fn divergence_and_unfit_data_are_errors() {
    let invalid = |result: Result<Vec<f64>>, expected: &str| match result {
        Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
        other => panic!("{other:?}"),
    };
    let training = Training { epochs: 1, ..Training::mnist(3) };
    let none = |_| Ok(Vec::<Result<(Tensor, Tensor)>>::new().into_iter());
    invalid(train(&mut small(), &training, none, |_| ()), "no batch");
    let nan = |_| {
        let (mut images, labels) = batch(0);
        images.f32s_mut()[7] = f32::NAN;
        Ok([Ok((images, labels))].into_iter())
    };
    invalid(train(&mut small(), &training, nan, |_| ()), "diverged");
    let wrong = |_| Ok([Ok((random([2, 3, 1, 12, 12], 0), batch(0).1))].into_iter());
    invalid(train(&mut small(), &training, wrong, |_| ()), "epoch 1, batch 1: conv1: expected 1 channels");
    // An iterator that has fewer batches than it says would shorten the epoch.
    struct Short;
    impl Iterator for Short {
        type Item = Result<(Tensor, Tensor)>;
        fn next(&mut self) -> Option<Self::Item> {
            None
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (3, Some(3))
        }
    }
    impl ExactSizeIterator for Short {}
    invalid(train(&mut small(), &training, |_| Ok(Short), |_| ()), "epoch 1 ended after 0 of 3 batches");
    for (label, expected) in [(2.0, "label 2"), (-1.0, "label -1"), (0.5, "label 0.5"), (f32::NAN, "label NaN")] {
        let labelled = |_| {
            let (images, mut labels) = batch(0);
            labels.f32s_mut()[3] = label;
            Ok([Ok(batch(0)), Ok((images, labels))].into_iter())
        };
        let expected = format!("epoch 1, batch 2: {expected} of image 3: expected a whole number from 0 to 1");
        invalid(train(&mut small(), &training, labelled, |_| ()), &expected);
    }
    let fewer = |_| Ok([Ok((batch(0).0, Tensor::cpu([3], HostBuffer::zeros(3))))].into_iter());
    invalid(train(&mut small(), &training, fewer, |_| ()), "10 images, labels of shape [3]");
    assert!(matches!(evaluate(&small(), &batch(0).0, &Tensor::cpu([3], HostBuffer::zeros(3))), Err(Error::Invalid(_))));
}

/// On z2 at 8×8, the last map of a network for digits has a single place.
#[test]
fn a_batch_that_leaves_a_norm_a_single_value_is_an_error() {
    let plain = |n: usize| {
        let mut network =
            MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::z2cnn() }, 1, &Device::Cpu).unwrap();
        let of = |n: usize| Ok((random([n, 1, 1, 8, 8], 0), Tensor::cpu([n], HostBuffer::zeros(n))));
        let training = Training { epochs: 1, ..Training::mnist(3) };
        train(&mut network, &training, |_| Ok([of(4), of(n)].into_iter()), |_| ())
    };
    plain(2).unwrap();
    match plain(1) {
        Err(Error::Invalid(message)) => {
            assert!(
                message.starts_with("epoch 1, batch 2: norm7: a batch of 1 leaves one value per channel"),
                "{message}"
            );
        }
        other => panic!("{other:?}"),
    }
}

/// A layer with a parameter that the loss does not depend on.
struct Idle(Param);

impl Module for Idle {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("weight", &mut self.0);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f("weight", &self.0);
    }
}

/// Whatever a device makes of NaN in between: a run with a parameter that is not finite has not succeeded.
#[test]
fn a_parameter_that_is_not_finite_is_divergence_though_the_loss_is_finite() {
    let devices = testing::devices().into_iter().chain([Device::Reference]);
    for device in devices {
        for value in [f32::NAN, f32::INFINITY, 3e38] {
            let idle = Idle(Param::weight(Tensor::from_vec([3], vec![1.0, value, 3e38], &device).unwrap()));
            let builder =
                Builder::new(Group::C4, 1, Init::new(1), &device).conv("conv", 2, KEEPING).layer("idle", idle);
            let layers = builder.spatial_mean().coset_max().linear("linear", 2).build().unwrap();
            let mut network = Sequential::new("idle", layers);
            let on = |i| {
                let (images, labels) = batch(i);
                Ok((images.to_device(&device)?, labels.to_device(&device)?))
            };
            let training = Training { epochs: 1, ..Training::mnist(3) };
            match train(&mut network, &training, |_| Ok([on(0), on(1)].into_iter()), |_| ()) {
                Ok(losses) => assert!(value.is_finite() && losses[0].is_finite(), "{value} on {device}: {losses:?}"),
                Err(Error::Invalid(message)) if !value.is_finite() => {
                    let expected =
                        "training diverged: idle.weight has a value in epoch 1 that is not finite; try a lower";
                    assert!(message.starts_with(expected), "{message} on {device}");
                }
                Err(other) => panic!("{value} on {device}: {other}"),
            }
        }
    }
}

#[test]
fn a_learning_rate_that_is_far_too_high_is_divergence_on_every_device() {
    for device in testing::devices() {
        let mut network = small();
        network.to_device(&device).unwrap();
        let on = |i| {
            let (images, labels) = batch(i);
            Ok((images.to_device(&device)?, labels.to_device(&device)?))
        };
        let schedule = Schedule::Constant { lr: 1e30 };
        let training = Training { epochs: 3, schedule, ..Training::mnist(3) };
        let outcome = train(&mut network, &training, |_| Ok([on(0), on(1), on(2)].into_iter()), |_| ());
        let diverged = matches!(&outcome, Err(Error::Invalid(message)) if message.starts_with("training diverged: "));
        assert!(diverged, "{device}: {outcome:?}");
    }
}
