//! From the points of a digit to the path of the pen on the image, in pixels.

use super::{SIZE, sin, skeleton::Point};
use crate::dice::Dice;
use std::f32::consts::{FRAC_PI_2, TAU};

/// The box that the middle line of a digit and half a pen's width on either side fill, in pixels; as in MNIST.
const BOX: f32 = 20.0;
/// Distance of the points of a path, in pixels.
const STEP: f32 = 1.0;
/// Deviation of a control point, of a digit of height 1.
const JITTER: f32 = 0.02;

/// The line that the pen follows, and its radius.
pub struct Path {
    /// Strokes as polylines, in pixels; pixel (row r, column c) covers `c..c + 1` by `r..r + 1`.
    pub strokes: Vec<Vec<Point>>,
    /// Half the mean width of the strokes, in pixels.
    pub radius: f32,
}

impl Path {
    /// Jitters the points of `strokes`, bends, slants, turns and scales them, and joins them by smooth curves.
    pub fn new(strokes: &[Vec<Point>], dice: &mut Dice) -> Self {
        let radius = dice.cut_normal(1.28, 0.36).clamp(0.7, 2.3);
        let place = Placement::draw(dice);
        let mut strokes: Vec<Vec<Point>> = strokes.iter().map(|stroke| place.apply(&jitter(stroke, dice))).collect();
        fit(&mut strokes, BOX * dice.uniform(0.92, 1.04) - 2.0 * radius);
        let mut strokes: Vec<Vec<Point>> = strokes.iter().map(|stroke| curve(stroke)).collect();
        let shift = [dice.cut_normal(0.0, 0.6), dice.cut_normal(0.0, 0.6)];
        centre(&mut strokes, shift);
        Path { strokes, radius }
    }
}

/// The same points, each a little displaced; a repeated point stays a corner.
fn jitter(stroke: &[Point], dice: &mut Dice) -> Vec<Point> {
    let mut moved: Vec<Point> = Vec::with_capacity(stroke.len());
    for (i, point) in stroke.iter().enumerate() {
        let next = match moved.last() {
            Some(&last) if stroke[i - 1] == *point => last,
            _ => [point[0] + dice.cut_normal(0.0, JITTER), point[1] + dice.cut_normal(0.0, JITTER)],
        };
        moved.push(next);
    }
    moved
}

/// The bend, slant and turn of a digit.
struct Placement {
    /// Two waves for each coordinate: amplitude, frequency along x, along y, phase.
    waves: [[[f32; 4]; 2]; 2],
    matrix: [[f32; 2]; 2],
}

impl Placement {
    fn draw(dice: &mut Dice) -> Self {
        let mut wave = || {
            [dice.cut_normal(0.0, 0.05), dice.cut_normal(0.0, 2.6), dice.cut_normal(0.0, 2.6), dice.uniform(0.0, TAU)]
        };
        let waves = [[wave(), wave()], [wave(), wave()]];
        let turn = dice.cut_normal(0.0, 5.0f32.to_radians());
        let (sin, cos) = (sin(turn), sin(turn + FRAC_PI_2));
        // Most writers slant to the right.
        let (slant, aspect) = (dice.cut_normal(0.2, 0.26), f64::from(dice.cut_normal(0.14, 0.22)).exp() as f32);
        // Turn · slant · widen; y is downwards, so a slant to the right moves small y to larger x.
        let matrix = [[cos * aspect, -cos * slant - sin], [sin * aspect, cos - sin * slant]];
        Placement { waves, matrix }
    }

    fn apply(&self, stroke: &[Point]) -> Vec<Point> {
        let bend = |&[x, y]: &Point| {
            let wave = |[a, fx, fy, phase]: [f32; 4]| a * sin(fx * x + fy * y + phase);
            let [wx, wy] = self.waves.map(|[first, second]| wave(first) + wave(second));
            [x + wx, y + wy]
        };
        let turn = |[x, y]: Point| self.matrix.map(|row| row[0] * x + row[1] * y);
        stroke.iter().map(|point| turn(bend(point))).collect()
    }
}

