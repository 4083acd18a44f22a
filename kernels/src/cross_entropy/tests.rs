use super::*;
use crate::{
    Group,
    parity::{Tolerance, check, devices_and_reference, random, random_labels, same_bits},
    scale, transform_plane,
};

#[test]
fn parity() {
    for (n, classes) in [(1, 1), (1, 10), (2, 2), (15, 10), (64, 10), (65, 3), (257, 10), (17, 65), (3, 1000)] {
        let name = format!("{n} {classes}");
        // Some confident rows, so that exponentials spread.
        let logits = scale(&random([n, classes], 1), 8.0);
        let (labels, dloss) = (random_labels(n, classes, 2), random([], 3));
        check(&format!("cross_entropy {name}"), &[&logits, &labels], Tolerance::Terms(4), |t| {
            vec![cross_entropy(&t[0], &t[1])]
        });
        check(&format!("cross_entropy_vjp {name}"), &[&logits, &labels, &dloss], Tolerance::Terms(4), |t| {
            vec![cross_entropy_vjp(&t[0], &t[1], &t[2])]
        });
        check(&format!("argmax {name}"), &[&logits, &labels], Tolerance::Exact, |t| {
            vec![argmax(&t[0], 1), count_correct(&t[0], &t[1])]
        });
    }
}

#[test]
fn two_classes_by_hand() {
    let logits = Tensor::reference([2, 2], vec![0.0, 0.0, 3f64.ln(), 0.0]);
    let labels = Tensor::reference([2], vec![1.0, 0.0]);
    let loss = cross_entropy(&logits, &labels).f64s()[0];
    assert!((loss - (2f64.ln() + (4f64 / 3.0).ln()) / 2.0).abs() < 1e-15);
    let dlogits = cross_entropy_vjp(&logits, &labels, &Tensor::reference([], vec![2.0]));
    for (got, expected) in dlogits.f64s().iter().zip([0.5, -0.5, -0.25, 0.25]) {
        assert!((got - expected).abs() < 1e-15);
    }
    assert_eq!(argmax(&logits, 1).f64s(), [0.0, 0.0]);
    assert_eq!(count_correct(&logits, &labels).f64s(), [1.0]);
}

#[test]
fn the_first_of_equal_logits_wins() {
    for device in devices_and_reference() {
        let logits = Tensor::from_vec([2, 3], vec![1.0, 2.0, 2.0, 0.0, 0.0, 0.0], &device).unwrap();
        assert_eq!(argmax(&logits, 1).to_vec().unwrap(), [1.0, 0.0], "{device}");
        let labels = Tensor::from_vec([2], vec![1.0, 2.0], &device).unwrap();
        assert_eq!(count_correct(&logits, &labels).to_vec().unwrap(), [1.0], "{device}");
    }
}

/// The host cannot look at labels on the GPU without waiting for it.
#[cfg(feature = "gpu")]
#[test]
fn a_label_beyond_the_classes_makes_loss_and_count_nan_on_the_gpu() {
    let Some(gpu) = quarterturn_core::testing::gpu() else { return };
    let device = Device::Gpu(gpu);
    for label in [3.0, -1.0, 0.5, f32::NAN] {
        let logits = Tensor::full([2, 3], 0.0, &device).unwrap();
        let labels = Tensor::from_vec([2], vec![1.0, label], &device).unwrap();
        assert!(cross_entropy(&logits, &labels).to_vec().unwrap()[0].is_nan(), "{label}");
        assert!(count_correct(&logits, &labels).to_vec().unwrap()[0].is_nan(), "{label}");
        let dloss = Tensor::full([], 1.0, &device).unwrap();
        let dlogits = cross_entropy_vjp(&logits, &labels, &dloss).to_vec().unwrap();
        assert!(dlogits[..3].iter().all(|v| v.is_finite()) && dlogits[3..].iter().all(|v| v.is_nan()), "{label}");
    }
}

