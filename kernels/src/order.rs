//! Comparisons on which NaN wins: of a maximum, a ReLU and its gradient. The shaders' own are in `prelude.wgsl`.

/// Whether `v` takes the place of the maximum so far: it is greater, or the first NaN.
#[inline(always)]
#[expect(clippy::eq_op, clippy::neg_cmp_op_on_partial_ord, reason = "NaN alone differs from itself and is not below")]
pub(crate) fn is_greater<T: PartialOrd>(v: &T, max: &T) -> bool {
    // Both are looked at, so that no branch comes of it.
    !(v <= max) & (max == max)
}

/// The greater one, or NaN.
#[inline(always)]
pub(crate) fn greater<T: PartialOrd>(v: T, max: T) -> T {
    if is_greater(&v, &max) { v } else { max }
}

/// Where `values` has its first maximum. Of an empty slice, 0.
pub(crate) fn first_maximum<T: PartialOrd>(values: impl IntoIterator<Item = T>) -> usize {
    let mut values = values.into_iter();
    let Some(mut max) = values.next() else { return 0 };
    let mut best = 0;
    for (i, v) in (1..).zip(values) {
        if is_greater(&v, &max) {
            (best, max) = (i, v);
        }
    }
    best
}

/// `max(x, 0)`, or NaN; −0 stays.
#[inline(always)]
pub(crate) fn positive_part<T: PartialOrd + Default>(x: T) -> T {
    if T::default() > x { T::default() } else { x }
}

/// Whether a gradient passes the ReLU whose result is `y`: it is positive, or NaN.
#[inline(always)]
#[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not below 0, nor above")]
pub(crate) fn passes<T: PartialOrd + Default>(y: T) -> bool {
    !(y <= T::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nan_is_the_greatest() {
        let nan = f32::NAN;
        assert_eq!(first_maximum([1.0, nan, 3.0, nan, f32::INFINITY]), 1);
        assert_eq!(first_maximum([nan, nan]), 0);
        assert_eq!(first_maximum([-f32::INFINITY, -f32::INFINITY]), 0);
        assert_eq!(first_maximum([-0.0, 0.0, 2.0, 2.0]), 2);
        assert!(greater(nan, 1.0).is_nan() && greater(1.0, nan).is_nan() && positive_part(nan).is_nan());
        assert_eq!(positive_part(-0.0f32).to_bits(), (-0.0f32).to_bits());
        assert_eq!([-1.0, -0.0, 0.0, 1.0, nan].map(passes), [false, false, false, true, true]);
    }
}
