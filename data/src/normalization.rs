//! Normalising 8-bit pixels (torchvision: `Normalize`).

use crate::{Dataset, Image, Samples};
use quarterturn_core::{Error, Result};
use rayon::prelude::*;

/// `(p / 255 − mean) / std` for a pixel `p` of 0..=255, with one mean and one standard deviation per channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// Mean of each channel, of values in 0..=1.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel.
    pub std: Vec<f32>,
}

impl Normalization {
    /// Mean 0 and deviation 1: values stay from 0 to 1.
    pub fn none(channels: usize) -> Self {
        Normalization { mean: vec![0.0; channels], std: vec![1.0; channels] }
    }

    /// The statistics of CIFAR-10's 50,000 training images.
    pub fn cifar10() -> Self {
        Normalization { mean: vec![0.4914, 0.4822, 0.4465], std: vec![0.2470, 0.2435, 0.2616] }
    }

    /// The statistics of CIFAR-100's 50,000 training images.
    pub fn cifar100() -> Self {
        Normalization { mean: vec![0.5071, 0.4866, 0.4409], std: vec![0.2673, 0.2564, 0.2762] }
    }

    /// The statistics that networks for ImageNet are trained with.
    pub fn imagenet() -> Self {
        Normalization { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] }
    }

    /// The statistics of PatchCamelyon's 262,144 training images.
    pub fn pcam() -> Self {
        Normalization { mean: vec![0.7008, 0.5384, 0.6916], std: vec![0.2350, 0.2774, 0.2129] }
    }

    /// Mean and standard deviation of all pixels of each channel of a data set. If all pixels of a channel are equal,
    /// its deviation is taken to be 1.
    pub fn of(dataset: &Dataset) -> Self {
        let [channels, height, width] = dataset.extents();
        let mut counts = Counts::new(channels);
        dataset.pixels().chunks_exact(channels * height * width).for_each(|image| counts.add(image));
        counts.normalization()
    }

    /// As [`Normalization::of`], for a data set of any size: reads each of its images once.
    ///
    /// # Errors
    /// Those of reading; [`Error::Invalid`] if the images have different numbers of channels.
    pub fn measured(samples: &dyn Samples) -> Result<Self> {
        let indices = (0..samples.len()).into_par_iter();
        let counted = indices.try_fold(
            || None,
            |counts: Option<Counts>, index| {
                let image = samples.decode(index)?;
                let mut counts = counts.unwrap_or_else(|| Counts::new(image.extents()[0]));
                counts.include(&image).map_err(|e| Error::Invalid(format!("{}: {e}", samples.describe(index))))?;
                Ok(Some(counts))
            },
        );
        let all = counted.try_reduce(
            || None,
            |a, b| match (a, b) {
                (Some(a), Some(b)) => {
                    a.plus(&b).map(Some).map_err(|e| Error::Invalid(format!("{}: {e}", samples.name())))
                }
                (a, b) => Ok(a.or(b)),
            },
        )?;
        let none = || Error::Invalid(format!("{}: no images to take statistics of", samples.name()));
        Ok(all.ok_or_else(none)?.normalization())
    }

    /// The normalised value of black (pixel 0) in each channel: the fill for a rotation after normalising.
    pub fn black(&self) -> Vec<f32> {
        (0..self.mean.len()).map(|channel| self.table(channel)[0]).collect()
    }

    /// # Panics
    /// If there is not one mean and one positive deviation for each channel.
    #[track_caller]
    pub(crate) fn check(&self, caller: &str) {
        let (means, stds) = (self.mean.len(), self.std.len());
        assert!(means == stds && means > 0, "{caller}: one mean and one deviation a channel, got {means} and {stds}");
        let positive = self.std.iter().all(|&std| std > 0.0);
        assert!(positive, "{caller}: positive deviations, got {:?}", self.std);
    }

    /// The value of each of the 256 pixels in `channel`; one rounding, from `f64`.
    pub(crate) fn table(&self, channel: usize) -> [f32; 256] {
        let (mean, std) = (f64::from(self.mean[channel]), f64::from(self.std[channel]));
        std::array::from_fn(|p| ((p as f64 / 255.0 - mean) / std) as f32)
    }
}

/// How often each value occurs in each channel.
struct Counts(Vec<[u64; 256]>);

impl Counts {
    fn new(channels: usize) -> Self {
        Counts(vec![[0; 256]; channels])
    }

    /// Counts the pixels of an image with as many channels.
    fn add(&mut self, pixels: &[u8]) {
        let plane = pixels.len() / self.0.len();
        for (counts, plane) in self.0.iter_mut().zip(pixels.chunks_exact(plane)) {
            plane.iter().for_each(|&p| counts[usize::from(p)] += 1);
        }
    }

    fn include(&mut self, image: &Image) -> std::result::Result<(), String> {
        let (has, had) = (image.extents()[0], self.0.len());
        if has != had {
            return Err(format!("{has} channels, others have {had}"));
        }
        self.add(image.pixels());
        Ok(())
    }

    fn plus(mut self, other: &Counts) -> std::result::Result<Self, String> {
        let (has, had) = (other.0.len(), self.0.len());
        if has != had {
            return Err(format!("images of {had} and of {has} channels"));
        }
        self.0.as_flattened_mut().iter_mut().zip(other.0.as_flattened()).for_each(|(a, b)| *a += b);
        Ok(self)
    }

    fn normalization(&self) -> Normalization {
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for counts in &self.0 {
            let total = counts.iter().sum::<u64>().max(1) as f64;
            let moment = |power: u32| -> f64 {
                let terms = counts.iter().zip(0u128..).map(|(&n, p)| u128::from(n) * p.pow(power));
                terms.sum::<u128>() as f64 / total
            };
            let (first, second) = (moment(1), moment(2));
            let variance = second - first * first;
            mean.push((first / 255.0) as f32);
            std.push(if variance > 0.0 { (variance.sqrt() / 255.0) as f32 } else { 1.0 });
        }
        Normalization { mean, std }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_two_channels_by_hand() {
        // Channel 0: 0, 255, 0, 255; channel 1: 51 everywhere.
        let pixels = vec![0, 255, 51, 51, 0, 255, 51, 51];
        let dataset = Dataset::new("x", pixels, vec![0, 1], [2, 1, 2], 2).unwrap();
        let found = Normalization::of(&dataset);
        assert_eq!(found, Normalization { mean: vec![0.5, 0.2], std: vec![0.5, 1.0] });
        assert_eq!(Normalization::measured(&dataset).unwrap(), found);
        assert_eq!(found.table(0)[0], -1.0);
        assert_eq!(found.table(0)[255], 1.0);
        assert_eq!(found.black()[0], -1.0);
    }

    #[test]
    fn none_maps_bytes_to_the_unit_interval() {
        let table = Normalization::none(1).table(0);
        assert_eq!((table[0], table[51], table[255]), (0.0, 0.2, 1.0));
    }

    #[test]
    fn an_empty_data_set_has_finite_statistics() {
        let empty = Dataset::new("x", vec![], vec![], [1, 2, 2], 2).unwrap();
        assert_eq!(Normalization::of(&empty), Normalization::none(1));
        let message = Normalization::measured(&empty).unwrap_err().to_string();
        assert_eq!(message, "x: no images to take statistics of");
    }
}
