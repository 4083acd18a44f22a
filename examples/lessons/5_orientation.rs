//! Lesson 5: the direction of an arrow. If the image is turned by 90°, the direction is turned by 90°, in every bit.
//!
//! Run it with `cargo run --release --example lesson5_orientation`.

use quarterturn::{
    autograd::{Optimizer, Schedule, Tape, Var},
    core::{Device, Result, Stream, Tensor},
    data::{Annotated, Loader, Normalization, Pipeline},
    kernels::{Group, Window, transform_plane},
    models::{
        Builder, Init, Network, Sequential,
        training::{Objective, Training, train},
    },
};
use std::f32::consts::TAU;

const SIZE: usize = 17;

/// Images of a bar that fades from its end to its beginning, and for each the cosine and sine of its direction, counter-clockwise.
fn arrows(seed: u64, n: usize) -> Result<Annotated> {
    let (mut pixels, mut directions) = (Vec::new(), Vec::new());
    for image in 0..n {
        let (sin, cos) = (TAU * Stream::new(seed, 0, 0).uniform(image as u64)).sin_cos();
        for at in 0..SIZE * SIZE {
            let [x, y] = [at % SIZE, SIZE - 1 - at / SIZE].map(|at| at as f32 - (SIZE as f32 - 1.0) / 2.0);
            let (along, across) = (x * cos + y * sin, y * cos - x * sin);
            let inside = along.abs() < 7.0 && across.abs() < 2.0;
            pixels.push(if inside { (128.0 + 18.0 * along) as u8 } else { 0 });
        }
        directions.extend([cos, sin]);
    }
    Annotated::with_numbers("arrows", pixels, directions, [1, SIZE, SIZE], 2)
}

/// The network has one number for each of the four turns, `[N, 1, 4, 1, 1]`. A turn of the image moves them on by one place. So the
/// vector `(f₀ − f₂, f₁ − f₃)` turns with the image: it is the direction.
fn direction<'t>(outputs: &Var<'t>) -> Var<'t> {
    let number = |turn| outputs.narrow(2, turn, 1).reshape([outputs.shape().dims()[0], 1]);
    Var::concat(&[&number(0).sub(&number(2)), &number(1).sub(&number(3))], 1)
}

fn main() -> Result<()> {
    let pipeline = Pipeline { transforms: vec![], normalization: Normalization { mean: vec![0.1], std: vec![0.25] } };
    let images = |seed, n| -> Result<Loader> { Ok(Loader::new(arrows(seed, n)?, pipeline.clone(), 32).seed(seed)) };
    let (training_images, test_images) = (images(1, 512)?.shuffled(), images(2, 128)?);

    let [three, halving] =
        [(3, 1, 1), (3, 2, 1)].map(|(kernel_size, stride, padding)| Window { kernel_size, stride, padding });
    let builder = Builder::new(Group::C4, 1, Init::kaiming(1), &Device::Cpu);
    let builder = builder.conv("conv1", 8, three).norm("norm1").relu().conv("conv2", 8, halving).norm("norm2").relu();
    let builder = builder.conv("conv3", 8, halving).norm("norm3").relu().conv("direction", 1, three).spatial_mean();
    let mut network = Sequential::new("orientation", builder.build()?);

    // An objective of one's own: the squared distance between the direction and the true one.
    let mut training = Training::new(12, Optimizer::adam(0.0).rule(), Schedule::OneCycle { max_lr: 0.02 }, 1);
    training.objective = Objective::own("squared distance of directions", |outputs, targets| {
        let off = direction(outputs).sub(&outputs.tape().constant(targets.clone()));
        Ok(off.mul(&off).mean())
    });
    let batches = |epoch| Ok(training_images.epoch(epoch).map(|batch| Ok(batch?.into_pair())));
    println!("losses: {:.3?}", train(&mut network, &training, batches, |_| ())?);

    let measure = |images: &Tensor| -> Result<Vec<f32>> {
        direction(&Tape::evaluation().constant(network.predict(images)?)).value().to_vec()
    };
    let mut off = 0.0;
    for batch in test_images.epoch(0) {
        let (images, truth) = batch?.into_pair();
        let (found, of_turned) = (measure(&images)?, measure(&transform_plane(&images, 1))?);
        for ((found, turned), truth) in found.chunks(2).zip(of_turned.chunks(2)).zip(truth.to_vec()?.chunks(2)) {
            // The vector (x, y), turned by 90°, is (−y, x): with `==`.
            assert!(turned[0] == -found[1] && turned[1] == found[0]);
            let (sin, cos) = (found[1] * truth[0] - found[0] * truth[1], found[0] * truth[0] + found[1] * truth[1]);
            off += sin.atan2(cos).abs().to_degrees() / 128.0;
        }
    }
    println!("test images: {off:.1}° off in the mean; a quarter turn of the image turns the direction by 90° exactly");
    assert!(off < 5.0);
    Ok(())
}
