//! Accuracy against the angle that the test digits are rotated by.

use super::{
    figure::{Area, Drawn, at, centred, font, from_left, pt, stroke, write},
    palette,
};
use plotters::prelude::*;

/// Accuracies at one angle, over seeds.
#[derive(Clone, Copy)]
pub struct Point {
    /// Degrees, 0 to 360.
    pub angle: f64,
    /// Mean accuracy in percent.
    pub mean: f64,
    /// Standard deviation of the accuracy in percent points.
    pub std: f64,
}

/// Degrees between labels: the unit of the axis, as plotters places labels at round numbers only.
const TICK: f64 = 45.0;

/// One network's line.
pub struct Series {
    /// What the legend says.
    pub label: String,
    /// The line's points, by increasing angle.
    pub points: Vec<Point>,
}

/// Colour and marker of the n-th line: each tells the lines apart without the other.
const STYLES: [(RGBColor, Marker); 6] = [
    (palette::FAINT_INK, Marker::Diamond),
    (palette::VERMILLION, Marker::Triangle),
    (palette::BLUE, Marker::Circle),
    (palette::GREEN, Marker::Square),
    (palette::PURPLE, Marker::Circle),
    (palette::INK, Marker::Square),
];

/// Colour and marker of the n-th line.
pub fn style(n: usize) -> (RGBColor, Marker) {
    STYLES[n % STYLES.len()]
}

/// What stands at the points of a line.
#[derive(Clone, Copy)]
pub enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
}

/// The lowest label of the axis of accuracies that shows all of `series`.
pub fn bottom<'s>(series: impl IntoIterator<Item = &'s Series>) -> f64 {
    let points = series.into_iter().flat_map(|s| &s.points);
    let lowest = points.map(|p| p.mean - p.std).fold(100.0, f64::min);
    (lowest / 10.0 - 0.2).floor().max(0.0) * 10.0
}

/// Draws the chart with its legend between two corners in points. A band shows ±1 standard deviation.
///
/// # Errors
/// If plotters fails.
pub fn draw(area: &Area, (x0, y0): (f64, f64), (x1, y1): (f64, f64), series: &[Series]) -> Drawn {
    let legend = legend(area, (x0 + 46.0, y0 + 6.0), x1, series)?;
    panel(area, (x0, y0 + legend), (x1, y1), series, bottom(series), &|_| None)
}

/// Share of the height that the highest point of a density takes.
const DENSITY: f64 = 0.2;

