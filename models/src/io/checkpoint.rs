//! Checkpoints: safetensors files with a network's parameters and buffers under their stable names, and its settings
//! in the metadata. Beside the settings, which the network needs to be built again, a file may keep [`Notes`].
//!
//! A file is written beside its final name, flushed to the disk and renamed, so that no reader ever sees half of one.
//! Reading trusts nothing: whatever the bytes are, the outcome is an [`Error`] or a network whose every value is finite.

use crate::{
    Config, MnistCnn, Network, ResNet, SubsamplingNet,
    io::safetensors::{self, Archive},
};
use half::{bf16, f16};
use quarterturn_core::{Device, Error, Result, Shape, Tensor, replace_file};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    str::FromStr,
};

pub use super::preparation::{Preparation, Step};

/// What a file says beside the network's settings, by name. Nothing here depends on it, but whoever uses the network may.
///
/// Known names: [`Preparation::NOTE`], in its text form; `classes`, the names of the classes, one a line, in the order of the
/// logits; `input`, the height and width that the network was trained at, as `28x28`. Others are free.
pub type Notes = BTreeMap<String, String>;

/// A note's key in the file's metadata is its name behind this, so that no note is taken for a setting.
const NOTE: &str = "note.";

/// A checkpoint's content, checked to be a sound safetensors file.
#[derive(Debug)]
pub struct Checkpoint {
    bytes: Vec<u8>,
    archive: Archive,
}

/// Writes `network` to `path`: `f32`, or `f64` from [`Device::Reference`].
///
/// # Errors
/// [`Error::Io`]; or what went wrong on the GPU since the last read-back. A former file at `path` is then unharmed.
pub fn save<N: Network + ?Sized>(path: impl AsRef<Path>, network: &mut N) -> Result<()> {
    save_with(path, network, &Notes::new())
}

/// As [`save`], with notes, which [`Checkpoint::notes`] gives back.
///
/// ```
/// use quarterturn_core::Device;
/// use quarterturn_models::{Checkpoint, MnistCnn, MnistCnnConfig, checkpoint::{self, Notes, Preparation}};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let mut network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
/// let preparation: Preparation = "normalize 0.13084 0.04348; circle_crop".parse()?;
/// let notes = Notes::from([(Preparation::NOTE.into(), preparation.to_string())]);
/// let file = std::env::temp_dir().join("with-notes.safetensors");
/// checkpoint::save_with(&file, &mut network, &notes)?;
///
/// assert_eq!(Checkpoint::read(&file)?.preparation()?, Some(preparation));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`save`].
pub fn save_with<N: Network + ?Sized>(path: impl AsRef<Path>, network: &mut N, notes: &Notes) -> Result<()> {
    let mut encoder = Encoder::of(network)?;
    encoder.notes(notes);
    encoder.write(path)
}

/// The network that the file at `path` holds, of whatever architecture: its settings tell.
///
/// # Errors
/// As [`Checkpoint::read`] and [`Checkpoint::network`].
pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Box<dyn Network>> {
    Checkpoint::read(path)?.network(device)
}

/// What a file will hold.
pub(crate) struct Encoder {
    metadata: Config,
    tensors: Vec<(String, &'static str, Vec<usize>, Vec<u8>)>,
}

impl Encoder {
    /// The network's settings, parameters and buffers.
    pub fn of<N: Network + ?Sized>(network: &mut N) -> Result<Self> {
        let mut encoder = Encoder { metadata: network.config(), tensors: Vec::new() };
        let mut outcome = Ok(());
        network.visit(&mut |name, param| {
            if outcome.is_ok() {
                outcome = encoder.tensor(name.into(), param.value());
            }
        });
        outcome.map(|()| encoder)
    }

    pub fn tensor(&mut self, name: String, value: &Tensor) -> Result<()> {
        let (dtype, bytes) = match value.device() {
            Device::Reference => ("F64", value.f64s().iter().flat_map(|v| v.to_le_bytes()).collect()),
            _ => ("F32", value.to_vec()?.iter().flat_map(|v| v.to_le_bytes()).collect()),
        };
        self.tensors.push((name, dtype, value.dims().to_vec(), bytes));
        Ok(())
    }

    pub fn setting(&mut self, name: String, value: String) {
        self.metadata.insert(name, value);
    }

    pub fn notes(&mut self, notes: &Notes) {
        self.metadata.extend(notes.iter().map(|(name, text)| (format!("{NOTE}{name}"), text.clone())));
    }

    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = safetensors::serialize(&self.metadata, &self.tensors);
        replace_file(path, |out| out.write_all(&bytes))
    }
}