#[test]
fn nan_is_no_answer() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let rows = [[nan; 3], [0.0, nan, 5.0], [5.0, 0.0, nan], [-nan, 1.0, 2.0], [-inf, inf, inf], [-inf; 3]];
    for device in devices_and_reference() {
        let logits = Tensor::from_vec([6, 3], rows.concat(), &device).unwrap();
        let answers = argmax(&logits, 1).to_vec().unwrap();
        assert!(answers[..4].iter().all(|v| v.is_nan()) && answers[4..] == [1.0, 0.0], "{answers:?} on {device}");
        for label in [0.0, 1.0, 2.0] {
            let labels = Tensor::full([6], label, &device).unwrap();
            let expected = [1.0, 1.0, 0.0][label as usize];
            assert_eq!(count_correct(&logits, &labels).to_vec().unwrap(), [expected], "{label} on {device}");
        }
        for row in rows {
            let logits = Tensor::from_vec([1, 3], row.to_vec(), &device).unwrap();
            let label = Tensor::full([1], 0.0, &device).unwrap();
            assert!(cross_entropy(&logits, &label).to_vec().unwrap()[0].is_nan(), "{row:?} on {device}");
            let dlogits = cross_entropy_vjp(&logits, &label, &Tensor::full([], 1.0, &device).unwrap());
            assert!(dlogits.to_vec().unwrap().iter().all(|v| v.is_nan()), "{row:?} on {device}");
        }
    }
}

#[test]
fn the_first_invalid_label_is_named() {
    for device in devices_and_reference() {
        let find = |labels: &[f32]| {
            let labels = Tensor::from_vec([labels.len()], labels.to_vec(), &device).unwrap();
            first_invalid_label(&labels, 3).unwrap()
        };
        assert_eq!(find(&[0.0, 1.0, 2.0]), None);
        for label in [3.0, -1.0, 0.5, f32::INFINITY] {
            assert_eq!(find(&[0.0, label, 9.0]), Some((1, f64::from(label))), "{device}");
        }
        assert!(find(&[f32::NAN]).unwrap().1.is_nan());
    }
}

#[test]
fn huge_logits_do_not_overflow() {
    let logits = Tensor::cpu([1, 3], vec![3e38, -3e38, 0.0].into());
    assert_eq!(cross_entropy(&logits, &Tensor::cpu([1], vec![0.0].into())).f32s(), [0.0]);
}

#[test]
#[should_panic(expected = "cross_entropy: expected labels 0 to 2, got 3 in row 0")]
fn a_label_beyond_the_classes_is_refused() {
    cross_entropy(&random([1, 3], 1), &Tensor::reference([1], vec![3.0]));
}

#[test]
#[should_panic(expected = "count_correct: expected labels 0 to 2, got -1 in row 1")]
fn a_label_beyond_the_classes_is_not_counted_as_missed() {
    count_correct(&random([2, 3], 1), &Tensor::reference([2], vec![0.0, -1.0]));
}

fn options(weights: Option<&Tensor>) -> [CrossEntropy; 5] {
    let weights = weights.cloned();
    [
        CrossEntropy { weights: weights.clone(), ..CrossEntropy::default() },
        CrossEntropy { smoothing: 0.1, reduction: Reduction::Sum, ..CrossEntropy::default() },
        CrossEntropy { ignored: Some(1), ..CrossEntropy::default() },
        CrossEntropy { weights: weights.clone(), smoothing: 0.3, ignored: Some(255), ..CrossEntropy::default() },
        CrossEntropy { weights, smoothing: 1.0, ignored: Some(-1), reduction: Reduction::Sum },
    ]
}

#[test]
fn parity_of_all_options_at_every_place() {
    for shape in [&[5, 3][..], &[2, 5, 3, 4], &[3, 2, 7], &[2, 3, 1, 17, 41], &[1200, 3]] {
        let shape = Shape::new(shape);
        let along = Along::of("test", shape, 1);
        let logits = scale(&random(shape, 1), 4.0);
        let weights = crate::mul(&random([along.extent], 2), &random([along.extent], 2));
        let dloss = random([], 3);
        for i in 0..5 {
            let ignored = options(None)[i].ignored.filter(|&label| label != 1);
            let labels = random_labels(along.outer * along.inner, along.extent, 4);
            let mut labels = labels.f64s().to_vec();
            if let Some(ignored) = ignored {
                labels.iter_mut().step_by(3).for_each(|label| *label = f64::from(ignored));
            }
            let labels = Tensor::reference(along.without(shape), labels);
            let operands = [&logits, &labels, &weights, &dloss];
            check(&format!("loss {shape:?}, options {i}"), &operands, Tolerance::Terms(8), |t| {
                vec![cross_entropy_with(&t[0], &t[1], &options(Some(&t[2]))[i])]
            });
            check(&format!("vjp {shape:?}, options {i}"), &operands, Tolerance::Terms(8), |t| {
                vec![cross_entropy_with_vjp(&t[0], &t[1], &options(Some(&t[2]))[i], &t[3])]
            });
        }
    }
}

