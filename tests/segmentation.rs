//! A U-Net on p4 learns the built-in outlines, and its masks turn with the images.

use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Tensor},
    data::{Loader, Normalization, Pipeline, Split, outlines},
    kernels::{Group, argmax, transform_plane},
    models::{
        Init, Network, Sequential, UNetConfig,
        training::{Metric, Scores, Training, train},
        unet,
    },
};

fn images(split: Split, n: usize) -> Loader {
    let normalization = Normalization { mean: vec![0.3], std: vec![0.25] };
    let pipeline = Pipeline { transforms: Vec::new(), normalization };
    Loader::new(outlines::generate(1, split, n, 24).unwrap(), pipeline, 16)
}

/// The mean IoU on test images, after three epochs.
fn learned(widths: &[usize]) -> (Sequential, f64) {
    let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: widths.to_vec() };
    let mut network = unet(&config, Init::kaiming(1), &Device::Cpu).unwrap();
    let loader = images(Split::Train, 480).shuffled();
    let training = Training::new(3, Optimizer::adam(0.0).rule(), Schedule::OneCycle { max_lr: 0.01 }, 1);
    let batches = |epoch| Ok(loader.epoch(epoch).map(|batch| Ok(batch?.into_pair())));
    train(&mut network, &training, batches, |_| ()).unwrap();
    let mut scores = Scores::new(&training.objective, &[Metric::Iou]);
    for batch in images(Split::Test, 64).epoch(0) {
        let (images, masks) = batch.unwrap().into_pair();
        scores.measure(&network, &images, &masks).unwrap();
    }
    (network, scores.value(&Metric::Iou).unwrap())
}

#[test]
fn the_mask_of_the_turned_image_is_the_turned_mask() {
    let (network, iou) = learned(&[4, 6, 8]);
    assert!(iou >= 0.9, "mean IoU {iou}");
    let (images, _) = images(Split::Test, 16).epoch(0).next().unwrap().unwrap().into_pair();
    let predicted = |images: &Tensor| network.predict(images).unwrap();
    let logits = predicted(&images);
    for turns in 1..4 {
        let of_turned = predicted(&transform_plane(&images, turns));
        assert!(of_turned.f32s() == transform_plane(&logits, turns).f32s(), "{turns} turns: logits");
        let mask = transform_plane(&argmax(&logits, 1), turns);
        assert!(argmax(&of_turned, 1).f32s() == mask.f32s(), "{turns} turns: mask");
    }
}

/// The task is one of context: a network that sees 5×5 pixels at a time does not solve it.
#[test]
fn five_by_five_pixels_do_not_tell_what_is_inside() {
    let (_, iou) = learned(&[8]);
    assert!(iou < 0.85, "mean IoU {iou}");
}
