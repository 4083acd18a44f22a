//! Colours that stay apart for colour-blind readers, and grey and diverging scales for images.

use plotters::style::RGBColor;

/// Lines and markers: from Okabe and Ito, "Color universal design" (2008).
pub const BLUE: RGBColor = RGBColor(0, 114, 178);
/// See [`BLUE`].
pub const VERMILLION: RGBColor = RGBColor(213, 94, 0);
/// See [`BLUE`].
pub const GREEN: RGBColor = RGBColor(0, 158, 115);
/// See [`BLUE`].
pub const PURPLE: RGBColor = RGBColor(204, 121, 167);
/// Text and axes.
pub const INK: RGBColor = RGBColor(34, 34, 34);
/// Secondary text.
pub const FAINT_INK: RGBColor = RGBColor(105, 105, 105);
/// Grid lines and frames.
pub const GRID: RGBColor = RGBColor(222, 222, 222);

/// Fills that carry black text: Paul Tol's "light" scheme (2021).
pub const FILLS: [RGBColor; 9] = [
    RGBColor(119, 170, 221),
    RGBColor(238, 136, 102),
    RGBColor(238, 221, 136),
    RGBColor(68, 187, 153),
    RGBColor(255, 170, 187),
    RGBColor(187, 204, 51),
    RGBColor(153, 221, 255),
    RGBColor(170, 170, 0),
    RGBColor(221, 221, 221),
];

/// Black at 0, white at 1.
pub fn grey(value: f64) -> RGBColor {
    let level = (value.clamp(0.0, 1.0) * 255.0).round() as u8;
    RGBColor(level, level, level)
}

/// Blue at −1, white at 0, vermillion at 1.
pub fn diverging(value: f64) -> RGBColor {
    let end = if value < 0.0 { BLUE } else { VERMILLION };
    let strength = value.abs().min(1.0);
    let mix = |channel: u8| (255.0 + (f64::from(channel) - 255.0) * strength).round() as u8;
    RGBColor(mix(end.0), mix(end.1), mix(end.2))
}
