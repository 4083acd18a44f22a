//! Files that are sound, and files that are not.

use super::{super::Encoder, *};
use crate::{Builder, Init, MnistCnnConfig, Module, Pass, ResNetConfig, Sequential, Trace};
use quarterturn_autograd::{Param, Var};
use quarterturn_kernels::{Group, Window};
use std::{
    fs::{self, File},
    path::PathBuf,
    thread,
};

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
        save(&path, &network).unwrap();
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
    let network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    let preparation = "normalize 0.1 0.2; circle_crop";
    let notes = Notes::from([
        (Preparation::NOTE.into(), preparation.into()),
        ("width".into(), "3".into()),
        ("classes".into(), "zero\none".into()),
    ]);
    save_with(&path, &network, &notes).unwrap();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.notes(), notes);
    assert_eq!(checkpoint.preparation().unwrap(), Some(preparation.parse().unwrap()));
    assert_eq!(checkpoint.network(&Device::Cpu).unwrap().config(), network.config());

    save(&path, &network).unwrap();
    assert_eq!(Checkpoint::read(&path).unwrap().preparation().unwrap(), None);
    save_with(&path, &network, &Notes::from([(Preparation::NOTE.into(), "swirl".into())])).unwrap();
    checkpoint_error(Checkpoint::read(&path).unwrap().preparation(), "preparation", "'swirl' is no step");
}

/// The file of a small network with `edit` applied to its tensors and settings.
fn edited(path: &Path, edit: impl FnOnce(&mut Config, &mut Vec<(String, &'static str, Vec<usize>, Vec<u8>)>)) {
    let network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    let mut encoder = Encoder::of(&network).unwrap();
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
    checkpoint_error(load(), "norm1.bias", "no such tensor; it has conv1.bias, conv2.bias, conv3.bias, conv4.bias, …");
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
    checkpoint_error(load(), "model", "it has no settings");
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
        save(&path, &*network).unwrap();
        let mut loaded = load(&path, &Device::Cpu).unwrap();
        assert_eq!(loaded.config(), network.config());
        assert_eq!(values(&mut *loaded), values(&mut *network));
    }
    edited(&path, |config, _| {
        config.remove(DESCRIPTION); // as files of version 0.1
        config.insert("model".into(), "transformer".into());
    });
    let loaded = load(&path, &Device::Cpu).map(|_| ());
    checkpoint_error(loaded, "model", "expected mnist_cnn, resnet or subsampling_net, found transformer");
}

#[test]
fn files_without_a_description_still_load() {
    let folder = Folder::new("version-0.1");
    let path = folder.file("net.safetensors");
    edited(&path, |config, _| drop(config.remove(DESCRIPTION).expect("a file describes its network")));
    let mut loaded = load(&path, &Device::Cpu).unwrap();
    assert_eq!(values(&mut *loaded), values(&mut MnistCnn::new(small(), 7, &Device::Cpu).unwrap()));
}

#[test]
fn a_description_that_is_not_the_networks_is_refused_by_its_line() {
    let folder = Folder::new("descriptions");
    let path = folder.file("net.safetensors");
    let edit = |from: &str, to: &str| {
        edited(&path, |config, _| {
            let text = config.get_mut(DESCRIPTION).expect("a file describes its network");
            assert!(text.contains(from), "{text}");
            *text = text.replacen(from, to, 1);
        });
        let mut network = MnistCnn::new(small(), 1, &Device::Cpu).unwrap();
        Checkpoint::read(&path).unwrap().restore(&mut network)
    };
    checkpoint_error(edit("relu -\n", ""), DESCRIPTION, "line 7: expected 'relu -', found 'dropout - p=0.3'");
    checkpoint_error(edit("linear linear out_features=10\n", ""), DESCRIPTION, "found 'no more layers'");
    checkpoint_error(edit("relu -\n", "relu\n"), DESCRIPTION, "line 7: expected a kind and a name");
}

/// A network of one's own, whose name no code knows.
#[test]
fn a_file_describes_its_network() {
    let folder = Folder::new("own-network");
    let path = folder.file("net.safetensors");
    let window = Window { kernel_size: 3, stride: 1, padding: 1 };
    let builder =
        Builder::new(Group::D4, 2, Init::kaiming(3), &Device::Cpu).conv("conv", 3, window).norm("norm").relu();
    let builder = builder.residual("block", |x| x.conv("conv", 3, window), |x| x).relu().max_pool("pool", window);
    let layers = builder.spatial_mean().coset_max().linear("linear", 4).build().unwrap();
    let mut network = Sequential::new("my network, 2nd", layers);
    save(&path, &network).unwrap();
    let mut loaded = load(&path, &Device::Cpu).unwrap();
    assert_eq!(loaded.description(), network.description());
    assert_eq!(values(&mut *loaded), values(&mut network));

    let checkpoint = Checkpoint::read(&path).unwrap();
    let unknown = checkpoint.config()[DESCRIPTION].replace("max_pool pool", "median_pool pool");
    let unknown = checkpoint.with_settings(Config::from([(DESCRIPTION.into(), unknown)]));
    match unknown.network(&Device::Cpu).map(|_| ()) {
        Err(Error::Invalid(message)) => {
            assert!(message.starts_with("pool: no layer is of the kind 'median_pool'; there are "), "{message}");
            assert!(message.contains(" max_pool, "), "{message}");
        }
        other => panic!("{other:?}"),
    }
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
    checkpoint_error(read().network(&Device::Cpu).map(|_| ()), "model", "it has no settings");
}

/// `DataParallel` and `torch.compile` put prefixes before all names; weights for training alone stand beside the others.
#[test]
fn wrapped_networks_are_unwrapped_and_what_is_extra_is_left_out() {
    let folder = Folder::new("wrapped");
    let path = folder.file("net.safetensors");
    let mut original = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    for prefix in ["", "module.", "_orig_mod.", "module._orig_mod."] {
        edited(&path, |_, tensors| {
            tensors.iter_mut().for_each(|(name, ..)| *name = format!("{prefix}{name}"));
            tensors.push((format!("{prefix}aux.weight"), "F32", vec![1], vec![0; 4]));
            tensors.push(("n_averaged".into(), "F32", vec![], vec![0; 4]));
        });
        let read = || Checkpoint::read(&path).unwrap();
        let extra = ["n_averaged".to_string(), format!("{prefix}aux")];
        let unwrapped = read().without(&extra).unwrap().unwrapped().unwrap();
        assert_eq!(values(&mut *unwrapped.network(&Device::Cpu).unwrap()), values(&mut original), "{prefix}");
        checkpoint_error(read().without(&["au".into()]), "au", "no tensor of the file has it");
        let error = read().unwrapped().unwrap().network(&Device::Cpu).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("no such tensor"), "{error}");
    }
}

