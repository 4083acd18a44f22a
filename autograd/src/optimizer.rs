//! Optimizers: their state per parameter, updated in place.

use crate::{Gradients, Kind, Param, ParamId};
use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels as kernels;
use std::collections::HashMap;

/// The update rule and its constants; PyTorch's formulas, with the L2 penalty added to the gradient.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// Stochastic gradient descent: [`kernels::sgd_step`].
    Sgd {
        /// Momentum.
        momentum: f64,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// Adam: [`kernels::adam_step`].
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
}

impl Rule {
    /// The names of the tensors it keeps per weight.
    pub fn state_names(&self) -> &'static [&'static str] {
        match self {
            Rule::Sgd { .. } => &["velocity"],
            Rule::Adam { .. } => &["moment1", "moment2"],
        }
    }
}

/// Moves weights along their gradients.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rule,
    steps: u64,
    state: HashMap<ParamId, Vec<Tensor>>,
}

impl Optimizer {
    /// An optimizer that has made no step.
    pub fn new(rule: Rule) -> Self {
        Optimizer { rule, steps: 0, state: HashMap::new() }
    }

    /// Stochastic gradient descent.
    pub fn sgd(momentum: f64, weight_decay: f64) -> Self {
        Self::new(Rule::Sgd { momentum, weight_decay })
    }

