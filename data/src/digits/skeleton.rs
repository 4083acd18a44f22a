//! How each digit is written: the points that the pen passes, in the styles that people use.
//!
//! Coordinates have y downwards, 0 at the top of the digit and 1 at its foot. A smooth curve runs through the points of
//! a stroke; a point that is repeated is a corner.

use super::sin;
use crate::dice::Dice;
use std::f32::consts::{FRAC_PI_2, PI, TAU};

/// A point `[x, y]`.
pub type Point = [f32; 2];

/// The strokes of a digit in a style that the dice choose.
pub fn strokes(digit: u8, dice: &mut Dice) -> Vec<Vec<Point>> {
    match digit {
        0 => zero(dice),
        1 => one(dice),
        2 => two(dice),
        3 => three(dice),
        4 => four(dice),
        5 => five(dice),
        6 => six(dice),
        7 => seven(dice),
        8 => eight(dice),
        _ => nine(dice),
    }
}

/// Points on an ellipse from angle `start` over `sweep`; angles in radians, clockwise from the right as y is downwards.
fn arc(centre: Point, radii: Point, start: f32, sweep: f32) -> Vec<Point> {
    let steps = (sweep.abs() / TAU * 10.0).ceil().max(3.0);
    let at = |angle: f32| [centre[0] + radii[0] * sin(angle + FRAC_PI_2), centre[1] + radii[1] * sin(angle)];
    (0..=steps as usize).map(|i| at(start + sweep * i as f32 / steps)).collect()
}

/// An oval, not quite closed or written a little past its beginning.
fn zero(dice: &mut Dice) -> Vec<Vec<Point>> {
    let width = dice.uniform(0.22, 0.46);
    let start = dice.cut_normal(-0.45 * PI, 0.25);
    let sweep = -TAU + dice.cut_normal(-0.05, 0.18);
    let mut oval = arc([0.5, 0.5], [width, 0.5], start, sweep);
    // The end misses the beginning by drifting inwards or outwards.
    let drift = dice.cut_normal(0.0, 0.05);
    let last = (oval.len() - 1) as f32;
    for (i, point) in oval.iter_mut().enumerate() {
        let shrink = 1.0 - drift * i as f32 / last;
        *point = [0.5 + (point[0] - 0.5) * shrink, 0.5 + (point[1] - 0.5) * shrink];
    }
    vec![oval]
}

/// A stroke; some have a flag at the top, some of these a foot.
fn one(dice: &mut Dice) -> Vec<Vec<Point>> {
    let bend = dice.cut_normal(0.0, 0.025);
    let stem = [[0.3, 0.0], [0.3 + bend, 0.5], [0.3, 1.0]];
    if dice.chance(0.72) {
        return vec![stem.to_vec()];
    }
    let (reach, drop) = (dice.uniform(0.12, 0.3), dice.uniform(0.12, 0.3));
    let flag = [[0.3 - reach, drop], [0.3 - 0.45 * reach, 0.55 * drop], stem[0]];
    let mut strokes = vec![[flag.as_slice(), &stem].concat()];
    if dice.chance(0.4) {
        let half = dice.uniform(0.15, 0.32);
        strokes.push(vec![[0.3 - half, 1.0], [0.3, 0.99], [0.3 + half, 1.0]]);
    }
    strokes
}

/// A hook over a diagonal; the base begins with a corner, with a loop, or with a soft turn.
fn two(dice: &mut Dice) -> Vec<Vec<Point>> {
    let right = dice.uniform(0.5, 0.64);
    let mut points = vec![
        [0.06, dice.uniform(0.14, 0.3)],
        [0.17, 0.06],
        [0.36, 0.0],
        [right - 0.04, 0.12],
        [right - 0.03, 0.34],
        [0.34, 0.64],
    ];
    let style = dice.uniform(0.0, 1.0);
    if style < 0.45 {
        let foot = [0.03, 0.97];
        points.extend([[0.16, 0.83], foot, foot, [0.36, 0.97], [0.66, dice.uniform(0.92, 1.02)]]);
    } else if style < 0.8 {
        let size = dice.uniform(0.7, 1.2);
        let loops = [[0.16, 0.14], [0.02, 0.16], [0.0, 0.08], [0.09, 0.02], [0.24, 0.08], [0.46, 0.17], [0.68, 0.1]];
        points.extend(loops.map(|[x, y]| [x, 0.82 + size * y]));
    } else {
        points.extend([[0.14, 0.86], [0.1, 0.96], [0.3, 0.94], [0.5, 1.0], [0.68, 0.93]]);
    }
    vec![points]
}

