//! Checkpoints: safetensors files with a network's parameters and buffers under their names. The metadata of the file
//! describe the layers, so that the network can be built from the file alone. A file may also hold [`Notes`] for
//! whoever uses the network.
//!
//! ```
//! use quarterturn_core::Device;
//! use quarterturn_models::{Checkpoint, MnistCnn, MnistCnnConfig, Network, checkpoint};
//!
//! # fn main() -> quarterturn_core::Result<()> {
//! let file = std::env::temp_dir().join("checkpoint-doc.safetensors");
//! checkpoint::save(&file, &MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?)?;
//! let network = Checkpoint::read(&file)?.network(&Device::Cpu)?; // or, in one call, checkpoint::load
//! assert_eq!(network.parameters(), 24_810);
//! # Ok(())
//! # }
//! ```
//!
//! Files are written atomically: under a temporary name, flushed to the disk, then renamed. If the content could not be
//! read back (a NaN, two tensors of one name), nothing is written and saving returns an error.
//!
//! Reading trusts no file. Whatever the bytes are, the result is an [`Error`] or a network with finite
//! values only. Only regular files of at most [`LARGEST_FILE`] bytes are read, and memory is allocated only for tensors
//! that the file contains.
//!
//! # Weights of PyTorch
//! A `.pt` or `.pth` file is converted in Python:
//!
//! ```python
//! import torch
//! from safetensors.torch import save_file
//!
//! state = torch.load("net.pt", map_location="cpu", weights_only=True)
//! state = state.get("state_dict", state)  # some programs save more than the tensors
//! save_file({name: tensor.contiguous() for name, tensor in state.items()}, "net.safetensors")
//! ```
//!
//! [`Checkpoint::renamed`] or [`Checkpoint::renamed_parts`] then gives the tensors the names that they have here, and
//! [`Checkpoint::with_settings`] adds the architecture and its options.

mod names;

use super::{
    preparation, regular,
    safetensors::{self, Archive, Entry},
    save,
};
use crate::{Config, Description, Init, Layers, MnistCnn, Network, ResNet, Sequential, SubsamplingNet};
use half::{bf16, f16};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    iter,
    path::Path,
    str::FromStr,
};

pub use preparation::{Preparation, Step, finish};
pub use save::{save, save_half, save_with};

/// The largest file that is read, in bytes: 4 GiB.
pub const LARGEST_FILE: u64 = 4 << 30;

/// Text that a file carries for whoever uses the network, by name. Loading does not depend on it.
///
/// Known names: [`Preparation::NOTE`], in its text form; `classes`, the names of the classes, one a line, in the order of the
/// logits; `input`, the height and width that the network was trained at, as `28x28`. Others are free.
pub type Notes = BTreeMap<String, String>;

/// A note's key in the file's metadata is its name behind this, so that no note is taken for a setting.
pub(crate) const NOTE: &str = "note.";

/// The key of the network's description, in its textual form.
pub(crate) const DESCRIPTION: &str = "network";

/// What is wrong with a file of another program.
const NO_SETTINGS: &str =
    "the file does not say of what network its tensors are: it has no settings. Checkpoint::with_settings adds them";

/// The content of a checkpoint file. Its format has been checked.
#[derive(Debug)]
pub struct Checkpoint {
    bytes: Vec<u8>,
    archive: Archive,
}

/// Reads the network in the file at `path`, of any architecture (as `torch.load`).
///
/// # Errors
/// As [`Checkpoint::read`] and [`Checkpoint::network`].
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Box<dyn Network>> {
    Checkpoint::read(path)?.network(device)
}

