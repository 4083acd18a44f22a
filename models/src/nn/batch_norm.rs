//! The batch norm layer, with the ReLU and dropout that follow it.

use crate::{
    Layer, Mode, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Array, Op, Plain, Value},
};
use quarterturn_autograd::{Param, Tape, Var};
use quarterturn_core::{Device, Error, Result, Shape, Stream, Tensor};
use quarterturn_kernels::{self as kernels, Activation, Cosets, GivenNorm};
use std::rc::Rc;

/// The first of the streams that dropout draws from; each layer adds its number.
const DROPOUT: u32 = u32::from_be_bytes(*b"drop");

/// Batch norm, with the ReLU and dropout after it, if wanted:
/// `y = dropout(relu((x − mean) / √(var + eps) · weight + bias))`. Each channel has one mean and variance, over images,
/// pixels and group elements. PyTorch's constants: eps 1e-5, momentum 0.1.
#[derive(Debug)]
pub struct BatchNorm {
    weight: Param,
    bias: Param,
    running_mean: Param,
    running_var: Param,
    eps: f64,
    momentum: f64,
    relu: bool,
    dropout: Option<(f32, u32)>,
}

impl BatchNorm {
    /// The names of its parameters, each with one value per channel, in the order of [`Module::visit`].
    pub(crate) const PARAMETERS: [&str; 4] = ["weight", "bias", "running_mean", "running_var"];

    /// A new batch norm: weight 1, bias 0, running mean 0, running variance 1, no ReLU.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(channels: usize, device: &Device) -> Result<Self> {
        let full = |value| Tensor::full([channels], value, device);
        Ok(BatchNorm {
            weight: Param::weight(full(1.0)?),
            bias: Param::weight(full(0.0)?),
            running_mean: Param::buffer(full(0.0)?),
            running_var: Param::buffer(full(1.0)?),
            eps: 1e-5,
            momentum: 0.1,
            relu: false,
            dropout: None,
        })
    }

    /// Adds a ReLU after the norm.
    #[must_use]
    pub fn with_relu(mut self) -> Self {
        self.relu = true;
        self
    }

    /// Adds a ReLU after the norm and, in training, dropout with probability `p`. `layer` is a number of your choice.
    /// Give each layer another one, so that layers do not drop the same elements. With `p` = 0 only the ReLU is added.
    #[must_use]
    pub fn with_dropout(mut self, p: f32, layer: u32) -> Self {
        self.relu = true;
        self.dropout = (p > 0.0).then_some((p, DROPOUT + layer));
        self
    }

    /// The weight, one for each channel (called γ in the paper of batch norm).
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The bias, one for each channel (β).
    pub fn bias(&self) -> &Param {
        &self.bias
    }

    /// The running mean of each channel.
    pub fn running_mean(&self) -> &Param {
        &self.running_mean
    }

    /// The running variance of each channel.
    pub fn running_var(&self) -> &Param {
        &self.running_var
    }

    /// Whether a ReLU follows.
    pub(crate) fn has_relu(&self) -> bool {
        self.relu
    }

    /// A step of training: `normalise(weight, bias, eps, activation)` does the norm, alone or with what comes before it; here
    /// the running statistics follow.
    pub(crate) fn train<'t>(
        &self,
        tape: &'t Tape,
        seed: u64,
        step: u32,
        normalise: impl FnOnce(&Var<'t>, &Var<'t>, f64, Activation) -> (Var<'t>, Rc<kernels::BatchNorm>),
    ) -> Var<'t> {
        let dropout = self.dropout.map(|(p, stream)| (p, Stream::new(seed, stream, step)));
        let activation = Activation { relu: self.relu, dropout };
        let (y, forward) = normalise(&tape.param(&self.weight), &tape.param(&self.bias), self.eps, activation);
        tape.update_buffers([&self.running_mean, &self.running_var], |[mean, var]| {
            kernels::update_running(mean, var, &forward, self.momentum).into()
        });
        y
    }

    /// The norm with its running statistics, for a kernel that does more at once.
    pub(crate) fn given(&self) -> GivenNorm<'_> {
        GivenNorm {
            weight: self.weight.value(),
            bias: self.bias.value(),
            mean: self.running_mean.value(),
            var: self.running_var.value(),
            eps: self.eps,
            relu: self.relu,
        }
    }
}

