//! A convolution and the batch norm after it, fused.

use crate::{
    BatchNorm, GroupConv, Layer, MaxPool, Mode, Module, Pass, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape};
use quarterturn_kernels::Cosets;

/// `y = norm(conv(x))`, with the ReLU, dropout and max pooling after the norm, if any. In training this is one
/// operation. In evaluation without gradients it is one operation, and one for the pooling.
///
/// In training, the norm subtracts whatever the convolution's bias adds. So the gradient of the bias is exactly 0: it
/// is not computed, and the bias keeps its value. PyTorch computes rounding noise in its place, which Adam scales up to
/// full-size steps; the running mean then lags behind the bias.
#[derive(Debug)]
pub struct ConvNorm {
    names: [String; 2],
    conv: GroupConv,
    norm: BatchNorm,
    pool: Option<(String, MaxPool)>,
}

impl ConvNorm {
    /// Fuses the two layers, which have these names. The output has the convolution's name, for watchers and for
    /// [`Trace`].
    pub fn new(names: [String; 2], conv: GroupConv, norm: BatchNorm) -> Self {
        ConvNorm { names, conv, norm, pool: None }
    }

    /// The same with max pooling of its results, which is told and traced under a name of its own.
    pub(crate) fn with_pool(self, name: &str, pool: MaxPool) -> Self {
        ConvNorm { pool: Some((name.into(), pool)), ..self }
    }

    /// The same with another norm.
    pub(crate) fn map_norm(self, f: impl FnOnce(BatchNorm) -> BatchNorm) -> Self {
        ConvNorm { norm: f(self.norm), ..self }
    }

    pub(crate) fn norm(&self) -> &BatchNorm {
        &self.norm
    }
}

impl Module for ConvNorm {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        let (conv, norm, tape) = (&self.conv, &self.norm, x.tape());
        // Who watches wants to see what is pooled.
        let fuses = pass.mode() != Mode::Eval && !pass.is_watched() && pass.parts().is_none();
        let fused = self.pool.as_ref().filter(|_| fuses).map(|(_, pool)| pool.0);
        let y = match pass.mode() {
            // The statistics of all parts are there only once all have convolved.
            Mode::Train { .. } if pass.parts().is_some() => norm.apply(conv.apply_before_norm(x), pass),
            Mode::Train { seed, step } => norm.train(tape, seed, step, |norm_weight, norm_bias, eps, activation| {
                conv.forget();
                let (weight, bias) = (tape.param(conv.weight()), conv.bias().map(Param::value));
                x.group_conv_norm_train(&weight, bias, conv.conv(), norm_weight, norm_bias, eps, activation, fused)
            }),
            Mode::Eval if tape.is_recording() => norm.apply(conv.apply(x, pass), pass),
            Mode::Eval => conv.evaluate(x, conv.conv(), Some(norm.given())),
        };
        if fused.is_some() {
            return y;
        }
        pass.tell(&self.names[0], &y);
        match &self.pool {
            Some((name, pool)) => pass.through(name, pool, y),
            None => y,
        }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        let y = trace.through_kind(&self.names[0], GroupConv::KIND, &self.conv, x)?;
        trace.through_untold(&self.names[1], BatchNorm::KIND, &self.norm, y)?;
        match &self.pool {
            Some((name, pool)) => trace.through_kind(name, MaxPool::KIND, pool, y),
            None => Ok(y),
        }
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        let y = plain.through(&self.names[0], &self.conv, x)?;
        let y = plain.through(&self.names[1], &self.norm, y)?;
        match &self.pool {
            Some((name, pool)) => plain.through(name, pool, y),
            None => Ok(y),
        }
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.conv.visit_as(&self.names[0], f);
        self.norm.visit_as(&self.names[1], f);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        self.conv.read_as(&self.names[0], f);
        self.norm.read_as(&self.names[1], f);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Builder, Init, Mode, Module, Network, Sequential, training::train_step};
    use quarterturn_autograd::Optimizer;
    use quarterturn_core::{Device, Tensor};
    use quarterturn_kernels::{Group, Window};

    fn network() -> Sequential {
        let window = Window { kernel_size: 3, stride: 1, padding: 1 };
        let layers = Builder::new(Group::C4, 1, Init::kaiming(1), &Device::Cpu).conv("conv1", 3, window).norm("norm1");
        let layers = layers.relu().conv("conv2", 2, window).spatial_mean().coset_max().linear("linear", 2);
        Sequential::new("net", layers.build().unwrap())
    }

    /// What evaluation keeps of filters and norms is of no use once a step, a file or a user has changed them.
    #[test]
    fn a_prediction_is_that_of_the_present_weights() {
        let images = Tensor::cpu([2, 1, 1, 6, 6], (0..72).map(|i| (i as f32).sin()).collect());
        let labels = Tensor::cpu([2], vec![0.0, 1.0].into());
        let mut trained = network();
        let mut last = trained.predict(&images).unwrap();
        for step in 0..3 {
            if step < 2 {
                let mode = Mode::Train { seed: 1, step };
                train_step(&mut trained, &mut Optimizer::adam(0.0), 0.1, mode, &images, &labels).unwrap();
            } else {
                trained.visit(&mut |name, param| {
                    if name == "norm1.running_mean" {
                        param.set(Tensor::cpu([3], vec![0.5; 3].into()));
                    }
                });
            }
            let mut fresh = network();
            let mut values = Vec::new();
            trained.read(&mut |_, param| values.push(param.value().to_vec().unwrap()));
            let mut values = values.into_iter();
            fresh.visit(&mut |_, param| {
                let shape = param.value().shape();
                param.set(Tensor::cpu(shape, values.next().unwrap().into()));
            });
            let now = trained.predict(&images).unwrap();
            assert_eq!(now.f32s(), fresh.predict(&images).unwrap().f32s());
            assert_ne!(now.f32s(), last.f32s());
            last = now;
        }
    }
}
