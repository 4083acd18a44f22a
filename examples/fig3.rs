//! Figure 3: a network made of equivariant layers learns to tell an image from its own quarter turn, because a
//! subsampling layer leaves a row and a column over at 32×32. At 33×33 nothing is left over, and it cannot learn.

use clap::Parser;
use plotters::prelude::*;
use quarterturn::{
    autograd::Optimizer,
    core::{Device, Error, Result, Tensor},
    kernels::{Group, cross_entropy, transform_feature_map, transform_plane},
    models::{Mode, Network, SubsamplingNet, training::train_step},
};
use quarterturn_examples::{
    args,
    canvas::Canvas,
    csv::Csv,
    device,
    figure::{self, Area, Drawn, at, bold, centred, font, from_left, pt, stroke, write},
    palette,
    progress::Progress,
    raster, say, table,
};
use std::process::ExitCode;

/// `T`: one quarter turn counter-clockwise.
const TURN: usize = 1;
/// The brightest grey of the drawing; the network gets the values as they are.
const BRIGHTEST: f64 = 43.0;
/// Points that an input and a grid of feature maps are wide, about.
const SIDE: f64 = 116.0;
/// Points between the maps of a grid.
const GAP: f64 = 4.0;
/// Points that a row of images is high.
const ROW: f64 = 172.0;

/// Figure 3: a subsampling network learns to tell an image from its quarter turn, or cannot
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// Input sizes from 8 to 128, separated by commas; odd ones are exactly equivariant
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = [32, 33],
          value_parser = clap::value_parser!(u64).range(8..=128))]
    size: Vec<u64>,
    /// Training steps, each on both images
    #[arg(long, value_name = "N", default_value_t = 800, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Learning rate, above 0
    #[arg(long, value_name = "RATE", default_value_t = 1e-3, value_parser = rate)]
    lr: f64,
    /// Seed of the starting weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// 50 steps only; not with --epochs
    #[arg(long, conflicts_with = "epochs")]
    quick: bool,
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a finite number above 0 is needed".into()) }
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let device = device::open(args.device.device)?;
    let folder = args.out.folder("fig3")?;
    let steps = if args.quick { 50 } else { args.epochs };
    let mut csv = Csv::new(folder.join("fig3.csv"), "input_size,step,loss,logit_x0,logit_x1,logit_rx0,logit_rx1");
    let mut progress = Progress::new(steps * args.size.len() as u64);
    let mut trials = Vec::new();
    for &size in &args.size {
        progress.say(format!("{size}×{size}"));
        let trial = Trial::run(size as usize, steps, args, &device, &mut progress)?;
        for (step, (loss, [x0, x1, rx0, rx1])) in trial.losses.iter().zip(&trial.logits).enumerate() {
            csv.row(&[&size, &step, loss, x0, x1, rx0, rx1]);
        }
        csv.save()?;
        trials.push(trial);
    }
    progress.done();

    let subtitle = format!(
        "A drawing with greys from 0 to {BRIGHTEST}  ·  SGD, learning rate {}, momentum 0.9, {steps} steps, seed {}  ·  {device}",
        args.lr, args.seed
    );
    let width = 740.0;
    let height = 60.0 + ROW * trials.len() as f64 + 190.0;
    figure::save(&folder.join("fig3"), (width, height), |area| {
        figure::heading(area, "Can a network of p4-equivariant layers tell x from its quarter turn T(x)?", &subtitle)?;
        for (i, trial) in trials.iter().enumerate() {
            trial.draw(area, (16.0, 60.0 + ROW * i as f64))?;
        }
        draw_losses(area, (10.0, height - 190.0), (width - 8.0, height - 8.0), &trials)
    })?;

    let rows: Vec<Vec<String>> = trials.iter().map(Trial::summary).collect();
    table::print(&["input", "(i + 2p − k) mod s", "last loss", "lowest loss", "ln 2", "logits of x and T(x)"], &rows);
    say::result(format_args!("wrote fig3.csv, fig3.svg and fig3.png to {}", folder.display()));
    Ok(())
}

