//! Evaluates a saved network: the accuracy on rotated digits, and whether quarter turns leave its logits alone.
//!
//! The file may come from another program, as the published networks of the paper do: `--names` says what its tensors
//! are called here, and what network they are of. Filters follow GrouPy's conventions, `[C_out, C_in, G, k, k]`.

mod support;

use clap::Parser;
use quarterturn::{
    core::{Error, Result},
    models::{Checkpoint, Config, training::Tally},
};
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode};
use support::{
    args,
    csv::Csv,
    device,
    digits::Digits,
    progress::Progress,
    rotations::{Protocol, turns_leave_every_bit},
    say, table,
};

/// Digits that are counted together.
const SLICE: usize = 250;

/// Evaluate a saved network on rotated digits
#[derive(Parser)]
#[command(
    after_help = "A file for --names is JSON such as {\"settings\": {\"model\": \"mnist_cnn\", \"group\": \"p4\", \
                        \"width\": \"10\", \"in_channels\": \"3\", \"classes\": \"10\", \"dropout\": \"0.3\"}, \
                        \"names\": {\"bn1\": \"norm1\", \"fc.weight\": \"linear.weight\"}}: a tensor's name, or all \
                        before one of its points, and what it is here."
)]
struct Args {
    /// The network: a safetensors file
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// JSON file with the names that the tensors have here, and settings that the checkpoint lacks
    #[arg(long, value_name = "FILE")]
    names: Option<PathBuf>,
    /// One more name, such as bn1=norm1, or module= to take a prefix away; may be repeated
    #[arg(long, value_name = "FROM=TO", value_parser = pair)]
    rename: Vec<(String, String)>,
    #[command(flatten)]
    data: args::DataArgs,
    /// Width and height that the digits are resized to
    #[arg(long, value_name = "N", default_value_t = 28, value_parser = clap::value_parser!(u64).range(8..=128))]
    size: u64,
    /// Test angles, evenly spaced from 0°
    #[arg(long, value_name = "N", default_value_t = 36, value_parser = clap::value_parser!(u64).range(1..=3600))]
    angles: u64,
    /// Test digits [default: all 60,000 of MNIST's train file, as in the paper; 500 built-in digits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    test: Option<u64>,
    /// How images are prepared [default: published for networks of 3 channels, else paper]
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    #[command(flatten)]
    device: args::DeviceArgs,
    #[command(flatten)]
    out: args::OutArgs,
}

/// What a file of another program leaves open.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(default)]
    settings: Config,
    #[serde(default)]
    names: BTreeMap<String, String>,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = device::open(args.device.device)?;
    let checkpoint = read(args)?;
    let network = checkpoint.network(&device)?;
    let protocol = args.protocol.unwrap_or(match checkpoint.config().get("in_channels").map(String::as_str) {
        Some("3") => Protocol::Published,
        _ => Protocol::Paper,
    });
    let digits = Digits::open(&args.data)?;
    let usual = if matches!(digits, Digits::BuiltIn) { 500 } else { 60_000 };
    let test = protocol.dataset(digits.test(args.test.unwrap_or(usual) as usize)?)?;
    let folder = args.out.folder("evaluate")?;

    let degrees: Vec<f64> = (0..args.angles).map(|i| 360.0 * i as f64 / args.angles as f64).collect();
    let mut progress = Progress::new(test.len() as u64);
    let mut tally = Tally::new(degrees.len());
    let batches = || test.batches(SLICE).normalized(&protocol.normalization()).on(&device);
    for batch in batches() {
        let batch = batch?;
        let images = protocol.resized(&batch.images, args.size as usize);
        tally.count(&*network, &images, &batch.labels, |images, angle| {
            protocol.turned(images, &vec![degrees[angle] as f32; images.dims()[0]])
        })?;
        tally.wait()?;
        progress.advance(batch.indices.len() as u64);
    }
    progress.done();
    let correct = tally.read()?;
    let exact = turns_leave_every_bit(&*network, protocol, args.size as usize, &test, &device)?;

    let mut csv = Csv::new(folder.join("evaluate.csv"), "data,protocol,input_size,angle_deg,correct,total");
    let percent = |correct: u64| format!("{:.2}", 100.0 * correct as f64 / test.len() as f64);
    let mut rows = Vec::new();
    for (degrees, &correct) in degrees.iter().zip(correct) {
        csv.row(&[&digits.name(), &protocol, &args.size, degrees, &correct, &test.len()]);
        rows.push(vec![format!("{degrees}"), correct.to_string(), percent(correct)]);
    }
    csv.save()?;

    let settings: Vec<String> = network.config().iter().map(|(name, value)| format!("{name} {value}")).collect();
    say::result(format_args!("\n{}: {}", args.checkpoint.display(), settings.join(", ")));
    say::result(format_args!("{}: {} digits, resized to {2}×{2}", digits.name(), test.len(), args.size));
    table::print(&["angle", "recognised", "accuracy %"], &rows);
    let all = correct.iter().sum::<u64>() as f64 / correct.len() as f64 / test.len() as f64;
    say::result(format_args!("mean over the angles: {:.2} %", 100.0 * all));
    say::result(match exact {
        true => "exact: quarter turns of the input leave every bit of the logits as it was",
        false => "not exact: quarter turns of the input change the logits",
    });
    say::result(format_args!("wrote evaluate.csv to {}", folder.display()));
    Ok(())
}

/// The checkpoint, with the names and settings that the user gave.
fn read(args: &Args) -> Result<Checkpoint> {
    let checkpoint = Checkpoint::read(&args.checkpoint)?;
    let mut given = match &args.names {
        None => Names::default(),
        Some(path) => {
            let json = fs::read(path).map_err(|e| Error::io(path, &e))?;
            serde_json::from_slice(&json).map_err(|e| Error::Corrupt {
                path: path.clone(),
                offset: 0,
                message: e.to_string(),
            })?
        }
    };
    given.names.extend(args.rename.iter().cloned());
    let checkpoint = checkpoint.with_settings(given.settings);
    let without_counters = checkpoint.renamed(|name| (!name.ends_with(COUNTER)).then(|| name.into()))?;
    // Weights that are named as here, or whose names nobody gave, stay as they are.
    without_counters.renamed_parts(&given.names)
}

/// How PyTorch's batch norms count what they have seen; of no use here.
const COUNTER: &str = ".num_batches_tracked";

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (from, to) = text.split_once('=').ok_or("expected FROM=TO, such as bn1=norm1")?;
    Ok((from.into(), to.into()))
}
