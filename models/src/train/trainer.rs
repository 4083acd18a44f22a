//! The training loop.

use super::{
    agreement::in_place,
    first_batch::FirstBatch,
    fit::Best,
    micro_batches::Sums,
    position::Position,
    ranks::{Alone, Ranks, tree},
    training::{Clip, Training},
};
use crate::{Network, check::warn_of, checkpoint::Notes, nn::on_workers};
use quarterturn_autograd::{Averages, Gradients, Optimizer};
use quarterturn_core::{Error, Result, Share, Tensor};
use quarterturn_kernels as kernels;
use std::{ops::ControlFlow, sync::Arc};

/// The position of a run. The `watch` function gets it after each step of the optimizer, and once more after each epoch,
/// with the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: u32,
    /// Batches of this epoch that were trained on.
    pub step: u32,
    /// Batches of this epoch.
    pub steps: u32,
    /// The learning rate of this step.
    pub lr: f64,
    /// At the end of an epoch: the mean training loss over its images. Otherwise `None`.
    pub loss: Option<f64>,
}

/// Trains `network`: the short form, for runs without validation and without resuming (see [`Trainer`]).
/// `batches(epoch)` returns an iterator over the batches of an epoch: inputs `[N, C, 1, H, W]` and targets (class
/// labels are `[N]`). The loss is read back from the device once per epoch. Returns the mean loss of each epoch.
///
/// # Errors
/// As [`Trainer::run`].
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
    Ok(trainer.position.losses)
}

/// A training run. It can be stopped after any step and resumed, in another process too, with the same bits as without
/// the stop.
///
/// [`Trainer::save`] writes the state to one file, and [`Trainer::resume`] reads it. The state has the network's
/// parameters and running statistics, the optimizer's state, the position in the run, and the losses so far. Where they
/// are used, it also has averages of weights and the best epoch. Random numbers need no state,
/// since they are functions of seed and position.
///
/// To train with validation call [`Trainer::fit`], which has an example; without it [`Trainer::run`].
///
/// Several processes can train one network together: see [`Trainer::with_ranks`].
#[derive(Debug)]
pub struct Trainer<'n, N: Network + ?Sized> {
    pub(super) network: &'n mut N,
    pub(super) training: Training,
    pub(super) optimizer: Optimizer,
    pub(super) position: Position,
    /// The sum of the losses of this epoch's images, still on the device; none before its first step.
    pub(super) loss_sum: Option<Tensor>,
    /// The first batch of the epoch that was begun last.
    pub(super) first_batch: Option<FirstBatch>,
    pub(super) averages: Option<Averages>,
    pub(super) best: Option<Best>,
    pub(super) notes: Notes,
    /// The data have yet to be compared with those that the run was begun with.
    pub(super) resumed: bool,
    /// What can be said of the images as such has been looked at.
    looked_at: bool,
    pub(super) ranks: Arc<dyn Ranks>,
    /// The ranks' first batches have been compared.
    pub(super) compared: bool,
}

impl<'n, N: Network + ?Sized> Trainer<'n, N> {
    /// A new run.
    pub fn new(network: &'n mut N, training: Training) -> Self {
        Trainer {
            network,
            optimizer: Optimizer::new(training.rule).with_groups(training.groups.clone()),
            averages: training.average.filter(|decay| (0.0..1.0).contains(decay)).map(Averages::new),
            training,
            position: Position::default(),
            loss_sum: None,
            first_batch: None,
            best: None,
            notes: Notes::new(),
            resumed: false,
            looked_at: false,
            ranks: Arc::new(Alone),
            compared: false,
        }
    }

    /// Makes this process one of several that train the network together. All of them make the same calls. `batches` of
    /// [`Trainer::run`] and `held_out` of [`Trainer::fit`] yield only the batches of this process's [`Share`], whose
    /// groups have [`Training::micro_batches`] places (`quarterturn_data::Loader::shared`). The results have the same
    /// bits on every process, and the same as on a single process. So a run may be resumed with another number of
    /// processes. Rank 0 writes files, and the others wait for it.
    #[must_use]
    pub fn with_ranks(mut self, ranks: Arc<dyn Ranks>) -> Self {
        // The images are warned of once.
        self.looked_at = ranks.rank() > 0;
        self.ranks = ranks;
        self
    }

    /// The batches that are this process's.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they cannot be shared by so many processes.
    pub(super) fn share(&self) -> Result<Share> {
        Share::new(self.ranks.rank(), self.ranks.size(), self.training.micro_batches as usize)
    }

