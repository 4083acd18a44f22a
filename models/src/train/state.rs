//! The state of a training run in a file.

use super::{
    Trainer, Training, first_batch::FirstBatch, fit::Best, position::Position, ranks::wait_for_all,
    trainer::first_not_finite,
};
use crate::{Checkpoint, Config, Network, checkpoint::Notes, io::Encoder};
use quarterturn_autograd::Kind;
use quarterturn_core::{Device, Error, Result, Tensor};
use std::{collections::BTreeSet, path::Path};

/// Names of what the state has beside the network begin with one of these.
const OPTIMIZER: &str = "optimizer.";
pub(super) const TRAINING: &str = "training.";

/// Settings that tell of the position, beside those of [`Trainer::settings`].
const EPOCH: &str = "training.epoch";
const STEP: &str = "training.step";
const STEPS: &str = "training.steps";
const IMAGES: &str = "training.images";
/// Before the name of a weight: the steps that it was moved in, if not in all. (It had been frozen.)
const STEPS_OF: &str = "optimizer.steps.";
/// How many weights the optimizer keeps tensors for.
const MOVED: &str = "training.moved";
/// Before the name of a parameter: the mean of its values.
const AVERAGE: &str = "training.average.";
/// The best epoch so far.
const BEST: [&str; 3] = ["training.best_epoch", "training.best_metric", "training.best_value"];
/// Tensors that tell of it.
const EPOCH_STEPS: &str = "training.epoch_steps";
const LOSSES: &str = "training.losses";
const LOSS_SUM: &str = "training.loss_sum";

impl<'n, N: Network + ?Sized> Trainer<'n, N> {
    /// Resumes the run whose state [`Trainer::save`] wrote to `path`. The weights are loaded into `network`. Whether
    /// the data are the same is checked when [`Trainer::run`] continues.
    ///
    /// # Errors
    /// As [`Checkpoint::restore`]. [`Error::Checkpoint`], naming the setting, if the run had other settings than
    /// `training`; or naming the entry of the file that is missing, unknown or inconsistent. The network is then
    /// unchanged.
    pub fn resume(network: &'n mut N, training: Training, path: impl AsRef<Path>) -> Result<Self> {
        let state = Checkpoint::read(path)?;
        training.check()?;
        let mut trainer = Self::new(network, training);
        trainer.expect_settings(&state)?;
        let device = trainer.network.device();
        let (position, loss_sum) = read_position(&state, &device)?;
        let sum = loss_sum.as_ref().map(Tensor::to_f64).transpose()?.map(|sum| sum[0]);
        position.check(trainer.training.epochs, trainer.training.objective.least(), sum)?;
        position.expect_between_steps(trainer.training.micro_batches)?;
        trainer.first_batch = if position.steps > 0 { Some(FirstBatch::read(&state)?) } else { None };
        trainer.optimizer.set_steps(position.updates(trainer.training.micro_batches));
        (trainer.position, trainer.loss_sum) = (position, loss_sum);
        let mut kept = trainer.read_optimizer(&state, &device)?;
        kept.extend(trainer.read_averages(&state, &device)?);
        trainer.best = trainer.read_best(&state)?;

        let mut known_settings = trainer.known_settings();
        trainer.network.visit(&mut |name, _| {
            known_settings.insert(format!("{STEPS_OF}{name}"));
        });
        let is_own = |name: &str| name.starts_with(OPTIMIZER) || name.starts_with(TRAINING);
        let unknown = state.config().keys().find(|name| is_own(name) && !known_settings.contains(*name));
        if let Some(name) = unknown {
            return Err(Error::Checkpoint { name: name.clone(), message: "no state has such a setting".into() });
        }
        let known_tensors = trainer.known_tensors();
        state.restore_except(trainer.network, |name| known_tensors.contains(name) || kept.contains(name))?;
        trainer.notes = state.notes();
        trainer.resumed = true;
        Ok(trainer)
    }

    /// Refuses a state of a run with other settings, naming the first that differs.
    fn expect_settings(&self, state: &Checkpoint) -> Result<()> {
        let settings = self.settings();
        settings.iter().try_for_each(|(name, expected)| state.expect(name, expected))?;
        let is_lacking = |name: &&String| {
            name.strip_prefix(TRAINING).is_some_and(Training::may_have) && !settings.contains_key(*name)
        };
        match state.config().keys().find(is_lacking) {
            Some(name) => state.expect(name, "nothing"),
            None => Ok(()),
        }
    }

