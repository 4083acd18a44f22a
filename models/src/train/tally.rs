//! The count of correct answers.

use crate::Network;
use quarterturn_core::{Device, Error, HostBuffer, Result, Tensor};
use quarterturn_kernels as kernels;
use rayon::prelude::*;

/// Images that one thread evaluates at a time: few, so that their feature maps stay in its cache.
const CHUNK: usize = 16;

/// How many of the images `[N, C, 1, H, W]` the network classifies as `labels` `[N]` say. Other devices than the CPU
/// take the images at once: pass a few hundred at a time. To test on several views of each image, or without waiting
/// for a GPU after each batch, see [`Tally`].
///
/// # Errors
/// As [`Tally::count`].
pub fn evaluate<N: Network + ?Sized>(network: &N, images: &Tensor, labels: &Tensor) -> Result<u64> {
    let mut tally = Tally::new(1);
    tally.count(network, images, labels, |images, _| images.clone())?;
    Ok(tally.read()?[0])
}

/// Counts of correct answers over the batches of a test set, for several views of each image (rotations, say). On a
/// GPU they are kept there until somebody reads them.
#[derive(Clone, Debug)]
pub struct Tally {
    counts: Vec<u64>,
    /// What the counts lack, where it is still on the device.
    pending: Vec<Option<Tensor>>,
}

impl Tally {
    /// Counts for so many views, at 0.
    pub fn new(views: usize) -> Self {
        Self::from_counts(vec![0; views])
    }

    /// Counts on from what [`Tally::read`] gave.
    pub fn from_counts(counts: Vec<u64>) -> Self {
        let pending = vec![None; counts.len()];
        Tally { counts, pending }
    }

    /// Adds the images `[N, C, H, W]` or `[N, C, 1, H, W]` with `labels` `[N]`: view `v` of them, as the network gets
    /// it, is `view(images, v)`. On the CPU the threads share the images, a few at a time, and make all views of those
    /// they have; the counts do not depend on how. Other devices take all images at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the views do not fit the network, the images are on another device, or are not as many
    /// as the labels; or what went wrong on the GPU.
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
        if let Some(other) = [images, labels].into_iter().map(Tensor::device).find(|device| !device.same(&here)) {
            return Err(Error::Invalid(format!("evaluate: the network is on {here}, images or labels are on {other}")));
        }
        let views = 0..self.counts.len();
        let correct = |images: &Tensor, labels: &Tensor, v| -> Result<Tensor> {
            Ok(kernels::count_correct(&network.predict(&view(images, v))?, labels))
        };
        if !matches!(here, Device::Cpu) {
            for v in views {
                let more = correct(images, labels, v)?;
                self.pending[v] = Some(match &self.pending[v] {
                    Some(sum) => kernels::add(sum, &more),
                    None => more,
                });
            }
            return Ok(());
        }
        let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let chunk = |from| -> Result<Vec<u64>> {
            let count = CHUNK.min(n - from);
            let (images, labels) = (rows(images, from, count), rows(labels, from, count));
            views.clone().map(|v| Ok(correct(&images, &labels, v)?.f32s()[0] as u64)).collect()
        };
        let sum = |a: Vec<u64>, b: Vec<u64>| Ok(a.iter().zip(&b).map(|(a, b)| a + b).collect());
        let more = starts.into_par_iter().map(chunk).try_reduce(|| vec![0; self.counts.len()], sum)?;
        self.counts.iter_mut().zip(more).for_each(|(count, more)| *count += more);
        Ok(())
    }

    /// Waits until a GPU has counted what it was given, so that it is never far behind.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn wait(&self) -> Result<()> {
        self.pending.last().and_then(Option::as_ref).map_or(Ok(()), |last| last.to_vec().map(drop))
    }

    /// The count of each view.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn read(&mut self) -> Result<&[u64]> {
        for (count, pending) in self.counts.iter_mut().zip(&mut self.pending) {
            if let Some(more) = pending {
                *count += more.to_f64()?[0] as u64;
                *pending = None;
            }
        }
        Ok(&self.counts)
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