/// A sailing boat under the sun, in horizontal strokes as an engraver makes them: row-major greys of `size`×`size`.
fn drawing(size: usize) -> Vec<f32> {
    // In units of the drawing's height.
    let grey = |y: f64, x: f64| {
        let sun = (y - 0.20).hypot(x - 0.80) < 0.125;
        let mast = (0.47..0.50).contains(&x) && (0.12..0.69).contains(&y);
        let mainsail = x < 0.45 && (0.19..0.625).contains(&y) && x > 0.45 - 0.75 * (y - 0.19);
        let foresail = x > 0.53 && (0.28..0.625).contains(&y) && x < 0.53 + 0.6 * (y - 0.28);
        let hull = (0.69..0.81).contains(&y) && x > y - 0.53 && x < 0.84 - 1.5 * (y - 0.69);
        let sea = y >= 0.81;
        [(sun, 43.0), (mast, 14.0), (mainsail, 36.0), (foresail, 28.0), (hull, 20.0), (sea, 24.0)]
            .iter()
            .find(|(inside, _)| *inside)
            .map_or(0.0, |(_, grey)| *grey)
    };
    let centre = |i: usize| (i as f64 + 0.5) / size as f64;
    let pixels = (0..size * size).map(|i| (i / size, i % size));
    // Every other row holds the stroke, those between a quarter of its grey.
    pixels.map(|(row, col)| (grey(centre(row), centre(col)) * if row % 2 == 1 { 1.0 } else { 0.25 }) as f32).collect()
}

/// The training at one input size, and what the trained network makes of both images.
struct Trial {
    size: usize,
    /// Before each step, and after the last.
    losses: Vec<f32>,
    /// Of x and of T(x), as the losses.
    logits: Vec<[f32; 4]>,
    x: Vec<f32>,
    turned: Vec<f32>,
    /// f(x) and T′⁻¹(f(T(x))), `[4, H', W']`.
    maps: [Vec<f32>; 2],
    map_size: usize,
}

impl Trial {
    fn run(size: usize, steps: u64, args: &Args, device: &Device, progress: &mut Progress) -> Result<Self> {
        let x = Tensor::from_vec([1, 1, 1, size, size], drawing(size), device)?;
        let turned = transform_plane(&x, TURN);
        let both = [x.to_vec()?, turned.to_vec()?].concat();
        let images = Tensor::from_vec([2, 1, 1, size, size], both, device)?;
        let labels = Tensor::from_vec([2], vec![0.0, 1.0], device)?;

        let mut network = SubsamplingNet::new(args.seed, device)?;
        let mut optimizer = Optimizer::sgd(0.9, 0.0);
        let (mut losses, mut logits) = (Vec::new(), Vec::new());
        for step in 0..=steps {
            let outputs = network.predict(&images)?;
            let loss = cross_entropy(&outputs, &labels).to_vec()?[0];
            if !loss.is_finite() {
                let message =
                    format!("{size}×{size}: the loss is {loss} after {step} steps; try a lower --lr than {}", args.lr);
                return Err(Error::Invalid(message));
            }
            losses.push(loss);
            let outputs = outputs.to_vec()?;
            logits.push([outputs[0], outputs[1], outputs[2], outputs[3]]);
            if step < steps {
                let mode = Mode::Train { seed: args.seed, step: step as u32 };
                train_step(&mut network, &mut optimizer, args.lr, mode, &images, &labels)?;
                progress.advance(1);
            }
        }
        let map = network.feature_map(&x)?;
        let back = transform_feature_map(&network.feature_map(&turned)?, Group::C4.inverse(TURN), Group::C4);
        let map_size = map.dims()[4];
        let maps = [map.to_vec()?, back.to_vec()?];
        Ok(Trial { size, losses, logits, x: x.to_vec()?, turned: turned.to_vec()?, maps, map_size })
    }

