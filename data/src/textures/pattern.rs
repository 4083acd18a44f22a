//! The patterns: functions of the plane, in two colours.

use crate::dice::Dice;
use std::f64::consts::TAU;

/// Points sampled along each side of a pixel.
const SAMPLES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    Bricks,
    Twill,
    Scales,
    Checks,
    Dots,
    Ripples,
    Marble,
}

/// A pattern with everything about it that is random. The image is the unit square, y downward.
pub struct Scene {
    pattern: Pattern,
    /// Repeats of the pattern along the image.
    scale: f64,
    /// A slant, as cosine and sine, and where the pattern begins.
    slant: [f64; 2],
    origin: [f64; 2],
    /// Waves that bend the plane: amplitude, frequency in both directions, phase.
    waves: [[f64; 4]; 3],
    /// The share of the pattern that is of the second colour.
    duty: f64,
    /// How soft edges are, in repeats of the pattern.
    softness: f64,
    colours: [[f64; 3]; 2],
    /// Brightness changes by these towards the right and the lower edge.
    light: [f64; 2],
}

impl Scene {
    pub fn new(pattern: Pattern, dice: &mut Dice) -> Self {
        let mut uniform = |low: f32, high: f32| f64::from(dice.uniform(low, high));
        let scale = uniform(3.2, 5.2);
        let slant = f64::from(8.0f32.to_radians()) * (uniform(-1.0, 1.0) + uniform(-1.0, 1.0));
        let origin = [uniform(-8.0, 8.0), uniform(-8.0, 8.0)];
        let mut wave = || {
            let (direction, frequency) = (uniform(0.0, 1.0) * TAU, uniform(0.6, 2.2) * TAU);
            [uniform(0.0, 0.016), frequency * direction.cos(), frequency * direction.sin(), uniform(0.0, 1.0) * TAU]
        };
        let waves = [wave(), wave(), wave()];
        let (duty, softness) = (uniform(-0.08, 0.08), uniform(0.02, 0.10));
        let (bearing, strength) = (uniform(0.0, 1.0) * TAU, uniform(0.0, 0.5));
        let light = [strength * bearing.cos(), strength * bearing.sin()];
        let colours = colours(dice);
        let slant = [slant.cos(), slant.sin()];
        Scene { pattern, scale, slant, origin, waves, duty, softness, colours, light }
    }

    /// The colour of the pixel at (row, column) of an image of `size` × `size`: the mean over its area.
    pub fn pixel(&self, row: usize, column: usize, size: usize) -> [u8; 3] {
        let place = |pixel: usize, sample: usize| (pixel as f64 + (sample as f64 + 0.5) / SAMPLES as f64) / size as f64;
        let mut share = 0.0;
        for i in 0..SAMPLES {
            for j in 0..SAMPLES {
                share += self.share(place(row, i), place(column, j));
            }
        }
        share /= (SAMPLES * SAMPLES) as f64;
        let (y, x) = (place(row, SAMPLES / 2) - 0.5, place(column, SAMPLES / 2) - 0.5);
        let light = 1.0 + self.light[0] * y + self.light[1] * x;
        std::array::from_fn(|channel| {
            let [ground, figure] = self.colours.map(|colour| colour[channel]);
            (255.0 * light * (ground + share * (figure - ground))).round().clamp(0.0, 255.0) as u8
        })
    }

    /// How much of the second colour there is at a point, 0 to 1.
    fn share(&self, y: f64, x: f64) -> f64 {
        let (mut v, mut u) = (y, x);
        for [amplitude, along_y, along_x, phase] in self.waves {
            let bend = amplitude * (along_y * y + along_x * x + phase).sin();
            (v, u) = (v + bend, u - bend);
        }
        let [cos, sin] = self.slant;
        let v_here = (cos * v + sin * u) * self.scale + self.origin[0];
        let u_here = (cos * u - sin * v) * self.scale + self.origin[1];
        self.edge(self.height(v_here, u_here))
    }

    /// From a signed distance (positive within the figure, in repeats) to a soft edge.
    fn edge(&self, distance: f64) -> f64 {
        (0.5 + distance / (2.0 * self.softness)).clamp(0.0, 1.0)
    }

