//! The numbers that tables and figures are made of.

use quarterturn::{
    core::{Device, Tensor},
    kernels::{Group, transform_plane},
    models::{Exactness, Init},
};
use quarterturn_examples::{
    rotations::{Design, Drawn, Protocol, Subject, Turns, statistics},
    significance::{difference, holm, interval95, paired, variances_differ, welch},
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
    // The interval around the difference ends where a test at 5% does.
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let shift = mean(&a) - mean(&b) - found.half;
    let at_the_end = welch(&a, &b.map(|v| v + shift)).unwrap();
    assert!((at_the_end.p - 0.05).abs() < 1e-9, "{at_the_end:?}");
    // 21.0 and 23.5.
    assert_eq!(difference(&a, &b).as_deref(), Some("-2.50 ± 4.20 (p 0.202)"));
    assert!((interval95(&a).unwrap() - 4.161_379_532_289).abs() < 1e-6);
    assert!(welch(&a[..1], &b).is_none() && welch(&[1.0, 1.0], &[1.0, 1.0]).is_none() && interval95(&a[..1]).is_none());
}

/// Student's ten sleepers (1908), with what is printed of them everywhere: t = −4.0621, p = 0.002833, −2.4599 to −0.7001.
#[test]
fn pairs_are_compared_one_by_one() {
    let a = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0];
    let b = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4];
    let found = paired(&a, &b).unwrap();
    assert!((found.t - -4.062_128).abs() < 1e-6 && found.freedom == 9.0, "{found:?}");
    assert!((found.p - 0.002_832_89).abs() < 1e-8 && (found.half - 0.879_885_8).abs() < 1e-7, "{found:?}");
    assert!(paired(&a[1..], &b).is_none() && paired(&a[..1], &b[..1]).is_none() && paired(&a, &a).is_none());
}

/// Holm's steps by hand, and F₀.₉₇₅(5, 7) = 5.285237 from printed tables.
#[test]
fn many_comparisons_and_variances() {
    let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
    let expected = [0.03, 0.06, 0.06, 0.02];
    assert!(adjusted.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{adjusted:?}");
    assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);

    let b: [f64; 8] = [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0];
    let a = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9];
    let stretched = a.map(|v| v * statistics(&b).1 / statistics(&a).1 * 5.285_237f64.sqrt());
    for p in [variances_differ(&stretched, &b), variances_differ(&b, &stretched)] {
        assert!((p.unwrap() - 0.05).abs() < 1e-6, "{p:?}");
    }
    assert!(variances_differ(&a, &b[..1]).is_none() && variances_differ(&[1.0, 1.0], &b).is_none());
}

#[test]
fn angles_are_functions_of_seed_epoch_and_digit() {
    let normal: Turns = "normal:45:20".parse().unwrap();
    let digits: Vec<usize> = (0..20_000).collect();
    let [of_digits, of_batch, once] = Drawn::ALL.map(|drawn| {
        move |turns: Turns, seed, epoch, step, indices: &[usize]| turns.of(drawn, seed, epoch, step, indices)
    });
    let angles = of_digits(normal, 1, 0, 0, &digits);
    let mean = angles.iter().map(|&a| f64::from(a)).sum::<f64>() / 20_000.0;
    let variance = angles.iter().map(|&a| (f64::from(a) - mean).powi(2)).sum::<f64>() / 20_000.0;
    assert!((mean - 45.0).abs() < 0.6 && (variance.sqrt() - 20.0).abs() < 0.5, "{mean} {variance}");
    assert_eq!(of_digits(normal, 1, 0, 9, &[7, 3]), [angles[7], angles[3]], "whatever else is in the batch");
    assert_ne!(of_digits(normal, 1, 1, 0, &[7]), [angles[7]]);
    assert_ne!(of_digits(normal, 2, 0, 0, &[7]), [angles[7]]);

    let batch = of_batch(normal, 1, 0, 5, &[1, 2, 3]);
    assert!(batch.iter().all(|&angle| angle == batch[0]));
    assert_ne!(batch[0], of_batch(normal, 1, 0, 6, &[1])[0]);
    assert_ne!(batch[0], of_batch(normal, 1, 1, 5, &[1])[0]);

    assert_eq!(once(normal, 1, 0, 3, &digits), once(normal, 1, 9, 0, &digits));
    assert_ne!(once(normal, 1, 0, 0, &[7]), once(normal, 2, 0, 0, &[7]));
    let uniform: Turns = "uniform".parse().unwrap();
    assert!(of_digits(uniform, 1, 0, 0, &digits).iter().all(|angle| (0.0..360.0).contains(angle)));
    assert_eq!(once(uniform, 1, 0, 0, &digits), once(Turns::ROTMNIST, 1, 7, 0, &digits));
}

