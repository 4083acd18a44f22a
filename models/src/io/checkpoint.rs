//! Checkpoints: safetensors files with a network's parameters and buffers under their stable names, and its settings
//! in the metadata. Beside the settings, which the network needs to be built again, a file may keep [`Notes`].
//!
//! A file is written beside its final name, flushed to the disk and renamed, so that no reader ever sees half of one. What could
//! not be read back is not written.
//!
//! Reading trusts nothing: whatever the bytes are, the outcome is an [`Error`] or a network whose every value is finite. Only
//! regular files of at most [`LARGEST_FILE`] bytes are read, and no memory is taken for tensors that a file does not hold.
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
//! [`Checkpoint::with_settings`] adds what the network is.

use super::{
    preparation,
    safetensors::{self, Archive, Entry},
    save,
};
use crate::{Config, Description, Init, Layers, MnistCnn, Network, ResNet, Sequential, SubsamplingNet};
use half::{bf16, f16};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    iter,
    path::Path,
    str::FromStr,
};

pub use preparation::{Preparation, Step};
pub use save::{save, save_with};

/// No file may be larger, in bytes: 4 GiB.
pub const LARGEST_FILE: u64 = 4 << 30;

/// What a file says beside the network's settings, by name. Nothing here depends on it, but whoever uses the network may.
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

/// A checkpoint's content, checked to be a sound safetensors file.
#[derive(Debug)]
pub struct Checkpoint {
    bytes: Vec<u8>,
    archive: Archive,
}