    /// Whether the logits of both images were the same bits throughout.
    fn identical(&self) -> bool {
        self.logits.iter().all(|[x0, x1, rx0, rx1]| x0.to_bits() == rx0.to_bits() && x1.to_bits() == rx1.to_bits())
    }

    fn last_loss(&self) -> f32 {
        self.losses[self.losses.len() - 1]
    }

    fn summary(&self) -> Vec<String> {
        let lowest = self.losses.iter().copied().fold(f32::INFINITY, f32::min);
        let different = self.logits.iter().filter(|l| l[..2] != l[2..]).count();
        vec![
            format!("{0}×{0}", self.size),
            residual(self.size).to_string(),
            self.last_loss().to_string(),
            lowest.to_string(),
            std::f32::consts::LN_2.to_string(),
            match self.identical() {
                true => format!("the same bits at all {} steps", self.logits.len()),
                false => format!("differ at {different} of {} steps", self.logits.len()),
            },
        ]
    }

    /// Draws x, T(x), both feature maps and their difference in a row.
    fn draw(&self, area: &Area, (x, y): (f64, f64)) -> Drawn {
        let heading = format!(
            "{0}×{0}:  (i + 2p − k) mod s = {1},  {2}",
            self.size,
            residual(self.size),
            match self.last_loss() {
                _ if self.identical() => "the same logits for x and T(x)".to_string(),
                loss if loss < 0.9 * std::f32::consts::LN_2 => format!("told apart, loss {loss:.3}"),
                loss => format!("logits differ, no better than guessing yet: loss {loss:.3}"),
            }
        );
        write(area, &heading, (x, y + 6.0), from_left(bold(10.5)))?;
        let top = y + 38.0;
        // Whole points, so that no pixel falls between two of the screen.
        let cell = (SIDE / self.size as f64).floor().max(1.0);
        let side = self.size as f64 * cell;
        for (values, name, x) in [(&self.x, "x", x), (&self.turned, "T(x)", x + SIDE + 14.0)] {
            write(area, name, (x + side / 2.0, top - 11.0), centred(font(10.0)))?;
            raster::image(area, (x, top), cell, self.size, values, |v| palette::grey(v / BRIGHTEST))?;
        }
        let difference: Vec<f32> = self.maps[0].iter().zip(&self.maps[1]).map(|(a, b)| a - b).collect();
        let largest = self.maps.iter().flatten().map(|v| f64::from(v.abs())).fold(f64::MIN_POSITIVE, f64::max);
        let grids = [(&self.maps[0], "f(x)"), (&self.maps[1], "T′⁻¹(f(T(x)))"), (&difference, "difference")];
        for (i, (maps, name)) in grids.into_iter().enumerate() {
            self.draw_grid(area, (x + (i as f64 + 2.0) * (SIDE + 14.0) + 12.0, top), maps, name, largest)?;
        }
        color_bar(area, (x + 5.0 * (SIDE + 14.0) + 10.0, top), side, largest)
    }

    /// Draws the four maps of the group axis as a 2×2 grid.
    fn draw_grid(&self, area: &Area, (x, y): (f64, f64), maps: &[f32], name: &str, largest: f64) -> Drawn {
        let cell = ((SIDE - GAP) / 2.0 / self.map_size as f64).floor().max(1.0);
        let side = self.map_size as f64 * cell;
        write(area, name, (x + side + GAP / 2.0, y - 11.0), centred(font(10.0)))?;
        for (g, map) in maps.chunks_exact(self.map_size * self.map_size).enumerate() {
            let (col, row) = ((g % 2) as f64, (g / 2) as f64);
            let corner = (x + col * (side + GAP), y + row * (side + GAP));
            raster::image(area, corner, cell, self.map_size, map, |v| palette::diverging(v / largest))?;
        }
        Ok(())
    }
}

