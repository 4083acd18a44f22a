//! Counting correct answers of a classifier.

use super::step::expect_labels;
use crate::{Network, check::warn_of_pixels};
use quarterturn_core::{Device, Error, HostBuffer, Result, Tensor};
use quarterturn_kernels as kernels;
use rayon::prelude::*;

/// Images that one thread evaluates at a time: few, so that their feature maps stay in its cache.
const CHUNK: usize = 16;
/// A GPU is never so many batches behind.
const FURTHEST_BEHIND: usize = 256;

/// The number of images `[N, C, 1, H, W]` that the network classifies correctly, by `labels` `[N]`. Devices other than
/// the CPU take all images at once, so pass a few hundred at a time. To test on several views of each image (rotations,
/// say), or without waiting for a GPU after each batch, see [`Tally`]. For other metrics see
/// [`crate::training::Scores`].
///
/// # Errors
/// As [`Tally::count`].
pub fn evaluate<N: Network + ?Sized>(network: &N, images: &Tensor, labels: &Tensor) -> Result<u64> {
    let mut tally = Tally::new(1);
    tally.count(network, images, labels, |images, _| images.clone())?;
    Ok(tally.read()?[0])
}

/// Counts correct answers over the batches of a test set, for several views of each image (rotations, say). Counts on a
/// GPU stay there until [`Tally::read`].
///
/// An image with a NaN among its logits counts as wrong. [`Tally::has_unanswered`] tells whether there was one, and a
/// warning is logged through the `log` crate.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: Vec<u64>,
    has_unanswered: bool,
    /// Images of each view so far, and classes.
    images: u64,
    classes: usize,
    pending: Pending,
}

/// What is still on a device.
#[derive(Clone, Debug, Default)]
struct Pending {
    /// Of each view, what its count lacks; NaN where a label is no class.
    counts: Vec<Option<Tensor>>,
    /// 0, or NaN if there was an image without an answer.
    answers: Option<Tensor>,
    /// The labels of each batch, and the number of its first image.
    labels: Vec<(Tensor, u64)>,
}

impl Tally {
    /// Counts of 0 for this number of views.
    pub fn new(views: usize) -> Self {
        Self::from_counts(vec![0; views])
    }

