//! The micro-batches of a step, and what they come to, summed in a fixed tree.

use super::{
    Trainer, Training,
    agreement::in_place,
    mixup::Mix,
    position::Position,
    ranks::{NOTHING, Ranks, add_over_ranks, tree},
    side_by_side::Step,
    step::gradients,
};
use crate::{Mode, Network, nn::on_workers};
use quarterturn_autograd::{Gradients, Kind, Param, Parts};
use quarterturn_core::{Device, Error, Result, Tensor};
use quarterturn_kernels as kernels;
use std::rc::Rc;

impl<N: Network + ?Sized> Trainer<'_, N> {
    /// The gradients on a micro-batch, which stands at `place` of this step, and its mean loss.
    pub(super) fn micro_batch(&self, images: &Tensor, targets: &Tensor, place: u32) -> Result<(Gradients, Tensor)> {
        let (network, work) = (&*self.network, self.work(place));
        on_workers(&images.device(), || work.gradients(network, (images, targets), None))
    }

    /// The sums over `own` micro-batches, those of this rank, of a step that has `all` micro-batches. Their norms share statistics.
    pub(super) fn side_by_side(&self, own: &[(Tensor, Tensor)], all: usize) -> Result<Option<Sums>> {
        let (network, share) = (&*self.network, self.share()?);
        let step = Step { share, micro_batches: all, channels: most_channels(network), ranks: &*self.ranks };
        let works: Vec<_> = (0..own.len()).map(|n| self.work((share.first() + n) as u32)).collect();
        let images: Vec<usize> = own.iter().map(|(images, _)| images.dims()[0]).collect();
        let made = step.run(&images, |n, others| {
            let (images, targets) = &own[n];
            works[n].gradients(network, (images, targets), Some(others))
        })?;
        let mut made = made.into_iter().zip(images);
        let mut leaf = |_| match made.next() {
            Some(((gradients, loss), images)) => Sums::of(network, &gradients, &loss, images as u32).map(Some),
            None => Ok(None),
        };
        tree(share.first(), share.places(), &mut leaf, &Sums::add)
    }

    fn work(&self, place: u32) -> Work<'_> {
        let Position { epoch, step, steps, .. } = self.position;
        Work { training: &self.training, epoch, batch: step + place, step: steps + place }
    }
}

/// What is to be done with one micro-batch.
struct Work<'a> {
    training: &'a Training,
    epoch: u32,
    /// Of the epoch.
    batch: u32,
    /// Of the run.
    step: u32,
}

impl Work<'_> {
    fn gradients<N: Network + ?Sized>(
        &self,
        network: &N,
        (images, targets): (&Tensor, &Tensor),
        others: Option<Rc<dyn Parts>>,
    ) -> Result<(Gradients, Tensor)> {
        let (Training { objective, seed, mixup, .. }, step) = (self.training, self.step);
        let n = images.dims().first().copied().unwrap_or(0);
        let mix = mixup.map(|alpha| Mix::draw(alpha, *seed, step, n));
        let mode = Mode::Train { seed: *seed, step };
        let made = gradients(network, objective, mode, images, targets, mix.as_ref(), others);
        made.map_err(|error| in_place(self.epoch, self.batch, error))
    }
}

/// The most channels that a norm may have: the length of the longest buffer.
fn most_channels<N: Network + ?Sized>(network: &N) -> usize {
    let mut most = 0;
    network.read(&mut |_, param| {
        if param.kind() == Kind::Buffer {
            most = most.max(param.value().len());
        }
    });
    most
}

/// Sums over some micro-batches, each number times the images of its micro-batch: the gradients of all weights that are not frozen, the
/// new values of buffers such as running statistics, and the mean loss.
pub(super) struct Sums {
    /// One after another as `visit` goes, the loss last, still on the device. What a micro-batch has nothing for is [`NOTHING`].
    values: Tensor,
    /// The images of the micro-batches that have something for a parameter, and last those of all.
    images: Vec<u32>,
}

