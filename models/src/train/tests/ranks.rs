//! Micro-batches, and threads in the place of processes that share them.

use super::{KEEPING, batch};
use crate::{
    Builder, Init, Mode, Module, Network, ResNet, ResNetConfig, Sequential,
    checkpoint::tests::Folder,
    training::{Clip, Metric, Ranks, Trainer, Training, Validation},
};
use quarterturn_autograd::{Optimizer, Schedule};
use quarterturn_core::{Device, Error, Result, Share, Tensor, testing};
use quarterturn_kernels::Group;
use std::{
    fs,
    ops::ControlFlow,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
};

/// A rank that is a thread.
#[derive(Debug)]
pub(super) struct Thread {
    rank: usize,
    to: Vec<Mutex<mpsc::Sender<Vec<u8>>>>,
    from: Vec<Mutex<mpsc::Receiver<Vec<u8>>>>,
}

impl Ranks for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn exchange(&self, partner: usize, mine: &[u8], theirs: &mut [u8]) -> Result<()> {
        let gone = || Error::Invalid(format!("rank {partner} has ended"));
        self.to[partner].lock().unwrap().send(mine.to_vec()).map_err(|_| gone())?;
        let received = self.from[partner].lock().unwrap().recv().map_err(|_| gone())?;
        theirs.copy_from_slice(&received);
        Ok(())
    }
}

