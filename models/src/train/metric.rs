//! Metrics on held-out data.

use super::{
    confusion::Confusion,
    objective::{Classes, Objective},
    ranks::{NOTHING, Ranks, add_over_ranks, tree},
    tally::rows,
};
use crate::Network;
use quarterturn_autograd::Tape;
use quarterturn_core::{Device, Error, Result, Share, Tensor};
use quarterturn_kernels as kernels;
use rayon::prelude::*;
use std::{fmt, sync::Arc};

/// Images that one thread evaluates at a time: few, so that their feature maps stay in its cache.
const CHUNK: usize = 16;

/// A metric, such as accuracy. It is computed from sums over images, so the batch size does not change it.
///
/// In what follows a *place* is an image, or a pixel where each pixel has a class. Places with the ignored label do not
/// count. A place with a NaN among its outputs counts as wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Metric {
    /// The mean loss of the objective over the images. For [`Objective::Classes`] it is the mean over places, with the
    /// weights of the classes.
    Loss,
    /// For [`Objective::Classes`]: the fraction of places whose class has the greatest output.
    Accuracy,
    /// For [`Objective::Classes`]: top-k accuracy, the fraction of places whose class is among the k greatest outputs.
    /// Of equal outputs the first counts as greater.
    TopK(usize),
    /// For [`Objective::Classes`]: the mean recall over the classes that occur (balanced accuracy). See [`Confusion`].
    Recall,
    /// For [`Objective::Classes`]: the mean intersection over union (Jaccard index) over the classes that occur or are
    /// predicted. See [`Confusion`].
    Iou,
    /// For [`Objective::SeveralLabels`]: the fraction of labels that are right: the output is above 0 if and only if
    /// the target is above ½.
    LabelAccuracy,
    /// For [`Objective::Numbers`]: the mean of |output − target|.
    MeanAbsoluteError,
    /// A metric of your own: see [`Metric::own`].
    Own(OwnMetric),
}

type OwnSums = dyn Fn(&Tensor, &Tensor) -> Result<Vec<f64>> + Send + Sync;
type OwnValue = dyn Fn(&[f64]) -> f64 + Send + Sync;

/// A metric of your own: see [`Metric::own`].
#[derive(Clone)]
pub struct OwnMetric {
    name: String,
    more_is_better: bool,
    sums: Arc<OwnSums>,
    value: Arc<OwnValue>,
}

impl fmt::Debug for OwnMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// Two metrics of your own count as equal if their names are equal.
impl PartialEq for OwnMetric {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// The metric's name, as in tables: `accuracy`, `top5`, `mean_iou`.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Metric::Loss => f.write_str("loss"),
            Metric::Accuracy => f.write_str("accuracy"),
            Metric::TopK(k) => write!(f, "top{k}"),
            Metric::Recall => f.write_str("mean_recall"),
            Metric::Iou => f.write_str("mean_iou"),
            Metric::LabelAccuracy => f.write_str("label_accuracy"),
            Metric::MeanAbsoluteError => f.write_str("mean_absolute_error"),
            Metric::Own(own) => f.write_str(&own.name),
        }
    }
}

impl Metric {
    /// A metric of your own. `sums(outputs, targets)` is called for each batch, and its results are added up element by
    /// element. `value` computes the metric from the totals.
    pub fn own(
        name: impl Into<String>,
        more_is_better: bool,
        sums: impl Fn(&Tensor, &Tensor) -> Result<Vec<f64>> + Send + Sync + 'static,
        value: impl Fn(&[f64]) -> f64 + Send + Sync + 'static,
    ) -> Self {
        Metric::Own(OwnMetric { name: name.into(), more_is_better, sums: Arc::new(sums), value: Arc::new(value) })
    }

    /// Whether `new` is better than `old`; NaN is never.
    pub fn is_better(&self, new: f64, old: f64) -> bool {
        let more_is_better = match self {
            Metric::Loss | Metric::MeanAbsoluteError => false,
            Metric::Own(own) => own.more_is_better,
            _ => true,
        };
        if more_is_better { new > old } else { new < old }
    }

