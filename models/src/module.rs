//! What layers and networks have in common.

use quarterturn_autograd::{Kind, Param, Tape, Var};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use std::collections::BTreeMap;

/// A network's settings by name, as a checkpoint keeps them.
pub type Config = BTreeMap<String, String>;

/// What a forward pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Statistics of the batch, and dropout keyed by the run's seed and the step.
    Train {
        /// The run's seed.
        seed: u64,
        /// The step, counted over the whole run.
        step: u32,
    },
    /// Running statistics, no dropout.
    Eval,
}

/// Something with parameters that maps a value to a value: a layer, a block or a network.
pub trait Module: Send + Sync {
    /// The output. Takes the input by value, so that in evaluation it is freed once it has been read.
    ///
    /// # Panics
    /// If the input's shape does not fit; for users' images see [`Network::predict`].
    fn forward<'t>(&self, x: Var<'t>, mode: Mode) -> Var<'t>;

    /// Calls `f` with each parameter and its name, always in the same order.
    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param));

    /// Visits with `prefix.` before each name.
    fn visit_as(&mut self, prefix: &str, f: &mut dyn FnMut(&str, &mut Param)) {
        self.visit(&mut |name, param| f(&format!("{prefix}.{name}"), param));
    }
}

/// A complete classifier of images.
pub trait Network: Module {
    /// Its settings: the architecture's name under `model`, and what its builder needs.
    fn config(&self) -> Config;

    /// Where its parameters are.
    fn device(&self) -> Device;

    /// The shape of the logits for images of shape `images`.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer that does not fit.
    fn output_shape(&self, images: Shape) -> Result<Shape>;

    /// The logits `[N, classes]` of images `[N, C, 1, H, W]`, in evaluation mode.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images do not fit the network or are on another device.
    fn predict(&self, images: &Tensor) -> Result<Tensor> {
        self.output_shape(images.shape())?;
        let (here, there) = (self.device(), images.device());
        if !here.same(&there) {
            return Err(Error::Invalid(format!("the network is on {here}, the images are on {there}")));
        }
        let tape = Tape::evaluation();
        Ok(self.forward(tape.constant(images.clone()), Mode::Eval).value().clone())
    }

    /// Number of trained values; buffers do not count.
    fn parameters(&mut self) -> usize {
        let mut count = 0;
        self.visit(&mut |_, param| {
            if param.kind() == Kind::Weight {
                count += param.value().len();
            }
        });
        count
    }

    /// Moves all parameters to `device`.
    ///
    /// # Errors
    /// When a GPU on either side fails; the network may then be spread over both.
    #[cfg(not(target_arch = "wasm32"))]
    fn to_device(&mut self, device: &Device) -> Result<()> {
        let mut outcome = Ok(());
        self.visit(&mut |_, param| {
            if outcome.is_ok() {
                outcome = param.to_device(device);
            }
        });
        outcome
    }
}
