//! The training loop and the count of correct answers.

use crate::{Mode, Network};
use quarterturn_autograd::{Optimizer, Rule, Schedule, Tape};
use quarterturn_core::{Device, Error, HostBuffer, Result, Tensor};
use quarterturn_kernels as kernels;
use rayon::prelude::*;

/// Images that one thread evaluates at a time: few, so that their feature maps stay in its cache.
const CHUNK: usize = 4;

/// Settings of a training run.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Passes over the data.
    pub epochs: u32,
    /// The optimizer.
    pub rule: Rule,
    /// The learning rate.
    pub schedule: Schedule,
    /// Key of all random numbers: dropout here, and whatever the batches draw.
    pub seed: u64,
}

impl Training {
    /// The paper's setting for MNIST: Adam, learning rate 0.01 halved every 10 epochs, weight decay 1e-5, 50 epochs.
    pub fn mnist(seed: u64) -> Self {
        Training {
            epochs: 50,
            rule: Optimizer::adam(1e-5).rule(),
            schedule: Schedule::Step { lr: 0.01, factor: 0.5, every: 10 },
            seed,
        }
    }
}

/// Where a run stands: told after each step, and once more after each epoch, with its loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The epoch, from 0.
    pub epoch: u32,
    /// Steps made in this epoch.
    pub step: u32,
    /// Steps of this epoch.
    pub steps: u32,
    /// The learning rate of this step.
    pub lr: f64,
    /// At the end of an epoch: the mean loss over its images, as they were met.
    pub loss: Option<f64>,
}

/// One step on one batch: forward, backward, update. Returns the loss, shape `[]`, still on the device.
///
/// # Errors
/// [`Error::Invalid`] if the images do not fit; or when the GPU has no room.
///
/// # Panics
/// If there is not one label per image.
pub fn train_step<N: Network + ?Sized>(
    network: &mut N,
    optimizer: &mut Optimizer,
    lr: f64,
    mode: Mode,
    images: &Tensor,
    labels: &Tensor,
) -> Result<Tensor> {
    network.output_shape(images.shape())?;
    let tape = Tape::new();
    let loss = network.forward(tape.constant(images.clone()), mode).cross_entropy(labels);
    let gradients = loss.backward()?;
    let loss = loss.value().clone();
    // The tape shares the weights; without it they are updated in place.
    drop(tape);
    optimizer.step(&gradients, lr, |f| network.visit(f))?;
    Ok(loss)
}

/// Trains `network`. `batches(epoch)` yields the images `[N, C, 1, H, W]` and labels `[N]` of an epoch. The loss is
/// read back once per epoch only. Returns each epoch's mean loss.
///
/// # Errors
/// [`Error::Invalid`] if images do not fit, an epoch has no batch, or the loss is no longer finite; whatever `batches`
/// or the device report.
#[cfg(not(target_arch = "wasm32"))]
pub fn train<N, B, I>(
    network: &mut N,
    training: &Training,
    mut batches: B,
    mut progress: impl FnMut(Progress),
) -> Result<Vec<f64>>
where
    N: Network + ?Sized,
    B: FnMut(u32) -> Result<I>,
    I: ExactSizeIterator<Item = Result<(Tensor, Tensor)>>,
{
    let mut optimizer = Optimizer::new(training.rule);
    let mut losses = Vec::new();
    let mut done: u32 = 0;
    for epoch in 0..training.epochs {
        let batches = batches(epoch)?;
        let steps = batches.len() as u32;
        let mut lr = 0.0;
        let mut total: Option<Tensor> = None;
        let mut count = 0;
        for (step, batch) in (0..).zip(batches) {
            let (images, labels) = batch?;
            lr = training.schedule.lr(epoch, step, training.epochs, steps);
            let mode = Mode::Train { seed: training.seed, step: done };
            let loss = train_step(network, &mut optimizer, lr, mode, &images, &labels)?;
            let weighted = kernels::scale(&loss, images.dims()[0] as f64);
            total = Some(match total {
                Some(total) => kernels::add(&total, &weighted),
                None => weighted,
            });
            count += images.dims()[0];
            done += 1;
            progress(Progress { epoch, step: step + 1, steps, lr, loss: None });
        }
        let Some(total) = total else {
            return Err(Error::Invalid(format!("epoch {} has no batch to train on", epoch + 1)));
        };
        let mean = total.to_f64()?[0] / count as f64;
        if !mean.is_finite() {
            let epoch = epoch + 1;
            return Err(Error::Invalid(format!(
                "training diverged: the mean loss of epoch {epoch} is {mean}; try a lower learning rate than {lr}"
            )));
        }
        losses.push(mean);
        progress(Progress { epoch, step: steps, steps, lr, loss: Some(mean) });
    }
    Ok(losses)
}

