//! Lesson 2: a network trained on a folder with a subfolder of images for each class.
//!
//! ```sh
//! cargo run --release --example lesson2_folder -- my-images     # without a folder: digits, which it writes as PNG files
//! ```

use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Result},
    data::{Angle, ImageFolder, Loader, Normalization, Part, Pipeline, Samples, Split, Transform, digits},
    kernels::{Group, Window, transform_plane},
    models::{
        Builder, Exactness, Init, Sequential, Verdict,
        checkpoint::{self, Notes, Preparation},
        training::{Metric, Objective, Scores, Trainer, Training, Validation},
    },
};
use quarterturn_examples::folders;
use std::{env, ops::ControlFlow, path::PathBuf, sync::Arc};

fn main() -> Result<()> {
    let folder = env::args().nth(1).map_or("out/lessons/digits".into(), PathBuf::from);
    if env::args().len() < 2 {
        folders::write_classes(&digits::generate(1, Split::Train, 1000)?, &folder)?;
    }

    // Which images, and which of them are held out to see how well the network does on what it was not trained on.
    let images = Arc::new(ImageFolder::open(&folder)?);
    let (train, held_out) = Part::split(images.clone(), images.len() * 4 / 5, 1)?;

    // How an image becomes numbers: grey, 28×28, mean 0 and deviation 1. In training it is also turned by a few degrees.
    let prepared = vec![Transform::Channels { channels: 1 }, Transform::Resize { size: [28, 28] }];
    let normalization = Normalization { mean: vec![0.13], std: vec![0.3] };
    let plain = Pipeline { transforms: prepared.clone(), normalization: normalization.clone() };
    let angle = Angle::Uniform(-10.0, 10.0);
    let turned = Pipeline { transforms: [prepared, vec![Transform::Rotate { angle }]].concat(), normalization };
    let train = Loader::new(train, turned, 32).seed(1).shuffled().full_only();
    let held_out = Loader::new(held_out, plain.clone(), 32);

    // The network. `conv` turns its filters by 0°, 90°, 180° and 270°; `coset_max` takes the best of the four answers.
    let [same, half, whole] =
        [(3, 1, 1), (2, 2, 0), (7, 1, 0)].map(|(kernel_size, stride, padding)| Window { kernel_size, stride, padding });
    let builder = Builder::new(Group::C4, 1, Init::kaiming(1), &Device::Cpu);
    let builder = builder.conv("conv1", 8, same).norm("norm1").relu().max_pool("pool1", half);
    let builder = builder.conv("conv2", 12, same).norm("norm2").relu().max_pool("pool2", half);
    let builder = builder.conv("conv3", 16, whole).norm("norm3").relu().spatial_mean().coset_max();
    let mut network = Sequential::new("lesson", builder.linear("classes", images.classes()).build()?);
    // At another size, such as 27, a pooling would drop a row and a column, and this would not hold.
    assert_eq!(Exactness::of(&network, [28, 28])?.verdict(), Verdict::Invariant);

    // Training. After each epoch the held-out images are looked at, and the best network so far is saved with what belongs to it.
    let training = Training::new(8, Optimizer::adam(1e-5).rule(), Schedule::OneCycle { max_lr: 0.01 }, 1);
    let best = folder.with_extension("safetensors");
    let validation = Validation { metrics: vec![Metric::Accuracy], best: Some(best.clone()), patience: Some(4) };
    let mut trainer = Trainer::new(&mut network, training);
    *trainer.notes_mut() = Notes::from([
        (Preparation::NOTE.into(), plain.preparation()?.to_string()),
        ("classes".into(), images.class_names().join("\n")),
    ]);
    let batches = |epoch, from| Ok(train.epoch(epoch).starting_at(from as usize).map(|batch| Ok(batch?.into_pair())));
    let looked_at = || Ok(held_out.epoch(0).map(|batch| Ok(batch?.into_pair())));
    let _ = trainer.fit(batches, &validation, looked_at, |_, _, report| {
        if let Some(report) = report {
            println!("epoch {}: loss {:.3}, held out: {:?}", report.epoch + 1, report.loss, report.scores.values());
        }
        Ok(ControlFlow::Continue(()))
    })?;

    // Turned images are recognised as well as upright ones, though the network was trained on upright ones alone.
    let network = checkpoint::load(&best, &Device::Cpu)?;
    for turns in 0..4 {
        let mut scores = Scores::new(&Objective::default(), &[Metric::Accuracy]);
        for batch in held_out.epoch(0) {
            let (images, labels) = batch?.into_pair();
            scores.measure(&*network, &transform_plane(&images, turns), &labels)?;
        }
        println!("turned by {}°: {:?}", 90 * turns, scores.values());
    }
    Ok(())
}
