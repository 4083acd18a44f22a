//! Table 2: accuracies of an approximately equivariant, an exactly equivariant and a standard ResNet, on images as they are
//! (rotations seen in training) and on all four quarter turns of them (unseen ones). How each data set is trained on:
//! `src/image_setting`.

use clap::{Parser, ValueEnum};
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::Loader,
    kernels::{Group, transform_plane},
    models::{
        Exactness, Network, ResNet, ResNetConfig, checkpoint,
        training::{Tally, Trainer, Training, train_step},
    },
};
use quarterturn_examples::{
    answers, args,
    csv::Csv,
    device, files,
    image_setting::{Plan, Setting, SettingArgs, title},
    images::{Format, ImageArgs, Images},
    preparation,
    rotations::statistics,
    runner::{Context, Experiment, Finished, Grid, RUN, Report, Run, RunnerArgs, Settings},
    say,
    significance::difference,
    table,
};
use serde::{Deserialize, Serialize};
use std::{
    cell::RefCell, fmt, ops::ControlFlow, path::Path, process::ExitCode, str::FromStr, sync::Arc, time::Instant,
};

/// Images on which each trained network is asked whether a turn changes a bit of its logits.
const PROBES: usize = 16;

/// Table 2: approximate, exact and standard ResNets on seen and unseen rotations
#[derive(Parser)]
#[command(
    after_help = "Without --data, built-in textures stand in for photographs (about 2 minutes on 2 cores). With \
                        --data, whatever is left out is as in the paper, which takes a large GPU; --width, --blocks, \
                        --epochs, --train and --test make it smaller. The same command goes on where the last one was \
                        stopped."
)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    images: ImageArgs,
    /// What the data set is called in tables [default: by the folder or the format]
    #[arg(long, value_name = "NAME", requires = "data")]
    label: Option<String>,
    /// The row of the paper's table shown beside ours [default: by the format, where that tells it]
    #[arg(long, value_enum, requires = "data")]
    compare: Option<PaperRow>,
    #[command(flatten)]
    device: args::DeviceArgs,
    #[command(flatten)]
    setting: SettingArgs,
    /// Networks as group:size, separated by commas [default: p4 at the inexact and the exact size, z2 at the former]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    networks: Vec<Subject>,
    /// Runs of each network, with seeds counted up from --seed
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// Decides starting weights, order of images and augmentation of the first run, and which images all runs take
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    runner: RunnerArgs,
}

/// Rows of the paper's Table 2.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PaperRow {
    Flowers,
    Pcam,
    Cifar10,
    Cifar100,
    Imagenet,
}

/// Mean and standard deviation, where there is one, in percent.
type Published = (f64, Option<f64>);

impl PaperRow {
    /// Unseen and seen rotations; on p4 approximately and exactly equivariant, and on z2.
    fn values(self) -> [[Published; 3]; 2] {
        let of = |values: [[f64; 3]; 2], stds: [[f64; 3]; 2]| {
            [0, 1].map(|turns| [0, 1, 2].map(|network| (values[turns][network], Some(stds[turns][network]))))
        };
        match self {
            PaperRow::Flowers => {
                of([[83.32, 86.65, 68.78], [86.28, 86.65, 82.18]], [[1.21, 1.41, 0.29], [1.32, 1.41, 0.53]])
            }
            PaperRow::Pcam => {
                of([[86.66, 87.40, 82.43], [87.52, 87.40, 85.35]], [[0.72, 0.71, 1.71], [1.20, 0.71, 1.04]])
            }
            PaperRow::Cifar10 => {
                of([[79.19, 93.41, 52.68], [94.80, 93.41, 93.20]], [[0.47, 0.09, 0.11], [0.21, 0.09, 0.11]])
            }
            PaperRow::Cifar100 => {
                of([[58.82, 72.28, 38.62], [75.00, 72.28, 70.09]], [[0.36, 0.40, 0.16], [0.52, 0.40, 0.28]])
            }
            PaperRow::Imagenet => {
                [[60.01, 72.55, 48.10], [72.48, 72.55, 70.00]].map(|row| row.map(|value| (value, None)))
            }
        }
    }
}

/// `p4:32`: a network on p4 and its input size.
#[derive(Clone, Copy, PartialEq)]
struct Subject {
    group: Group,
    size: usize,
}

