//! The pen: ink on the pixels near a path.

use super::{SIZE, path::Path, sin, skeleton::Point};
use crate::dice::Dice;
use std::f32::consts::TAU;

/// The image that a pen of the path's radius leaves. Coverage falls linearly with the distance from the stroke's
/// edge over `softness` pixels, which anti-aliases it; radius and pressure vary along the stroke.
pub fn trace(path: &Path, dice: &mut Dice) -> [u8; SIZE * SIZE] {
    let softness = dice.uniform(0.9, 1.5);
    let mut ink = [0.0; SIZE * SIZE];
    for stroke in &path.strokes {
        let pressure = dice.uniform(0.95, 1.2);
        // The width swells and shrinks once or twice on the way, and thins towards the end.
        let (swell, phase, taper) = (dice.uniform(0.0, 0.18), dice.uniform(0.0, TAU), dice.uniform(0.0, 0.3));
        let last = (stroke.len() - 1) as f32;
        let radius = |i: usize| {
            let t = i as f32 / last;
            path.radius * (1.0 + swell * sin(7.0 * t + phase)) * (1.0 - taper * (t - 0.7).max(0.0) / 0.3)
        };
        for (i, pair) in stroke.windows(2).enumerate() {
            line(&mut ink, [pair[0], pair[1]], [radius(i), radius(i + 1)], softness, pressure);
        }
    }
    finish(&ink, dice)
}

/// Adds a line whose radius goes from `radii[0]` to `radii[1]`: where strokes overlap, the darker ink stays.
fn line(ink: &mut [f32; SIZE * SIZE], [a, b]: [Point; 2], radii: [f32; 2], softness: f32, pressure: f32) {
    let reach = radii[0].max(radii[1]) + 0.5 * softness;
    let pixels = |axis: usize| {
        let low = (a[axis].min(b[axis]) - reach - 0.5).ceil().max(0.0) as usize;
        let high = (a[axis].max(b[axis]) + reach - 0.5).floor().min(SIZE as f32 - 1.0);
        low..(high + 1.0).max(0.0) as usize
    };
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let scale = 1.0 / (dx * dx + dy * dy).max(1e-9);
    for row in pixels(1) {
        for column in pixels(0) {
            let (x, y) = (column as f32 + 0.5 - a[0], row as f32 + 0.5 - a[1]);
            let t = ((x * dx + y * dy) * scale).clamp(0.0, 1.0);
            let (ex, ey) = (x - t * dx, y - t * dy);
            let inside = radii[0] + t * (radii[1] - radii[0]) - (ex * ex + ey * ey).sqrt();
            let coverage = (0.5 + inside / softness).max(0.0) * pressure;
            let pixel = &mut ink[row * SIZE + column];
            *pixel = pixel.max(coverage);
        }
    }
}

/// Grain where there is ink, then 8 bits; well-inked pixels are white all the same. The paper stays black.
fn finish(ink: &[f32; SIZE * SIZE], dice: &mut Dice) -> [u8; SIZE * SIZE] {
    let grain = dice.uniform(0.0, 0.35);
    let mut words = [0; 4];
    let mut drawn = 16;
    let mut pixels = [0; SIZE * SIZE];
    for (pixel, &coverage) in pixels.iter_mut().zip(ink) {
        if coverage > 0.0 {
            if drawn == 16 {
                words = dice.words();
                drawn = 0;
            }
            let byte = words[drawn / 4] >> (8 * (drawn % 4)) & 255;
            drawn += 1;
            let noise = (byte as f32 - 127.5) / 127.5;
            *pixel = (255.0 * coverage.min(1.15) * (1.0 + grain * noise)).round().clamp(0.0, 255.0) as u8;
        }
    }
    pixels
}
