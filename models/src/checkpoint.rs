//! Checkpoints: safetensors files with a network's parameters and buffers under their stable names, and its settings as
//! JSON under the metadata key `config`.
//!
//! A file is written beside its final name, flushed to the disk and renamed, so that no reader ever sees half of one.
//! Reading trusts nothing: whatever the bytes are, the outcome is an [`Error`] or a network whose every value is finite.

use crate::{Config, Network};
use half::{bf16, f16};
use quarterturn_autograd::Param;
use quarterturn_core::{Device, Error, Result, Tensor};
use safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

/// The metadata key of the settings.
const CONFIG: &str = "config";

/// A checkpoint's content, checked to be a sound safetensors file with settings.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    bytes: Vec<u8>,
    config: Config,
}

/// Writes `network` to `path`: `f32`, or `f64` from [`Device::Reference`].
///
/// # Errors
/// [`Error::Io`]; or what went wrong on the GPU since the last read-back. A former file at `path` is then unharmed.
#[cfg(not(target_arch = "wasm32"))]
pub fn save<N: Network + ?Sized>(path: impl AsRef<Path>, network: &mut N) -> Result<()> {
    let mut tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut outcome = Ok(());
    network.visit(&mut |name, param| {
        if outcome.is_ok() {
            match encode(param.value()) {
                Ok((dtype, bytes)) => tensors.push((name.into(), dtype, param.value().dims().to_vec(), bytes)),
                Err(error) => outcome = Err(error),
            }
        }
    });
    outcome?;
    let views = tensors.iter().map(|(name, dtype, dims, bytes)| {
        (name, TensorView::new(*dtype, dims.clone(), bytes).expect("as many bytes as the shape and type have"))
    });
    let config = serde_json::Value::Object(network.config()).to_string();
    let metadata = [(CONFIG.to_string(), config)].into_iter().collect();
    let bytes = safetensors::serialize(views, Some(metadata)).expect("names and shapes are sound");
    write_atomically(path.as_ref(), &bytes)
}

fn encode(value: &Tensor) -> Result<(Dtype, Vec<u8>)> {
    Ok(match value.device() {
        Device::Reference => (Dtype::F64, value.f64s().iter().flat_map(|v| v.to_le_bytes()).collect()),
        _ => (Dtype::F32, value.to_vec()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
    })
}

/// Writes a temporary file in the same folder, makes it durable and renames it to `path`.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = fs::remove_file(&temporary);
        return Err(Error::io(path, &error));
    }
    // The rename itself is durable once the folder is; not every system lets a folder be opened.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

impl Checkpoint {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] if it is no sound safetensors file; [`Error::Checkpoint`] if it lacks
    /// settings.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|error| Error::io(path, &error))?;
        Self::parse(path, bytes)
    }

    fn parse(path: &Path, bytes: Vec<u8>) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(path, &error))?;
        let unusable = |message: String| Error::Checkpoint { name: CONFIG.into(), message };
        let text = metadata.metadata().as_ref().and_then(|metadata| metadata.get(CONFIG));
        let text = text.ok_or_else(|| unusable("the file's metadata has no such entry".into()))?;
        let config = serde_json::from_str(text).map_err(|error| unusable(format!("no JSON object: {error}")))?;
        Ok(Checkpoint { path: path.into(), bytes, config })
    }

    /// The settings of the network that it holds.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Refuses settings that promise more values than the file can hold, before memory is set aside for them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub(crate) fn expect_values(&self, values: u64) -> Result<()> {
        let smallest = 2; // bytes of a value in half precision
        if values.saturating_mul(smallest) > self.bytes.len() as u64 {
            let message = format!("the settings make {values} values, the file has {} bytes", self.bytes.len());
            return Err(Error::Checkpoint { name: CONFIG.into(), message });
        }
        Ok(())
    }

    /// Puts its values into `network`, which must have the same settings; its tensors must be just those that
    /// `network` visits, of the same shapes, in F16, BF16, F32 or F64, all values finite.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; the network is then unchanged.
    pub fn restore<N: Network + ?Sized>(&self, network: &mut N) -> Result<()> {
        for (name, expected) in network.config() {
            let found = self.config.get(&name);
            if found != Some(&expected) {
                let found = found.map_or("nothing".into(), ToString::to_string);
                return Err(Error::Checkpoint { name, message: format!("expected {expected}, found {found}") });
            }
        }
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|error| corrupt(&self.path, &error))?;
        let mut unused: BTreeSet<&str> = tensors.names().into_iter().collect();
        let mut values = Vec::new();
        let mut outcome = Ok(());
        network.visit(&mut |name, param| {
            unused.remove(name);
            if outcome.is_ok() {
                outcome = value(&tensors, name, param).map(|tensor| values.push(tensor));
            }
        });
        outcome?;
        if let Some(name) = unused.first() {
            return Err(Error::Checkpoint { name: (*name).into(), message: "the network has no such tensor".into() });
        }
        let mut values = values.into_iter();
        network.visit(&mut |_, param| param.set(values.next().expect("visit always reaches the same parameters")));
        Ok(())
    }
}

/// The value that the file has for `param`.
fn value(tensors: &SafeTensors, name: &str, param: &Param) -> Result<Tensor> {
    let unfit = |message: String| Error::Checkpoint { name: name.into(), message };
    let view = tensors.tensor(name).map_err(|_| unfit("the file has no such tensor".into()))?;
    let shape = param.value().shape();
    if view.shape() != shape.dims() {
        return Err(unfit(format!("expected shape {shape:?}, found {:?}", view.shape())));
    }
    let data = view.data();
    let values: Vec<f64> = match view.dtype() {
        Dtype::F16 => decode(data, |b| f16::from_le_bytes(b).to_f64()),
        Dtype::BF16 => decode(data, |b| bf16::from_le_bytes(b).to_f64()),
        Dtype::F32 => decode(data, |b| f64::from(f32::from_le_bytes(b))),
        Dtype::F64 => decode(data, f64::from_le_bytes),
        other => return Err(unfit(format!("expected F16, BF16, F32 or F64, found {other}"))),
    };
    let device = param.value().device();
    let exact = matches!(device, Device::Reference);
    let finite = |v: f64| if exact { v.is_finite() } else { (v as f32).is_finite() };
    if let Some(index) = values.iter().position(|&v| !finite(v)) {
        return Err(unfit(format!("value {index} is {}, which is not finite here", values[index])));
    }
    if name.ends_with("running_var")
        && let Some(index) = values.iter().position(|&v| v < 0.0)
    {
        return Err(unfit(format!("value {index} is {}, but a variance is not negative", values[index])));
    }
    Tensor::from_f64(shape, values, &device)
}

fn decode<const B: usize>(data: &[u8], value: impl Fn([u8; B]) -> f64) -> Vec<f64> {
    data.as_chunks::<B>().0.iter().map(|&bytes| value(bytes)).collect()
}

/// Where the file contradicts its format: the header's length is at byte 0, the header at byte 8.
fn corrupt(path: &Path, error: &SafeTensorError) -> Error {
    let offset = match error {
        SafeTensorError::HeaderTooSmall | SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => 0,
        _ => 8,
    };
    Error::Corrupt { path: path.into(), offset, message: format!("no safetensors file: {error}") }
}
