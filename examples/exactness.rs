//! Says what a network is made of, whether it is exactly equivariant at an input size, which layers break the symmetry if it is not,
//! and the nearest sizes at which it is.

use clap::Parser;
use quarterturn::{
    core::{Device, Error, Result, Stream, Tensor},
    kernels::Group,
    models::{DepthError, EquivarianceError, LayerSummary, Network, Standing, Summary, Verdict, WindowedLayer},
};
use quarterturn_examples::{
    args, device,
    input::Input,
    model::{Fitted, Model},
    onnx_report, say, table,
    weights::NameArgs,
};
use serde::Serialize;
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Is a network exactly equivariant at an input size? If not, which layer breaks the symmetry, and which sizes are near?
#[derive(Parser)]
#[command(
    after_help = "A layer with kernel size k, stride s, padding p and dilation d is exact on i samples iff (i + 2p − d(k − 1) − 1) mod s = 0; without dilation that is (i + 2p − k) mod s."
)]
struct Args {
    #[command(flatten)]
    device: args::DeviceArgs,
    /// The network
    #[arg(long, value_enum, default_value_t = Model::Resnet18)]
    model: Model,
    /// Its group: z2, p4 or p4m
    #[arg(long, default_value = "p4")]
    group: Group,
    /// Size of the images: 224, or height and width as 224x192 [default: what the network is usually given]
    #[arg(long, value_name = "SIZE")]
    input: Option<Input>,
    /// Take network and weights from this checkpoint instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "group"])]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    names: NameArgs,
    /// Judge the sizes, not the weights, of any ONNX model instead, whatever program it comes from
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "group", "checkpoint", "measure"])]
    onnx: Option<PathBuf>,
    /// Also measure the equivariance error (Eq. 14) of every layer, on images of noise
    #[arg(long)]
    measure: bool,
    /// Images to measure on
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    images: u64,
    /// Seed of weights and images
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    if let Some(path) = &args.onnx {
        return onnx_report::run(path, args.input.map(|input| input.0), args.json);
    }
    // Geometry needs no GPU.
    let device = if args.measure { device::open(args.device.device)? } else { Device::Cpu };
    let (network, name, usual) = match &args.checkpoint {
        Some(path) => open_checkpoint(path, &args.names, &device)?,
        None => {
            let network = args.model.build(args.group, Fitted::default(), args.seed, &device)?;
            (network, args.model.name(), Some([args.model.usual_input(); 2]))
        }
    };
    let Some(input) = args.input.map(|input| input.0).or(usual) else {
        return Err(Error::Invalid(format!("{name}: the file does not say the size of its images; --input does")));
    };
    let mut summary = Summary::of(&*network, input)?;
    summary.exactness.model = name;
    let measured = if args.measure { Some(measure(&*network, input, args, &device)?) } else { None };
    if args.json {
        let report = Report::new(&summary, measured.as_deref());
        let text = serde_json::to_string_pretty(&report).map_err(|error| Error::Invalid(error.to_string()))?;
        say::result(text);
    } else {
        print_summary(&summary);
        if let Some(measured) = &measured {
            print_measured(measured, args.images);
        }
    }
    Ok(())
}

/// A network, its architecture's name, and the size that it is usually given, if that is known.
type Opened = (Box<dyn Network>, String, Option<[usize; 2]>);

/// The network of a checkpoint.
fn open_checkpoint(path: &Path, names: &NameArgs, device: &Device) -> Result<Opened> {
    let checkpoint = names.read(path)?;
    let network = checkpoint.network(device)?;
    let config = network.config();
    let model = config.get("model").cloned().unwrap_or_default();
    let has_many_stages = config.get("widths").is_some_and(|widths| widths.split(',').count() > 3);
    let usual = match model.as_str() {
        "resnet" if has_many_stages => Some(Model::Resnet18.usual_input()),
        "resnet" => Some(Model::Resnet44.usual_input()),
        "mnist_cnn" | "gc_p4cnn" => Some(Model::P4cnn.usual_input()),
        "densenet" => Some(Model::Densenet.usual_input()),
        _ => None,
    };
    let trained_with = checkpoint.preparation()?.and_then(|preparation| preparation.size());
    Ok((network, model, trained_with.or(usual.map(|size| [size; 2]))))
}

fn measure(
    network: &dyn Network,
    [height, width]: [usize; 2],
    args: &Args,
    device: &Device,
) -> Result<Vec<DepthError>> {
    let stream = Stream::new(args.seed, u32::from_be_bytes(*b"nois"), 0);
    let channels = network.in_channels();
    let mut error = EquivarianceError::at(|_| true);
    let len = (channels * height * width) as u64;
    for image in 0..args.images {
        let noise = (image * len..(image + 1) * len).map(|i| stream.normal(i) as f32).collect();
        error.add(network, &Tensor::from_vec([1, channels, 1, height, width], noise, device)?)?;
    }
    Ok(error.depths())
}

fn print_summary(summary: &Summary) {
    say::result(summary);
    let (inexact, steps) = summary.exactness.subsampling();
    if summary.exactness.verdict() == Verdict::Inexact && inexact > 0 {
        say::result(format_args!("{inexact} of {steps} subsampling stages leave samples over"));
    }
}