    /// Takes over what the optimizer keeps for each weight; the names of the tensors.
    fn read_optimizer(&mut self, state: &Checkpoint, device: &Device) -> Result<BTreeSet<String>> {
        let refused = |name: String, message: String| Error::Checkpoint { name, message };
        let moved: usize = state.setting(MOVED, "a whole number")?;
        let (optimizer, mut outcome) = (&mut self.optimizer, Ok(()));
        let parts = optimizer.rule().state_names();
        let (mut names, mut found) = (BTreeSet::new(), 0);
        self.network.visit(&mut |name, param| {
            let full: Vec<String> = parts.iter().map(|part| format!("{OPTIMIZER}{part}.{name}")).collect();
            if outcome.is_err() || param.kind() != Kind::Weight || !full.iter().any(|full| state.has(full)) {
                return;
            }
            let tensor = |full: &String| {
                let tensor = state.tensor_of(full, param.value().shape(), device)?;
                // A mean of squares.
                if full.starts_with("optimizer.moment2.") && tensor.to_f64()?.iter().any(|&v| v < 0.0) {
                    return Err(refused(full.clone(), "a second moment is not negative".into()));
                }
                Ok(tensor)
            };
            let steps = match format!("{STEPS_OF}{name}") {
                some if state.config().contains_key(&some) => match state.setting(&some, "a whole number") {
                    Ok(steps) if (1..=optimizer.steps()).contains(&steps) => Ok(steps),
                    Ok(_) => Err(refused(some, format!("expected 1 to {} steps", optimizer.steps()))),
                    Err(error) => Err(error),
                },
                _ => Ok(optimizer.steps()),
            };
            let tensors = full.iter().map(tensor).collect::<Result<_>>();
            outcome = steps.and_then(|steps| optimizer.set_state_after(param, tensors?, steps));
            names.extend(full);
            found += 1;
        });
        outcome?;
        if found != moved || (found == 0) != (self.optimizer.steps() == 0) {
            let message = format!("{moved} weights after {} steps, but {found} have moments", self.optimizer.steps());
            return Err(refused(MOVED.into(), message));
        }
        Ok(names)
    }

    /// Takes over the means of all parameters; the names of the tensors.
    fn read_averages(&mut self, state: &Checkpoint, device: &Device) -> Result<BTreeSet<String>> {
        let (mut names, mut outcome) = (BTreeSet::new(), Ok(()));
        let Some(averages) = self.averages.as_mut().filter(|_| self.optimizer.steps() > 0) else { return Ok(names) };
        self.network.visit(&mut |name, param| {
            let full = format!("{AVERAGE}{name}");
            if outcome.is_ok() {
                let mean = state.tensor_of(&full, param.value().shape(), device);
                outcome = mean.and_then(|mean| averages.set_mean(param, mean));
            }
            names.insert(full);
        });
        outcome.map(|()| names)
    }

    fn read_best(&self, state: &Checkpoint) -> Result<Option<Best>> {
        let [epoch, metric, value] = BEST;
        if !BEST.iter().any(|name| state.config().contains_key(*name)) {
            return Ok(None);
        }
        let best = Best {
            epoch: state.setting(epoch, "a whole number")?,
            metric: state.setting(metric, "the name of a metric")?,
            value: state.setting(value, "a number")?,
        };
        // Of a finished epoch.
        if best.epoch >= self.position.epoch {
            let message = format!("{}, but {} epochs are finished", best.epoch, self.position.epoch);
            return Err(Error::Checkpoint { name: epoch.into(), message });
        }
        // With which nothing compares: no later epoch would be better.
        if best.value.is_nan() {
            return Err(Error::Checkpoint { name: value.into(), message: "NaN is no value of a best epoch".into() });
        }
        Ok(Some(best))
    }