/// Weights 1 and 3, logits 0 and ln 3: `log softmax` is (−ln 4, ln 3 − ln 4).
#[test]
fn options_by_hand() {
    let (four, three) = (4f64.ln(), 3f64.ln());
    for device in devices_and_reference() {
        let of = |shape: &[usize], values: &[f64]| Tensor::from_f64(shape, values.to_vec(), &device).unwrap();
        let logits = of(&[1, 2, 3], &[0.0, 0.0, 0.0, three, three, three]);
        let (labels, weights) = (of(&[1, 3], &[0.0, 1.0, 7.0]), of(&[2], &[1.0, 3.0]));
        let loss = |options: &CrossEntropy| cross_entropy_with(&logits, &labels, options).to_f64().unwrap()[0];
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-5, "{device}: {got}, {expected}");
        let ignoring = CrossEntropy { ignored: Some(7), ..CrossEntropy::default() };
        close(loss(&ignoring), (four + (four - three)) / 2.0);
        let weighted = CrossEntropy { weights: Some(weights), ..ignoring.clone() };
        close(loss(&weighted), (four + 3.0 * (four - three)) / 4.0);
        let sum = CrossEntropy { reduction: Reduction::Sum, ..weighted.clone() };
        close(loss(&sum), four + 3.0 * (four - three));
        // Both classes are half of every target then.
        let even = CrossEntropy { smoothing: 1.0, ..weighted };
        close(loss(&even), 2.0 * 0.5 * (four + 3.0 * (four - three)) / 4.0);
        let all = of(&[1, 3], &[7.0; 3]);
        assert!(cross_entropy_with(&logits, &all, &ignoring).to_f64().unwrap()[0].is_nan(), "{device}");
    }
}

#[test]
fn an_ignored_place_counts_for_nothing_whatever_its_logits() {
    let ignoring = CrossEntropy { ignored: Some(255), ..CrossEntropy::default() };
    for device in devices_and_reference() {
        let logits = vec![0.0, f32::NAN, 1.0, 0.0, f32::INFINITY, 0.0];
        let logits = Tensor::from_vec([1, 2, 3], logits, &device).unwrap();
        let labels = Tensor::from_vec([1, 3], vec![0.0, 255.0, 0.0], &device).unwrap();
        assert_eq!(ignoring.first_invalid_label(&labels, 2).unwrap(), None);
        assert_eq!(first_invalid_label(&labels, 2).unwrap(), Some((1, 255.0)));
        let loss = cross_entropy_with(&logits, &labels, &ignoring).to_f64().unwrap()[0];
        assert!((loss - (2f64.ln() + (1.0 + (-1f64).exp()).ln()) / 2.0).abs() < 1e-6, "{device}: {loss}");
        let dloss = Tensor::full([], 1.0, &device).unwrap();
        let dlogits = cross_entropy_with_vjp(&logits, &labels, &ignoring, &dloss).to_vec().unwrap();
        assert!(dlogits.iter().all(|v| v.is_finite()) && [dlogits[1], dlogits[4]] == [0.0; 2], "{dlogits:?}");
    }
}

/// The gradient at a place is that of this place alone, wherever it lies.
#[test]
fn gradients_of_places_keep_every_bit_under_all_symmetries() {
    let options = CrossEntropy { smoothing: 0.1, reduction: Reduction::Sum, ..CrossEntropy::default() };
    let labels = random_labels(2 * 35, 3, 7).reshape([2, 5, 7]);
    let x = random([2, 3, 5, 7], 8);
    for device in quarterturn_core::testing::devices() {
        let (x, labels) = (x.to_device(&device).unwrap(), labels.to_device(&device).unwrap());
        let dloss = Tensor::full([], 1.0, &device).unwrap();
        let dx = cross_entropy_with_vjp(&x, &labels, &options, &dloss);
        for g in Group::D4.elements() {
            let (moved, moved_labels) = (transform_plane(&x, g), transform_plane(&labels, g));
            let got = cross_entropy_with_vjp(&moved, &moved_labels, &options, &dloss);
            assert!(same_bits(&got, &transform_plane(&dx, g)), "{g} on {device}");
        }
    }
}

#[test]
#[should_panic(expected = "cross_entropy: expected logits [N, K, ...] and labels [N, ...], got [2, 3, 4] and [2, 3]")]
fn labels_of_another_shape_are_refused() {
    cross_entropy(&random([2, 3, 4], 1), &random([2, 3], 1));
}

#[test]
#[should_panic(expected = "cross_entropy: expected weights [3], got [2]")]
fn weights_of_another_number_of_classes_are_refused() {
    let options = CrossEntropy { weights: Some(random([2], 1)), ..CrossEntropy::default() };
    cross_entropy_with(&random([1, 3], 1), &Tensor::reference([1], vec![0.0]), &options);
}
