//! The count of correct answers.

use super::{
    super::{Tally, evaluate, tally::rows},
    batch, random, small,
};
use crate::{Module, Network};
use quarterturn_core::{Device, Error, HostBuffer, Tensor, testing};
use quarterturn_kernels as kernels;

#[test]
fn the_count_does_not_depend_on_the_chunks() {
    let network = small();
    let (images, labels) = (random([11, 1, 1, 12, 12], 0), Tensor::cpu([11], HostBuffer::zeros(11)));
    let together = kernels::count_correct(&network.predict(&images).unwrap(), &labels).f32s()[0] as u64;
    assert_eq!(evaluate(&network, &images, &labels).unwrap(), together);
    let logits = network.predict(&images).unwrap();
    for i in 0..11 {
        let alone = network.predict(&rows(&images, i, 1)).unwrap();
        assert_eq!(alone.f32s(), &logits.f32s()[2 * i..2 * i + 2], "image {i} alone has other logits");
    }
}

#[test]
fn a_tally_adds_up_batches_and_views_on_every_device() {
    let views = |images: &Tensor, v| kernels::scale(images, [1.0, -1.0, 0.0][v]);
    let batches: Vec<_> = (0..3).map(batch).collect();
    for device in [Device::Cpu, Device::Reference] {
        let mut network = small();
        network.to_device(&device).unwrap();
        let on = |(images, labels): &(Tensor, Tensor)| {
            (images.to_device(&device).unwrap(), labels.to_device(&device).unwrap())
        };
        let mut tally = Tally::new(3);
        for batch in &batches {
            let (images, labels) = on(batch);
            tally.count(&network, &images, &labels, views).unwrap();
            tally.wait().unwrap();
            // Reading in between changes nothing.
            tally = Tally::from_counts(tally.read().unwrap().to_vec());
        }
        let expected = |v| {
            let alone = |batch| {
                let (images, labels) = on(batch);
                evaluate(&network, &views(&images, v), &labels).unwrap()
            };
            batches.iter().map(alone).sum::<u64>()
        };
        assert_eq!(tally.read().unwrap(), [expected(0), expected(1), expected(2)], "{device}");
    }
}

#[test]
fn labels_that_are_no_class_are_named_on_every_device() {
    for device in testing::devices().into_iter().chain([Device::Reference]) {
        let mut network = small();
        network.to_device(&device).unwrap();
        let images = random([20, 1, 1, 12, 12], 0).to_device(&device).unwrap();
        for label in [2.0, -1.0, 0.5, f32::NAN] {
            let mut labels = vec![0.0; 20];
            labels[17] = label;
            let labels = Tensor::from_vec([20], labels, &device).unwrap();
            let expected = format!("label {label} of image 17: expected a whole number from 0 to 1");
            let outcome = evaluate(&network, &images, &labels);
            assert!(matches!(&outcome, Err(Error::Invalid(message)) if *message == expected), "{device}: {outcome:?}");

            // Of all images so far.
            let mut tally = Tally::new(2);
            let view = |images: &Tensor, _| images.clone();
            tally.count(&network, &images, &Tensor::full([20], 1.0, &device).unwrap(), view).unwrap();
            let outcome = tally.count(&network, &images, &labels, view).and_then(|()| tally.wait());
            let expected = format!("label {label} of image 37: expected a whole number from 0 to 1");
            assert!(matches!(&outcome, Err(Error::Invalid(message)) if *message == expected), "{device}: {outcome:?}");

            // On the CPU they are looked at right away.
            let labels = labels.to_device(&Device::Cpu).unwrap();
            let outcome = Tally::new(1).count(&network, &images, &labels, view);
            assert!(matches!(&outcome, Err(Error::Invalid(_))), "{device}: {outcome:?}");
        }
    }
}

/// Logits that are not numbers are no answer, though the first class is the right one.
#[test]
fn an_image_without_an_answer_is_not_recognised_and_that_is_said() {
    for device in testing::devices().into_iter().chain([Device::Reference]) {
        let mut network = small();
        network.visit(&mut |name, param| {
            if name == "linear.bias" {
                param.set(Tensor::full([2], f32::NAN, &Device::Cpu).unwrap());
            }
        });
        network.to_device(&device).unwrap();
        let images = random([20, 1, 1, 12, 12], 0).to_device(&device).unwrap();
        let mut tally = Tally::new(1);
        tally.count(&network, &images, &Tensor::full([20], 0.0, &device).unwrap(), |images, _| images.clone()).unwrap();
        assert_eq!(tally.read().unwrap(), [0], "{device}");
        assert!(tally.has_unanswered(), "{device}");

        let mut sound = small();
        sound.to_device(&device).unwrap();
        let mut tally = Tally::new(1);
        tally.count(&sound, &images, &Tensor::full([20], 0.0, &device).unwrap(), |images, _| images.clone()).unwrap();
        tally.read().unwrap();
        assert!(!tally.has_unanswered(), "{device}");
    }
}
