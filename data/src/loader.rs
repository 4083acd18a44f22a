//! The loader: decodes and augments images on its own threads, and makes batches of them.

mod identity;
mod prefetch;

use crate::{
    Batch, Image, Pipeline, Samples, Target,
    batches::{SHUFFLE, normalize},
};
pub use identity::fingerprint;
use prefetch::{Prefetch, Threads};
use quarterturn_core::{Device, Error, HostBuffer, Result, Share, Stream};
use rayon::prelude::*;
use std::{fmt, sync::Arc};

/// How many batches are prepared ahead of the one that was asked for.
const AHEAD: usize = 2;

/// Iterates over a data set in batches, epoch after epoch (PyTorch: `DataLoader`).
///
/// Batches depend on the data, the settings, the seed and the epoch alone, not on the number of threads or on timing.
/// The random numbers of an image are a function of (seed, epoch, index).
///
/// At most [`Loader::ahead`] further batches are in memory, as bytes. The thread that waits for a batch helps to make
/// it.
#[derive(Clone)]
pub struct Loader {
    samples: Arc<dyn Samples>,
    pipeline: Pipeline,
    batch_size: usize,
    ahead: usize,
    threads: Arc<Threads>,
    seed: u64,
    shuffled: bool,
    full_only: bool,
    share: Option<Share>,
    device: Device,
}

impl Loader {
    /// A loader for all images in the order of the data set, with tensors on the CPU. The methods below change that.
    ///
    /// # Panics
    /// If `batch_size` is zero, or the normalisation has no channels or a deviation that is not positive.
    #[track_caller]
    pub fn new(samples: impl Samples + 'static, pipeline: Pipeline, batch_size: usize) -> Self {
        assert!(batch_size > 0, "Loader::new: a batch has at least one image, got batch size 0");
        pipeline.normalization.check("Loader::new");
        Loader {
            samples: Arc::new(samples),
            pipeline,
            batch_size,
            ahead: AHEAD,
            threads: Arc::new(Threads::new(rayon::current_num_threads())),
            seed: 0,
            shuffled: false,
            full_only: false,
            share: None,
            device: Device::Cpu,
        }
    }

    /// The seed for order and augmentation. The default is 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Shuffles, in another order in every epoch: that of [`crate::Batches::shuffled`].
    #[must_use]
    pub fn shuffled(mut self) -> Self {
        self.shuffled = true;
        self
    }

    /// Leaves out the last batch of an epoch if it is smaller than the others (PyTorch: `drop_last`).
    #[must_use]
    pub fn full_only(mut self) -> Self {
        self.full_only = true;
        self
    }

    /// Hands out only the batches that belong to one of several processes, in the order of the epoch. They are the same
    /// batches that a loader without a share would make; images of other batches are not read. [`Loader::identity`] is
    /// the same with and without a share.
    #[must_use]
    pub fn shared(mut self, share: Share) -> Self {
        self.share = Some(share);
        self
    }

    /// Puts the tensors on `device`.
    #[must_use]
    pub fn on(mut self, device: &Device) -> Self {
        self.device = device.clone();
        self
    }

    /// The number of batches that are prepared ahead; the default is 2. With 0, nothing is done until a batch is asked
    /// for.
    #[must_use]
    pub fn ahead(mut self, batches: usize) -> Self {
        self.ahead = batches;
        self
    }

