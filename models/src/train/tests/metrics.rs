//! Metrics by hand, and as sums.

use super::{batch, random, small};
use crate::{
    Network,
    training::{Alone, Classes, Difference, Metric, Objective, Scores, evaluate},
};
use quarterturn_core::{Device, Error, Share, Tensor, testing};
use quarterturn_kernels as kernels;

fn values(objective: &Objective, metrics: &[Metric], outputs: &Tensor, targets: &Tensor) -> Vec<f64> {
    let mut scores = Scores::new(objective, metrics);
    scores.count(outputs, targets).unwrap();
    scores.values().into_iter().map(|(_, value)| value).collect()
}

#[test]
fn by_hand_on_every_device() {
    let classes = [Metric::Accuracy, Metric::TopK(2), Metric::Recall, Metric::Iou];
    // Answers 0, 1, 1, none, (ignored); of classes 0, 1, 2, 1.
    #[rustfmt::skip]
    let logits = vec![3.0, 1.0, 1.0,  0.0, 5.0, 1.0,  0.0, 2.0, 1.0,  9.0, f32::NAN, 0.0,  1.0, 0.0, 0.0];
    let ignoring = Objective::Classes(Classes { ignored: Some(9), ..Classes::default() });
    for device in testing::devices().into_iter().chain([Device::Reference]) {
        let on = |shape: &[usize], values: &[f32]| Tensor::from_vec(shape, values.to_vec(), &device).unwrap();
        let labels = on(&[5], &[0.0, 1.0, 2.0, 1.0, 9.0]);
        let found = values(&ignoring, &classes, &on(&[5, 3], &logits), &labels);
        let (recall, iou) = ((1.0 + 0.5 + 0.0) / 3.0, (1.0 + 1.0 / 3.0 + 0.0) / 3.0);
        assert_eq!(found, [0.5, 0.75, recall, iou], "{device}");
        // The same as pixels of one image.
        let map = kernels::permute(&on(&[5, 3], &logits), &[1, 0]).reshape([1, 3, 1, 5]);
        assert_eq!(values(&ignoring, &classes, &map, &labels.reshape([1, 1, 5])), [0.5, 0.75, recall, iou], "{device}");

        let several = (on(&[2, 2], &[1.0, -1.0, f32::NAN, 0.5]), on(&[2, 2], &[1.0, 1.0, 0.0, 1.0]));
        assert_eq!(values(&Objective::SeveralLabels, &[Metric::LabelAccuracy], &several.0, &several.1), [0.5]);
        let numbers = (on(&[2, 1], &[1.0, -1.0]), on(&[2, 1], &[1.5, 1.0]));
        let squared = Objective::Numbers(Difference::Squared);
        assert_eq!(values(&squared, &[Metric::MeanAbsoluteError, Metric::Loss], &numbers.0, &numbers.1), [1.25, 2.125]);
    }
}

/// With ignored labels and weights, the mean of the batches' losses is not that of the whole.
#[test]
fn batches_and_threads_change_nothing() {
    let classes = Classes { weights: Some(vec![1.0, 5.0]), ignored: Some(7), ..Classes::default() };
    let objective = Objective::Classes(classes);
    let metrics = [Metric::Iou, Metric::Accuracy, Metric::Loss];
    let network = small();
    let images = random([40, 1, 1, 12, 12], 0);
    let labels: Vec<f32> = (0..40).map(|i| if i % 3 == 0 { 7.0 } else { (i / 20) as f32 }).collect();
    let labels = Tensor::from_vec([40], labels, &Device::Cpu).unwrap();
    let measured = |batch: usize| {
        let mut scores = Scores::new(&objective, &metrics);
        let mut parts = Scores::new(&objective, &metrics);
        for from in (0..40).step_by(batch) {
            let rows = |x: &Tensor| super::super::tally::rows(x, from, batch.min(40 - from));
            let mut part = Scores::new(&objective, &metrics);
            part.measure(&network, &rows(&images), &rows(&labels)).unwrap();
            parts.add(&part).unwrap();
            scores.measure(&network, &rows(&images), &rows(&labels)).unwrap();
        }
        assert_eq!((scores.images(), scores.values()), (40, parts.values()));
        scores
    };
    let (whole, parts) = (measured(40), measured(7));
    assert_eq!(whole.confusion(), parts.confusion());
    assert_eq!(whole.values()[..2], parts.values()[..2]);
    let loss = |scores: &Scores| scores.value(&Metric::Loss).unwrap();
    assert!((loss(&whole) - loss(&parts)).abs() < 1e-6, "{} {}", loss(&whole), loss(&parts));
    // And the whole is what the objective says of all at once.
    let mut at_once = Scores::new(&objective, &metrics);
    at_once.count(&network.predict(&images).unwrap(), &labels).unwrap();
    assert!((loss(&whole) - loss(&at_once)).abs() < 1e-6);
}

