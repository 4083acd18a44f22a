//! One run: a network, trained with one seed on one distribution of angles, and tested at every angle.

use super::{Protocol, Settings, Subject, Turns};
use crate::support::{digits::Digits, runner::Context};
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Error, Result, Tensor},
    data::{Batch, Dataset},
    kernels::transform_plane,
    models::{
        MnistCnn, Mode, Network, checkpoint,
        training::{Tally, Trainer, train_step},
    },
};
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, fmt, ops::ControlFlow, time::Instant};

/// Test digits that are counted together: on the CPU about two seconds' work, on a GPU as many as one buffer holds.
const SLICE: [usize; 2] = [250, 1000];
/// Digits on which each trained network is asked whether a turn changes a bit of its logits.
const PROBES: usize = 16;
/// Digits that speed is measured with.
const MEASURED: usize = 64;

/// What to train and test.
#[derive(Clone, Copy)]
pub struct Trial {
    pub subject: Subject,
    pub turns: Turns,
    pub seed: u64,
}

impl Trial {
    /// Its name in files.
    pub fn key(self) -> String {
        let Trial { subject: Subject { group, size }, turns, seed } = self;
        format!("{group}-{size}_{}_seed-{seed}", turns.key())
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, seed {}", self.subject, self.turns.title(), self.seed)
    }
}

/// What a trial finds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tested {
    /// Digits recognised, by angle.
    pub correct: Vec<u64>,
    /// Whether quarter turns leave every bit of the logits.
    pub exact: bool,
    /// Trained values of the network.
    pub parameters: u64,
}

/// How far a test is.
#[derive(Serialize, Deserialize)]
struct Standing {
    digits: usize,
    correct: Vec<u64>,
}

/// Seconds that an image takes.
#[derive(Clone, Copy)]
struct Speed {
    training: f64,
    testing: f64,
}

/// What all trials share.
pub struct Bench<'a> {
    digits: &'a Digits,
    settings: &'a Settings,
    device: &'a Device,
    test: Dataset,
    degrees: Vec<f32>,
    speeds: RefCell<Vec<(Subject, Speed)>>,
}

impl<'a> Bench<'a> {
    /// Gets the test digits.
    ///
    /// # Errors
    /// If there are fewer than the settings say.
    pub fn new(digits: &'a Digits, settings: &'a Settings, device: &'a Device) -> Result<Self> {
        let test = settings.protocol.dataset(digits.test(settings.test as usize)?)?;
        let degrees = settings.degrees().iter().map(|&degrees| degrees as f32).collect();
        Ok(Bench { digits, settings, device, test, degrees, speeds: RefCell::default() })
    }

    /// How many seconds a run will take, by a training step and a test on a few digits.
    ///
    /// # Errors
    /// If the device fails.
    pub fn estimate(&self, subject: Subject) -> Result<f64> {
        let speed = self.speed(subject)?;
        Ok(speed.training * self.training_passes() + speed.testing * self.test_passes(self.test.len()))
    }

    fn training_passes(&self) -> f64 {
        (self.settings.epochs * self.settings.train) as f64
    }

    fn test_passes(&self, digits: usize) -> f64 {
        (digits * self.degrees.len()) as f64
    }

    fn speed(&self, subject: Subject) -> Result<Speed> {
        if let Some((_, speed)) = self.speeds.borrow().iter().find(|(known, _)| *known == subject) {
            return Ok(*speed);
        }
        let probe = self.test.first(MEASURED.min(self.test.len()).min(self.settings.batch as usize))?;
        let batch = self.batches(&probe, MEASURED).next().transpose()?;
        let Some(batch) = batch else { return Err(Error::Invalid("there is no digit to test on".into())) };
        let images = self.settings.protocol.resized(&batch.images, subject.size);
        let turned = self.settings.protocol.turned(&images, &vec![45.0; probe.len()]);
        let mut network = MnistCnn::new(subject.config(self.settings.protocol.channels()), 0, self.device)?;
        let mut optimizer = Optimizer::adam(0.0);
        let mut train = |step| {
            let mode = Mode::Train { seed: 0, step };
            train_step(&mut network, &mut optimizer, self.settings.lr, mode, &turned, &batch.labels)?.to_vec()
        };
        // The first step pays for memory and, on a GPU, for compilers.
        train(0)?;
        let begun = Instant::now();
        train(1)?;
        let training = begun.elapsed().as_secs_f64() / probe.len() as f64;
        let test = || -> Result<()> {
            let mut tally = Tally::new(1);
            self.count(&network, &mut tally, &images, &batch.labels, &[45.0])?;
            tally.read().map(drop)
        };
        test()?;
        let begun = Instant::now();
        test()?;
        let testing = begun.elapsed().as_secs_f64() / probe.len() as f64;
        let speed = Speed { training, testing };
        self.speeds.borrow_mut().push((subject, speed));
        Ok(speed)
    }

    /// Trains and tests, from wherever the last start of the program got to; `None` if it is to stop.
    ///
    /// # Errors
    /// If training diverges, a file cannot be read or written, or the device fails.
    pub fn run(&self, trial: &Trial, context: &mut Context) -> Result<Option<Tested>> {
        let speed = self.speed(trial.subject)?;
        let Some(mut network) = self.train(trial, speed, context)? else { return Ok(None) };
        let Some(correct) = self.test(&network, trial, speed, context)? else { return Ok(None) };
        let Settings { protocol, .. } = *self.settings;
        let exact = turns_leave_every_bit(&network, protocol, trial.subject.size, &self.test, self.device)?;
        Ok(Some(Tested { correct, exact, parameters: network.parameters() as u64 }))
    }

