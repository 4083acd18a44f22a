//! Evaluates a saved network: its accuracy on digits or on pictures of your own, upright and turned, and whether quarter turns leave
//! its logits alone; of a network for segmentation, the IoU, and whether masks turn with their images.
//!
//! The file may come from another program, as the published networks of the paper do: `--names` says what its tensors
//! are called here, and what network they are of. Filters follow GrouPy's conventions, `[C_out, C_in, G, k, k]`.

use clap::{Parser, ValueEnum};
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::{Loader, Pipeline, Samples, Transform},
    kernels::{argmax, transform_plane},
    models::{
        Checkpoint, Network,
        checkpoint::{self, Preparation, Step},
        training::{Metric, Objective, Scores, Tally},
    },
};
use quarterturn_examples::{
    answers::{turns_leave_every_bit, unanswered},
    args,
    csv::Csv,
    device,
    digits::Digits,
    pictures::PictureArgs,
    prepared::Prepared,
    progress::Progress,
    rotations::Protocol,
    say, table,
    weights::NAMES_HELP,
};
use std::{process::ExitCode, sync::Arc};

/// Images that are counted together.
const SLICE: usize = 250;
/// Images on which the network is asked whether a turn changes a bit of its logits.
const PROBES: usize = 16;

/// Evaluate a saved network on rotated images
#[derive(Parser)]
#[command(after_help = NAMES_HELP)]
struct Args {
    #[command(flatten)]
    network: args::NetworkArgs,
    #[command(flatten)]
    data: args::DataArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    /// Width and height that the images are resized to [default: as the preparation says, else 28]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(8..=128))]
    size: Option<u64>,
    /// Test angles, evenly spaced from 0°
    #[arg(long, value_name = "N", default_value_t = 36, value_parser = clap::value_parser!(u64).range(1..=3600))]
    angles: u64,
    /// Test images [default: all; of MNIST the 60,000 of its train file, as in the paper; 500 built-in digits]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    test: Option<u64>,
    /// How images are prepared, by name [default: as the file says; else published for networks of 3 channels, else paper]
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// How images are prepared, step by step, in place of what the file says: such as "normalize 0.5 0.5; resize 28x28",
    /// or "normalize 0 1" for pixels from 0 to 1 as they are; also known: channels N, circle_crop, center_crop HxW, pad HxW
    #[arg(long, value_name = "STEPS", conflicts_with = "protocol")]
    preparation: Option<Preparation>,
    #[command(flatten)]
    device: args::DeviceArgs,
    #[command(flatten)]
    out: args::OutArgs,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = device::open(args.device.device)?;
    let checkpoint = args.network.read()?;
    let network = checkpoint.network(&device)?;
    let Chosen { preparation, fill, source } = Chosen::of(args, &checkpoint)?;
    if args.pictures.has_masks() {
        let samples = args.pictures.open(args.test)?;
        return masks(args, &*network, &preparation, samples, &device);
    }
    let tested = Tested::open(args, &checkpoint)?;
    let channels = if tested.are_pictures { network.in_channels() } else { 1 };
    let mut prepared = Prepared::new(&preparation, channels, fill, &device)?;
    if tested.are_pictures {
        prepared = prepared.of_pictures(channels);
    }
    if prepared.channels() != network.in_channels() {
        return Err(Error::Invalid(format!(
            "the network takes images of {} channels, prepared ({source}) they have {}: {preparation}",
            network.in_channels(),
            prepared.channels()
        )));
    }
    let Tested { name, samples: test, .. } = tested;
    let folder = args.out.folder("evaluate")?;

    let degrees: Vec<f64> = (0..args.angles).map(|i| 360.0 * i as f64 / args.angles as f64).collect();
    let loader = prepared.loader(test.clone(), SLICE).on(&device);
    let upright = || loader.epoch(0).map(|batch| batch.map(|batch| (prepared.upright(&batch.images), batch.labels)));
    let turned = |images: &Tensor, angle: usize| prepared.turned(images, degrees[angle] as f32);
    let (mut progress, mut tally) = (Progress::new(test.len() as u64), Tally::new(degrees.len()));
    let (mut exact, mut size) = (true, None);
    for batch in upright() {
        let (images, labels) = batch?;
        if size.is_none() {
            size = Some([images.dims()[2], images.dims()[3]]);
            exact = turns_leave_every_bit(&*network, &probes(&prepared.turned(&images, 0.0))?)?;
        }
        tally.count(&*network, &images, &labels, turned)?;
        tally.wait()?;
        progress.advance(labels.len() as u64);
    }
    progress.done();
    let correct = tally.read()?.to_vec();
    let mut none = vec![0; degrees.len()];
    if tally.has_unanswered() {
        none = unanswered(&*network, upright().map(|batch| Ok(batch?.0)), degrees.len(), turned)?;
        exact = false;
    }