    /// What adds up, of a batch whose outputs and targets fit each other.
    fn sums(&self, objective: &Objective, outputs: &Tensor, targets: &Tensor) -> Result<Vec<f64>> {
        match (self, objective) {
            (Metric::Loss, _) => {
                let weight = match objective {
                    Objective::Classes(_) => Places::of(objective, outputs, targets)?.weight(objective),
                    _ => outputs.dims()[0] as f64,
                };
                if weight == 0.0 {
                    return Ok(vec![0.0, 0.0]);
                }
                let tape = Tape::evaluation();
                let loss = objective.loss(&tape.constant(outputs.clone()), targets)?.value().to_f64()?[0];
                Ok(vec![weight * loss, weight])
            }
            (Metric::Accuracy, Objective::Classes(_)) => {
                let confusion = Places::of(objective, outputs, targets)?.confusion()?;
                let right: u64 = (0..confusion.classes).map(|class| confusion.count(class, class)).sum();
                Ok(vec![right as f64, confusion.counts.iter().sum::<u64>() as f64])
            }
            (Metric::TopK(k), Objective::Classes(_)) => {
                let places = Places::of(objective, outputs, targets)?;
                Ok(vec![places.among_greatest(*k)? as f64, places.counted() as f64])
            }
            (Metric::Recall | Metric::Iou, Objective::Classes(_)) => {
                let confusion = Places::of(objective, outputs, targets)?.confusion()?;
                Ok(confusion.counts.iter().map(|&count| count as f64).collect())
            }
            (Metric::LabelAccuracy, Objective::SeveralLabels) => {
                let (outputs, targets) = (outputs.to_f64()?, targets.to_f64()?);
                let is_right = |(&output, &target): (&f64, &f64)| !output.is_nan() && (output > 0.0) == (target > 0.5);
                let right = outputs.iter().zip(&targets).filter(|&pair| is_right(pair)).count();
                Ok(vec![right as f64, targets.len() as f64])
            }
            (Metric::MeanAbsoluteError, Objective::Numbers(_)) => {
                let (outputs, targets) = (outputs.to_f64()?, targets.to_f64()?);
                let error: f64 = outputs.iter().zip(&targets).map(|(output, target)| (output - target).abs()).sum();
                Ok(vec![error, targets.len() as f64])
            }
            (Metric::Own(own), _) => (own.sums)(outputs, &targets.to_device(&outputs.device())?),
            _ => Err(Error::Invalid(format!("the metric {self} is not of the objective '{objective}'"))),
        }
    }

    /// The metric, of sums.
    fn value(&self, sums: &[f64]) -> f64 {
        match self {
            Metric::Recall => Confusion::of_sums(sums).mean_recall(),
            Metric::Iou => Confusion::of_sums(sums).mean_iou(),
            Metric::Own(own) => (own.value)(sums),
            _ => match *sums {
                [sum, count] => sum / count,
                _ => f64::NAN,
            },
        }
    }
}

/// Computes metrics over the batches of a data set.
///
/// ```no_run
/// # use quarterturn_core::{Result, Tensor};
/// # use quarterturn_models::{MnistCnn, training::{Metric, Objective, Scores}};
/// # fn scores(network: &MnistCnn, batches: Vec<(Tensor, Tensor)>) -> Result<()> {
/// let mut scores = Scores::new(&Objective::default(), &[Metric::Accuracy]);
/// for (images, labels) in batches {
///     scores.measure(network, &images, &labels)?;
/// }
/// println!("{:?}", scores.values());
/// # Ok(())
/// # }
/// ```
///
/// Counts, such as accuracy, depend neither on the batch size nor on the number of threads.
#[derive(Clone, Debug)]
pub struct Scores {
    objective: Objective,
    metrics: Vec<Metric>,
    /// Of each metric; empty before the first batch.
    sums: Vec<Vec<f64>>,
    images: u64,
}

impl Scores {
    /// Metrics over no images yet.
    pub fn new(objective: &Objective, metrics: &[Metric]) -> Self {
        let (objective, metrics) = (objective.clone(), metrics.to_vec());
        Scores { sums: vec![Vec::new(); metrics.len()], objective, metrics, images: 0 }
    }

    /// Metrics over a whole data set that several ranks share: `batches` yields the batches of this rank, as `share`
    /// says. All ranks call this function and get the same bits, whatever their number. For each place in a group of
    /// the share, its batches are added up in order. Then the places are added up in the tree of
    /// [`crate::training::Training::micro_batches`].
    ///
    /// # Errors
    /// As [`Scores::measure`] and [`Ranks::exchange`].
    pub fn over<N: Network + ?Sized>(
        network: &N,
        objective: &Objective,
        metrics: &[Metric],
        batches: impl IntoIterator<Item = Result<(Tensor, Tensor)>>,
        share: Share,
        ranks: &dyn Ranks,
    ) -> Result<Self> {
        let mut places = vec![Some(Scores::new(objective, metrics)); share.places()];
        for (n, batch) in batches.into_iter().enumerate() {
            let (inputs, targets) = batch?;
            if let Some(scores) = &mut places[n % share.places()] {
                let found = scores.measure_from(0, network, &inputs, &targets);
                found.map_err(|error| in_batch(share.nth(n), error))?;
            }
        }
        let add = |mut a: Scores, b: Scores| a.add(&b).map(|()| a);
        let own = tree(0, places.len(), &mut |place| Ok(places[place].take()), &add)?;
        let mut all = own.unwrap_or_else(|| Scores::new(objective, metrics));
        all.add_over_ranks(ranks)?;
        Ok(all)
    }