/// Draws the chart without a legend, accuracies from `bottom` up, and at its foot, in grey, the density of the angles
/// that the networks were trained on, if there is one.
///
/// # Errors
/// If plotters fails.
pub fn panel(
    area: &Area,
    (x0, y0): (f64, f64),
    (x1, y1): (f64, f64),
    series: &[Series],
    bottom: f64,
    density: &dyn Fn(f64) -> Option<f64>,
) -> Drawn {
    let area = area.clone().shrink(at(x0, y0), at(x1 - x0, y1 - y0));
    let mut chart = ChartBuilder::on(&area)
        .margin_top(pt(6.0))
        .margin_right(pt(14.0))
        .x_label_area_size(pt(40.0))
        .y_label_area_size(pt(46.0))
        .build_cartesian_2d(0.0..360.0 / TICK, bottom..100.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(stroke(palette::GRID, 0.6))
        .axis_style(stroke(palette::INK, 0.8))
        .set_all_tick_mark_size(pt(3.0))
        .y_labels(10)
        .x_labels(9)
        .x_label_formatter(&|ticks| format!("{:.0}°", ticks * TICK))
        .y_label_formatter(&|percent| format!("{percent:.0}"))
        .label_style(font(9.0))
        .axis_desc_style(font(10.0))
        .x_desc("Rotation of the test digits, counter-clockwise")
        .y_desc("Accuracy (%)")
        .draw()?;
    let densities: Option<Vec<(f64, f64)>> =
        (0..=360).map(|degrees| Some((f64::from(degrees), density(f64::from(degrees))?))).collect();
    if let Some(densities) = densities {
        let highest = densities.iter().map(|(_, density)| *density).fold(0.0, f64::max);
        let height = DENSITY * (100.0 - bottom) / highest;
        let curve = densities.iter().map(|(degrees, density)| (degrees / TICK, bottom + height * density));
        let foot = [(360.0 / TICK, bottom), (0.0, bottom)];
        chart.draw_series([Polygon::new(curve.chain(foot).collect::<Vec<_>>(), palette::GRID)])?;
        // Within it, where it is highest.
        let peak = densities.iter().find(|(_, density)| *density == highest).map_or(0.0, |(degrees, _)| *degrees);
        let (x, y) = chart.backend_coord(&(peak / TICK, bottom + 0.12 * height * highest));
        let base = area.get_base_pixel();
        area.draw(&Text::new("training angles", (x - base.0, y - base.1), centred(font(8.0))))?;
    }
    for (series, (color, _)) in series.iter().zip(STYLES.iter().cycle()) {
        if series.points.iter().any(|p| p.std > 0.0) {
            let clamp = |percent: f64| percent.clamp(bottom, 100.0);
            let upper = series.points.iter().map(|p| (p.angle / TICK, clamp(p.mean + p.std)));
            let lower = series.points.iter().rev().map(|p| (p.angle / TICK, clamp(p.mean - p.std)));
            chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), color.mix(0.18))])?;
        }
    }
    // Lines and markers above all bands.
    for (series, (color, marker)) in series.iter().zip(STYLES.iter().cycle()) {
        let points: Vec<(f64, f64)> = series.points.iter().map(|p| (p.angle / TICK, p.mean)).collect();
        chart.draw_series([PathElement::new(points.clone(), stroke(*color, 1.6))])?;
        for point in points {
            let (x, y) = chart.backend_coord(&point);
            // `backend_coord` counts from the whole figure's corner, `area` from its own.
            let base = area.get_base_pixel();
            draw_marker(&area, (x - base.0, y - base.1), *color, *marker)?;
        }
    }
    Ok(())
}

/// One entry per series from left to right, in as many lines as needed; returns the height in points.
pub fn legend(
    area: &Area,
    (left, top): (f64, f64),
    right: f64,
    series: &[Series],
) -> Result<f64, Box<dyn std::error::Error>> {
    let (mut x, mut y) = (left, top);
    for (series, (color, marker)) in series.iter().zip(STYLES.iter().cycle()) {
        let style = font(9.5);
        let width = f64::from(area.estimate_text_size(&series.label, &style)?.0) / f64::from(pt(1.0)) + 52.0;
        if x > left && x + width > right {
            (x, y) = (left, y + 16.0);
        }
        area.draw(&PathElement::new([at(x, y), at(x + 24.0, y)], stroke(*color, 1.6)))?;
        draw_marker(area, at(x + 12.0, y), *color, *marker)?;
        write(area, &series.label, (x + 30.0, y), from_left(style))?;
        x += width;
    }
    Ok(y - top + 18.0)
}

/// A filled marker with a white rim, centred at a position in drawing units.
///
/// # Errors
/// If plotters fails.
pub fn draw_marker(area: &Area, (x, y): (i32, i32), color: RGBColor, marker: Marker) -> Drawn {
    for (radius, fill) in [(3.4, WHITE), (2.6, color)] {
        let r = pt(radius);
        match marker {
            Marker::Circle => area.draw(&Circle::new((x, y), r, fill.filled()))?,
            Marker::Square => {
                let r = r * 9 / 10;
                area.draw(&Rectangle::new([(x - r, y - r), (x + r, y + r)], fill.filled()))?;
            }
            Marker::Triangle => {
                let corners = [(x, y - r * 5 / 4), (x - r * 11 / 10, y + r * 3 / 4), (x + r * 11 / 10, y + r * 3 / 4)];
                area.draw(&Polygon::new(corners, fill.filled()))?;
            }
            Marker::Diamond => {
                let d = r * 5 / 4;
                area.draw(&Polygon::new([(x, y - d), (x + d, y), (x, y + d), (x - d, y)], fill.filled()))?;
            }
        }
    }
    Ok(())
}