    let header = "data,preparation,input_size,angle_deg,correct,total,unanswered";
    let mut csv = Csv::new(folder.join("evaluate.csv"), header);
    let size = match size.unwrap_or_default() {
        [height, width] if height == width => height.to_string(),
        [height, width] => format!("{height}x{width}"),
    };
    let percent = |correct: u64| format!("{:.2}", 100.0 * correct as f64 / test.len() as f64);
    let mut rows = Vec::new();
    for ((degrees, &correct), none) in degrees.iter().zip(&correct).zip(&none) {
        csv.row(&[&name, &preparation, &size, degrees, &correct, &test.len(), none]);
        rows.push(vec![format!("{degrees}"), correct.to_string(), percent(correct)]);
    }
    csv.save()?;

    let settings: Vec<String> = network.config().iter().map(|(name, value)| format!("{name} {value}")).collect();
    say::result(format_args!("\n{}: {}", args.network.checkpoint.display(), settings.join(", ")));
    say::result(format_args!("{name}: {} images", test.len()));
    say::result(format_args!("prepared: {preparation}; {source}"));
    table::print(&["angle", "recognised", "accuracy %"], &rows);
    let all = correct.iter().sum::<u64>() as f64 / correct.len() as f64 / test.len() as f64;
    say::result(format_args!("mean over the angles: {:.2} %", 100.0 * all));
    let (worst, sum) = (none.iter().max().copied().unwrap_or(0), none.iter().sum::<u64>());
    if sum > 0 {
        say::result(format_args!(
            "no answer: the logits of {sum} of {} turned images (up to {worst} of {} at one angle) are not numbers; they \
             count as not recognised",
            degrees.len() * test.len(),
            test.len()
        ));
    }
    say::result(match exact {
        true => "exact: quarter turns of the input leave every bit of the logits as it was",
        false if sum > 0 => "not exact: where there is no answer, nothing is equal",
        false => "not exact: quarter turns of the input change the logits",
    });
    say::result(format_args!("wrote evaluate.csv to {}", folder.display()));
    Ok(())
}

/// What is looked at.
struct Tested {
    name: String,
    samples: Arc<dyn Samples>,
    /// Of any colours, in files.
    are_pictures: bool,
}

impl Tested {
    fn open(args: &Args, checkpoint: &Checkpoint) -> Result<Self> {
        if args.pictures.is_given() {
            let samples = args.pictures.open(args.test)?;
            args.pictures.expect_classes(&*samples, checkpoint)?;
            return Ok(Tested { name: samples.name().into(), samples, are_pictures: true });
        }
        let digits = Digits::open(&args.data).map_err(|error| match error {
            Error::Io { path, message } => {
                let message = format!("{message}. (A folder of class folders is given as --images)");
                Error::Io { path, message }
            }
            other => other,
        })?;
        let usual = if matches!(digits, Digits::BuiltIn) { 500 } else { 60_000 };
        let samples = Arc::new(digits.test(args.test.unwrap_or(usual) as usize)?);
        Ok(Tested { name: digits.name().into(), samples, are_pictures: false })
    }
}

