//! The training loop and the count of correct answers.

use crate::{Checkpoint, Config, Exactness, Mode, Network, checkpoint::Encoder};
use quarterturn_autograd::{Kind, Optimizer, Rule, Schedule, Tape};
use quarterturn_core::{Device, Error, HostBuffer, Result, Tensor};
use quarterturn_kernels as kernels;
use rayon::prelude::*;
use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    path::Path,
    sync::{Mutex, PoisonError},
};

/// Images that one thread evaluates at a time: few, so that their feature maps stay in its cache.
const CHUNK: usize = 16;

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Passes over the data.
    pub epochs: u32,
    /// The optimizer.
    pub rule: Rule,
    /// The learning rate.
    pub schedule: Schedule,
    /// Key of all random numbers: dropout here, and whatever the batches draw.
    pub seed: u64,
}

impl Training {
    /// The paper's setting for MNIST: Adam, learning rate 0.01 halved every 10 epochs, weight decay 1e-5, 50 epochs.
    pub fn mnist(seed: u64) -> Self {
        Training {
            epochs: 50,
            rule: Optimizer::adam(1e-5).rule(),
            schedule: Schedule::Step { lr: 0.01, factor: 0.5, every: 10 },
            seed,
        }
    }
}

/// Where a run stands: told after each step, and once more after each epoch, with its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: u32,
    /// Steps made in this epoch.
    pub step: u32,
    /// Steps of this epoch.
    pub steps: u32,
    /// The learning rate of this step.
    pub lr: f64,
    /// At the end of an epoch: the mean loss over its images, as they were met.
    pub loss: Option<f64>,
}