impl Checkpoint {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`], for other than regular files of at most [`LARGEST_FILE`] bytes too; [`Error::Corrupt`] if it is no sound
    /// safetensors file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let (mut file, length) = regular::open(path, LARGEST_FILE).map_err(|error| Error::io(path, &error))?;
        let mut bytes = Vec::new();
        // In parts, so that memory for the whole is only taken once the header says that it is a sound file.
        let mut read_to = |bytes: &mut Vec<u8>, end: u64| {
            let more = (&mut file).take(end - bytes.len() as u64).read_to_end(bytes);
            more.map_err(|error| Error::io(path, &error))
        };
        let malformed = |error| corrupt(path, error);
        read_to(&mut bytes, safetensors::LENGTH as u64)?;
        let start = safetensors::data_start(&bytes, length).map_err(malformed)?;
        read_to(&mut bytes, start as u64)?;
        let archive = safetensors::parse(&bytes, length).map_err(malformed)?;
        bytes.reserve_exact(length as usize + 1 - bytes.len());
        read_to(&mut bytes, length + 1)?;
        if bytes.len() as u64 != length {
            return Err(Error::io(path, &io::Error::other("the file changed while it was read")));
        }
        Ok(Checkpoint { bytes, archive })
    }

    /// As [`Checkpoint::read`], from bytes in memory. `path` is only named in errors.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are no sound safetensors file.
    pub fn from_bytes(bytes: Vec<u8>, path: impl AsRef<Path>) -> Result<Self> {
        match safetensors::parse(&bytes, bytes.len() as u64) {
            Ok(archive) => Ok(Checkpoint { bytes, archive }),
            Err(error) => Err(corrupt(path.as_ref(), error)),
        }
    }

    /// Builds the network that the file describes, with its weights, from this library's layers.
    ///
    /// # Errors
    /// As [`Checkpoint::network_of`].
    pub fn network(&self, device: &Device) -> Result<Box<dyn Network>> {
        self.network_of(&Layers::standard(), device)
    }

    /// As [`Checkpoint::network`], where `layers` may include types of your own. A file of version 0.1 describes no
    /// layers. Its setting `model` names one of the architectures of that version.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; [`Error::Invalid`] with the layer that does not,
    /// or is of an unknown kind; or when the GPU has no room.
    pub fn network_of(&self, layers: &Layers, device: &Device) -> Result<Box<dyn Network>> {
        let unfit = |message: String| Err(Error::Checkpoint { name: "model".into(), message });
        Ok(match self.config().get("model").map_or("", String::as_str) {
            "mnist_cnn" => Box::new(MnistCnn::restored(self, device)?),
            "resnet" => Box::new(ResNet::restored(self, device)?),
            "subsampling_net" => Box::new(self.fill(|init| SubsamplingNet::with_init(init, device))?),
            model => match self.description()? {
                Some(description) => {
                    Box::new(self.fill(|init| Ok(Sequential::new(model, description.build(layers, init, device)?)))?)
                }
                None if model.is_empty() => return unfit(NO_SETTINGS.into()),
                None => return unfit(format!("expected mnist_cnn, resnet or subsampling_net, found {model}")),
            },
        })
    }

    /// The network that `make` builds, with the file's values.
    ///
    /// # Errors
    /// As [`Checkpoint::restore`], and what `make` reports.
    pub(crate) fn fill<N: Network>(&self, make: impl FnOnce(Init) -> Result<N>) -> Result<N> {
        let mut network = make(Init::restoring(self))?;
        self.restore(&mut network)?;
        Ok(network)
    }

    /// The description of the network's layers; `None` in files of version 0.1 and of other programs.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the line of the description that does not fit.
    pub fn description(&self) -> Result<Option<Description>> {
        self.config().get(DESCRIPTION).map(|text| text.parse()).transpose()
    }

    /// The names of its tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.archive.tensors.keys().map(String::as_str)
    }

    /// The tensor `name`, of any shape.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is none, it is of another type than F16, BF16, F32 or F64, or a value is not finite.
    pub fn tensor(&self, name: &str, device: &Device) -> Result<Tensor> {
        let shape = match self.archive.tensors.get(name) {
            Some(Entry::Tensor { shape, .. }) => Shape::try_new(shape)?,
            _ => Shape::from([]),
        };
        self.tensor_of(name, shape, device)
    }

    /// Adds settings, such as `model` and `group`; existing ones of the same name are replaced. A file of another
    /// program has no settings, so the network cannot be built without this.
    #[must_use]
    pub fn with_settings(mut self, settings: Config) -> Self {
        self.archive.metadata.extend(settings);
        self
    }

    /// The notes of the file.
    pub fn notes(&self) -> Notes {
        let notes = self.archive.metadata.iter();
        notes.filter_map(|(key, text)| Some((key.strip_prefix(NOTE)?.to_string(), text.clone()))).collect()
    }

    /// How images are to be prepared for this network, if the file says so.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the text is not understood.
    pub fn preparation(&self) -> Result<Option<Preparation>> {
        self.config().get(&format!("{NOTE}{}", Preparation::NOTE)).map(|text| text.parse()).transpose()
    }

    /// All metadata of the file: the settings of the network, and notes with the prefix `note.`.
    pub fn config(&self) -> &Config {
        &self.archive.metadata
    }

    /// The names and shapes of its tensors, as far as they are tensors that are understood here.
    pub(crate) fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        let tensors = self.archive.tensors.iter();
        let shapes = tensors.filter_map(|(name, entry)| match entry {
            Entry::Tensor { shape, .. } => Some((name.clone(), shape.clone())),
            Entry::Other(_) => None,
        });
        shapes.collect()
    }

    /// Loads the values into `network` (as `load_state_dict`). The network must have the same settings. The tensors of
    /// the file must be exactly those of the network, with the same shapes, in F16, BF16, F32 or F64, and all values
    /// finite.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; the network is then unchanged.
    pub fn restore<N: Network + ?Sized>(&self, network: &mut N) -> Result<()> {
        self.restore_except(network, |_| false)
    }

    /// Loads only the tensors whose names are `wanted`, and leaves the others of `network` as they are. Use it for
    /// fine-tuning, to load all layers except the last: `|name| !name.starts_with("linear")`. Settings and description
    /// are not compared, only the names and shapes of wanted tensors. For other names see [`Checkpoint::renamed`].
    /// Returns the number of tensors that were loaded.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of a wanted tensor that the file lacks or that does not fit. The network is
    /// then unchanged.
    pub fn restore_part<N: Network + ?Sized>(&self, network: &mut N, wanted: impl Fn(&str) -> bool) -> Result<usize> {
        let values = self.values_for(network, wanted)?;
        let taken = values.len();
        put(network, values);
        Ok(taken)
    }

    /// As [`Checkpoint::restore`], from a file that may also hold tensors with names that are `foreign`.
    pub(crate) fn restore_except<N: Network + ?Sized>(
        &self,
        network: &mut N,
        foreign: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let settings = network.config();
        if !settings.keys().any(|name| self.config().contains_key(name)) {
            return Err(Error::Checkpoint { name: "model".into(), message: NO_SETTINGS.into() });
        }
        for (name, expected) in settings {
            self.expect(&name, &expected)?;
        }
        self.expect_description(&network.description())?;
        let values = self.values_for(network, |_| true)?;
        if let Some(name) = self.names().find(|&name| !values.contains_key(name) && !foreign(name)) {
            return Err(Error::Checkpoint { name: name.into(), message: "the network has no such tensor".into() });
        }
        put(network, values);
        Ok(())
    }

    /// The values of those of the network's tensors that are `wanted`, by name.
    fn values_for<N: Network + ?Sized>(
        &self,
        network: &mut N,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Tensor>> {
        let (mut values, mut outcome) = (BTreeMap::new(), Ok(()));
        network.visit(&mut |name, param| {
            if outcome.is_ok() && wanted(name) {
                let value = self.tensor_of(name, param.value().shape(), &param.value().device());
                outcome = value.map(|value| drop(values.insert(name.to_string(), value)));
            }
        });
        outcome.map(|()| values)
    }

    /// Refuses a file that describes other layers; one without a description may be of any.
    fn expect_description(&self, expected: &Description) -> Result<()> {
        let Some(found) = self.description()? else { return Ok(()) };
        if found == *expected {
            return Ok(());
        }
        let (found, expected) = (found.to_string(), expected.to_string());
        let lines = found.lines().map(Some).chain(iter::repeat(None));
        let mut pairs = expected.lines().map(Some).chain([None]).zip(lines).enumerate();
        let (number, (expected, found)) = pairs.find(|(_, (a, b))| a != b).unwrap_or_default();
        let [expected, found] = [expected, found].map(|line| line.map_or("no more layers", str::trim));
        let message = format!("line {}: expected '{expected}', found '{found}'", number + 1);
        Err(Error::Checkpoint { name: DESCRIPTION.into(), message })
    }

    /// Refuses a file whose setting `name` is not `expected`.
    pub(crate) fn expect(&self, name: &str, expected: &str) -> Result<()> {
        match self.config().get(name) {
            Some(found) if found == expected => Ok(()),
            found => {
                let found = found.map_or("nothing", String::as_str);
                let message = format!("expected {expected}, found {found}");
                Err(Error::Checkpoint { name: name.into(), message })
            }
        }
    }

    /// The value of the setting `name`, which should be `expected`, in words.
    pub(crate) fn setting<T: FromStr>(&self, name: &str, expected: &str) -> Result<T> {
        let found = self.config().get(name).map_or("nothing", String::as_str);
        let message = || format!("expected {expected}, found {found}");
        found.parse().map_err(|_| Error::Checkpoint { name: name.into(), message: message() })
    }

    /// Whether the file has a tensor `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.archive.tensors.contains_key(name)
    }

    /// The tensor `name`, which must have this shape and finite values.
    pub(crate) fn tensor_of(&self, name: &str, shape: Shape, device: &Device) -> Result<Tensor> {
        let unfit = |message: String| Error::Checkpoint { name: name.into(), message };
        let (dtype, found, bytes) = match self.archive.tensors.get(name) {
            Some(Entry::Tensor { dtype, shape, bytes }) => (dtype, shape, bytes),
            Some(Entry::Other(message)) => return Err(unfit(message.clone())),
            None => return Err(unfit(missing(name, self.names()))),
        };
        if found != shape.dims() {
            return Err(unfit(format!("expected shape {shape:?}, found {found:?}")));
        }
        let bytes = &self.bytes[bytes.clone()];
        let values: Vec<f64> = match dtype.as_str() {
            "F16" => decode(bytes, |b| f16::from_le_bytes(b).to_f64()),
            "BF16" => decode(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            "F32" => decode(bytes, |b| f64::from(f32::from_le_bytes(b))),
            "F64" => decode(bytes, f64::from_le_bytes),
            other => return Err(unfit(format!("expected F16, BF16, F32 or F64, found {other}"))),
        };
        match unfit_value(name, &values, device) {
            Some(message) => Err(unfit(message)),
            None => Tensor::from_f64(shape, values, device),
        }
    }
}

