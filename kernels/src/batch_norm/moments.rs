//! Mean and variance of a channel on the CPU: of pieces in `f32`, of all of them in `f64`.

use super::cpu::gradient_lane_sums;
use crate::{simd::wide, sweep::lane_sums};

/// Count, mean and sum of squared deviations from it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

/// A channel's statistics, as they are kept.
#[derive(Clone, Copy)]
pub(super) struct Statistic {
    /// The mean, rounded.
    pub mean: f32,
    /// What rounding took from it.
    pub rest: f32,
    /// Biased.
    pub var: f32,
}

impl Moments {
    /// Elements whose moments are taken in `f32`: they must fit the first cache, for they are read twice.
    pub const PIECE: usize = 4096;

    pub(crate) fn of(x: &[f32]) -> Self {
        let of_piece = |piece| {
            let moments = piece_moments(piece);
            if moments.squares.is_finite() { moments } else { Moments::of_extremes(piece) }
        };
        x.chunks(Self::PIECE).map(of_piece).fold(Moments::default(), Moments::merged)
    }

    /// In `f64`: of numbers whose sum or squares `f32` does not hold.
    #[cold]
    fn of_extremes(x: &[f32]) -> Self {
        let (count, first) = (x.len() as f64, x.first().map_or(0.0, |&v| f64::from(v)));
        // So that the mean of equal numbers is theirs: even the square of what `f64` rounds away here would count.
        let mean = first + x.iter().map(|&v| f64::from(v) - first).sum::<f64>() / count;
        Moments { count, mean, squares: x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum() }
    }

    /// Those of two sets together (Chan, Golub & LeVeque 1979).
    pub fn merged(self, other: Moments) -> Moments {
        let count = self.count + other.count;
        let step = other.mean - self.mean;
        Moments {
            count,
            mean: self.mean + step * (other.count / count),
            squares: self.squares + other.squares + step * step * (self.count * other.count / count),
        }
    }

    /// Of channel `c` of `channels`, where `moments` are those of each image's channels.
    pub(super) fn of_channel(moments: &[Moments], c: usize, channels: usize) -> Self {
        moments[c..].iter().step_by(channels).copied().fold(Moments::default(), Moments::merged)
    }

    /// `[Σ x, Σ x²]`.
    pub(super) fn sums(self) -> [f64; 2] {
        let sum = self.count * self.mean;
        [sum, self.squares + sum * self.mean]
    }

    pub(super) fn statistic(self) -> Statistic {
        let (mean, var) = (self.mean as f32, (self.squares / self.count) as f32);
        if !var.is_finite() {
            return Statistic { mean: f32::NAN, rest: f32::NAN, var: f32::NAN };
        }
        Statistic { mean, rest: (self.mean - f64::from(mean)) as f32, var }
    }
}

wide! {
    fn piece_moments(x: &[f32]) -> Moments {
        let count = x.len() as f64;
        // About the mean up to rounding, and what rounding left is found on the way.
        let centre = (lane_sums(x, |v| v) / count) as f32;
        let [off, squares] = gradient_lane_sums(x, x, x, centre, |v, _, _| v - centre);
        let squares = squares - off * (off / count);
        Moments { count, mean: f64::from(centre) + off / count, squares: if squares < 0.0 { 0.0 } else { squares } }
    }
}
