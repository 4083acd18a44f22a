//! One run: a network, trained with one seed on one distribution of angles, and tested at every angle.

use super::{Settings, Subject, Turns};
use crate::{
    answers,
    digits::Digits,
    files, fingerprint, preparation,
    runner::{Context, Experiment, RUN},
};
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Error, Result, Tensor},
    data::{Batch, Dataset},
    models::{
        Checkpoint, MnistCnn, Mode, Network, checkpoint,
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
    /// Digits without an answer, as their logits are not numbers, by angle; empty if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<u64>,
    /// Whether quarter turns leave every bit of the logits.
    pub exact: bool,
    /// Trained values of the network.
    pub parameters: u64,
}

/// How far a test is.
#[derive(Serialize, Deserialize)]
struct Standing {
    /// The fingerprint of the network's file.
    network: String,
    /// Digits tested, the first ones.
    digits: usize,
    /// Of these recognised, by angle.
    correct: Vec<u64>,
    /// Whether some have no answer.
    has_unanswered: bool,
}

/// The state of that name.
const TEST: &str = "test";
/// Bytes that the file of a network has at most.
const LONGEST: u64 = 1 << 26;

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
    /// They depend on the group alone.
    parameters: RefCell<Vec<(Subject, u64)>>,
}

impl<'a> Bench<'a> {
    /// Gets the test digits.
    ///
    /// # Errors
    /// If there are fewer than the settings say.
    pub fn new(digits: &'a Digits, settings: &'a Settings, device: &'a Device) -> Result<Self> {
        let test = settings.protocol.dataset(digits.test(settings.test as usize)?)?;
        let degrees = settings.degrees().iter().map(|&degrees| degrees as f32).collect();
        Ok(Bench {
            digits,
            settings,
            device,
            test,
            degrees,
            speeds: RefCell::default(),
            parameters: RefCell::default(),
        })
    }