#[test]
fn a_label_that_is_no_class_is_named_by_image_and_batch() {
    let (network, objective) = (small(), Objective::default());
    let images = random([20, 1, 1, 12, 12], 0);
    let labels = |wrong: Option<usize>| {
        let values = (0..20).map(|image| if wrong == Some(image) { 7.0 } else { 1.0 }).collect();
        Tensor::from_vec([20], values, &Device::Cpu).unwrap()
    };
    let named = |outcome: Result<(), Error>, expected: &str| match outcome {
        Err(Error::Invalid(message)) => assert!(message.starts_with(expected), "{message}"),
        other => panic!("{other:?}"),
    };
    let mut scores = Scores::new(&objective, &[Metric::Accuracy]);
    named(scores.measure(&network, &images, &labels(Some(17))), "label 7 of image 17: ");
    let mut scores = Scores::new(&objective, &[Metric::Accuracy]);
    scores.measure(&network, &images, &labels(None)).unwrap();
    named(scores.measure(&network, &images, &labels(Some(18))), "label 7 of image 38: ");
    named(scores.count(&network.predict(&images).unwrap(), &labels(Some(3))), "label 7 of image ");

    let batches = [None, None, Some(18)].map(|wrong| Ok((images.clone(), labels(wrong))));
    let share = Share::new(0, 1, 2).unwrap();
    let all = Scores::over(&network, &objective, &[Metric::Accuracy], batches, share, &Alone);
    named(all.map(drop), "held-out batch 3: label 7 of image 18: ");
}

#[test]
fn accuracy_is_what_evaluate_counts() {
    let (network, (images, labels)) = (small(), batch(3));
    let mut scores = Scores::new(&Objective::default(), &[Metric::Accuracy]);
    scores.measure(&network, &images, &labels).unwrap();
    let right = evaluate(&network, &images, &labels).unwrap();
    assert_eq!(scores.values(), [("accuracy".to_string(), right as f64 / 10.0)]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    let refused =
        |objective: Objective, metric: Metric, outputs: &Tensor, targets: &Tensor, expected: &str| match Scores::new(
            &objective,
            &[metric],
        )
        .count(outputs, targets)
        {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        };
    let (outputs, labels) = (random([2, 2], 0), Tensor::full([2], 1.0, &Device::Cpu).unwrap());
    refused(Objective::SeveralLabels, Metric::Iou, &outputs, &outputs.reshape([2, 2]), "target");
    let ones = Tensor::full([2, 2], 1.0, &Device::Cpu).unwrap();
    refused(
        Objective::SeveralLabels,
        Metric::Iou,
        &outputs,
        &ones,
        "the metric mean_iou is not of the objective 'several labels'",
    );
    refused(Objective::default(), Metric::MeanAbsoluteError, &outputs, &labels, "mean_absolute_error is not of");
    let [mut a, b] = [Metric::Iou, Metric::Recall].map(|metric| Scores::new(&Objective::default(), &[metric]));
    assert!(a.add(&b).is_err());
    a.count(&outputs, &labels).unwrap();
    let three = (random([2, 3], 0), labels);
    assert!(a.count(&three.0, &three.1).unwrap_err().to_string().contains("mean_iou: 6 sums, and 12 to be added"));
    assert_eq!((a.images(), a.confusion().unwrap().classes()), (2, 2));
    // One's own: the largest target.
    let own = Metric::own("images", true, |outputs, _| Ok(vec![outputs.dims()[0] as f64]), |sums| sums[0]);
    assert_eq!(values(&Objective::default(), &[own], &outputs, &Tensor::full([2], 0.0, &Device::Cpu).unwrap()), [2.0]);
}