/// Two bows; the top is round or flat, and they meet in a corner or a small loop.
fn three(dice: &mut Dice) -> Vec<Vec<Point>> {
    let waist = dice.uniform(0.42, 0.5);
    let inner = dice.uniform(0.18, 0.34);
    let mut points = if dice.chance(0.82) {
        let right = dice.uniform(0.46, 0.6);
        vec![
            [0.06, dice.uniform(0.06, 0.18)],
            [0.27, 0.0],
            [right - 0.04, 0.07],
            [right - 0.02, 0.26],
            [inner + 0.12, waist - 0.04],
        ]
    } else {
        let top = [0.56, 0.03];
        vec![[0.05, 0.04], [0.3, 0.02], top, top, [0.42, 0.22]]
    };
    if dice.chance(0.75) {
        points.extend([[inner, waist], [inner, waist]]);
    } else {
        points.extend([[inner - 0.02, waist + 0.02], [inner - 0.03, waist - 0.05], [inner + 0.05, waist - 0.03]]);
    }
    let right = dice.uniform(0.52, 0.66);
    points.extend([
        [right - 0.12, waist + 0.06],
        [right, 0.73],
        [right - 0.13, 0.94],
        [0.24, 1.0],
        [dice.uniform(-0.02, 0.08), dice.uniform(0.8, 0.95)],
    ]);
    vec![points]
}

/// Open with two strokes (an angle or a cup, and a stem), or closed with a diagonal.
fn four(dice: &mut Dice) -> Vec<Vec<Point>> {
    let style = dice.uniform(0.0, 1.0);
    let bar = dice.uniform(0.48, 0.62);
    let stem = dice.uniform(0.42, 0.54);
    let foot = [stem + dice.cut_normal(-0.03, 0.03), 1.0];
    if style < 0.4 {
        let corner = [0.02, bar];
        let angle =
            vec![[0.12, dice.uniform(0.0, 0.1)], [0.08, 0.3], corner, corner, [0.3, bar - 0.02], [0.68, bar - 0.03]];
        let top = dice.uniform(-0.02, 0.2);
        return vec![angle, vec![[stem + 0.02, top], [stem, 0.55], foot]];
    }
    if style < 0.72 {
        let cup = vec![
            [0.08, dice.uniform(0.0, 0.08)],
            [0.03, 0.26],
            [0.08, bar - 0.08],
            [0.26, bar - 0.03],
            [stem, bar - 0.14],
        ];
        return vec![cup, vec![[stem + 0.05, dice.uniform(-0.03, 0.1)], [stem + 0.01, 0.5], foot]];
    }
    let (top, corner) = ([stem, 0.0], [0.0, bar + 0.06]);
    let flag = vec![top, [0.5 * stem, 0.5 * bar], corner, corner, [0.34, bar + 0.05], [0.7, bar + 0.04]];
    vec![flag, vec![top, [stem - 0.01, 0.5], foot]]
}

/// A neck, a belly and a roof; written in one stroke or with the roof last.
fn five(dice: &mut Dice) -> Vec<Vec<Point>> {
    let shoulder = dice.uniform(0.36, 0.48);
    let neck = [dice.uniform(0.1, 0.2), 0.03];
    let corner = [neck[0] - dice.uniform(0.02, 0.08), shoulder];
    let belly = dice.uniform(0.5, 0.64);
    let roof = [dice.uniform(0.48, 0.72), dice.uniform(-0.04, 0.06)];
    let mut body = vec![
        neck,
        [0.5 * (neck[0] + corner[0]), 0.5 * (neck[1] + corner[1])],
        corner,
        corner,
        [0.27, shoulder - 0.07],
        [belly - 0.05, shoulder + 0.1],
        [belly, 0.72],
        [belly - 0.16, 0.94],
        [0.2, 1.0],
        [dice.uniform(-0.06, 0.06), dice.uniform(0.82, 0.95)],
    ];
    let middle = [0.5 * (neck[0] + roof[0]), 0.02];
    if dice.chance(0.55) {
        return vec![body, vec![neck, middle, roof]];
    }
    let mut points = vec![roof, middle, neck];
    points.append(&mut body);
    vec![points]
}

