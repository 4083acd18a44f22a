//! The numbers that tables and figures are made of.

use quarterturn_examples::{
    rotations::Turns,
    significance::{interval95, welch},
};

/// By Simpson's rule from the density, and t₀.₉₇₅(5) = 2.570582 from printed tables.
#[test]
fn welchs_test_and_the_interval_agree_with_integration_by_hand() {
    let a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9];
    let b = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0];
    let found = welch(&a, &b).unwrap();
    assert!((found.t - -1.406_927_128_858).abs() < 1e-9, "{found:?}");
    assert!((found.freedom - 7.046_874_533_683).abs() < 1e-9, "{found:?}");
    assert!((found.p - 0.201_988_677_353).abs() < 1e-9, "{found:?}");
    assert!((interval95(&a).unwrap() - 4.161_379_532_289).abs() < 1e-6);
    assert!(welch(&a[..1], &b).is_none() && welch(&[1.0, 1.0], &[1.0, 1.0]).is_none() && interval95(&a[..1]).is_none());
}

#[test]
fn angles_are_functions_of_seed_epoch_and_digit() {
    let normal: Turns = "normal:45:20".parse().unwrap();
    let digits: Vec<usize> = (0..20_000).collect();
    let angles = normal.of_digits(1, 0, &digits);
    let mean = angles.iter().map(|&a| f64::from(a)).sum::<f64>() / 20_000.0;
    let variance = angles.iter().map(|&a| (f64::from(a) - mean).powi(2)).sum::<f64>() / 20_000.0;
    assert!((mean - 45.0).abs() < 0.6 && (variance.sqrt() - 20.0).abs() < 0.5, "{mean} {variance}");
    assert_eq!(normal.of_digits(1, 0, &[7, 3]), [angles[7], angles[3]], "whatever else is in the batch");
    assert_ne!(normal.of_digits(1, 1, &[7]), [angles[7]]);
    assert_ne!(normal.of_digits(2, 0, &[7]), [angles[7]]);

    let batch = normal.of_batch(1, 0, 5, &[1, 2, 3]);
    assert!(batch.iter().all(|&angle| angle == batch[0]));
    assert_ne!(batch[0], normal.of_batch(1, 0, 6, &[1])[0]);

    let fixed: Turns = "rotmnist".parse().unwrap();
    assert_eq!(fixed.of_digits(1, 0, &digits), fixed.of_digits(1, 9, &digits));
    assert_eq!(fixed.of_batch(1, 9, 5, &digits), fixed.of_digits(1, 0, &digits));
    let uniform: Turns = "uniform".parse().unwrap();
    assert_ne!(uniform.of_digits(1, 0, &digits), uniform.of_digits(1, 9, &digits));
    assert!(uniform.of_digits(1, 0, &digits).iter().all(|angle| (0.0..360.0).contains(angle)));
}

#[test]
fn densities_are_wrapped_and_sum_to_one() {
    for turns in ["normal:45:20", "normal:45:40", "normal:-300:7.5", "normal:0:500", "uniform", "rotmnist"] {
        let turns: Turns = turns.parse().unwrap();
        let sum: f64 = (0..360).map(|degrees| turns.density(f64::from(degrees)).unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{turns}: {sum}");
        assert!((turns.density(0.0).unwrap() - turns.density(360.0).unwrap()).abs() < 1e-12);
        assert_eq!(turns.to_string().parse::<Turns>().unwrap(), turns);
        assert!(!turns.key().contains(['.', ':']));
    }
    for wrong in ["", "normal", "normal:45", "normal:45:-1", "normal:x:1", "normal:1:NaN", "sideways"] {
        assert!(wrong.parse::<Turns>().is_err(), "{wrong}");
    }
}

/// What a checkpoint keeps as JSON comes back with every bit, or a resumed run would not end as an uninterrupted one does.
#[test]
fn numbers_come_back_from_json_to_the_last_bit() {
    let stream = quarterturn::core::Stream::new(1, 0, 0);
    for i in 0..10_000 {
        let value = stream.normal(i) * 10f64.powi(i as i32 % 40 - 20);
        let back: f64 = serde_json::from_str(&serde_json::to_string(&value).unwrap()).unwrap();
        assert_eq!(value.to_bits(), back.to_bits(), "{value:e}");
    }
}
