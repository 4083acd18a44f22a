//! Images inside figures: bitmaps whose pixels stay squares.

use super::{
    canvas::Canvas,
    figure::{Area, Drawn, at, frame},
    palette,
};
use plotters::{
    element::{Drawable, PointCollection},
    style::RGBColor,
};
use plotters_backend::{BackendCoord, DrawingErrorKind};
use std::{array, io};
use tiny_skia::{ColorU8, Pixmap};

/// Draws a row-major image of `width` columns with its top left corner at a position in points, each pixel a square
/// of `cell` points, coloured by `color`, in a thin frame.
///
/// # Errors
/// If plotters fails.
pub fn image(
    area: &Area,
    corner: (f64, f64),
    cell: f64,
    width: usize,
    values: &[f32],
    color: impl Fn(f64) -> RGBColor,
) -> Drawn {
    let colors: Vec<RGBColor> = values.iter().map(|&value| color(f64::from(value))).collect();
    let height = colors.len() / width;
    stretched(area, corner, (width as f64 * cell, height as f64 * cell), width, &colors)
}

/// The same of colours, stretched to a width and height in points.
///
/// # Errors
/// If plotters fails.
pub fn stretched(
    area: &Area,
    (x, y): (f64, f64),
    (width, height): (f64, f64),
    columns: usize,
    colors: &[RGBColor],
) -> Drawn {
    let rows = colors.len() / columns;
    let mut pixels = Pixmap::new(columns as u32, rows as u32).ok_or_else(|| format!("an image of {columns}×{rows}"))?;
    let end = (x + width, y + height);
    for (pixel, RGBColor(r, g, b)) in pixels.pixels_mut().iter_mut().zip(colors) {
        *pixel = ColorU8::from_rgba(*r, *g, *b, 255).premultiply();
    }
    area.draw(&Bitmap { pixels, corners: [at(x, y), at(end.0, end.1)] })?;
    frame(area, (x, y), end, palette::FAINT_INK, 0.5)
}

/// Pixels between two corners, in drawing units.
struct Bitmap {
    pixels: Pixmap,
    corners: [(i32, i32); 2],
}

impl<'a> PointCollection<'a, (i32, i32)> for &'a Bitmap {
    type Point = (i32, i32);
    type IntoIter = array::IntoIter<(i32, i32), 2>;

    fn point_iter(self) -> Self::IntoIter {
        self.corners.into_iter()
    }
}

impl Drawable<Canvas<'_>> for Bitmap {
    fn draw<I: Iterator<Item = BackendCoord>>(
        &self,
        mut corners: I,
        canvas: &mut Canvas<'_>,
        _: (u32, u32),
    ) -> Result<(), DrawingErrorKind<io::Error>> {
        match (corners.next(), corners.next()) {
            (Some(from), Some(to)) => canvas.picture(&self.pixels, from, (to.0 - from.0, to.1 - from.1)),
            _ => Ok(()),
        }
    }
}
