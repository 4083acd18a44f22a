//! Figures as SVG and PNG, drawn at once; the PNG with the font shipped in the binary: both look alike on every machine, and
//! neither needs anything installed.

use super::{
    canvas::{Canvas, PLOTTERS_EM},
    files, palette,
};
use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};
use quarterturn::core::{Error, Result};
use std::path::Path;
use tiny_skia::Pixmap;

/// DejaVu Sans in the PNG; in the SVG the first of these that the viewer has.
const FONT: &str = "DejaVu Sans, Verdana, Arial, sans-serif";
/// Drawing units per point: plotters knows whole numbers only.
const UNITS: f64 = 8.0;
/// Pixels per point in the PNG.
const PIXELS: f64 = 2.0;

/// What a figure is drawn on.
pub type Area<'a> = DrawingArea<Canvas<'a>, Shift>;
/// A figure's drawing code fails only if plotters does, which on a string does not happen.
pub type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

/// Stands between the parts of a subtitle.
const SEPARATOR: &str = "  ·  ";

/// Points as drawing units.
pub fn pt(points: f64) -> i32 {
    (points * UNITS).round() as i32
}

/// A position in points as one in drawing units.
pub fn at(x: f64, y: f64) -> (i32, i32) {
    (pt(x), pt(y))
}

/// A stroke of `width` points.
pub fn stroke(color: RGBColor, width: f64) -> ShapeStyle {
    color.stroke_width(pt(width) as u32)
}

/// A font of `size` points.
pub fn font(size: f64) -> TextStyle<'static> {
    (FONT, size * UNITS * PLOTTERS_EM).into_font().color(&palette::INK)
}

/// A bold font of `size` points.
pub fn bold(size: f64) -> TextStyle<'static> {
    (FONT, size * UNITS * PLOTTERS_EM).into_font().style(FontStyle::Bold).color(&palette::INK)
}

/// `style`, anchored in the middle of the position in both directions.
pub fn centred(style: TextStyle<'_>) -> TextStyle<'_> {
    style.pos(Pos::new(HPos::Center, VPos::Center))
}

/// `style`, anchored at the left, vertically in the middle.
pub fn from_left(style: TextStyle<'_>) -> TextStyle<'_> {
    style.pos(Pos::new(HPos::Left, VPos::Center))
}

/// The outline of a rectangle between two corners in points, `width` points thick. (Plotters' own rectangle leaves out
/// the width in its SVG.)
///
/// # Errors
/// If plotters fails.
pub fn frame(area: &Area, (x0, y0): (f64, f64), (x1, y1): (f64, f64), color: RGBColor, width: f64) -> Drawn {
    let corners = [at(x0, y0), at(x1, y0), at(x1, y1), at(x0, y1), at(x0, y0)];
    area.draw(&PathElement::new(corners, stroke(color, width)))?;
    Ok(())
}

/// Draws `text` at a position in points.
///
/// # Errors
/// If plotters fails.
pub fn write(area: &Area, text: &str, (x, y): (f64, f64), style: TextStyle) -> Drawn {
    area.draw(&Text::new(text.to_string(), at(x, y), style))?;
    Ok(())
}

/// Title and, below it, the line that names data and device. If it is wider than the figure, it becomes two lines.
///
/// # Errors
/// If plotters fails.
pub fn heading(area: &Area, title: &str, subtitle: &str) -> Drawn {
    write(area, title, (16.0, 20.0), from_left(bold(13.0)))?;
    let room = area.dim_in_pixel().0 as i32 - pt(2.0 * 16.0);
    let fits = |line: &str| area.estimate_text_size(line, &font(9.0)).is_ok_and(|(width, _)| width as i32 <= room);
    // Its parts are separated; the line ends behind the last of them that it has room for.
    let ends = subtitle.match_indices(SEPARATOR).map(|(end, _)| end).filter(|&end| fits(&subtitle[..end]));
    let (first, rest) = match ends.last() {
        Some(end) if !fits(subtitle) => (&subtitle[..end], &subtitle[end + SEPARATOR.len()..]),
        _ => (subtitle, ""),
    };
    for (line, y) in [(first, 36.0), (rest, 47.0)] {
        write(area, line, (16.0, y), from_left(font(9.0)).color(&palette::FAINT_INK))?;
    }
    Ok(())
}

/// Draws a figure of `width` × `height` points and saves it as `<stem>.svg` and `<stem>.png`.
///
/// # Errors
/// When a file cannot be written or, which would be a bug, the drawing fails.
pub fn save(stem: &Path, (width, height): (f64, f64), draw: impl FnOnce(&Area) -> Drawn) -> Result<()> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::Invalid(format!("figure: {what}: {error}"));
    // Plotters measures text with this font.
    for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
        plotters::style::register_font(FONT, style, bytes).map_err(|_| failed("font", &FONT))?;
    }
    let (mut svg, mut pictures) = (String::new(), String::new());
    let mut pixels = Pixmap::new((width * PIXELS) as u32, (height * PIXELS) as u32)
        .ok_or_else(|| failed("size", &format!("{width} × {height}")))?;
    {
        let canvas = Canvas::new(&mut svg, &mut pictures, &mut pixels, (pt(width) as u32, pt(height) as u32));
        let area = canvas.into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed("background", &e))?;
        draw(&area).map_err(|e| failed("drawing", &e))?;
        area.present().map_err(|e| failed("drawing", &e))?;
    }
    svg.insert_str(svg.rfind("</svg>").unwrap_or(svg.len()), &pictures);
    // The view box counts drawing units; shown at its size in points.
    let units = format!(r#"<svg width="{}" height="{}""#, pt(width), pt(height));
    let points = format!(r#"<svg width="{width}" height="{height}" stroke-linejoin="round" stroke-linecap="round""#);
    let svg = svg.replacen(&units, &points, 1);
    files::write(&stem.with_extension("svg"), svg.as_bytes())?;
    let png = pixels.encode_png().map_err(|e| failed("png", &e))?;
    files::write(&stem.with_extension("png"), &png)
}
