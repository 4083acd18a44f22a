//! The training loop.

use super::step::{train_step, warn_if_inexact};
use crate::{Mode, Network};
use quarterturn_autograd::{Optimizer, Rule, Schedule};
use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels as kernels;
use std::ops::ControlFlow;

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
    pub(super) network: &'n mut N,
    pub(super) training: Training,
    pub(super) optimizer: Optimizer,
    /// The epoch under way, from 0, and the steps made in it and in all.
    pub(super) epoch: u32,
    pub(super) step: u32,
    pub(super) steps: u32,
    /// Of this epoch: the sum of the images' losses, still on the device, and their number.
    pub(super) loss_sum: Option<Tensor>,
    pub(super) images: u64,
    /// The mean loss of each finished epoch.
    pub(super) losses: Vec<f64>,
}

impl<'n, N: Network + ?Sized> Trainer<'n, N> {
    /// A run that has made no step.
    pub fn new(network: &'n mut N, training: Training) -> Self {
        let optimizer = Optimizer::new(training.rule);
        Trainer { network, training, optimizer, epoch: 0, step: 0, steps: 0, loss_sum: None, images: 0, losses: vec![] }
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

    pub(super) fn expect_finite(&self, loss: f64) -> Result<()> {
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
