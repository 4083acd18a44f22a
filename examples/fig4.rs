//! Figure 4: the equivariance error of a p4-ResNet while it trains, after the stem and after every stage, and its accuracy.
//! At an inexact size every strided stage adds to the error, and training may use it; at an exact size it is 0 throughout.
//!
//! The error is Eq. 14 of Edixhoven et al. 2023 on batch norm in evaluation mode (unlike the paper's published figure for
//! PatchCamelyon, which took the mean absolute difference, here `error_l1`, on statistics of the batch).

use clap::{Parser, ValueEnum};
use plotters::prelude::*;
use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Error, Result},
    data::Loader,
    kernels::Group,
    models::{
        EquivarianceError, Init, Network, ResNet, ResNetConfig, checkpoint,
        training::{Trainer, Training, evaluate},
    },
};
use quarterturn_examples::{
    args,
    csv::Csv,
    device,
    figure::{self, Area, Drawn, at, bold, centred, font, from_left, stroke, write},
    files,
    image_setting::title,
    images::{ImageArgs, Images},
    palette, preparation,
    runner::{Context, Experiment, Finished, Grid, RUN, Report, Run, RunnerArgs, Settings},
    say, table,
};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::ControlFlow, path::Path, process::ExitCode, time::Instant};

/// Figure 4: the equivariance error of a ResNet at every depth while it trains
#[derive(Parser)]
#[command(
    after_help = "Without --data, built-in textures stand in for photographs. The same command goes on where the \
                        last one was stopped."
)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    images: ImageArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// The network
    #[arg(long, value_enum, default_value_t = Arch::Resnet44)]
    arch: Arch,
    /// Its group: p4 or p4m
    #[arg(long, default_value = "p4")]
    group: Group,
    /// Input sizes, separated by commas: one run and one panel each
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [32, 33])]
    input: Vec<usize>,
    /// Channels of the first stage; each stage doubles them
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    width: u32,
    /// Blocks of each stage [default: 2; the paper's ResNet-44 has 7]
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    blocks: u32,
    /// Passes over the training images
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,
    /// Images per training step
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=4096))]
    batch: u32,
    /// The highest learning rate of the one-cycle schedule
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    lr: f64,
    /// Test images on which the error is measured, rounded up to whole batches
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    measured: u32,
    /// Decides starting weights, order of images, augmentation, and which images are drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    runner: RunnerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arch {
    /// Three stages behind a 3×3 stem; with 7 blocks each it is ResNet-44
    Resnet44,
    /// Four stages behind a 7×7 stem and max pooling; with 2 blocks each it is ResNet-18
    Resnet18,
    /// Four stages behind a 3×3 stem, as in the paper's published code
    Resnet18SmallStem,
}

/// The state with what was measured.
const ROWS: &str = "rows";

/// What is measured at one depth after one epoch.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    epoch: u32,
    depth: String,
    eq14: f64,
    l1: f64,
    /// Share of the test images, upright, that are recognised.
    accuracy: f64,
}

#[derive(Clone, Copy)]
struct Input(usize);

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {0}×{0}", self.0)
    }
}

