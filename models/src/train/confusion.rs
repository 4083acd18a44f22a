//! The confusion matrix.

/// The confusion matrix: how often each class was predicted for images (or pixels) of each class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    pub(super) classes: usize,
    /// `[K, K + 1]`: of each class, the answers, and behind them places without an answer.
    pub(super) counts: Vec<u64>,
}

impl Confusion {
    pub(super) fn of_sums(sums: &[f64]) -> Self {
        // K² + K numbers.
        let classes = (0..).find(|k| k * (k + 1) >= sums.len()).expect("some number is large enough");
        Confusion { classes, counts: sums.iter().map(|&count| count as u64).collect() }
    }

    /// The number of classes, K.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `answer` was predicted where the class is `truth`. `answer` = K counts those without an answer,
    /// because an output was NaN.
    ///
    /// # Panics
    /// If `truth` is not below K, or `answer` is above it.
    #[track_caller]
    pub fn count(&self, truth: usize, answer: usize) -> u64 {
        let classes = self.classes;
        assert!(truth < classes && answer <= classes, "Confusion: {classes} classes, asked for {truth} and {answer}");
        self.counts[truth * (classes + 1) + answer]
    }

    /// Places of a class, and answers of it.
    fn totals(&self, class: usize) -> [u64; 2] {
        let places = (0..=self.classes).map(|answer| self.count(class, answer)).sum();
        let answers = (0..self.classes).map(|truth| self.count(truth, class)).sum();
        [places, answers]
    }

    /// Recall of a class; NaN if it does not occur.
    pub fn recall(&self, class: usize) -> f64 {
        self.count(class, class) as f64 / self.totals(class)[0] as f64
    }

    /// Precision of a class; NaN if it is never predicted.
    pub fn precision(&self, class: usize) -> f64 {
        self.count(class, class) as f64 / self.totals(class)[1] as f64
    }

    /// Intersection over union (IoU) of a class; NaN if it neither occurs nor is predicted.
    pub fn iou(&self, class: usize) -> f64 {
        let (both, [places, answers]) = (self.count(class, class), self.totals(class));
        both as f64 / (places + answers - both) as f64
    }

    /// The mean of [`Confusion::recall`] over the classes that occur.
    pub fn mean_recall(&self) -> f64 {
        mean((0..self.classes).map(|class| self.recall(class)))
    }

    /// The mean of [`Confusion::iou`] over the classes that occur or are predicted.
    pub fn mean_iou(&self) -> f64 {
        mean((0..self.classes).map(|class| self.iou(class)))
    }
}

/// Of the numbers that are some.
fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.iter().sum::<f64>() / values.len() as f64
}