    fn train(&self, trial: &Trial, speed: Speed, context: &mut Context) -> Result<Option<MnistCnn>> {
        let &Trial { subject, turns, seed } = trial;
        let Settings { protocol, epochs, batch, .. } = *self.settings;
        let (finished, state) = (context.network_file(), context.training_file());
        if finished.exists() {
            context.skip(speed.training * self.training_passes());
            return MnistCnn::from_checkpoint(&finished, self.device).map(Some);
        }
        let mut network = MnistCnn::new(subject.config(protocol.channels()), seed, self.device)?;
        let training = self.settings.training(seed);
        let mut trainer = match state.exists() {
            true => Trainer::resume(&mut network, training, &state)
                .map_err(|e| Error::Invalid(format!("{e}; without {} the run begins anew", state.display())))?,
            false => Trainer::new(&mut network, training),
        };
        let dataset = protocol.dataset(self.digits.train(self.settings.train as usize, seed)?)?;
        let per_step = |images: usize| speed.training * images as f64;
        context.skip(per_step(trainer.epoch() as usize * dataset.len() + trainer.step() as usize * batch as usize));
        context.say(format!("epoch {} of {epochs}", trainer.epoch() + 1));
        let batches = |epoch, from: u32| {
            let batches = self.batches(&dataset, batch as usize).shuffled(seed, epoch).enumerate();
            Ok(batches.skip(from as usize).map(move |(step, batch)| {
                let batch = batch?;
                let angles = protocol.angles(turns, seed, epoch, step as u32, &batch.indices);
                let images = protocol.resized(&batch.images, subject.size);
                Ok((protocol.turned(&images, &angles), batch.labels))
            }))
        };
        let outcome = trainer.run(batches, |trainer, at| {
            if let Some(loss) = at.loss {
                let next = (u64::from(at.epoch) + 2).min(epochs);
                context.say(format!("epoch {next} of {epochs}, loss {loss:.3}"));
            } else {
                let before = (at.step as usize - 1) * batch as usize;
                context.advance(per_step((batch as usize).min(dataset.len() - before)));
            }
            if context.due() {
                context.save(|| trainer.save(&state))?;
                if context.stopping() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if outcome.is_break() {
            return Ok(None);
        }
        checkpoint::save(&finished, &mut network)?;
        Ok(Some(network))
    }

    /// How many of the digits the network recognises at each angle.
    fn test(&self, network: &MnistCnn, trial: &Trial, speed: Speed, context: &mut Context) -> Result<Option<Vec<u64>>> {
        let kept = context.kept("test")?;
        let kept = kept.filter(|kept: &Standing| kept.correct.len() == self.degrees.len());
        let Standing { digits: mut done, correct } =
            kept.unwrap_or_else(|| Standing { digits: 0, correct: vec![0; self.degrees.len()] });
        context.skip(speed.testing * self.test_passes(done));
        context.say(format!("testing at {} angles", self.degrees.len()));
        let mut tally = Tally::from_counts(correct);
        let slice = SLICE[usize::from(!matches!(self.device, Device::Cpu))];
        for batch in self.batches(&self.test, slice).skip(done / slice) {
            let batch = batch?;
            let images = self.settings.protocol.resized(&batch.images, trial.subject.size);
            self.count(network, &mut tally, &images, &batch.labels, &self.degrees)?;
            tally.wait()?;
            done += batch.indices.len();
            context.advance(speed.testing * self.test_passes(batch.indices.len()));
            if done < self.test.len() && context.due() {
                context.keep("test", &Standing { digits: done, correct: tally.read()?.to_vec() })?;
                if context.stopping() {
                    return Ok(None);
                }
            }
        }
        tally.read().map(|correct| Some(correct.to_vec()))
    }

    fn count(
        &self,
        network: &MnistCnn,
        tally: &mut Tally,
        resized: &Tensor,
        labels: &Tensor,
        degrees: &[f32],
    ) -> Result<()> {
        let protocol = self.settings.protocol;
        tally.count(network, resized, labels, |images, angle| {
            protocol.turned(images, &vec![degrees[angle]; images.dims()[0]])
        })
    }

    fn batches<'d>(&self, dataset: &'d Dataset, size: usize) -> quarterturn::data::Batches<'d> {
        dataset.batches(size).normalized(&self.settings.protocol.normalization()).on(self.device)
    }
}

/// Whether `f(T x) = f(x)` to the last bit, for every quarter turn of some test digits.
///
/// # Errors
/// If there is none, or the device fails.
pub fn turns_leave_every_bit<N: Network + ?Sized>(
    network: &N,
    protocol: Protocol,
    size: usize,
    test: &Dataset,
    device: &Device,
) -> Result<bool> {
    let probes = test.first(PROBES.min(test.len()))?;
    let batch: Option<Batch> =
        probes.batches(PROBES).normalized(&protocol.normalization()).on(device).next().transpose()?;
    let Some(batch) = batch else { return Err(Error::Invalid("there is no digit to test on".into())) };
    let images = protocol.turned(&protocol.resized(&batch.images, size), &vec![0.0; probes.len()]);
    let logits = |images: &Tensor| network.predict(images)?.to_vec();
    let upright = logits(&images)?;
    for turn in 1..4 {
        if logits(&transform_plane(&images, turn))?.iter().zip(&upright).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Ok(false);
        }
    }
    Ok(true)
}
