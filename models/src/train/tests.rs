//! Training, and the states that it leaves.

use super::{Tally, Trainer, Training, evaluate, tally::rows, train};
use crate::{Checkpoint, MnistCnn, MnistCnnConfig, Network, checkpoint::tests::Folder};
use quarterturn_autograd::{Optimizer, Schedule};
use quarterturn_core::{Device, Error, HostBuffer, Result, Shape, Stream, Tensor};
use quarterturn_kernels as kernels;
use std::{ops::ControlFlow, path::Path};

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
        crate::Module::visit(&mut network, &mut |_, param| values.extend_from_slice(param.value().f32s()));
        (values, losses)
    };
    let one = bits(1);
    assert!(one == bits(2), "2 threads differ from 1");
    assert!(one == bits(3), "3 threads differ from 1");
}

#[test]
fn the_count_does_not_depend_on_the_chunks() {
    let network = small();
    let (images, labels) = (random([11, 1, 1, 12, 12], 0), Tensor::cpu([11], HostBuffer::zeros(11)));
    let together = kernels::count_correct(&network.predict(&images).unwrap(), &labels).f32s()[0] as u64;
    assert_eq!(evaluate(&network, &images, &labels).unwrap(), together);
    let logits = network.predict(&images).unwrap();
    for i in 0..11 {
        let alone = network.predict(&rows(&images, i, 1)).unwrap();
        assert_eq!(alone.f32s(), &logits.f32s()[2 * i..2 * i + 2], "image {i} alone has other logits");
    }
}