/// Says on standard error, once per process, that a network breaks its symmetry at the size of `images`, and which sizes do not:
/// it would learn to profit from that, and nobody would notice.
fn warn_if_inexact<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<()> {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    network.output_shape(images.shape())?;
    let warning = Exactness::of(network, [images.dims()[3], images.dims()[4]])?.warning();
    if let Some(warning) = warning
        && TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone())
    {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// One step on one batch: forward, backward, update. Returns the loss, shape `[]`, still on the device.
///
/// # Errors
/// [`Error::Invalid`] if the images do not fit; or when the GPU has no room.
///
/// # Panics
/// If there is not one label per image.
pub fn train_step<N: Network + ?Sized>(
    network: &mut N,
    optimizer: &mut Optimizer,
    lr: f64,
    mode: Mode,
    images: &Tensor,
    labels: &Tensor,
) -> Result<Tensor> {
    network.output_shape(images.shape())?;
    let mut step = || {
        let tape = Tape::new();
        let loss = network.forward(tape.constant(images.clone()), mode).cross_entropy(labels);
        let gradients = loss.backward()?;
        let loss = loss.value().clone();
        // The tape shares the weights; without it they are updated in place.
        drop(tape);
        optimizer.step(&gradients, lr, |f| network.visit(f))?;
        Ok(loss)
    };
    match images.device() {
        // On one of the threads that share the work: another one would sleep and be woken for each operation.
        Device::Cpu => rayon::scope(|_| step()),
        _ => step(),
    }
}

/// Trains `network`. `batches(epoch)` yields the images `[N, C, 1, H, W]` and labels `[N]` of an epoch. The loss is
/// read back once per epoch only. Returns each epoch's mean loss. For a run that can be resumed see [`Trainer`].
///
/// # Errors
/// [`Error::Invalid`] if images do not fit, an epoch has no batch, or the loss is no longer finite; whatever `batches`
/// or the device report.
pub fn train<N, B, I>(
    network: &mut N,
    training: &Training,
    mut batches: B,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<f64>>
where
    N: Network + ?Sized,
    B: FnMut(u32) -> Result<I>,
    I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
{
    let mut trainer = Trainer::new(network, training.clone());
    let _ = trainer.run(
        |epoch, _| batches(epoch),
        |_, at| {
            progress(at);
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(trainer.losses)
}

/// A training run that can stop after any step and go on, in another process too, with the same bits.
///
/// Its state is all that decides what follows: the network's parameters and running statistics, the optimizer's
/// moments and step, the position in the run (and so in the schedule), the losses so far and the sum of this epoch's.
/// Random numbers need no state, being functions of the seed and the position. [`Trainer::save`] writes the state to
/// one file, [`Trainer::resume`] takes it up.
#[derive(Debug)]
pub struct Trainer<'n, N: Network + ?Sized> {
    network: &'n mut N,
    training: Training,
    optimizer: Optimizer,
    /// The epoch under way, from 0, and the steps made in it and in all.
    epoch: u32,
    step: u32,
    steps: u32,
    /// Of this epoch: the sum of the images' losses, still on the device, and their number.
    loss_sum: Option<Tensor>,
    images: u64,
    /// The mean loss of each finished epoch.
    losses: Vec<f64>,
}

/// Names of the state's tensors that are not the network's begin with one of these.
const OPTIMIZER: &str = "optimizer.";
const TRAINING: &str = "training.";

impl<'n, N: Network + ?Sized> Trainer<'n, N> {
    /// A run that has made no step.
    pub fn new(network: &'n mut N, training: Training) -> Self {
        let optimizer = Optimizer::new(training.rule);
        Trainer { network, training, optimizer, epoch: 0, step: 0, steps: 0, loss_sum: None, images: 0, losses: vec![] }
    }

    /// The run whose state [`Trainer::save`] wrote to `path`: `network` takes the state's values.
    ///
    /// # Errors
    /// As [`Checkpoint::restore`]; [`Error::Checkpoint`] with the name of the setting if the state is of a run with
    /// other settings than `training`. The network is then of no use.
    pub fn resume(network: &'n mut N, training: Training, path: impl AsRef<Path>) -> Result<Self> {
        let state = Checkpoint::read(path)?;
        let mut trainer = Self::new(network, training);
        for (name, expected) in trainer.settings() {
            state.expect(&name, &expected)?;
        }
        trainer.epoch = state.setting(&format!("{TRAINING}epoch"), "a whole number")?;
        trainer.step = state.setting(&format!("{TRAINING}step"), "a whole number")?;
        trainer.steps = state.setting(&format!("{TRAINING}steps"), "a whole number")?;
        trainer.images = state.setting(&format!("{TRAINING}images"), "a whole number")?;
        trainer.optimizer.set_steps(u64::from(trainer.steps));
        let own = |name: &str| name.starts_with(OPTIMIZER) || name.starts_with(TRAINING);
        state.restore_except(trainer.network, own)?;

        let device = trainer.network.device();
        let (optimizer, mut outcome) = (&mut trainer.optimizer, Ok(()));
        let names = optimizer.rule().state_names();
        trainer.network.visit(&mut |name, param| {
            let first = format!("{OPTIMIZER}{}.{name}", names[0]);
            if outcome.is_ok() && param.kind() == Kind::Weight && state.has(&first) {
                let tensor =
                    |kept: &&str| state.tensor(&format!("{OPTIMIZER}{kept}.{name}"), param.value().shape(), &device);
                outcome = names.iter().map(tensor).collect::<Result<_>>().and_then(|t| optimizer.set_state(param, t));
            }
        });
        outcome?;
        let sum = format!("{TRAINING}loss_sum");
        if state.has(&sum) {
            trainer.loss_sum = Some(state.tensor(&sum, [].into(), &device)?);
        }
        let losses = state.tensor(&format!("{TRAINING}losses"), [trainer.epoch as usize].into(), &Device::Reference)?;
        trainer.losses = losses.f64s().to_vec();
        Ok(trainer)
    }

    /// Writes the state to `path`, whole or not at all: the network's tensors under their own names, the rest behind
    /// `optimizer.` and `training.`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Invalid`] if the loss is no longer finite, so that a state that cannot be resumed never
    /// replaces one that can; what went wrong on the GPU. A former file at `path` is then unharmed.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        if let Some(sum) = &self.loss_sum {
            self.expect_finite(sum.to_f64()?[0] / self.images as f64)?;
        }
        let mut archive = Encoder::of(self.network)?;
        let (optimizer, mut outcome) = (&self.optimizer, Ok(()));
        self.network.visit(&mut |name, param| {
            for (kept, tensor) in optimizer.rule().state_names().iter().zip(optimizer.state(param).unwrap_or_default())
            {
                if outcome.is_ok() {
                    outcome = archive.tensor(format!("{OPTIMIZER}{kept}.{name}"), tensor);
                }
            }
        });
        outcome?;
        if let Some(sum) = &self.loss_sum {
            archive.tensor(format!("{TRAINING}loss_sum"), sum)?;
        }
        let losses = Tensor::reference([self.losses.len()], self.losses.clone());
        archive.tensor(format!("{TRAINING}losses"), &losses)?;
        let position = [("epoch", self.epoch.into()), ("step", self.step.into()), ("steps", self.steps.into())];
        for (name, value) in position.into_iter().chain([("images", self.images)]) {
            archive.setting(format!("{TRAINING}{name}"), value.to_string());
        }
        for (name, value) in self.settings() {
            archive.setting(name, value);
        }
        archive.write(path)
    }

    /// What must not change between the parts of a run.
    fn settings(&self) -> Config {
        let Training { epochs, rule, schedule, seed } = &self.training;
        let named = |name: &str, value: String| (format!("{TRAINING}{name}"), value);
        Config::from([
            named("epochs", epochs.to_string()),
            named("rule", format!("{rule:?}")),
            named("schedule", format!("{schedule:?}")),
            named("seed", seed.to_string()),
        ])
    }

    /// Trains on to the end of the run, or until `watch` breaks off. `batches(epoch, from)` yields the images
    /// `[N, C, 1, H, W]` and labels `[N]` of an epoch from its step `from` on, which is not 0 where a run is resumed.
    /// `watch` sees the trainer after each step, and once more after each epoch; it may save the state. The loss is
    /// read back once per epoch only.
    ///
    /// # Errors
    /// [`Error::Invalid`] if images do not fit, an epoch has no batch, or the loss is no longer finite; whatever
    /// `batches`, `watch` or the device report.
    pub fn run<B, I>(
        &mut self,
        mut batches: B,
        mut watch: impl FnMut(&mut Self, Progress) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>>
    where
        B: FnMut(u32, u32) -> Result<I>,
        I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
    {
        while self.epoch < self.training.epochs {
            let (epoch, from) = (self.epoch, self.step);
            let batches = batches(epoch, from)?;
            let steps = from + batches.len() as u32;
            let lr = |step| self.training.schedule.lr(epoch, step, self.training.epochs, steps);
            let rates: Vec<f64> = (from..steps).map(lr).collect();
            for (batch, &lr) in batches.zip(&rates) {
                let (images, labels) = batch?;
                self.step_on(&images, &labels, lr)?;
                let at = Progress { epoch, step: self.step, steps, lr, loss: None };
                if watch(self, at)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let lr = self.training.schedule.lr(epoch, steps.saturating_sub(1), self.training.epochs, steps);
            let loss = Some(self.end_epoch()?);
            if watch(self, Progress { epoch, step: steps, steps, lr, loss })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// One step of this epoch.
    fn step_on(&mut self, images: &Tensor, labels: &Tensor, lr: f64) -> Result<()> {
        let mode = Mode::Train { seed: self.training.seed, step: self.steps };
        if self.loss_sum.is_none() {
            warn_if_inexact(self.network, images)?;
        }
        let loss = train_step(self.network, &mut self.optimizer, lr, mode, images, labels)?;
        let n = images.dims()[0];
        let weighted = kernels::scale(&loss, n as f64);
        self.loss_sum = Some(match &self.loss_sum {
            Some(sum) => kernels::add(sum, &weighted),
            None => weighted,
        });
        self.images += n as u64;
        self.step += 1;
        self.steps += 1;
        Ok(())
    }

    /// Closes this epoch; its mean loss.
    fn end_epoch(&mut self) -> Result<f64> {
        let Some(sum) = &self.loss_sum else {
            return Err(Error::Invalid(format!("epoch {} has no batch to train on", self.epoch + 1)));
        };
        let mean = sum.to_f64()?[0] / self.images as f64;
        self.expect_finite(mean)?;
        self.losses.push(mean);
        self.epoch += 1;
        (self.step, self.loss_sum, self.images) = (0, None, 0);
        Ok(mean)
    }

    fn expect_finite(&self, loss: f64) -> Result<()> {
        if loss.is_finite() {
            return Ok(());
        }
        let epoch = self.epoch + 1;
        let lr = self.training.schedule.lr(self.epoch, self.step.saturating_sub(1), self.training.epochs, self.step);
        Err(Error::Invalid(format!(
            "training diverged: the mean loss of epoch {epoch} is {loss}; try a lower learning rate than {lr}"
        )))
    }

    /// The epoch under way, from 0; the number of epochs if the run has ended.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Steps made in this epoch.
    pub fn step(&self) -> u32 {
        self.step
    }

    /// The mean loss of each finished epoch, over its images as they were met.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// The network in training.
    pub fn network(&self) -> &N {
        self.network
    }
}

/// How many of the images `[N, C, 1, H, W]` the network classifies as `labels` `[N]` say. Other devices than the CPU
/// take the images at once: pass a few hundred at a time. To test on several views of each image, or without waiting
/// for a GPU after each batch, see [`Tally`].
///
/// # Errors
/// As [`Tally::count`].
pub fn evaluate<N: Network + ?Sized>(network: &N, images: &Tensor, labels: &Tensor) -> Result<u64> {
    let mut tally = Tally::new(1);
    tally.count(network, images, labels, |images, _| images.clone())?;
    Ok(tally.read()?[0])
}

/// Counts of correct answers over the batches of a test set, for several views of each image (rotations, say). On a
/// GPU they are kept there until somebody reads them.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: Vec<u64>,
    /// What the counts lack, where it is still on the device.
    pending: Vec<Option<Tensor>>,
}

impl Tally {
    /// Counts for so many views, at 0.
    pub fn new(views: usize) -> Self {
        Self::from_counts(vec![0; views])
    }

    /// Counts on from what [`Tally::read`] gave.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        let pending = vec![None; counts.len()];
        Tally { counts, pending }
    }

    /// Adds the images `[N, C, H, W]` or `[N, C, 1, H, W]` with `labels` `[N]`: view `v` of them, as the network gets
    /// it, is `view(images, v)`. On the CPU the threads share the images, a few at a time, and make all views of those
    /// they have; the counts do not depend on how. Other devices take all images at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the views do not fit the network, the images are on another device, or are not as many
    /// as the labels; or what went wrong on the GPU.
    pub fn count<N: Network + ?Sized>(
        &mut self,
        network: &N,
        images: &Tensor,
        labels: &Tensor,
        view: impl Fn(&Tensor, usize) -> Tensor + Sync,
    ) -> Result<()> {
        let n = images.dims()[0];
        if labels.dims() != [n] {
            return Err(Error::Invalid(format!("evaluate: {n} images, labels of shape {:?}", labels.shape())));
        }
        let here = network.device();
        if let Some(other) = [images, labels].into_iter().map(Tensor::device).find(|device| !device.same(&here)) {
            return Err(Error::Invalid(format!("evaluate: the network is on {here}, images or labels are on {other}")));
        }
        let views = 0..self.counts.len();
        let correct = |images: &Tensor, labels: &Tensor, v| -> Result<Tensor> {
            Ok(kernels::count_correct(&network.predict(&view(images, v))?, labels))
        };
        if !matches!(here, Device::Cpu) {
            for v in views {
                let more = correct(images, labels, v)?;
                self.pending[v] = Some(match &self.pending[v] {
                    Some(sum) => kernels::add(sum, &more),
                    None => more,
                });
            }
            return Ok(());
        }
        let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let chunk = |from| -> Result<Vec<u64>> {
            let count = CHUNK.min(n - from);
            let (images, labels) = (rows(images, from, count), rows(labels, from, count));
            views.clone().map(|v| Ok(correct(&images, &labels, v)?.f32s()[0] as u64)).collect()
        };
        let sum = |a: Vec<u64>, b: Vec<u64>| Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect());
        let more = starts.into_par_iter().map(chunk).try_reduce(|| vec![0; self.counts.len()], sum)?;
        self.counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        Ok(())
    }

    /// Waits until a GPU has counted what it was given, so that it is never far behind.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn wait(&self) -> Result<()> {
        self.pending.last().and_then(Option::as_ref).map_or(Ok(()), |last| last.to_vec().map(drop))
    }

    /// The count of each view.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn read(&mut self) -> Result<&[u64]> {
        for (count, pending) in self.counts.iter_mut().zip(&mut self.pending) {
            if let Some(more) = pending {
                *count += more.to_f64()?[0] as u64;
                *pending = None;
            }
        }
        Ok(&self.counts)
    }
}

/// Rows `from .. from + count` of the first axis, on the CPU.
fn rows(x: &Tensor, from: usize, count: usize) -> Tensor {
    let mut dims = x.dims().to_vec();
    dims[0] = count;
    let row = x.len() / x.dims()[0];
    let mut part = HostBuffer::scratch(count * row);
    part.copy_from_slice(&x.f32s()[from * row..(from + count) * row]);
    Tensor::cpu(&dims[..], part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MnistCnn, MnistCnnConfig, checkpoint::tests::Folder};
    use quarterturn_core::{Shape, Stream};

    fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
        let (shape, stream) = (shape.into(), Stream::new(5, stream, 0));
        Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), &Device::Cpu)
            .unwrap()
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
        assert!(matches!(
            evaluate(&small(), &batch(0).0, &Tensor::cpu([3], HostBuffer::zeros(3))),
            Err(Error::Invalid(_))
        ));
    }
}