#[test]
fn weights_in_f16_take_half_the_file_and_come_back_rounded() {
    let folder = Folder::new("half");
    let [full, half] = ["full", "half"].map(|name| folder.file(&format!("{name}.safetensors")));
    let config = MnistCnnConfig { width: 20, ..small() };
    let mut original = MnistCnn::new(config, 7, &Device::Cpu).unwrap();
    save(&full, &original).unwrap();
    crate::checkpoint::save_half(&half, &original, &Default::default()).unwrap();
    let bytes = |path| std::fs::metadata(path).unwrap().len() as f64;
    assert!(bytes(&half) < 0.6 * bytes(&full), "{} of {}", bytes(&half), bytes(&full));
    let mut loaded = crate::checkpoint::load(&half, &Device::Cpu).unwrap();
    let mut read = BTreeMap::new();
    loaded.visit(&mut |name, param| drop(read.insert(name.to_string(), param.value().clone())));
    original.visit(&mut |name, param| {
        let rounds = |v: f32| if param.value().shape().rank() > 1 { half::f16::from_f32(v).to_f32() } else { v };
        let expected: Vec<f32> = param.value().f32s().iter().map(|&v| rounds(v)).collect();
        assert_eq!(read[name].f32s(), expected, "{name}");
    });
    original.visit(&mut |name, param| {
        if name == "conv1.weight" {
            param.set(Tensor::full(param.value().shape(), 65_600.0, &Device::Cpu).unwrap());
        }
    });
    checkpoint_error(crate::checkpoint::save_half(&half, &original, &Default::default()), "conv1.weight", "too large");
}

