//! One number for each of several networks: a dot for each seed, and the mean with ± one standard deviation.

use super::{
    angle_chart::{draw_marker, style},
    figure::{Area, Drawn, at, bold, centred, font, from_left, stroke, write},
    palette,
    rotations::statistics,
};
use plotters::prelude::*;

/// A line of the chart.
pub struct Dots {
    pub label: String,
    /// By seed.
    pub values: Vec<f64>,
    /// Colour and marker, as [`style`] counts them.
    pub style: usize,
}

/// Points between lines.
pub const LINE: f64 = 22.0;
/// Points above the first line, and below the last one for the axis.
const HEAD: f64 = 24.0;
const FOOT: f64 = 30.0;
/// Labels of the axis, about.
const TICKS: f64 = 5.0;

/// Points that a chart of so many lines is high.
pub fn height(lines: usize) -> f64 {
    HEAD + LINE * lines as f64 + FOOT
}

/// Draws the chart below and to the right of a corner in points, `width` points wide, of which `labels` are for the labels on the
/// left. `axis` says what the numbers are.
///
/// # Errors
/// If plotters fails.
pub fn panel(
    area: &Area,
    (x0, y0): (f64, f64),
    (width, labels): (f64, f64),
    title: &str,
    axis: &str,
    lines: &[Dots],
) -> Drawn {
    let (left, right) = (x0 + labels, x0 + width - 12.0);
    let (top, bottom) = (y0 + HEAD, y0 + HEAD + LINE * lines.len() as f64);
    let (low, high, step) = range(lines);
    let x = |value: f64| left + (right - left) * (value - low) / (high - low);
    write(area, title, (x0, y0 + 8.0), from_left(bold(10.0)))?;
    let ticks = ((high - low) / step).round() as i32;
    for tick in 0..=ticks {
        let value = low + step * f64::from(tick);
        area.draw(&PathElement::new([at(x(value), top), at(x(value), bottom)], stroke(palette::GRID, 0.6)))?;
        write(area, &number(value, step), (x(value), bottom + 8.0), centred(font(8.5)))?;
    }
    write(area, axis, ((left + right) / 2.0, bottom + 21.0), centred(font(9.0)))?;
    for (i, Dots { label, values, style: number }) in lines.iter().enumerate() {
        let y = top + LINE * (i as f64 + 0.5);
        let (color, marker) = style(*number);
        write(area, label, (x0, y), from_left(font(9.0)))?;
        let (mean, std) = statistics(values);
        for &value in values {
            area.draw(&Circle::new(at(x(value), y), super::figure::pt(1.8), color.mix(0.45).filled()))?;
        }
        if values.len() > 1 {
            area.draw(&PathElement::new([at(x(mean - std), y), at(x((mean + std).min(high)), y)], stroke(color, 1.4)))?;
        }
        draw_marker(area, at(x(mean), y), color, marker)?;
    }
    Ok(())
}

/// The axis: its ends and the distance of its labels, round numbers around all values and whiskers. Numbers are percent: where
/// none is above 100, the axis ends there, though a whisker would go on.
fn range(lines: &[Dots]) -> (f64, f64, f64) {
    let ends = lines.iter().flat_map(|line| {
        let (mean, std) = statistics(&line.values);
        line.values.iter().copied().chain([mean - std, mean + std])
    });
    let (low, high) = ends.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let span = (high - low).max(1e-6);
    let power = 10f64.powf((span / TICKS).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|unit| unit * power).into_iter().find(|step| span / step <= TICKS);
    let step = step.unwrap_or(10.0 * power);
    let (low, mut high) = ((low / step).floor() * step, (high / step).ceil() * step);
    if high > 100.0 && lines.iter().flat_map(|line| &line.values).all(|&percent| percent <= 100.0) {
        high = (100.0 / step).ceil() * step;
    }
    (low, if high > low { high } else { low + step }, step)
}

/// As many decimals as the distance of the labels has.
fn number(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).max(0.0) as usize;
    format!("{:.decimals$}", if value.abs() < step / 2.0 { 0.0 } else { value })
}