fn main() -> ExitCode {
    args::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    if args.group == Group::C1 {
        return Err(Error::Invalid("--group: z2 promises no symmetry to measure; take p4 or p4m".into()));
    }
    if !(args.lr.is_finite() && args.lr > 0.0) {
        return Err(Error::Invalid(format!("--lr: expected a positive number, found {}", args.lr)));
    }
    let device = device::open(args.device.device)?;
    let folder = args.out.folder("fig4")?;
    let images = Images::open(&args.images, args.input[0], args.seed)?;
    let bench = Bench { args, device: &device, classes: images.train.classes() };
    let grid = Grid {
        name: "fig4",
        folder: &folder,
        settings: args.in_common(&images)?,
        device: &device,
        runs: args.input.iter().map(|&size| Run { key: key(size), spec: Input(size) }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(&bench, |results| {
        let header = "input,epoch,depth,error_eq14,error_l1,accuracy,device,commit";
        let mut csv = Csv::new(folder.join("fig4.csv"), header);
        for (size, result) in args.input.iter().zip(results) {
            let Some(Finished { found, origin }) = result else { continue };
            for Row { epoch, depth, eq14, l1, accuracy } in found {
                csv.row(&[size, epoch, depth, eq14, l1, accuracy, &origin.device(), &origin.commit()]);
            }
        }
        csv.save()
    })?;
    Ok(report.finish(|| write_figure(args, &images.name, &report, &folder)))
}

fn write_figure(args: &Args, name: &str, report: &Report<Vec<Row>>, folder: &Path) -> Result<()> {
    let panels: Vec<(usize, &[Row])> = args
        .input
        .iter()
        .zip(&report.results)
        .filter_map(|(&size, result)| Some((size, result.as_ref()?.found.as_slice())))
        .collect();
    let subtitle = format!(
        "{}{}, {} channels, doubling each stage  ·  {name}  ·  seed {}  ·  {}",
        title(&args.config(1)),
        if args.arch == Arch::Resnet18SmallStem { " with small stem" } else { "" },
        args.width,
        args.seed,
        report.devices()
    );
    draw(&folder.join("fig4"), &subtitle, &panels)?;
    say::result(format_args!("\n{subtitle}"));
    let mut lines = Vec::new();
    for (size, rows) in &panels {
        let last = rows.last().map_or(0, |row| row.epoch);
        for row in rows.iter().filter(|row| row.epoch == last) {
            let accuracy = format!("{:.1} %", 100.0 * row.accuracy);
            lines.push(vec![size.to_string(), row.depth.clone(), number(row.eq14), number(row.l1), accuracy]);
        }
    }
    table::print(&["input", "depth", "error (Eq. 14)", "error (L1)", "accuracy"], &lines);
    say::result(format_args!("wrote fig4.csv, fig4.svg and fig4.png to {}", folder.display()));
    if args.images.data.is_none() {
        say::result("These are built-in textures. For photographs add --data DIR --format FORMAT.");
    }
    Ok(())
}

/// A run's name in files.
fn key(size: usize) -> String {
    format!("input-{size}")
}

fn number(error: f64) -> String {
    if error == 0.0 { "0 (exactly)".into() } else { format!("{error:.2e}") }
}

impl Args {
    fn in_common(&self, images: &Images) -> Result<Settings> {
        let all = |n: Option<u64>| n.map_or("default".into(), |n| n.to_string());
        Ok(Settings::default()
            .with("arch", format!("{:?}", self.arch))
            .with("group", self.group)
            .with("width", self.width)
            .with("blocks", self.blocks)
            .with("epochs", self.epochs)
            .with("batch", self.batch)
            .with("lr", self.lr)
            .with("measured", self.measured)
            .with("seed", self.seed)
            .with("data", &images.name)
            .with("data fingerprint", images.fingerprint()?)
            .with("format", format!("{:?}", self.images.format))
            .with("train", all(self.images.train))
            .with("test", all(self.images.test))
            .with("version", env!("CARGO_PKG_VERSION")))
    }

    fn config(&self, classes: usize) -> ResNetConfig {
        let base = match self.arch {
            Arch::Resnet44 => ResNetConfig::resnet44(self.group),
            Arch::Resnet18 => ResNetConfig::resnet18(self.group),
            Arch::Resnet18SmallStem => ResNetConfig::resnet18_small_stem(self.group),
        };
        let stages = base.widths.len();
        let widths = (0..stages).map(|stage| (self.width as usize) << stage).collect();
        ResNetConfig { widths, blocks: vec![self.blocks as usize; stages], classes, ..base }
    }

    fn network(&self, classes: usize, device: &Device) -> Result<ResNet> {
        ResNet::new(self.config(classes), Init::new(self.seed), device)
    }

    fn training(&self) -> Training {
        let schedule = Schedule::OneCycle { max_lr: self.lr };
        Training::new(self.epochs, Optimizer::adam(1e-5).rule(), schedule, self.seed)
    }
}

/// What all runs share.
struct Bench<'a> {
    args: &'a Args,
    device: &'a Device,
    classes: usize,
}

impl Bench<'_> {
    /// Refuses rows that are not those of the first `epochs` epochs, from before the first on, or no errors and shares.
    fn check_rows(&self, rows: &[Row], epochs: u32) -> std::result::Result<(), String> {
        let stages = self.args.config(self.classes).widths.len();
        let stages = (1..=stages).map(|stage| format!("stage{stage}"));
        let depths: Vec<String> = ["stem".into()].into_iter().chain(stages).chain(["linear".into()]).collect();
        if rows.len() != depths.len() * (epochs as usize + 1) {
            return Err(format!("{} rows, not {} depths after each of {epochs} epochs", rows.len(), depths.len()));
        }
        for (i, row) in rows.iter().enumerate() {
            let (epoch, depth) = (i / depths.len(), &depths[i % depths.len()]);
            if (row.epoch as usize, &row.depth) != (epoch, depth) {
                return Err(format!(
                    "row {i} is of {} after epoch {}, not {depth} after {epoch}",
                    row.depth, row.epoch
                ));
            }
            let is_error = |error: f64| error.is_finite() && error >= 0.0;
            if !is_error(row.eq14) || !is_error(row.l1) || !(0.0..=1.0).contains(&row.accuracy) {
                return Err(format!("{depth} after epoch {epoch}: errors and accuracy are no such numbers"));
            }
        }
        Ok(())
    }

    /// The error after the stem, after every stage and of the logits, and the accuracy.
    fn measure(&self, network: &ResNet, test: &Loader, epoch: u32) -> Result<Vec<Row>> {
        let mut error = EquivarianceError::at(|name| {
            name == "stem" || name.starts_with("stage") && !name.contains('.') || name == "linear"
        });
        let (mut correct, mut count, mut measured) = (0, 0, 0);
        for batch in test.epoch(0) {
            let batch = batch?;
            correct += evaluate(network, &batch.images, &batch.labels)?;
            count += batch.indices.len();
            if measured < self.args.measured as usize {
                error.add(network, &batch.images)?;
                measured += batch.indices.len();
            }
        }
        let accuracy = correct as f64 / count as f64;
        let row = |d: quarterturn::models::DepthError| Row { epoch, depth: d.name, eq14: d.eq14, l1: d.l1, accuracy };
        Ok(error.depths().into_iter().map(row).collect())
    }
}