/// A stem that runs into a loop.
fn six(dice: &mut Dice) -> Vec<Vec<Point>> {
    let lean = dice.uniform(0.26, 0.56);
    let top = dice.uniform(0.46, 0.62);
    let right = dice.uniform(0.44, 0.62);
    let close = dice.uniform(0.7, 0.84);
    vec![vec![
        [lean, 0.0],
        [0.5 * lean + 0.04, 0.22],
        [0.06, 0.52],
        [0.04, 0.78],
        [0.2, 0.99],
        [right - 0.12, 0.97],
        [right, 0.77],
        [right - 0.13, top + 0.01],
        [0.22, top + 0.06],
        [0.08, close],
    ]]
}

/// A roof and a leg, straight or bent; some have a serif, some a bar.
fn seven(dice: &mut Dice) -> Vec<Vec<Point>> {
    let corner = [dice.uniform(0.5, 0.66), dice.uniform(0.0, 0.06)];
    let left = [0.02, dice.uniform(0.02, 0.12)];
    let foot = [dice.uniform(0.12, 0.34), 1.0];
    let bend = dice.cut_normal(-0.03, 0.04);
    let knee = [0.5 * (corner[0] + foot[0]) + bend, 0.48];
    let mut points = Vec::new();
    if dice.chance(0.25) {
        points.extend([[0.0, left[1] + dice.uniform(0.08, 0.18)], left]);
    }
    points.extend([left, [0.3, 0.5 * (left[1] + corner[1])], corner]);
    if dice.chance(0.7) {
        points.push(corner);
    }
    points.extend([knee, foot]);
    let mut strokes = vec![points];
    if dice.chance(0.22) {
        let (half, tilt) = (dice.uniform(0.14, 0.24), dice.cut_normal(-0.02, 0.03));
        strokes.push(vec![[knee[0] - half, knee[1] - tilt], knee, [knee[0] + half, knee[1] + tilt]]);
    }
    strokes
}

/// Two loops in one stroke, or two ovals one above the other.
fn eight(dice: &mut Dice) -> Vec<Vec<Point>> {
    let upper = dice.uniform(0.16, 0.26);
    let lower = dice.uniform(0.2, 0.3);
    let waist = dice.uniform(0.42, 0.54);
    if dice.chance(0.22) {
        let top = arc([0.3, 0.5 * waist], [upper, 0.5 * waist], 0.5 * PI, -TAU);
        let bottom = arc([0.3, 0.5 * (1.0 + waist)], [lower, 0.5 * (1.0 - waist)], -0.5 * PI, TAU + 0.1);
        return vec![top, bottom];
    }
    let middle = 0.5 * waist;
    let below = 0.5 * (1.0 + waist);
    let start = [0.3 + upper + dice.uniform(-0.04, 0.12), middle - dice.uniform(0.02, 0.2)];
    let end = [0.3 + upper + dice.uniform(-0.06, 0.1), middle - dice.uniform(0.0, 0.24)];
    vec![vec![
        start,
        [0.34, 0.0],
        [0.3 - 0.8 * upper, 0.05],
        [0.3 - upper, middle - 0.02],
        [0.3 - 0.3 * upper, waist - 0.07],
        [0.3 + 0.45 * lower, waist + 0.1],
        [0.3 + lower, below],
        [0.3 + 0.55 * lower, 0.97],
        [0.3 - 0.3 * lower, 1.0],
        [0.3 - lower, below + 0.06],
        [0.3 - 0.6 * lower, waist + 0.13],
        [0.3 + 0.3 * upper, waist - 0.08],
        [0.3 + 0.85 * upper, middle + 0.02],
        end,
    ]]
}

/// A loop with a stem: straight, or bent as a 6 on its head.
fn nine(dice: &mut Dice) -> Vec<Vec<Point>> {
    let left = dice.uniform(-0.04, 0.1);
    let bottom = dice.uniform(0.38, 0.52);
    let right = dice.uniform(0.48, 0.58);
    let mut points = vec![
        [right - 0.01, dice.uniform(0.08, 0.2)],
        [0.36, 0.0],
        [left + 0.1, 0.08],
        [left, 0.5 * bottom + 0.02],
        [left + 0.1, bottom - 0.02],
        [0.5 * (left + right) + 0.08, bottom - 0.04],
        [right - 0.03, 0.5 * bottom],
    ];
    let join = [right, dice.uniform(0.04, 0.16)];
    let foot = dice.uniform(0.3, 0.54);
    if dice.chance(0.7) {
        points.extend([join, join, [0.6 * right + 0.4 * foot + 0.01, 0.5], [foot, 1.0]]);
    } else {
        points.extend([join, [right + 0.02, 0.5], [right - 0.1, 0.86], [0.24, 1.0], [dice.uniform(0.0, 0.1), 0.9]]);
    }
    vec![points]
}