/// The IoU of predicted masks, upright and after each quarter turn, and whether the masks turn with the images.
fn masks(
    args: &Args,
    network: &dyn Network,
    preparation: &Preparation,
    samples: Arc<dyn Samples>,
    device: &Device,
) -> Result<()> {
    let channels = network.in_channels();
    let mut pipeline = Pipeline::of(preparation, channels)?;
    pipeline.transforms.insert(0, Transform::Channels { channels });
    let (name, total) = (samples.name().to_string(), samples.len());
    let loader = Loader::new(samples, pipeline, 16).on(device);
    let mut scores = [0; 4].map(|_| Scores::new(&Objective::default(), &[Metric::Iou, Metric::Accuracy]));
    let (mut progress, mut exact) = (Progress::new(total as u64), true);
    for batch in loader.epoch(0) {
        let (images, masks) = batch?.into_pair();
        let images = checkpoint::finish(preparation, &images)?;
        let upright = argmax(&network.predict(&images)?, 1);
        for (turns, scores) in scores.iter_mut().enumerate() {
            let (turned, wanted) = (transform_plane(&images, turns), transform_plane(&masks, turns));
            let outputs = network.predict(&turned)?;
            exact &= argmax(&outputs, 1).to_vec()? == transform_plane(&upright, turns).to_vec()?;
            scores.count(&outputs, &wanted)?;
        }
        progress.advance(masks.dims()[0] as u64);
    }
    progress.done();

    let folder = args.out.folder("evaluate")?;
    let mut csv = Csv::new(folder.join("evaluate.csv"), "data,preparation,angle_deg,images,iou,pixel_accuracy");
    let mut rows = Vec::new();
    for (turns, scores) in scores.iter().enumerate() {
        let value = |metric| scores.value(metric).unwrap_or(f64::NAN);
        let (iou, accuracy) = (value(&Metric::Iou), value(&Metric::Accuracy));
        csv.row(&[&name, preparation, &(90 * turns), &total, &iou, &accuracy]);
        rows.push(vec![(90 * turns).to_string(), format!("{iou:.4}"), format!("{:.2}", 100.0 * accuracy)]);
    }
    csv.save()?;
    say::result(format_args!("\n{name}: {total} images and masks; prepared: {preparation}"));
    table::print(&["angle", "mean IoU", "pixels right %"], &rows);
    say::result(match exact {
        true => "exact: the mask of every turned image is the turned mask, in every pixel",
        false => "not exact: masks of turned images are not the turned masks",
    });
    say::result(format_args!("wrote evaluate.csv to {}", folder.display()));
    Ok(())
}

/// How images are prepared, and who says so.
struct Chosen {
    preparation: Preparation,
    /// What a turn brings in from outside, if it is not the background.
    fill: Option<f32>,
    source: &'static str,
}

impl Chosen {
    /// An option if there is one, else what the file says, else the experiments' own.
    fn of(args: &Args, checkpoint: &Checkpoint) -> Result<Self> {
        let size = args.size.map(|size| size as usize);
        let by_name = |protocol: Protocol, source| {
            let preparation = protocol.preparation(size.unwrap_or(28));
            Chosen { preparation, fill: Some(protocol.fill()), source }
        };
        let in_steps = |mut preparation: Preparation, source| {
            if let Some(size) = size {
                resize(&mut preparation, size);
            }
            // The experiments' own preparations come with what they take to lie outside.
            let inputs = preparation.steps.iter().filter_map(|step| match step {
                &Step::Resize([height, width]) if height == width => Some(height),
                _ => None,
            });
            let inputs: Vec<usize> = inputs.collect();
            let is_it = |protocol: &Protocol| inputs.iter().any(|&size| protocol.preparation(size) == preparation);
            let fill =
                Protocol::value_variants().iter().find(|protocol| is_it(protocol)).map(|protocol| protocol.fill());
            Chosen { preparation, fill, source }
        };
        if let Some(given) = &args.preparation {
            return Ok(in_steps(given.clone(), "as --preparation says"));
        }
        if let Some(protocol) = args.protocol {
            return Ok(by_name(protocol, "as --protocol says"));
        }
        if let Some(kept) = checkpoint.preparation()? {
            return Ok(in_steps(kept, "as the file says"));
        }
        if args.pictures.is_given() {
            let why = "the file does not say how images are prepared: --preparation does, such as \"resize 97x97; normalize 0.5 0.5\"";
            return Err(Error::Invalid(why.into()));
        }
        let protocol = match checkpoint.config().get("in_channels").map(String::as_str) {
            Some("3") => Protocol::Published,
            _ => Protocol::Paper,
        };
        Ok(by_name(protocol, "assumed: the file does not say; --preparation or --protocol does"))
    }
}

/// Makes the last step that sets a size set this one; if there is none, there is one now, before anything is cut out.
fn resize(preparation: &mut Preparation, size: usize) {
    let steps = &mut preparation.steps;
    if let Some(step) = steps.iter_mut().rev().find(|step| matches!(step, Step::Resize(_))) {
        *step = Step::Resize([size, size]);
        return;
    }
    let cut = steps.iter().position(|step| matches!(step, Step::CircleCrop { .. })).unwrap_or(steps.len());
    steps.insert(cut, Step::Resize([size, size]));
}

/// The first of some images, on which the network is asked whether a turn changes a bit of its logits.
fn probes(images: &Tensor) -> Result<Tensor> {
    let mut dims = images.dims().to_vec();
    let (image, values) = (images.len() / dims[0], images.to_vec()?);
    dims[0] = PROBES.min(dims[0]);
    Tensor::from_vec(&dims[..], values[..dims[0] * image].to_vec(), &images.device())
}
