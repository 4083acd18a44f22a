//! Complete networks.

use crate::{
    Chain, Description, Mode, Module, Pass, Symmetry, Trace,
    check::warn_of_pixels,
    export::{Plain, Value},
};
use quarterturn_autograd::{Kind, Param, Tape, Var};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use quarterturn_kernels::{Cosets, Group};
use std::{collections::BTreeMap, str::FromStr};

/// A network's settings by name, as a checkpoint stores them.
pub type Config = BTreeMap<String, String>;

/// Fewer multiplications than these are done by the calling thread alone: half a millisecond, or less. To wake the threads that share
/// the work, and to be woken by them, takes up to a tenth of that.
const ALONE: u64 = 1 << 24;

/// Computes on one of the threads that share the work, if it is the CPU's. Otherwise each operation that is shared out would put the
/// calling thread to sleep and wake it again.
pub(crate) fn on_workers<T: Send>(device: &Device, compute: impl FnOnce() -> T + Send) -> T {
    match device {
        Device::Cpu => rayon::scope(|_| compute()),
        _ => compute(),
    }
}

/// A complete network for images: layers, and the settings that they were made from.
pub trait Network: Module {
    /// Its settings. The key `model` has the name of the architecture; the other keys are its options.
    fn config(&self) -> Config;

    /// Its layers.
    fn layers(&self) -> &Chain;

    /// Its layers, for training and loading.
    fn layers_mut(&mut self) -> &mut Chain;

    /// The description of its layers. Checkpoints contain it, so that the network can be built again.
    fn description(&self) -> Description {
        Description {
            name: self.config().remove("model").unwrap_or_default(),
            group: self.group(),
            in_channels: self.in_channels(),
            layers: self.layers().nodes().to_vec(),
        }
    }

    /// Its group.
    fn group(&self) -> Group {
        self.layers().group()
    }

    /// The number of channels of its input images.
    fn in_channels(&self) -> usize {
        self.layers().in_channels()
    }

    /// The device that its parameters are on.
    fn device(&self) -> Device {
        let mut device = None;
        self.layers().read(&mut |_, param| {
            device.get_or_insert_with(|| param.value().device());
        });
        device.unwrap_or(Device::Cpu)
    }

    /// The shape of the output for images of shape `images`.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer that does not fit.
    fn output_shape(&self, images: Shape) -> Result<Shape> {
        self.layers().trace(images, &mut Trace::new(self.group()))
    }

    /// The output for images `[N, C, 1, H, W]`, always in evaluation mode. For a classifier these are logits
    /// `[N, classes]`; see [`crate::Exactness`] for when a turned image has the same ones.
    ///
    /// If an image has a value above 50, it was probably not normalised. A warning through the `log` crate says so,
    /// once per process. (On a GPU this method does not check, because it would have to wait for the GPU. Training and
    /// [`crate::training::Tally`] check there, once.)
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images do not fit the network or are on another device.
    fn predict(&self, images: &Tensor) -> Result<Tensor> {
        let (work, compute) = (self.work(images)?, || self.compute(images, Pass::new(Mode::Eval)));
        if work < ALONE { compute() } else { on_workers(&self.device(), compute) }
    }

    /// As [`Network::predict`], and calls `told` with the name and the output of every layer and block (PyTorch:
    /// forward hooks). Outputs are feature maps `[N, C, G, H, W]`, after the mean over pixels `[N, C, G]`, after the
    /// maximum over the group `[N, C]`.
    ///
    /// # Errors
    /// As [`Network::predict`].
    fn predict_watched(&self, images: &Tensor, told: &mut dyn FnMut(&str, &Tensor)) -> Result<Tensor> {
        self.work(images)?;
        self.compute(images, Pass::watched(Mode::Eval, told))
    }

    /// How many multiplications these images take, if they fit.
    #[doc(hidden)]
    fn work(&self, images: &Tensor) -> Result<u64> {
        let mut trace = Trace::new(self.group());
        self.layers().trace(images.shape(), &mut trace)?;
        Ok(trace.work())
    }

    #[doc(hidden)]
    fn compute(&self, images: &Tensor, mut pass: Pass<'_>) -> Result<Tensor> {
        let (here, there) = (self.device(), images.device());
        if !here.same(&there) {
            return Err(Error::Invalid(format!("the network is on {here}, the images are on {there}")));
        }
        if matches!(here, Device::Cpu | Device::Reference) {
            warn_of_pixels(self, images)?;
        }
        let tape = Tape::evaluation();
        Ok(self.layers().apply(tape.constant(images.clone()), &mut pass).value().clone())
    }

    /// The number of trainable parameters. Running statistics do not count.
    fn parameters(&self) -> usize {
        let mut count = 0;
        self.read(&mut |_, param| {
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

impl<N: Network> Module for N {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        self.layers().apply(x, pass)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        self.layers().trace(x, trace)
    }

    fn export(&self, x: Value, plain: &mut Plain) -> Result<Value> {
        self.layers().export(x, plain)
    }

    // What its layers do, they say themselves.
    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.layers_mut().visit(f);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        self.layers().read(f);
    }
}

/// The setting called `name`.
///
/// # Errors
/// [`Error::Checkpoint`] if it is missing or does not parse; `expected` says what would.
pub(crate) fn setting<T: FromStr>(config: &Config, name: &str, expected: &str) -> Result<T> {
    let found = config.get(name).map_or("nothing", String::as_str);
    let unfit = |_| Error::Checkpoint { name: name.into(), message: format!("expected {expected}, found {found}") };
    found.parse().map_err(unfit)
}

/// As [`setting`], for one that files of older versions do not have: then the default.
pub(crate) fn setting_or_default<T: FromStr + Default>(config: &Config, name: &str, expected: &str) -> Result<T> {
    if config.contains_key(name) { setting(config, name, expected) } else { Ok(T::default()) }
}

/// # Errors
/// [`Error::Checkpoint`] if the settings are those of another architecture than `model`.
pub(crate) fn expect_model(config: &Config, model: &str) -> Result<()> {
    match config.get("model").map_or("nothing", String::as_str) {
        found if found == model => Ok(()),
        found => Err(Error::Checkpoint { name: "model".into(), message: format!("expected {model}, found {found}") }),
    }
}

#[cfg(test)]
mod tests {
    use crate::{Builder, Init, Module, Network, Pass, Sequential, Trace};
    use quarterturn_autograd::{Param, Var};
    use quarterturn_core::{Device, Result, Shape, Tensor};
    use quarterturn_kernels::{Group, Window};
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };

    /// Writes down whether one of the threads that share the work computes it.
    struct Witness(Arc<AtomicBool>);

    impl Module for Witness {
        fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
            self.0.store(rayon::current_thread_index().is_some(), Relaxed);
            x
        }

        fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
            Ok(x)
        }

        fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
    }

    #[test]
    fn little_work_stays_on_the_calling_thread() {
        let shared = Arc::new(AtomicBool::new(true));
        let window = Window { kernel_size: 3, stride: 1, padding: 1 };
        let layers = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).conv("conv1", 4, window);
        let layers = layers.layer("witness", Witness(shared.clone())).conv("conv2", 4, window).build().unwrap();
        let network = Sequential::new("net", layers);
        // A pixel takes 4 · 4 · 54 multiplications, and 4 · 18 for the lifting.
        for (extent, expected) in [(100, false), (150, true), (28, false)] {
            let image = Tensor::full([1, 1, 1, extent, extent], 0.5, &Device::Cpu).unwrap();
            network.predict(&image).unwrap();
            assert_eq!(shared.load(Relaxed), expected, "{extent}");
        }
    }
}
