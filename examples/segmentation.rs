//! Segmentation that turns with the image: a U-Net on p4 learns which pixels lie inside of a closed outline, and the mask of the
//! turned image is the turned mask, in every pixel.

use clap::Parser;
use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Error, Result, Tensor},
    data::{Loader, Normalization, Pipeline, Split, outlines},
    kernels::{Group, argmax, transform_plane},
    models::{
        Init, Network, UNetConfig,
        checkpoint::{Preparation, Step},
        training::{Metric, Report, Scores, Trainer, Training, Validation},
        unet,
    },
};
use quarterturn_examples::{
    args, device,
    figure::{self, Area, Drawn, centred, font, write},
    palette, preparation, raster, say,
};
use std::{ops::ControlFlow, path::Path, process::ExitCode, time::Instant};

/// Height and width of the images. A U-Net on p4 takes any.
const SIZE: usize = 32;
/// Pictured test images.
const PICTURED: usize = 4;

/// Segmentation with a p4 U-Net: the mask of the turned image is the turned mask
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    out: args::OutArgs,
    #[command(flatten)]
    device: args::DeviceArgs,
    /// Passes over the 800 training images
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    epochs: u32,
    /// Decides images, starting weights and order
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    args::finish(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let (device, folder) = (device::open(args.device.device)?, args.out.folder("segmentation")?);
    let pipeline =
        Pipeline { transforms: Vec::new(), normalization: Normalization { mean: vec![0.3], std: vec![0.25] } };
    let images = |split, n| -> Result<Loader> {
        let samples = outlines::generate(args.seed, split, n, SIZE)?;
        Ok(Loader::new(samples, pipeline.clone(), 16).seed(args.seed).on(&device))
    };
    let (train, validation, test) =
        (images(Split::Train, 800)?.shuffled(), images(Split::Validation, 100)?, images(Split::Test, 200)?);

    let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![4, 6, 8] };
    let mut network = unet(&config, Init::kaiming(args.seed), &device)?;
    let training = Training {
        data: train.identity()?,
        ..Training::new(args.epochs, Optimizer::adam(1e-5).rule(), Schedule::OneCycle { max_lr: 0.01 }, args.seed)
    };
    let best = folder.join("unet.safetensors");
    let held_out =
        Validation { metrics: vec![Metric::Iou, Metric::Accuracy], best: Some(best.clone()), patience: None };
    let prepared = Preparation { steps: vec![Step::Normalize { mean: vec![0.3], std: vec![0.25] }] };
    let start = Instant::now();
    let mut trainer = Trainer::new(&mut network, training);
    *trainer.notes_mut() = preparation::notes(&prepared, SIZE, "built-in outlines");
    let _ = trainer.fit(
        |epoch, from| Ok(train.epoch(epoch).starting_at(from as usize).map(|batch| Ok(batch?.into_pair()))),
        &held_out,
        || Ok(validation.epoch(0).map(|batch| Ok(batch?.into_pair()))),
        |_, _, report| {
            if let Some(Report { epoch, loss, scores, .. }) = report {
                let values: Vec<String> =
                    scores.values().iter().map(|(name, value)| format!("{name} {value:.3}")).collect();
                say::note(format_args!("epoch {}: loss {loss:.4}, {}", epoch + 1, values.join(", ")));
            }
            Ok(ControlFlow::Continue(()))
        },
    )?;
    let seconds = start.elapsed().as_secs_f64();

    // The best epoch, as anybody would load it.
    let network = quarterturn::models::checkpoint::load(&best, &device)?;
    let mut scores = Scores::new(&Default::default(), &[Metric::Iou]);
    for (number, batch) in test.epoch(0).enumerate() {
        let (images, masks) = batch?.into_pair();
        scores.measure(&*network, &images, &masks)?;
        for turns in 1..4 {
            expect_turned(&*network, &images, turns)?;
        }
        if number == 0 {
            picture(&folder.join("segmentation"), &*network, &images, &masks, &device)?;
        }
    }
    say::result(format_args!("trained in {seconds:.0} s"));
    say::result(format_args!(
        "mean IoU on {} test images: {:.4}",
        scores.images(),
        scores.value(&Metric::Iou).unwrap_or(f64::NAN)
    ));
    say::result("exact: for all test images and quarter turns, the mask of the turned image is the turned mask");
    say::result(format_args!("wrote segmentation.png, segmentation.svg and unet.safetensors to {}", folder.display()));
    Ok(())
}

/// A class for each pixel, `[N, H, W]`.
fn masks_of<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<Tensor> {
    Ok(argmax(&network.predict(images)?, 1))
}

/// The mask of turned images must be the turned mask.
fn expect_turned<N: Network + ?Sized>(network: &N, images: &Tensor, turns: usize) -> Result<()> {
    let turned_mask = transform_plane(&masks_of(network, images)?, turns).to_vec()?;
    let mask_of_turned = masks_of(network, &transform_plane(images, turns))?.to_vec()?;
    match turned_mask == mask_of_turned {
        true => Ok(()),
        false => Err(Error::Invalid(format!("after {turns} quarter turns the mask is another one"))),
    }
}

/// Draws images, their masks, predictions, and predictions for the turned images.
fn picture<N: Network + ?Sized>(
    stem: &Path,
    network: &N,
    images: &Tensor,
    masks: &Tensor,
    device: &Device,
) -> Result<()> {
    let turned = transform_plane(images, 1);
    let columns = [
        ("image", images.to_vec()?, false),
        ("mask", masks.to_vec()?, true),
        ("predicted", masks_of(network, images)?.to_vec()?, true),
        ("turned image", turned.to_vec()?, false),
        ("predicted", masks_of(network, &turned)?.to_vec()?, true),
    ];
    let (cell, step) = (3.0, 3.0 * SIZE as f64 + 12.0);
    let extent = (20.0 + step * columns.len() as f64, 66.0 + step * PICTURED as f64);
    let draw = |area: &Area| -> Drawn {
        figure::heading(
            area,
            "The mask of the turned image is the turned mask",
            &format!("p4 U-Net, built-in outlines; {device}"),
        )?;
        for (column, (title, values, is_mask)) in columns.iter().enumerate() {
            let x = 16.0 + step * column as f64;
            write(area, title, (x + 1.5 * SIZE as f64, 54.0), centred(font(9.0)))?;
            for (row, values) in values.chunks_exact(SIZE * SIZE).take(PICTURED).enumerate() {
                let color = |value: f64| palette::grey(if *is_mask { value } else { 0.3 + 0.25 * value });
                raster::image(area, (x, 64.0 + step * row as f64), cell, SIZE, values, color)?;
            }
        }
        Ok(())
    };
    figure::save(stem, extent, draw)
}
