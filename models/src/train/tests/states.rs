//! What a state keeps, and what is refused of one.

#[cfg(feature = "gpu")]
use super::super::{Progress, Tally};
use super::{
    super::{Trainer, Training, tally::rows},
    batch, small,
};
use crate::{
    Checkpoint, Config, MnistCnn, Module, Network,
    checkpoint::tests::Folder,
    io::safetensors::{self, Archive, Entry},
};
use quarterturn_autograd::{Optimizer, Schedule};
use quarterturn_core::{Device, Error, Result, Tensor};
use quarterturn_kernels as kernels;
use std::{ops::ControlFlow, path::Path};

/// The file that [`Trainer::save`] writes at the end of a run that is broken off after every `part` steps and
/// taken up by a new network each time. The last layer is frozen for its first `frozen` steps.
fn in_parts(folder: &Path, part: u32, frozen: u32) -> Vec<u8> {
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let path = folder.join(format!("{part}.safetensors"));
    let freeze = |network: &mut MnistCnn, frozen| {
        Module::visit(network, &mut |name, param| param.set_frozen(frozen && name.starts_with("linear")));
    };
    let mut steps = 0;
    loop {
        let mut network = small();
        let mut trainer = match path.exists() {
            true => Trainer::resume(&mut network, training.clone(), &path).unwrap(),
            false => Trainer::new(&mut network, training.clone()),
        };
        freeze(trainer.network, steps < frozen);
        let mut made = 0;
        let batches =
            |epoch, from: u32| Ok((from..3).map(move |i| Ok(batch(3 * epoch + i))).collect::<Vec<_>>().into_iter());
        let outcome = trainer.run(batches, |trainer, at| {
            made += u32::from(at.loss.is_none());
            steps += u32::from(at.loss.is_none());
            freeze(trainer.network, steps < frozen);
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
    let whole = in_parts(folder.path(), u32::MAX, 0);
    for part in [1, 2, 3, 5] {
        assert!(in_parts(folder.path(), part, 0) == whole, "parts of {part} steps");
    }
    let state = Checkpoint::read(folder.path().join("1.safetensors")).unwrap();
    assert!(state.has("optimizer.moment2.linear.weight") && state.has("norm7.running_var"));
}

/// Adam counts the steps of each weight on its own.
#[test]
fn so_does_one_whose_last_layer_was_frozen_at_first() {
    let folder = Folder::new("frozen");
    let whole = in_parts(folder.path(), u32::MAX, 2);
    assert!(in_parts(folder.path(), 3, 2) == whole);
    let path = folder.path().join("3.safetensors");
    let state = Checkpoint::read(&path).unwrap();
    assert_eq!(state.setting::<u64>("optimizer.steps.linear.weight", "").unwrap(), 4);
    let text = String::from_utf8_lossy(&whole).find("optimizer.steps.linear.weight").unwrap();
    let mut bad = whole;
    let digit = text + bad[text..].iter().position(|byte| *byte == b'4').unwrap();
    bad[digit] = b'7';
    std::fs::write(&path, bad).unwrap();
    let resumed = Trainer::resume(&mut small(), Training { epochs: 2, ..Training::mnist(3) }, &path).map(drop);
    assert!(
        matches!(&resumed, Err(Error::Checkpoint { name, .. }) if name == "optimizer.steps.linear.weight"),
        "{resumed:?}"
    );
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
    crate::checkpoint::save(&path, &small()).unwrap();
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
        Module::visit(network, &mut |_, param| values.extend(param.value().to_vec().unwrap()));
        values
    };

    let mut whole = fresh();
    let mut trainer = Trainer::new(&mut whole, training.clone());
    let before = gpu.statistics().read_backs;
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    // And once the largest pixel of the first batch.
    assert_eq!(gpu.statistics().read_backs - before, 2 + 1);
    let (images, labels) = on(9).unwrap();
    let before = gpu.statistics().read_backs;
    let mut tally = Tally::new(5);
    for _ in 0..4 {
        tally.count(&whole, &images, &labels, |images, _| images.clone()).unwrap();
    }
    assert_eq!(gpu.statistics().read_backs - before, 1);
    tally.read().unwrap();
    // Each view, and whether all images had answers.
    assert_eq!(gpu.statistics().read_backs - before, 1 + 5 + 1);

    let mut first = fresh();
    let stop = |trainer: &mut Trainer<MnistCnn>, at: Progress| {
        trainer.save(&path)?;
        Ok(if (at.epoch, at.step) == (1, 2) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    assert!(Trainer::new(&mut first, training.clone()).run(batches, stop).unwrap().is_break());
    let mut second = fresh();
    let mut trainer = Trainer::resume(&mut second, training, &path).unwrap();
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    assert!(bits(&mut second) == bits(&mut whole));
}

/// A GPU does not look at labels, which makes the loss NaN; the run then says which label it was, and not that it diverged.
#[test]
fn a_label_that_is_no_class_is_named_on_every_device() {
    for device in quarterturn_core::testing::devices().into_iter().chain([Device::Reference]) {
        let mut network = small();
        network.to_device(&device).unwrap();
        let batches = |_, _| {
            let batches = (0..3).map(|i| {
                let (images, labels) = batch(i);
                let mut labels = labels.to_vec()?;
                if i == 1 {
                    labels[1] = 10.0;
                }
                let labels = Tensor::from_vec([labels.len()], labels, &device)?;
                Ok((images.to_device(&device)?, labels))
            });
            Ok(batches.collect::<Vec<_>>().into_iter())
        };
        let outcome = Trainer::new(&mut network, Training::mnist(3)).run(batches, |_, _| Ok(ControlFlow::Continue(())));
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("epoch 1, batch 2: label 10 of image 1: expected a whole number"), "{message}");
    }
}

/// Labels on the CPU are looked at before the batch is computed, whatever the device of the network.
#[test]
fn a_label_on_the_cpu_is_looked_at_first_on_every_device() {
    for device in quarterturn_core::testing::devices().into_iter().chain([Device::Reference]) {
        let run = |wrong: bool| {
            let mut network = small();
            network.to_device(&device).unwrap();
            let batches = |_, _| {
                let batches = (0..3).map(|i| {
                    let (images, labels) = batch(i);
                    let mut labels = labels.to_vec()?;
                    if wrong && i == 1 {
                        labels[1] = -1.0;
                    }
                    Ok((images.to_device(&device)?, Tensor::from_vec([labels.len()], labels, &Device::Cpu)?))
                });
                Ok(batches.collect::<Vec<_>>().into_iter())
            };
            let mut steps = 0;
            let outcome =
                Trainer::new(&mut network, Training { epochs: 1, ..Training::mnist(3) }).run(batches, |_, at| {
                    steps += u32::from(at.loss.is_none());
                    Ok(ControlFlow::Continue(()))
                });
            (outcome, steps)
        };
        let (outcome, steps) = run(true);
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains("epoch 1, batch 2: label -1 of image 1: expected a whole number"), "{message}");
        assert_eq!(steps, 1, "the batch was computed before its labels were looked at");
        let (outcome, steps) = run(false);
        assert_eq!((outcome.unwrap(), steps), (ControlFlow::Continue(()), 3));
    }
}

type Tensors = Vec<(String, String, Vec<usize>, Vec<u8>)>;

/// The file at `path` with `edit` applied to its settings and tensors.
fn edit(path: &Path, edit: impl FnOnce(&mut Config, &mut Tensors)) {
    let bytes = std::fs::read(path).unwrap();
    let Archive { mut metadata, tensors } = safetensors::parse(&bytes, bytes.len() as u64).unwrap();
    let unpacked = tensors.into_iter().map(|(name, entry)| match entry {
        Entry::Tensor { dtype, shape, bytes: range } => (name, dtype, shape, bytes[range].to_vec()),
        other => panic!("{other:?}"),
    });
    let mut tensors: Tensors = unpacked.collect();
    edit(&mut metadata, &mut tensors);
    let tensors: Vec<_> = tensors.iter().map(|(n, d, s, b)| (n.clone(), d.as_str(), s.clone(), b.clone())).collect();
    std::fs::write(path, safetensors::serialize(&metadata, &tensors)).unwrap();
}

/// Three batches per epoch.
fn three(epoch: u32, from: u32) -> Result<std::vec::IntoIter<Result<(Tensor, Tensor)>>> {
    Ok((from..3).map(|i| Ok(batch(3 * epoch + i))).collect::<Vec<_>>().into_iter())
}

/// The state of a run of two epochs after so many steps.
fn after(steps: u32, path: &Path) -> Training {
    let training = Training { epochs: 2, ..Training::mnist(3) };
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, training.clone());
    let mut made = 0;
    let _ = trainer
        .run(three, |trainer, at| {
            made += u32::from(at.loss.is_none());
            Ok(if trainer.position.steps == steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
        .unwrap();
    assert_eq!(made, steps);
    trainer.save(path).unwrap();
    training
}

#[test]
fn states_that_contradict_themselves_are_refused_by_name() {
    let folder = Folder::new("contradictions");
    let (path, sound) = (folder.path().join("state.safetensors"), folder.path().join("sound.safetensors"));
    let training = after(4, &sound);
    Trainer::resume(&mut small(), training.clone(), &sound).unwrap();

    fn tensor<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (String, String, Vec<usize>, Vec<u8>) {
        tensors.iter_mut().find(|(n, ..)| n == name).unwrap_or_else(|| panic!("no {name}"))
    }
    type Edit = fn(&mut Config, &mut Tensors);
    type Case = (Box<dyn Fn(&mut Config, &mut Tensors)>, &'static str);
    let set = |name: &'static str, value: &'static str| {
        move |config: &mut Config, _: &mut Tensors| {
            config.insert(name.into(), value.into()).unwrap_or_else(|| panic!("no {name}"));
        }
    };
    let mut cases: Vec<Case> = vec![
        // The lists are as long as the number of epochs says, so they are what is missed first.
        (Box::new(set("training.epoch", "3")), "training.losses"),
        (Box::new(set("training.epoch", "-1")), "training.epoch"),
        (Box::new(set("training.epoch", "4294967296")), "training.epoch"),
        (Box::new(set("training.step", "4")), "training.step"),
        (Box::new(set("training.step", "0")), "training.epoch_steps"),
        (Box::new(set("training.steps", "0")), "training.steps"),
        (Box::new(set("training.steps", "4294967295")), "training.steps"),
        (Box::new(set("training.images", "0")), "training.images"),
        (Box::new(set("training.moved", "0")), "training.moved"),
    ];
    let edits: [(Edit, &str); 16] = [
        (|_, t| t.retain(|(name, ..)| !name.starts_with("optimizer.")), "training.moved"),
        (|_, t| t.retain(|(name, ..)| !name.ends_with("norm3.weight") || name == "norm3.weight"), "training.moved"),
        (|_, t| t.retain(|(name, ..)| name != "optimizer.moment2.norm3.weight"), "optimizer.moment2.norm3.weight"),
        (|_, t| t.retain(|(name, ..)| name != "optimizer.moment1.norm3.weight"), "optimizer.moment1.norm3.weight"),
        (|_, t| tensor(t, "optimizer.moment2.norm3.weight").3[3] |= 0x80, "optimizer.moment2.norm3.weight"),
        (|_, t| t.retain(|(name, ..)| name != "training.loss_sum"), "training.loss_sum"),
        (|_, t| tensor(t, "training.loss_sum").3[3] |= 0x80, "training.loss_sum"),
        (|_, t| tensor(t, "training.losses").3[7] |= 0x80, "training.losses"),
        (|_, t| tensor(t, "training.epoch_steps").3[7] |= 0x80, "training.epoch_steps"),
        (|_, t| t.retain(|(name, ..)| name != "training.labels"), "training.labels"),
        (|_, t| t.push(("training.more".into(), "U8".into(), vec![1], vec![0])), "training.more"),
        (
            |_, t| t.push(("optimizer.velocity.conv1.weight".into(), "U8".into(), vec![1], vec![0])),
            "optimizer.velocity.conv1.weight",
        ),
        (
            |_, t| t.push(("optimizer.moment1.norm1.running_var".into(), "U8".into(), vec![1], vec![0])),
            "optimizer.moment1.norm1.running_var",
        ),
        (|c, _| drop(c.insert("training.more".into(), "1".into())), "training.more"),
        (|c, _| drop(c.insert("optimizer.more".into(), "1".into())), "optimizer.more"),
        (|c, _| drop(c.remove("training.batch")), "training.batch"),
    ];
    cases.extend(edits.map(|(edit, name)| (Box::new(edit) as _, name)));
    for (change, expected) in cases {
        std::fs::copy(&sound, &path).unwrap();
        edit(&path, change);
        let mut network = small();
        let outcome = Trainer::resume(&mut network, training.clone(), &path).map(drop);
        match outcome {
            Err(Error::Checkpoint { name, .. }) => assert_eq!(name, expected),
            other => panic!("{expected}: {other:?}"),
        }
        let (mut values, mut fresh) = (Vec::new(), Vec::new());
        network.visit(&mut |_, param| values.extend_from_slice(param.value().f32s()));
        small().visit(&mut |_, param| fresh.extend_from_slice(param.value().f32s()));
        assert!(values == fresh, "{expected}: the network is changed");
    }

    // Between two epochs, and before the first step, there is no sum of losses; before it, no moments and no batch.
    for steps in [3, 0] {
        match steps {
            0 => Trainer::new(&mut small(), training.clone()).save(&sound).unwrap(),
            _ => {
                let mut network = small();
                let mut trainer = Trainer::new(&mut network, training.clone());
                let _ = trainer
                    .run(three, |_, at| {
                        Ok(if at.loss.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                    })
                    .unwrap();
                trainer.save(&sound).unwrap();
            }
        }
        Trainer::resume(&mut small(), training.clone(), &sound).unwrap();
        edit(&sound, |_, t| t.push(("training.loss_sum".into(), "F32".into(), vec![], vec![0; 4])));
        let outcome = Trainer::resume(&mut small(), training.clone(), &sound).map(drop);
        assert!(matches!(&outcome, Err(Error::Checkpoint { name, .. }) if name == "training.loss_sum"), "{outcome:?}");
    }
}

#[test]
fn a_resumed_run_notices_other_data_and_another_batch_size() {
    let folder = Folder::new("other-data");
    let path = folder.path().join("state.safetensors");
    // In the first epoch, at its end, and in the second.
    for steps in [1, 3, 5] {
        let training = after(steps, &path);
        type Batches = std::vec::IntoIter<Result<(Tensor, Tensor)>>;
        let go_on = |batches: &dyn Fn(u32, u32) -> Result<Batches>| {
            let mut network = small();
            let mut trainer = Trainer::resume(&mut network, training.clone(), &path).unwrap();
            trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).map(drop)
        };
        let refused = |change: &dyn Fn(Tensor, Tensor) -> (Tensor, Tensor), expected: &str| {
            let changed = |epoch, from| {
                let batches = three(epoch, from)?.map(|batch| batch.map(|(images, labels)| change(images, labels)));
                Ok(batches.collect::<Vec<_>>().into_iter())
            };
            match go_on(&changed) {
                Err(Error::Checkpoint { name, .. }) => assert_eq!(name, expected),
                other => panic!("{expected} after {steps}: {other:?}"),
            }
        };
        go_on(&three).unwrap();
        refused(&|images, labels| (rows(&images, 0, 5), rows(&labels, 0, 5)), "training.batch");
        refused(&|images, _| (images, Tensor::full([10], 1.0, &Device::Cpu).unwrap()), "training.labels");
        refused(&|images, labels| (kernels::transform_plane(&images, 1), labels), "training.thumbnails");
        refused(&|images, labels| (kernels::scale(&images, 1.01), labels), "training.thumbnails");
        // As another device would compute them.
        go_on(&|epoch, from| {
            let batches = three(epoch, from)?
                .map(|batch| batch.map(|(images, labels)| (kernels::scale(&images, 1.00001), labels)));
            Ok(batches.collect::<Vec<_>>().into_iter())
        })
        .unwrap();
        let longer = |epoch: u32, from| Ok((from..4).map(|i| Ok(batch(3 * epoch + i))).collect::<Vec<_>>().into_iter());
        let outcome = go_on(&longer);
        assert!(
            matches!(&outcome, Err(Error::Checkpoint { name, .. }) if name == "training.epoch_steps"),
            "{outcome:?}"
        );
    }
}

#[test]
fn notes_stay_with_the_state() {
    let folder = Folder::new("state-notes");
    let path = folder.path().join("state.safetensors");
    let training = Training { epochs: 1, ..Training::mnist(3) };
    let mut network = small();
    let mut trainer = Trainer::new(&mut network, training.clone());
    trainer.notes_mut().insert("best".into(), "0.75".into());
    trainer.save(&path).unwrap();
    let resumed = Trainer::resume(&mut network, training, &path).unwrap();
    assert_eq!(resumed.notes()["best"], "0.75");
}