/// A network for other classes takes the layers below its last from a file, and one tensor can be had by itself.
#[test]
fn a_part_of_a_file_is_restored() {
    let folder = Folder::new("part");
    let path = folder.file("net.safetensors");
    let mut trained = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    save(&path, &trained).unwrap();
    let file = Checkpoint::read(&path).unwrap();
    let named = |network: &mut MnistCnn| {
        let mut named = BTreeMap::new();
        network.visit(&mut |name, param| drop(named.insert(name.to_string(), param.value().to_vec().unwrap())));
        named
    };
    let theirs = named(&mut trained);
    let mut other = MnistCnn::new(MnistCnnConfig { classes: 5, ..small() }, 8, &Device::Cpu).unwrap();
    let before = named(&mut other);
    checkpoint_error(file.restore_part(&mut other, |_| true).map(|_| ()), "linear.weight", "expected shape [5, ");
    assert_eq!(named(&mut other), before, "unchanged by a file that does not fit");
    let taken = file.restore_part(&mut other, |name| !name.starts_with("linear")).unwrap();
    assert_eq!(taken, before.len() - 2);
    for (name, values) in named(&mut other) {
        assert_eq!(values, if name.starts_with("linear") { &before[&name] } else { &theirs[&name] }[..], "{name}");
    }

    let weight = file.tensor("linear.weight", &Device::Cpu).unwrap();
    assert_eq!(weight.to_vec().unwrap(), theirs["linear.weight"]);
    checkpoint_error(file.tensor("head.weight", &Device::Cpu).map(|_| ()), "head.weight", "no such tensor; it has ");
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
    // The first layer that the file does not have in this shape is refused before anything is drawn.
    for (name, tensor, message) in [
        ("width", "conv1.weight", "expected shape [60000, 1, 1, 3, 3], found [2, 1, 1, 3, 3]"),
        ("in_channels", "conv1.weight", "expected shape [2, 60000, 1, 3, 3]"),
        ("classes", "linear.weight", "expected shape [60000, 2]"),
    ] {
        edited(&path, |config, _| drop(config.insert(name.into(), "60000".into())));
        checkpoint_error(load(), tensor, message);
    }
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
    let network = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    // A folder that is not empty cannot be replaced by a file.
    fs::create_dir_all(path.join("inside")).unwrap();
    assert!(matches!(save(&path, &network), Err(Error::Io { .. })));
    assert!(path.join("inside").exists());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "a temporary file is left");
    assert!(matches!(save(folder.file("no/such/folder.safetensors"), &network), Err(Error::Io { .. })));
    assert!(matches!(Checkpoint::read(folder.file("none")), Err(Error::Io { .. })));
}

/// As [`settings_in_a_file_are_not_trusted`], with the settings that make the largest networks.
#[test]
fn settings_of_a_resnet_take_no_more_than_the_file_holds() {
    let folder = Folder::new("resnet-settings");
    let path = folder.file("net.safetensors");
    let config = ResNetConfig { widths: vec![2, 3], blocks: vec![1, 1], ..ResNetConfig::resnet44(Group::C4) };
    let network = ResNet::new(config, Init::new(0), &Device::Cpu).unwrap();
    save(&path, &network).unwrap();
    let read = || Checkpoint::read(&path).unwrap();
    let loaded = read().network(&Device::Cpu).unwrap();
    assert_eq!(loaded.config(), network.config());
    for (name, value, tensor) in [
        ("in_channels", "65536", "stem.conv.weight"),
        ("classes", "65536", "linear.weight"),
        ("widths", "2,65536", "stage2.block1.conv1.weight"),
        ("blocks", "1024,1024", "stage1.block2.norm1.weight"),
        // Lifting filters have one shape on p4 and p4m.
        ("group", "p4m", "stage1.block1.conv1.weight"),
    ] {
        let hostile = read().with_settings(Config::from([(name.into(), value.into())]));
        match hostile.network(&Device::Cpu) {
            Err(Error::Checkpoint { name, .. }) if name == tensor => {}
            Err(other) => panic!("{name} {value}: {other}"),
            Ok(_) => panic!("{name} {value} is accepted"),
        }
    }
}

#[test]
fn only_regular_files_of_a_sound_size_are_read() {
    let folder = Folder::new("regular");
    let path = folder.file("sparse");
    let refused = |path: &Path, expected: &str| match Checkpoint::read(path) {
        Err(Error::Io { message, .. }) => assert!(message.contains(expected), "{message}"),
        other => panic!("{other:?}"),
    };
    refused(folder.path(), "no regular file");
    #[cfg(unix)]
    refused(Path::new("/dev/zero"), "no regular file");
    // A regular file that says it has no bytes.
    #[cfg(target_os = "linux")]
    match Checkpoint::read("/proc/self/status") {
        Err(Error::Corrupt { message, .. }) => assert!(message.ends_with("in 8 bytes, the file has 0"), "{message}"),
        other => panic!("{other:?}"),
    }
    // A file of holes takes no room on the disk; of one that is not too long only the first bytes are read.
    let file = File::create(&path).unwrap();
    file.set_len(LARGEST_FILE + 1).unwrap();
    refused(&path, "more than the 4294967296 that are read");
    file.set_len(LARGEST_FILE).unwrap();
    assert!(matches!(Checkpoint::read(&path), Err(Error::Corrupt { .. })));
}

