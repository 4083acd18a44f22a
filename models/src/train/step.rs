//! One step on one batch.

use crate::{Mode, Network, Trace};
use quarterturn_autograd::{Optimizer, Tape};
use quarterturn_core::{Device, Error, Result, Tensor};
use quarterturn_kernels as kernels;

/// One step on one batch: forward, backward, update. Returns the loss, shape `[]`, still on the device.
///
/// # Errors
/// [`Error::Invalid`] if the images do not fit, or leave one of the norms a single value per channel to take the statistics of; if
/// there is not one label per image, or one on the CPU is no class (on a GPU, it makes the loss NaN); or when the GPU has no room.
pub fn train_step<N: Network + ?Sized>(
    network: &mut N,
    optimizer: &mut Optimizer,
    lr: f64,
    mode: Mode,
    images: &Tensor,
    labels: &Tensor,
) -> Result<Tensor> {
    expect_fit(network, mode, images, labels)?;
    let mut step = || {
        let tape = Tape::new();
        let loss = network.forward(tape.constant(images.clone()), mode).cross_entropy(labels);
        let gradients = loss.backward()?;
        let loss = loss.value().clone();
        // The tape shares the weights; without it they are updated in place.
        drop(tape);
        optimizer.step(&gradients, lr, |f| network.visit(f))?;
        Ok(loss)
    };
    match images.device() {
        // On one of the threads that share the work: another one would sleep and be woken for each operation.
        Device::Cpu => rayon::scope(|_| step()),
        _ => step(),
    }
}

fn expect_fit<N: Network + ?Sized>(network: &N, mode: Mode, images: &Tensor, labels: &Tensor) -> Result<()> {
    let mut trace = Trace::new(network.group());
    let logits = network.trace(images.shape(), &mut trace)?;
    let n = images.dims()[0];
    if let (Mode::Train { .. }, Some(norm)) = (mode, trace.lone_norm()) {
        return Err(Error::Invalid(format!(
            "{norm}: a batch of {n} leaves one value per channel, of which no variance can be taken: leave the batch out, or take \
             another batch size"
        )));
    }
    let &[_, classes] = logits.dims() else {
        return Err(Error::Invalid(format!(
            "the network makes {logits:?} of {n} images, expected logits [N, classes]"
        )));
    };
    if labels.dims() != [n] {
        return Err(Error::Invalid(format!("{n} images, labels of shape {:?}", labels.shape())));
    }
    match labels.device() {
        Device::Cpu | Device::Reference => expect_labels(labels, classes, 0),
        // Without waiting for it, a GPU's labels cannot be looked at.
        #[cfg(feature = "gpu")]
        Device::Gpu(_) => Ok(()),
    }
}

/// Refuses a label that is no class; the first is that of image `first`.
///
/// # Errors
/// [`Error::Invalid`], naming label and image; what went wrong on the GPU.
pub(super) fn expect_labels(labels: &Tensor, classes: usize, first: u64) -> Result<()> {
    match kernels::first_invalid_label(labels, classes)? {
        None => Ok(()),
        Some((at, label)) => {
            let (image, last) = (first + at as u64, classes - 1);
            Err(Error::Invalid(format!("label {label} of image {image}: expected a whole number from 0 to {last}")))
        }
    }
}
