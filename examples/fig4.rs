//! Figure 4: the equivariance error of a p4-ResNet while it trains, after the stem and after every stage, and its accuracy.
//! At an inexact size every strided stage adds to the error, and training may use it; at an exact size it is 0 throughout.
//!
//! Networks and training are those of Table 2 (`image_setting`). The error is Eq. 14 of Edixhoven et al. 2023 on batch norm in
//! evaluation mode, and beside it the same as a part of the map's own size. (The paper's published figure for PatchCamelyon took
//! the mean absolute difference on statistics of the batch, and added up the turns: `error_l1_summed` is that sum.) So that the
//! point before the first epoch has statistics to normalise by, they are taken from some training batches, without a step.

use clap::Parser;
use plotters::prelude::*;
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Error, Result},
    data::Loader,
    kernels::Group,
    models::{
        DepthError, EquivarianceError, Mode, Network, ResNet, ResNetConfig, checkpoint,
        training::{Trainer, Training, evaluate, train_step},
    },
};
use quarterturn_examples::{
    args,
    csv::Csv,
    device,
    figure::{self, Area, Drawn, at, bold, centred, font, from_left, stroke, write},
    files,
    image_setting::{Plan, Setting, SettingArgs, title},
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
    #[command(flatten)]
    setting: SettingArgs,
    /// The network's group: p4 or p4m
    #[arg(long, default_value = "p4")]
    group: Group,
    /// Input sizes, separated by commas: one run and one panel each [default: the inexact and the exact one of Table 2]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    input: Vec<usize>,
    /// Test images on which the error is measured, rounded up to whole batches
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    measured: u32,
    /// Decides starting weights, order of images, augmentation, and which images are drawn
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    runner: RunnerArgs,
}

/// Batches that the running statistics before the first epoch are taken from: what they begin with counts 1 % then, 0.9⁴⁴.
const STATISTICS: usize = 44;

/// The state with what was measured.
const ROWS: &str = "rows";

/// What is measured at one depth after one epoch.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    epoch: u32,
    depth: String,
    eq14: f64,
    /// As a part of the root of the map's mean square.
    relative: f64,
    l1: f64,
    rms: f64,
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
    let setting = Setting::of(args.images.format);
    let sizes = if args.input.is_empty() { setting.sizes().to_vec() } else { args.input.clone() };
    let device = device::open(args.device.device)?;
    let folder = args.out.folder("fig4")?;
    let images = Images::open(&args.images, sizes[0], args.seed)?;
    let plan = args.setting.plan(setting);
    let bench = Bench { args, setting, plan, device: &device, classes: images.train.classes() };
    let grid = Grid {
        name: "fig4",
        folder: &folder,
        settings: bench.in_common(&images)?,
        device: &device,
        runs: sizes.iter().map(|&size| Run { key: key(size), spec: Input(size) }).collect(),
        args: &args.runner,
    };
    let report = grid.execute(&bench, |results| {
        let header = "input,epoch,depth,error_eq14,error_l1,error_l1_summed,error_relative,rms,accuracy,data,protocol,\
                      device,commit";
        let mut csv = Csv::new(folder.join("fig4.csv"), header);
        let turns = args.group.order() as f64 - 1.0;
        for (size, result) in sizes.iter().zip(results) {
            let Some(Finished { found, origin }) = result else { continue };
            for Row { epoch, depth, eq14, relative, l1, rms, accuracy } in found {
                csv.row(&[
                    size,
                    epoch,
                    depth,
                    eq14,
                    l1,
                    &(turns * l1),
                    relative,
                    rms,
                    accuracy,
                    &images.name,
                    &args.setting.protocol,
                    &origin.device(),
                    &origin.commit(),
                ]);
            }
        }
        csv.save()
    })?;
    Ok(report.finish(|| write_figure(&bench, &sizes, &images.name, &report, &folder)))
}

fn write_figure(bench: &Bench, sizes: &[usize], name: &str, report: &Report<Vec<Row>>, folder: &Path) -> Result<()> {
    let args = bench.args;
    let panels: Vec<(usize, &[Row])> = sizes
        .iter()
        .zip(&report.results)
        .filter_map(|(&size, result)| Some((size, result.as_ref()?.found.as_slice())))
        .collect();
    let subtitle = format!(
        "{}, channels {:?}, {} protocol  ·  {name}  ·  seed {}  ·  {}",
        title(&bench.config()),
        bench.config().widths,
        args.setting.protocol,
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
            let relative = format!("{:.1} %", 100.0 * row.relative);
            lines.push(vec![size.to_string(), row.depth.clone(), number(row.eq14), relative, number(row.l1), accuracy]);
        }
    }
    table::print(&["input", "depth", "error (Eq. 14)", "relative", "error (L1)", "accuracy"], &lines);
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