    /// Adam with β = (0.9, 0.999) and ε = 1e-8.
    pub fn adam(weight_decay: f64) -> Self {
        Self::new(Rule::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay })
    }

    /// One step with learning rate `lr` on every weight that `visit` reaches and that has a gradient; buffers take the
    /// values that the forward pass noted. Weights are updated in place where no [`crate::Var`] shares them any more.
    ///
    /// # Errors
    /// When the GPU has no room for the state of a new weight. The step is then incomplete.
    pub fn step(
        &mut self,
        gradients: &Gradients,
        lr: f64,
        visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param)),
    ) -> Result<()> {
        self.steps += 1;
        let mut outcome = Ok(());
        visit(&mut |_, param| {
            if outcome.is_ok() {
                outcome = self.update(param, gradients, lr);
            }
        });
        outcome
    }

    fn update(&mut self, param: &mut Param, gradients: &Gradients, lr: f64) -> Result<()> {
        if param.kind() == Kind::Buffer {
            if let Some(value) = gradients.buffer(param) {
                param.set(value.clone());
            }
            return Ok(());
        }
        let Some(dw) = gradients.of(param) else { return Ok(()) };
        let id = param.id();
        if !self.state.contains_key(&id) {
            let zeros = |_: &&str| Tensor::full(param.value().shape(), 0.0, &param.value().device());
            let tensors = self.rule.state_names().iter().map(zeros).collect::<Result<_>>()?;
            self.state.insert(id, tensors);
        }
        let w = param.value_mut();
        match (self.rule, &mut self.state.get_mut(&id).expect("just inserted")[..]) {
            (Rule::Sgd { momentum, weight_decay }, [velocity]) => {
                kernels::sgd_step(w, velocity, dw, &kernels::Sgd { lr, momentum, weight_decay });
            }
            (Rule::Adam { beta1, beta2, eps, weight_decay }, [moment1, moment2]) => {
                let settings = kernels::Adam { lr, beta1, beta2, eps, weight_decay, step: self.steps };
                kernels::adam_step(w, moment1, moment2, dw, &settings);
            }
            _ => unreachable!("the state has one tensor per name"),
        }
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

    /// Continues counting from `steps`, when a run is resumed.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// What is kept for `param`, in the order of [`Rule::state_names`]; `None` before its first step.
    pub fn state(&self, param: &Param) -> Option<&[Tensor]> {
        self.state.get(&param.id()).map(Vec::as_slice)
    }

    /// Takes over the state for `param`, when a run is resumed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the number or the shapes of the tensors do not fit.
    pub fn set_state(&mut self, param: &Param, tensors: Vec<Tensor>) -> Result<()> {
        let names = self.rule.state_names();
        let shape = param.value().shape();
        if tensors.len() != names.len() || tensors.iter().any(|tensor| tensor.shape() != shape) {
            let shapes: Vec<_> = tensors.iter().map(Tensor::shape).collect();
            return Err(Error::Invalid(format!("optimizer state: expected {names:?} of {shape:?}, got {shapes:?}")));
        }
        self.state.insert(param.id(), tensors);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use quarterturn_core::Device;

    /// One step on `L = Σ w²`.
    fn descend(optimizer: &mut Optimizer, weight: &mut Param, lr: f64) {
        let tape = Tape::new();
        let w = tape.param(weight);
        let loss = w.mul(&w).sum();
        drop(w);
        let gradients = loss.backward().unwrap();
        optimizer.step(&gradients, lr, |f| f("weight", weight)).unwrap();
    }

    fn weight(device: &Device) -> Param {
        Param::weight(Tensor::from_vec([3], vec![1.0, -2.0, 0.5], device).unwrap())
    }

    #[test]
    fn both_rules_go_downhill() {
        for device in [Device::Cpu, Device::Reference] {
            for mut optimizer in [Optimizer::sgd(0.9, 1e-4), Optimizer::adam(1e-4)] {
                let mut w = weight(&device);
                for _ in 0..400 {
                    descend(&mut optimizer, &mut w, 0.02);
                }
                let w = w.value().to_f64().unwrap();
                assert!(w.iter().all(|w| w.abs() < 1e-3), "{:?} on {device}: {w:?}", optimizer.rule());
            }
        }
    }

    /// SGD with momentum by hand: w = 1, dw = 2w; v = 2, w = 0.8; v = 0.9·2 + 1.6 = 3.4, w = 0.46.
    #[test]
    fn sgd_agrees_with_two_steps_by_hand() {
        let mut w = Param::weight(Tensor::reference([1], vec![1.0]));
        let mut optimizer = Optimizer::sgd(0.9, 0.0);
        descend(&mut optimizer, &mut w, 0.1);
        descend(&mut optimizer, &mut w, 0.1);
        assert!((w.value().f64s()[0] - 0.46).abs() < 1e-15);
    }

    #[test]
    fn weights_are_updated_in_place() {
        let mut w = weight(&Device::Cpu);
        let mut optimizer = Optimizer::adam(0.0);
        let address = w.value().f32s().as_ptr();
        descend(&mut optimizer, &mut w, 0.1);
        assert_eq!(w.value().f32s().as_ptr(), address);
    }

    #[test]
    fn a_resumed_run_goes_on_with_the_same_bits() {
        let (mut w, mut optimizer) = (weight(&Device::Cpu), Optimizer::adam(1e-3));
        descend(&mut optimizer, &mut w, 0.1);
        let mut resumed = Param::weight(w.value().clone());
        let mut second = Optimizer::new(optimizer.rule());
        second.set_steps(optimizer.steps());
        second.set_state(&resumed, optimizer.state(&w).unwrap().to_vec()).unwrap();
        descend(&mut optimizer, &mut w, 0.1);
        descend(&mut second, &mut resumed, 0.1);
        assert_eq!(w.value().f32s(), resumed.value().f32s());
        let wrong = vec![Tensor::reference([2], vec![0.0; 2])];
        assert!(matches!(second.set_state(&resumed, wrong), Err(Error::Invalid(_))));
    }

    #[test]
    fn buffers_take_the_noted_value() {
        let tape = Tape::new();
        let (w, mut buffer) = (weight(&Device::Cpu), Param::buffer(Tensor::full([2], 0.0, &Device::Cpu).unwrap()));
        tape.update_buffers([&buffer], |_| [Tensor::full([2], 7.0, &Device::Cpu).unwrap()]);
        let gradients = tape.param(&w).sum().backward().unwrap();
        Optimizer::sgd(0.0, 0.0).step(&gradients, 0.1, |f| f("running_mean", &mut buffer)).unwrap();
        assert_eq!(buffer.value().f32s(), [7.0, 7.0]);
    }
}