impl FromStr for Subject {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (group, size) = text.split_once(':').ok_or("expected group:size, such as p4:33")?;
        let size = size.parse().ok().filter(|size| (8..=512).contains(size));
        Ok(Subject { group: group.parse()?, size: size.ok_or("the size must be a whole number from 8 to 512")? })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {1}×{1}", self.group, self.size)
    }
}

/// A network and a seed.
#[derive(Clone, Copy)]
struct Trial {
    subject: Subject,
    seed: u64,
}

impl Trial {
    /// Its name in files.
    fn key(self) -> String {
        format!("{}-{}_seed-{}", self.subject.group, self.subject.size, self.seed)
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, seed {}", self.subject, self.seed)
    }
}

/// What a trial finds.
#[derive(Clone, Serialize, Deserialize)]
struct Tested {
    /// Images recognised after each number of quarter turns.
    correct: [u64; 4],
    /// Images without an answer, as their logits are not numbers, likewise; empty if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    unanswered: Vec<u64>,
    /// Images there are.
    images: u64,
    /// Whether quarter turns leave every bit of the logits.
    exact: bool,
    /// Trained values of the network.
    parameters: u64,
    /// The epoch whose weights were tested, from 1.
    epoch: u32,
    /// The mean loss of each epoch.
    losses: Vec<f64>,
}

impl Tested {
    /// Percent recognised as they are.
    fn seen(&self) -> f64 {
        100.0 * self.correct[0] as f64 / self.images as f64
    }

    /// Percent recognised, over the four quarter turns.
    fn unseen(&self) -> f64 {
        100.0 * self.correct.iter().sum::<u64>() as f64 / (4 * self.images) as f64
    }
}

/// The state of that name.
const BEST: &str = "best";

/// The best epoch so far, by images of the validation set recognised; its weights are in a file beside it.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Best {
    epoch: u32,
    correct: u64,
}

