//! Figure 5: networks trained on upright digits, tested on rotated ones. P4CNN on 28×28 is exactly equivariant to
//! quarter turns; on 27×27 and 29×29 its pooling leaves a row and a column over, and it learns to use that.
//!
//! The protocol is the paper's. Trained on 8,000 of MNIST's 10,000 t10k digits (drawn by the seed), tested on the
//! 60,000 training digits; Adam, learning rate 0.01 halved every 10 epochs, weight decay 1e-5, batches of 256,
//! cross-entropy; the weights after the last epoch are tested. That is `--full`. Shorter runs take smaller batches and
//! halve the rate every fifth of the epochs. An image is
//!
//! 1. normalised (mean 0.13084, standard deviation 0.04348: the background becomes −3.0),
//! 2. resized from 28×28 to the network's input, bilinearly,
//! 3. in tests rotated about its centre, bilinearly. After the resizing, so that what a quarter turn permutes are the
//!    network's own inputs, at every size. What lay outside the image is background,
//! 4. cropped: CircleCrop sets what lies outside the inscribed circle to 0, in training as in tests.

mod support;

use clap::Parser;
use quarterturn::{
    autograd::Schedule,
    core::{Device, Error, Result, Tensor},
    data::{Dataset, mnist},
    kernels::{Group, circle_crop, resize, rotate, transform_plane},
    models::{
        MnistCnn, MnistCnnConfig, Network,
        training::{Training, evaluate, train},
    },
};
use std::{fmt, process::ExitCode, str::FromStr};
use support::{
    angle_chart::{self, Point, Series},
    args,
    csv::Csv,
    device,
    digits::Digits,
    figure,
    progress::Progress,
    say, table,
};

/// Test digits that are rotated and classified together.
const TEST_BATCH: usize = 250;
/// Digits on which each trained network is asked whether a turn changes a bit of its logits.
const PROBES: usize = 16;

/// Figure 5: Z2CNN and P4CNN, trained on upright digits, tested on rotated ones
#[derive(Parser)]
#[command(after_help = "Without --data or --download, built-in digits stand in for MNIST.")]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    data: args::DataArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// What to train (z2, p4 or p4m) and on which input size (8 to 128), as group:size, separated by commas
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["z2:28", "p4:27", "p4:28", "p4:29"])]
    networks: Vec<Subject>,
    /// First seed; it decides starting weights, training digits, their order, and dropout
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of seeds to average over [default: 1; with --full 10]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    seeds: Option<u64>,
    /// Passes over the training digits [default: MNIST 10, built-in digits 12; with --quick 5, with --full 50]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    epochs: Option<u64>,
    /// Training digits: of MNIST, from the 10,000 of its t10k file as in the paper, 2,000 of them set aside [default: MNIST 8000, built-in digits 2000; with --quick 400, with --full 8000]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    train: Option<u64>,
    /// Test digits, each tested at every angle: of MNIST, from the 60,000 of its train file as in the paper [default: MNIST 2000, built-in digits 500; with --quick 100, with
    /// --full 60000]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    test: Option<u64>,
    /// Test angles, evenly spaced from 0° [default: 36, built-in digits 24; with --quick 8, with --full 36]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    angles: Option<u64>,
    /// Digits per training step [default: 64; with --quick 16, with --full 256]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    batch: Option<u64>,
    /// Epochs after which the learning rate is halved, again and again [default: a fifth of the epochs]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    halve_every: Option<u64>,
    /// A run of seconds, to see that everything works
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// The paper's run: 10 seeds, 50 epochs, all digits, 36 angles; hours on a CPU
    #[arg(long)]
    full: bool,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=1_000_000)
}

/// The size of an experiment.
struct Settings {
    seeds: u64,
    epochs: u64,
    train: u64,
    test: u64,
    angles: u64,
    batch: u64,
    halve_every: u64,
}