/// What each of `size` ranks makes of its part, on a thread of its own.
pub(super) fn on_ranks<T: Send>(size: usize, part: impl Fn(Arc<Thread>) -> T + Sync) -> Vec<T> {
    let (mut to, mut from) = (Vec::new(), Vec::new());
    (0..size).for_each(|_| {
        to.push(Vec::new());
        from.push(Vec::new());
    });
    for sender in 0..size {
        for receiver in 0..size {
            let (sends, receives) = mpsc::channel();
            to[sender].push(Mutex::new(sends));
            from[receiver].push(Mutex::new(receives));
        }
    }
    let ranks = to.into_iter().zip(from).enumerate();
    let ranks: Vec<Thread> = ranks.map(|(rank, (to, from))| Thread { rank, to, from }).collect();
    thread::scope(|scope| {
        let part = &part;
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || part(Arc::new(rank)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn resnet() -> ResNet {
    let config =
        ResNetConfig { in_channels: 1, classes: 2, widths: vec![2, 3, 4], ..ResNetConfig::resnet44(Group::C4) };
    ResNet::new(ResNetConfig { blocks: vec![1, 1, 1], ..config }, Init::kaiming(2), &Device::Cpu).unwrap()
}

fn training() -> Training {
    let schedule = Schedule::OneCycle { max_lr: 0.05 };
    Training {
        micro_batches: 8,
        clip: Some(Clip::Norm(0.5)),
        average: Some(0.9),
        mixup: Some(0.4),
        ..Training::new(2, Optimizer::adamw(0.1).rule(), schedule, 3)
    }
}

type Batches = std::vec::IntoIter<Result<(Tensor, Tensor)>>;

/// A share of `n` batches, without its first `from`, on `device`.
fn own(share: Share, first: u32, from: u32, n: u32, device: &Device) -> Batches {
    let on = |i: u32| {
        let (images, labels) = batch(first + i);
        let [images, labels] = [images, labels].map(|x| super::super::tally::rows(&x, 0, 4));
        // Of wide range, so that another order of additions has other bits.
        let images = quarterturn_kernels::scale(&images, f64::from(i % 5 * 40 + 1) * 0.01);
        Ok((images.to_device(device)?, labels.to_device(device)?))
    };
    let own: Vec<u32> = (0..n).filter(|&i| share.has(i as usize)).skip(from as usize).collect();
    own.into_iter().map(on).collect::<Vec<_>>().into_iter()
}

/// The run's files, trained on `sizes` ranks in turn, each for a part of the run that ends after a step.
fn files(
    folder: &Path,
    network: impl Fn() -> Box<dyn Network> + Sync,
    device: &Device,
    sync_batch_norm: bool,
    sizes: &[usize],
) -> [Vec<u8>; 2] {
    let [state, best] = ["state", "best"].map(|name| folder.join(format!("{name}.safetensors")));
    for path in [&state, &best] {
        let _ = fs::remove_file(path);
    }
    let validation =
        Validation { metrics: vec![Metric::Loss, Metric::Accuracy], best: Some(best.clone()), patience: None };
    let (mut sizes, training) = (sizes.iter().cycle(), || Training { sync_batch_norm, ..training() });
    loop {
        let ended = on_ranks(*sizes.next().unwrap(), |ranks| -> Result<bool> {
            let mut network = network();
            network.to_device(device)?;
            let trainer = match state.exists() {
                true => Trainer::resume(&mut *network, training(), &state)?,
                false => Trainer::new(&mut *network, training()),
            };
            // Nobody writes before all have read.
            super::super::ranks::wait_for_all(&*ranks)?;
            let share = Share::new(ranks.rank(), ranks.size(), 8)?;
            let (mut trainer, mut steps) = (trainer.with_ranks(ranks), 0);
            // 8 + 4 batches: in the last step, some ranks have nothing.
            let outcome = trainer.fit(
                |epoch, from| Ok(own(share, 12 * epoch, from, 12, device)),
                &validation,
                || Ok(own(share, 100, 0, 5, device)),
                |_, at, _| {
                    steps += u32::from(at.loss.is_none());
                    Ok(if steps == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                },
            )?;
            trainer.save(&state)?;
            Ok(outcome.is_continue())
        });
        if ended.into_iter().all(Result::unwrap) {
            return [&state, &best].map(|path| fs::read(path).unwrap());
        }
    }
}

#[test]
fn any_number_of_ranks_makes_the_same_bits_and_a_run_goes_on_with_another_number() {
    let folder = Folder::new("ranks");
    let networks: [&(dyn Fn() -> Box<dyn Network> + Sync); 2] = [&|| Box::new(super::small()), &|| Box::new(resnet())];
    for network in networks {
        let on = |sync_batch_norm, sizes| files(folder.path(), network, &Device::Cpu, sync_batch_norm, sizes);
        let [of_each, of_all] = [false, true].map(|sync_batch_norm| {
            let one = on(sync_batch_norm, &[1]);
            // A run in parts is one on each number.
            let sizes: &[&[usize]] =
                if sync_batch_norm { &[&[8], &[2, 4, 1]] } else { &[&[2], &[4], &[8], &[2, 4, 1]] };
            for sizes in sizes {
                assert!(on(sync_batch_norm, sizes) == one, "{sizes:?} ranks");
            }
            one
        });
        assert!(of_each != of_all, "norms of all micro-batches are those of each");
    }
}

#[test]
fn ranks_with_a_gpu_make_the_same_bits() {
    let folder = Folder::new("ranks-gpu");
    for device in testing::devices().into_iter().filter(|device| !matches!(device, Device::Cpu)) {
        for sync_batch_norm in [false, true] {
            let on = |sizes| files(folder.path(), || Box::new(super::small()), &device, sync_batch_norm, sizes);
            assert!(on(&[1]) == on(&[2, 4]), "{device}");
        }
    }
}

/// The reference device adds in f64 and knows no order that f32 would show: it says what the sums should be.
#[test]
fn a_step_of_micro_batches_is_the_mean_over_their_images() {
    let network = || {
        let builder =
            Builder::new(Group::C4, 1, Init::new(1), &Device::Reference).conv("conv", 2, KEEPING).norm("norm");
        Sequential::new("small", builder.relu().spatial_mean().coset_max().linear("linear", 2).build().unwrap())
    };
    let parts = || {
        [(0, 6), (6, 3), (9, 1)].map(|(from, count)| {
            let (images, labels) = batch(0);
            let rows = |x: &Tensor| super::super::tally::rows(x, from, count).to_device(&Device::Reference).unwrap();
            (rows(&images), rows(&labels), count as f64)
        })
    };
    let sgd = Training {
        micro_batches: 3,
        ..Training::new(1, Optimizer::sgd(0.0, 0.0).rule(), Schedule::Constant { lr: 1.0 }, 3)
    };
    let mut trained = network();
    let mut trainer = Trainer::new(&mut trained, sgd);
    let batches = |_, _| Ok(parts().map(|(images, labels, _)| Ok((images, labels))).into_iter());
    let _ = trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).unwrap();
    let loss = trainer.losses()[0];

    let (mut expected_loss, mut expected) = (0.0, Vec::<Vec<f64>>::new());
    for (images, labels, count) in parts() {
        let mut network = network();
        let tape = quarterturn_autograd::Tape::new();
        let logits = Network::layers(&network).forward(tape.constant(images), Mode::Train { seed: 3, step: 0 });
        let loss = logits.cross_entropy(&labels);
        expected_loss += count * loss.value().f64s()[0] / 10.0;
        let gradients = loss.backward().unwrap();
        let mut place = 0;
        Module::visit(&mut network, &mut |_, param| {
            let start = param.value().f64s().to_vec();
            // A step of SGD is linear in the gradient, and so is the mean of buffers.
            let moved: Vec<f64> = match (gradients.of(param), gradients.buffer(param)) {
                (Some(gradient), _) => start.iter().zip(gradient.f64s()).map(|(w, dw)| w - dw).collect(),
                (None, Some(buffer)) => buffer.f64s().to_vec(),
                (None, None) => start,
            };
            if expected.len() == place {
                expected.push(vec![0.0; moved.len()]);
            }
            expected[place].iter_mut().zip(moved).for_each(|(mean, moved)| *mean += count * moved / 10.0);
            place += 1;
        });
    }
    assert!((loss - expected_loss).abs() < 1e-12, "{loss}, not {expected_loss}");
    let mut place = 0;
    Module::visit(&mut trained, &mut |name, param| {
        for (got, expected) in param.value().f64s().iter().zip(&expected[place]) {
            assert!((got - expected).abs() < 1e-12, "{name}: {got}, not {expected}");
        }
        place += 1;
    });
}

#[test]
fn a_run_that_cannot_be_shared_is_an_error() {
    let outcome = |size: usize, micro_batches: u32, batches: u32, other_network: bool| {
        let outcomes = on_ranks(size, |ranks| {
            let config = crate::MnistCnnConfig { width: 3, classes: 2, ..crate::MnistCnnConfig::p4cnn() };
            let seed = if other_network { ranks.rank() as u64 } else { 1 };
            let mut network = crate::MnistCnn::new(config, seed, &Device::Cpu).unwrap();
            let training = Training { micro_batches, ..training() };
            let mut trainer = Trainer::new(&mut network, training).with_ranks(ranks);
            let all = |_, _| Ok((0..batches).map(|i| Ok(batch(i))).collect::<Vec<_>>().into_iter());
            trainer.run(all, |_, _| Ok(ControlFlow::Continue(()))).map(drop)
        });
        let mut messages = outcomes.into_iter().filter_map(Result::err).map(|error| error.to_string());
        messages.next().unwrap_or_default()
    };
    for (found, expected) in [
        (outcome(3, 6, 6, false), "3 processes: expected a power of two"),
        (outcome(4, 2, 6, false), "2 micro-batches per step cannot be shared by 4 processes"),
        (outcome(2, 2, 6, false), "every process was given the same batch"),
        (outcome(2, 4, 3, false), "rank 0 of 2: expected its share of 6 batches, 4, got 3"),
        (outcome(2, 2, 6, true), "rank 0 of 2: its network, settings or position are not those of other processes"),
    ] {
        assert!(found.contains(expected), "{found}, not {expected}");
    }
}
