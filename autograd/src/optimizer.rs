//! Optimizers, with their state for each weight.

use crate::{Gradients, Kind, Param, ParamGroup, ParamId};
use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels::{Adam, Sgd, Updates};
use std::collections::{HashMap, hash_map::Entry};

/// The update rule and its constants, by PyTorch's formulas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent, with the L2 penalty added to the gradient: [`quarterturn_kernels::sgd_step`].
    Sgd {
        /// Momentum.
        momentum: f64,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// As [`Rule::Sgd`], with Nesterov's momentum.
    Nesterov {
        /// Momentum.
        momentum: f64,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// Adam, with the L2 penalty added to the gradient: [`quarterturn_kernels::adam_step`].
    Adam {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root.
        eps: f64,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// AdamW: Adam with decoupled weight decay, `w ← (1 − lr·weight_decay)·w` before each step.
    AdamW {
        /// Decay of the first moment.
        beta1: f64,
        /// Decay of the second moment.
        beta2: f64,
        /// Added to the root.
        eps: f64,
        /// Decoupled weight decay, multiplied by the learning rate.
        weight_decay: f64,
    },
}

impl Rule {
    /// The names of the state tensors for each weight, such as the moments.
    pub fn state_names(&self) -> &'static [&'static str] {
        match self {
            Rule::Sgd { .. } | Rule::Nesterov { .. } => &["velocity"],
            Rule::Adam { .. } | Rule::AdamW { .. } => &["moment1", "moment2"],
        }
    }

    /// The same rule with another weight decay.
    #[must_use]
    pub fn with_weight_decay(mut self, decay: f64) -> Self {
        match &mut self {
            Rule::Sgd { weight_decay, .. }
            | Rule::Nesterov { weight_decay, .. }
            | Rule::Adam { weight_decay, .. }
            | Rule::AdamW { weight_decay, .. } => *weight_decay = decay,
        }
        self
    }

    /// Adds to `updates` step `step` (from 1) of a weight, whose state is in the order of [`Rule::state_names`].
    fn apply(&self, updates: &mut Updates, lr: f64, step: u64, w: &mut Tensor, state: &mut [Tensor], dw: &Tensor) {
        let nesterov = matches!(self, Rule::Nesterov { .. });
        let decoupled = matches!(self, Rule::AdamW { .. });
        match (*self, state) {
            (Rule::Sgd { momentum, weight_decay } | Rule::Nesterov { momentum, weight_decay }, [velocity]) => {
                updates.sgd(w, velocity, dw, &Sgd { lr, momentum, weight_decay, nesterov });
            }
            (
                Rule::Adam { beta1, beta2, eps, weight_decay } | Rule::AdamW { beta1, beta2, eps, weight_decay },
                [moment1, moment2],
            ) => {
                let settings = Adam { lr, beta1, beta2, eps, weight_decay, decoupled, step };
                updates.adam(w, moment1, moment2, dw, &settings);
            }
            _ => unreachable!("the state has one tensor per name"),
        }
    }
}

/// Updates weights by their gradients: [`Optimizer::step`].
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    groups: Vec<ParamGroup>,
    steps: u64,
    state: HashMap<ParamId, State>,
}

/// What is kept of a weight.
#[derive(Debug)]
struct State {
    /// In the order of [`Rule::state_names`].
    tensors: Vec<Tensor>,
    /// Steps in which it had a gradient.
    steps: u64,
}

impl Optimizer {
    /// An optimizer with an empty state.
    pub fn new(rule: Rule) -> Self {
        Optimizer { rule, groups: Vec::new(), steps: 0, state: HashMap::new() }
    }

    /// Stochastic gradient descent.
    pub fn sgd(momentum: f64, weight_decay: f64) -> Self {
        Self::new(Rule::Sgd { momentum, weight_decay })
    }