fn main() -> ExitCode {
    args::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let bench = Bench::new(args)?;
    let folder = args.out.folder("table2")?;
    let seeds = args::seeds(args.seed, args.seeds.into())?;
    // Seed by seed, so that a stopped table compares like with like.
    let trials: Vec<Trial> =
        seeds.flat_map(|seed| bench.subjects.iter().map(move |&subject| Trial { subject, seed })).collect();
    let grid = Grid {
        name: "table2",
        folder: &folder,
        settings: bench.in_common()?,
        device: &bench.device,
        runs: trials.iter().map(|&trial| Run { key: trial.key(), spec: trial }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(&bench, |results| write_csv(&bench, &trials, results, &folder))?;
    Ok(report.finish(|| write_table(&bench, &trials, &report, &folder)))
}

/// Rows of all finished runs, in the order of the plan.
fn write_csv(bench: &Bench, trials: &[Trial], results: &[Option<Finished<Tested>>], folder: &Path) -> Result<()> {
    let header = "data,protocol,model,group,input_size,seed,parameters,exact,images,correct_0,correct_90,correct_180,\
                  correct_270,seen,unseen,tested_epoch,unanswered,device,commit";
    let mut csv = Csv::new(folder.join("table2.csv"), header);
    for (Trial { subject, seed }, result) in trials.iter().zip(results) {
        let Some(Finished { found, origin }) = result else { continue };
        let [upright, quarter, half, three] = &found.correct;
        csv.row(&[
            &bench.name,
            &bench.args.setting.protocol,
            &title(&bench.config(subject.group)),
            &subject.group,
            &subject.size,
            seed,
            &found.parameters,
            &found.exact,
            &found.images,
            upright,
            quarter,
            half,
            three,
            &found.seen(),
            &found.unseen(),
            &found.epoch,
            &found.unanswered.iter().sum::<u64>(),
            &origin.device(),
            &origin.commit(),
        ]);
    }
    csv.save()
}

fn write_table(bench: &Bench, trials: &[Trial], report: &Report<Tested>, folder: &Path) -> Result<()> {
    let rows = bench.rows(trials, &report.results);
    write_summary(&rows, bench, folder)?;
    let (header, lines) = (columns(&rows), lines(&rows));
    let (subtitle, notes) = (bench.subtitle(&report.devices()), [bench.notes(), differences(&rows)].concat());
    let markdown = table::markdown(&subtitle, &header, &lines, &notes);
    files::write(&folder.join("table2.md"), markdown.as_bytes())?;
    say::result(format_args!("\n{subtitle}"));
    table::print(&header, &lines);
    notes.iter().for_each(say::result);
    for (trial, result) in trials.iter().zip(&report.results) {
        let unanswered = result.as_ref().map_or(0, |result| result.found.unanswered.iter().sum());
        if unanswered > 0 {
            let message = "no answer, as logits are not numbers";
            say::result(format_args!("{trial}: {message}: {unanswered} times over four turns; they count as wrong"));
        }
    }
    say::result(format_args!("wrote table2.csv, table2-summary.csv and table2.md to {}", folder.display()));
    Ok(())
}

/// One network, over its seeds.
struct Row {
    subject: Subject,
    model: String,
    exact: bool,
    parameters: u64,
    /// By seed, in percent.
    unseen: Vec<f64>,
    seen: Vec<f64>,
    /// Unseen, seen.
    paper: Option<[Published; 2]>,
}

/// What all trials share.
struct Bench<'a> {
    args: &'a Args,
    setting: Setting,
    subjects: Vec<Subject>,
    plan: Plan,
    device: Device,
    name: String,
    compare: Option<PaperRow>,
    /// Training, validation and test images.
    counts: [usize; 3],
    classes: usize,
    speeds: RefCell<Vec<(Subject, Speed)>>,
}

/// Seconds that an image takes.
#[derive(Clone, Copy)]
struct Speed {
    training: f64,
    testing: f64,
}

impl<'a> Bench<'a> {
    fn new(args: &'a Args) -> Result<Self> {
        let setting = Setting::of(args.images.format);
        let [approximate, exact] = setting.sizes();
        let subjects = if args.networks.is_empty() {
            let subject = |group, size| Subject { group, size };
            vec![subject(Group::C4, approximate), subject(Group::C4, exact), subject(Group::C1, approximate)]
        } else {
            args.networks.clone()
        };
        let plan = args.setting.plan(setting);
        let device = device::open(args.device.device)?;
        let images = Images::open(&args.images, subjects[0].size, args.seed)?;
        let counts = [images.train.len(), images.validation.as_ref().map_or(0, |part| part.len()), images.test.len()];
        if counts[0] < plan.batch as usize {
            let (there, batch) = (counts[0], plan.batch);
            return Err(Error::Invalid(format!("{}: {there} images to train on, a batch is {batch}", images.name)));
        }
        let classes = images.train.classes();
        let compare = args.compare.or(match args.images.format {
            Some(Format::Cifar10) => Some(PaperRow::Cifar10),
            Some(Format::Cifar100) => Some(PaperRow::Cifar100),
            Some(Format::Flowers) => Some(PaperRow::Flowers),
            Some(Format::Pcam) => Some(PaperRow::Pcam),
            Some(Format::Imagefolder) if classes == 1000 => Some(PaperRow::Imagenet),
            _ => None,
        });
        let name = args.label.clone().unwrap_or(images.name);
        let speeds = RefCell::default();
        Ok(Bench { args, setting, subjects, plan, device, name, compare, counts, classes, speeds })
    }

    fn in_common(&self) -> Result<Settings> {
        let config = self.config(Group::C4);
        let images = self.images(self.subjects[0])?;
        Ok(Settings::default()
            .with("data", &self.name)
            .with("data fingerprint", images.fingerprint()?)
            .with("prepared", images.prepared(self.setting.sizes()[0])?)
            .with("format", format!("{:?}", self.args.images.format))
            .with("train", self.counts[0])
            .with("validation", self.counts[1])
            .with("test", self.counts[2])
            .with("seed", self.args.seed)
            .with("protocol", self.args.setting.protocol)
            .with("widths on p4", format!("{:?}", config.widths))
            .with("blocks", format!("{:?}", config.blocks))
            .with("block", format!("{:?}", config.block))
            .with("head", format!("{:?}", config.head))
            .with("epochs", self.plan.epochs)
            .with("batch", self.plan.batch)
            .with("optimizer", format!("{:?}", self.plan.rule))
            .with("schedule", format!("{:?}", self.plan.schedule))
            .with("version", env!("CARGO_PKG_VERSION")))
    }

    fn config(&self, group: Group) -> ResNetConfig {
        self.args.setting.network(self.setting, group, self.classes)
    }

    fn create(&self, trial: Trial, device: &Device) -> Result<ResNet> {
        ResNet::new(self.config(trial.subject.group), self.args.setting.protocol.init(trial.seed), device)
    }

    /// Whether no window of the network leaves anything over at this size.
    fn fits(&self, subject: Subject) -> bool {
        let network = self.create(Trial { subject, seed: 0 }, &Device::Cpu);
        let exactness = network.and_then(|network| Exactness::of(&network, [subject.size; 2]));
        exactness.is_ok_and(|exactness| exactness.first_inexact().is_none())
    }

    fn images(&self, subject: Subject) -> Result<Images> {
        Images::open(&self.args.images, subject.size, self.args.seed)
    }

    fn training(&self, seed: u64) -> Training {
        let Plan { epochs, rule, ref schedule, .. } = self.plan;
        Training::new(epochs, rule, schedule.clone(), seed)
    }

    fn loaders(&self, trial: Trial) -> Result<Loaders> {
        let images = self.images(trial.subject)?;
        let (recipe, batch) = (images.recipe(trial.subject.size), self.plan.batch as usize);
        let train = Loader::new(images.train, recipe.train, batch).seed(trial.seed).shuffled().full_only();
        let untouched = |part: Arc<_>| Loader::new(part, recipe.test.clone(), batch).on(&self.device);
        let (validation, test) = (images.validation.map(untouched), untouched(images.test));
        Ok(Loaders { train: train.on(&self.device), validation, test })
    }

    fn speed(&self, subject: Subject) -> Result<Speed> {
        if let Some((_, speed)) = self.speeds.borrow().iter().find(|(known, _)| *known == subject) {
            return Ok(*speed);
        }
        let trial = Trial { subject, seed: 0 };
        let loader = self.loaders(trial)?.train;
        let Some(batch) = loader.epoch(0).next().transpose()? else {
            return Err(Error::Invalid(format!("{}: no batch to train on", self.name)));
        };
        let mut network = self.create(trial, &self.device)?;
        let mut optimizer = quarterturn::autograd::Optimizer::new(self.plan.rule);
        let mut train = |step| {
            let mode = quarterturn::models::Mode::Train { seed: 0, step };
            train_step(&mut network, &mut optimizer, 1e-6, mode, &batch.images, &batch.labels)?.to_vec()
        };
        // The first step pays for memory and, on a GPU, for compilers.
        train(0)?;
        let begun = Instant::now();
        train(1)?;
        let per_image = |begun: Instant| begun.elapsed().as_secs_f64() / f64::from(self.plan.batch);
        let training = per_image(begun);
        let begun = Instant::now();
        let mut tally = Tally::new(1);
        tally.count(&network, &batch.images, &batch.labels, |images, _| images.clone())?;
        tally.read()?;
        let speed = Speed { training, testing: per_image(begun) };
        self.speeds.borrow_mut().push((subject, speed));
        Ok(speed)
    }

    /// The network to test, the epoch that made it, and the loss of each epoch.
    fn train(
        &self,
        trial: Trial,
        loaders: &Loaders,
        speed: Speed,
        context: &mut Context,
    ) -> Result<Option<(ResNet, u32, Vec<f64>)>> {
        let (state, best_file) = (context.training_file(), context.best_file());
        let mut network = self.create(trial, &self.device)?;
        let unreadable =
            |e, file: &Path| Error::Invalid(format!("{e}; without {} the run begins anew", file.display()));
        let mut trainer = match files::exists(&state)? {
            true => {
                Trainer::resume(&mut network, self.training(trial.seed), &state).map_err(|e| unreadable(e, &state))?
            }
            false => Trainer::new(&mut network, self.training(trial.seed)),
        };
        // Of an epoch after the state's, if the program was killed between the two: the same epoch finds the same again.
        let mut best: Option<Best> = context.kept(BEST)?;
        if let Some(Best { epoch, correct }) = best {
            // Of the epoch after the state's, if the program was killed between the two.
            let possible = 1..=(trainer.epoch() + 1).min(self.plan.epochs);
            if !possible.contains(&epoch) || correct > self.counts[1] as u64 {
                return Err(
                    context.unfit(BEST, format!("epoch {epoch}, {correct} of {} images recognised", self.counts[1]))
                );
            }
        }
        let (epochs, per_step) = (self.plan.epochs, speed.training * f64::from(self.plan.batch));
        let done = trainer.epoch() as usize * loaders.train.len() + trainer.step() as usize;
        context.skip(per_step * done as f64 + speed.testing * (self.counts[1] * trainer.epoch() as usize) as f64);
        context.say(format!("epoch {} of {epochs}", (trainer.epoch() + 1).min(epochs)));
        let outcome = trainer.run(
            |epoch, from| {
                let batches = loaders.train.epoch(epoch).starting_at(from as usize);
                Ok(batches.map(|batch| batch.map(|batch| (batch.images, batch.labels))))
            },
            |trainer, at| {
                if let Some(loss) = at.loss {
                    if let Some(validation) = &loaders.validation {
                        let correct = recognised(trainer.network(), validation)?;
                        context.advance(speed.testing * self.counts[1] as f64);
                        if best.as_ref().is_none_or(|best| correct > best.correct) {
                            // The weights first: never a record without them.
                            trainer.save(&best_file)?;
                            best = Some(Best { epoch: at.epoch + 1, correct });
                            context.keep(BEST, &best)?;
                        }
                    }
                    context.say(format!("epoch {} of {epochs}, loss {loss:.3}", (at.epoch + 2).min(epochs)));
                } else {
                    context.advance(per_step);
                }
                let last = at.loss.is_some() && at.epoch + 1 == epochs;
                if last || context.due() {
                    context.save(|_| trainer.save(&state))?;
                }
                Ok(if context.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            },
        )?;
        if outcome.is_break() {
            return Ok(None);
        }
        let losses = trainer.losses().to_vec();
        let Some(Best { epoch, .. }) = best else { return Ok(Some((network, epochs, losses))) };
        let of_best = Trainer::resume(&mut network, self.training(trial.seed), &best_file)
            .map_err(|e| unreadable(e, &best_file))?;
        if of_best.epoch() != epoch {
            let other = format!("{}: of epoch {}, the best is {epoch}", best_file.display(), of_best.epoch());
            return Err(unreadable(Error::Invalid(other), &best_file));
        }
        Ok(Some((network, epoch, losses)))
    }

    fn rows(&self, trials: &[Trial], results: &[Option<Finished<Tested>>]) -> Vec<Row> {
        let row = |&subject: &Subject| {
            let of_it = trials.iter().zip(results).filter(|(trial, _)| trial.subject == subject);
            let found: Vec<&Tested> = of_it.filter_map(|(_, result)| Some(&result.as_ref()?.found)).collect();
            let exact = found.iter().all(|found| found.exact);
            // By the size, for that is what tells the paper's rows apart.
            let column = match subject.group {
                Group::C1 => Some(2),
                Group::C4 => Some(usize::from(self.fits(subject))),
                Group::D4 => None,
            };
            let paper = self.compare.zip(column).map(|(row, column)| row.values().map(|networks| networks[column]));
            Some(Row {
                subject,
                model: title(&self.config(subject.group)),
                exact,
                parameters: found.first()?.parameters,
                unseen: found.iter().map(|found| found.unseen()).collect(),
                seen: found.iter().map(|found| found.seen()).collect(),
                paper,
            })
        };
        self.subjects.iter().filter_map(row).collect()
    }

    /// The line that says what was done.
    fn subtitle(&self, devices: &str) -> String {
        let Args { seeds, seed, setting, .. } = self.args;
        let [train, validation, test] = self.counts;
        let validation = if validation > 0 { format!(", {validation} to validate on") } else { String::new() };
        let seeds = if *seeds == 1 { format!("seed {seed}") } else { format!("{seeds} seeds") };
        format!(
            "{}: {train} images to train on{validation}, {test}{} to test on  ·  {}, {seeds}, {} protocol  ·  {}",
            self.name,
            if self.args.images.held_out.is_some() { " of them held out" } else { "" },
            say::counted(self.plan.epochs.into(), "epoch"),
            setting.protocol,
            devices
        )
    }

    /// Said under the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            "unseen: accuracy over the four quarter turns of the test images, in percent; seen: as they are",
            "± is the standard deviation over seeds, which decide weights, order and augmentation; all runs share the images",
            "turns: whether quarter turns left every bit of the logits of the first test images, in every run",
        ];
        if self.counts[1] > 0 {
            notes.push("tested are the weights of the epoch that was best on the validation images");
        }
        if self.compare.is_some() {
            notes.push(
                "paper: its Table 2, of its own networks on all images of its data set; not measured by us, and to be \
                 compared only as far as data, widths and epochs are the same",
            );
        }
        if self.setting == Setting::Textures {
            notes.push(
                "These are built-in textures, three pairs of which are each other's quarter or half turns: an exact \
                 network can only guess within a pair, which on average is right 70 times of 100. For photographs add \
                 --data DIR --format FORMAT.",
            );
        }
        notes.into_iter().map(String::from).collect()
    }
}

