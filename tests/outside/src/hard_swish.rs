//! An activation: one definition for all devices.

use quarterturn::kernels::{Elementwise, each};

/// `x·clamp(x + 3, 0, 6)/6` (Howard et al. 2019).
pub static HARD_SWISH: Elementwise = Elementwise {
    name: "hard_swish",
    parameters: [],
    value: |x, []| x.max(-3.0) * ((x + 3.0).clamp(0.0, 6.0) / 6.0),
    slope: |x, []| if x.abs() < 3.0 { (2.0 * x + 3.0) / 6.0 } else { f64::from(u8::from(x > 0.0)) },
    cpu: Some([
        |x, y, []| each(x, y, |x| x.max(-3.0) * ((x + 3.0).clamp(0.0, 6.0) / 6.0)),
        |x, y, []| each(x, y, |x| if x.abs() < 3.0 { (2.0 * x + 3.0) / 6.0 } else { f32::from(u8::from(x > 0.0)) }),
    ]),
    wgsl: [
        "max(x, -3.0) * (clamp(x + 3.0, 0.0, 6.0) / 6.0)",
        "select(select(0.0, 1.0, x > 0.0), (2.0 * x + 3.0) / 6.0, abs(x) < 3.0)",
    ],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::all_devices;

    #[test]
    fn every_device_agrees_and_the_slope_is_right() {
        let smooth = [-90.0, -7.0, -2.9, -1.2, -0.1, 0.3, 2.5, 40.0];
        assert_eq!(HARD_SWISH.check([], &smooth, &all_devices()).unwrap(), Ok(()));
    }
}
