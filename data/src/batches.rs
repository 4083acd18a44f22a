//! Batches of a data set as tensors.

use crate::{Dataset, Normalization};
use quarterturn_core::{Device, Error, HostBuffer, Result, Shape, Stream, Tensor};

/// The stream that shuffles an epoch.
pub(crate) const SHUFFLE: u32 = u32::from_be_bytes(*b"shuf");

/// A batch of images with targets.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Normalised images `[n, C, 1, H, W]`, on the device.
    pub images: Tensor,
    /// Targets: class indices `[n]`, stored as numbers; where each pixel has a class, `[n, H, W]`; where each image has
    /// K numbers, `[n, K]`. They are always on the CPU, so that they can be checked without waiting for a GPU.
    pub labels: Tensor,
    /// The index of each image in the data set.
    pub indices: Vec<usize>,
}

impl Batch {
    /// Puts normalised images of the given channels, height and width on a device. The labels stay on the CPU.
    pub(crate) fn on(
        device: &Device,
        images: HostBuffer,
        [channels, height, width]: [usize; 3],
        (labels_shape, labels): (&[usize], HostBuffer),
        indices: Vec<usize>,
    ) -> Result<Self> {
        let place = |shape: Shape, values: HostBuffer| match device {
            Device::Cpu => Ok(Tensor::cpu(shape, values)),
            device => Tensor::from_vec(shape, values.to_vec(), device),
        };
        let images = place([indices.len(), channels, 1, height, width].into(), images)?;
        Ok(Batch { images, labels: Tensor::cpu(labels_shape, labels), indices })
    }

    /// Images and labels, as `quarterturn_models::training::Trainer::run` takes them.
    pub fn into_pair(self) -> (Tensor, Tensor) {
        (self.images, self.labels)
    }
}

/// The values of an image's pixels, by one table for each of its channels.
pub(crate) fn normalize(pixels: &[u8], tables: &[[f32; 256]], values: &mut [f32]) {
    let plane = (pixels.len() / tables.len()).max(1);
    for ((from, to), table) in pixels.chunks_exact(plane).zip(values.chunks_exact_mut(plane)).zip(tables) {
        to.iter_mut().zip(from).for_each(|(value, &pixel)| *value = table[usize::from(pixel)]);
    }
}

/// An iterator over the [`Batch`]es of a data set; see [`Dataset::batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    dataset: &'a Dataset,
    batch_size: usize,
    device: Device,
    tables: Vec<[f32; 256]>,
    /// The images still to come, last first.
    order: Vec<usize>,
}

impl<'a> Batches<'a> {
    #[track_caller]
    pub(crate) fn new(dataset: &'a Dataset, batch_size: usize) -> Self {
        assert!(batch_size > 0, "Dataset::batches: a batch has at least one image, got batch size 0");
        let order = (0..dataset.len()).rev().collect();
        let batches = Batches { dataset, batch_size, device: Device::Cpu, tables: Vec::new(), order };
        batches.normalized(&Normalization::none(dataset.extents()[0]))
    }

    /// Shuffles: the order is a function of `seed` and `epoch`.
    #[must_use]
    pub fn shuffled(mut self, seed: u64, epoch: u32) -> Self {
        self.order = Stream::new(seed, SHUFFLE, epoch).permutation(self.dataset.len());
        self
    }

    /// Normalises the images. If the images do not have as many channels as the normalisation, each batch is an error, as those of
    /// [`crate::Loader`] are.
    ///
    /// # Panics
    /// If there is not one mean and one positive deviation for each channel of the normalisation.
    #[must_use]
    #[track_caller]
    pub fn normalized(mut self, normalization: &Normalization) -> Self {
        normalization.check("Batches::normalized");
        self.tables = (0..normalization.mean.len()).map(|channel| normalization.table(channel)).collect();
        self
    }

