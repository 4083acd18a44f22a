//! Takes a network out: as weights of an ordinary CNN with a description, which a few lines of Python run, or as an ONNX model.

use clap::Parser;
use quarterturn::{
    core::{Device, Error, Result},
    models::{checkpoint::save_half, export::Plain},
};
use quarterturn_examples::{args, input::Input, say, weights::NAMES_HELP};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Writes a saved network as an ordinary CNN: filters expanded to their orbits, the group axis joined with the channels, norms
/// folded into the convolutions. The result is the same up to rounding; it no longer turns to the last bit.
#[derive(Parser)]
#[command(after_help = NAMES_HELP)]
struct Args {
    #[command(flatten)]
    network: args::NetworkArgs,
    /// Write an ONNX model (operator set 18)
    #[arg(long, value_name = "FILE", required_unless_present_any = ["plain", "half"])]
    onnx: Option<PathBuf>,
    /// Write a safetensors file with a description, which examples/export/plain.py runs in PyTorch
    #[arg(long, value_name = "FILE")]
    plain: Option<PathBuf>,
    /// Write a checkpoint of this library with weights in f16: half the size
    #[arg(long, value_name = "FILE")]
    half: Option<PathBuf>,
    /// Leave the norms as they are
    #[arg(long)]
    keep_norms: bool,
    /// Size of the images: 224, or height and width as 224x192. Only networks with adaptive subsampling need it [default: what
    /// the checkpoint says]
    #[arg(long, value_name = "SIZE")]
    input: Option<Input>,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let checkpoint = args.network.read()?;
    let network = checkpoint.network(&Device::Cpu)?;
    if let Some(path) = &args.half {
        save_half(path, &*network, &checkpoint.notes())?;
        report(path, "weights in f16")?;
    }
    if args.plain.is_none() && args.onnx.is_none() {
        return Ok(());
    }
    let trained_at = checkpoint.preparation()?.and_then(|preparation| preparation.size());
    let size = args.input.map(|input| input.0).or(trained_at);
    let plain = Plain::of(&*network, size)?;
    let plain = if args.keep_norms { plain } else { plain.with_norms_folded() };
    let mut notes = checkpoint.notes();
    notes.insert("model".into(), network.config().remove("model").unwrap_or_default());
    notes.insert("group".into(), network.group().to_string());
    let steps = plain.steps().len();
    let what = match plain.only_size() {
        Some([height, width]) => format!("{steps} operations on images of {height}×{width}"),
        None => format!("{steps} operations on images of any size that fits"),
    };
    if let Some(path) = &args.plain {
        plain.save(path, &notes)?;
        report(path, &what)?;
    }
    if let Some(path) = &args.onnx {
        plain.save_onnx(path, &notes)?;
        report(path, &what)?;
    }
    Ok(())
}

fn report(path: &Path, what: &str) -> Result<()> {
    let length = fs::metadata(path).map_err(|error| Error::io(path, &error))?.len();
    say::result(format_args!("{}: {what}, {:.2} MB", path.display(), length as f64 / 1e6));
    Ok(())
}
