//! How a trial is computed: trained here, tested in `testing`.

use super::{
    Classes, Measured, Protocol, Settings, Subject, Tested, TestedEpoch, Trial,
    testing::{Counts, TEST},
};
use crate::{
    answers,
    digits::Digits,
    files, preparation,
    runner::{Context, Experiment, RUN},
};
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Error, Result, Tensor},
    data::Dataset,
    models::{
        Checkpoint, Mode, Network, checkpoint,
        training::{Metric, Progress, Tally, Trainer, Validation, train_step},
    },
};
use std::{cell::RefCell, ops::ControlFlow, rc::Rc, time::Instant};

/// Digits that speed is measured with.
const MEASURED: usize = 64;
/// Validation digits that are evaluated together.
const VALIDATED: usize = 500;
/// The note with the epoch that made the weights, from 1.
const EPOCH: &str = "epoch";

/// Seconds that an image takes.
#[derive(Clone, Copy)]
struct Speed {
    training: f64,
    testing: f64,
}

/// A trained network, and the epoch that made it, from 1, if it need not be the last.
type Trained = (Box<dyn Network>, Option<u64>);

/// A trained network, and test digits to measure it on.
pub struct Sample<'a> {
    pub network: &'a dyn Network,
    pub subject: Subject,
    pub protocol: Protocol,
    /// Upright, resized and normalised `[N, C, size, size]`: for [`Protocol::turned`].
    pub images: Tensor,
}

/// What an experiment measures of each trained network, besides its accuracies.
pub struct Measure {
    /// Test digits that it takes, the first ones.
    pub digits: usize,
    /// Measures.
    pub of: fn(&Sample) -> Result<Measured>,
}

/// What all trials share.
pub struct Bench<'a> {
    digits: &'a Digits,
    pub(super) settings: &'a Settings,
    pub(super) device: &'a Device,
    measure: Option<&'a Measure>,
    pub(super) degrees: Vec<f32>,
    tests: RefCell<Vec<(Classes, Rc<Dataset>)>>,
    speeds: RefCell<Vec<(Subject, Speed)>>,
    parameters: RefCell<Vec<(Subject, u64)>>,
}

impl<'a> Bench<'a> {
    /// Gets the test digits.
    ///
    /// # Errors
    /// If there are fewer than the settings say.
    pub fn new(
        digits: &'a Digits,
        settings: &'a Settings,
        device: &'a Device,
        measure: Option<&'a Measure>,
    ) -> Result<Self> {
        let degrees = settings.degrees().iter().map(|&degrees| degrees as f32).collect();
        let (tests, speeds, parameters) = Default::default();
        let bench = Bench { digits, settings, device, measure, degrees, tests, speeds, parameters };
        bench.test_digits(Classes::ALL)?;
        Ok(bench)
    }

    /// The test digits of these classes.
    pub(super) fn test_digits(&self, classes: Classes) -> Result<Rc<Dataset>> {
        if let Some((_, there)) = self.tests.borrow().iter().find(|(known, _)| *known == classes) {
            return Ok(there.clone());
        }
        let n = self.settings.test as usize;
        let test = classes.of_dataset(self.digits.test(classes.out_of(n))?, n)?;
        let test = Rc::new(self.settings.protocol.dataset(test)?);
        self.tests.borrow_mut().push((classes, test.clone()));
        Ok(test)
    }

    /// `n` digits of a trial's classes, as the network gets them, of those that `draw` draws.
    fn of_task(&self, trial: &Trial, n: u64, draw: impl Fn(usize) -> Result<Dataset>) -> Result<Dataset> {
        let (classes, n) = (trial.task.classes, n as usize);
        self.settings.protocol.dataset(classes.of_dataset(draw(classes.out_of(n))?, n)?)
    }

    fn create(&self, subject: Subject, seed: u64, device: &Device) -> Result<Box<dyn Network>> {
        let protocol = self.settings.protocol;
        subject.network(protocol.channels(), protocol.init(subject.group, seed), device)
    }

    /// Trained values of a network.
    fn parameters(&self, subject: Subject) -> std::result::Result<u64, String> {
        if let Some((_, known)) = self.parameters.borrow().iter().find(|(known, _)| *known == subject) {
            return Ok(*known);
        }
        let parameters = self.create(subject, 0, &Device::Cpu).map_err(|e| e.to_string())?.parameters() as u64;
        self.parameters.borrow_mut().push((subject, parameters));
        Ok(parameters)
    }

    /// Digits that the training looks at: those trained on, and as a forward pass costs a third of a step, those of validation.
    fn training_passes(&self) -> f64 {
        let Settings { epochs, train, .. } = *self.settings;
        epochs as f64 * (train as f64 + self.settings.validation() as f64 / 3.0)
    }

    fn test_passes(&self) -> f64 {
        (self.settings.test * self.settings.angles) as f64
    }