impl Experiment for Bench<'_> {
    type Spec = Input;
    type Found = Vec<Row>;
    const STATES: &'static [&'static str] = &[ROWS];

    /// By one step.
    fn estimate(&self, &Input(size): &Input) -> Result<f64> {
        let &Bench { args, device, classes } = self;
        let images = Images::open(&args.images, size, args.seed)?;
        let mut network = args.network(classes, device)?;
        let loader = Loader::new(images.train.clone(), images.recipe(size).train, args.batch as usize).on(device);
        let mut trainer = Trainer::new(&mut network, Training { epochs: 1, ..args.training() });
        let mut begun = Instant::now();
        let mut seconds = 0.0;
        let _ = trainer.run(
            |epoch, _| Ok(loader.epoch(epoch).map(|batch| batch.map(|batch| (batch.images, batch.labels)))),
            |_, at| {
                seconds = begun.elapsed().as_secs_f64();
                begun = Instant::now();
                // The first step pays for memory.
                Ok(if at.step < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            },
        )?;
        Ok(seconds * f64::from(args.epochs) * loader.len() as f64)
    }

    /// Trains at one size and measures before the first and after every epoch.
    fn run(&self, &Input(size): &Input, context: &mut Context) -> Result<Option<Vec<Row>>> {
        let &Bench { args, device, classes } = self;
        let images = Images::open(&args.images, size, args.seed)?;
        let recipe = images.recipe(size);
        let prepared = recipe.test.preparation()?;
        let loader = Loader::new(images.train.clone(), recipe.train, args.batch as usize);
        let loader = loader.seed(args.seed).shuffled().full_only().on(device);
        if loader.is_empty() {
            return Err(Error::Invalid(format!("{}: fewer images than one batch of {}", images.name, args.batch)));
        }
        let test = Loader::new(images.test.clone(), recipe.test, args.batch as usize).on(device);
        let state = context.training_file();
        let mut network = args.network(classes, device)?;
        let (mut rows, mut trainer);
        if files::exists(&state)? {
            trainer = Trainer::resume(&mut network, args.training(), &state)
                .map_err(|e| Error::Invalid(format!("{e}; without {} the run begins anew", state.display())))?;
            let lost =
                || Error::Invalid(format!("{}: what was measured before is missing; remove it", state.display()));
            rows = context.kept::<Vec<Row>>(ROWS)?.ok_or_else(lost)?;
            // Rows are kept before the state that belongs to them.
            rows.retain(|row| row.epoch <= trainer.epoch());
            self.check_rows(&rows, trainer.epoch()).map_err(|message| context.unfit(ROWS, message))?;
        } else {
            rows = self.measure(&network, &test, 0)?;
            trainer = Trainer::new(&mut network, args.training());
        }
        let mut clock = Instant::now();
        let outcome = trainer.run(
            |epoch, from| {
                let batches = loader.epoch(epoch).starting_at(from as usize);
                Ok(batches.map(|batch| batch.map(|batch| (batch.images, batch.labels))))
            },
            |trainer, at| {
                context.say(format!("epoch {} of {}, step {} of {}", at.epoch + 1, args.epochs, at.step, at.steps));
                context.advance(clock.elapsed().as_secs_f64());
                clock = Instant::now();
                if at.loss.is_some() {
                    rows.extend(self.measure(trainer.network(), &test, at.epoch + 1)?);
                }
                if at.loss.is_some() || context.due() {
                    context.save(|context| {
                        context.keep(ROWS, &rows)?;
                        trainer.save(&state)
                    })?;
                }
                Ok(if context.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            },
        )?;
        if outcome.is_break() {
            return Ok(None);
        }
        let mut notes = preparation::notes(&prepared, size, &images.name);
        notes.insert(RUN.into(), key(size));
        checkpoint::save_with(context.network_file(), &mut network, &notes)?;
        Ok(Some(rows))
    }

    fn check(&self, _: &Input, rows: &Vec<Row>) -> std::result::Result<(), String> {
        self.check_rows(rows, self.args.epochs)
    }

    fn network(&self, _: &Input) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.args.network(self.classes, &Device::Cpu)?))
    }
}