    /// The number of threads, besides the one that asks for batches (PyTorch: `num_workers`). The default is that of
    /// rayon's pool, usually the number of cores. With 0, nothing is prepared ahead.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Arc::new(Threads::new(threads));
        self
    }

    /// The data set.
    pub fn samples(&self) -> &Arc<dyn Samples> {
        &self.samples
    }

    /// Number of batches in an epoch; with a share, of the batches that belong to it.
    pub fn len(&self) -> usize {
        let all = self.images().div_ceil(self.batch_size);
        self.share.map_or(all, |share| share.count(all))
    }

    /// Whether an epoch has no batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of images in an epoch, those of other shares included.
    pub fn images(&self) -> usize {
        let len = self.samples.len();
        if self.full_only { len - len % self.batch_size } else { len }
    }

    /// An iterator over the batches of an epoch. Work begins when the first is asked for.
    pub fn epoch(&self, epoch: u32) -> Epoch {
        let mut order: Vec<usize> = if self.shuffled {
            let drawn = Stream::new(self.seed, SHUFFLE, epoch).permutation(self.samples.len());
            drawn.into_iter().rev().collect()
        } else {
            (0..self.samples.len()).collect()
        };
        order.truncate(self.images());
        if let Some(share) = self.share {
            let own = order.chunks(self.batch_size).enumerate().filter(|&(batch, _)| share.has(batch));
            order = own.flat_map(|(_, images)| images).copied().collect();
        }
        let tables = (0..self.pipeline.normalization.mean.len()).map(|c| self.pipeline.normalization.table(c));
        Epoch {
            tables: tables.collect(),
            batch_size: self.batch_size,
            ahead: self.ahead.saturating_mul(self.batch_size),
            device: self.device.clone(),
            at: 0,
            prefetch: Prefetch::new(
                self.threads.clone(),
                self.samples.clone(),
                self.pipeline.transforms.clone(),
                order,
                self.seed,
                epoch,
            ),
        }
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} batches of {} on {}", self.samples.name(), self.len(), self.batch_size, self.device)
    }
}

/// An iterator over the batches of one epoch; see [`Loader::epoch`]. A batch that fails is an `Err`; later batches
/// follow after it. Dropping the iterator cancels the work ahead.
pub struct Epoch {
    tables: Vec<[f32; 256]>,
    batch_size: usize,
    /// How many images are prepared ahead.
    ahead: usize,
    device: Device,
    /// The first image that has not been handed out.
    at: usize,
    prefetch: Prefetch,
}

impl Epoch {
    /// Starts at batch number `batch`. Earlier ones are skipped without decoding. For resuming a run.
    #[must_use]
    pub fn starting_at(mut self, batch: usize) -> Self {
        self.pass(batch);
        self
    }

    fn pass(&mut self, batches: usize) {
        self.at = self.at.saturating_add(batches.saturating_mul(self.batch_size)).min(self.prefetch.len());
        self.prefetch.pass(self.at);
    }

    fn batch(&self, from: usize, made: Vec<(Image, Target)>) -> Result<Batch> {
        let (images, targets): (Vec<Image>, Vec<Target>) = made.into_iter().unzip();
        let indices = self.prefetch.order()[from..from + images.len()].to_vec();
        let samples = self.prefetch.samples();
        let extents = images[0].extents();
        let channels = self.tables.len();
        for (image, &index) in images.iter().zip(&indices) {
            let [c, h, w] = image.extents();
            let who = || samples.describe(index);
            if c != channels {
                let message = format!("{c} channels, but the normalisation has {channels}");
                return Err(Error::Invalid(format!("{}: {message}", who())));
            }
            if image.extents() != extents {
                let other = samples.describe(indices[0]);
                let message = format!("{h}x{w} after all transforms, but {}x{} is {other}", extents[1], extents[2]);
                return Err(Error::Invalid(format!("{}: {message}; resize or crop to one size", who())));
            }
        }
        let len: usize = extents.iter().product();
        let mut values = HostBuffer::scratch(images.len() * len);
        values.par_chunks_exact_mut(len).zip(&images).for_each(|(values, image)| {
            normalize(image.pixels(), &self.tables, values);
        });
        let (shape, labels) = self.labels(&indices, targets, extents)?;
        Batch::on(&self.device, values, extents, (&shape, labels), indices)
    }