    /// Adam with β = (0.9, 0.999) and ε = 1e-8.
    pub fn adam(weight_decay: f64) -> Self {
        Self::new(Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay })
    }

    /// AdamW with β = (0.9, 0.999) and ε = 1e-8.
    pub fn adamw(weight_decay: f64) -> Self {
        Self::new(Rule::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay })
    }

    /// The same optimizer with parameter groups, which have their own learning rate or weight decay. A weight belongs
    /// to the first group that it fits. One that fits none follows the rule.
    #[must_use]
    pub fn with_groups(self, groups: impl IntoIterator<Item = ParamGroup>) -> Self {
        Optimizer { groups: groups.into_iter().collect(), ..self }
    }

    /// One step with learning rate `lr`. It updates every weight that `visit` lists, if the weight has a gradient and
    /// is not frozen. Buffers get the values that the forward pass has computed. A weight is updated in place unless a
    /// [`crate::Var`] still shares it. `visit` is called twice.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `gradients` are of another network, so that none of these parameters has one, or if no
    /// weight belongs to one of the groups. Nothing is changed then. An error of the GPU if it has no room for the
    /// state of a new weight. The step is then incomplete.
    pub fn step(
        &mut self,
        gradients: &Gradients,
        lr: f64,
        mut visit: impl FnMut(&mut dyn FnMut(&str, &mut Param)),
    ) -> Result<()> {
        self.expect_fit(gradients, &mut visit)?;
        self.steps += 1;
        let mut outcome = Ok(());
        let mut updates = Updates::new();
        visit(&mut |name, param| {
            if outcome.is_ok() {
                outcome = self.update(&mut updates, name, param, gradients, lr);
            }
        });
        outcome
    }

    /// Whether the gradients and the groups are of this network.
    fn expect_fit(
        &self,
        gradients: &Gradients,
        visit: &mut impl FnMut(&mut dyn FnMut(&str, &mut Param)),
    ) -> Result<()> {
        let (mut params, mut concerned, mut fits) = (0, 0, vec![false; self.groups.len()]);
        visit(&mut |name, param| {
            params += 1;
            concerned += usize::from(gradients.of(param).or(gradients.buffer(param)).is_some());
            for (fits, group) in fits.iter_mut().zip(&self.groups) {
                *fits |= param.kind() == Kind::Weight && group.has(name, param);
            }
        });
        if concerned == 0 {
            return Err(Error::Invalid(format!(
                "optimizer: there is no gradient of any of the {params} parameters; all weights are frozen, or the \
                 gradients are of another network"
            )));
        }
        match fits.iter().position(|fits| !fits) {
            Some(i) => Err(Error::Invalid(format!("optimizer: no weight is {}", self.groups[i].wanted()))),
            None => Ok(()),
        }
    }

    fn update(
        &mut self,
        updates: &mut Updates,
        name: &str,
        param: &mut Param,
        gradients: &Gradients,
        lr: f64,
    ) -> Result<()> {
        if let Some(value) = gradients.buffer(param) {
            param.set(value.clone());
            return Ok(());
        }
        let Some(dw) = gradients.of(param).filter(|_| !param.is_frozen()) else { return Ok(()) };
        let group = self.groups.iter().find(|group| group.has(name, param));
        let lr = lr * group.map_or(1.0, ParamGroup::lr_factor);
        let rule = match group.and_then(ParamGroup::weight_decay) {
            Some(decay) => self.rule.with_weight_decay(decay),
            None => self.rule,
        };
        let state = match self.state.entry(param.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let zeros = |_: &&str| Tensor::full(param.value().shape(), 0.0, &param.value().device());
                let tensors = rule.state_names().iter().map(zeros).collect::<Result<_>>()?;
                entry.insert(State { tensors, steps: 0 })
            }
        };
        state.steps += 1;
        rule.apply(updates, lr, state.steps, param.value_mut(), &mut state.tensors, dw);
        Ok(())
    }

    /// The update rule.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Number of steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of steps, to resume a run. Call it before [`Optimizer::set_state`].
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// The state tensors of `param`, in the order of [`Rule::state_names`]; `None` before its first step.
    pub fn state(&self, param: &Param) -> Option<&[Tensor]> {
        Some(&self.state.get(&param.id())?.tensors)
    }

    /// The number of steps that have updated `param`. Steps in which it had no gradient or was frozen do not count.
    pub fn steps_of(&self, param: &Param) -> u64 {
        self.state.get(&param.id()).map_or(0, |state| state.steps)
    }

    /// Sets the state of `param`, to resume a run. The weight counts as updated in each of [`Optimizer::steps`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number or the shapes of the tensors do not fit.
    pub fn set_state(&mut self, param: &Param, tensors: Vec<Tensor>) -> Result<()> {
        self.set_state_after(param, tensors, self.steps)
    }

    /// As [`Optimizer::set_state`], for a weight that was updated in `steps` steps.
    ///
    /// # Errors
    /// As [`Optimizer::set_state`].
    pub fn set_state_after(&mut self, param: &Param, tensors: Vec<Tensor>, steps: u64) -> Result<()> {
        let names = self.rule.state_names();
        let shape = param.value().shape();
        if tensors.len() != names.len() || tensors.iter().any(|tensor| tensor.shape() != shape) {
            let shapes: Vec<_> = tensors.iter().map(Tensor::shape).collect();
            return Err(Error::Invalid(format!("optimizer state: expected {names:?} of {shape:?}, got {shapes:?}")));
        }
        self.state.insert(param.id(), State { tensors, steps });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
