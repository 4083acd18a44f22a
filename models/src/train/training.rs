//! Settings of a training run.

use super::objective::Objective;
use crate::{Config, Network};
use quarterturn_autograd::{Kind, Optimizer, ParamGroup, Rule, Schedule};
use quarterturn_core::{Error, Result};

/// Settings of a training run. [`Training::new`] fills in the usual values:
///
/// ```
/// use quarterturn_autograd::{Optimizer, ParamGroup, Schedule};
/// use quarterturn_models::training::{Clip, Training};
///
/// // 20 epochs of AdamW, where norms and biases do not decay, gradients are clipped, and weights are averaged.
/// let training = Training {
///     groups: vec![ParamGroup::vectors().with_weight_decay(0.0)],
///     clip: Some(Clip::Norm(1.0)),
///     average: Some(0.999),
///     ..Training::new(20, Optimizer::adamw(0.01).rule(), Schedule::cosine(1e-3, 2), 7)
/// };
/// # let _ = training;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Passes over the data.
    pub epochs: u32,
    /// The optimizer.
    pub rule: Rule,
    /// The learning rate; any function of the position by [`Schedule::own`].
    pub schedule: Schedule,
    /// Seed of dropout. Pass the same to the loader if shuffling and augmentation shall follow it.
    pub seed: u64,
    /// The loss. The default is cross-entropy with class labels.
    pub objective: Objective,
    /// Parameter groups: weights with another learning rate or weight decay. A weight belongs to the first group that
    /// it fits.
    pub groups: Vec<ParamGroup>,
    /// The names of frozen weights; `*` stands for any characters. Running statistics of norms are no weights and are
    /// updated all the same.
    pub frozen: Vec<String>,
    /// How gradients are clipped before each step of the optimizer.
    pub clip: Option<Clip>,
    /// Gradient accumulation: the optimizer makes a step after this many batches, called micro-batches, with the gradient
    /// of the mean loss over all their images. So a batch of 256 images in 8 micro-batches of 32 needs the memory of 32.
    /// The last step of an epoch has the batches that are left. The learning rate is that of the last micro-batch.
    ///
    /// A batch norm takes the statistics of each micro-batch by itself, unless [`Training::sync_batch_norm`] is set.
    /// Its running statistics are updated once per step, to the mean of what each micro-batch alone would have made of
    /// them.
    ///
    /// Gradients, losses and running statistics, times the number of images, are added in a fixed binary tree over the
    /// places `0 .. micro_batches`: the sum of a range is that of its first half plus that of its second half. So the
    /// bits do not depend on how many processes share the places: see [`crate::training::Trainer::with_ranks`].
    pub micro_batches: u32,
    /// Synchronised batch norm (PyTorch: `SyncBatchNorm`): norms take the statistics of all micro-batches of a step, on
    /// all processes, in place of each micro-batch by itself. Gradients flow through these statistics. So, up to
    /// rounding, a step is the same as with one batch of all images, and its bits do not depend on the number of
    /// processes either. It costs memory and time: a process has all of its micro-batches in memory at once, and
    /// computes convolution and norm one after the other, not fused. With one micro-batch nothing changes.
    pub sync_batch_norm: bool,
    /// The decay of an exponential moving average (EMA) of all parameters, updated after each step of the optimizer:
    /// see [`quarterturn_autograd::Averages`] and [`crate::training::Trainer::with_averages`]. 0.999 reaches back over
    /// about a thousand steps.
    pub average: Option<f64>,
    /// Mixup (Zhang et al. 2018): each image of a batch is blended with another image of the batch, `λ·x + (1 − λ)·x′`,
    /// and the loss is `λ·loss(y) + (1 − λ)·loss(y′)`. For class labels, and for several labels, that is the loss of the
    /// blended labels. λ is drawn for each micro-batch from the distribution Beta(α, α), where α is this number, from 0.01
    /// to 4. The paper takes 0.2 for ImageNet and 1 for CIFAR-10. Images are blended after normalisation. Held-out images
    /// are not blended.
    pub mixup: Option<f64>,
    /// Facts about the data that must be the same when the run is resumed, by name.
    /// `quarterturn_data::Loader::identity` returns batch size, augmentation, and a fingerprint of the data. If a value
    /// differs, resuming returns an error that names it.
    pub data: Config,
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Clip {
    /// By norm: all gradients are multiplied by one factor, so that the root of the sum of their squares is at most
    /// this (PyTorch's `clip_grad_norm_`).
    Norm(f64),
    /// By value: each element is clipped to ± this (PyTorch's `clip_grad_value_`).
    Value(f64),
}

