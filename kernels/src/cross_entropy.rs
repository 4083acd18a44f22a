//! Cross-entropy of class labels for images or pixels, and the number of correct predictions.

#[cfg(test)]
mod tests;

use crate::{
    argmax,
    axis::Along,
    jobs::map_items,
    order::greater,
    softmax::{exp_columns, for_each_block},
    sweep::PIECE,
};
#[cfg(feature = "gpu")]
use crate::{div, launch, narrow, sum, sum_axes};
#[cfg(any(feature = "gpu", test))]
use quarterturn_core::Shape;
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::{Gpu, Size};

use quarterturn_core::{Device, HostBuffer, Result, Tensor, common_device};

/// How the losses of images (or pixels) are combined, as PyTorch's `reduction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// The mean; with weights of classes, the weighted mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

/// Options of [`cross_entropy_with`]. The default is [`cross_entropy`].
#[derive(Clone, Debug, Default)]
pub struct CrossEntropy {
    /// A weight for each class, `[K]`, on the device of the logits.
    pub weights: Option<Tensor>,
    /// Label smoothing ε: this part of each target is spread evenly over all classes (Szegedy et al. 2016).
    pub smoothing: f64,
    /// A label that is ignored, such as 255 or −1 (PyTorch: `ignore_index`).
    pub ignored: Option<i32>,
    /// Mean or sum.
    pub reduction: Reduction,
}

/// The mean cross-entropy of logits: [`cross_entropy_with`] without weights, smoothing and ignored label:
/// `loss = (1/N) Σ_n (log Σ_k exp(logits[n, k]) − logits[n, label_n])`.
///
/// # Panics
/// As [`cross_entropy_with`].
#[track_caller]
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    CrossEntropy::default().loss("cross_entropy", logits, labels)
}

/// Gradient of [`cross_entropy`].
///
/// # Panics
/// As [`cross_entropy_with`], or if `dloss` is not a scalar.
#[track_caller]
pub fn cross_entropy_vjp(logits: &Tensor, labels: &Tensor, dloss: &Tensor) -> Tensor {
    CrossEntropy::default().gradient("cross_entropy_vjp", logits, labels, dloss)
}

/// The cross-entropy of logits `[N, K, …]` with labels `[N, …]` (class indices stored as numbers) → `[]`, as PyTorch's.
/// Let p be a pixel of image n (or the image itself), y its label, `q_k = (1 − ε)·[k = y] + ε/K` the smoothed targets,
/// and w the weights of the classes:
///
/// `loss[n, p] = −Σ_k w_k q_k log softmax(logits[n, ·, p])_k`,
///
/// summed over all n and p whose label is not ignored. The mean divides this by the sum of `w_y` over the same n and p
/// (without weights, by their number). If all are ignored, the mean is NaN.
///
/// The largest logit is subtracted first, so no finite one overflows. The loss is NaN if a pixel that is not ignored
/// has NaN or +∞ among its logits, or no finite logit.
///
/// # Panics
/// If the shapes do not fit, ε is not in [0, 1], a label on the host is not an index below K (nor the ignored one), or the
/// devices differ. Labels on the GPU cannot be looked at without waiting for it: there such a label makes the result NaN.
/// [`CrossEntropy::first_invalid_label`] names it.
#[track_caller]
pub fn cross_entropy_with(logits: &Tensor, labels: &Tensor, options: &CrossEntropy) -> Tensor {
    options.loss("cross_entropy", logits, labels)
}

/// Gradient of [`cross_entropy_with`]:
/// `dlogits[n, k, p] = (Σ_j w_j q_j · softmax(logits[n, ·, p])_k − w_k q_k) · dloss`, for a mean divided as the loss
/// is; 0 where the label is ignored.
///
/// # Panics
/// As [`cross_entropy_with`], or if `dloss` is not a scalar.
#[track_caller]
pub fn cross_entropy_with_vjp(logits: &Tensor, labels: &Tensor, options: &CrossEntropy, dloss: &Tensor) -> Tensor {
    options.gradient("cross_entropy_vjp", logits, labels, dloss)
}

