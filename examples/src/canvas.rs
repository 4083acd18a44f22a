//! What a figure is drawn on: each shape goes into the SVG and, at the same time, onto the pixels of the PNG. On the pixels
//! text is made of the outlines of DejaVu Sans, so that neither fonts of the system nor a renderer of SVG is needed.

use ab_glyph::{Font, FontRef, OutlineCurve};
use base64::{Engine, engine::general_purpose::STANDARD};
use plotters::backend::SVGBackend;
use plotters_backend::{
    BackendColor, BackendCoord, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind, FontStyle,
    FontTransform,
    text_anchor::{HPos, VPos},
};
use std::{fmt::Write, io};
use tiny_skia::{
    FillRule, FilterQuality, LineCap, LineJoin, Paint, Path, PathBuilder, Pixmap, PixmapPaint, Rect, Stroke, Transform,
};

/// Plotters' font size of a font of 1 em (its SVG backend divides by this).
pub const PLOTTERS_EM: f64 = 1.24;

type Outcome = Result<(), DrawingErrorKind<io::Error>>;

/// A backend of plotters that draws on both.
pub struct Canvas<'a> {
    svg: SVGBackend<'a>,
    /// Elements of the SVG that plotters cannot write.
    pictures: &'a mut String,
    pixels: &'a mut Pixmap,
    /// From drawing units to pixels.
    to_pixels: Transform,
}

impl<'a> Canvas<'a> {
    /// An empty canvas of `size` drawing units. The SVG is in `svg` after [`DrawingBackend::present`]; before its end belongs what is in
    /// `pictures`.
    pub fn new(svg: &'a mut String, pictures: &'a mut String, pixels: &'a mut Pixmap, size: (u32, u32)) -> Self {
        let to_pixels =
            Transform::from_scale(pixels.width() as f32 / size.0 as f32, pixels.height() as f32 / size.1 as f32);
        Canvas { svg: SVGBackend::with_string(svg, size), pictures, pixels, to_pixels }
    }

    /// Draws `picture`, stretched to `extent`, with its upper left corner at `corner`; every pixel of it stays a rectangle of one
    /// colour. In the SVG it lies above all shapes.
    ///
    /// # Errors
    /// If the picture cannot be encoded.
    pub fn picture(&mut self, picture: &Pixmap, corner: BackendCoord, extent: BackendCoord) -> Outcome {
        let ((x, y), (width, height)) = (corner, extent);
        let stretch = (width as f32 / picture.width() as f32, height as f32 / picture.height() as f32);
        let place = self.to_pixels.pre_translate(x as f32, y as f32).pre_scale(stretch.0, stretch.1);
        let paint = PixmapPaint { quality: FilterQuality::Nearest, ..PixmapPaint::default() };
        self.pixels.draw_pixmap(0, 0, picture.as_ref(), &paint, place, None);
        let png = picture.encode_png().map_err(|error| DrawingErrorKind::DrawingError(io::Error::other(error)))?;
        let _ = writeln!(
            self.pictures,
            "<image x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" \
             image-rendering=\"optimizeSpeed\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{}\"/>",
            STANDARD.encode(png)
        );
        Ok(())
    }

    fn fill(&mut self, path: Option<Path>, color: BackendColor) {
        if let Some(path) = path {
            self.pixels.fill_path(&path, &paint(color), FillRule::Winding, self.to_pixels, None);
        }
    }

    fn stroke(&mut self, path: Option<Path>, color: BackendColor, width: u32) {
        let (line_cap, line_join) = (LineCap::Round, LineJoin::Round);
        let stroke = Stroke { width: width as f32, line_cap, line_join, ..Stroke::default() };
        if let Some(path) = path {
            self.pixels.stroke_path(&path, &paint(color), &stroke, self.to_pixels, None);
        }
    }
}