/// What all runs share.
struct Bench<'a> {
    args: &'a Args,
    setting: Setting,
    plan: Plan,
    device: &'a Device,
    classes: usize,
}

impl Bench<'_> {
    fn in_common(&self, images: &Images) -> Result<Settings> {
        let all = |n: Option<u64>| n.map_or("default".into(), |n| n.to_string());
        let (args, config) = (self.args, self.config());
        Ok(Settings::default()
            .with("network", title(&config))
            .with("protocol", args.setting.protocol)
            .with("widths", format!("{:?}", config.widths))
            .with("blocks", format!("{:?}", config.blocks))
            .with("epochs", self.plan.epochs)
            .with("batch", self.plan.batch)
            .with("optimizer", format!("{:?}", self.plan.rule))
            .with("schedule", format!("{:?}", self.plan.schedule))
            .with("measured", args.measured)
            .with("seed", args.seed)
            .with("data", &images.name)
            .with("data fingerprint", images.fingerprint()?)
            .with("prepared", images.prepared(self.setting.sizes()[0])?)
            .with("format", format!("{:?}", args.images.format))
            .with("train", all(args.images.train))
            .with("test", all(args.images.test))
            .with("version", env!("CARGO_PKG_VERSION")))
    }

    fn config(&self) -> ResNetConfig {
        self.args.setting.network(self.setting, self.args.group, self.classes)
    }

    fn create(&self, device: &Device) -> Result<ResNet> {
        ResNet::new(self.config(), self.args.setting.protocol.init(self.args.seed), device)
    }

    fn training(&self) -> Training {
        let Plan { epochs, rule, ref schedule, .. } = self.plan;
        Training::new(epochs, rule, schedule.clone(), self.args.seed)
    }

    /// Gives batch norm running statistics, of the first batches; weights stay as they are.
    fn take_statistics(&self, network: &mut ResNet, loader: &Loader) -> Result<()> {
        let mut standing = Optimizer::sgd(0.0, 0.0);
        let epochs = STATISTICS.div_ceil(loader.len()) as u32;
        for (step, batch) in (0..epochs).flat_map(|epoch| loader.epoch(epoch)).take(STATISTICS).enumerate() {
            let (batch, mode) = (batch?, Mode::Train { seed: self.args.seed, step: step as u32 });
            train_step(network, &mut standing, 0.0, mode, &batch.images, &batch.labels)?;
        }
        Ok(())
    }

    /// Refuses rows that are not those of the first `epochs` epochs, from before the first on, or no errors and shares.
    fn check_rows(&self, rows: &[Row], epochs: u32) -> std::result::Result<(), String> {
        let stages = self.config().widths.len();
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
            if ![row.eq14, row.relative, row.l1, row.rms].into_iter().all(is_error)
                || !(0.0..=1.0).contains(&row.accuracy)
            {
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
        let row = |depth: DepthError| {
            let DepthError { name, eq14, relative, l1, rms, .. } = depth;
            Row { epoch, depth: name, eq14, relative, l1, rms, accuracy }
        };
        Ok(error.depths().into_iter().map(row).collect())
    }
}