impl Experiment for Bench<'_> {
    type Spec = Trial;
    type Found = Tested;
    const STATES: &'static [&'static str] = &[BEST];

    /// By a training step and a test on a batch.
    fn estimate(&self, trial: &Trial) -> Result<f64> {
        let Speed { training, testing } = self.speed(trial.subject)?;
        let [train, validation, test] = self.counts.map(|images| images as f64);
        Ok(f64::from(self.plan.epochs) * (training * train + testing * validation) + 4.0 * testing * test)
    }

    fn run(&self, &trial: &Trial, context: &mut Context) -> Result<Option<Tested>> {
        let (loaders, speed) = (self.loaders(trial)?, self.speed(trial.subject)?);
        let Some((network, epoch, losses)) = self.train(trial, &loaders, speed, context)? else { return Ok(None) };
        context.say("testing on four quarter turns");
        let (mut tally, mut images, mut exact) = (Tally::new(4), 0, true);
        for batch in loaders.test.epoch(0) {
            let batch = batch?;
            if images == 0 {
                exact = answers::turns_leave_every_bit(&network, &first(&batch.images, PROBES)?)?;
            }
            tally.count(&network, &batch.images, &batch.labels, transform_plane)?;
            tally.wait()?;
            images += batch.indices.len() as u64;
            context.advance(4.0 * speed.testing * batch.indices.len() as f64);
            if context.stopping() {
                return Ok(None);
            }
        }
        let mut correct = [0; 4];
        correct.copy_from_slice(tally.read()?);
        let mut unanswered = Vec::new();
        if tally.has_unanswered() {
            let batches = loaders.test.epoch(0).map(|batch| Ok(batch?.images));
            unanswered = answers::unanswered(&network, batches, 4, transform_plane)?;
            exact = false;
        }
        let prepared = self.images(trial.subject)?.recipe(trial.subject.size).test.preparation()?;
        let mut notes = preparation::notes(&prepared, trial.subject.size, &self.name);
        notes.insert(RUN.into(), trial.key());
        checkpoint::save_with(context.network_file(), &network, &notes)?;
        Ok(Some(Tested { correct, unanswered, images, exact, parameters: network.parameters() as u64, epoch, losses }))
    }

    fn check(&self, trial: &Trial, found: &Tested) -> std::result::Result<(), String> {
        let [_, validation, test] = self.counts.map(|images| images as u64);
        if found.images != test {
            return Err(format!("{} images tested, there are {test}", found.images));
        }
        answers::check_counts(&found.correct, &found.unanswered, 4, test, found.exact)?;
        // Where images are validated on, any epoch may be the best one.
        let possible = if validation > 0 { 1 } else { self.plan.epochs }..=self.plan.epochs;
        if !possible.contains(&found.epoch) {
            return Err(format!("tested after epoch {}, of {}", found.epoch, self.plan.epochs));
        }
        if found.losses.len() != self.plan.epochs as usize || found.losses.iter().any(|loss| !loss.is_finite()) {
            return Err(format!("the losses are not {} finite numbers", self.plan.epochs));
        }
        let network = self.create(*trial, &Device::Cpu);
        let parameters = network.map_err(|e| e.to_string())?.parameters() as u64;
        match found.parameters == parameters {
            true => Ok(()),
            false => Err(format!("{} parameters, the network has {parameters}", found.parameters)),
        }
    }

    fn network(&self, &trial: &Trial) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.create(trial, &Device::Cpu)?))
    }
}