impl Sums {
    /// Of one micro-batch of `images`, whose mean loss, shape `[]`, is `loss`.
    ///
    /// # Errors
    /// When the GPU has no room.
    pub fn of<N: Network + ?Sized>(network: &N, gradients: &Gradients, loss: &Tensor, images: u32) -> Result<Self> {
        let device = loss.device();
        let (mut values, mut counts, mut outcome) = (Vec::new(), Vec::new(), Ok(()));
        network.read(&mut |_, param| {
            if outcome.is_err() || !takes_part(param) {
                return;
            }
            let found = match param.kind() {
                Kind::Weight => gradients.of(param),
                Kind::Buffer => gradients.buffer(param),
            };
            counts.push(if found.is_some() { images } else { 0 });
            let len = [param.value().len()];
            match found {
                Some(value) => values.push(value.reshape(len)),
                None => outcome = Tensor::full(len, NOTHING, &device).map(|nothing| values.push(nothing)),
            }
        });
        outcome?;
        counts.push(images);
        values.push(loss.reshape([1]));
        // What has no numbers has no gradient either.
        values.retain(|value| !value.is_empty());
        let values = kernels::concat(&values.iter().collect::<Vec<_>>(), 0);
        // What is not there stays as it is: −0 times a positive number is −0.
        Ok(Sums { values: kernels::scale(&values, f64::from(images)), images: counts })
    }

    /// Of no micro-batch.
    fn nothing<N: Network + ?Sized>(network: &N) -> Result<Self> {
        let (mut len, mut params) = (1, 1);
        network.read(&mut |_, param| {
            if takes_part(param) {
                len += param.value().len();
                params += 1;
            }
        });
        Ok(Sums { values: Tensor::full([len], NOTHING, &network.device())?, images: vec![0; params] })
    }

    /// Of the micro-batches of both.
    pub fn add(self, other: Sums) -> Result<Self> {
        let images = self.images.iter().zip(&other.images).map(|(a, b)| a + b).collect();
        Ok(Sums { values: kernels::add(&self.values, &other.values), images })
    }

    /// Of the micro-batches of all ranks, of which this one may have none. All of it is one message, halved from partner to partner.
    ///
    /// # Errors
    /// As [`Ranks::exchange`]; [`Error::Invalid`] on [`Device::Reference`]; what went wrong on the GPU.
    pub fn of_all<N: Network + ?Sized>(own: Option<Sums>, network: &N, ranks: &dyn Ranks) -> Result<Self> {
        let Sums { values, images } = own.map_or_else(|| Self::nothing(network), Ok)?;
        if ranks.size() == 1 {
            return Ok(Sums { values, images });
        }
        let device = values.device();
        if matches!(device, Device::Reference) {
            return Err(Error::Invalid(
                "several processes train on the CPU or on GPUs, not on the reference device".into(),
            ));
        }
        let len = values.len();
        let mut message = values.to_vec()?;
        drop(values);
        // Whole numbers are exact up to 2²⁴.
        message.extend(images.iter().map(|&images| images as f32));
        add_over_ranks(ranks, &mut message)?;
        let images = message.split_off(len).into_iter().map(|images| images as u32).collect();
        Ok(Sums { values: Tensor::from_vec([len], message, &device)?, images })
    }

    /// Gives buffers their means over the images, and returns the mean gradients and, shape `[]`, the sum of the images' losses; and how
    /// many images there are.
    pub fn into_step<N: Network + ?Sized>(self, network: &mut N) -> (Gradients, Tensor, u32) {
        let Sums { values, images } = self;
        let (mut gradients, mut start, mut counts) = (Gradients::new(), 0, images.iter());
        let all = images.last().copied().unwrap_or_default();
        network.visit(&mut |_, param| {
            if !takes_part(param) {
                return;
            }
            let (len, met) = (param.value().len(), counts.next().copied().unwrap_or_default());
            let sum = (met > 0 && len > 0).then(|| kernels::narrow(&values, 0, start, len));
            start += len;
            let Some(sum) = sum.map(|sum| sum.reshape(param.value().shape())) else { return };
            match param.kind() {
                // A micro-batch whose loss does not depend on the weight has the gradient 0.
                Kind::Weight => gradients.set(param, kernels::scale(&sum, 1.0 / f64::from(all))),
                Kind::Buffer => param.set(kernels::scale(&sum, 1.0 / f64::from(met))),
            }
        });
        (gradients, kernels::narrow(&values, 0, start, 1).reshape([]), all)
    }
}

/// Whether a step may change it.
fn takes_part(param: &Param) -> bool {
    param.kind() == Kind::Buffer || !param.is_frozen()
}
