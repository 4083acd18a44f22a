//! Lesson 1: what a saved network says of one image.
//!
//! ```sh
//! cargo run --release --example fig5 -- --quick     # trains networks on digits and saves them
//! cargo run --release --example lesson1_predict -- out/fig5/runs/p4-28_upright_seed-0.safetensors examples/lessons/seven.png
//! ```

use quarterturn::{
    core::{Device, Error, Result},
    data::{Pipeline, Transform, image_file},
    kernels::{softmax, transform_plane},
    models::{Checkpoint, checkpoint},
};
use std::{env, path::PathBuf};

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1).map(PathBuf::from);
    let (Some(file), Some(picture)) = (arguments.next(), arguments.next()) else {
        return Err(Error::Invalid("two arguments are needed: a .safetensors file and an image file".into()));
    };

    // The file describes the network, and says how the images were prepared that it was trained on.
    let checkpoint = Checkpoint::read(&file)?;
    let network = checkpoint.network(&Device::Cpu)?;
    let unprepared = || Error::Invalid(format!("{}: it does not say how images are prepared", file.display()));
    let preparation = checkpoint.preparation()?.ok_or_else(unprepared)?;
    println!("preparation: {preparation}");

    // A picture file has three channels. This network may want one, so the first step makes it grey. The result has five axes,
    // [image, channel, group element, row, column]: one image, and one group element, for an image has not been turned yet.
    let channels = network.in_channels();
    let mut pipeline = Pipeline::of(&preparation, channels)?;
    pipeline.transforms.insert(0, Transform::Channels { channels });
    let image = pipeline.prepare(image_file::read(&picture)?, &Device::Cpu)?;
    let image = checkpoint::finish(&preparation, &image)?;

    // A name for each class, if the file has names.
    let names = checkpoint.notes().remove("classes").unwrap_or_default();
    let names: Vec<&str> = names.lines().collect();
    let logits = network.predict(&image)?;
    let probabilities = softmax(&logits, 1).to_vec()?;
    let mut order: Vec<usize> = (0..probabilities.len()).collect();
    order.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
    for class in order.into_iter().take(3) {
        let name = names.get(class).map_or(class.to_string(), |name| name.to_string());
        println!("{name}: {:.1} %", 100.0 * probabilities[class]);
    }

    // What this library is about: turn the image, and compare the logits with `==`.
    for turns in 1..4 {
        let of_turned = network.predict(&transform_plane(&image, turns))?;
        let same = of_turned.to_vec()? == logits.to_vec()?;
        println!("turned by {}°: {}", 90 * turns, if same { "the same logits, in every bit" } else { "other logits" });
    }
    Ok(())
}