/// The images of a trial.
struct Loaders {
    train: Loader,
    validation: Option<Loader>,
    test: Loader,
}

/// How many images the network recognises.
fn recognised<N: Network + ?Sized>(network: &N, loader: &Loader) -> Result<u64> {
    let mut tally = Tally::new(1);
    for batch in loader.epoch(0) {
        let batch = batch?;
        tally.count(network, &batch.images, &batch.labels, |images, _| images.clone())?;
        tally.wait()?;
    }
    Ok(tally.read()?[0])
}

/// The first of some images.
fn first(images: &Tensor, count: usize) -> Result<Tensor> {
    let dims = images.dims();
    let count = count.min(dims[0]);
    let values = images.to_vec()?;
    let values = values[..values.len() / dims[0] * count].to_vec();
    Tensor::from_vec([count, dims[1], dims[2], dims[3], dims[4]], values, &images.device())
}

/// The table's columns; the paper's only where it has numbers.
/// What sets each exact network apart from each other one.
fn differences(rows: &[Row]) -> Vec<String> {
    let (exact, others): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.exact);
    let name = |row: &Row| format!("{} at {}", row.model, row.subject.size);
    let mut all = Vec::new();
    for (a, b) in exact.into_iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
        if let (Some(unseen), Some(seen)) = (difference(&a.unseen, &b.unseen), difference(&a.seen, &b.seen)) {
            all.push(format!("{} minus {}, points: unseen {unseen}, seen {seen}", name(a), name(b)));
        }
    }
    if !all.is_empty() {
        all.push(
            "differences are of means, with 95% intervals and p by Welch's t-test, not corrected for their number"
                .into(),
        );
    }
    all
}