    /// Continues from counts that [`Tally::read`] returned.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        let pending = Pending { counts: vec![None; counts.len()], ..Pending::default() };
        Tally { counts, has_unanswered: false, images: 0, classes: 0, pending }
    }

    /// Adds a batch of images `[N, C, H, W]` or `[N, C, 1, H, W]` with `labels` `[N]`. For each view v, the network is
    /// run on `view(images, v)`. The labels are on the CPU or on the device of the network. On the CPU the threads
    /// share the images; this does not change the counts. Other devices take all images at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the views do not fit the network, if the images are on another device, or if the numbers
    /// of images and labels differ. [`Error::Invalid`], naming label and image, if a label is no class; for labels on a
    /// GPU, [`Tally::wait`] and [`Tally::read`] return this error. An error of the GPU.
    pub fn count<N: Network + ?Sized>(
        &mut self,
        network: &N,
        images: &Tensor,
        labels: &Tensor,
        view: impl Fn(&Tensor, usize) -> Tensor + Sync,
    ) -> Result<()> {
        let n = images.dims()[0];
        if labels.dims() != [n] {
            return Err(Error::Invalid(format!("evaluate: {n} images, labels of shape {:?}", labels.shape())));
        }
        let here = network.device();
        if !images.device().same(&here) {
            let message = format!("evaluate: the network is on {here}, the images are on {}", images.device());
            return Err(Error::Invalid(message));
        }
        match here {
            Device::Cpu => self.count_in_chunks(network, images, &labels.to_device(&here)?, view)?,
            _ => self.count_at_once(network, images, labels, view)?,
        }
        self.images += n as u64;
        Ok(())
    }

    fn count_in_chunks<N: Network + ?Sized>(
        &mut self,
        network: &N,
        images: &Tensor,
        labels: &Tensor,
        view: impl Fn(&Tensor, usize) -> Tensor + Sync,
    ) -> Result<()> {
        let (n, views, first) = (images.dims()[0], self.counts.len(), self.images);
        // The counts of each view, and whether an image has no answer.
        let chunk = |from| -> Result<(Vec<u64>, bool)> {
            let count = CHUNK.min(n - from);
            let (images, labels) = (rows(images, from, count), rows(labels, from, count));
            let (mut counts, mut has_unanswered) = (Vec::with_capacity(views), false);
            for v in 0..views {
                let (logits, classes) = logits(network, &view(&images, v))?;
                expect_labels(&labels, classes, first + from as u64)?;
                counts.push(kernels::count_correct(&logits, &labels).f32s()[0] as u64);
                has_unanswered |= logits.f32s().iter().any(|logit| logit.is_nan());
            }
            Ok((counts, has_unanswered))
        };
        let sum = |(a, any): (Vec<u64>, bool), (b, more): (Vec<u64>, bool)| {
            Ok((a.iter().zip(&b).map(|(a, b)| a + b).collect(), any || more))
        };
        let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let (counts, any) = starts.into_par_iter().map(chunk).try_reduce(|| (vec![0; views], false), sum)?;
        self.counts.iter_mut().zip(counts).for_each(|(count, more)| *count += more);
        if any {
            self.tell_of_unanswered();
        }
        Ok(())
    }

    fn count_at_once<N: Network + ?Sized>(
        &mut self,
        network: &N,
        images: &Tensor,
        labels: &Tensor,
        view: impl Fn(&Tensor, usize) -> Tensor,
    ) -> Result<()> {
        let add = |sum: &mut Option<Tensor>, more: Tensor| {
            *sum = Some(match sum.take() {
                Some(sum) => kernels::add(&sum, &more),
                None => more,
            });
        };
        let here = network.device();
        let on_device = labels.to_device(&here)?;
        for v in 0..self.counts.len() {
            let images = view(images, v);
            let (logits, classes) = logits(network, &images)?;
            if matches!(labels.device(), Device::Cpu | Device::Reference) {
                expect_labels(labels, classes, self.images)?;
            }
            if !matches!(here, Device::Reference) && self.images == 0 && v == 0 {
                warn_of_pixels(network, &images)?;
            }
            self.classes = classes;
            add(&mut self.pending.counts[v], kernels::count_correct(&logits, &on_device));
            add(&mut self.pending.answers, kernels::sum(&kernels::scale(&kernels::argmax(&logits, 1), 0.0)));
        }
        self.pending.labels.push((labels.clone(), self.images));
        if self.pending.labels.len() > FURTHEST_BEHIND { self.wait() } else { Ok(()) }
    }

    /// Waits until a GPU has counted all batches so far.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a label was no class, naming it and its image; what went wrong on the GPU.
    pub fn wait(&mut self) -> Result<()> {
        if let Some(Some(last)) = self.pending.counts.last()
            && last.to_f64()?[0].is_nan()
        {
            return self.expect_pending_labels();
        }
        self.pending.labels.clear();
        Ok(())
    }

    /// The number of correct answers for each view.
    ///
    /// # Errors
    /// As [`Tally::wait`].
    pub fn read(&mut self) -> Result<&[u64]> {
        for v in 0..self.counts.len() {
            let Some(more) = self.pending.counts[v].take() else { continue };
            let more = more.to_f64()?[0];
            if more.is_nan() {
                self.expect_pending_labels()?;
            }
            self.counts[v] += more as u64;
        }
        if let Some(answers) = self.pending.answers.take()
            && answers.to_f64()?[0].is_nan()
        {
            self.tell_of_unanswered();
        }
        self.pending.labels.clear();
        Ok(&self.counts)
    }

    /// Whether an image, in any view, had a NaN among its logits, of those that [`Tally::read`] has read.
    pub fn has_unanswered(&self) -> bool {
        self.has_unanswered
    }

    fn tell_of_unanswered(&mut self) {
        if !self.has_unanswered {
            log::warn!("evaluation: there are images whose logits are not numbers; they count as wrong");
        }
        self.has_unanswered = true;
    }

    /// Names the label that is no class, for which a count is NaN.
    fn expect_pending_labels(&self) -> Result<()> {
        let mut labels = self.pending.labels.iter();
        labels.try_for_each(|(labels, first)| expect_labels(labels, self.classes, *first))?;
        Err(Error::Gpu("a count of right answers is not a number".into()))
    }
}

/// The logits of images, and the number of classes.
fn logits<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<(Tensor, usize)> {
    let logits = network.predict(images)?;
    match *logits.dims() {
        [_, classes] => Ok((logits, classes)),
        _ => Err(Error::Invalid(format!(
            "evaluate: the network makes {:?}, expected logits [N, classes]",
            logits.shape()
        ))),
    }
}

/// Rows `from .. from + count` of the first axis, on the CPU.
pub(super) fn rows(x: &Tensor, from: usize, count: usize) -> Tensor {
    let mut dims = x.dims().to_vec();
    dims[0] = count;
    let row = x.len() / x.dims()[0];
    let mut part = HostBuffer::scratch(count * row);
    part.copy_from_slice(&x.f32s()[from * row..(from + count) * row]);
    Tensor::cpu(&dims[..], part)
}