    /// Puts the tensors on `device`.
    #[must_use]
    pub fn on(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// Leaves out the last batch if it is smaller than the others.
    #[must_use]
    pub fn full_only(mut self) -> Self {
        let rest = self.order.len() % self.batch_size;
        self.order.drain(..rest);
        self
    }

    fn batch(&self, indices: Vec<usize>) -> Result<Batch> {
        let [channels, height, width] = self.dataset.extents();
        if channels != self.tables.len() {
            let (name, means) = (self.dataset.name(), self.tables.len());
            let message = format!("{name}: images of {channels} channels, and a normalisation of {means}");
            return Err(Error::Invalid(message));
        }
        let mut values = HostBuffer::scratch(indices.len() * channels * height * width);
        for (&index, image) in indices.iter().zip(values.chunks_exact_mut(channels * height * width)) {
            normalize(self.dataset.image(index), &self.tables, image);
        }
        let labels: Vec<f32> = indices.iter().map(|&i| f32::from(self.dataset.labels()[i])).collect();
        Batch::on(&self.device, values, self.dataset.extents(), (&[indices.len()], labels.into()), indices)
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let n = self.batch_size.min(self.order.len());
        if n == 0 {
            return None;
        }
        let indices = self.order.drain(self.order.len() - n..).rev().collect();
        Some(self.batch(indices))
    }

    /// Skips without making the images.
    fn nth(&mut self, n: usize) -> Option<Result<Batch>> {
        self.order.truncate(self.order.len().saturating_sub(n.saturating_mul(self.batch_size)));
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.order.len().div_ceil(self.batch_size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batches<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image `i` is `[[i], [i + 100]]` (two channels), its label i mod 3.
    fn numbered(n: u8) -> Dataset {
        let pixels = (0..n).flat_map(|i| [i, i + 100]).collect();
        Dataset::new("numbered", pixels, (0..n).map(|i| i % 3).collect(), [2, 1, 1], 3).unwrap()
    }

    fn indices(batches: Batches) -> Vec<usize> {
        batches.flat_map(|batch| batch.unwrap().indices).collect()
    }

    #[test]
    fn batches_in_order_hold_every_image_with_its_label() {
        let dataset = numbered(10);
        let batches = dataset.batches(4);
        assert_eq!(batches.len(), 3);
        let batches: Vec<Batch> = batches.map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|b| b.images.dims()[0]).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(batches[2].images.dims(), [2, 2, 1, 1, 1]);
        assert_eq!(batches[2].indices, [8, 9]);
        assert_eq!(batches[2].labels.f32s(), [2.0, 0.0]);
        assert_eq!(batches[2].images.f32s(), [8, 108, 9, 109].map(|p| (f64::from(p) / 255.0) as f32));
    }

    #[test]
    fn the_shuffle_is_a_permutation_that_seed_and_epoch_decide() {
        let dataset = numbered(100);
        let order = |seed, epoch| indices(dataset.batches(7).shuffled(seed, epoch));
        let first = order(1, 0);
        assert_eq!(first, order(1, 0));
        assert_eq!(first, indices(dataset.batches(100).shuffled(1, 0)), "the batch size changes the order");
        assert_ne!(first, order(1, 1));
        assert_ne!(first, order(2, 0));
        let mut sorted = first;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn normalisation_is_per_channel_and_labels_stay() {
        let dataset = numbered(2);
        let normalization = Normalization { mean: vec![0.0, 100.0 / 255.0], std: vec![1.0 / 255.0, 0.5] };
        let batch = dataset.batches(2).normalized(&normalization).next().unwrap().unwrap();
        let expected = [0.0, 0.0, 1.0, 2.0 / 255.0];
        for (got, want) in batch.images.f32s().iter().zip(expected) {
            assert!((got - want).abs() < 1e-6, "{got} against {want}");
        }
        assert_eq!(batch.labels.f32s(), [0.0, 1.0]);
    }

    #[test]
    fn the_reference_device_gets_the_same_values() {
        let dataset = numbered(3);
        let on = |device| dataset.batches(3).shuffled(5, 5).on(device).next().unwrap().unwrap();
        let (cpu, reference) = (on(&Device::Cpu), on(&Device::Reference));
        assert!(reference.images.f64s().iter().zip(cpu.images.f32s()).all(|(&r, &c)| r == f64::from(c)));
        assert_eq!(reference.labels.to_vec().unwrap(), cpu.labels.f32s());
    }

    #[test]
    fn full_batches_only_leaves_out_the_last_images_of_the_order() {
        let dataset = numbered(10);
        let all = indices(dataset.batches(4).shuffled(1, 1));
        assert_eq!(indices(dataset.batches(4).shuffled(1, 1).full_only()), all[..8]);
        assert_eq!(dataset.batches(5).full_only().len(), 2);
        assert_eq!(dataset.batches(11).full_only().len(), 0);
        assert!(numbered(0).batches(3).next().is_none());
    }

    #[test]
    fn skipped_batches_change_nothing_about_the_others() {
        let dataset = numbered(10);
        let all: Vec<Vec<usize>> = dataset.batches(4).shuffled(1, 1).map(|batch| batch.unwrap().indices).collect();
        for skipped in 0..5 {
            let rest = dataset.batches(4).shuffled(1, 1).skip(skipped);
            let rest: Vec<Vec<usize>> = rest.map(|batch| batch.unwrap().indices).collect();
            assert_eq!(rest, all[skipped.min(3)..]);
        }
    }

    #[test]
    #[should_panic(expected = "got batch size 0")]
    fn a_batch_size_of_zero_is_a_broken_contract() {
        let _ = numbered(1).batches(0);
    }

    #[test]
    fn a_normalisation_of_other_channels_is_an_error() {
        let error = numbered(1).batches(1).normalized(&Normalization::none(1)).next().unwrap().unwrap_err().to_string();
        assert!(error.ends_with("numbered: images of 2 channels, and a normalisation of 1"), "{error}");
    }

    #[test]
    #[should_panic(expected = "positive deviations, got [0.5, 0.0]")]
    fn a_deviation_of_zero_is_a_broken_contract() {
        let _ = numbered(1).batches(1).normalized(&Normalization { mean: vec![0.0; 2], std: vec![0.5, 0.0] });
    }
}