impl Settings {
    fn new(args: &Args, digits: &Digits) -> Self {
        let paper =
            Settings { seeds: 10, epochs: 50, train: 8000, test: 60_000, angles: 36, batch: 256, halve_every: 10 };
        // Few epochs take small batches, for the number of steps.
        let base = match digits {
            _ if args.full => paper,
            _ if args.quick => Settings { seeds: 1, epochs: 5, train: 400, test: 100, angles: 8, batch: 16, ..paper },
            Digits::Mnist(_) => Settings { seeds: 1, epochs: 10, test: 2000, batch: 64, ..paper },
            Digits::BuiltIn => {
                Settings { seeds: 1, epochs: 12, train: 2000, test: 500, angles: 24, batch: 64, ..paper }
            }
        };
        let epochs = args.epochs.unwrap_or(base.epochs);
        // The paper's 10 of 50 epochs, in proportion.
        let halve_every = args.halve_every.unwrap_or((epochs / 5).max(1));
        Settings {
            seeds: args.seeds.unwrap_or(base.seeds),
            epochs,
            train: args.train.unwrap_or(base.train),
            test: args.test.unwrap_or(base.test),
            angles: args.angles.unwrap_or(base.angles),
            batch: args.batch.unwrap_or(base.batch),
            halve_every,
        }
    }

    fn degrees(&self) -> Vec<f64> {
        (0..self.angles).map(|i| 360.0 * i as f64 / self.angles as f64).collect()
    }
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = device::open(args.device.device)?;
    let digits = Digits::open(&args.data)?;
    let settings = Settings::new(args, &digits);
    let folder = args.out.folder("fig5")?;
    let test = digits.test(settings.test as usize)?;
    let degrees = settings.degrees();

    let header = "data,protocol,training,model,group,input_size,seed,angle_deg,correct,total";
    let mut csv = Csv::new(folder.join("fig5.csv"), header);
    let work =
        args.networks.iter().map(|s| s.cost() * (settings.training_passes() + settings.test_passes())).sum::<u64>();
    let mut progress = Progress::new(work * settings.seeds);
    let mut outcomes: Vec<Outcome> = args.networks.iter().map(|&subject| Outcome::new(subject)).collect();
    for seed in args.seed..args.seed + settings.seeds {
        for outcome in &mut outcomes {
            let subject = outcome.subject;
            let network = train_network(subject, &digits, seed, &settings, &device, &mut progress)?;
            progress.say(format!("{subject}, seed {seed}: testing at {} angles", degrees.len()));
            let correct = test_network(&network, subject, &test, &degrees, &device, &mut progress)?;
            for (degrees, correct) in degrees.iter().zip(&correct) {
                let (name, group) = (subject.model(), subject.group);
                csv.row(&[
                    &digits.name(),
                    &"paper",
                    &"upright",
                    &name,
                    &group,
                    &subject.size,
                    &seed,
                    degrees,
                    correct,
                    &test.len(),
                ]);
            }
            // After each network, so that a run that is stopped leaves what it has found.
            csv.save()?;
            outcome.exact &= turns_leave_every_bit(&network, subject, &test, &device)?;
            outcome.parameters = network.settings().parameters();
            outcome.accuracies.push(correct.iter().map(|&c| 100.0 * c as f64 / test.len() as f64).collect());
        }
    }
    let took = progress.done();

    let subtitle = format!(
        "{}: {} upright to train on, {} rotated to test on  ·  {}, {}  ·  {device}",
        digits.name(),
        settings.train,
        settings.test,
        counted(settings.epochs, "epoch"),
        if settings.seeds == 1 {
            format!("seed {}", args.seed)
        } else {
            format!("{} seeds, mean ± 1 std", settings.seeds)
        },
    );
    let series: Vec<Series> = outcomes.iter().map(|outcome| outcome.series(&degrees)).collect();
    let (width, height) = (720.0, 430.0);
    figure::save(&folder.join("fig5"), (width, height), |area| {
        figure::heading(area, "Accuracy on rotated digits of networks trained on upright ones", &subtitle)?;
        angle_chart::draw(area, (10.0, 54.0), (width - 6.0, height - 8.0), &series)
    })?;