    fn speed(&self, subject: Subject) -> Result<Speed> {
        if let Some((_, speed)) = self.speeds.borrow().iter().find(|(known, _)| *known == subject) {
            return Ok(*speed);
        }
        let test = self.test_digits(Classes::ALL)?;
        let probe = test.first(MEASURED.min(test.len()).min(self.settings.batch as usize))?;
        let batch = self.batches(&probe, MEASURED).next().transpose()?;
        let Some(batch) = batch else { return Err(Error::Invalid("there is no digit to test on".into())) };
        let protocol = self.settings.protocol;
        let images = protocol.resized(&batch.images, subject.size);
        let turned = protocol.turned(&images, &vec![45.0; probe.len()]);
        let mut network = self.create(subject, 0, self.device)?;
        let mut optimizer = Optimizer::adam(0.0);
        let mut train = |step| {
            let mode = Mode::Train { seed: 0, step };
            train_step(&mut *network, &mut optimizer, self.settings.lr, mode, &turned, &batch.labels)?.to_vec()
        };
        // The first step pays for memory and, on a GPU, for compilers.
        train(0)?;
        let begun = Instant::now();
        train(1)?;
        let training = begun.elapsed().as_secs_f64() / probe.len() as f64;
        let test = || -> Result<()> {
            let mut tally = Tally::new(1);
            let turned = |images: &Tensor, _| protocol.turned(images, &vec![45.0; images.dims()[0]]);
            tally.count(&*network, &images, &batch.labels, turned)?;
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

    /// The network to test, and the epoch that made it, if it need not be the last.
    fn train(&self, trial: &Trial, speed: Speed, context: &mut Context) -> Result<Option<Trained>> {
        let &Trial { subject, task, seed } = trial;
        let Settings { protocol, epochs, batch, tested, .. } = *self.settings;
        let (finished, state) = (context.network_file(), context.training_file());
        let mut network = self.create(subject, seed, self.device)?;
        if files::exists(&finished)? {
            context.skip(speed.training * self.training_passes());
            let unfit =
                |e| Error::Invalid(format!("{}: {e}; without this file the run begins anew", finished.display()));
            let checkpoint = Checkpoint::read(&finished)?;
            checkpoint.restore(&mut *network).map_err(unfit)?;
            let epoch = checkpoint.notes().get(EPOCH).and_then(|epoch| epoch.parse().ok());
            return Ok(Some((network, epoch)));
        }
        let training = self.settings.training(seed);
        let mut trainer = match files::exists(&state)? {
            true => Trainer::resume(&mut *network, training, &state)
                .map_err(|e| Error::Invalid(format!("{e}; without {} the run begins anew", state.display())))?,
            false => Trainer::new(&mut *network, training),
        };
        let dataset = self.of_task(trial, self.settings.train, |n| self.digits.train(n, seed))?;
        let per_step = |images: usize| speed.training * images as f64;
        context.skip(per_step(trainer.epoch() as usize * dataset.len() + trainer.step() as usize * batch as usize));
        context.say(format!("epoch {} of {epochs}", trainer.epoch() + 1));
        let drawn = task.turns.drawn(protocol);
        let batches = |epoch, from: u32| {
            let batches = self.batches(&dataset, batch as usize).shuffled(seed, epoch).enumerate();
            Ok(batches.skip(from as usize).map(move |(step, batch)| {
                let batch = batch?;
                let angles = task.turns.of(drawn, seed, epoch, step as u32, &batch.indices);
                let images = protocol.resized(&batch.images, subject.size);
                Ok((protocol.turned(&images, &angles), batch.labels))
            }))
        };
        let best_file = context.best_file();
        let mut watch = |trainer: &mut Trainer<dyn Network>, at: Progress| {
            if let Some(loss) = at.loss {
                let next = (u64::from(at.epoch) + 2).min(epochs);
                context.say(format!("epoch {next} of {epochs}, loss {loss:.3}"));
                context.advance(per_step(self.settings.validation() as usize / 3));
            } else {
                let before = (at.step as usize - 1) * batch as usize;
                context.advance(per_step((batch as usize).min(dataset.len() - before)));
            }
            if context.due() {
                context.save(|_| trainer.save(&state))?;
                if context.stopping() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        };
        let outcome = match tested {
            TestedEpoch::Last => trainer.run(batches, watch)?,
            TestedEpoch::Best => {
                let drawn = |n| self.digits.validation(n, seed);
                let upright = self.of_task(trial, self.settings.validation(), drawn)?;
                let metrics = vec![Metric::Accuracy];
                let validation = Validation { metrics, best: Some(best_file.clone()), patience: None };
                let held_out = || {
                    Ok(self.batches(&upright, VALIDATED).map(|batch| {
                        let batch = batch?;
                        let images = protocol.resized(&batch.images, subject.size);
                        Ok((protocol.turned(&images, &vec![0.0; batch.indices.len()]), batch.labels))
                    }))
                };
                trainer.fit(batches, &validation, held_out, |trainer, at, _| watch(trainer, at))?
            }
        };
        if outcome.is_break() {
            return Ok(None);
        }
        let epoch = trainer.best().map(|best| u64::from(best.epoch) + 1);
        let mut notes = preparation::notes(&protocol.preparation(subject.size), subject.size, self.digits.name());
        notes.insert(RUN.into(), trial.key());
        notes.insert("classes".into(), (0..10).map(|digit| digit.to_string()).collect::<Vec<_>>().join("\n"));
        if let Some(epoch) = epoch {
            let unfit = |e| {
                Error::Invalid(format!("{}: {e}; without {} the run begins anew", best_file.display(), state.display()))
            };
            Checkpoint::read(&best_file).and_then(|best| best.restore(&mut *network)).map_err(unfit)?;
            notes.insert(EPOCH.into(), epoch.to_string());
        }
        checkpoint::save_with(&finished, &*network, &notes)?;
        Ok(Some((network, epoch)))
    }

    /// What the experiment measures besides.
    fn measured(&self, network: &dyn Network, trial: &Trial) -> Result<Measured> {
        let Some(measure) = self.measure else { return Ok(Measured::new()) };
        let test = self.test_digits(trial.task.classes)?;
        let probes = test.first(measure.digits.min(test.len()))?;
        let Some(batch) = self.batches(&probes, probes.len()).next().transpose()? else {
            return Err(Error::Invalid("there is no digit to measure on".into()));
        };
        let (subject, protocol) = (trial.subject, self.settings.protocol);
        let images = protocol.resized(&batch.images, subject.size);
        (measure.of)(&Sample { network, subject, protocol, images })
    }

    pub(super) fn batches<'d>(&self, dataset: &'d Dataset, size: usize) -> quarterturn::data::Batches<'d> {
        dataset.batches(size).normalized(&self.settings.protocol.normalization()).on(self.device)
    }
}

impl Experiment for Bench<'_> {
    type Spec = Trial;
    type Found = Tested;
    const STATES: &'static [&'static str] = &[TEST];

    /// By a training step and a test on a few digits.
    fn estimate(&self, trial: &Trial) -> Result<f64> {
        let speed = self.speed(trial.subject)?;
        Ok(speed.training * self.training_passes() + speed.testing * self.test_passes())
    }

    fn run(&self, trial: &Trial, context: &mut Context) -> Result<Option<Tested>> {
        let speed = self.speed(trial.subject)?;
        let Some((network, epoch)) = self.train(trial, speed, context)? else { return Ok(None) };
        let Some(counts) = self.test(&*network, trial, speed.testing, context)? else { return Ok(None) };
        let Counts { correct, unanswered, exact, derived } = counts;
        let parameters = network.parameters() as u64;
        let test = self.test_digits(trial.task.classes)?.len() as u64;
        let digits = (test != self.settings.test).then_some(test);
        let measured = self.measured(&*network, trial)?;
        Ok(Some(Tested { correct, unanswered, exact, derived, epoch, digits, parameters, measured }))
    }

    fn check(&self, trial: &Trial, found: &Tested) -> std::result::Result<(), String> {
        let Tested { correct, unanswered, exact, derived, epoch, digits, measured, .. } = found;
        let test = self.test_digits(trial.task.classes).map_err(|e| e.to_string())?.len() as u64;
        if digits.unwrap_or(self.settings.test) != test {
            return Err(format!("{} digits tested, there are {test}", digits.unwrap_or(self.settings.test)));
        }
        answers::check_counts(correct, unanswered, self.degrees.len(), test, *exact)?;
        if *derived {
            let quarter = self.quarter().filter(|_| *exact).ok_or("counts derived, though not of an exact network")?;
            if correct.iter().zip(&correct[quarter..]).any(|(count, turned)| count != turned) {
                return Err("counts derived, and not the same after a quarter turn".into());
            }
        }
        let epochs = 1..=self.settings.epochs;
        match (self.settings.tested, epoch) {
            (TestedEpoch::Last, None) => {}
            (TestedEpoch::Best, Some(epoch)) if epochs.contains(epoch) => {}
            _ => return Err(format!("tested after epoch {epoch:?} of {}", self.settings.epochs)),
        }
        if let Some((name, _)) = measured.iter().find(|(_, values)| values.iter().any(|value| !value.is_finite())) {
            return Err(format!("{name} is not finite"));
        }
        let parameters = self.parameters(trial.subject)?;
        match found.parameters == parameters {
            true => Ok(()),
            false => Err(format!("{} parameters, the network has {parameters}", found.parameters)),
        }
    }

    fn network(&self, trial: &Trial) -> Result<Box<dyn Network>> {
        self.create(trial.subject, trial.seed, &Device::Cpu)
    }
}
