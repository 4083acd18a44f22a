//! Groups, freezing, clipping, steps over several batches, averages.

use super::{KEEPING, batch};
use crate::{
    Builder, Checkpoint, Init, Module, Network, Sequential,
    checkpoint::tests::Folder,
    training::{Classes, Clip, Objective, Trainer, Training},
};
use quarterturn_autograd::{Optimizer, ParamGroup, Schedule};
use quarterturn_core::{Device, Error, Result, Tensor, testing};
use quarterturn_kernels::Group;
use std::{ops::ControlFlow, path::Path};

/// With a norm or without.
fn network(norm: bool) -> Sequential {
    let builder = Builder::new(Group::C4, 1, Init::new(1), &Device::Cpu).conv("conv", 2, KEEPING);
    let builder = if norm { builder.norm("norm") } else { builder };
    let layers = builder.relu().spatial_mean().coset_max().linear("linear", 2).build().unwrap();
    Sequential::new("small", layers)
}

fn weights(network: &mut Sequential) -> Vec<(String, Vec<f32>)> {
    let mut values = Vec::new();
    Module::visit(network, &mut |name, param| values.push((name.to_string(), param.value().f32s().to_vec())));
    values
}

fn training() -> Training {
    Training::new(2, Optimizer::adamw(0.1).rule(), Schedule::Constant { lr: 0.05 }, 3)
}

fn everything() -> Training {
    Training {
        objective: Objective::Classes(Classes { smoothing: 0.1, ..Classes::default() }),
        groups: vec![ParamGroup::vectors().with_weight_decay(0.0)],
        frozen: vec!["linear.b*".into()],
        clip: Some(Clip::Norm(0.5)),
        micro_batches: 2,
        average: Some(0.9),
        mixup: Some(0.4),
        data: [("batch_size".to_string(), "10".to_string())].into(),
        ..training()
    }
}

type Batches = std::vec::IntoIter<Result<(Tensor, Tensor)>>;

fn five(epoch: u32, from: u32) -> Result<Batches> {
    Ok((from..5).map(|i| Ok(batch(5 * epoch + i))).collect::<Vec<_>>().into_iter())
}

