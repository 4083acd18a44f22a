//! The best epoch, and runs that end early.

use super::{batch, small};
use crate::{
    Checkpoint, MnistCnn, Module,
    checkpoint::{self, tests::Folder},
    training::{Best, Metric, Report, Trainer, Training, Validation},
};
use quarterturn_core::{Error, Result, Tensor};
use std::{cell::Cell, ops::ControlFlow, path::Path};

type Batches = std::vec::IntoIter<Result<(Tensor, Tensor)>>;

fn two(epoch: u32, from: u32) -> Result<Batches> {
    Ok((from..2).map(|i| Ok(batch(2 * epoch + i))).collect::<Vec<_>>().into_iter())
}

fn held_out() -> Result<[Result<(Tensor, Tensor)>; 2]> {
    Ok([Ok(batch(500)), Ok(batch(501))])
}

/// A metric that has these values epoch after epoch, of two batches each.
fn scripted(values: &'static [f64]) -> Metric {
    let epoch = std::sync::atomic::AtomicUsize::new(0);
    let next = move |_: &Tensor, _: &Tensor| {
        let batch = epoch.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(vec![values[batch / 2] / 2.0])
    };
    Metric::own("scripted", true, next, |sums| sums[0])
}

fn values(network: &mut MnistCnn) -> Vec<f32> {
    let mut values = Vec::new();
    Module::visit(network, &mut |_, param| values.extend_from_slice(param.value().f32s()));
    values
}

#[test]
fn the_best_epoch_is_kept_and_a_run_that_gets_no_better_ends() {
    let folder = Folder::new("fit");
    let path = folder.path().join("best.safetensors");
    let metrics = vec![scripted(&[0.1, f64::NAN, 0.5, 0.4, 0.5, 0.9]), Metric::Accuracy];
    let validation = Validation { metrics, best: Some(path.clone()), patience: Some(2) };
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, Training { epochs: 9, ..Training::mnist(3) });
    trainer.notes_mut().insert("input".into(), "12x12".into());
    let mut reports: Vec<Report> = Vec::new();
    let mut of_best = Vec::new();
    let outcome = trainer.fit(two, &validation, held_out, |trainer, at, report| {
        assert_eq!(report.is_some(), at.loss.is_some());
        if let Some(report) = report {
            reports.push(report.clone());
            if report.is_best {
                of_best = values(trainer.network_mut());
            }
        }
        Ok(ControlFlow::Continue(()))
    });
    assert!(outcome.unwrap().is_continue());
    // Epochs 4 and 5 are not better than epoch 3: the same is not better.
    let best: Vec<bool> = reports.iter().map(|report| report.is_best).collect();
    assert_eq!(best, [true, false, true, false, false]);
    assert_eq!(trainer.best(), Some(&Best { epoch: 2, metric: "scripted".into(), value: 0.5 }));
    assert_eq!((reports[4].epoch, reports[4].scores.images(), trainer.epoch()), (4, 20, 5));
    assert!(reports[4].scores.value(&Metric::Accuracy).unwrap() >= 0.5);
    let file = Checkpoint::read(&path).unwrap();
    assert_eq!(file.notes()["input"], "12x12");
    let mut kept = small();
    file.restore(&mut kept).unwrap();
    assert!(values(&mut kept) == of_best);
    checkpoint::load(&path, &quarterturn_core::Device::Cpu).unwrap();
}

/// Broken off after each step and taken up again, or not.
fn fit(state: &Path, best: &Path, in_parts: bool) -> (Vec<u8>, Vec<u8>) {
    let metrics = vec![Metric::Loss, Metric::Iou];
    let validation = Validation { metrics, best: Some(best.into()), patience: Some(1) };
    let training = Training { epochs: 4, average: Some(0.5), ..Training::mnist(3) };
    loop {
        let mut network = small();
        let mut trainer = match state.exists() {
            true => Trainer::resume(&mut network, training.clone(), state).unwrap(),
            false => Trainer::new(&mut network, training.clone()),
        };
        let outcome = trainer.fit(two, &validation, held_out, |trainer, _, _| {
            trainer.save(state)?;
            Ok(if in_parts { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        if outcome.unwrap().is_continue() {
            return (std::fs::read(state).unwrap(), std::fs::read(best).unwrap());
        }
    }
}

#[test]
fn a_resumed_run_remembers_the_best_epoch() {
    let folder = Folder::new("fit-parts");
    let [a, b, best_a, best_b] = ["a", "b", "best-a", "best-b"].map(|name| folder.path().join(name));
    let whole = fit(&a, &best_a, false);
    assert!(fit(&b, &best_b, true) == whole);
    let state = Checkpoint::read(&a).unwrap();
    assert_eq!(state.config()["training.best_metric"], "loss");

    let training = Training { epochs: 4, average: Some(0.5), ..Training::mnist(3) };
    let mut network = small();
    let mut trainer = Trainer::resume(&mut network, training.clone(), &a).unwrap();
    let other = Validation { metrics: vec![Metric::Accuracy], ..Validation::default() };
    match trainer.fit(two, &other, held_out, |_, _, _| Ok(ControlFlow::Continue(()))) {
        Err(Error::Checkpoint { name, .. }) => assert_eq!(name, "training.best_metric"),
        other => panic!("{other:?}"),
    }
    // Of an epoch that is not finished yet, and of a value with which nothing compares.
    for (name, value) in [("best_epoch", "9"), ("best_value", "NaN")] {
        let mut bytes = std::fs::read(&a).unwrap();
        let text = format!("\"training.{name}\":\"");
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap() + text.len();
        // Spaces behind the new value, so that the header is as long as before.
        let end = at + bytes[at..].iter().position(|&byte| byte == b'"').unwrap();
        bytes[at..=end].fill(b' ');
        bytes[at..=at + value.len()].copy_from_slice(format!("{value}\"").as_bytes());
        std::fs::write(&b, bytes).unwrap();
        match Trainer::resume(&mut small(), training.clone(), &b).map(drop) {
            Err(Error::Checkpoint { name: found, .. }) => assert_eq!(found, format!("training.{name}")),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn without_a_metric_there_is_nothing_to_measure() {
    let asked = Cell::new(false);
    let held_out = || {
        asked.set(true);
        held_out()
    };
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, Training { epochs: 1, ..Training::mnist(3) });
    let outcome = trainer.fit(two, &Validation::default(), held_out, |_, _, _| Ok(ControlFlow::Continue(())));
    assert!(matches!(outcome, Err(Error::Invalid(message)) if message.contains("expected a metric")));
    assert!(!asked.get());
}