impl Checkpoint {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] if it is no sound safetensors file.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|error| Error::io(path, &error))?;
        match safetensors::parse(&bytes) {
            Ok(archive) => Ok(Checkpoint { bytes, archive }),
            Err(error) => {
                Err(Error::Corrupt { path: path.into(), offset: error.offset as u64, message: error.message })
            }
        }
    }

    /// The network that it holds, built as its settings say; `model` among them names the architecture.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the setting or tensor that does not fit; or when the GPU has no room.
    pub fn network(&self, device: &Device) -> Result<Box<dyn Network>> {
        match self.config().get("model").map_or("nothing", String::as_str) {
            "mnist_cnn" => Ok(Box::new(MnistCnn::restored(self, device)?)),
            "resnet" => Ok(Box::new(ResNet::restored(self, device)?)),
            "subsampling_net" => {
                let mut network = SubsamplingNet::new(0, device)?;
                self.restore(&mut network)?;
                Ok(Box::new(network))
            }
            found => {
                let message = format!("expected mnist_cnn, resnet or subsampling_net, found {found}");
                Err(Error::Checkpoint { name: "model".into(), message })
            }
        }
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

    /// Refuses settings that promise more values than the file can hold, before memory is set aside for them.
    ///
    /// # Errors
    /// [`Error::Checkpoint`].
    pub(crate) fn expect_values(&self, values: u64) -> Result<()> {
        let smallest = 2; // bytes of a value in half precision
        if values.saturating_mul(smallest) > self.bytes.len() as u64 {
            let message = format!("the settings make {values} values, the file has {} bytes", self.bytes.len());
            return Err(Error::Checkpoint { name: "settings".into(), message });
        }
        Ok(())
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
        for (name, expected) in network.config() {
            self.expect(&name, &expected)?;
        }
        let mut unused: BTreeSet<&str> = self.archive.tensors.keys().map(String::as_str).collect();
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
        let entry = self.archive.tensors.get(name).ok_or_else(|| unfit("the file has no such tensor".into()))?;
        if entry.shape != shape.dims() {
            return Err(unfit(format!("expected shape {shape:?}, found {:?}", entry.shape)));
        }
        let bytes = &self.bytes[entry.bytes.clone()];
        let values: Vec<f64> = match entry.dtype.as_str() {
            "F16" => decode(bytes, |b| f16::from_le_bytes(b).to_f64()),
            "BF16" => decode(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            "F32" => decode(bytes, |b| f64::from(f32::from_le_bytes(b))),
            "F64" => decode(bytes, f64::from_le_bytes),
            other => return Err(unfit(format!("expected F16, BF16, F32 or F64, found {other}"))),
        };
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
        Tensor::from_f64(shape, values, device)
    }
}

fn decode<const B: usize>(data: &[u8], value: impl Fn([u8; B]) -> f64) -> Vec<f64> {
    data.as_chunks::<B>().0.iter().map(|&bytes| value(bytes)).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::MnistCnnConfig;
    use std::path::PathBuf;

    /// A folder that is removed when dropped.
    pub(crate) struct Folder(PathBuf);

    impl Folder {
        pub(crate) fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("quarterturn-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        pub(crate) fn path(&self) -> &Path {
            &self.0
        }

        fn file(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn small() -> MnistCnnConfig {
        MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() }
    }

    fn values(network: &mut dyn Network) -> Vec<(String, Vec<f64>)> {
        let mut values = Vec::new();
        network.visit(&mut |name, param| values.push((name.to_string(), param.value().to_f64().unwrap())));
        values
    }

    fn checkpoint_error<T: std::fmt::Debug>(result: Result<T>, name: &str, message: &str) {
        match result {
            Err(Error::Checkpoint { name: n, message: m }) if n == name && m.contains(message) => {}
            other => panic!("expected {name}: …{message}…, got {other:?}"),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_with_the_same_bits() {
        let folder = Folder::new("round-trip");
        let path = folder.file("net.safetensors");
        for device in [Device::Cpu, Device::Reference] {
            let mut network = MnistCnn::new(small(), 7, &device).unwrap();
            save(&path, &mut network).unwrap();
            let mut loaded = MnistCnn::from_checkpoint(&path, &device).unwrap();
            assert_eq!(loaded.settings(), small());
            assert_eq!(values(&mut loaded), values(&mut network));
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "a temporary file is left");
    }

    #[test]
    fn notes_are_read_back_and_are_no_settings() {
        let folder = Folder::new("notes");
        let path = folder.file("net.safetensors");
        let mut network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
        let preparation = "normalize 0.1 0.2; circle_crop";
        let notes = Notes::from([
            (Preparation::NOTE.into(), preparation.into()),
            ("width".into(), "3".into()),
            ("classes".into(), "zero\none".into()),
        ]);
        save_with(&path, &mut network, &notes).unwrap();
        let checkpoint = Checkpoint::read(&path).unwrap();
        assert_eq!(checkpoint.notes(), notes);
        assert_eq!(checkpoint.preparation().unwrap(), Some(preparation.parse().unwrap()));
        assert_eq!(checkpoint.network(&Device::Cpu).unwrap().config(), network.config());

        save(&path, &mut network).unwrap();
        assert_eq!(Checkpoint::read(&path).unwrap().preparation().unwrap(), None);
        save_with(&path, &mut network, &Notes::from([(Preparation::NOTE.into(), "swirl".into())])).unwrap();
        checkpoint_error(Checkpoint::read(&path).unwrap().preparation(), "preparation", "'swirl' is no step");
    }

    /// The file of a small network with `edit` applied to its tensors and settings.
    fn edited(path: &Path, edit: impl FnOnce(&mut Config, &mut Vec<(String, &'static str, Vec<usize>, Vec<u8>)>)) {
        let mut network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
        let mut encoder = Encoder::of(&mut network).unwrap();
        edit(&mut encoder.metadata, &mut encoder.tensors);
        encoder.write(path).unwrap();
    }

    #[test]
    fn what_does_not_fit_is_named_and_leaves_the_network_alone() {
        let folder = Folder::new("unfit");
        let path = folder.file("net.safetensors");
        let load = || {
            let mut network = MnistCnn::new(small(), 1, &Device::Cpu).unwrap();
            let before = values(&mut network);
            let outcome = Checkpoint::read(&path).and_then(|checkpoint| checkpoint.restore(&mut network));
            assert_eq!(values(&mut network) == before, outcome.is_err());
            outcome
        };
        edited(&path, |_, _| ());
        load().unwrap();
        edited(&path, |_, tensors| tensors[3].0 = "norm1.offset".into());
        checkpoint_error(load(), "norm1.bias", "no such tensor");
        edited(&path, |_, tensors| tensors.push(("more".into(), "F32", vec![1], vec![0; 4])));
        checkpoint_error(load(), "more", "the network has no such tensor");
        edited(&path, |_, tensors| tensors[0].2 = vec![18]);
        checkpoint_error(load(), "conv1.weight", "expected shape [2, 1, 1, 3, 3], found [18]");
        edited(&path, |_, tensors| tensors[1].1 = "I32");
        checkpoint_error(load(), "conv1.bias", "found I32");
        edited(&path, |_, tensors| tensors[1].3[4..8].copy_from_slice(&f32::NAN.to_le_bytes()));
        checkpoint_error(load(), "conv1.bias", "value 1 is NaN");
        edited(&path, |_, tensors| {
            tensors[1].1 = "F64";
            tensors[1].3 = [1e300f64, 0.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        });
        checkpoint_error(load(), "conv1.bias", "not finite");
        edited(&path, |_, tensors| tensors[5].3[..4].copy_from_slice(&(-1.0f32).to_le_bytes()));
        checkpoint_error(load(), "norm1.running_var", "not negative");
        for (name, value) in [("model", "resnet"), ("group", "p4m"), ("width", "3"), ("in_channels", "3")] {
            edited(&path, |config, _| drop(config.insert(name.into(), value.into())));
            checkpoint_error(load(), name, &format!("found {value}"));
        }
        edited(&path, |config, _| config.clear());
        checkpoint_error(load(), "classes", "found nothing");
        let mut other = SubsamplingNet::new(1, &Device::Cpu).unwrap();
        edited(&path, |_, _| ());
        checkpoint_error(Checkpoint::read(&path).unwrap().restore(&mut other), "model", "found mnist_cnn");
    }

    #[test]
    fn the_settings_choose_the_architecture() {
        let folder = Folder::new("architectures");
        let path = folder.file("net.safetensors");
        let networks: [Box<dyn Network>; 2] = [
            Box::new(MnistCnn::new(small(), 7, &Device::Cpu).unwrap()),
            Box::new(SubsamplingNet::new(7, &Device::Cpu).unwrap()),
        ];
        for mut network in networks {
            save(&path, &mut *network).unwrap();
            let mut loaded = load(&path, &Device::Cpu).unwrap();
            assert_eq!(loaded.config(), network.config());
            assert_eq!(values(&mut *loaded), values(&mut *network));
        }
        edited(&path, |config, _| drop(config.insert("model".into(), "transformer".into())));
        let loaded = load(&path, &Device::Cpu).map(|_| ());
        checkpoint_error(loaded, "model", "expected mnist_cnn, resnet or subsampling_net, found transformer");
    }

    #[test]
    fn tensors_of_another_program_are_renamed() {
        let folder = Folder::new("renamed");
        let path = folder.file("net.safetensors");
        edited(&path, |config, tensors| {
            config.clear();
            for (name, ..) in tensors.iter_mut() {
                *name = name.replace("norm", "bn").replace("linear", "fc");
            }
            tensors.push(("bn1.num_batches_tracked".into(), "I64", vec![], vec![0; 8]));
        });
        let mut original = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
        let ours = |name: &str| {
            (!name.ends_with("num_batches_tracked")).then(|| name.replace("bn", "norm").replace("fc", "linear"))
        };
        let read = || Checkpoint::read(&path).unwrap();
        let mut loaded = read().renamed(ours).unwrap().with_settings(original.config()).network(&Device::Cpu).unwrap();
        assert_eq!(values(&mut *loaded), values(&mut original));
        checkpoint_error(read().renamed(|_| Some("conv1.weight".into())), "conv1.weight", "is the second");
        checkpoint_error(read().network(&Device::Cpu).map(|_| ()), "model", "found nothing");
    }

    #[test]
    fn settings_in_a_file_are_not_trusted() {
        let folder = Folder::new("settings");
        let path = folder.file("net.safetensors");
        let load = || MnistCnn::from_checkpoint(&path, &Device::Cpu);
        for (name, value, message) in [
            ("model", "resnet", "expected mnist_cnn"),
            ("group", "p6", "expected z2, p4 or p4m"),
            ("width", "-1", "expected a whole number"),
            ("dropout", "much", "expected a number"),
        ] {
            edited(&path, |config, _| drop(config.insert(name.into(), value.into())));
            checkpoint_error(load(), name, message);
        }
        edited(&path, |config, _| drop(config.insert("width".into(), "60000".into())));
        checkpoint_error(load(), "settings", "the file has");
        edited(&path, |config, _| drop(config.insert("width".into(), "18446744073709551615".into())));
        assert!(matches!(load(), Err(Error::Invalid(_))));
    }

    #[test]
    fn all_four_float_types_are_read() {
        let folder = Folder::new("types");
        let path = folder.file("net.safetensors");
        type Encode = fn(f32) -> Vec<u8>;
        let encodings: [(&'static str, Encode); 4] = [
            ("F16", |v| f16::from_f32(v).to_le_bytes().to_vec()),
            ("BF16", |v| bf16::from_f32(v).to_le_bytes().to_vec()),
            ("F32", |v| v.to_le_bytes().to_vec()),
            ("F64", |v| f64::from(v).to_le_bytes().to_vec()),
        ];
        for (dtype, encode) in encodings {
            edited(&path, |_, tensors| {
                tensors[1].1 = dtype;
                tensors[1].3 = [0.25, -1.5].into_iter().flat_map(encode).collect();
            });
            let mut network = MnistCnn::from_checkpoint(&path, &Device::Cpu).unwrap();
            assert_eq!(values(&mut network)[1], ("conv1.bias".to_string(), vec![0.25, -1.5]), "{dtype}");
        }
    }

    #[test]
    fn truncated_and_corrupt_files_are_errors_and_never_panic() {
        let folder = Folder::new("corrupt");
        let path = folder.file("net.safetensors");
        edited(&path, |_, _| ());
        let whole = fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(97) {
            fs::write(&path, &whole[..length]).unwrap();
            let result = MnistCnn::from_checkpoint(&path, &Device::Cpu);
            assert!(matches!(result, Err(Error::Corrupt { .. })), "{length} bytes: {result:?}");
        }
        let stream = quarterturn_core::Stream::new(1, 0, 0);
        for round in 0..400 {
            let mut bytes = whole.clone();
            for draw in 0..3 {
                let word = stream.word(3 * round + draw) as usize;
                // Half of the hits fall into the header.
                let range = if draw % 2 == 0 { 4000.min(bytes.len()) } else { bytes.len() };
                bytes[(word >> 8) % range] = word as u8;
            }
            fs::write(&path, &bytes).unwrap();
            if let Ok(mut network) = MnistCnn::from_checkpoint(&path, &Device::Cpu) {
                assert!(values(&mut network).iter().all(|(_, v)| v.iter().all(|v| v.is_finite())));
            }
        }
    }

    #[test]
    fn a_failed_save_leaves_the_former_file() {
        let folder = Folder::new("failed");
        let path = folder.file("net.safetensors");
        let mut network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
        // A folder that is not empty cannot be replaced by a file.
        fs::create_dir_all(path.join("inside")).unwrap();
        assert!(matches!(save(&path, &mut network), Err(Error::Io { .. })));
        assert!(path.join("inside").exists());
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "a temporary file is left");
        assert!(matches!(save(folder.file("no/such/folder.safetensors"), &mut network), Err(Error::Io { .. })));
        assert!(matches!(Checkpoint::read(folder.file("none")), Err(Error::Io { .. })));
    }
}