/// The network that the file at `path` holds, of whatever architecture: its settings tell.
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
        let (mut file, length) = open_regular(path).map_err(|error| Error::io(path, &error))?;
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

    /// Checks `bytes`, which are those of the file at `path` or come from elsewhere: errors name it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they are no sound safetensors file.
    pub fn from_bytes(bytes: Vec<u8>, path: impl AsRef<Path>) -> Result<Self> {
        match safetensors::parse(&bytes, bytes.len() as u64) {
            Ok(archive) => Ok(Checkpoint { bytes, archive }),
            Err(error) => Err(corrupt(path.as_ref(), error)),
        }
    }

    /// The network that it holds, built of this library's layers.
    ///
    /// # Errors
    /// As [`Checkpoint::network_of`].
    pub fn network(&self, device: &Device) -> Result<Box<dyn Network>> {
        self.network_of(&Layers::standard(), device)
    }

    /// The network that it holds, built of `layers` as the file describes it. A file of version 0.1 describes no layers; its setting
    /// `model` names one of the architectures of that version.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; [`Error::Invalid`] with the layer that does not,
    /// or is of an unknown kind; or when the GPU has no room.
    pub fn network_of(&self, layers: &Layers, device: &Device) -> Result<Box<dyn Network>> {
        let mut network: Box<dyn Network> = match self.config().get("model").map_or("", String::as_str) {
            "mnist_cnn" => return Ok(Box::new(MnistCnn::restored(self, device)?)),
            "resnet" => return Ok(Box::new(ResNet::restored(self, device)?)),
            "subsampling_net" => Box::new(SubsamplingNet::with_init(Init::restoring(self), device)?),
            model => match self.description()? {
                Some(description) => {
                    let chain = description.build(layers, Init::restoring(self), device)?;
                    Box::new(Sequential::new(model, chain))
                }
                None if model.is_empty() => {
                    return Err(Error::Checkpoint { name: "model".into(), message: NO_SETTINGS.into() });
                }
                None => {
                    let message = format!("expected mnist_cnn, resnet or subsampling_net, found {model}");
                    return Err(Error::Checkpoint { name: "model".into(), message });
                }
            },
        };
        self.restore(&mut *network)?;
        Ok(network)
    }

    /// What the network is made of; `None` in files of version 0.1 and of other programs.
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

    /// The same tensors under the names that `rename` gives them, without those for which it gives `None`: for weights
    /// that another program trained. Feature maps and weights follow GrouPy's conventions, so values stay as they are.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if two tensors would have the same name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (old, entry) in self.archive.tensors {
            let Some(new) = rename(&old) else { continue };
            if tensors.insert(new.clone(), entry).is_some() {
                return Err(Error::Checkpoint { name: new, message: format!("{old} is the second to get this name") });
            }
        }
        self.archive.tensors = tensors;
        Ok(self)
    }

    /// The same tensors with parts of their names replaced, as `names` says: the whole of a name, or all before one of its points.
    /// Of several that fit, the longest part is replaced. One whose new name is empty is taken away first, with its point: `module`
    /// and `_orig_mod`, which PyTorch's wrappers put before names, go by `("module", "")`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if no tensor's name has one of the parts, or two tensors would have the same name.
    pub fn renamed_parts(self, names: &BTreeMap<String, String>) -> Result<Self> {
        let mut unused: BTreeSet<&str> = names.keys().map(String::as_str).collect();
        let renamed: BTreeMap<String, String> =
            self.names().map(|name| (name.to_string(), renamed_part(name, names, &mut unused))).collect();
        if let Some(part) = unused.first() {
            let message = "is to be renamed, but no tensor of the file has it".to_string();
            return Err(Error::Checkpoint { name: part.to_string(), message });
        }
        self.renamed(|name| renamed.get(name).cloned())
    }

    /// The same tensors with these settings added, in place of those of the same name: a file of another program says
    /// nothing about the network.
    #[must_use]
    pub fn with_settings(mut self, settings: Config) -> Self {
        self.archive.metadata.extend(settings);
        self
    }

    /// What the file says beside the settings.
    pub fn notes(&self) -> Notes {
        let notes = self.archive.metadata.iter();
        notes.filter_map(|(key, text)| Some((key.strip_prefix(NOTE)?.to_string(), text.clone()))).collect()
    }

    /// How the images were prepared that the network was trained on, if the file says so.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it says so in words that are not understood.
    pub fn preparation(&self) -> Result<Option<Preparation>> {
        self.config().get(&format!("{NOTE}{}", Preparation::NOTE)).map(|text| text.parse()).transpose()
    }

    /// All that its metadata say: the settings of the network that it holds, and notes behind `note.`.
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

    /// Puts its values into `network`, which must have the same settings; its tensors must be just those that
    /// `network` visits, of the same shapes, in F16, BF16, F32 or F64, all values finite.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; the network is then unchanged.
    pub fn restore<N: Network + ?Sized>(&self, network: &mut N) -> Result<()> {
        self.restore_except(network, |_| false)
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
        let mut unused: BTreeSet<&str> = self.names().collect();
        let mut values = Vec::new();
        let mut outcome = Ok(());
        network.visit(&mut |name, param| {
            unused.remove(name);
            if outcome.is_ok() {
                outcome = self.tensor(name, param.value().shape(), &param.value().device()).map(|v| values.push(v));
            }
        });
        outcome?;
        if let Some(name) = unused.into_iter().find(|name| !foreign(name)) {
            return Err(Error::Checkpoint { name: name.into(), message: "the network has no such tensor".into() });
        }
        let mut values = values.into_iter();
        network.visit(&mut |_, param| param.set(values.next().expect("visit always reaches the same parameters")));
        Ok(())
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
    pub(crate) fn tensor(&self, name: &str, shape: Shape, device: &Device) -> Result<Tensor> {
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

fn corrupt(path: &Path, error: safetensors::Malformed) -> Error {
    Error::Corrupt { path: path.into(), offset: error.offset as u64, message: error.message }
}

/// The file at `path` and its length; opening what is no file, such as a pipe, could wait for ever, and reading it never end.
fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let length = |metadata: fs::Metadata| match metadata.len() {
        _ if !metadata.is_file() => Err(io::Error::other("this is no regular file")),
        length if length > LARGEST_FILE || usize::try_from(length).is_err() => {
            Err(io::Error::other(format!("the file has {length} bytes, more than the {LARGEST_FILE} that are read")))
        }
        length => Ok(length),
    };
    length(fs::metadata(path)?)?;
    let file = File::open(path)?;
    let length = length(file.metadata()?)?;
    Ok((file, length))
}

/// `name` without the parts that `names` takes away, and with its longest part that has another new name replaced. Parts that it
/// has are no longer `unused`.
fn renamed_part<'a>(name: &str, names: &'a BTreeMap<String, String>, unused: &mut BTreeSet<&'a str>) -> String {
    // Where the parts of a name end that have an entry, and their new names.
    let mut parts = |name: &str| -> Vec<(usize, &'a str)> {
        let entry = |end| {
            let (old, new) = names.get_key_value(&name[..end])?;
            unused.remove(old.as_str());
            Some((end, new.as_str()))
        };
        name.match_indices('.').map(|(at, _)| at).chain([name.len()]).filter_map(entry).collect()
    };
    let mut name = name;
    while let Some(&(end, _)) = parts(name).iter().find(|&&(end, new)| new.is_empty() && end < name.len()) {
        name = &name[end + 1..];
    }
    match parts(name).into_iter().rev().find(|(_, new)| !new.is_empty()) {
        Some((end, new)) => format!("{new}{}", &name[end..]),
        None => name.to_string(),
    }
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
