//! One training step.

use super::{mixup::Mix, objective::Objective};
use crate::{Mode, Network, Pass, Trace, nn::on_workers};
use quarterturn_autograd::{Gradients, Optimizer, Parts, Tape};
use quarterturn_core::{Error, Result, Shape, Tensor};
use std::rc::Rc;

/// One training step on a batch of images with class labels: forward, backward, update. Returns the loss, shape `[]`,
/// on the device.
///
/// # Errors
/// [`Error::Invalid`] if the images do not fit the network, if a batch norm has only one value per channel, if there is
/// not one label per image, or if a label is no class. (Labels may be on the CPU, whatever the device; there they are
/// checked first. Labels on a GPU are not checked; an invalid one makes the loss NaN.) An error if the GPU has no room.
pub fn train_step<N: Network + ?Sized>(
    network: &mut N,
    optimizer: &mut Optimizer,
    lr: f64,
    mode: Mode,
    images: &Tensor,
    labels: &Tensor,
) -> Result<Tensor> {
    on_workers(&images.device(), || {
        let (gradients, loss) = gradients(network, &Objective::default(), mode, images, labels, None, None)?;
        optimizer.step(&gradients, lr, |f| network.visit(f))?;
        Ok(loss)
    })
}

/// Forward and backward, of a batch or, with `parts`, of a part of one. No tape shares the weights any more when this returns, so that they are updated in place.
///
/// # Errors
/// As [`train_step`], and as [`Objective::loss`].
pub(super) fn gradients<N: Network + ?Sized>(
    network: &N,
    objective: &Objective,
    mode: Mode,
    inputs: &Tensor,
    targets: &Tensor,
    mix: Option<&Mix>,
    parts: Option<Rc<dyn Parts>>,
) -> Result<(Gradients, Tensor)> {
    expect_fit(network, objective, mode, inputs, targets, parts.is_some())?;
    let tape = Tape::new();
    let inputs = mix.map_or_else(|| inputs.clone(), |mix| mix.blend(inputs));
    let mut pass = parts.into_iter().fold(Pass::new(mode), Pass::of_part);
    let outputs = network.apply(tape.constant(inputs), &mut pass);
    let loss = match mix {
        Some(mix) => mix.loss(targets, |targets| objective.of_fit(&outputs, targets))?,
        None => objective.of_fit(&outputs, targets)?,
    };
    Ok((loss.backward()?, loss.value().clone()))
}

fn expect_fit<N: Network + ?Sized>(
    network: &N,
    objective: &Objective,
    mode: Mode,
    inputs: &Tensor,
    targets: &Tensor,
    is_part: bool,
) -> Result<()> {
    let mut trace = Trace::new(network.group());
    let outputs = network.trace(inputs.shape(), &mut trace)?;
    let n = inputs.dims()[0];
    if let (Mode::Train { .. }, Some(norm), false) = (mode, trace.lone_norm(), is_part) {
        return Err(Error::Invalid(format!(
            "{norm}: a batch of {n} leaves one value per channel, of which no variance can be taken: leave the batch out, or take \
             another batch size"
        )));
    }
    objective.expect_fit(outputs, targets)
}

/// Refuses a label that is no class; the first is that of image `first`.
///
/// # Errors
/// [`Error::Invalid`], naming label and image; what went wrong on the GPU.
pub(super) fn expect_labels(labels: &Tensor, classes: usize, first: u64) -> Result<()> {
    Objective::default().expect_targets(Shape::from([labels.len(), classes]), labels, first)
}