    /// Targets of images of these extents as numbers, and their shape.
    fn labels(
        &self,
        indices: &[usize],
        targets: Vec<Target>,
        [_, height, width]: [usize; 3],
    ) -> Result<(Vec<usize>, HostBuffer)> {
        let samples = self.prefetch.samples();
        let (n, classes) = (indices.len(), samples.classes());
        let refused =
            |index: usize, message: String| Err(Error::Invalid(format!("{}: {message}", samples.describe(index))));
        let shape = match &targets[0] {
            Target::Class(_) => vec![n],
            Target::Mask(_) => vec![n, height, width],
            Target::Numbers(_) => vec![n, classes],
        };
        let mut labels: Vec<f32> = Vec::with_capacity(shape.iter().product());
        for (&index, target) in indices.iter().zip(targets) {
            match (target, shape.len()) {
                (Target::Class(label), 1) if label < classes => labels.push(label as f32),
                (Target::Class(label), 1) => {
                    return refused(index, format!("label {label} is not below {classes}"));
                }
                (Target::Mask(mask), 3) if mask.extents() == [1, height, width] => {
                    let is_none = |&pixel: &u8| usize::from(pixel) >= classes && pixel != Target::IGNORED;
                    if let Some(at) = mask.pixels().iter().position(is_none) {
                        let (pixel, row, column) = (mask.pixels()[at], at / width, at % width);
                        let message =
                            format!("class {pixel} at row {row}, column {column} of the mask is not below {classes}");
                        return refused(index, message);
                    }
                    labels.extend(mask.pixels().iter().map(|&pixel| f32::from(pixel)));
                }
                (Target::Mask(mask), 3) => {
                    let [_, h, w] = mask.extents();
                    return refused(
                        index,
                        format!("its mask is {h}x{w} after all transforms, the image {height}x{width}"),
                    );
                }
                (Target::Numbers(numbers), 2) if numbers.len() == classes => labels.extend(numbers),
                (Target::Numbers(numbers), 2) => {
                    return refused(index, format!("{} numbers, expected {classes}", numbers.len()));
                }
                _ => return refused(index, "its target is of another kind than those of others".into()),
            }
        }
        Ok((shape, labels.into()))
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Result<Batch>> {
        let (from, end) = (self.at, self.at.saturating_add(self.batch_size).min(self.prefetch.len()));
        if from == end {
            return None;
        }
        self.at = end;
        let images = self.prefetch.take(end, end.saturating_add(self.ahead));
        Some(images.and_then(|images| self.batch(from, images)))
    }

    /// Skips without decoding.
    fn nth(&mut self, n: usize) -> Option<Result<Batch>> {
        self.pass(n);
        self.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.prefetch.len() - self.at).div_ceil(self.batch_size);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Epoch {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Angle, Dataset, Normalization, Recipe, Transform};
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    /// Image `i` is random, 3×9×8, of class i mod 4.
    fn noise(n: usize) -> Dataset {
        let stream = Stream::new(3, 3, 3);
        let pixels = (0..n as u64 * 216).map(|i| stream.word(i) as u8).collect();
        Dataset::new("noise", pixels, (0..n).map(|i| (i % 4) as u8).collect(), [3, 9, 8], 4).unwrap()
    }

    fn augmented() -> Pipeline {
        let transforms = vec![
            Transform::Rotate { angle: Angle::Normal(0.0, 10.0) },
            Transform::RandomResizedCrop { size: [10, 7], scale: [0.3, 1.0], ratio: [0.7, 1.4] },
            Transform::RandomCrop { size: [8, 8], padding: 2 },
            Transform::HorizontalFlip { probability: 0.5 },
        ];
        Pipeline { transforms, normalization: Normalization::imagenet() }
    }

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    /// Everything that comes out, in order.
    fn contents(batches: impl Iterator<Item = Result<Batch>>) -> Vec<(Vec<usize>, Vec<f32>, Vec<f32>)> {
        let content = |batch: Batch| (batch.indices, batch.labels.f32s().to_vec(), batch.images.f32s().to_vec());
        batches.map(|batch| content(batch.unwrap())).collect()
    }

    #[test]
    fn shares_are_the_batches_of_the_whole_and_nothing_is_read_twice() {
        let loader = |samples: Dataset| Loader::new(samples, augmented(), 5).seed(2).shuffled();
        let whole = contents(loader(noise(53)).epoch(3));
        for (ranks, group) in [(1, 3), (2, 2), (4, 8)] {
            let mut read = 0;
            for rank in 0..ranks {
                let share = Share::new(rank, ranks, group).unwrap();
                let shared = loader(noise(53)).shared(share);
                let own = contents(shared.epoch(3));
                let expected = whole.iter().enumerate().filter(|&(batch, _)| share.has(batch));
                assert!(own.iter().eq(expected.map(|(_, batch)| batch)), "rank {rank} of {ranks}");
                assert_eq!(
                    (own.len(), shared.identity().unwrap()),
                    (shared.len(), loader(noise(53)).identity().unwrap())
                );
                read += own.iter().map(|(indices, ..)| indices.len()).sum::<usize>();
            }
            assert_eq!(read, 53);
        }
    }

    #[test]
    fn without_transforms_the_batches_are_those_of_the_data_set() {
        let dataset = noise(50);
        let normalization = Normalization::cifar10();
        let pipeline = Pipeline { transforms: vec![], normalization: normalization.clone() };
        let loader = Loader::new(dataset.clone(), pipeline, 8).seed(5);
        let in_memory = dataset.batches(8).normalized(&normalization);
        assert_eq!(contents(loader.epoch(2)), contents(in_memory.clone()));
        let shuffled = loader.shuffled();
        assert_eq!(contents(shuffled.epoch(2)), contents(in_memory.clone().shuffled(5, 2)));
        let full = in_memory.shuffled(5, 2).full_only();
        assert_eq!(contents(shuffled.full_only().epoch(2)), contents(full));
    }

    #[test]
    fn neither_threads_nor_the_window_change_a_bit() {
        let loader = Loader::new(noise(61), augmented(), 8).seed(1).shuffled();
        let wanted = contents(loader.epoch(1));
        assert_eq!((wanted.len(), wanted[0].2.len(), wanted[7].0.len()), (8, 8 * 192, 5));
        for threads in [0, 1, 2, 3, 8] {
            for ahead in [0, 1, 3, 100] {
                let loader = loader.clone().ahead(ahead).threads(threads);
                assert_eq!(contents(loader.epoch(1)), wanted, "{threads} threads, {ahead} ahead");
            }
        }
        assert_ne!(contents(loader.epoch(2)), wanted);
        assert_ne!(contents(loader.clone().seed(2).epoch(1)), wanted);
    }

    /// An image's augmentation does not depend on where it stands in the epoch.
    #[test]
    fn random_numbers_belong_to_the_image() {
        let loader = Loader::new(noise(12), augmented(), 1).seed(9);
        let by_index = |loader: Loader| {
            let mut found = contents(loader.epoch(4));
            found.sort_by_key(|(indices, ..)| indices[0]);
            found
        };
        assert_eq!(by_index(loader.clone()), by_index(loader.shuffled()));
    }

    /// Counts what is decoded; image `i` is `i`, and slow where asked for.
    #[derive(Default)]
    struct Probe {
        len: usize,
        decoded: AtomicUsize,
        fails: Vec<usize>,
        panics: Vec<usize>,
        delay: Duration,
        label: usize,
    }

    impl Samples for Probe {
        fn name(&self) -> &str {
            "probe"
        }
        fn len(&self) -> usize {
            self.len
        }
        fn classes(&self) -> usize {
            1
        }
        fn label(&self, _: usize) -> usize {
            self.label
        }
        fn decode(&self, index: usize) -> Result<Image> {
            self.decoded.fetch_add(1, SeqCst);
            thread::sleep(self.delay);
            if self.fails.contains(&index) {
                return Err(Error::Invalid(format!("{} is bad", self.describe(index))));
            }
            assert!(!self.panics.contains(&index), "no image {index}");
            Image::new(vec![index as u8; 6], [1, 2, 3])
        }
    }

    fn probed(probe: Probe, batch_size: usize) -> (Arc<Probe>, Loader) {
        let probe = Arc::new(probe);
        (probe.clone(), Loader::new(probe, Pipeline::plain(1), batch_size))
    }

    /// Lets tasks that are under way come to their end.
    fn settled(probe: &Probe) -> usize {
        loop {
            let before = probe.decoded.load(SeqCst);
            thread::sleep(Duration::from_millis(50));
            if probe.decoded.load(SeqCst) == before {
                return before;
            }
        }
    }

    #[test]
    fn an_epoch_goes_on_where_it_is_told_to_without_decoding_the_rest() {
        let (probe, loader) = probed(Probe { len: 43, ..Probe::default() }, 4);
        let loader = loader.seed(3).shuffled();
        let whole = contents(loader.epoch(6));
        for start in [0, 1, 7, 10, 11, 99] {
            probe.decoded.store(0, SeqCst);
            let rest = loader.epoch(6).starting_at(start);
            assert_eq!(rest.len(), 11usize.saturating_sub(start));
            assert_eq!(contents(rest), whole[start.min(11)..]);
            assert_eq!(probe.decoded.load(SeqCst), 43usize.saturating_sub(4 * start));
        }
        probe.decoded.store(0, SeqCst);
        assert_eq!(contents(loader.epoch(6).skip(3)), whole[3..]);
        assert_eq!(probe.decoded.load(SeqCst), 31);
        let mut epoch = loader.epoch(6);
        epoch.next();
        assert_eq!(epoch.nth(2).unwrap().unwrap().indices, whole[3].0, "past what is being prepared");
        assert_eq!(epoch.len(), 7);
    }

    #[test]
    fn nothing_is_prepared_beyond_the_window_and_nothing_before_it_is_asked_for() {
        for ahead in [0, 1, 2] {
            let (probe, loader) = probed(Probe { len: 1000, ..Probe::default() }, 5);
            let mut epoch = loader.ahead(ahead).epoch(0);
            assert_eq!(settled(&probe), 0);
            for taken in 1..4 {
                epoch.next().unwrap().unwrap();
                assert_eq!(settled(&probe), 5 * (taken + ahead));
            }
        }
    }

    #[test]
    fn dropping_an_epoch_stops_the_work() {
        let (probe, loader) = probed(Probe { len: 1000, delay: Duration::from_millis(2), ..Probe::default() }, 5);
        let mut epoch = loader.clone().ahead(100).epoch(0);
        epoch.next().unwrap().unwrap();
        drop(epoch);
        let begun = settled(&probe);
        assert!(begun < 100, "{begun} images were decoded");
        drop(loader);
        assert_eq!(Arc::strong_count(&probe), 1, "somebody still holds the data set");
    }

    #[test]
    fn an_error_arrives_with_its_batch_and_the_next_batches_follow() {
        let (_, loader) = probed(Probe { len: 12, fails: vec![5, 4, 11], ..Probe::default() }, 3);
        let results: Vec<_> = loader.epoch(0).collect();
        let messages =
            results.iter().map(|r| r.as_ref().map_or_else(|e| e.to_string(), |b| format!("{:?}", b.indices)));
        let wanted = ["[0, 1, 2]", "probe: image 4 is bad", "[6, 7, 8]", "probe: image 11 is bad"];
        assert_eq!(messages.collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_panic_arrives_too() {
        let (_, loader) = probed(Probe { len: 9, panics: vec![4], ..Probe::default() }, 3);
        let mut epoch = loader.epoch(0);
        epoch.next().unwrap().unwrap();
        let panic = catch_unwind(AssertUnwindSafe(|| epoch.next())).unwrap_err();
        assert_eq!(panic.downcast_ref::<String>().unwrap(), "no image 4");
        assert_eq!(epoch.next().unwrap().unwrap().indices, [6, 7, 8]);
    }

    #[test]
    fn labels_images_and_transforms_that_do_not_fit_are_errors_with_names() {
        let first = |loader: Loader| loader.epoch(0).next().unwrap().unwrap_err().to_string();
        let (_, loader) = probed(Probe { len: 2, label: 1, ..Probe::default() }, 2);
        assert_eq!(first(loader), "probe: image 0: label 1 is not below 1");
        let loader = Loader::new(noise(4), Pipeline::plain(1), 2);
        assert_eq!(first(loader), "noise: image 0: 3 channels, but the normalisation has 1");
        let large = vec![Transform::RandomCrop { size: [30, 30], padding: 4 }];
        let loader = Loader::new(noise(4), Pipeline { transforms: large, ..Pipeline::plain(3) }, 2);
        assert_eq!(first(loader), "noise: image 0: a crop of 30x30 does not fit in 9x8 with a margin of 4");
    }

    #[test]
    fn images_of_different_sizes_need_a_resize() {
        struct Growing;
        impl Samples for Growing {
            fn name(&self) -> &str {
                "growing"
            }
            fn len(&self) -> usize {
                3
            }
            fn classes(&self) -> usize {
                1
            }
            fn label(&self, _: usize) -> usize {
                0
            }
            fn decode(&self, index: usize) -> Result<Image> {
                Image::new(vec![0; 6 * (index + 1)], [3, 2, index + 1])
            }
        }
        let message = Loader::new(Growing, Pipeline::plain(3), 3).epoch(0).next().unwrap().unwrap_err().to_string();
        let wanted =
            "growing: image 1: 2x2 after all transforms, but 2x1 is growing: image 0; resize or crop to one size";
        assert_eq!(message, wanted);
        let resized = Loader::new(Growing, Recipe::cifar(9).train, 3);
        assert_eq!(contents(resized.epoch(0))[0].2.len(), 3 * 3 * 81);
    }

    #[test]
    fn consumers_on_the_pool_itself_do_not_wait_for_ever() {
        for (on_pool, threads) in [(1, 0), (1, 1), (2, 1), (2, 2)] {
            let delay = Duration::from_micros(200);
            let (_, loader) = probed(Probe { len: 40, delay, ..Probe::default() }, 7);
            let loader = loader.threads(threads);
            let wanted = contents(loader.epoch(0));
            pool(on_pool).install(|| {
                // More consumers than threads, of one loader.
                (0..6).into_par_iter().for_each(|_| assert_eq!(contents(loader.epoch(0)), wanted));
                rayon::join(
                    || assert_eq!(contents(loader.epoch(0)), wanted),
                    || assert_eq!(contents(loader.clone().ahead(0).epoch(0)), wanted),
                );
            });
        }
    }

    #[test]
    fn the_other_devices_get_the_same_values() {
        let loader = Loader::new(noise(5), augmented(), 5);
        let cpu = loader.epoch(0).next().unwrap().unwrap();
        let reference = loader.on(&Device::Reference).epoch(0).next().unwrap().unwrap();
        assert!(reference.images.f64s().iter().zip(cpu.images.f32s()).all(|(&r, &c)| r == f64::from(c)));
        assert_eq!(cpu.images.dims(), [5, 3, 1, 8, 8]);
    }

    #[test]
    #[should_panic(expected = "Loader::new: positive deviations, got [0.0]")]
    fn a_deviation_of_zero_is_a_broken_contract() {
        let normalization = Normalization { mean: vec![0.0], std: vec![0.0] };
        let _ = Loader::new(noise(1), Pipeline { transforms: vec![], normalization }, 1);
    }
}
