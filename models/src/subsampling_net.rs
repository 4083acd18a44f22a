//! The smallest network that subsamples, with which Figure 3 of Edixhoven et al. 2023 shows that a network of exactly
//! equivariant layers can learn to tell an image from its quarter turn.

use crate::{Config, GroupConv, Init, Linear, Mode, Module, Network};
use quarterturn_autograd::{Param, Tape, Var};
use quarterturn_core::{Device, Result, Shape, Tensor};
use quarterturn_kernels::{Conv, Group};

/// Lifting convolution on p4 (k = 3, s = 2, p = 1; one channel to one) → mean over space → maximum over the group →
/// linear layer 1 → 2. Exact for odd sizes (33), not for even ones (32).
#[derive(Debug)]
pub struct SubsamplingNet {
    conv: GroupConv,
    linear: Linear,
}

impl SubsamplingNet {
    /// A network with random weights that are a function of `seed`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn new(seed: u64, device: &Device) -> Result<Self> {
        let mut init = Init::new(seed);
        let conv = Conv { group: Group::C4, stride: 2, padding: 1 };
        let conv = GroupConv::lifting(1, 1, 3, conv, &mut init, device)?;
        let linear = Linear::new(1, 2, &mut init, device)?;
        Ok(SubsamplingNet { conv, linear })
    }

    /// What the convolution makes of images `[N, 1, 1, H, W]`: the feature map `[N, 1, 4, H', W']` before the means.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Invalid`] if the images do not fit.
    pub fn feature_map(&self, images: &Tensor) -> Result<Tensor> {
        self.output_shape(images.shape())?;
        let tape = Tape::evaluation();
        Ok(self.conv.forward(tape.constant(images.clone()), Mode::Eval).value().clone())
    }
}

impl Module for SubsamplingNet {
    fn forward<'t>(&self, x: Var<'t>, mode: Mode) -> Var<'t> {
        self.linear.forward(self.conv.forward(x, mode).spatial_mean().coset_max(), mode)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.conv.visit_as("conv", f);
        self.linear.visit_as("linear", f);
    }
}

impl Network for SubsamplingNet {
    fn config(&self) -> Config {
        Config::from([("model".into(), "subsampling_net".into()), ("group".into(), Group::C4.name().into())])
    }

    fn device(&self) -> Device {
        self.linear.weight().value().device()
    }

    fn output_shape(&self, images: Shape) -> Result<Shape> {
        Ok(Shape::from([self.conv.output_shape("conv", images)?[0], 2]))
    }
}