/// Gives the tensors of the network these values, by name.
fn put<N: Network + ?Sized>(network: &mut N, mut values: BTreeMap<String, Tensor>) {
    network.visit(&mut |name, param| {
        if let Some(value) = values.remove(name) {
            param.set(value);
        }
    });
}

fn corrupt(path: &Path, error: safetensors::Malformed) -> Error {
    Error::Corrupt { path: path.into(), offset: error.offset as u64, message: error.message }
}

/// That a file with tensors of these names has no tensor `name`, and which of them might be meant: those that end like it.
pub(crate) fn missing<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let last = |name: &str| name.rsplit('.').next().map(str::to_string);
    let alike: Vec<&str> = names.filter(|other| last(other) == last(name)).collect();
    let more = if alike.len() > 4 { ", …" } else { "" };
    match alike.is_empty() {
        true => "the file has no such tensor".into(),
        false => format!("the file has no such tensor; it has {}{more}", alike[..alike.len().min(4)].join(", ")),
    }
}

/// What is wrong with the values of the tensor `name` on `device`, if anything is.
pub(crate) fn unfit_value(name: &str, values: &[f64], device: &Device) -> Option<String> {
    let exact = matches!(device, Device::Reference);
    let finite = |v: f64| if exact { v.is_finite() } else { (v as f32).is_finite() };
    if let Some(index) = values.iter().position(|&v| !finite(v)) {
        return Some(format!("value {index} is {}, which is not finite here", values[index]));
    }
    let negative = name.ends_with("running_var").then(|| values.iter().position(|&v| v < 0.0)).flatten();
    negative.map(|index| format!("value {index} is {}, but a variance is not negative", values[index]))
}

fn decode<const B: usize>(data: &[u8], value: impl Fn([u8; B]) -> f64) -> Vec<f64> {
    data.as_chunks::<B>().0.iter().map(|&bytes| value(bytes)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