/// The three readings of "the rotation of each digit is sampled", and who reads it how.
#[test]
fn how_often_an_angle_is_drawn_follows_from_the_protocol_unless_it_is_said() {
    for (text, paper, published) in [
        ("normal:45:20", Drawn::Digit, Drawn::Batch),
        ("normal:45:20:digit", Drawn::Digit, Drawn::Digit),
        ("normal:45:20:batch", Drawn::Batch, Drawn::Batch),
        ("uniform", Drawn::Digit, Drawn::Batch),
        ("rotmnist", Drawn::Once, Drawn::Once),
    ] {
        let turns: Turns = text.parse().unwrap();
        assert_eq!((turns.drawn(Protocol::Paper), turns.drawn(Protocol::Published)), (paper, published), "{text}");
        assert_eq!(turns.to_string(), text);
    }
    assert_eq!("uniform:once".parse::<Turns>().unwrap(), Turns::ROTMNIST);
    assert!("upright:once".parse::<Turns>().is_err() && "rotmnist:batch".parse::<Turns>().is_err());
}

/// What the counts of three quarters of the angles are derived from: for every size and both protocols.
#[test]
fn turning_by_ninety_degrees_more_is_a_quarter_turn_of_what_the_network_sees() {
    let stream = quarterturn::core::Stream::new(3, 0, 0);
    let values = |channels: usize| (0..2 * channels * 784).map(|i| stream.normal(i as u64) as f32).collect();
    for (protocol, channels) in [(Protocol::Paper, 1), (Protocol::Published, 3)] {
        for device in quarterturn::core::testing::devices() {
            let raw = Tensor::from_vec([2, channels, 1, 28, 28], values(channels), &device).unwrap();
            for size in [27, 28, 29] {
                let images = protocol.resized(&raw, size);
                for degrees in (0..90).step_by(10) {
                    let turned = |more: f32| protocol.turned(&images, &[degrees as f32 + more, more]);
                    for turns in 1..4 {
                        let expected = transform_plane(&turned(0.0), turns).to_vec().unwrap();
                        let found = turned(90.0 * turns as f32).to_vec().unwrap();
                        assert!(
                            found == expected,
                            "{protocol}, {size}, {degrees}° and {turns} quarter turns, {device}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn networks_are_named_as_they_are_read() {
    for text in
        ["p4:28", "z2:28", "p4:27:adaptive", "p4:28:zero-0", "p4:28:circular-6", "p4:31:break-0", "p4:31:break-13"]
    {
        let subject: Subject = text.parse().unwrap();
        assert_eq!(subject.key(), text.replace(':', "-"));
        let network = subject.network(1, Init::new(1), &Device::Cpu).unwrap();
        let Subject { group, size, .. } = subject;
        // All but Z2CNN's are exact where the design says so.
        let exact = Exactness::of(&*network, [size, size]).unwrap().is_exact();
        assert_eq!(exact, group != Group::C1 && text != "p4:31:break-13", "{text}");
    }
    for wrong in ["p4", "p4:28:", "p4:28:zero-7", "p4:28:mirror-2", "p4:31:break-4", "p5:28", "p4:7"] {
        assert!(wrong.parse::<Subject>().is_err(), "{wrong}");
    }
    let published = Subject { group: Group::C4, size: 28, design: Design::Plain };
    assert_eq!(published.network(3, Init::new(1), &Device::Cpu).unwrap().parameters(), 24_990);
}

/// Zeros that the convolution sees for itself, and zeros put there before it, are one network: that of the paper.
#[test]
fn the_papers_network_is_the_one_with_six_layers_padded_by_zeros() {
    let image = |seed| {
        let stream = quarterturn::core::Stream::new(seed, 0, 0);
        Tensor::from_vec([2, 1, 1, 28, 28], (0..2 * 784).map(|i| stream.normal(i) as f32).collect(), &Device::Cpu)
            .unwrap()
    };
    let logits = |text: &str| {
        let network = text.parse::<Subject>().unwrap().network(1, Init::new(4), &Device::Cpu).unwrap();
        network.predict(&image(1)).unwrap().to_vec().unwrap()
    };
    assert_eq!(logits("p4:28"), logits("p4:28:zero-6"));
    assert_ne!(logits("p4:28"), logits("p4:28:circular-6"));
    assert_ne!(logits("p4:28:circular-6"), logits("p4:28:reflection-6"));
}

#[test]
fn densities_are_wrapped_and_sum_to_one() {
    for turns in
        ["normal:45:20", "normal:45:40", "normal:-300:7.5", "normal:0:500", "normal:45:20:once", "uniform", "rotmnist"]
    {
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