/// Points of a panel, and the colours of the depths, from the stem on.
const PANEL: (f64, f64) = (430.0, 300.0);
const COLORS: [RGBColor; 6] =
    [palette::INK, palette::BLUE, palette::GREEN, palette::VERMILLION, palette::PURPLE, palette::FAINT_INK];

fn draw(stem: &Path, subtitle: &str, panels: &[(usize, &[Row])]) -> Result<()> {
    let errors = || panels.iter().flat_map(|(_, rows)| rows.iter()).map(|row| row.eq14).filter(|&e| e > 0.0);
    let low = errors().fold(1e-3, f64::min).log10().floor();
    let high = errors().fold(1e-2, f64::max).log10().ceil();
    let (width, height) = (PANEL.0 * panels.len() as f64 + 20.0, PANEL.1 + 110.0);
    figure::save(stem, (width, height), |area| {
        figure::heading(area, "Equivariance error while training, by depth", subtitle)?;
        for (place, (size, rows)) in panels.iter().enumerate() {
            panel(area, (10.0 + PANEL.0 * place as f64, 56.0), *size, rows, (low, high))?;
        }
        Ok(())
    })
}

/// Errors on a logarithmic axis with a line of its own for exact zeros, and the accuracy in grey, 0 to 100 % of the height.
fn panel(area: &Area, (x0, y0): (f64, f64), size: usize, rows: &[Row], (low, high): (f64, f64)) -> Drawn {
    let (left, right, top, zero) = (x0 + 56.0, x0 + PANEL.0 - 40.0, y0 + 44.0, y0 + PANEL.1);
    let floor = zero - 24.0;
    let last = rows.iter().map(|row| row.epoch).max().unwrap_or(0).max(1);
    let x = |epoch: u32| left + (right - left) * f64::from(epoch) / f64::from(last);
    let y = |error: f64| if error == 0.0 { zero } else { floor - (floor - top) * (error.log10() - low) / (high - low) };
    write(area, &format!("Input {size}×{size}"), (left, y0 + 8.0), from_left(bold(10.5)))?;
    let grid = |at_y: f64| area.draw(&PathElement::new([at(left, at_y), at(right, at_y)], stroke(palette::GRID, 0.6)));
    for power in low as i32..=high as i32 {
        let at_y = y(10f64.powi(power));
        grid(at_y)?;
        write(area, &format!("1e{power}"), (left - 34.0, at_y), from_left(font(8.5)))?;
    }
    grid(zero)?;
    write(area, "exactly 0", (left - 50.0, zero), from_left(font(8.5)))?;
    for percent in [0, 50, 100] {
        let at_y = floor - (floor - top) * f64::from(percent) / 100.0;
        write(area, &format!("{percent} %"), (right + 5.0, at_y), from_left(font(8.5)).color(&palette::FAINT_INK))?;
    }
    for epoch in (0..=last).step_by(last.div_ceil(8) as usize) {
        write(area, &epoch.to_string(), (x(epoch), zero + 12.0), centred(font(8.5)))?;
    }
    write(area, "epoch", ((left + right) / 2.0, zero + 26.0), centred(font(9.0)))?;
    let mut depths: Vec<&str> = Vec::new();
    rows.iter().filter(|row| row.epoch == 0).for_each(|row| depths.push(&row.depth));
    let accuracy = rows.iter().filter(|row| depths.first() == Some(&row.depth.as_str()));
    let accuracy: Vec<_> = accuracy.map(|row| at(x(row.epoch), floor - (floor - top) * row.accuracy)).collect();
    area.draw(&PathElement::new(accuracy, stroke(palette::GRID, 3.0)))?;
    let mut at_x = left;
    for (depth, color) in depths.iter().zip(COLORS.iter().cycle()) {
        let points: Vec<_> =
            rows.iter().filter(|row| row.depth == *depth).map(|row| at(x(row.epoch), y(row.eq14))).collect();
        for &point in &points {
            area.draw(&Circle::new(point, figure::pt(2.2), color.filled()))?;
        }
        area.draw(&PathElement::new(points, stroke(*color, 1.4)))?;
        write(area, depth, (at_x, y0 + 26.0), from_left(font(9.0)).color(color))?;
        at_x += 12.0 + 6.0 * depth.len() as f64;
    }
    // Beside the title: the depths of four stages fill their line.
    write(area, "accuracy (grey band)", (right - 90.0, y0 + 8.0), from_left(font(9.0)).color(&palette::FAINT_INK))
}
