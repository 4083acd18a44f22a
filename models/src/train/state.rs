//! The state of a training run, as a file keeps it.

use super::{Trainer, Training};
use crate::{Checkpoint, Config, Network, io::Encoder};
use quarterturn_autograd::Kind;
use quarterturn_core::{Device, Result, Tensor};
use std::path::Path;

/// Names of the state's tensors that are not the network's begin with one of these.
const OPTIMIZER: &str = "optimizer.";
const TRAINING: &str = "training.";

impl<'n, N: Network + ?Sized> Trainer<'n, N> {
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
}