/// Stands for the ignored label among class indices.
const IGNORED: u32 = u32::MAX;

impl CrossEntropy {
    /// Checks labels from a user before they are used. Returns the first invalid label and its position (in the order
    /// of the elements), or `None`. A label is valid if it is an index below `classes` or the ignored label. Waits for
    /// the GPU if the labels are there.
    ///
    /// # Errors
    /// What the GPU reports.
    pub fn first_invalid_label(&self, labels: &Tensor, classes: usize) -> Result<Option<(usize, f64)>> {
        let labels = labels.to_f64()?;
        Ok(labels.into_iter().enumerate().find(|&(_, label)| self.class(label, classes).is_none()))
    }

    /// A label as an index, or [`IGNORED`].
    fn class(&self, label: f64, classes: usize) -> Option<u32> {
        if self.ignored.is_some_and(|ignored| label == f64::from(ignored)) {
            return Some(IGNORED);
        }
        let index = label as u32;
        (f64::from(index) == label && (index as usize) < classes).then_some(index)
    }

    #[track_caller]
    fn classes(&self, op: &str, labels: &Tensor, classes: usize) -> Vec<u32> {
        let class = |(place, label): (usize, f64)| {
            self.class(label, classes)
                .unwrap_or_else(|| panic!("{op}: expected labels 0 to {}, got {label} in row {place}", classes - 1))
        };
        match labels.device() {
            Device::Reference => labels.f64s().iter().copied().enumerate().map(class).collect(),
            _ => labels.f32s().iter().map(|&label| f64::from(label)).enumerate().map(class).collect(),
        }
    }

    /// The logits as `[N, K, places]`.
    #[track_caller]
    fn along(&self, op: &str, logits: &Tensor, labels: &Tensor) -> Along {
        let along = batch(op, logits, labels);
        assert!((0.0..=1.0).contains(&self.smoothing), "{op}: expected a smoothing in [0, 1], got {}", self.smoothing);
        if let Some(weights) = &self.weights {
            let classes = along.extent;
            assert_eq!(weights.dims(), [classes], "{op}: expected weights [{classes}], got {:?}", weights.shape());
            common_device(op, &[logits, weights]);
        }
        along
    }

    /// The weight of each class, on the host.
    fn weights(&self, classes: usize) -> Vec<f64> {
        match &self.weights {
            None => vec![1.0; classes],
            Some(weights) if matches!(weights.device(), Device::Reference) => weights.f64s().to_vec(),
            Some(weights) => weights.f32s().iter().map(|&w| f64::from(w)).collect(),
        }
    }

    /// What a loss is divided by.
    fn divisor(&self, classes: &[u32], weights: &[f64]) -> f64 {
        match self.reduction {
            Reduction::Sum => 1.0,
            Reduction::Mean => classes.iter().filter(|&&y| y != IGNORED).map(|&y| weights[y as usize]).sum(),
        }
    }