    say::result(format_args!("\n{subtitle}"));
    let rows: Vec<Vec<String>> = outcomes.iter().map(|outcome| outcome.summary(&degrees)).collect();
    table::print(&["network", "input", "parameters", "0°", "90°", "180°", "270°", "all angles", "turns"], &rows);
    say::result("turns: whether a quarter turn of the input leaves every bit of the logits as it was");
    say::result(format_args!(
        "wrote fig5.csv, fig5.svg and fig5.png to {} in {:.0} s",
        folder.display(),
        took.as_secs_f64()
    ));
    if matches!(digits, Digits::BuiltIn) {
        say::result("These are built-in digits. The paper's are MNIST: add --download (11 MB, once) or --data DIR.");
    }
    Ok(())
}

/// A network of the paper and its input size.
#[derive(Clone, Copy)]
struct Subject {
    group: Group,
    size: usize,
}

impl Subject {
    fn config(self) -> MnistCnnConfig {
        match self.group {
            Group::C1 => MnistCnnConfig::z2cnn(),
            Group::C4 => MnistCnnConfig::p4cnn(),
            Group::D4 => MnistCnnConfig::p4mcnn(),
        }
    }

    fn model(self) -> &'static str {
        match self.group {
            Group::C1 => "Z2CNN",
            Group::C4 => "P4CNN",
            Group::D4 => "P4MCNN",
        }
    }

    /// How long an image takes, relative to others: multiplications, by the planes that a layer reads and writes.
    fn cost(self) -> u64 {
        let planes = (self.config().width * self.group.order()) as u64;
        planes * planes
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {1}×{1}", self.model(), self.size)
    }
}

impl FromStr for Subject {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (group, size) = text.split_once(':').ok_or("expected group:size, such as p4:28")?;
        let size = size
            .parse()
            .ok()
            .filter(|size| (8..=128).contains(size))
            .ok_or("the size must be a whole number from 8 to 128")?;
        Ok(Subject { group: group.parse()?, size })
    }
}

impl Settings {
    /// Forward passes that training costs, three per image and epoch.
    fn training_passes(&self) -> u64 {
        3 * self.epochs * self.train
    }

    fn test_passes(&self) -> u64 {
        self.angles * self.test
    }
}

/// Normalised images `[N, 1, 1, 28, 28]` as the network of input size `size` gets them, rotated by `degrees`.
fn prepare(images: &Tensor, size: usize, degrees: f32) -> Tensor {
    let [n, channels] = [images.dims()[0], images.dims()[1]];
    let (height, width) = (images.dims()[3], images.dims()[4]);
    let mut x = images.reshape([n, channels, height, width]);
    if (height, width) != (size, size) {
        x = resize(&x, size, size);
    }
    if degrees != 0.0 {
        x = rotate(&x, &vec![degrees; n], mnist::papers_normalization().black()[0]);
    }
    circle_crop(&x).reshape([n, channels, 1, size, size])
}

fn train_network(
    subject: Subject,
    digits: &Digits,
    seed: u64,
    settings: &Settings,
    device: &Device,
    progress: &mut Progress,
) -> Result<MnistCnn> {
    let dataset = digits.train(settings.train as usize, seed)?;
    let mut network = MnistCnn::new(subject.config(), seed, device)?;
    let schedule = Schedule::Step { lr: 0.01, factor: 0.5, every: settings.halve_every as u32 };
    let training = Training { epochs: settings.epochs as u32, schedule, ..Training::mnist(seed) };
    let normalization = mnist::papers_normalization();
    let batches = |epoch| {
        let batches =
            dataset.batches(settings.batch as usize).shuffled(seed, epoch).normalized(&normalization).on(device);
        Ok(batches.map(|batch| batch.map(|batch| (prepare(&batch.images, subject.size, 0.0), batch.labels))))
    };
    progress.say(format!("{subject}, seed {seed}: epoch 1 of {}", settings.epochs));
    let mut seen = 0;
    train(&mut network, &training, batches, |at| {
        let share = 3 * settings.train * u64::from(at.step) / u64::from(at.steps);
        progress.advance(subject.cost() * (share - seen));
        seen = share;
        if let Some(loss) = at.loss {
            seen = 0;
            let next = (u64::from(at.epoch) + 2).min(settings.epochs);
            progress.say(format!("{subject}, seed {seed}: epoch {next} of {}, loss {loss:.3}", settings.epochs));
        }
    })?;
    Ok(network)
}

