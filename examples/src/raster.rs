//! Images inside figures: one rectangle per run of equal pixels.

use super::figure::{Area, Drawn, at, frame};
use super::palette;
use plotters::prelude::*;

/// Draws a row-major image of `width` columns with its top left corner at a position in points, each pixel a square
/// of `cell` points, coloured by `color`, in a thin frame.
///
/// # Errors
/// If plotters fails.
pub fn image(
    area: &Area,
    (x, y): (f64, f64),
    cell: f64,
    width: usize,
    values: &[f32],
    color: impl Fn(f64) -> RGBColor,
) -> Drawn {
    let height = values.len() / width;
    for (row, line) in values.chunks_exact(width).enumerate() {
        let mut col = 0;
        while col < width {
            let fill = color(f64::from(line[col]));
            let run = line[col..].iter().take_while(|&&v| color(f64::from(v)) == fill).count();
            let top_left = at(x + col as f64 * cell, y + row as f64 * cell);
            let bottom_right = at(x + (col + run) as f64 * cell, y + (row + 1) as f64 * cell);
            area.draw(&Rectangle::new([top_left, bottom_right], fill.filled()))?;
            col += run;
        }
    }
    let end = (x + width as f64 * cell, y + height as f64 * cell);
    frame(area, (x, y), end, palette::FAINT_INK, 0.5)
}