    #[track_caller]
    fn loss(&self, op: &str, logits: &Tensor, labels: &Tensor) -> Tensor {
        let along = self.along(op, logits, labels);
        match common_device(op, &[logits, labels]) {
            Device::Cpu => {
                let (classes, weights) = (self.classes(op, labels, along.extent), self.weights(along.extent));
                let targets = Targets::new(self.smoothing, &weights);
                let image = |x: &[f32], y: &[u32]| targets.loss(x, along.inner, y);
                // Each image's sum is its own, so that the order does not depend on the threads.
                let (x_len, y_len) = (along.len(), along.inner);
                let images = logits.f32s().chunks(x_len).zip(classes.chunks(y_len));
                let sums: Vec<f64> = if logits.len() <= PIECE {
                    images.map(|(x, y)| image(x, y)).collect()
                } else {
                    map_items(images, PIECE.div_ceil(x_len), |_, (x, y)| image(x, y))
                };
                let loss = sums.iter().sum::<f64>() / self.divisor(&classes, &weights);
                Tensor::cpu([], vec![loss as f32].into())
            }
            Device::Reference => {
                let (classes, weights) = (self.classes(op, labels, along.extent), self.weights(along.extent));
                let places = classes.iter().enumerate().filter(|&(_, &y)| y != IGNORED);
                let loss = |(place, &y): (usize, &u32)| -> f64 {
                    let column = along.column(logits.f64s(), place);
                    let log_sum = log_sum_exp(&column);
                    let targets = (0..).zip(&weights).map(|(k, w)| w * self.target(k == y, along.extent));
                    // What is no target counts for nothing, even if its logit is −∞.
                    column.iter().zip(targets).filter(|&(_, q)| q != 0.0).map(|(v, q)| q * (log_sum - v)).sum()
                };
                Tensor::reference([], vec![places.map(loss).sum::<f64>() / self.divisor(&classes, &weights)])
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => self.gpu_loss(&gpu, logits, labels, along),
        }
    }

    #[track_caller]
    fn gradient(&self, op: &str, logits: &Tensor, labels: &Tensor, dloss: &Tensor) -> Tensor {
        let along = self.along(op, logits, labels);
        assert_eq!(dloss.len(), 1, "{op}: expected a scalar dloss, got {:?}", dloss.shape());
        match common_device(op, &[logits, labels, dloss]) {
            Device::Cpu => {
                let (classes, weights) = (self.classes(op, labels, along.extent), self.weights(along.extent));
                let part = f64::from(dloss.f32s()[0]) / self.divisor(&classes, &weights);
                let targets = Targets::new(self.smoothing, &weights);
                let image = |x: &[f32], y: &[u32], dx: &mut [f32]| targets.gradient(x, along.inner, y, part, dx);
                let mut dlogits = HostBuffer::scratch(logits.len());
                let (x, y, x_len, y_len) = (logits.f32s(), &classes[..], along.len(), along.inner);
                let images = x.chunks(x_len).zip(y.chunks(y_len)).zip(dlogits.chunks_mut(x_len));
                if x.len() <= PIECE {
                    images.for_each(|((x, y), dx)| image(x, y, dx));
                } else {
                    map_items(images, PIECE.div_ceil(x_len), |_, ((x, y), dx)| image(x, y, dx));
                }
                Tensor::cpu(logits.shape(), dlogits)
            }
            Device::Reference => {
                let (classes, weights) = (self.classes(op, labels, along.extent), self.weights(along.extent));
                let part = dloss.f64s()[0] / self.divisor(&classes, &weights);
                let mut dlogits = vec![0.0; logits.len()];
                for (place, &y) in classes.iter().enumerate().filter(|&(_, &y)| y != IGNORED) {
                    let column = along.column(logits.f64s(), place);
                    let log_sum = log_sum_exp(&column);
                    let target = |k: usize| weights[k] * self.target(k as u32 == y, along.extent);
                    let whole: f64 = (0..along.extent).map(target).sum();
                    for (k, v) in column.iter().enumerate() {
                        let at = along.index(place / along.inner, k, place % along.inner);
                        dlogits[at] = (whole * (v - log_sum).exp() - target(k)) * part;
                    }
                }
                Tensor::reference(logits.shape(), dlogits)
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => self.gpu_gradient(&gpu, logits, labels, dloss, along),
        }
    }

    /// `q_k`, of the label's class or another.
    fn target(&self, is_label: bool, classes: usize) -> f64 {
        self.smoothing / classes as f64 + if is_label { 1.0 - self.smoothing } else { 0.0 }
    }
}

/// The targets of a place, by the weights of the classes: `w_k q_k` is `even[k]`, and at the label `sure[k]` more.
struct Targets {
    even: Vec<f64>,
    sure: Vec<f64>,
    /// `Σ_k even[k]`.
    spread: f64,
}

impl Targets {
    fn new(smoothing: f64, weights: &[f64]) -> Self {
        let even: Vec<f64> = weights.iter().map(|w| w * smoothing / weights.len() as f64).collect();
        let sure = weights.iter().map(|w| w * (1.0 - smoothing)).collect();
        Targets { spread: even.iter().sum(), even, sure }
    }

    /// The sum of an image's losses.
    fn loss(&self, x: &[f32], inner: usize, classes: &[u32]) -> f64 {
        let mut total = 0.0;
        for_each_block(x, inner, |first, max, sum| {
            for (i, (&max, &sum)) in max.iter().zip(sum.iter()).enumerate() {
                let y = classes[first + i];
                if y == IGNORED {
                    continue;
                }
                let shifted = |k: usize| f64::from(x[k * inner + first + i] - max);
                let label = y as usize;
                let sure = self.sure[label];
                // A target of 0 counts for nothing, even if its logit is −∞.
                let mut loss = (sure + self.spread) * sum.ln() - if sure == 0.0 { 0.0 } else { sure * shifted(label) };
                if self.spread != 0.0 {
                    let even = self.even.iter().enumerate().filter(|&(_, &even)| even != 0.0);
                    loss -= even.map(|(k, even)| even * shifted(k)).sum::<f64>();
                }
                total += loss;
            }
        });
        total
    }

    /// The gradient of an image's logits, where that of each place's loss is `part`.
    fn gradient(&self, x: &[f32], inner: usize, classes: &[u32], part: f64, dx: &mut [f32]) {
        for_each_block(x, inner, |first, max, sum| {
            let classes = &classes[first..first + max.len()];
            for (sum, &y) in sum.iter_mut().zip(classes) {
                *sum = if y == IGNORED { 0.0 } else { part * (self.sure[y as usize] + self.spread) / *sum };
            }
            exp_columns(x, inner, first, max, sum, dx);
            for (i, &y) in classes.iter().enumerate() {
                if y == IGNORED {
                    dx[first + i..].iter_mut().step_by(inner).for_each(|dx| *dx = 0.0);
                    continue;
                }
                if self.spread != 0.0 {
                    for (dx, even) in dx[first + i..].iter_mut().step_by(inner).zip(&self.even) {
                        *dx -= (even * part) as f32;
                    }
                }
                // The label's own is a small difference where the network is sure: all of it in `f64`.
                let (label, at) = (y as usize, y as usize * inner + first + i);
                let target = (self.sure[label] + self.even[label]) * part;
                dx[at] = (f64::from(x[at] - max[i]).exp() * sum[i] - target) as f32;
            }
        });
    }
}

/// The number of correct predictions: images (or pixels) whose greatest logit is that of their label. Logits
/// `[N, K, …]`, labels `[N, …]` → `[]`. Where a logit is NaN, the prediction counts as wrong.
///
/// # Panics
/// If the shapes do not fit, a label on the host is not an index below K, or the devices differ; on the GPU, such a label makes
/// the count NaN.
#[track_caller]
pub fn count_correct(logits: &Tensor, labels: &Tensor) -> Tensor {
    let along = batch("count_correct", logits, labels);
    let plain = CrossEntropy::default();
    match common_device("count_correct", &[logits, labels]) {
        Device::Cpu => {
            let labels = plain.classes("count_correct", labels, along.extent);
            let answers = argmax(logits, 1);
            let correct = answers.f32s().iter().zip(labels).filter(|&(&answer, label)| answer == label as f32).count();
            Tensor::cpu([], vec![correct as f32].into())
        }
        Device::Reference => {
            let labels = plain.classes("count_correct", labels, along.extent);
            let answers = argmax(logits, 1);
            let right = |&(&answer, label): &(&f64, u32)| answer == f64::from(label);
            Tensor::reference([], vec![answers.f64s().iter().zip(labels).filter(right).count() as f64])
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let kernel = launch::kernel("count_correct", SHADER).workgroup(64, 4 * 64);
            let (uniform, answers) = (plain.uniform(labels.len(), along, 0, 0), argmax(logits, 1));
            launch::result(&gpu, kernel, &[], &[&answers, labels], Shape::new(&[]), &uniform, Size::Groups(1))
        }
    }
}

/// The first of these labels that is no class: [`CrossEntropy::first_invalid_label`] where none is ignored.
///
/// # Errors
/// What the GPU reports.
pub fn first_invalid_label(labels: &Tensor, classes: usize) -> Result<Option<(usize, f64)>> {
    CrossEntropy::default().first_invalid_label(labels, classes)
}

/// Logits and labels that belong together, the logits as `[N, K, places]`.
#[track_caller]
fn batch(op: &str, logits: &Tensor, labels: &Tensor) -> Along {
    assert!(!logits.is_empty(), "{op}: expected logits that are not empty, got {:?}", logits.shape());
    let fit = match (logits.dims(), labels.dims()) {
        ([n, _, places @ ..], [m, label_places @ ..]) => n == m && places == label_places,
        _ => false,
    };
    let got = (logits.shape(), labels.shape());
    assert!(fit, "{op}: expected logits [N, K, ...] and labels [N, ...], got {:?} and {:?}", got.0, got.1);
    Along::of(op, logits.shape(), 1)
}

/// `log Σ exp(v)`.
fn log_sum_exp(column: &[f64]) -> f64 {
    let max = column.iter().fold(f64::NEG_INFINITY, |max, &v| greater(v, max));
    max + column.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("cross_entropy.wgsl"));

#[cfg(feature = "gpu")]
impl CrossEntropy {
    /// Places that a workgroup sums up.
    const PLACES: usize = 1024;

    /// The words of the shader's `Batch`.
    fn uniform(&self, places: usize, along: Along, groups: usize, divisor: u32) -> [u32; 10] {
        let words = [places, along.extent, along.inner, groups].map(|v| v as u32);
        let ignored = self.ignored.map_or(f32::NAN, |ignored| ignored as f32);
        let numbers = [f32::NAN, self.smoothing as f32, ignored].map(f32::to_bits);
        let flags = [u32::from(self.ignored.is_some()), u32::from(self.weights.is_some()), divisor];
        [words[0], words[1], words[2], words[3], numbers[0], numbers[1], numbers[2], flags[0], flags[1], flags[2]]
    }

    fn gpu_loss(&self, gpu: &Gpu, logits: &Tensor, labels: &Tensor, along: Along) -> Tensor {
        let groups = labels.len().div_ceil(Self::PLACES);
        let kernel = launch::kernel("cross_entropy", SHADER).workgroup(64, 4 * 64);
        let operands = [logits, labels, self.weights.as_ref().unwrap_or(labels)];
        let uniform = self.uniform(labels.len(), along, groups, u32::from(self.reduction == Reduction::Mean));
        let shape = if groups == 1 { Shape::new(&[]) } else { Shape::from([2, groups]) };
        let y = launch::result(gpu, kernel, &[], &operands, shape, &uniform, Size::Groups(groups));
        if groups == 1 {
            return y;
        }
        // Losses and weights of the groups.
        let totals = sum_axes(&y, &[1], false);
        let [loss, weight] = [0, 1].map(|i| narrow(&totals, 0, i, 1).reshape([]));
        if self.reduction == Reduction::Mean { div(&loss, &weight) } else { loss }
    }

    fn gpu_gradient(&self, gpu: &Gpu, logits: &Tensor, labels: &Tensor, dloss: &Tensor, along: Along) -> Tensor {
        let places = labels.len();
        let weights = self.weights.as_ref().unwrap_or(labels);
        // The number of places is known; what they weigh has to be summed first.
        let known = self.weights.is_none() && self.ignored.is_none();
        let (divisor, dloss) = match self.reduction {
            Reduction::Sum => (1, dloss.clone()),
            Reduction::Mean if known => (places as u32, dloss.clone()),
            Reduction::Mean => {
                let uniform = self.uniform(places, along, 0, 1);
                let kernel = launch::kernel("label_weights", SHADER);
                let each = launch::each(gpu, kernel, &[], &[labels, weights], labels.shape(), &uniform);
                (1, div(&dloss.reshape([]), &sum(&each)))
            }
        };
        let (kernel, size) = (launch::kernel("cross_entropy_vjp", SHADER), Size::Threads(places));
        let uniform = self.uniform(places, along, 0, divisor);
        launch::result(gpu, kernel, &[], &[logits, labels, weights, &dloss], logits.shape(), &uniform, size)
    }
}