/// What is wrong with a tensor of a file is of no concern to a network that does not want it.
#[test]
fn only_a_tensor_that_is_wanted_can_bar_a_file() {
    let folder = Folder::new("wanted");
    let path = folder.file("net.safetensors");
    edited(&path, |_, tensors| tensors.push(("quantised".into(), "F4", vec![7], vec![0; 4])));
    let read = || Checkpoint::read(&path).unwrap();
    let without = || read().renamed(|name| (name != "quantised").then(|| name.into())).unwrap();
    without().network(&Device::Cpu).unwrap();
    checkpoint_error(read().network(&Device::Cpu).map(drop), "quantised", "the network has no such tensor");
    edited(&path, |_, tensors| (tensors[1].1, tensors[1].3) = ("F8_E4M3", vec![0; 2]));
    checkpoint_error(read().network(&Device::Cpu).map(drop), "conv1.bias", "found F8_E4M3");
}

#[test]
fn parts_of_names_are_replaced_and_prefixes_taken_away() {
    let folder = Folder::new("parts-of-names");
    let path = folder.file("net.safetensors");
    let mut original = MnistCnn::new(small(), 7, &Device::Cpu).unwrap();
    let load = |names: &[(&str, &str)]| {
        let names = names.iter().map(|(old, new)| (old.to_string(), new.to_string())).collect();
        Checkpoint::read(&path).unwrap().renamed_parts(&names)?.network(&Device::Cpu)
    };
    for prefix in ["module.", "_orig_mod.", "module._orig_mod.", "a.b."] {
        edited(&path, |_, tensors| {
            for (name, ..) in tensors.iter_mut() {
                *name = format!("{prefix}{}", name.replace("norm1", "bn1").replace("linear.weight", "fc.w"));
            }
        });
        let mut names = vec![("bn1", "norm1"), ("fc.w", "linear.weight")];
        match prefix {
            "a.b." => names.push(("a.b", "")),
            prefix => names.extend(prefix.split_terminator('.').map(|part| (part, ""))),
        }
        let mut loaded = load(&names).unwrap();
        assert_eq!(values(&mut *loaded), values(&mut original), "{prefix}");
        checkpoint_error(load(&[("modul", "")]).map(drop), "modul", "no tensor of the file has it");
        checkpoint_error(load(&[]).map(drop), "conv1.weight", &format!("it has {prefix}"));
    }
}

/// A layer whose parameter has a name and a value of any kind.
#[derive(Debug)]
struct Own(&'static str, Param);

impl Own {
    fn new(name: &'static str, value: f32) -> Self {
        Own(name, Param::weight(Tensor::full([2], value, &Device::Cpu).unwrap()))
    }
}

impl Module for Own {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f(self.0, &mut self.1);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f(self.0, &self.1);
    }
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let folder = Folder::new("unreadable");
    let path = folder.file("net.safetensors");
    fs::write(&path, b"older").unwrap();
    let network = |first: Own| {
        let layers = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).layer("own", first).build().unwrap();
        Sequential::new("net", layers)
    };
    for (own, name, message) in [
        (Own::new("a", f32::NAN), "own.a", "value 0 is NaN"),
        (Own::new("a", f32::NEG_INFINITY), "own.a", "value 0 is -inf"),
        (Own::new("running_var", -1.0), "own.running_var", "not negative"),
    ] {
        checkpoint_error(save(&path, &network(own)), name, message);
    }
    let mut encoder = Encoder::of(&network(Own::new("a", 1.0))).unwrap();
    let again = Tensor::full([2], 1.0, &Device::Cpu).unwrap();
    encoder.tensor("own.a".into(), &again).unwrap();
    checkpoint_error(encoder.write(&path), "own.a", "two tensors have this name");
    let mut encoder = Encoder::of(&network(Own::new("a", 1.0))).unwrap();
    encoder.tensor("__metadata__".into(), &again).unwrap();
    checkpoint_error(encoder.write(&path), "file", "could not be read back");

    assert_eq!(fs::read(&path).unwrap(), b"older");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn threads_that_save_to_one_name_never_tear_the_file() {
    let folder = Folder::new("threads");
    let path = folder.file("net.safetensors");
    save(&path, &MnistCnn::new(small(), 0, &Device::Cpu).unwrap()).unwrap();
    thread::scope(|scope| {
        for seed in 1..=3 {
            let path = &path;
            scope.spawn(move || {
                let network = MnistCnn::new(small(), seed, &Device::Cpu).unwrap();
                (0..20).for_each(|_| save(path, &network).unwrap());
            });
        }
        for _ in 0..60 {
            load(&path, &Device::Cpu).unwrap();
        }
    });
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