    /// Adds a batch: runs `network` on `inputs` `[N, C, 1, H, W]` and compares its outputs with `targets`, in the form
    /// that the objective takes. On the CPU the threads share the images. Other devices take all at once, so pass a few
    /// hundred at a time.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the inputs do not fit the network, are on another device, or targets do not fit, as
    /// [`Objective::loss`] tells; what went wrong on the GPU.
    pub fn measure<N: Network + ?Sized>(&mut self, network: &N, inputs: &Tensor, targets: &Tensor) -> Result<()> {
        self.measure_from(self.images, network, inputs, targets)
    }

    /// As [`Scores::measure`]; to errors, the batch's first image is number `first`.
    fn measure_from<N>(&mut self, first: u64, network: &N, inputs: &Tensor, targets: &Tensor) -> Result<()>
    where
        N: Network + ?Sized,
    {
        let n = inputs.dims().first().copied().unwrap_or_default();
        if targets.dims().first() != Some(&n) {
            return Err(Error::Invalid(format!("{n} images, targets of shape {:?}", targets.shape())));
        }
        if !matches!(network.device(), Device::Cpu) {
            return self.count_from(first, &network.predict(inputs)?, targets);
        }
        let targets = targets.to_device(&Device::Cpu)?;
        let chunk = |from: usize| network.predict(&rows(inputs, from, CHUNK.min(n - from)));
        let starts: Vec<usize> = (0..n).step_by(CHUNK).collect();
        let outputs: Vec<Result<Tensor>> = starts.par_iter().map(|&from| chunk(from)).collect();
        for (from, outputs) in starts.into_iter().zip(outputs) {
            let outputs = outputs?;
            self.count_from(first + from as u64, &outputs, &rows(&targets, from, outputs.dims()[0]))?;
        }
        Ok(())
    }

    /// Adds a batch whose `outputs` you have computed yourself.
    ///
    /// # Errors
    /// As [`Objective::loss`]; targets on a GPU are checked too. [`Error::Invalid`] if a metric does not belong to the
    /// objective.
    pub fn count(&mut self, outputs: &Tensor, targets: &Tensor) -> Result<()> {
        self.count_from(self.images, outputs, targets)
    }

    fn count_from(&mut self, first: u64, outputs: &Tensor, targets: &Tensor) -> Result<()> {
        self.objective.expect_shape(outputs.shape(), targets)?;
        self.objective.expect_targets(outputs.shape(), targets, first)?;
        let each = self.metrics.iter().map(|metric| metric.sums(&self.objective, outputs, targets));
        let more = each.collect::<Result<Vec<_>>>()?;
        for (metric, (sums, more)) in self.metrics.iter().zip(self.sums.iter_mut().zip(&more)) {
            add(metric, sums, more)?;
        }
        self.images += outputs.dims()[0] as u64;
        Ok(())
    }

    /// Adds the sums of other scores with the same metrics.
    ///
    /// # Errors
    /// [`Error::Invalid`] if their metrics or the number of classes differ.
    pub fn add(&mut self, other: &Scores) -> Result<()> {
        if self.metrics != other.metrics {
            return Err(Error::Invalid(format!("scores of {:?} and of {:?}", self.metrics, other.metrics)));
        }
        for (metric, (sums, more)) in self.metrics.iter().zip(self.sums.iter_mut().zip(&other.sums)) {
            add(metric, sums, more)?;
        }
        self.images += other.images;
        Ok(())
    }

    /// Adds what the other ranks have counted, each of its own batches, in the tree that does not depend on their number. All ranks
    /// then have the same.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they are of other numbers of classes; as [`Ranks::exchange`].
    fn add_over_ranks(&mut self, ranks: &dyn Ranks) -> Result<()> {
        // One that has counted nothing does not know how many sums a metric has.
        let mut lengths: Vec<u64> =
            self.sums.iter().flat_map(|sums| [sums.len() as u64, u64::from(!sums.is_empty())]).collect();
        lengths.push(self.images);
        add_over_ranks(ranks, &mut lengths)?;
        self.images = lengths.pop().unwrap_or_default();
        for ((metric, sums), of_all) in self.metrics.iter().zip(&mut self.sums).zip(lengths.chunks(2)) {
            let length = (of_all[0] / of_all[1].max(1)) as usize;
            if sums.is_empty() {
                sums.resize(length, f64::from(NOTHING));
            }
            if sums.len() != length {
                return Err(Error::Invalid(format!("{metric}: {} sums, other ranks have others", sums.len())));
            }
        }
        let mut all = self.sums.concat();
        add_over_ranks(ranks, &mut all)?;
        let mut from = 0;
        for sums in &mut self.sums {
            let to = from + sums.len();
            sums.copy_from_slice(&all[from..to]);
            from = to;
        }
        Ok(())
    }

