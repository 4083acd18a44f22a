//! When windows, crops and resizing along one axis commute with its reversal; a quarter turn needs that of both axes.

/// A window that slides along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Samples from the first tap to the last.
    pub reach: i64,
    /// From one window to the next.
    pub stride: i64,
    /// Samples of padding before and behind.
    pub pads: [i64; 2],
    /// Whether a last window may begin that padding does not suffice for.
    pub ceil: bool,
}

impl Sliding {
    /// How many windows there are on `i` samples; `None` if not one fits.
    pub fn windows(&self, i: i64) -> Option<i64> {
        let Sliding { reach, stride, pads: [before, behind], ceil } = *self;
        let free = i + before + behind - reach;
        if stride < 1 || reach < 1 || free < 0 {
            return None;
        }
        let windows = free / stride + 1;
        // As in PyTorch and ONNX, no window begins behind the samples and the padding before them.
        let another = ceil && free % stride > 0 && windows * stride < i + before;
        Some(windows + i64::from(another))
    }

    /// What the windows leave over behind, less what they leave over before: 0 iff they lie as they would from the other end.
    /// With pads p on both sides, that is `(i + 2p − k) mod s`.
    pub fn left_over(&self, i: i64) -> Option<i64> {
        let Sliding { reach, stride, pads: [before, _], .. } = *self;
        let windows = self.windows(i)?;
        Some(i + 2 * before - (stride * (windows - 1) + reach))
    }

    /// The pads that `auto_pad` stands for on `i` samples: so many in all that `⌈i/s⌉` windows fit, the odd one behind or before.
    #[must_use]
    pub fn same(self, i: i64, odd_before: bool) -> Self {
        let windows = (i + self.stride - 1) / self.stride;
        let all = ((windows - 1) * self.stride + self.reach - i).max(0);
        let (less, more) = (all / 2, all - all / 2);
        Sliding { pads: if odd_before { [more, less] } else { [less, more] }, ..self }
    }
}

/// How a resized axis finds the places that its samples come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinates {
    /// Between centres: `(o + ½)/scale − ½`.
    HalfPixel,
    /// The same, but place 0 for a single one.
    PytorchHalfPixel,
    /// From the first sample to the last.
    AlignCorners,
    /// `o/scale`.
    Asymmetric,
}

/// Which sample is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// The one before.
    Floor,
    /// The one behind.
    Ceil,
    /// The nearer one, of two as near the first.
    RoundPreferFloor,
    /// The nearer one, of two as near the second.
    RoundPreferCeil,
}

/// Whether resizing an axis from `from` to `to` samples commutes with its reversal. `nearest` is `None` where it interpolates.
pub fn resize_commutes(from: i64, to: i64, scale: f64, coordinates: Coordinates, nearest: Option<Nearest>) -> bool {
    let place = |o: i64| match coordinates {
        Coordinates::PytorchHalfPixel if to == 1 => 0.0,
        Coordinates::HalfPixel | Coordinates::PytorchHalfPixel => (o as f64 + 0.5) / scale - 0.5,
        Coordinates::AlignCorners if to == 1 => 0.0,
        Coordinates::AlignCorners => o as f64 * (from - 1) as f64 / (to - 1) as f64,
        Coordinates::Asymmetric => o as f64 / scale,
    };
    let sample = |o: i64| {
        let place = place(o).clamp(0.0, (from - 1) as f64);
        // What lies on an edge is found there, although thirds are rounded.
        let near = if (place * 2.0 - (place * 2.0).round()).abs() < 1e-9 { (place * 2.0).round() / 2.0 } else { place };
        match nearest {
            None => near,
            Some(Nearest::Floor) => near.floor(),
            Some(Nearest::Ceil) => near.ceil(),
            Some(Nearest::RoundPreferFloor) => (near - 0.5).ceil(),
            Some(Nearest::RoundPreferCeil) => (near + 0.5).floor(),
        }
    };
    (0..to).all(|o| (sample(o) + sample(to - 1 - o) - (from - 1) as f64).abs() < 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::window_residual;

    /// Windows on samples, counted: they commute iff the places of the taps, reversed, are those of the windows from the end.
    #[test]
    fn what_is_left_over_says_what_places_say() {
        let mut seen = [0, 0];
        for i in 1..12 {
            for reach in 1..5 {
                for stride in 1..4 {
                    for (before, behind) in [(0, 0), (1, 1), (0, 1), (1, 0), (2, 1)] {
                        for ceil in [false, true] {
                            let window = Sliding { reach, stride, pads: [before, behind], ceil };
                            let Some(windows) = window.windows(i) else { continue };
                            let places: Vec<i64> = (0..windows).map(|o| o * stride - before).collect();
                            let reversed: Vec<i64> = places.iter().rev().map(|at| i - reach - at).collect();
                            let exact = window.left_over(i) == Some(0);
                            assert_eq!(places == reversed, exact, "{window:?} on {i}");
                            seen[usize::from(exact)] += 1;
                            if before == behind && !ceil {
                                let [i, reach, stride, before] = [i, reach, stride, before].map(|v| v as usize);
                                let residual = window_residual(i, reach, stride, before).map(|r| r as i64);
                                assert_eq!(window.left_over(i as i64), residual);
                            }
                        }
                    }
                }
            }
        }
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
    }

    #[test]
    fn same_pads_are_those_of_the_specification() {
        let window = Sliding { reach: 3, stride: 2, pads: [0, 0], ceil: false };
        assert_eq!(window.same(224, false).pads, [0, 1]);
        assert_eq!(window.same(224, true).pads, [1, 0]);
        assert_eq!(window.same(225, false).pads, [1, 1]);
        assert_eq!(window.same(225, false).left_over(225), Some(0));
        assert_eq!(window.same(224, false).left_over(224), Some(-1));
    }

    #[test]
    fn resizing_commutes_from_centre_to_centre() {
        use Coordinates::*;
        let linear =
            |coordinates, from: i64, to: i64| resize_commutes(from, to, to as f64 / from as f64, coordinates, None);
        assert!(linear(HalfPixel, 7, 14) && linear(AlignCorners, 5, 9) && linear(HalfPixel, 6, 9));
        assert!(!linear(Asymmetric, 7, 14) && !linear(Asymmetric, 6, 9));
        let nearest =
            |from: i64, to: i64, rule| resize_commutes(from, to, to as f64 / from as f64, Asymmetric, Some(rule));
        assert!(nearest(7, 14, Nearest::Floor) && !nearest(7, 14, Nearest::Ceil) && !nearest(6, 9, Nearest::Floor));
        let halves = |from: i64, to: i64| {
            resize_commutes(from, to, to as f64 / from as f64, HalfPixel, Some(Nearest::RoundPreferCeil))
        };
        for from in 1..20 {
            for to in 1..20 {
                let expected = quarterturn_kernels::nearest_commutes(from as usize, to as usize);
                assert_eq!(halves(from, to), expected, "{from} to {to}");
            }
        }
    }
}
