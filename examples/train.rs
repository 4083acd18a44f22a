//! Trains a network on images of one's own: a folder of class folders, an `.npz` of MedMNIST's form, or RotMNIST's `.amat`.
//!
//! The network of the best epoch lands in `network.safetensors`, with what it is made of, how images are prepared for it and what the
//! classes are called: `evaluate`, `inspect` and `exactness` read it. The same command goes on where the last one was stopped.
//!
//! `mpirun -n 4 target/release/examples/train --micro-batches 8 …`, built with the feature `mpi`, trains on four processes, to the same
//! bits as on one.

use clap::{Parser, ValueEnum};
use quarterturn::{
    autograd::{Optimizer, ParamGroup, Schedule},
    core::{Error, Result, Share},
    data::{ImageFolder, Loader, Normalization, Part, Pipeline, Recipe, Samples, Target, Transform, amat, medmnist},
    kernels::{Group, transform_plane},
    models::{
        checkpoint,
        training::{Metric, Objective, Ranks, Report, Scores, Trainer, Training, Validation},
    },
};
use quarterturn_examples::{
    args, device,
    epochs::EpochLog,
    files,
    model::{Fitted, Model},
    preparation, ranks, say,
    tensorboard::TensorBoard,
};
use std::{ops::ControlFlow, path::PathBuf, process::ExitCode, sync::Arc};

/// Images of some part.
type Shared = Arc<dyn Samples>;

