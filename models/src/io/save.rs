//! Writing checkpoints.

use super::{
    checkpoint::{DESCRIPTION, LARGEST_FILE, NOTE, Notes, unfit_value},
    safetensors,
};
use crate::{Config, Description, Network};
use half::f16;
use quarterturn_core::{Device, Error, Result, Tensor, replace_file};
use std::{collections::BTreeSet, path::Path};

/// Writes `network` to a checkpoint file, in `f32`, or `f64` from [`Device::Reference`].
///
/// # Errors
/// [`Error::Checkpoint`], naming the tensor, if a value is not finite or two tensors have the same name; [`Error::Io`];
/// an error of the GPU. A former file at `path` is then unharmed.
#[doc(alias = "state_dict")]
pub fn save<N: Network + ?Sized>(path: impl AsRef<Path>, network: &N) -> Result<()> {
    save_with(path, network, &Notes::new())
}

/// As [`save`], with notes, such as the preparation of images. [`crate::Checkpoint::notes`] reads them.
///
/// ```
/// use quarterturn_core::Device;
/// use quarterturn_models::{Checkpoint, MnistCnn, MnistCnnConfig, checkpoint::{self, Notes, Preparation}};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
/// let preparation: Preparation = "normalize 0.13084 0.04348; circle_crop".parse()?;
/// let notes = Notes::from([(Preparation::NOTE.into(), preparation.to_string())]);
/// let file = std::env::temp_dir().join("with-notes.safetensors");
/// checkpoint::save_with(&file, &network, &notes)?;
///
/// assert_eq!(Checkpoint::read(&file)?.preparation()?, Some(preparation));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`save`].
pub fn save_with<N: Network + ?Sized>(path: impl AsRef<Path>, network: &N, notes: &Notes) -> Result<()> {
    let mut encoder = Encoder::of(network)?;
    encoder.notes(notes);
    encoder.write(path)
}

/// As [`save_with`], with filters and matrices in `f16`: about half the file size. Tensors with one axis (biases,
/// parameters and statistics of norms) stay in `f32`. Reading converts back to `f32`; the weights have been rounded to
/// 11 bits.
///
/// # Errors
/// As [`save`]; [`Error::Checkpoint`] with the name of a tensor that has a value above 65,504, which `f16` does not hold.
pub fn save_half<N: Network + ?Sized>(path: impl AsRef<Path>, network: &N, notes: &Notes) -> Result<()> {
    let mut encoder = Encoder::of(network)?;
    encoder.notes(notes);
    let mut outcome = Ok(());
    network.read(&mut |name, param| {
        if outcome.is_ok() && param.value().shape().rank() > 1 {
            outcome = encoder.halve(name, param.value());
        }
    });
    outcome?;
    encoder.write(path)
}

/// What a file will hold.
#[derive(Default)]
pub(crate) struct Encoder {
    pub(super) metadata: Config,
    pub(super) tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
}

impl Encoder {
    /// The network's settings, parameters and buffers.
    pub fn of<N: Network + ?Sized>(network: &N) -> Result<Self> {
        let mut encoder = Encoder { metadata: network.config(), tensors: Vec::new() };
        let description = network.description().to_string();
        // What could not be read back is not written.
        description.parse::<Description>()?;
        encoder.setting(DESCRIPTION.into(), description);
        let mut outcome = Ok(());
        network.read(&mut |name, param| {
            if outcome.is_ok() {
                outcome = encoder.tensor(name.into(), param.value());
            }
        });
        outcome.map(|()| encoder)
    }

    pub fn tensor(&mut self, name: String, value: &Tensor) -> Result<()> {
        let (values, device) = (value.to_f64()?, value.device());
        if let Some(message) = unfit_value(&name, &values, &device) {
            return Err(Error::Checkpoint { name, message });
        }
        let (dtype, bytes) = match device {
            Device::Reference => ("F64", values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            _ => ("F32", values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect()),
        };
        self.tensors.push((name, dtype, value.dims().to_vec(), bytes));
        Ok(())
    }

    /// Stores a tensor that it has in `f16`.
    fn halve(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let values: Vec<f16> = value.to_f64()?.into_iter().map(f16::from_f64).collect();
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let message = format!("value {index} is too large for f16");
            return Err(Error::Checkpoint { name: name.into(), message });
        }
        if let Some(stored) = self.tensors.iter_mut().find(|(stored, ..)| stored == name) {
            (stored.1, stored.3) = ("F16", values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        Ok(())
    }

    /// Values of no tensor, as `f32`.
    pub fn values(&mut self, name: String, dims: &[usize], values: &[f64]) -> Result<()> {
        if let Some(message) = unfit_value(&name, values, &Device::Cpu) {
            return Err(Error::Checkpoint { name, message });
        }
        let bytes = values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
        self.tensors.push((name, "F32", dims.to_vec(), bytes));
        Ok(())
    }

    pub fn setting(&mut self, name: String, value: String) {
        self.metadata.insert(name, value);
    }

    pub fn notes(&mut self, notes: &Notes) {
        self.metadata.extend(notes.iter().map(|(name, text)| (format!("{NOTE}{name}"), text.clone())));
    }

    /// The file, once it has been read as [`super::Checkpoint`] would read it.
    fn bytes(&self) -> Result<Vec<u8>> {
        let unfit = |name: &str, message: String| Err(Error::Checkpoint { name: name.into(), message });
        let mut names = BTreeSet::new();
        if let Some((name, ..)) = self.tensors.iter().find(|(name, ..)| !names.insert(name)) {
            return unfit(name, "two tensors have this name, so that the file could not be read back".into());
        }
        let bytes = safetensors::serialize(&self.metadata, &self.tensors);
        let length = bytes.len() as u64;
        match safetensors::parse(&bytes, length) {
            Err(error) => {
                unfit("file", format!("it could not be read back: at byte {}: {}", error.offset, error.message))
            }
            Ok(_) if length > LARGEST_FILE => {
                unfit("file", format!("{length} bytes, more than the {LARGEST_FILE} that are read"))
            }
            Ok(_) => Ok(bytes),
        }
    }

    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = self.bytes()?;
        replace_file(path, |out| out.write_all(&bytes))
    }
}