#[test]
fn a_tally_adds_up_batches_and_views_on_every_device() {
    let views = |images: &Tensor, v| kernels::scale(images, [1.0, -1.0, 0.0][v]);
    let batches: Vec<_> = (0..3).map(batch).collect();
    for device in [Device::Cpu, Device::Reference] {
        let mut network = small();
        network.to_device(&device).unwrap();
        let on = |(images, labels): &(Tensor, Tensor)| {
            (images.to_device(&device).unwrap(), labels.to_device(&device).unwrap())
        };
        let mut tally = Tally::new(3);
        for batch in &batches {
            let (images, labels) = on(batch);
            tally.count(&network, &images, &labels, views).unwrap();
            tally.wait().unwrap();
            // Reading in between changes nothing.
            tally = Tally::from_counts(tally.read().unwrap().to_vec());
        }
        let expected = |v| {
            let alone = |batch| {
                let (images, labels) = on(batch);
                evaluate(&network, &views(&images, v), &labels).unwrap()
            };
            batches.iter().map(alone).sum::<u64>()
        };
        assert_eq!(tally.read().unwrap(), [expected(0), expected(1), expected(2)], "{device}");
    }
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

/// The file that [`Trainer::save`] writes at the end of a run that is broken off after every `part` steps and
/// taken up by a new network each time.
fn in_parts(folder: &Path, part: u32) -> Vec<u8> {
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let path = folder.join(format!("{part}.safetensors"));
    loop {
        let mut network = small();
        let mut trainer = match path.exists() {
            true => Trainer::resume(&mut network, training.clone(), &path).unwrap(),
            false => Trainer::new(&mut network, training.clone()),
        };
        let mut made = 0;
        let batches =
            |epoch, from: u32| Ok((from..3).map(move |i| Ok(batch(3 * epoch + i))).collect::<Vec<_>>().into_iter());
        let outcome = trainer.run(batches, |_, at| {
            made += u32::from(at.loss.is_none());
            Ok(if made == part { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        trainer.save(&path).unwrap();
        if outcome.unwrap().is_continue() {
            return std::fs::read(&path).unwrap();
        }
    }
}

#[test]
fn a_run_in_parts_ends_with_the_same_bits() {
    let folder = Folder::new("parts");
    let whole = in_parts(folder.path(), u32::MAX);
    for part in [1, 2, 3, 5] {
        assert!(in_parts(folder.path(), part) == whole, "parts of {part} steps");
    }
    let state = Checkpoint::read(folder.path().join("1.safetensors")).unwrap();
    assert!(state.has("optimizer.moment2.linear.weight") && state.has("norm7.running_var"));
}

/// On a GPU one value is read back per epoch, none per step; a tally reads each view once. And a state that is
/// saved there and taken up goes on with the same bits.
#[cfg(feature = "gpu")]
#[test]
fn a_gpu_is_not_waited_for_and_resumes_too() {
    use quarterturn_core::gpu::{Gpu, GpuOptions};
    let Some(shared) = quarterturn_core::testing::gpu() else { return };
    // Of its own, so that other tests do not count.
    let name = Some(shared.adapter().name.clone());
    let gpu = Gpu::open(&GpuOptions { adapter: name, ..GpuOptions::default() }).unwrap();
    let device = Device::Gpu(gpu.clone());
    let folder = Folder::new("gpu");
    let path = folder.path().join("state.safetensors");
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let on = |i| {
        let (images, labels) = batch(i);
        Ok((images.to_device(&device)?, labels.to_device(&device)?))
    };
    let batches = |epoch, from: u32| Ok((from..3).map(|i| on(3 * epoch + i)).collect::<Vec<_>>().into_iter());
    let fresh = || {
        let mut network = small();
        network.to_device(&device).unwrap();
        network
    };
    let bits = |network: &mut MnistCnn| {
        let mut values = Vec::new();
        crate::Module::visit(network, &mut |_, param| values.extend(param.value().to_vec().unwrap()));
        values
    };

    let mut whole = fresh();
    let mut trainer = Trainer::new(&mut whole, training.clone());
    let before = gpu.statistics().read_backs;
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    assert_eq!(gpu.statistics().read_backs - before, 2);
    let (images, labels) = on(9).unwrap();
    let mut tally = Tally::new(5);
    for _ in 0..4 {
        tally.count(&whole, &images, &labels, |images, _| images.clone()).unwrap();
    }
    assert_eq!(gpu.statistics().read_backs - before, 2);
    tally.read().unwrap();
    assert_eq!(gpu.statistics().read_backs - before, 2 + 5);

    let mut first = fresh();
    let stop = |trainer: &mut Trainer<MnistCnn>, at: super::Progress| {
        trainer.save(&path)?;
        Ok(if (at.epoch, at.step) == (1, 2) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    assert!(Trainer::new(&mut first, training.clone()).run(batches, stop).unwrap().is_break());
    let mut second = fresh();
    let mut trainer = Trainer::resume(&mut second, training, &path).unwrap();
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    assert!(bits(&mut second) == bits(&mut whole));
}

#[test]
fn a_state_of_other_settings_or_with_a_broken_tensor_is_refused_by_name() {
    let folder = Folder::new("states");
    let path = folder.path().join("state.safetensors");
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, training.clone());
    let batches = |_, _| Ok([Ok(batch(0)), Ok(batch(1))].into_iter());
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Break(()))).unwrap();
    trainer.save(&path).unwrap();
    let refused = |training: Training, name: &str| match Trainer::resume(&mut small(), training, &path) {
        Err(Error::Checkpoint { name: found, .. }) => assert_eq!(found, name),
        other => panic!("{other:?}"),
    };
    refused(Training { epochs: 3, ..training.clone() }, "training.epochs");
    refused(Training { seed: 4, ..training.clone() }, "training.seed");
    refused(Training { rule: Optimizer::adam(0.0).rule(), ..training.clone() }, "training.rule");
    refused(Training { schedule: Schedule::Constant { lr: 0.1 }, ..training.clone() }, "training.schedule");

    let good = std::fs::read(&path).unwrap();
    let name = b"optimizer.moment2.norm1.bias";
    let at = good.windows(name.len()).position(|window| window == name).unwrap();
    let mut bad = good.clone();
    bad[at + name.len() - 1] = b'z';
    std::fs::write(&path, bad).unwrap();
    refused(training.clone(), "optimizer.moment2.norm1.bias");
    // The network's checkpoint alone is no state.
    crate::checkpoint::save(&path, &mut small()).unwrap();
    refused(training, "training.epochs");
}

#[test]
fn a_diverged_state_does_not_replace_a_sound_one() {
    let folder = Folder::new("diverged");
    let path = folder.path().join("state.safetensors");
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, Training { epochs: 1, ..Training::mnist(3) });
    let batches = |_, _| {
        let (mut images, labels) = batch(0);
        images.f32s_mut()[7] = f32::NAN;
        Ok([Ok(batch(1)), Ok((images, labels)), Ok(batch(2))].into_iter())
    };
    let outcome = trainer.run(batches, |trainer, _| trainer.save(&path).map(ControlFlow::Continue));
    assert!(matches!(&outcome, Err(Error::Invalid(message)) if message.contains("diverged")), "{outcome:?}");
    let kept: u32 = Checkpoint::read(&path).unwrap().setting("training.steps", "").unwrap();
    assert_eq!(kept, 1);
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
    invalid(train(&mut small(), &training, wrong, |_| ()), "conv1: expected 1 channels");
    assert!(matches!(evaluate(&small(), &batch(0).0, &Tensor::cpu([3], HostBuffer::zeros(3))), Err(Error::Invalid(_))));
}
