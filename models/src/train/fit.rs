//! Training with validation after each epoch.

use super::{
    metric::{Metric, Scores},
    ranks::wait_for_all,
    trainer::{Progress, Trainer},
};
use crate::{Network, checkpoint};
use quarterturn_core::{Error, Result, Tensor};
use std::{ops::ControlFlow, path::PathBuf};

/// Validation after each epoch: what is measured, where the best network is saved, and when the run stops early.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Validation {
    /// The metrics on held-out data. The first decides which epoch is the best; of equal ones the earliest.
    pub metrics: Vec<Metric>,
    /// The file for the network of the best epoch so far, with the trainer's notes: a checkpoint, which
    /// [`crate::checkpoint::load`] reads. If weights are averaged ([`crate::training::Training::average`]), it has the averages.
    pub best: Option<PathBuf>,
    /// Early stopping: the run ends after this many epochs in a row without improvement.
    pub patience: Option<u32>,
}

/// The best epoch so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Best {
    /// The epoch, from 0.
    pub epoch: u32,
    /// The name of the metric that decides.
    pub metric: String,
    /// The value of that metric.
    pub value: f64,
}

/// The results of an epoch.
#[derive(Clone, Debug)]
pub struct Report {
    /// The epoch, from 0.
    pub epoch: u32,
    /// The mean training loss over its images.
    pub loss: f64,
    /// The metrics on the held-out data.
    pub scores: Scores,
    /// Whether this epoch is the best so far.
    pub is_best: bool,
}

impl<N: Network + ?Sized> Trainer<'_, N> {
    /// As [`Trainer::run`], with validation: after each epoch the network is measured on the batches of `held_out()`.
    /// Then `watch` gets a [`Report`] besides the progress. If weights are averaged, the averages are measured.
    ///
    /// Returns `ControlFlow::Break` if `watch` did, and `Continue` if the run has ended, by early stopping too.
    ///
    /// ```
    /// # use quarterturn_autograd::{Optimizer, Schedule};
    /// # use quarterturn_core::{Device, Result, Tensor};
    /// # use quarterturn_models::{Builder, Init, Sequential, training::{Metric, Objective, Difference, Trainer, Training, Validation}};
    /// # use quarterturn_kernels::{Group, Window};
    /// # use std::ops::ControlFlow;
    /// # fn main() -> Result<()> {
    /// # let window = Window { kernel_size: 3, stride: 1, padding: 1 };
    /// # let builder = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).conv("conv", 2, window).relu();
    /// # let mut network = Sequential::new("mean", builder.spatial_mean().coset_max().linear("linear", 1).build()?);
    /// # let batch = |value: f32| -> Result<(Tensor, Tensor)> {
    /// #     let image = Tensor::full([2, 1, 1, 9, 9], value, &Device::Cpu)?;
    /// #     Ok((image, Tensor::full([2, 1], value, &Device::Cpu)?))
    /// # };
    /// // How bright an image is: a regression.
    /// let training = Training {
    ///     objective: Objective::Numbers(Difference::Squared),
    ///     ..Training::new(5, Optimizer::adam(0.0).rule(), Schedule::Constant { lr: 0.01 }, 1)
    /// };
    /// let validation = Validation { metrics: vec![Metric::MeanAbsoluteError], patience: Some(3), ..Validation::default() };
    /// let mut trainer = Trainer::new(&mut network, training);
    /// let batches = |_epoch: u32, from: u32| Ok((from..4).map(|i| batch(i as f32)));
    /// # let batches = |epoch: u32, from: u32| batches(epoch, from).map(|batches| batches.collect::<Vec<_>>().into_iter());
    /// let held_out = || Ok([batch(0.5), batch(1.5)]);
    /// let _ = trainer.fit(batches, &validation, held_out, |_, _, report| {
    ///     if let Some(report) = report {
    ///         println!("epoch {}: loss {}, {:?}", report.epoch + 1, report.loss, report.scores.values());
    ///     }
    ///     Ok(ControlFlow::Continue(()))
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Trainer::run`] and [`Scores::measure`]; [`Error::Invalid`] if there is no metric; [`Error::Checkpoint`], naming it, if
    /// a resumed run goes on with another first metric; an error of writing the best network.
    pub fn fit<B, I, H, J>(
        &mut self,
        batches: B,
        validation: &Validation,
        mut held_out: H,
        mut watch: impl FnMut(&mut Self, Progress, Option<&Report>) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>>
    where
        B: FnMut(u32, u32) -> Result<I>,
        I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
        H: FnMut() -> Result<J>,
        J: IntoIterator<Item = Result<(Tensor, Tensor)>>,
    {
        let Some(metric) = validation.metrics.first() else {
            return Err(Error::Invalid("fit: expected a metric of the held-out data".into()));
        };
        if let Some(best) = self.best.as_ref().filter(|best| best.metric != metric.to_string()) {
            let message = format!("expected {metric}, found {}", best.metric);
            return Err(Error::Checkpoint { name: "training.best_metric".into(), message });
        }
        if self.is_over(validation) {
            return Ok(ControlFlow::Continue(()));
        }
        let mut is_stopped = false;
        let outcome = self.run(batches, |trainer, at| {
            let report = match at.loss {
                Some(loss) => Some(trainer.validate(validation, metric, held_out()?, at.epoch, loss)?),
                None => None,
            };
            is_stopped = watch(trainer, at, report.as_ref())?.is_break();
            let is_over = report.is_some() && trainer.is_over(validation);
            Ok(if is_stopped || is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(if is_stopped { outcome } else { ControlFlow::Continue(()) })
    }

    /// Whether the run ends early.
    fn is_over(&self, validation: &Validation) -> bool {
        let since = self.best.as_ref().map_or(0, |best| best.epoch + 1);
        validation.patience.is_some_and(|patience| self.position.epoch.saturating_sub(since) >= patience.max(1))
    }

    fn validate(
        &mut self,
        validation: &Validation,
        metric: &Metric,
        held_out: impl IntoIterator<Item = Result<(Tensor, Tensor)>>,
        epoch: u32,
        loss: f64,
    ) -> Result<Report> {
        let (share, ranks) = (self.share()?, self.ranks.clone());
        let objective = self.training.objective.clone();
        let (before, notes) = (self.best.as_ref().map(|best| best.value), self.notes.clone());
        let (scores, value) = self.with_averages(|network| {
            let scores = Scores::over(network, &objective, &validation.metrics, held_out, share, &*ranks)?;
            let value = scores.value(metric).unwrap_or(f64::NAN);
            let is_best = before.map_or(!value.is_nan(), |before| metric.is_better(value, before));
            if let Some(path) = validation.best.as_ref().filter(|_| is_best) {
                if ranks.rank() == 0 {
                    checkpoint::save_with(path, network, &notes)?;
                }
                wait_for_all(&*ranks)?;
            }
            Ok((scores, is_best.then_some(value)))
        })?;
        let is_best = value.is_some();
        if let Some(value) = value {
            self.best = Some(Best { epoch, metric: metric.to_string(), value });
        }
        Ok(Report { epoch, loss, scores, is_best })
    }

    /// The best epoch so far, of [`Trainer::fit`].
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }
}