impl Layer for BatchNorm {
    const KIND: &'static str = "norm";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&[])?;
        let channels = site.channels();
        Self::PARAMETERS.iter().try_for_each(|parameter| site.expect(parameter, &[channels]))?;
        site.count_norm();
        BatchNorm::new(channels, site.device())
    }
}

impl Module for BatchNorm {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let tape = x.tape();
        match pass.mode() {
            Mode::Eval => {
                let (weight, bias) = (tape.param(&self.weight), tape.param(&self.bias));
                let (mean, var) = (self.running_mean.value(), self.running_var.value());
                let activation = Activation { relu: self.relu, dropout: None };
                x.batch_norm_eval(&weight, &bias, mean, var, self.eps, activation)
            }
            Mode::Train { seed, step } => {
                self.train(tape, seed, step, |weight, bias, eps, activation| match pass.parts() {
                    Some(parts) => x.batch_norm_sync(weight, bias, eps, activation, parts.clone()),
                    None => x.batch_norm_train(weight, bias, eps, activation),
                })
            }
        }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let channels = self.weight.value().len();
        match x.dims() {
            [_, c, ..] if *c == channels => {
                trace.statistics(x);
                Ok(x)
            }
            _ => Err(trace.unfit(format!("expected {channels} channels, got {x:?}"))),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let of = |param: &Param| Ok::<_, Error>(Array::of(param.value())?.repeated(x.elements));
        let op = Op::Norm {
            weight: of(&self.weight)?,
            bias: of(&self.bias)?,
            mean: of(&self.running_mean)?,
            var: of(&self.running_var)?,
            eps: self.eps,
        };
        let y = plain.push(op, &[x], x);
        Ok(if self.relu { plain.push(Op::Function("relu"), &[y], y) } else { y })
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        let params = [&mut self.weight, &mut self.bias, &mut self.running_mean, &mut self.running_var];
        Self::PARAMETERS.into_iter().zip(params).for_each(|(name, param)| f(name, param));
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        let params = [&self.weight, &self.bias, &self.running_mean, &self.running_var];
        Self::PARAMETERS.into_iter().zip(params).for_each(|(name, param)| f(name, param));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(norm: &mut BatchNorm) -> Vec<Vec<f64>> {
        let mut values = Vec::new();
        norm.visit(&mut |name, param| {
            if name.starts_with("running") {
                values.push(param.value().to_f64().unwrap());
            }
        });
        values
    }

    /// Applies the norm to each of `batches` on one tape, and its running statistics after that.
    fn step(norm: &mut BatchNorm, batches: &[Tensor]) {
        let tape = Tape::new();
        let sum =
            |x: &Tensor| norm.apply(tape.constant(x.clone()), &mut Pass::new(Mode::Train { seed: 0, step: 0 })).sum();
        let loss = batches.iter().map(sum).reduce(|a, b| a.add(&b)).unwrap();
        loss.backward().unwrap().apply_buffers(|f| norm.visit(f));
    }

    #[test]
    fn a_norm_applied_twice_in_a_step_moves_its_statistics_twice() {
        let batch = |values: [f64; 4]| Tensor::reference([2, 1, 1, 1, 2], values.to_vec());
        let batches = [batch([1.0, 2.0, 3.0, 4.0]), batch([-10.0, 0.0, 20.0, 30.0])];
        let [mut at_once, mut in_turn] = [(), ()].map(|()| BatchNorm::new(1, &Device::Reference).unwrap());
        step(&mut at_once, &batches);
        step(&mut in_turn, &batches[..1]);
        step(&mut in_turn, &batches[1..]);
        assert_eq!(running(&mut at_once), running(&mut in_turn));
        // 0.9·(0.9·0 + 0.1·2.5) + 0.1·10
        assert!((running(&mut at_once)[0][0] - 1.225).abs() < 1e-12);
    }
}