impl Training {
    /// The usual settings: class labels, an optimizer step for each batch, and nothing frozen, clipped or averaged.
    pub fn new(epochs: u32, rule: Rule, schedule: Schedule, seed: u64) -> Self {
        Training {
            epochs,
            rule,
            schedule,
            seed,
            objective: Objective::default(),
            groups: Vec::new(),
            frozen: Vec::new(),
            clip: None,
            micro_batches: 1,
            sync_batch_norm: false,
            average: None,
            mixup: None,
            data: Config::new(),
        }
    }

    /// The settings of Edixhoven et al. 2023 for MNIST: Adam, learning rate 0.01 halved every 10 epochs, weight decay
    /// 1e-5, 50 epochs.
    pub fn mnist(seed: u64) -> Self {
        let schedule = Schedule::Step { lr: 0.01, factor: 0.5, every: 10 };
        Self::new(50, Optimizer::adam(1e-5).rule(), schedule, seed)
    }

    /// What must not change between the parts of a run, by name. Settings beyond the first four are only named where they are not
    /// those of [`Training::new`], so that states of before they were known can be resumed.
    pub(super) fn settings(&self) -> Config {
        let usual = Training::new(self.epochs, self.rule, self.schedule.clone(), self.seed);
        let optional = [
            ("objective", self.objective != usual.objective, self.objective.to_string()),
            ("groups", self.groups != usual.groups, format!("{:?}", self.groups)),
            ("frozen", self.frozen != usual.frozen, self.frozen.join(" ")),
            ("clip", self.clip != usual.clip, format!("{:?}", self.clip)),
            ("micro_batches", self.micro_batches != usual.micro_batches, self.micro_batches.to_string()),
            ("sync_batch_norm", self.sync_batch_norm != usual.sync_batch_norm, self.sync_batch_norm.to_string()),
            ("average", self.average != usual.average, format!("{:?}", self.average)),
            ("mixup", self.mixup != usual.mixup, format!("{:?}", self.mixup)),
        ];
        let mut settings = Config::from([
            ("epochs".into(), self.epochs.to_string()),
            ("rule".into(), format!("{:?}", self.rule)),
            ("schedule".into(), format!("{:?}", self.schedule)),
            ("seed".into(), self.seed.to_string()),
        ]);
        let named = optional.into_iter().filter(|(_, is_unusual, _)| *is_unusual);
        settings.extend(named.map(|(name, _, value)| (name.into(), value)));
        settings.extend(self.data.iter().map(|(name, value)| (format!("{DATA}{name}"), value.clone())));
        settings
    }

    /// Whether a state may have a setting of this name, though this run has not.
    pub(super) fn may_have(name: &str) -> bool {
        ["objective", "groups", "frozen", "clip", "micro_batches", "sync_batch_norm", "average", "mixup"]
            .contains(&name)
            || name.starts_with(DATA)
    }

    /// Refuses settings that make no sense.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the setting.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |message: String| Err(Error::Invalid(format!("training: {message}")));
        if let Some(Clip::Norm(limit) | Clip::Value(limit)) = self.clip
            && !(limit > 0.0 && limit.is_finite())
        {
            return refused(format!("expected a limit of gradients above 0, got {limit}"));
        }
        match self.average {
            Some(decay) if !(0.0..1.0).contains(&decay) => {
                refused(format!("expected an average's decay from 0 to below 1, got {decay}"))
            }
            _ if self.mixup.is_some_and(|alpha| !(0.01..=4.0).contains(&alpha)) => {
                refused(format!("expected an α of mixup from 0.01 to 4, got {}", self.mixup.unwrap_or_default()))
            }
            _ if self.micro_batches == 0 => refused("expected steps of 1 micro-batch or more, got 0".into()),
            _ => Ok(()),
        }
    }

    /// Freezes the weights that are to stay as they are.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first of the names that no weight has.
    pub(super) fn freeze<N: Network + ?Sized>(&self, network: &mut N) -> Result<()> {
        let groups = self.frozen.iter().map(|name| ParamGroup::named([name]));
        for (name, group) in self.frozen.iter().zip(groups) {
            let mut is_unknown = true;
            network.visit(&mut |found, param| {
                if param.kind() == Kind::Weight && group.has(found, param) {
                    param.set_frozen(true);
                    is_unknown = false;
                }
            });
            if is_unknown {
                return Err(Error::Invalid(format!("training: no weight is called {name}, which is to be frozen")));
            }
        }
        Ok(())
    }
}

/// Names of [`Training::data`] begin so among the settings.
const DATA: &str = "data.";