impl Experiment for Bench<'_> {
    type Spec = Input;
    type Found = Vec<Row>;
    const STATES: &'static [&'static str] = &[ROWS];

    /// By one step.
    fn estimate(&self, &Input(size): &Input) -> Result<f64> {
        let &Bench { args, device, .. } = self;
        let images = Images::open(&args.images, size, args.seed)?;
        let mut network = self.create(device)?;
        let loader = Loader::new(images.train.clone(), images.recipe(size).train, self.plan.batch as usize).on(device);
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
        let steps = loader.len() * self.plan.epochs as usize + STATISTICS;
        Ok(seconds * steps as f64)
    }

    /// Trains at one size and measures before the first and after every epoch.
    fn run(&self, &Input(size): &Input, context: &mut Context) -> Result<Option<Vec<Row>>> {
        let &Bench { args, device, .. } = self;
        let images = Images::open(&args.images, size, args.seed)?;
        let recipe = images.recipe(size);
        let prepared = recipe.test.preparation()?;
        let loader = Loader::new(images.train.clone(), recipe.train, self.plan.batch as usize);
        let loader = loader.seed(args.seed).shuffled().full_only().on(device);
        if loader.is_empty() {
            return Err(Error::Invalid(format!("{}: fewer images than one batch of {}", images.name, self.plan.batch)));
        }
        let test = Loader::new(images.test.clone(), recipe.test, self.plan.batch as usize).on(device);
        let state = context.training_file();
        let mut network = self.create(device)?;
        let (mut rows, mut trainer);
        if files::exists(&state)? {
            trainer = Trainer::resume(&mut network, self.training(), &state)
                .map_err(|e| Error::Invalid(format!("{e}; without {} the run begins anew", state.display())))?;
            let lost =
                || Error::Invalid(format!("{}: what was measured before is missing; remove it", state.display()));
            rows = context.kept::<Vec<Row>>(ROWS)?.ok_or_else(lost)?;
            // Rows are kept before the state that belongs to them.
            rows.retain(|row| row.epoch <= trainer.epoch());
            self.check_rows(&rows, trainer.epoch()).map_err(|message| context.unfit(ROWS, message))?;
        } else {
            self.take_statistics(&mut network, &loader)?;
            rows = self.measure(&network, &test, 0)?;
            trainer = Trainer::new(&mut network, self.training());
        }
        let mut clock = Instant::now();
        let outcome = trainer.run(
            |epoch, from| {
                let batches = loader.epoch(epoch).starting_at(from as usize);
                Ok(batches.map(|batch| batch.map(|batch| (batch.images, batch.labels))))
            },
            |trainer, at| {
                context.say(format!(
                    "epoch {} of {}, step {} of {}",
                    at.epoch + 1,
                    self.plan.epochs,
                    at.step,
                    at.steps
                ));
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
        checkpoint::save_with(context.network_file(), &network, &notes)?;
        Ok(Some(rows))
    }

    fn check(&self, _: &Input, rows: &Vec<Row>) -> std::result::Result<(), String> {
        self.check_rows(rows, self.plan.epochs)
    }

    fn network(&self, _: &Input) -> Result<Box<dyn Network>> {
        Ok(Box::new(self.create(&Device::Cpu)?))
    }
}

/// Points of a panel, and the colours of the depths, from the stem on.
const PANEL: (f64, f64) = (430.0, 300.0);
/// Points from one row of panels to the next.
const ROW: f64 = PANEL.1 + 52.0;
const COLORS: [RGBColor; 6] =
    [palette::INK, palette::BLUE, palette::GREEN, palette::VERMILLION, palette::PURPLE, palette::FAINT_INK];

/// A number of a row of the CSV.
type Measure = fn(&Row) -> f64;
/// What a row of panels shows.
const MEASURES: [(&str, Measure); 2] = [("Eq. 14", |row| row.eq14), ("relative to the map", |row| row.relative)];

fn draw(stem: &Path, subtitle: &str, panels: &[(usize, &[Row])]) -> Result<()> {
    let (width, height) = (PANEL.0 * panels.len() as f64 + 20.0, 56.0 + ROW * MEASURES.len() as f64);
    figure::save(stem, (width, height), |area| {
        figure::heading(area, "Equivariance error while training, by depth", subtitle)?;
        for (line, (name, measure)) in MEASURES.iter().enumerate() {
            let errors = || panels.iter().flat_map(|(_, rows)| rows.iter()).map(measure).filter(|&e| e > 0.0);
            let low = errors().fold(1e-2, f64::min).log10().floor();
            let high = errors().fold(1e-1, f64::max).log10().ceil();
            for (place, (size, rows)) in panels.iter().enumerate() {
                let corner = (10.0 + PANEL.0 * place as f64, 56.0 + ROW * line as f64);
                let title = format!("Input {size}×{size}: {name}");
                panel(area, corner, &title, rows, *measure, (low, high))?;
            }
        }
        Ok(())
    })
}

/// Errors on a logarithmic axis with a line of its own for exact zeros, and the accuracy in grey, 0 to 100 % of the height.
fn panel(
    area: &Area,
    (x0, y0): (f64, f64),
    title: &str,
    rows: &[Row],
    measure: Measure,
    (low, high): (f64, f64),
) -> Drawn {
    let (left, right, top, zero) = (x0 + 56.0, x0 + PANEL.0 - 40.0, y0 + 44.0, y0 + PANEL.1);
    let floor = zero - 24.0;
    let last = rows.iter().map(|row| row.epoch).max().unwrap_or(0).max(1);
    let x = |epoch: u32| left + (right - left) * f64::from(epoch) / f64::from(last);
    let y = |error: f64| if error == 0.0 { zero } else { floor - (floor - top) * (error.log10() - low) / (high - low) };
    write(area, title, (left, y0 + 8.0), from_left(bold(10.5)))?;
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
            rows.iter().filter(|row| row.depth == *depth).map(|row| at(x(row.epoch), y(measure(row)))).collect();
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