/// How many of the images `[N, C, 1, H, W]` the network classifies as `labels` `[N]` say. On the CPU, threads share
/// the images; the count does not depend on how. Other devices take them at once: pass a few hundred at a time.
///
/// # Errors
/// [`Error::Invalid`] if the images do not fit the network, are on another device, or are not as many as the labels;
/// or what went wrong on the GPU.
#[cfg(not(target_arch = "wasm32"))]
pub fn evaluate<N: Network + ?Sized>(network: &N, images: &Tensor, labels: &Tensor) -> Result<u64> {
    network.output_shape(images.shape())?;
    let n = images.dims()[0];
    if labels.dims() != [n] {
        return Err(Error::Invalid(format!("evaluate: {n} images, labels of shape {:?}", labels.shape())));
    }
    let here = network.device();
    if let Some(other) = [images, labels].into_iter().map(Tensor::device).find(|device| !device.same(&here)) {
        return Err(Error::Invalid(format!("evaluate: the network is on {here}, images or labels are on {other}")));
    }
    if !matches!(here, Device::Cpu) {
        return Ok(kernels::count_correct(&network.predict(images)?, labels).to_f64()?[0] as u64);
    }
    let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
    let correct = |from| -> Result<u64> {
        let count = CHUNK.min(n - from);
        let logits = network.predict(&rows(images, from, count))?;
        Ok(kernels::count_correct(&logits, &rows(labels, from, count)).f32s()[0] as u64)
    };
    starts.into_par_iter().map(correct).try_reduce(|| 0, |a, b| Ok(a + b))
}

/// Rows `from .. from + count` of the first axis, on the CPU.
fn rows(x: &Tensor, from: usize, count: usize) -> Tensor {
    let mut dims = x.dims().to_vec();
    dims[0] = count;
    let row = x.len() / x.dims()[0];
    let mut part = HostBuffer::scratch(count * row);
    part.copy_from_slice(&x.f32s()[from * row..(from + count) * row]);
    Tensor::cpu(&dims[..], part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MnistCnn, MnistCnnConfig};
    use quarterturn_core::{Shape, Stream};

    fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
        let (shape, stream) = (shape.into(), Stream::new(5, stream, 0));
        Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), &Device::Cpu)
            .unwrap()
    }

    /// Ten images of noise, five of each class; class 1 is brighter.
    fn batch(epoch: u32) -> (Tensor, Tensor) {
        let labels: Vec<f32> = (0..10).map(|i| (i % 2) as f32).collect();
        let mut images = random([10, 1, 1, 12, 12], epoch);
        for (image, label) in images.f32s_mut().chunks_mut(144).zip(&labels) {
            image.iter_mut().for_each(|v| *v += label);
        }
        (images, Tensor::from_vec([10], labels, &Device::Cpu).unwrap())
    }

    fn small() -> MnistCnn {
        let config = MnistCnnConfig { width: 3, classes: 2, ..MnistCnnConfig::p4cnn() };
        MnistCnn::new(config, 1, &Device::Cpu).unwrap()
    }

    fn run(training: &Training) -> Result<(MnistCnn, Vec<f64>)> {
        let mut network = small();
        let batches = |epoch| Ok([2 * epoch, 2 * epoch + 1].map(|i| Ok(batch(i))).into_iter());
        let losses = train(&mut network, training, batches, |_| ())?;
        Ok((network, losses))
    }

    #[test]
    fn a_small_network_learns() {
        let (network, losses) = run(&Training { epochs: 15, ..Training::mnist(3) }).unwrap();
        assert!(losses[14] < 0.5 * losses[0], "{losses:?}");
        let (images, labels) = batch(1000);
        assert!(evaluate(&network, &images, &labels).unwrap() >= 9);
    }

    #[test]
    fn the_same_seed_makes_the_same_bits_with_1_2_and_3_threads() {
        let bits = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (mut network, losses) = pool.install(|| run(&Training { epochs: 2, ..Training::mnist(3) })).unwrap();
            let mut values = Vec::new();
            crate::Module::visit(&mut network, &mut |_, param| values.extend_from_slice(param.value().f32s()));
            (values, losses)
        };
        let one = bits(1);
        assert!(one == bits(2), "2 threads differ from 1");
        assert!(one == bits(3), "3 threads differ from 1");
    }

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
    fn progress_tells_each_step_and_each_epochs_loss() {
        let mut told = Vec::new();
        let training = Training { epochs: 2, ..Training::mnist(3) };
        let batches = |epoch| Ok([epoch, epoch].map(|i| Ok(batch(i))).into_iter());
        let losses = train(&mut small(), &training, batches, |progress| told.push(progress)).unwrap();
        let steps: Vec<_> = told.iter().map(|p| (p.epoch, p.step, p.steps, p.loss)).collect();
        let expected = |epoch, loss| [(epoch, 1, 2, None), (epoch, 2, 2, None), (epoch, 2, 2, Some(loss))];
        assert_eq!(steps, [expected(0, losses[0]), expected(1, losses[1])].concat());
    }

    #[test]
    fn divergence_and_unfit_data_are_errors() {
        let invalid = |result: Result<Vec<f64>>, expected: &str| match result {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{other:?}"),
        };
        let training = Training { epochs: 1, ..Training::mnist(3) };
        let none = |_| Ok(Vec::<Result<(Tensor, Tensor)>>::new().into_iter());
        invalid(train(&mut small(), &training, none, |_| ()), "no batch");
        let nan = |_| {
            let (mut images, labels) = batch(0);
            images.f32s_mut()[7] = f32::NAN;
            Ok([Ok((images, labels))].into_iter())
        };
        invalid(train(&mut small(), &training, nan, |_| ()), "diverged");
        let wrong = |_| Ok([Ok((random([2, 3, 1, 12, 12], 0), batch(0).1))].into_iter());
        invalid(train(&mut small(), &training, wrong, |_| ()), "conv1: expected 1 channels");
        assert!(matches!(
            evaluate(&small(), &batch(0).0, &Tensor::cpu([3], HostBuffer::zeros(3))),
            Err(Error::Invalid(_))
        ));
    }
}