fn print_measured(measured: &[DepthError], images: u64) {
    let number = |v: f64| if v == 0.0 { "0".into() } else { format!("{v:.3e}") };
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|depth| {
            let DepthError { name, eq14, relative, l1, largest, rms } = depth;
            let relative = format!("{:.2} %", 100.0 * relative);
            vec![name.clone(), number(*eq14), relative, number(*l1), number(*largest), number(*rms)]
        })
        .collect();
    table::print(&["after", "error (Eq. 14)", "relative", "mean |difference|", "largest", "rms of the map"], &rows);
    let noise = if images == 1 { "1 image".into() } else { format!("{images} images") };
    match measured.iter().find(|depth| depth.l1 != 0.0) {
        None => say::result(format_args!("measured on {noise} of noise: every bit agrees at every depth")),
        Some(depth) => say::result(format_args!(
            "measured on {noise} of noise: the first layer that breaks is {}, by {:.1}% of the map's rms on average",
            depth.name,
            100.0 * depth.l1 / depth.rms
        )),
    }
}

/// The report as JSON.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    group: &'static str,
    input: [usize; 2],
    exact: bool,
    verdict: &'static str,
    symmetry: &'static str,
    parameters: usize,
    /// Multiplications of one forward pass, over irreps and as a dense sum.
    multiply_adds: u64,
    multiply_adds_dense: u64,
    /// Bytes that training keeps for each image, at most.
    training_bytes: usize,
    /// The layers with a window, and all of them.
    layers: Vec<LayerReport<'a>>,
    summary: Vec<RowReport<'a>>,
    /// Layers that commute at no size, with the reason, and layers that do not say.
    breaking: Vec<String>,
    unknown: &'a [String],
    nearest_exact: Nearest,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Vec<DepthReport<'a>>>,
}

#[derive(Serialize)]
struct LayerReport<'a> {
    name: &'a str,
    kind: &'static str,
    input: [usize; 2],
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    residual: [usize; 2],
    exact: bool,
}

#[derive(Serialize)]
struct RowReport<'a> {
    name: &'a str,
    kind: &'a str,
    output: Vec<usize>,
    parameters: usize,
    multiply_adds: u64,
    multiply_adds_dense: u64,
    training_bytes: usize,
    exact: bool,
}

#[derive(Serialize)]
struct Nearest {
    below: Option<Size>,
    above: Option<Size>,
}

/// One number for a square input, else height and width.
#[derive(Serialize)]
#[serde(untagged)]
enum Size {
    Square(usize),
    Rectangle([usize; 2]),
}

#[derive(Serialize)]
struct DepthReport<'a> {
    name: &'a str,
    error_eq14: f64,
    error_relative: f64,
    error_l1: f64,
    largest: f64,
    rms: f64,
}

impl<'a> Report<'a> {
    fn new(summary: &'a Summary, measured: Option<&'a [DepthError]>) -> Self {
        let (exactness, work) = (&summary.exactness, summary.multiply_adds());
        let square = exactness.input[0] == exactness.input[1];
        let size = |size: [usize; 2]| if square { Size::Square(size[0]) } else { Size::Rectangle(size) };
        let depth = |depth: &'a DepthError| DepthReport {
            name: &depth.name,
            error_eq14: depth.eq14,
            error_relative: depth.relative,
            error_l1: depth.l1,
            largest: depth.largest,
            rms: depth.rms,
        };
        Report {
            model: &exactness.model,
            group: exactness.group.name(),
            input: exactness.input,
            exact: exactness.is_exact(),
            verdict: exactness.verdict().name(),
            breaking: exactness.breaking.iter().map(ToString::to_string).collect(),
            unknown: &exactness.unknown,
            symmetry: exactness.symmetry.name(),
            parameters: summary.parameters(),
            multiply_adds: work.computed,
            multiply_adds_dense: work.dense,
            training_bytes: summary.bytes(),
            layers: exactness.layers.iter().map(LayerReport::new).collect(),
            summary: summary.layers.iter().map(RowReport::new).collect(),
            nearest_exact: Nearest { below: exactness.below.map(size), above: exactness.above.map(size) },
            measured: measured.map(|measured| measured.iter().map(depth).collect()),
        }
    }
}

impl<'a> RowReport<'a> {
    fn new(layer: &'a LayerSummary) -> Self {
        RowReport {
            name: &layer.name,
            kind: &layer.kind,
            output: layer.output.dims().to_vec(),
            parameters: layer.parameters,
            multiply_adds: layer.multiply_adds.computed,
            multiply_adds_dense: layer.multiply_adds.dense,
            training_bytes: layer.bytes,
            exact: layer.standing == Standing::Exact,
        }
    }
}

impl<'a> LayerReport<'a> {
    fn new(layer: &'a WindowedLayer) -> Self {
        LayerReport {
            name: &layer.name,
            kind: layer.kind.name(),
            input: layer.input,
            kernel: layer.window.kernel_size,
            stride: layer.window.stride,
            padding: layer.window.padding,
            dilation: layer.dilation,
            residual: layer.residual,
            exact: layer.is_exact(),
        }
    }
}
