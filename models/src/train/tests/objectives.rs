//! Losses by hand, and targets that are none.

use super::random;
use crate::training::{Classes, Difference, Objective};
use quarterturn_autograd::Tape;
use quarterturn_core::{Error, Result, Shape, Tensor, testing};

fn reference(shape: impl Into<Shape>, values: &[f64]) -> Tensor {
    Tensor::reference(shape, values.to_vec())
}

fn loss(objective: &Objective, outputs: &Tensor, targets: &Tensor) -> Result<f64> {
    let tape = Tape::evaluation();
    Ok(objective.loss(&tape.constant(outputs.clone()), targets)?.value().to_f64()?[0])
}

#[test]
fn losses_by_hand() {
    let close = |objective: &Objective, outputs: &Tensor, targets: &Tensor, expected: f64| {
        let found = loss(objective, outputs, targets).unwrap();
        assert!((found - expected).abs() < 1e-12, "{objective}: {found}, not {expected}");
    };
    let softplus = |x: f64| (1.0 + x.exp()).ln();
    // Logits 0 and x: −log softmax is log(1 + eˣ) for the first class and log(1 + e⁻ˣ) for the second.
    let logits = reference([2, 2], &[0.0, 3.0, 0.0, -1.0]);
    close(&Objective::default(), &logits, &reference([2], &[1.0, 0.0]), (softplus(-3.0) + softplus(-1.0)) / 2.0);
    // Two pixels of one image; the same of a class each.
    let map = reference([1, 2, 1, 2], &[0.0, 0.0, 3.0, -1.0]);
    close(&Objective::default(), &map, &reference([1, 1, 2], &[1.0, 0.0]), (softplus(-3.0) + softplus(-1.0)) / 2.0);
    let ignoring = Objective::Classes(Classes { ignored: Some(255), ..Classes::default() });
    close(&ignoring, &map, &reference([1, 1, 2], &[1.0, 255.0]), softplus(-3.0));
    let weighing = Objective::Classes(Classes { weights: Some(vec![3.0, 1.0]), ..Classes::default() });
    close(&weighing, &logits, &reference([2], &[1.0, 0.0]), (softplus(-3.0) + 3.0 * softplus(-1.0)) / 4.0);
    close(&Objective::SeveralLabels, &logits, &reference([2, 2], &[1.0, 1.0, 0.5, 0.0]), {
        (softplus(0.0) + softplus(-3.0) + softplus(0.0) + softplus(-1.0)) / 4.0
    });
    let targets = reference([2, 2], &[0.0, 1.0, 0.5, -1.0]);
    close(&Objective::Numbers(Difference::Squared), &logits, &targets, (4.0 + 0.25) / 4.0);
    close(&Objective::Numbers(Difference::Absolute), &logits, &targets, (2.0 + 0.5) / 4.0);
    close(&Objective::Numbers(Difference::Huber(1.0)), &logits, &targets, (1.5 + 0.125) / 4.0);
    let own = Objective::own("sum", |outputs, _| Ok(outputs.sum()));
    close(&own, &logits, &targets, 2.0);
    let unfit = Objective::own("map", |outputs, _| Ok(outputs.scale(2.0)));
    let message = loss(&unfit, &logits, &targets).unwrap_err().to_string();
    assert_eq!(message, "objective 'map': expected a loss [], got [2, 2]");
}

#[test]
fn what_is_no_target_is_named() {
    let map = random([2, 3, 2, 2], 0);
    let cells = |place: usize, label: f32| {
        let mut labels = vec![0.0; 8];
        labels[place] = label;
        Tensor::from_vec([2, 2, 2], labels, &map.device()).unwrap()
    };
    let numbers = |values: Vec<f32>| Tensor::from_vec([2, 2], values, &map.device()).unwrap();
    let flat = numbers(vec![0.0; 4]);
    let ignoring = Objective::Classes(Classes { ignored: Some(255), ..Classes::default() });
    let squared = Objective::Numbers(Difference::Squared);
    let weighing = Objective::Classes(Classes { weights: Some(vec![1.0]), ..Classes::default() });
    let smoothing = Objective::Classes(Classes { smoothing: 1.5, ..Classes::default() });
    for (objective, outputs, targets, expected) in [
        (&Objective::default(), &map, cells(6, 3.0), "label 3 of image 1 at 2: expected a whole number from 0 to 2"),
        (&ignoring, &map, cells(1, 0.5), "label 0.5 of image 0 at 1: expected a whole number from 0 to 2, or 255"),
        (
            &Objective::default(),
            &map,
            flat.clone(),
            "the network makes [2, 3, 2, 2] of 2 images, for which targets [2, 2, 2]",
        ),
        (
            &Objective::default(),
            &flat.reshape([4]),
            flat.reshape([4]),
            "expected logits [N, classes] or [N, classes, H, W]",
        ),
        (&weighing, &map, cells(0, 0.0), "objective: 1 weights for 3 classes"),
        (&smoothing, &map, cells(0, 0.0), "objective: expected a smoothing from 0 to 1, got 1.5"),
        (
            &Objective::SeveralLabels,
            &flat,
            numbers(vec![0.0, 1.0, -0.5, 1.0]),
            "target -0.5 of image 1 at 0: expected 0, 1",
        ),
        (
            &squared,
            &flat,
            numbers(vec![0.0, 1.0, 1.0, f32::NAN]),
            "target NaN of image 1 at 1: expected a finite number",
        ),
        (&squared, &flat, numbers(vec![0.0; 4]).reshape([4]), "2 images, targets of shape [4]"),
        (&Objective::Numbers(Difference::Huber(0.0)), &flat, flat.clone(), "expected a δ above 0, got 0"),
    ] {
        match loss(objective, outputs, &targets) {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    assert!(loss(&ignoring, &map, &cells(1, 255.0)).unwrap().is_finite());
}

#[test]
fn devices_agree() {
    let (map, labels) = (random([2, 3, 2, 2], 0), [0.0, 1.0, 2.0, 0.0, 255.0, 1.0, 1.0, 2.0]);
    let classes = Classes { weights: Some(vec![1.0, 2.0, 0.5]), smoothing: 0.1, ignored: Some(255) };
    let each = |device| {
        let labels = Tensor::from_f64([2, 2, 2], labels.to_vec(), &device).unwrap();
        loss(&Objective::Classes(classes.clone()), &map.to_device(&device).unwrap(), &labels).unwrap()
    };
    let expected = each(quarterturn_core::Device::Reference);
    testing::devices().into_iter().for_each(|device| assert!((each(device) - expected).abs() < 1e-5));
}