fn columns(rows: &[Row]) -> Vec<&'static str> {
    let mut columns = vec!["network", "input", "turns", "parameters", "seeds", "unseen", "seen"];
    if rows.iter().any(|row| row.paper.is_some()) {
        columns.extend(["paper: unseen", "paper: seen"]);
    }
    columns
}

fn lines(rows: &[Row]) -> Vec<Vec<String>> {
    let percent = |(mean, std): Published| match std {
        Some(std) => format!("{mean:.2} ± {std:.2}"),
        None => format!("{mean:.2}"),
    };
    let papers = rows.iter().any(|row| row.paper.is_some());
    let line = |row: &Row| {
        let mut line = vec![
            row.model.clone(),
            format!("{0}×{0}", row.subject.size),
            if row.exact { "exact" } else { "not exact" }.to_string(),
            row.parameters.to_string(),
            row.seen.len().to_string(),
            percent(ours(&row.unseen)),
            percent(ours(&row.seen)),
        ];
        if papers {
            let [unseen, seen] = row.paper.map_or(["–".into(), "–".into()], |values| values.map(percent));
            line.extend([unseen, seen]);
        }
        line
    };
    rows.iter().map(line).collect()
}

fn ours(values: &[f64]) -> Published {
    let (mean, std) = statistics(values);
    (mean, (values.len() > 1).then_some(std))
}

fn write_summary(rows: &[Row], bench: &Bench, folder: &Path) -> Result<()> {
    let header = "data,protocol,model,group,input_size,parameters,exact,seeds,unseen_mean,unseen_std,seen_mean,seen_std,\
                  paper_unseen_mean,paper_unseen_std,paper_seen_mean,paper_seen_std";
    let mut csv = Csv::new(folder.join("table2-summary.csv"), header);
    let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
    for row in rows {
        let ((unseen, unseen_std), (seen, seen_std)) = (ours(&row.unseen), ours(&row.seen));
        let paper = |turns: usize| row.paper.map(|values| values[turns]);
        csv.row(&[
            &bench.name,
            &bench.args.setting.protocol,
            &row.model,
            &row.subject.group,
            &row.subject.size,
            &row.parameters,
            &row.exact,
            &row.seen.len(),
            &unseen,
            &number(unseen_std),
            &seen,
            &number(seen_std),
            &number(paper(0).map(|(mean, _)| mean)),
            &number(paper(0).and_then(|(_, std)| std)),
            &number(paper(1).map(|(mean, _)| mean)),
            &number(paper(1).and_then(|(_, std)| std)),
        ]);
    }
    csv.save()
}
