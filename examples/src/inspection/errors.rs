//! The equivariance error of every layer, as bars.

use super::number;
use crate::{
    figure::{Area, Drawn, at, bold, centred, font, from_left, write},
    palette,
};
use plotters::prelude::{Color, Rectangle};
use quarterturn::models::DepthError;

/// Points of a line, of what stands above the first, and that a column is wide at least.
const LINE: f64 = 12.0;
const HEAD: f64 = 62.0;
const COLUMN: f64 = 380.0;
/// Points of the two numbers, and between columns.
const NUMBERS: f64 = 108.0;
const BETWEEN: f64 = 24.0;
/// Relative errors at the left and the right end of a bar, as powers of 10.
const BAR: [f64; 2] = [-8.0, 0.0];
const MOST_LETTERS: usize = 40;

/// Lines of layers in columns.
pub struct ErrorChart<'a> {
    depths: &'a [DepthError],
    width: f64,
}

impl<'a> ErrorChart<'a> {
    /// As wide as it may be, in points.
    pub fn new(depths: &'a [DepthError], width: f64) -> Self {
        ErrorChart { depths, width }
    }

    /// Points that it is high.
    pub fn height(&self) -> f64 {
        HEAD + LINE * self.lines() as f64
    }

    fn columns(&self) -> usize {
        (((self.width + BETWEEN) / (COLUMN + BETWEEN)) as usize).clamp(1, self.depths.len().max(1))
    }

    fn lines(&self) -> usize {
        self.depths.len().div_ceil(self.columns())
    }

    /// Draws it below and to the right of a corner in points, under a title.
    ///
    /// # Errors
    /// If plotters fails.
    pub fn draw(&self, area: &Area, (x, y): (f64, f64), title: &str) -> Drawn {
        let faint = || font(8.0).color(&palette::FAINT_INK);
        write(area, title, (x, y + 8.0), from_left(bold(10.0)))?;
        if self.depths.is_empty() {
            return Ok(());
        }
        let what = "Relative: √( Σ |f(T x) − T′ f(x)|² / Σ |f(x)|² ).  Bars are logarithmic, from 1e-8 to 1; an error of 0 has none.";
        write(area, what, (x, y + 24.0), from_left(faint()))?;
        let longest = self.depths.iter().map(|depth| depth.name.chars().count()).max().unwrap_or(0).min(MOST_LETTERS);
        let labels = (5.4 * longest as f64).max(60.0) + 8.0;
        for (column, depths) in self.depths.chunks(self.lines().max(1)).enumerate() {
            let left = x + column as f64 * (COLUMN + BETWEEN);
            let (bar, numbers) = (left + labels, left + COLUMN - NUMBERS);
            write(area, "relative", (numbers + 28.0, y + 46.0), centred(faint()))?;
            write(area, "Eq. 14", (numbers + 82.0, y + 46.0), centred(faint()))?;
            for (line, depth) in depths.iter().enumerate() {
                let middle = y + HEAD + LINE * line as f64;
                let name: String = depth.name.chars().take(MOST_LETTERS).collect();
                write(area, &name, (left, middle), from_left(font(8.5)))?;
                let width = numbers - 8.0 - bar;
                let filled = |part: f64, color: plotters::style::RGBColor| {
                    let corners = [at(bar, middle - 3.5), at(bar + part * width, middle + 3.5)];
                    area.draw(&Rectangle::new(corners, color.filled()))
                };
                filled(1.0, palette::GRID)?;
                // What is no number is as long as can be.
                let is_zero = depth.l1 == 0.0;
                if !is_zero {
                    let part = (depth.relative.log10() - BAR[0]) / (BAR[1] - BAR[0]);
                    let part = if part.is_nan() { 1.0 } else { part.clamp(0.02, 1.0) };
                    filled(part, palette::VERMILLION)?;
                }
                let color = if is_zero { palette::GREEN } else { palette::INK };
                for (value, right) in [(depth.relative, 28.0), (depth.eq14, 82.0)] {
                    write(area, &number(value), (numbers + right, middle), centred(bold(8.5)).color(&color))?;
                }
            }
        }
        Ok(())
    }
}