impl DrawingBackend for Canvas<'_> {
    type ErrorType = io::Error;

    fn get_size(&self) -> (u32, u32) {
        self.svg.get_size()
    }

    fn ensure_prepared(&mut self) -> Outcome {
        self.svg.ensure_prepared()
    }

    fn present(&mut self) -> Outcome {
        self.svg.present()
    }

    fn draw_pixel(&mut self, (x, y): BackendCoord, color: BackendColor) -> Outcome {
        self.fill(rectangle((x, y), (x + 1, y + 1)), color);
        self.svg.draw_pixel((x, y), color)
    }

    fn draw_line<S: BackendStyle>(&mut self, from: BackendCoord, to: BackendCoord, style: &S) -> Outcome {
        self.stroke(lines([from, to], false), style.color(), style.stroke_width());
        self.svg.draw_line(from, to, style)
    }

    fn draw_rect<S: BackendStyle>(
        &mut self,
        upper_left: BackendCoord,
        bottom_right: BackendCoord,
        style: &S,
        fill: bool,
    ) -> Outcome {
        let path = rectangle(upper_left, bottom_right);
        match fill {
            true => self.fill(path, style.color()),
            // The SVG of a rectangle says no width of its outline.
            false => self.stroke(path, style.color(), 1),
        }
        self.svg.draw_rect(upper_left, bottom_right, style, fill)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Outcome {
        let points: Vec<_> = path.into_iter().collect();
        self.stroke(lines(points.iter().copied(), false), style.color(), style.stroke_width());
        self.svg.draw_path(points, style)
    }

    fn draw_circle<S: BackendStyle>(&mut self, center: BackendCoord, radius: u32, style: &S, fill: bool) -> Outcome {
        let path = PathBuilder::from_circle(center.0 as f32, center.1 as f32, radius as f32);
        match fill {
            true => self.fill(path, style.color()),
            false => self.stroke(path, style.color(), style.stroke_width()),
        }
        self.svg.draw_circle(center, radius, style, fill)
    }

    fn fill_polygon<S: BackendStyle, I: IntoIterator<Item = BackendCoord>>(&mut self, path: I, style: &S) -> Outcome {
        let points: Vec<_> = path.into_iter().collect();
        self.fill(lines(points.iter().copied(), true), style.color());
        self.svg.fill_polygon(points, style)
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, pos: BackendCoord) -> Outcome {
        let bytes = match style.style() {
            FontStyle::Bold => dejavu::sans::bold(),
            _ => dejavu::sans::regular(),
        };
        let font = FontRef::try_from_slice(bytes).map_err(|error| DrawingErrorKind::FontError(Box::new(error)))?;
        let em = (style.size() / PLOTTERS_EM) as f32;
        let (path, width) = outlines(&font, text, em);
        // As the SVG says: its `ex` is half an em.
        let dx = match style.anchor().h_pos {
            HPos::Left => 0.0,
            HPos::Center => -width / 2.0,
            HPos::Right => -width,
        };
        let dy = match style.anchor().v_pos {
            VPos::Top => 0.76 * em,
            VPos::Center => 0.25 * em,
            VPos::Bottom => -0.25 * em,
        };
        let degrees = match style.transform() {
            FontTransform::Rotate90 => 90.0,
            FontTransform::Rotate180 => 180.0,
            FontTransform::Rotate270 => 270.0,
            FontTransform::None => 0.0,
        };
        let (x, y) = (pos.0 as f32, pos.1 as f32);
        let place = Transform::from_translate(x + dx, y + dy).post_rotate_at(degrees, x, y);
        self.fill(path.and_then(|path| path.transform(place)), style.color());
        self.svg.draw_text(text, style, pos)
    }
}

fn paint(color: BackendColor) -> Paint<'static> {
    let (r, g, b) = color.rgb;
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, (color.alpha.clamp(0.0, 1.0) * 255.0).round() as u8);
    paint
}

fn rectangle((left, top): BackendCoord, (right, bottom): BackendCoord) -> Option<Path> {
    Rect::from_ltrb(left as f32, top as f32, right as f32, bottom as f32).map(PathBuilder::from_rect)
}

fn lines(points: impl IntoIterator<Item = BackendCoord>, closed: bool) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (x, y) in points {
        match path.is_empty() {
            true => path.move_to(x as f32, y as f32),
            false => path.line_to(x as f32, y as f32),
        }
    }
    if closed {
        path.close();
    }
    path.finish()
}