/// Scales the strokes so that the longer side of their bounding box is `extent`.
fn fit(strokes: &mut [Vec<Point>], extent: f32) {
    let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for point in strokes.iter().flatten() {
        for axis in 0..2 {
            low[axis] = low[axis].min(point[axis]);
            high[axis] = high[axis].max(point[axis]);
        }
    }
    let scale = extent / (high[0] - low[0]).max(high[1] - low[1]);
    strokes.iter_mut().flatten().for_each(|point| *point = point.map(|v| v * scale));
}

/// Moves the centre of mass of the lines to the centre of the image plus `shift`, but nothing nearer than 3 pixels to
/// the border.
fn centre(strokes: &mut [Vec<Point>], shift: Point) {
    let (mut mass, mut moment) = (0.0, [0.0; 2]);
    let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
    for stroke in &*strokes {
        for pair in stroke.windows(2) {
            let length = distance(pair[0], pair[1]);
            mass += length;
            for axis in 0..2 {
                moment[axis] += 0.5 * length * (pair[0][axis] + pair[1][axis]);
            }
        }
        for point in stroke {
            for axis in 0..2 {
                low[axis] = low[axis].min(point[axis]);
                high[axis] = high[axis].max(point[axis]);
            }
        }
    }
    let (side, margin) = (SIZE as f32, 3.0);
    for axis in 0..2 {
        let wanted = 0.5 * side + shift[axis] - moment[axis] / mass;
        let (least, most) = (margin - low[axis], side - margin - high[axis]);
        let offset = if least <= most { wanted.clamp(least, most) } else { 0.5 * (least + most) };
        strokes.iter_mut().flatten().for_each(|point| point[axis] += offset);
    }
}

/// A polyline along the smooth curve through the points of a stroke, with corners where a point is repeated.
fn curve(stroke: &[Point]) -> Vec<Point> {
    let mut line = vec![stroke[0]];
    for piece in stroke.chunk_by(|a, b| a != b) {
        for i in 1..piece.len() {
            let (from, to) = (piece[i - 1], piece[i]);
            let before = if i > 1 { piece[i - 2] } else { mirror(to, from) };
            let after = if i + 1 < piece.len() { piece[i + 1] } else { mirror(from, to) };
            let steps = (distance(from, to) / STEP).ceil().max(1.0) as usize;
            line.extend((1..=steps).map(|k| catmull_rom([before, from, to, after], k as f32 / steps as f32)));
        }
    }
    line
}

fn distance(a: Point, b: Point) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    (dx * dx + dy * dy).sqrt()
}

/// `point` mirrored at `centre`: continues a curve past its end.
fn mirror(point: Point, centre: Point) -> Point {
    [2.0 * centre[0] - point[0], 2.0 * centre[1] - point[1]]
}

/// The centripetal Catmull–Rom curve from `p[1]` to `p[2]`, at `t` in 0..=1; unlike the uniform one, it makes no loops of
/// its own between unevenly spaced points (Yuksel, Schaefer, Keyser 2011).
fn catmull_rom(p: [Point; 4], t: f32) -> Point {
    let gap = |a: Point, b: Point| distance(a, b).sqrt().max(1e-3);
    let t1 = gap(p[0], p[1]);
    let t2 = t1 + gap(p[1], p[2]);
    let t3 = t2 + gap(p[2], p[3]);
    let t = t1 + t * (t2 - t1);
    let mix = |a: Point, b: Point, ta: f32, tb: f32| {
        let w = (t - ta) / (tb - ta);
        [a[0] + w * (b[0] - a[0]), a[1] + w * (b[1] - a[1])]
    };
    let (a1, a2, a3) = (mix(p[0], p[1], 0.0, t1), mix(p[1], p[2], t1, t2), mix(p[2], p[3], t2, t3));
    mix(mix(a1, a2, 0.0, t2), mix(a2, a3, t1, t3), t1, t2)
}
