//! Options that several examples take, each defined once.

use super::weights::NameArgs;
use clap::{Args, ValueEnum};
use quarterturn::{
    core::{Error, Result},
    models::Checkpoint,
};
use std::{ops::RangeInclusive, path::PathBuf, process::ExitCode};

/// Where results go.
#[derive(Args)]
pub struct OutArgs {
    /// Folder for the CSV, SVG and PNG files; created if missing [default: out/ and the example's name]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl OutArgs {
    /// The folder, created.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn folder(&self, example: &str) -> Result<PathBuf> {
        let folder = self.path(example);
        super::files::create_folder(&folder)?;
        Ok(folder)
    }

    /// Where it is, whether or not it is there.
    pub fn path(&self, example: &str) -> PathBuf {
        self.out.clone().unwrap_or_else(|| PathBuf::from("out").join(example))
    }
}

/// `count` seeds, at least one, from `first` on.
///
/// # Errors
/// If there are not so many.
pub fn seeds(first: u64, count: u64) -> Result<RangeInclusive<u64>> {
    let last = first.checked_add(count.saturating_sub(1));
    last.map(|last| first..=last).ok_or_else(|| Error::Invalid(format!("--seed {first}: no {count} seeds begin there")))
}

/// Reads a number above 0, such as a learning rate.
///
/// # Errors
/// For anything else.
pub fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x: &f64| x.is_finite() && *x > 0.0).ok_or("expected a positive number".into())
}

/// What computes.
#[derive(Args)]
pub struct DeviceArgs {
    /// What computes: auto takes a GPU if there is one, else the CPU
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub device: DeviceChoice,
}

/// The values of `--device`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// A GPU if there is one, else the CPU
    Auto,
    /// All cores of the CPU
    Cpu,
    /// A GPU through Vulkan, Metal or DirectX 12; an error if there is none
    Gpu,
}

/// A saved network.
#[derive(Args)]
pub struct NetworkArgs {
    /// The network: a safetensors file
    #[arg(long, value_name = "FILE")]
    pub checkpoint: PathBuf,
    #[command(flatten)]
    names: NameArgs,
}

impl NetworkArgs {
    /// What the file says, with the names and settings that the user gave.
    ///
    /// # Errors
    /// As [`NameArgs::read`].
    pub fn read(&self) -> Result<Checkpoint> {
        self.names.read(&self.checkpoint)
    }
}

/// Which digits.
#[derive(Args)]
pub struct DataArgs {
    /// Folder with the four MNIST files (IDX, .gz or unpacked) [default: digits that the program draws itself]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Download MNIST (11 MB, once) into the folder given by --data, or else into out/mnist; needs the feature `download`
    #[arg(long)]
    pub download: bool,
}

/// What to say where `option` needs a feature that this program was built without.
pub fn without(feature: &str, option: &str) -> Error {
    Error::Invalid(format!(
        "{option}: this program was built without the feature `{feature}`; `cargo run --release --features {feature} \
         --example …` builds it in"
    ))
}

/// The exit code of an example; prints the error, if there is one.
pub fn finish(result: Result<()>) -> ExitCode {
    exit(result.map(|()| ExitCode::SUCCESS))
}

/// As [`finish`], for examples that end in more ways than one.
pub fn exit(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        super::say::error(format_args!("error: {error}"));
        ExitCode::FAILURE
    })
}