/// The outlines of a line of text that begins at the origin, and its width.
fn outlines(font: &FontRef, text: &str, em: f32) -> (Option<Path>, f32) {
    let scale = em / font.units_per_em().unwrap_or(1000.0);
    let (mut path, mut x, mut last) = (PathBuilder::new(), 0.0, None);
    for glyph in text.chars().map(|c| font.glyph_id(c)) {
        x += last.map_or(0.0, |last| scale * font.kern_unscaled(last, glyph));
        let at = |point: ab_glyph::Point| (x + scale * point.x, -scale * point.y);
        let mut end = None;
        for curve in font.outline(glyph).into_iter().flat_map(|outline| outline.curves) {
            let (start, stop) = match curve {
                OutlineCurve::Line(a, b) | OutlineCurve::Quad(a, _, b) | OutlineCurve::Cubic(a, _, _, b) => {
                    (at(a), at(b))
                }
            };
            // A contour ends where it began, and the next begins elsewhere.
            if end != Some(start) {
                path.move_to(start.0, start.1);
            }
            match curve {
                OutlineCurve::Line(..) => path.line_to(stop.0, stop.1),
                OutlineCurve::Quad(_, c, _) => path.quad_to(at(c).0, at(c).1, stop.0, stop.1),
                OutlineCurve::Cubic(_, c, d, _) => path.cubic_to(at(c).0, at(c).1, at(d).0, at(d).1, stop.0, stop.1),
            }
            end = Some(stop);
        }
        x += scale * font.h_advance_unscaled(glyph);
        last = Some(glyph);
    }
    (path.finish(), x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use plotters::prelude::*;

    /// Left, top, right and bottom of what is drawn, in drawing units of which two are a pixel.
    fn ink(draw: impl FnOnce(&mut Canvas)) -> [f64; 4] {
        let (mut svg, mut pictures, mut pixels) = (String::new(), String::new(), Pixmap::new(200, 100).unwrap());
        draw(&mut Canvas::new(&mut svg, &mut pictures, &mut pixels, (400, 200)));
        let dark: Vec<(f64, f64)> = (0..20_000)
            .filter(|&at| pixels.pixels()[at].alpha() > 127)
            .map(|at| ((at % 200) as f64, (at / 200) as f64))
            .collect();
        let ends = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) =
                dark.iter().map(of).fold((f64::MAX, f64::MIN), |(low, high), at| (low.min(at), high.max(at)));
            [2.0 * low, 2.0 * high + 2.0]
        };
        let ([left, right], [top, bottom]) = (ends(|at| at.0), ends(|at| at.1));
        assert!([&svg, &pictures].iter().any(|svg| ["<text", "<rect", "<image"].iter().any(|tag| svg.contains(tag))));
        [left, top, right, bottom]
    }

    /// `H` of DejaVu Sans is 0.556 em wide between its stems and 0.729 em high; its advance is 0.752 em.
    #[test]
    fn text_stands_where_the_svg_has_it() {
        let style = ("sans-serif", 100.0 * PLOTTERS_EM).into_font().color(&BLACK);
        let near = |ink: [f64; 4], wanted: [f64; 4]| {
            assert!(
                ink.iter().zip(wanted).all(|(ink, wanted)| (ink - wanted).abs() <= 2.0),
                "{ink:?}, expected {wanted:?}"
            );
        };
        let written = |h_pos, v_pos, transform: Option<FontTransform>| {
            let mut style = style.clone().pos(text_anchor(h_pos, v_pos));
            if let Some(transform) = transform {
                style = style.transform(transform);
            }
            ink(|canvas| canvas.draw_text("H", &style, (200, 100)).unwrap())
        };
        near(written(HPos::Left, VPos::Center, None), [209.8, 52.1, 265.4, 125.0]);
        near(written(HPos::Center, VPos::Center, None), [172.2, 52.1, 227.8, 125.0]);
        near(written(HPos::Right, VPos::Bottom, None), [134.6, 2.1, 190.2, 75.0]);
        near(written(HPos::Center, VPos::Center, Some(FontTransform::Rotate270)), [152.1, 72.2, 225.0, 127.8]);
    }

    fn text_anchor(h_pos: HPos, v_pos: VPos) -> plotters::style::text_anchor::Pos {
        plotters::style::text_anchor::Pos::new(h_pos, v_pos)
    }

    #[test]
    fn a_rectangle_covers_its_pixels() {
        let drawn = ink(|canvas| canvas.draw_rect((20, 40), (60, 100), &BLACK, true).unwrap());
        assert_eq!(drawn, [20.0, 40.0, 60.0, 100.0]);
    }

    #[test]
    fn a_picture_is_stretched_over_its_place() {
        let mut picture = Pixmap::new(2, 1).unwrap();
        picture.pixels_mut()[1] = tiny_skia::ColorU8::from_rgba(0, 0, 0, 255).premultiply();
        // Its right half is black, its left half has no colour.
        let drawn = ink(|canvas| canvas.picture(&picture, (20, 40), (80, 60)).unwrap());
        assert_eq!(drawn, [60.0, 40.0, 100.0, 100.0]);
    }
}
