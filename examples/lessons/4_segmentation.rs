//! Lesson 4: a class for each pixel. The mask of the turned image is the turned mask, in every pixel.
//!
//! ```sh
//! cargo run --release --example lesson4_segmentation     # writes out/lessons/segmentation.png
//! ```

use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Result, Tensor},
    data::{Loader, Normalization, Pipeline, Split, outlines},
    kernels::{Group, argmax, transform_plane},
    models::{
        Init, Network, UNetConfig,
        training::{Metric, Objective, Scores, Training, train},
        unet,
    },
};
use quarterturn_examples::{figure, files, palette, raster};
use std::path::Path;

/// Height and width of the images.
const SIZE: usize = 32;

fn main() -> Result<()> {
    // Closed and open outlines. The task: which pixels lie inside of a closed one?
    let pipeline = Pipeline { transforms: vec![], normalization: Normalization { mean: vec![0.3], std: vec![0.25] } };
    let images = |split, n| -> Result<Loader> {
        Ok(Loader::new(outlines::generate(1, split, n, SIZE)?, pipeline.clone(), 16).seed(1))
    };
    let (training_images, test_images) = (images(Split::Train, 480)?.shuffled(), images(Split::Test, 64)?);

    // A U-Net makes maps smaller and larger again, and hands each map to the one of the same size on the way back.
    let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![4, 6, 8] };
    let mut network = unet(&config, Init::kaiming(1), &Device::Cpu)?;
    let training = Training::new(4, Optimizer::adam(0.0).rule(), Schedule::OneCycle { max_lr: 0.01 }, 1);
    let batches = |epoch| Ok(training_images.epoch(epoch).map(|batch| Ok(batch?.into_pair())));
    let losses = train(&mut network, &training, batches, |_| ())?;
    println!("losses: {losses:.3?}");

    // Intersection over union: of the pixels that are of a class by the mask or by the network, those that are by both.
    let mut scores = Scores::new(&Objective::default(), &[Metric::Iou]);
    let mask_of = |images: &Tensor| -> Result<Tensor> { Ok(argmax(&network.predict(images)?, 1)) };
    let mut pictured = None;
    for batch in test_images.epoch(0) {
        let (images, masks) = batch?.into_pair();
        scores.measure(&network, &images, &masks)?;
        let (turned, mask) = (transform_plane(&images, 1), mask_of(&images)?);
        let mask_of_turned = mask_of(&turned)?;
        assert!(mask_of_turned.to_vec()? == transform_plane(&mask, 1).to_vec()?, "the mask turns with the image");
        pictured.get_or_insert([images, mask, turned, mask_of_turned]);
    }
    println!("test images: {:?}; every mask turns with its image", scores.values());

    let titles = ["image", "its mask", "turned image", "its mask"];
    let [step, top] = [3.0 * SIZE as f64 + 12.0, 40.0];
    let maps = pictured.iter().flatten().map(Tensor::to_vec).collect::<Result<Vec<_>>>()?;
    files::create_folder(Path::new("out/lessons"))?;
    figure::save(Path::new("out/lessons/segmentation"), (4.0 * step + 12.0, 2.0 * step + top), |area| {
        for (column, (title, map)) in titles.iter().zip(&maps).enumerate() {
            let x = 12.0 + step * column as f64;
            figure::write(area, title, (x, 20.0), figure::from_left(figure::font(10.0)))?;
            for (row, map) in map.chunks_exact(SIZE * SIZE).take(2).enumerate() {
                // Masks are 0 and 1; values of an image are about 0, and so much of them is grey.
                let color = |value: f64| palette::grey(if column % 2 == 1 { value } else { 0.3 + 0.25 * value });
                raster::image(area, (x, top + step * row as f64), 3.0, SIZE, map, color)?;
            }
        }
        Ok(())
    })?;
    println!("wrote out/lessons/segmentation.png");
    Ok(())
}
