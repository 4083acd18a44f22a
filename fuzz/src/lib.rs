//! What is fuzzed: one function for each reader of bytes. Whatever the bytes, a reader returns an error or a sound value: it neither
//! panics nor takes memory out of all proportion to its input.

mod grid;
// Beside the ordinary tests of the data sets, so that these read the corpus too.
#[path = "../../data/tests/readers/mod.rs"]
mod readers;
mod resume;
mod seeds;

// What goes through grids of runs: the examples' own code, silent here. Merging uses a part of it.
#[allow(dead_code, unused_imports)]
#[path = "../../examples/src/files.rs"]
mod files;
#[allow(dead_code)]
#[path = "../../examples/src/progress.rs"]
mod progress;
#[allow(dead_code, unused_imports)]
#[path = "../../examples/src/runner/mod.rs"]
mod runner;

mod say {
    pub fn note(_: impl std::fmt::Display) {}

    pub fn counted(n: u64, noun: &str) -> String {
        format!("{n} {noun}s")
    }
}

mod device {
    pub fn name(device: &quarterturn::core::Device) -> String {
        device.to_string()
    }
}

use quarterturn::{
    core::Device,
    models::{Checkpoint, Description, Init, Layers, OnnxModel},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

pub use grid::{merged, results};
pub use readers::{amat, cifar, gzip, hdf5, idx, image, mat5 as matlab, npz};
pub use resume::resume;

/// A reader, by name.
pub struct Target {
    /// The name of its binary and of its folder in `corpus`.
    pub name: &'static str,
    /// Reads.
    pub run: fn(&[u8]),
    /// Sound inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "idx", run: idx, seeds: seeds::idx },
    Target { name: "gzip", run: gzip, seeds: seeds::gzip },
    Target { name: "cifar", run: cifar, seeds: seeds::cifar },
    Target { name: "matlab", run: matlab, seeds: seeds::matlab },
    Target { name: "hdf5", run: hdf5, seeds: seeds::hdf5 },
    Target { name: "image", run: image, seeds: seeds::image },
    Target { name: "npz", run: npz, seeds: seeds::npz },
    Target { name: "amat", run: amat, seeds: seeds::amat },
    Target { name: "safetensors", run: safetensors, seeds: seeds::safetensors },
    Target { name: "description", run: description, seeds: seeds::description },
    Target { name: "onnx", run: onnx, seeds: seeds::onnx },
    Target { name: "resume", run: resume, seeds: seeds::resume },
    Target { name: "results", run: results, seeds: grid::results_seeds },
    Target { name: "merge", run: merged, seeds: grid::merged_seeds },
];

/// What an input is called in errors.
const INPUT: &str = "input";

/// Checkpoints, and the networks that they describe.
pub fn safetensors(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::from_bytes(bytes.to_vec(), INPUT) else { return };
    let _ = checkpoint.preparation();
    let Ok(network) = checkpoint.network(&Device::Cpu) else { return };
    let text = network.description().to_string();
    assert_eq!(text.parse::<Description>().unwrap().to_string(), text);
}

/// Descriptions of networks, and the layers that are made of them.
pub fn description(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(description) = text.parse::<Description>() else { return };
    assert_eq!(description.to_string().parse::<Description>().unwrap(), description);
    // A description alone may ask for gigabytes of weights, and rightly; as part of a file it may not, which `safetensors` tries.
    if text.split(|c: char| !c.is_ascii_digit()).all(|number| number.len() < 3) {
        let _ = description.build(&Layers::standard(), Init::new(0), &Device::Cpu);
    }
}

/// Models of other programs, judged at a small size and at the one that they declare.
pub fn onnx(bytes: &[u8]) {
    let Ok(model) = OnnxModel::from_bytes(bytes, INPUT) else { return };
    let declared = model.declared_size().ok().flatten();
    for size in declared.into_iter().chain([[28, 28]]) {
        let _ = model.exactness(size);
    }
}

/// A folder for files of this process, in memory where the system has such a place.
fn scratch(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = place.join(format!("quarterturn-fuzz-{name}-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("room for scratch files");
}