    /// Trained values of a network.
    fn parameters(&self, subject: Subject) -> std::result::Result<u64, String> {
        if let Some((_, known)) = self.parameters.borrow().iter().find(|(known, _)| known.group == subject.group) {
            return Ok(*known);
        }
        let network = MnistCnn::new(subject.config(self.settings.protocol.channels()), 0, &Device::Cpu);
        let parameters = network.map_err(|e| e.to_string())?.parameters() as u64;
        self.parameters.borrow_mut().push((subject, parameters));
        Ok(parameters)
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

    fn train(&self, trial: &Trial, speed: Speed, context: &mut Context) -> Result<Option<MnistCnn>> {
        let &Trial { subject, turns, seed } = trial;
        let Settings { protocol, epochs, batch, .. } = *self.settings;
        let (finished, state) = (context.network_file(), context.training_file());
        let mut network = MnistCnn::new(subject.config(protocol.channels()), seed, self.device)?;
        if files::exists(&finished)? {
            context.skip(speed.training * self.training_passes());
            let unfit =
                |e| Error::Invalid(format!("{}: {e}; without this file the run begins anew", finished.display()));
            Checkpoint::read(&finished)?.restore(&mut network).map_err(unfit)?;
            return Ok(Some(network));
        }
        let training = self.settings.training(seed);
        let mut trainer = match files::exists(&state)? {
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
                context.save(|_| trainer.save(&state))?;
                if context.stopping() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if outcome.is_break() {
            return Ok(None);
        }
        let mut notes = preparation::notes(&protocol.preparation(subject.size), subject.size, self.digits.name());
        notes.insert(RUN.into(), trial.key());
        notes.insert("classes".into(), (0..10).map(|digit| digit.to_string()).collect::<Vec<_>>().join("\n"));
        checkpoint::save_with(&finished, &mut network, &notes)?;
        Ok(Some(network))
    }

    /// How many of the digits the network recognises at each angle, and whether some have no answer.
    fn test(
        &self,
        network: &MnistCnn,
        trial: &Trial,
        speed: Speed,
        context: &mut Context,
    ) -> Result<Option<(Vec<u64>, bool)>> {
        let file = context.network_file();
        let file = files::read(&file, LONGEST).map_err(|e| Error::io(file, &e))?;
        let mut standing = Standing {
            network: fingerprint::of(file),
            digits: 0,
            correct: vec![0; self.degrees.len()],
            has_unanswered: false,
        };
        if let Some(kept) = context.kept(TEST)? {
            self.check_standing(&kept, &standing.network).map_err(|message| context.unfit(TEST, message))?;
            standing = kept;
        }
        context.skip(speed.testing * self.test_passes(standing.digits));
        context.say(format!("testing at {} angles", self.degrees.len()));
        let mut tally = Tally::from_counts(standing.correct.clone());
        let rest: Vec<usize> = (standing.digits..self.test.len()).collect();
        let rest = if standing.digits == 0 { self.test.clone() } else { self.test.subset(&rest) };
        let slice = SLICE[usize::from(!matches!(self.device, Device::Cpu))];
        for batch in self.batches(&rest, slice) {
            let batch = batch?;
            let images = self.settings.protocol.resized(&batch.images, trial.subject.size);
            self.count(network, &mut tally, &images, &batch.labels, &self.degrees)?;
            tally.wait()?;
            standing.digits += batch.indices.len();
            context.advance(speed.testing * self.test_passes(batch.indices.len()));
            if standing.digits < self.test.len() && context.due() {
                standing.correct = tally.read()?.to_vec();
                standing.has_unanswered |= tally.has_unanswered();
                context.save(|context| context.keep(TEST, &standing))?;
                if context.stopping() {
                    return Ok(None);
                }
            }
        }
        let correct = tally.read()?.to_vec();
        Ok(Some((correct, standing.has_unanswered || tally.has_unanswered())))
    }

    /// The digits without an answer, by angle.
    fn unanswered(&self, network: &MnistCnn, subject: Subject) -> Result<Vec<u64>> {
        let protocol = self.settings.protocol;
        let resized = |batch: Result<Batch>| Ok(protocol.resized(&batch?.images, subject.size));
        let batches = self.batches(&self.test, SLICE[0]).map(resized);
        answers::unanswered(network, batches, self.degrees.len(), |images, angle| self.turned(images, angle))
    }

    /// Resized images, turned by the angle of that number.
    fn turned(&self, resized: &Tensor, angle: usize) -> Tensor {
        self.settings.protocol.turned(resized, &vec![self.degrees[angle]; resized.dims()[0]])
    }

    /// Refuses a standing of another network or another test, or that no test can have.
    fn check_standing(&self, kept: &Standing, network: &str) -> std::result::Result<(), String> {
        let Standing { network: of, digits, correct, .. } = kept;
        if of != network {
            return Err("a test of another network".into());
        }
        if *digits > self.test.len() {
            return Err(format!("{digits} digits are tested, there are {}", self.test.len()));
        }
        answers::check_counts(correct, &[], self.degrees.len(), *digits as u64, false)
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

impl Experiment for Bench<'_> {
    type Spec = Trial;
    type Found = Tested;
    const STATES: &'static [&'static str] = &[TEST];

    /// By a training step and a test on a few digits.
    fn estimate(&self, trial: &Trial) -> Result<f64> {
        let speed = self.speed(trial.subject)?;
        Ok(speed.training * self.training_passes() + speed.testing * self.test_passes(self.test.len()))
    }

    fn run(&self, trial: &Trial, context: &mut Context) -> Result<Option<Tested>> {
        let speed = self.speed(trial.subject)?;
        let Some(mut network) = self.train(trial, speed, context)? else { return Ok(None) };
        let tested = self.test(&network, trial, speed, context)?;
        let Some((correct, has_unanswered)) = tested else { return Ok(None) };
        let unanswered = if has_unanswered { self.unanswered(&network, trial.subject)? } else { Vec::new() };
        let Some(probes) = self.batches(&self.test.first(PROBES.min(self.test.len()))?, PROBES).next().transpose()?
        else {
            return Err(Error::Invalid("there is no digit to test on".into()));
        };
        let protocol = self.settings.protocol;
        let images = protocol.resized(&probes.images, trial.subject.size);
        let images = protocol.turned(&images, &vec![0.0; images.dims()[0]]);
        let exact = !has_unanswered && answers::turns_leave_every_bit(&network, &images)?;
        Ok(Some(Tested { correct, unanswered, exact, parameters: network.parameters() as u64 }))
    }

    fn check(&self, trial: &Trial, found: &Tested) -> std::result::Result<(), String> {
        let Tested { correct, unanswered, exact, .. } = found;
        answers::check_counts(correct, unanswered, self.degrees.len(), self.test.len() as u64, *exact)?;
        let parameters = self.parameters(trial.subject)?;
        match found.parameters == parameters {
            true => Ok(()),
            false => Err(format!("{} parameters, the network has {parameters}", found.parameters)),
        }
    }

    fn network(&self, trial: &Trial) -> Result<Box<dyn Network>> {
        let config = trial.subject.config(self.settings.protocol.channels());
        Ok(Box::new(MnistCnn::new(config, trial.seed, &Device::Cpu)?))
    }
}