    /// The number of images.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// The names of the metrics and their values; NaN for a mean over nothing.
    pub fn values(&self) -> Vec<(String, f64)> {
        let pairs = self.metrics.iter().zip(&self.sums);
        pairs.map(|(metric, sums)| (metric.to_string(), metric.value(sums))).collect()
    }

    /// The value of one metric; `None` if it is not among these.
    pub fn value(&self, metric: &Metric) -> Option<f64> {
        let at = self.metrics.iter().position(|found| found == metric)?;
        Some(metric.value(&self.sums[at]))
    }

    /// The confusion matrix, if [`Metric::Recall`] or [`Metric::Iou`] is one of these and a batch was counted.
    pub fn confusion(&self) -> Option<Confusion> {
        let at = self.metrics.iter().position(|metric| matches!(metric, Metric::Recall | Metric::Iou))?;
        (self.images > 0).then(|| Confusion::of_sums(&self.sums[at]))
    }
}

/// `sums += more`; what has no sums yet takes them.
fn add(metric: &Metric, sums: &mut Vec<f64>, more: &[f64]) -> Result<()> {
    match (sums.len(), more.len()) {
        (0, _) => *sums = more.to_vec(),
        (_, 0) => {}
        (a, b) if a == b => sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more),
        (a, b) => return Err(Error::Invalid(format!("{metric}: {a} sums, and {b} to be added"))),
    }
    Ok(())
}

/// An error says in which batch it arose.
fn in_batch(batch: usize, error: Error) -> Error {
    match error {
        Error::Invalid(message) => Error::Invalid(format!("held-out batch {}: {message}", batch + 1)),
        other => other,
    }
}

/// Logits `[N, K, …]` and class indices `[N, …]` on the host.
struct Places {
    classes: usize,
    /// Places of an image.
    each: usize,
    logits: Tensor,
    /// None where a label is ignored.
    labels: Vec<Option<usize>>,
}

impl Places {
    fn of(objective: &Objective, logits: &Tensor, labels: &Tensor) -> Result<Self> {
        let &[_, classes, ref places @ ..] = logits.dims() else { unreachable!("the objective has looked at them") };
        let ignored = match objective {
            Objective::Classes(of_classes) => of_classes.ignored.map(f64::from),
            _ => None,
        };
        let label = |label: f64| (Some(label) != ignored).then_some(label as usize);
        let labels = labels.to_f64()?.into_iter().map(label).collect();
        Ok(Places { classes, each: places.iter().product(), logits: logits.clone(), labels })
    }

    /// Places that count.
    fn counted(&self) -> usize {
        self.labels.iter().flatten().count()
    }

    /// The sum of the weights of their classes.
    fn weight(&self, objective: &Objective) -> f64 {
        match objective {
            Objective::Classes(Classes { weights: Some(weights), .. }) => {
                self.labels.iter().flatten().map(|&label| weights[label]).sum()
            }
            _ => self.counted() as f64,
        }
    }

    /// # Errors
    /// What went wrong on the GPU.
    fn confusion(&self) -> Result<Confusion> {
        let mut counts = vec![0; self.classes * (self.classes + 1)];
        let answers = kernels::argmax(&self.logits, 1).to_f64()?;
        for (label, answer) in self.labels.iter().zip(answers) {
            let Some(label) = *label else { continue };
            let answer = if answer.is_nan() { self.classes } else { answer as usize };
            counts[label * (self.classes + 1) + answer] += 1;
        }
        Ok(Confusion { classes: self.classes, counts })
    }

    /// Places whose class is among the `k` greatest outputs.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    fn among_greatest(&self, k: usize) -> Result<usize> {
        let logits = self.logits.to_f64()?;
        let is_among = |(place, label): (usize, &Option<usize>)| {
            let Some(label) = *label else { return false };
            let (image, place) = (place / self.each, place % self.each);
            let logit = |class: usize| logits[(image * self.classes + class) * self.each + place];
            let is_before =
                |class: usize| logit(class) > logit(label) || (logit(class) == logit(label) && class < label);
            let has_answer = (0..self.classes).all(|class| !logit(class).is_nan());
            has_answer && (0..self.classes).filter(|&class| is_before(class)).count() < k
        };
        Ok(self.labels.iter().enumerate().filter(|&place| is_among(place)).count())
    }
}