/// The file that is saved at the end of a run that is broken off after every `part` batches.
fn in_parts(folder: &Path, part: u32, device: &Device) -> Vec<u8> {
    let path = folder.join(format!("{part}.safetensors"));
    let there = |batch: Result<(Tensor, Tensor)>| {
        let (images, labels) = batch?;
        Ok((images.to_device(device)?, labels.to_device(device)?))
    };
    let five = |epoch, from| Ok(five(epoch, from)?.map(there));
    loop {
        let (mut network, mut made) = (network(true), 0);
        network.to_device(device).unwrap();
        let mut trainer = match path.exists() {
            true => Trainer::resume(&mut network, everything(), &path).unwrap(),
            false => Trainer::new(&mut network, everything()),
        };
        let outcome = trainer.run(five, |_, at| {
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
fn a_run_with_every_setting_resumes_to_the_bit() {
    for device in testing::devices().into_iter().chain([Device::Reference]) {
        let folder = Folder::new("every-setting");
        let whole = in_parts(folder.path(), u32::MAX, &device);
        for part in [1, 2, 3] {
            assert!(in_parts(folder.path(), part, &device) == whole, "{device}: parts of {part} batches");
        }
        let state = Checkpoint::read(folder.path().join("1.safetensors")).unwrap();
        assert!(state.has("training.average.norm.running_var") && !state.has("optimizer.moment1.linear.bias"));
    }
}

/// What the parts of a run must agree on is one list; a state that names none of the newer settings is as it always was.
#[test]
fn settings_that_differ_are_named() {
    let folder = Folder::new("settings");
    let path = folder.path().join("state.safetensors");
    let resumed = |training: Training| Trainer::resume(&mut network(true), training, &path).map(drop);
    let refused = |training: Training, expected: &str| match resumed(training) {
        Err(Error::Checkpoint { name, message }) => assert_eq!(name, expected, "{message}"),
        other => panic!("{expected}: {other:?}"),
    };
    let usual = training();
    Trainer::new(&mut network(true), usual.clone()).save(&path).unwrap();
    let state = Checkpoint::read(&path).unwrap();
    let names: Vec<&str> = state.config().keys().filter_map(|name| name.strip_prefix("training.")).collect();
    assert_eq!(names, ["epoch", "epochs", "images", "moved", "rule", "schedule", "seed", "step", "steps"]);
    resumed(usual.clone()).unwrap();
    let own = Objective::own("mine", |outputs, _| Ok(outputs.sum()));
    let data = |name: &str| [(name.to_string(), "1".to_string())].into();
    for (other, expected) in [
        (Training { objective: Objective::SeveralLabels, ..usual.clone() }, "training.objective"),
        (Training { objective: own, ..usual.clone() }, "training.objective"),
        (Training { groups: everything().groups, ..usual.clone() }, "training.groups"),
        (Training { frozen: vec!["linear.*".into()], ..usual.clone() }, "training.frozen"),
        (Training { clip: Some(Clip::Value(1.0)), ..usual.clone() }, "training.clip"),
        (Training { micro_batches: 2, ..usual.clone() }, "training.micro_batches"),
        (Training { sync_batch_norm: true, ..usual.clone() }, "training.sync_batch_norm"),
        (Training { average: Some(0.5), ..usual.clone() }, "training.average"),
        (Training { mixup: Some(0.5), ..usual.clone() }, "training.mixup"),
        (Training { data: data("augmentation"), ..usual.clone() }, "training.data.augmentation"),
    ] {
        refused(other.clone(), expected);
        // And the other way round.
        let kept = std::fs::read(&path).unwrap();
        Trainer::new(&mut network(true), other.clone()).save(&path).unwrap();
        refused(usual.clone(), expected);
        resumed(other).unwrap();
        std::fs::write(&path, kept).unwrap();
    }
}

/// Without norms, whose statistics are of each batch, two batches of a half are one of the whole.
#[test]
fn a_step_over_several_batches_is_one_over_all_their_images() {
    let rows = |x: &Tensor, from, count| super::super::tally::rows(x, from, count);
    let halves = |_, _| {
        let (images, labels) = batch(0);
        let part = |from, count| Ok((rows(&images, from, count), rows(&labels, from, count)));
        Ok([part(0, 4), part(4, 6)].into_iter())
    };
    let sgd =
        Training { epochs: 1, ..Training::new(1, Optimizer::sgd(0.0, 0.0).rule(), Schedule::Constant { lr: 1.0 }, 3) };
    let (mut whole, mut parts) = (network(false), network(false));
    let on = |_: &mut Trainer<Sequential>, _| Ok(ControlFlow::Continue(()));
    let _ = Trainer::new(&mut whole, sgd.clone()).run(|_, _| Ok([Ok(batch(0))].into_iter()), on).unwrap();
    let before = weights(&mut parts);
    let _ = Trainer::new(&mut parts, Training { micro_batches: 2, ..sgd }).run(halves, on).unwrap();
    for (((name, a), (_, b)), (_, before)) in weights(&mut whole).iter().zip(&weights(&mut parts)).zip(&before) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {a:?} {b:?}");
        assert!(a != before, "{name} has not moved");
    }
}

#[test]
fn what_is_frozen_stays_and_what_is_clipped_moves_little() {
    let run = |training: Training| {
        let mut network = network(true);
        let outcome = Trainer::new(&mut network, training).run(five, |_, _| Ok(ControlFlow::Continue(())));
        outcome.map(|_| weights(&mut network))
    };
    let before = weights(&mut network(true));
    let frozen = run(Training { frozen: vec!["conv.*".into(), "norm.weight".into()], ..training() }).unwrap();
    for ((name, a), (_, b)) in frozen.iter().zip(&before) {
        assert_eq!(a == b, name.starts_with("conv.") || name == "norm.weight", "{name}");
    }
    let sgd = |clip| Training {
        clip,
        ..Training::new(1, Optimizer::sgd(0.0, 0.0).rule(), Schedule::Constant { lr: 1.0 }, 3)
    };
    // Five steps of at most 1e-3.
    for clip in [Clip::Norm(1e-3), Clip::Value(1e-3)] {
        let clipped = run(sgd(Some(clip))).unwrap();
        let moved = clipped
            .iter()
            .zip(&before)
            .filter(|((name, _), _)| !name.contains("running"))
            .flat_map(|((_, a), (_, b))| a.iter().zip(b).map(|(a, b)| (a - b).abs()));
        let most = moved.fold(0.0f32, f32::max);
        assert!((1e-5..=5.01e-3).contains(&most), "{clip:?}: {most}");
    }
    for (training, expected) in [
        (Training { frozen: vec!["conv2.*".into()], ..training() }, "no weight is called conv2.*"),
        (Training { groups: vec![ParamGroup::named(["fc.*"])], ..training() }, "no weight is called fc.*"),
        (Training { clip: Some(Clip::Norm(0.0)), ..training() }, "expected a limit of gradients above 0, got 0"),
        (Training { micro_batches: 0, ..training() }, "expected steps of 1 micro-batch or more, got 0"),
        (Training { average: Some(1.0), ..training() }, "expected an average's decay from 0 to below 1, got 1"),
        (Training { mixup: Some(0.0), ..training() }, "expected an α of mixup from 0.01 to 4, got 0"),
    ] {
        match run(training) {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn blended_images_are_other_images_in_each_run() {
    let run = |mixup, seed| {
        let mut network = network(true);
        let mut trainer = Trainer::new(&mut network, Training { mixup, seed, ..training() });
        let _ = trainer.run(five, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
        weights(&mut network)
    };
    let blended = run(Some(1.0), 3);
    assert!(blended == run(Some(1.0), 3));
    assert!(blended != run(None, 3) && blended != run(Some(1.0), 4) && blended != run(Some(0.2), 3));
}

#[test]
fn averages_are_lent_and_given_back() {
    let mut network = network(true);
    let mut trainer = Trainer::new(&mut network, Training { average: Some(0.5), ..training() });
    let mut expected: Vec<Vec<f32>> = Vec::new();
    let _ = trainer
        .run(five, |trainer, at| {
            if at.loss.is_some() {
                return Ok(ControlFlow::Continue(()));
            }
            let now: Vec<_> = weights(trainer.network_mut()).into_iter().map(|(_, values)| values).collect();
            if expected.is_empty() {
                expected = now;
            } else {
                let means = expected.iter_mut().flatten().zip(now.iter().flatten());
                means.for_each(|(mean, value)| *mean = 0.5 * *mean + 0.5 * value);
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let before = weights(trainer.network_mut());
    let seen = trainer.with_averages(|network| Ok(weights(network))).unwrap();
    for ((name, seen), expected) in seen.iter().zip(&expected) {
        assert!(seen.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{name}: {seen:?} {expected:?}");
    }
    assert!(seen != before);
    assert!(weights(trainer.network_mut()) == before);
    let failed = trainer.with_averages(|_| Err::<(), _>(Error::Invalid("no".into())));
    assert!(failed.is_err() && weights(trainer.network_mut()) == before);
}