/// `(i + 2p − k) mod s` of the network's convolution.
fn residual(size: usize) -> usize {
    quarterturn::core::window_residual(size, 3, 2, 1).expect("--size is at least the kernel size")
}

/// The scale from −`largest` to `largest`, with its top left corner at a position in points.
fn color_bar(area: &Area, (x, y): (f64, f64), height: f64, largest: f64) -> Drawn {
    // One level a point, so that none falls between two pixels.
    let levels = height as i32;
    for level in 0..levels {
        let [from, to] = [level, level + 1].map(|l| y + height * f64::from(l) / f64::from(levels));
        let value = 1.0 - 2.0 * (f64::from(level) + 0.5) / f64::from(levels);
        let rectangle = Rectangle::new([at(x, from), at(x + 8.0, to)], palette::diverging(value).filled());
        area.draw(&rectangle)?;
    }
    figure::frame(area, (x, y), (x + 8.0, y + height), palette::FAINT_INK, 0.5)?;
    for (value, y) in [(largest, y), (0.0, y + height / 2.0), (-largest, y + height)] {
        let label = if value == 0.0 { "0".into() } else { format!("{value:.1}").replace('-', "−") };
        write(area, &label, (x + 12.0, y), from_left(font(8.5)))?;
    }
    Ok(())
}

/// Draws the loss of each trial over the steps, between two corners in points.
fn draw_losses(area: &Area, (x0, y0): (f64, f64), (x1, y1): (f64, f64), trials: &[Trial]) -> Drawn {
    let area = area.clone().shrink(at(x0, y0), at(x1 - x0, y1 - y0));
    let steps = trials.iter().map(|trial| trial.losses.len() - 1).max().unwrap_or(1) as f64;
    let top = 1.0;
    let mut chart = ChartBuilder::on(&area)
        .margin_top(pt(6.0))
        .margin_right(pt(96.0))
        .x_label_area_size(pt(36.0))
        .y_label_area_size(pt(44.0))
        .build_cartesian_2d(0.0..steps, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(stroke(palette::GRID, 0.6))
        .axis_style(stroke(palette::INK, 0.8))
        .set_all_tick_mark_size(pt(3.0))
        .x_labels(9)
        .y_labels(6)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&|loss| format!("{loss:.1}"))
        .label_style(font(9.0))
        .axis_desc_style(font(10.0))
        .x_desc("Training step")
        .y_desc("Loss (cut at 1)")
        .draw()?;
    let base = area.get_base_pixel();
    let beside = |chart: &Chart, loss: f64, text: &str, color: RGBColor| -> Drawn {
        let (x, y) = chart.backend_coord(&(steps, loss));
        let style = from_left(font(9.5)).color(&color);
        area.draw(&Text::new(text.to_string(), (x - base.0 + pt(6.0), y - base.1), style))?;
        Ok(())
    };
    let colors = [palette::VERMILLION, palette::BLUE, palette::GREEN, palette::PURPLE];
    for (trial, color) in trials.iter().zip(colors.iter().cycle()) {
        let points = trial.losses.iter().enumerate().map(|(step, &loss)| (step as f64, f64::from(loss).min(top)));
        chart.draw_series([PathElement::new(points.collect::<Vec<_>>(), stroke(*color, 1.6))])?;
        beside(&chart, f64::from(trial.last_loss()).min(top), &format!("{0}×{0}", trial.size), *color)?;
    }
    let chance = std::f64::consts::LN_2;
    for dash in 0..40 {
        let [from, to] = [f64::from(dash), f64::from(dash) + 0.5].map(|d| (d * steps / 40.0, chance));
        chart.draw_series([PathElement::new([from, to], stroke(palette::INK, 0.8))])?;
    }
    beside(&chart, chance + 0.09, "ln 2: guessing", palette::INK)
}

type Chart<'a> = ChartContext<
    'a,
    Canvas<'a>,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;