    /// A function of the plane whose zeros are the edges of the figure.
    fn height(&self, v: f64, u: f64) -> f64 {
        let duty = self.duty;
        match self.pattern {
            Pattern::Bricks => {
                // Courses of height ½ and bricks of length 1.2, every other course moved by half a brick.
                let course = (2.0 * v).floor();
                let shift = if course.rem_euclid(2.0) == 0.0 { 0.0 } else { 0.6 };
                let (row, brick) = (to_line(2.0 * v) / 2.0, to_line((u + shift) / 1.2) * 1.2);
                row.min(brick) - 0.06 - 0.3 * duty.abs()
            }
            Pattern::Twill => {
                // Diagonal ribs, from lower left to upper right, each broken by short gaps.
                let (across, along) = (v + u, u - v);
                let rib = 0.25 + duty - (across - across.floor() - 0.5).abs();
                let gap = to_line(along / 2.0 + 0.5 * across.floor()) * 2.0;
                (rib * 0.8).min(gap - 0.12)
            }
            Pattern::Scales => self.scales(v, u),
            Pattern::Checks => {
                let (a, b) = (to_line(v), to_line(u));
                let sign = if (v.floor() + u.floor()).rem_euclid(2.0) == 0.0 { 1.0 } else { -1.0 };
                sign * a.min(b) + 0.5 * duty
            }
            Pattern::Dots => {
                // A square lattice that stands on its corner.
                let (a, b) = ((v + u) * 0.75, (v - u) * 0.75);
                let (a, b) = (a - a.floor() - 0.5, b - b.floor() - 0.5);
                0.32 + 0.5 * duty - (a * a + b * b).sqrt()
            }
            Pattern::Ripples => {
                // Around a point in or near the image.
                let [y, x] = self.origin.map(|o| o + (0.5 + o / 20.0) * self.scale);
                let radius = ((v - y).powi(2) + (u - x).powi(2)).sqrt();
                0.25 + duty - (radius - radius.floor() - 0.5).abs()
            }
            Pattern::Marble => {
                // Sums of waves in directions that are evenly spread.
                let sum: f64 = (0..5)
                    .map(|k| {
                        let (sin, cos) = (f64::from(k) * TAU / 10.0 + self.duty * 20.0).sin_cos();
                        ((cos * v + sin * u) * 4.4 + f64::from(k * k) * 1.3 + self.origin[0]).sin()
                    })
                    .sum();
                0.22 * sum
            }
        }
    }

    /// Rows of half discs like those of a fish, each row over the one below it and moved by half a scale.
    fn scales(&self, v: f64, u: f64) -> f64 {
        let (radius, rise) = (0.5, 0.5);
        // The scale that lies on top here: the discs of the uppermost row that reaches this far down.
        let row = (v / rise).floor();
        for above in [1.0, 0.0] {
            let row = row - above;
            let shift = if row.rem_euclid(2.0) == 0.0 { 0.0 } else { 0.5 };
            let column = (u - shift).floor();
            let (y, x) = (v - row * rise, u - shift - column - 0.5);
            let distance = (y * y + x * x).sqrt();
            if distance < radius || above == 0.0 {
                return (radius - distance).abs() - 0.11 - 0.5 * self.duty;
            }
        }
        0.0
    }
}

/// The distance to the nearest whole number.
fn to_line(t: f64) -> f64 {
    (t - t.round()).abs()
}

/// Two colours that are well apart in brightness.
fn colours(dice: &mut Dice) -> [[f64; 3]; 2] {
    let hue = |dice: &mut Dice, brightness: f64| {
        let tint: [f64; 3] = std::array::from_fn(|_| f64::from(dice.uniform(0.35, 1.0)));
        let grey = 0.299 * tint[0] + 0.587 * tint[1] + 0.114 * tint[2];
        tint.map(|t| (t * brightness / grey).min(1.0))
    };
    let (dark, bright) = (f64::from(dice.uniform(0.15, 0.4)), f64::from(dice.uniform(0.55, 0.85)));
    let (dark, bright) = (hue(dice, dark), hue(dice, bright));
    if dice.chance(0.5) { [dark, bright] } else { [bright, dark] }
}
