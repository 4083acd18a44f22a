//! Figure 4: the equivariance error of a p4-ResNet while it trains, after the stem and after every stage, and its accuracy.
//! At an inexact size every strided stage adds to the error, and training may use it; at an exact size it is 0 throughout.
//!
//! The error is Eq. 14 of Edixhoven et al. 2023 on batch norm in evaluation mode (unlike the paper's published figure for
//! PatchCamelyon, which took the mean absolute difference, here `error_l1`, on statistics of the batch).

mod support;

use clap::{Parser, ValueEnum};
use plotters::prelude::*;
use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Error, Result},
    data::Loader,
    kernels::Group,
    models::{
        EquivarianceError, Init, ResNet, ResNetConfig,
        training::{Trainer, Training, evaluate},
    },
};
use serde::{Deserialize, Serialize};
use std::{fmt, ops::ControlFlow, process::ExitCode, time::Instant};
use support::{
    args,
    csv::Csv,
    device,
    figure::{self, Area, Drawn, at, bold, centred, font, from_left, stroke, write},
    image_setting::title,
    images::{ImageArgs, Images},
    palette,
    runner::{Context, Grid, Run, RunnerArgs, Settings},
    say, table,
};

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
    if let Some(twice) = (1..args.input.len()).find(|&i| args.input[..i].contains(&args.input[i])) {
        return Err(Error::Invalid(format!("--input: {} is named twice", args.input[twice])));
    }
    let device = device::open(args.device.device)?;
    let folder = args.out.folder("fig4")?;
    let name = Images::open(&args.images, args.input[0], args.seed)?.name;
    let grid = Grid {
        folder: &folder,
        settings: args.in_common(&name, &device),
        runs: args.input.iter().map(|&size| Run { key: format!("input-{size}"), spec: Input(size) }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(
        |&Input(size)| args.estimate(size, &device),
        |&Input(size), context| args.train(size, &device, context),
        |results: &[Option<Vec<Row>>]| {
            let mut csv = Csv::new(folder.join("fig4.csv"), "input,epoch,depth,error_eq14,error_l1,accuracy");
            for (size, rows) in args.input.iter().zip(results) {
                for row in rows.iter().flatten() {
                    csv.row(&[size, &row.epoch, &row.depth, &row.eq14, &row.l1, &row.accuracy]);
                }
            }
            csv.save()
        },
    )?;
    if report.draws() {
        let panels: Vec<(usize, &[Row])> =
            args.input.iter().zip(&report.results).filter_map(|(&size, rows)| Some((size, rows.as_deref()?))).collect();
        let subtitle = format!(
            "{}{}, {} channels, doubling each stage  ·  {name}  ·  seed {}  ·  {device}",
            title(&args.config(1)),
            if args.arch == Arch::Resnet18SmallStem { " with small stem" } else { "" },
            args.width,
            args.seed
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
    }
    Ok(report.finish())
}

fn number(error: f64) -> String {
    if error == 0.0 { "0 (exactly)".into() } else { format!("{error:.2e}") }
}

impl Args {
    fn in_common(&self, name: &str, device: &Device) -> Settings {
        let all = |n: Option<u64>| n.map_or("default".into(), |n| n.to_string());
        Settings::default()
            .with("arch", format!("{:?}", self.arch))
            .with("group", self.group)
            .with("width", self.width)
            .with("blocks", self.blocks)
            .with("epochs", self.epochs)
            .with("batch", self.batch)
            .with("lr", self.lr)
            .with("measured", self.measured)
            .with("seed", self.seed)
            .with("data", name)
            .with("format", format!("{:?}", self.images.format))
            .with("train", all(self.images.train))
            .with("test", all(self.images.test))
            .with("device", device)
            .with("version", env!("CARGO_PKG_VERSION"))
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
        Training { epochs: self.epochs, rule: Optimizer::adam(1e-5).rule(), schedule, seed: self.seed }
    }

    /// Seconds that a run takes, by one step.
    fn estimate(&self, size: usize, device: &Device) -> Result<f64> {
        let images = Images::open(&self.images, size, self.seed)?;
        let mut network = self.network(images.train.classes(), device)?;
        let loader = Loader::new(images.train.clone(), images.recipe(size).train, self.batch as usize).on(device);
        let mut trainer = Trainer::new(&mut network, Training { epochs: 1, ..self.training() });
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
        Ok(seconds * f64::from(self.epochs) * loader.len() as f64)
    }

    /// Trains at one size and measures before the first and after every epoch; `None` if it is to stop.
    fn train(&self, size: usize, device: &Device, context: &mut Context) -> Result<Option<Vec<Row>>> {
        let images = Images::open(&self.images, size, self.seed)?;
        let recipe = images.recipe(size);
        let loader = Loader::new(images.train.clone(), recipe.train, self.batch as usize);
        let loader = loader.seed(self.seed).shuffled().full_only().on(device);
        if loader.is_empty() {
            return Err(Error::Invalid(format!("{}: fewer images than one batch of {}", images.name, self.batch)));
        }
        let test = Loader::new(images.test.clone(), recipe.test, self.batch as usize).on(device);
        let state = context.training_file();
        let mut network = self.network(images.train.classes(), device)?;
        let resumed = state.exists();
        let mut rows: Vec<Row> = if resumed {
            let lost =
                || Error::Invalid(format!("{}: what was measured before is missing; remove it", state.display()));
            context.kept("rows")?.ok_or_else(lost)?
        } else {
            self.measure(&network, &test, 0)?
        };
        if !resumed {
            context.keep("rows", &rows)?;
        }
        let mut trainer = match resumed {
            true => Trainer::resume(&mut network, self.training(), &state)
                .map_err(|e| Error::Invalid(format!("{e}; without {} the run begins anew", state.display())))?,
            false => Trainer::new(&mut network, self.training()),
        };
        let mut clock = Instant::now();
        // Rows are kept before the state that belongs to them.
        rows.retain(|row| row.epoch <= trainer.epoch());
        let outcome = trainer.run(
            |epoch, from| {
                let batches = loader.epoch(epoch).starting_at(from as usize);
                Ok(batches.map(|batch| batch.map(|batch| (batch.images, batch.labels))))
            },
            |trainer, at| {
                context.say(format!("epoch {} of {}, step {} of {}", at.epoch + 1, self.epochs, at.step, at.steps));
                context.advance(clock.elapsed().as_secs_f64());
                clock = Instant::now();
                if at.loss.is_some() {
                    rows.extend(self.measure(trainer.network(), &test, at.epoch + 1)?);
                    context.keep("rows", &rows)?;
                    context.save(|| trainer.save(&state))?;
                } else if context.due() {
                    context.save(|| trainer.save(&state))?;
                }
                Ok(if context.stopping() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            },
        )?;
        if outcome.is_break() {
            return Ok(None);
        }
        quarterturn::models::checkpoint::save(context.network_file(), &mut network)?;
        Ok(Some(rows))
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
            if measured < self.measured as usize {
                error.add(network, &batch.images)?;
                measured += batch.indices.len();
            }
        }
        let accuracy = correct as f64 / count as f64;
        let row = |d: quarterturn::models::DepthError| Row { epoch, depth: d.name, eq14: d.eq14, l1: d.l1, accuracy };
        Ok(error.depths().into_iter().map(row).collect())
    }
}

/// Points of a panel, and the colours of the depths, from the stem on.
const PANEL: (f64, f64) = (430.0, 300.0);
const COLORS: [RGBColor; 6] =
    [palette::INK, palette::BLUE, palette::GREEN, palette::VERMILLION, palette::PURPLE, palette::FAINT_INK];

fn draw(stem: &std::path::Path, subtitle: &str, panels: &[(usize, &[Row])]) -> Result<()> {
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