    /// Trains to the end of the run, or until `watch` returns `ControlFlow::Break`. `batches(epoch, from)` returns an
    /// iterator over the batches of an epoch, from step `from` on: inputs `[N, C, 1, H, W]`, and targets as
    /// [`Training::objective`] takes them (class labels: `[N]`). `from` is above 0 only where a run is resumed in the
    /// middle of an epoch. `batches` must return the same batches at every call with the same arguments. A resumed run
    /// checks this on the first batch of the last epoch. `watch` gets the trainer after each step, and once more after
    /// each epoch; it may save the state. The loss is read back from the device once per epoch. [`Trainer::fit`] does
    /// the same with validation.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming epoch and batch, if inputs or targets do not fit, if an epoch has no batch, or if the
    /// loss or a parameter is not finite at the end of an epoch (training has diverged). [`Error::Invalid`] if a
    /// setting is out of range or names a weight that does not exist. [`Error::Checkpoint`], naming what differs, if a
    /// resumed run continues with other data or another batch size. Errors of `batches`, `watch` and the device.
    pub fn run<B, I>(
        &mut self,
        mut batches: B,
        mut watch: impl FnMut(&mut Self, Progress) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>>
    where
        B: FnMut(u32, u32) -> Result<I>,
        I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
    {
        self.training.check()?;
        self.training.freeze(self.network)?;
        let share = self.share()?;
        self.expect_same_everywhere()?;
        if self.resumed && self.position.epoch < self.training.epochs {
            self.expect_same_data(&mut batches)?;
        }
        while self.position.epoch < self.training.epochs {
            let (epoch, from) = (self.position.epoch, self.position.step);
            let mut open = batches(epoch, share.count(from as usize) as u32)?;
            let steps = self.begin(self.of_all_ranks(open.len(), share)?)?;
            while self.position.step < steps {
                let end = steps.min(self.position.step + self.training.micro_batches);
                let lr = self.training.schedule.lr(epoch, end - 1, self.training.epochs, steps);
                self.step_on(&mut open, share, end, lr, steps)?;
                let at = Progress { epoch, step: self.position.step, steps, lr, loss: None };
                if watch(self, at)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let lr = self.training.schedule.lr(epoch, steps - 1, self.training.epochs, steps);
            let loss = match self.end_epoch() {
                Ok(loss) => Some(loss),
                Err(diverged) => {
                    self.expect_targets(&mut batches, epoch, share)?;
                    return Err(diverged);
                }
            };
            if watch(self, Progress { epoch, step: steps, steps, lr, loss })?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// How many steps the present epoch has in all, of which `more` are still to make.
    fn begin(&mut self, more: usize) -> Result<u32> {
        let Position { epoch, step, .. } = self.position;
        let found = step as usize + more;
        if step == 0 {
            let steps = u32::try_from(found).ok().filter(|&steps| self.position.steps.checked_add(steps).is_some());
            let Some(steps) = steps.filter(|&steps| steps > 0) else {
                let message = if found == 0 { "no batch to train on" } else { "more batches than can be counted" };
                return Err(Error::Invalid(format!("epoch {} has {message}", epoch + 1)));
            };
            return Ok(steps);
        }
        let steps = self.position.epoch_steps[epoch as usize];
        self.expect_steps(steps, found)?;
        Ok(steps)
    }

    /// A step of the optimizer, on this epoch's batches up to `end`, of which `batches` has those of this rank. The epoch has `steps`.
    fn step_on(
        &mut self,
        batches: &mut impl Iterator<Item = Result<(Tensor, Tensor)>>,
        share: Share,
        end: u32,
        lr: f64,
        steps: u32,
    ) -> Result<()> {
        let Position { epoch, step, .. } = self.position;
        let mut first = None;
        let mut read = |trainer: &mut Self, place: usize| {
            let batch = step + place as u32;
            if batch >= end {
                return Ok(None);
            }
            let Some(next) = batches.next() else {
                return Err(Error::Invalid(format!("epoch {} ended after {batch} of {steps} batches", epoch + 1)));
            };
            let (images, targets) = next?;
            if !trainer.looked_at {
                warn_of(trainer.network, &images).map_err(|error| in_place(epoch, batch, error))?;
                trainer.looked_at = true;
            }
            if first.is_none() && (step == 0 || !trainer.compared) {
                first = Some((images.clone(), targets.clone()));
            }
            Ok(Some((images, targets)))
        };
        let (gradients, loss_sum, images) = if self.training.micro_batches == 1 {
            let (images, targets) = read(self, 0)?.expect("a step has a batch");
            let (gradients, loss) = self.micro_batch(&images, &targets, 0)?;
            let images = images.dims()[0] as u32;
            (gradients, kernels::scale(&loss, f64::from(images)), images)
        } else {
            let own = if self.training.sync_batch_norm && end - step > 1 {
                let places = share.first()..share.first() + share.places();
                let parts = places.map_while(|place| read(self, place).transpose()).collect::<Result<Vec<_>>>()?;
                self.side_by_side(&parts, (end - step) as usize)?
            } else {
                let mut leaf = |place| {
                    let Some((images, targets)) = read(self, place)? else { return Ok(None) };
                    let (gradients, loss) = self.micro_batch(&images, &targets, place as u32)?;
                    Sums::of(self.network, &gradients, &loss, images.dims()[0] as u32).map(Some)
                };
                tree(share.first(), share.places(), &mut leaf, &Sums::add)?
            };
            self.expect_other_batches(first.as_ref().map(|(images, _)| images))?;
            Sums::of_all(own, self.network, &*self.ranks)?.into_step(self.network)
        };
        let updated = on_workers(&loss_sum.device(), || self.update(gradients, lr));
        updated.map_err(|error| in_place(epoch, end - 1, error))?;
        if step == 0 {
            self.first_batch =
                first.filter(|_| share.has(0)).map(|(images, targets)| FirstBatch::of(&images, &targets));
            self.position.epoch_steps.push(steps);
        }
        self.loss_sum = Some(match &self.loss_sum {
            Some(sum) => kernels::add(sum, &loss_sum),
            None => loss_sum,
        });
        self.position.images += u64::from(images);
        self.position.step = end;
        self.position.steps += end - step;
        Ok(())
    }

    /// A step of the optimizer.
    fn update(&mut self, mut gradients: Gradients, lr: f64) -> Result<()> {
        match self.training.clip {
            Some(Clip::Norm(max)) => drop(gradients.clip_norm(max)),
            Some(Clip::Value(limit)) => gradients.clip_value(limit),
            None => {}
        }
        self.optimizer.step(&gradients, lr, |f| self.network.visit(f))?;
        if let Some(averages) = &mut self.averages {
            averages.update(|f| self.network.visit(f));
        }
        Ok(())
    }

    /// Closes this epoch, which has made its steps; its mean loss.
    fn end_epoch(&mut self) -> Result<f64> {
        let sum = self.loss_sum.take().expect("an epoch has a step, and each step a loss");
        // One value is read back, for losses and parameters together.
        let both = kernels::add(&sum, &zero_if_finite(self.network)?);
        let mean = both.to_f64()?[0] / self.position.images as f64;
        if !mean.is_finite() {
            let mean = sum.to_f64()?[0] / self.position.images as f64;
            self.loss_sum = Some(sum);
            return Err(self.diverged(mean)?);
        }
        self.position.losses.push(mean);
        self.position.epoch += 1;
        (self.position.step, self.position.images) = (0, 0);
        Ok(mean)
    }

    /// The error of a run whose mean loss in this epoch is `loss`, or which has a parameter that is not finite.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub(super) fn diverged(&mut self, loss: f64) -> Result<Error> {
        let (Position { epoch, step, .. }, epochs) = (&self.position, self.training.epochs);
        let lr = self.training.schedule.lr(*epoch, step.saturating_sub(1), epochs, *step);
        let mut reasons = Vec::new();
        if !loss.is_finite() {
            reasons.push(format!("the mean loss of epoch {} is {loss}", epoch + 1));
        }
        if let Some(name) = first_not_finite(self.network)? {
            reasons.push(format!("{name} has a value in epoch {} that is not finite", epoch + 1));
        }
        let reasons = reasons.join(", and ");
        Ok(Error::Invalid(format!("training diverged: {reasons}; try a lower learning rate than {lr}")))
    }

    /// Calls `look` with the network, in which the averages of the parameters stand in place of the parameters. If
    /// [`Training::average`] is `None`, or before the first step, `look` gets the network as it is.
    ///
    /// # Errors
    /// The errors of `look`.
    pub fn with_averages<T>(&mut self, look: impl FnOnce(&mut N) -> Result<T>) -> Result<T> {
        let Some(averages) = self.averages.as_mut().filter(|_| self.optimizer.steps() > 0) else {
            return look(self.network);
        };
        averages.swap(|f| self.network.visit(f))?;
        let seen = look(self.network);
        averages.swap(|f| self.network.visit(f))?;
        seen
    }

    /// The epoch under way, from 0; the number of epochs if the run has ended.
    pub fn epoch(&self) -> u32 {
        self.position.epoch
    }

    /// Steps made in this epoch.
    pub fn step(&self) -> u32 {
        self.position.step
    }

    /// The mean training loss of each finished epoch.
    pub fn losses(&self) -> &[f64] {
        &self.position.losses
    }

    /// The network in training.
    pub fn network(&self) -> &N {
        self.network
    }

    /// The network in training, to change it. Training continues with the changed network.
    pub fn network_mut(&mut self) -> &mut N {
        self.network
    }
}

/// 0 if all of the network's values are finite, NaN if one is not, still on the device: the sum of all values times 0.
fn zero_if_finite<N: Network + ?Sized>(network: &mut N) -> Result<Tensor> {
    let mut sum = Tensor::full([], 0.0, &network.device())?;
    network.visit(&mut |_, param| sum = kernels::add(&sum, &kernels::sum(&kernels::scale(param.value(), 0.0))));
    Ok(sum)
}

/// The name of the network's first parameter with a value that is not finite.
pub(super) fn first_not_finite<N: Network + ?Sized>(network: &mut N) -> Result<Option<String>> {
    let mut found = Ok(None);
    network.visit(&mut |name, param| {
        if let Ok(None) = found {
            found =
                param.value().to_f64().map(|values| values.iter().any(|v| !v.is_finite()).then(|| name.to_string()));
        }
    });
    found
}