    /// Writes the state to `path`, atomically: the network's tensors under their own names, the rest with the prefixes
    /// `optimizer.` and `training.`. All ranks call it: rank 0 writes, and the others
    /// return once it has.
    ///
    /// # Errors
    /// [`Error::Io`]; an error of the GPU. [`Error::Invalid`] if training has diverged, and [`Error::Checkpoint`] if a
    /// tensor is not finite: a state that cannot be resumed never replaces one that can. A former file at `path` is
    /// then unharmed.
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        if self.ranks.rank() == 0 {
            self.write(path.as_ref())?;
        }
        wait_for_all(&*self.ranks)
    }

    fn write(&mut self, path: &Path) -> Result<()> {
        if let Some(sum) = &self.loss_sum {
            let mean = sum.to_f64()?[0] / self.position.images as f64;
            // In the middle of an epoch nobody has looked at the weights yet.
            if !mean.is_finite() || first_not_finite(self.network)?.is_some() {
                return Err(self.diverged(mean)?);
            }
        }
        let mut archive = Encoder::of(self.network)?;
        let (optimizer, mut outcome, mut moved) = (&self.optimizer, Ok(()), 0);
        self.network.visit(&mut |name, param| {
            let Some(tensors) = optimizer.state(param) else { return };
            for (part, tensor) in optimizer.rule().state_names().iter().zip(tensors) {
                if outcome.is_ok() {
                    outcome = archive.tensor(format!("{OPTIMIZER}{part}.{name}"), tensor);
                }
            }
            if optimizer.steps_of(param) != optimizer.steps() {
                archive.setting(format!("{STEPS_OF}{name}"), optimizer.steps_of(param).to_string());
            }
            moved += 1;
        });
        outcome?;
        if let Some(averages) = self.averages.as_ref().filter(|_| self.optimizer.steps() > 0) {
            let mut outcome = Ok(());
            self.network.visit(&mut |name, param| {
                if let (Ok(()), Some(mean)) = (&outcome, averages.mean(param)) {
                    outcome = archive.tensor(format!("{AVERAGE}{name}"), mean);
                }
            });
            outcome?;
        }
        if let Some(Best { epoch, metric, value }) = &self.best {
            for (name, value) in BEST.into_iter().zip([epoch.to_string(), metric.clone(), value.to_string()]) {
                archive.setting(name.into(), value);
            }
        }
        if let Some(sum) = &self.loss_sum {
            archive.tensor(LOSS_SUM.into(), sum)?;
        }
        if let Some(batch) = &self.first_batch {
            batch.write(&mut archive)?;
        }
        let Position { epoch, step, steps, images, epoch_steps, losses } = &self.position;
        let epoch_steps: Vec<f64> = epoch_steps.iter().map(|&steps| f64::from(steps)).collect();
        for (name, values) in [(EPOCH_STEPS, epoch_steps), (LOSSES, losses.clone())] {
            archive.tensor(name.into(), &Tensor::reference([values.len()], values))?;
        }
        let numbers = [(EPOCH, (*epoch).into()), (STEP, (*step).into()), (STEPS, (*steps).into()), (IMAGES, *images)];
        for (name, value) in numbers.into_iter().chain([(MOVED, moved)]) {
            archive.setting(name.into(), value.to_string());
        }
        for (name, value) in self.settings() {
            archive.setting(name, value);
        }
        archive.notes(&self.notes);
        archive.write(path)
    }

    /// What must not change between the parts of a run.
    fn settings(&self) -> Config {
        self.training.settings().into_iter().map(|(name, value)| (format!("{TRAINING}{name}"), value)).collect()
    }

    /// The names of all settings behind `training.` that a state at this position has.
    fn known_settings(&self) -> BTreeSet<String> {
        let batch = self.first_batch.as_ref().map(|_| format!("{TRAINING}{}", FirstBatch::SETTING));
        let numbers = [EPOCH, STEP, STEPS, IMAGES, MOVED].map(String::from);
        let best = self.best.iter().flat_map(|_| BEST).map(String::from);
        self.settings().into_keys().chain(numbers).chain(batch).chain(best).collect()
    }

    /// Likewise of all tensors.
    fn known_tensors(&self) -> BTreeSet<String> {
        let batch = FirstBatch::TENSORS.iter().filter(|_| self.first_batch.is_some());
        let sum = self.loss_sum.as_ref().map(|_| LOSS_SUM.to_string());
        let batch = batch.map(|name| format!("{TRAINING}{name}"));
        [EPOCH_STEPS, LOSSES].map(String::from).into_iter().chain(sum).chain(batch).collect()
    }

    /// Text of your own that is saved with the state, such as the preparation of images. See [`Notes`] for known names.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The notes, to change them. The next [`Trainer::save`] writes them.
    pub fn notes_mut(&mut self) -> &mut Notes {
        &mut self.notes
    }
}

/// The position that a state tells of, unchecked but for its form, and the sum of this epoch's losses.
fn read_position(state: &Checkpoint, device: &Device) -> Result<(Position, Option<Tensor>)> {
    let number = "a whole number";
    let (epoch, step) = (state.setting(EPOCH, number)?, state.setting(STEP, number)?);
    let (steps, images) = (state.setting(STEPS, number)?, state.setting(IMAGES, number)?);
    let mut position = Position { epoch, step, steps, images, ..Position::default() };
    let list = |name: &str, length: usize| state.tensor_of(name, [length].into(), &Device::Reference);
    position.losses = list(LOSSES, epoch as usize)?.f64s().to_vec();
    let epoch_steps = list(EPOCH_STEPS, position.begun())?;
    let whole = |&steps: &f64| {
        let message = || format!("{steps} is no number of steps");
        let number = Some(steps as u32).filter(|&number| f64::from(number) == steps);
        number.ok_or_else(|| Error::Checkpoint { name: EPOCH_STEPS.into(), message: message() })
    };
    position.epoch_steps = epoch_steps.f64s().iter().map(whole).collect::<Result<_>>()?;
    let loss_sum = state.has(LOSS_SUM).then(|| state.tensor_of(LOSS_SUM, [].into(), device)).transpose()?;
    Ok((position, loss_sum))
}