/// How many of the digits the network recognises at each angle.
fn test_network(
    network: &MnistCnn,
    subject: Subject,
    test: &Dataset,
    degrees: &[f64],
    device: &Device,
    progress: &mut Progress,
) -> Result<Vec<u64>> {
    let mut correct = vec![0; degrees.len()];
    for batch in test.batches(TEST_BATCH).normalized(&mnist::papers_normalization()).on(device) {
        let batch = batch?;
        for (correct, &degrees) in correct.iter_mut().zip(degrees) {
            *correct += evaluate(network, &prepare(&batch.images, subject.size, degrees as f32), &batch.labels)?;
            progress.advance(subject.cost() * batch.indices.len() as u64);
        }
    }
    Ok(correct)
}

/// Whether `f(T x) = f(x)` to the last bit, for every quarter turn of some test digits.
fn turns_leave_every_bit(network: &MnistCnn, subject: Subject, test: &Dataset, device: &Device) -> Result<bool> {
    let probes = test.first(PROBES.min(test.len()))?;
    let batch = probes.batches(PROBES).normalized(&mnist::papers_normalization()).on(device).next();
    let Some(batch) = batch.transpose()? else { return Err(Error::Invalid("there is no digit to test on".into())) };
    let images = prepare(&batch.images, subject.size, 0.0);
    let logits = |images: &Tensor| network.predict(images)?.to_vec();
    let upright = logits(&images)?;
    for turn in 1..4 {
        if logits(&transform_plane(&images, turn))?.iter().zip(&upright).any(|(a, b)| a.to_bits() != b.to_bits()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What was found of one network.
struct Outcome {
    subject: Subject,
    parameters: u64,
    /// In percent, by seed and angle.
    accuracies: Vec<Vec<f64>>,
    /// Whether quarter turns left every bit of the logits, for all seeds.
    exact: bool,
}

impl Outcome {
    fn new(subject: Subject) -> Self {
        Outcome { subject, parameters: 0, accuracies: Vec::new(), exact: true }
    }

    /// Mean and standard deviation over seeds, of what `pick` takes from the accuracies of a seed.
    fn statistics(&self, pick: impl Fn(&[f64]) -> f64) -> (f64, f64) {
        let values: Vec<f64> = self.accuracies.iter().map(|seed| pick(seed)).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        (mean, if values.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
    }

    fn series(&self, degrees: &[f64]) -> Series {
        // 360° is 0° again.
        let angles = degrees.iter().copied().chain([360.0]).zip((0..degrees.len()).chain([0]));
        let points = angles.map(|(angle, i)| {
            let (mean, std) = self.statistics(|seed| seed[i]);
            Point { angle, mean, std }
        });
        let label = format!("{}{}", self.subject, if self.exact { ", exact" } else { "" });
        Series { label, points: points.collect() }
    }

    fn summary(&self, degrees: &[f64]) -> Vec<String> {
        let percent = |(mean, std): (f64, f64)| {
            if self.accuracies.len() > 1 { format!("{mean:.2} ± {std:.2}") } else { format!("{mean:.2}") }
        };
        let at = |angle: f64| {
            let found = degrees.iter().position(|&d| d == angle);
            found.map_or("–".into(), |i| percent(self.statistics(|seed| seed[i])))
        };
        vec![
            self.subject.model().to_string(),
            format!("{0}×{0}", self.subject.size),
            self.parameters.to_string(),
            at(0.0),
            at(90.0),
            at(180.0),
            at(270.0),
            percent(self.statistics(|seed| seed.iter().sum::<f64>() / seed.len() as f64)),
            if self.exact { "exact" } else { "not exact" }.to_string(),
        ]
    }
}

fn counted(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