/// Train a network on images of your own
#[derive(Parser)]
struct Args {
    /// A folder with train/CLASS/*.jpg (and val, test), or just CLASS/*.jpg; an .npz file of MedMNIST's form; an .amat file
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Test images, an .amat file [default: a fifth of the others, drawn by the seed]
    #[arg(long, value_name = "FILE")]
    test: Option<PathBuf>,
    /// Architecture
    #[arg(long, value_enum, default_value_t = Model::Resnet18)]
    model: Model,
    /// z2, p4 or p4m
    #[arg(long, default_value_t = Group::C4)]
    group: Group,
    /// Height and width of the network's input; `exactness` tells which are exact [default: an exact one: 97 of resnet18, 33 of resnet44, 28 of p4cnn, 96 of densenet]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(8..=1024))]
    input: Option<u64>,
    /// Channels of the first stage, which ResNets double in each further stage [default: the architecture's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    width: Option<u64>,
    /// What training images go through
    #[arg(long, value_enum)]
    augment: Option<Augment>,
    /// Blend training images in pairs (mixup, Zhang et al. 2018), by shares of Beta(ALPHA, ALPHA): 0.2, say
    #[arg(long, value_name = "ALPHA")]
    mixup: Option<f64>,
    /// Training images, drawn by the seed [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    train: Option<u64>,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,
    /// Images per step of the optimizer
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    batch: u32,
    /// Parts of a batch that are computed one after another, in the memory of one, or by several processes; each norm takes the
    /// statistics of a part, if not by --sync-batch-norm. Their number decides the bits; that of the processes, which is a power of two and divides it, does not
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    micro_batches: u32,
    /// Norms take the statistics of the whole batch (synchronised batch norm), not of a part: the parts of a process are computed side by
    /// side, in the memory of all of them
    #[arg(long)]
    sync_batch_norm: bool,
    /// The highest learning rate of the one-cycle schedule
    #[arg(long, value_name = "RATE", default_value_t = 0.005)]
    lr: f64,
    /// End early after so many epochs that are not better than the best
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Decides starting weights, order, augmentation, and which images are held out
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write an event file of TensorBoard to this folder, which is the run's own: losses, metrics, learning rate and seconds of each epoch
    #[arg(long, value_name = "DIR")]
    tensorboard: Option<PathBuf>,
    #[command(flatten)]
    device: args::DeviceArgs,
    #[command(flatten)]
    out: args::OutArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Augment {
    /// Nothing but the resizing
    None,
    /// Quarter turns and flips
    Turns,
    /// A part of random size and shape, and a flip: of photographs; the default for folders
    Photo,
}

/// What is trained and tested on.
struct Data {
    train: Shared,
    /// To choose the best epoch by.
    held_out: Shared,
    /// Beside that, to report on.
    test: Option<Shared>,
    class_names: Vec<String>,
    /// Of a folder: photographs, of any sizes.
    is_folder: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    ranks::run(|ranks| run(&args, ranks))
}

fn run(args: &Args, ranks: Arc<dyn Ranks>) -> Result<()> {
    if !args.batch.is_multiple_of(args.micro_batches) || args.batch / args.micro_batches < 2 {
        let message =
            format!("--batch {} cannot be cut into {} parts of 2 images or more", args.batch, args.micro_batches);
        return Err(Error::Invalid(format!("{message}, all of one size: --micro-batches")));
    }
    let writes = ranks.rank() == 0;
    let (share, folder) =
        (Share::new(ranks.rank(), ranks.size(), args.micro_batches as usize)?, args.out.path("train"));
    if writes {
        files::create_folder(&folder)?;
    }
    let device = device::open(args.device.device)?;
    if ranks.size() > 1 {
        say::note(format_args!("{} processes", ranks.size()));
    }
    let data = Data::open(args)?;
    let input = args.input.map_or(args.model.exact_input(), |input| input as usize);
    let recipe = recipe(args, &data, input)?;
    let loader = |samples: &Shared, pipeline: &Pipeline| {
        let size = (args.batch / args.micro_batches) as usize;
        Loader::new(samples.clone(), pipeline.clone(), size).seed(args.seed).on(&device).shared(share)
    };
    let train = loader(&data.train, &recipe.train).shuffled().full_only();
    let held_out = loader(&data.held_out, &recipe.test);
    say::note(format_args!("{train:?}; held out: {held_out:?}"));

    let (objective, metrics) = match data.train.target(0)? {
        Target::Class(_) if data.train.classes() > 5 => {
            (Objective::default(), vec![Metric::Accuracy, Metric::TopK(5), Metric::Loss])
        }
        Target::Class(_) => (Objective::default(), vec![Metric::Accuracy, Metric::Loss]),
        Target::Numbers(_) => (Objective::SeveralLabels, vec![Metric::LabelAccuracy, Metric::Loss]),
        Target::Mask(_) => return Err(Error::Invalid("masks are for the example `segmentation`".into())),
    };
    let training = Training {
        objective: objective.clone(),
        groups: vec![ParamGroup::vectors().with_weight_decay(0.0)],
        micro_batches: args.micro_batches,
        sync_batch_norm: args.sync_batch_norm,
        mixup: args.mixup,
        data: train.identity()?,
        ..Training::new(args.epochs, Optimizer::adamw(0.01).rule(), Schedule::OneCycle { max_lr: args.lr }, args.seed)
    };
    let (best, state) = (folder.join("network.safetensors"), folder.join("state.safetensors"));
    let ends = Some([recipe.test.normalization.mean.len(), data.train.classes()]);
    let fitted = Fitted { ends, width: args.width.map(|width| width as usize) };
    let mut network = args.model.build(args.group, fitted, args.seed, &device)?;
    let mut trainer = match files::exists(&state)? {
        true => {
            say::note(format_args!("going on from {}", state.display()));
            Trainer::resume(&mut *network, training, &state)?
        }
        false => Trainer::new(&mut *network, training),
    };
    let mut notes = preparation::notes(&recipe.test.preparation()?, input, data.train.name());
    if !data.class_names.is_empty() {
        notes.insert("classes".into(), data.class_names.join("\n"));
    }
    *trainer.notes_mut() = notes;
    let mut trainer = trainer.with_ranks(ranks.clone());
    let pairs = |loader: &Loader, epoch: u32, from: u32| {
        loader.epoch(epoch).starting_at(from as usize).map(|batch| batch.map(|batch| batch.into_pair()))
    };
    let log = EpochLog::new(&folder, "train");
    let mut board = args.tensorboard.as_deref().filter(|_| writes).map(TensorBoard::new).transpose()?;
    let validation = Validation { metrics: metrics.clone(), best: Some(best.clone()), patience: args.patience };
    let _ = trainer.fit(
        |epoch, from| Ok(pairs(&train, epoch, from)),
        &validation,
        || Ok(pairs(&held_out, 0, 0)),
        |trainer, at, report| {
            if let Some(report) = report {
                tell(report);
                if writes {
                    log.write(report, at.lr)?;
                }
                if let Some(board) = &mut board {
                    board.write(report, at.lr)?;
                }
                trainer.save(&state)?;
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    let Some(chosen) = trainer.best() else {
        return Err(Error::Invalid("no epoch has a metric that is a number".into()));
    };
    say::result(format_args!("best epoch: {}, {} {:.4}", chosen.epoch + 1, chosen.metric, chosen.value));

    let network = checkpoint::load(&best, &device)?;
    let (samples, what) = data.test.as_ref().map_or((&data.held_out, "held-out"), |test| (test, "test"));
    let test = loader(samples, &recipe.test);
    for turns in [0, 1] {
        let turned = test.epoch(0).map(|batch| {
            let (images, targets) = batch?.into_pair();
            Ok((transform_plane(&images, turns), targets))
        });
        let scores = Scores::over(&*network, &objective, &metrics, turned, share, &*ranks)?;
        let degrees = 90 * turns;
        say::result(format_args!("{} {what} images, turned by {degrees}°: {}", scores.images(), values(&scores)));
    }
    say::result(format_args!(
        "wrote network.safetensors, state.safetensors, train.csv and train.jsonl to {}",
        folder.display()
    ));
    Ok(())
}

impl Data {
    fn open(args: &Args) -> Result<Self> {
        let part = |samples: Shared| -> Result<Shared> {
            match args.train {
                Some(n) => Ok(Arc::new(Part::split(samples, n as usize, args.seed)?.0)),
                None => Ok(samples),
            }
        };
        // A fifth is held out.
        let split = |samples: Shared| -> Result<(Shared, Shared)> {
            let n = samples.len() - samples.len() / 5;
            let (train, held_out) = Part::split(samples, n, args.seed)?;
            Ok((Arc::new(train), Arc::new(held_out)))
        };
        let is_folder = args.data.is_dir();
        let kind = args.data.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        let (train, validation, test, class_names): (Shared, Option<Shared>, Option<Shared>, Vec<String>) =
            match kind.as_deref() {
                Some("npz") => {
                    let parts = medmnist::load(&args.data)?;
                    (parts.train, parts.validation, parts.test, Vec::new())
                }
                Some("amat") => {
                    let test = args.test.as_deref().map(amat::load).transpose()?;
                    (Arc::new(amat::load(&args.data)?), None, test.map(|test| Arc::new(test) as _), Vec::new())
                }
                _ if args.data.join("train").is_dir() => {
                    let parts = ImageFolder::parts(&args.data)?;
                    let names = parts.train.class_names().to_vec();
                    let shared = |part: Option<ImageFolder>| part.map(|part| Arc::new(part) as _);
                    (Arc::new(parts.train), shared(parts.validation), shared(parts.test), names)
                }
                _ => {
                    let images = ImageFolder::open(&args.data)?;
                    let names = images.class_names().to_vec();
                    (Arc::new(images), None, None, names)
                }
            };
        // Without a part to choose by, one is taken from the training images; a test part alone is not chosen by.
        let (train, held_out) = match validation {
            Some(validation) => (train, validation),
            None => split(train)?,
        };
        Ok(Data { train: part(train)?, held_out, test, class_names, is_folder })
    }
}

/// What images go through, in training and else.
fn recipe(args: &Args, data: &Data, input: usize) -> Result<Recipe> {
    let default = if data.is_folder { Augment::Photo } else { Augment::None };
    let mut recipe = Recipe::imagenet(input);
    if !data.is_folder {
        recipe.test.transforms = vec![Transform::Resize { size: [input; 2] }];
    }
    let normalization = Normalization::measured(&*data.train)?;
    recipe.test.normalization = normalization.clone();
    recipe.train.normalization = normalization;
    match args.augment.unwrap_or(default) {
        Augment::Photo => {}
        Augment::None => recipe.train.transforms = recipe.test.transforms.clone(),
        Augment::Turns => {
            recipe.train.transforms = recipe.test.transforms.clone();
            recipe.train.transforms.extend([Transform::QuarterTurn, Transform::HorizontalFlip { probability: 0.5 }]);
        }
    }
    Ok(recipe)
}

/// A line on the screen.
fn tell(report: &Report) {
    let mark = if report.is_best { ", the best so far" } else { "" };
    say::note(format_args!(
        "epoch {}: loss {:.4}; held out: {}{mark}",
        report.epoch + 1,
        report.loss,
        values(&report.scores)
    ));
}

fn values(scores: &Scores) -> String {
    scores.values().iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join(", ")
}
