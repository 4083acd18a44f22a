//! One step on one batch.

use crate::{Exactness, Mode, Network};
use quarterturn_autograd::{Optimizer, Tape};
use quarterturn_core::{Device, Result, Tensor};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

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

/// Says on standard error, once per process, that a network breaks its symmetry at the size of `images`, and which sizes do not:
/// it would learn to profit from that, and nobody would notice.
pub(super) fn warn_if_inexact<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<()> {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    network.output_shape(images.shape())?;
    let warning = Exactness::of(network, [images.dims()[3], images.dims()[4]])?.warning();
    if let Some(warning) = warning
        && TOLD.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone())
    {
        eprintln!("warning: {warning}");
    }
    Ok(())
}
