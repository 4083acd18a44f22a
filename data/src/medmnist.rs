//! Data sets in the form of MedMNIST (Yang et al. 2023): one `.npz` file with `train_images`, `train_labels`, `val_images` and so on.
//!
//! Images are 8-bit, `[N, H, W]` or `[N, H, W, C]`. Labels `[N]` or `[N, 1]` are class indices. `[N, K]` are K labels
//! of 0 or 1 (multi-label classification, as in ChestMNIST).

use crate::{
    Annotated, Dataset, Samples,
    npz::{Array, Npz},
};
use quarterturn_core::{Error, Result};
use std::{path::Path, sync::Arc};

/// Bytes that the labels of an image take at most, and the header of their array.
const MOST_LABEL_BYTES: u64 = 1 << 12;
const HEADER: u64 = 1 << 16;

/// The parts of such a file.
#[derive(Clone)]
pub struct Parts {
    /// `train_images` and `train_labels`.
    pub train: Arc<dyn Samples>,
    /// `val_images` and `val_labels`, if they are there.
    pub validation: Option<Arc<dyn Samples>>,
    /// `test_images` and `test_labels`, if they are there.
    pub test: Option<Arc<dyn Samples>>,
}

/// Images and labels, as the file has them.
struct Raw {
    pixels: Vec<u8>,
    /// Channels, height and width; and whether channels lie beside each other.
    extents: [usize; 3],
    /// `[N, K]`.
    labels: Vec<f64>,
    each: usize,
}

/// Reads the file at `path`. All parts have the same number of classes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`], naming the file and the array, if it is damaged or has another form.
pub fn load(path: &Path) -> Result<Parts> {
    let mut file = Npz::open(path)?;
    let train = part(&mut file, path, "train")?.ok_or_else(|| refused(path, "it has no train_images"))?;
    let [validation, test] = ["val", "test"].map(|name| part(&mut file, path, name));
    let (validation, test) = (validation?, test?);
    let parts = [Some(&train), validation.as_ref(), test.as_ref()];
    let largest = parts.into_iter().flatten().flat_map(|raw| raw.labels.iter().copied()).fold(0.0, f64::max);
    let each = train.each;
    for raw in parts.into_iter().flatten() {
        if raw.each != each || raw.extents != train.extents {
            let message = format!(
                "its parts differ: images {:?} with {} labels each, and {:?} with {}",
                train.extents, each, raw.extents, raw.each
            );
            return Err(refused(path, &message));
        }
    }
    let name = path.file_stem().map_or("npz".into(), |name| name.to_string_lossy().into_owned());
    let samples = |raw: Raw, part: &str| raw.samples(format!("{name} {part}"), largest as usize + 1, path);
    Ok(Parts {
        train: samples(train, "train")?,
        validation: validation.map(|raw| samples(raw, "val")).transpose()?,
        test: test.map(|raw| samples(raw, "test")).transpose()?,
    })
}

fn refused(path: &Path, message: &str) -> Error {
    Error::Corrupt { path: path.into(), offset: 0, message: message.into() }
}

fn part(file: &mut Npz, path: &Path, name: &str) -> Result<Option<Raw>> {
    let [images_name, labels_name] = ["images", "labels"].map(|what| format!("{name}_{what}"));
    let Some(images) = file.array(&images_name)? else { return Ok(None) };
    let most = images.shape()[0] as u64 * MOST_LABEL_BYTES + HEADER;
    let labels = file
        .array_of_at_most(&labels_name, most)?
        .ok_or_else(|| refused(path, &format!("it has {images_name}, but no {labels_name}")))?;
    let extents = match *images.shape() {
        [_, height, width] => [1, height, width],
        [_, height, width, channels] => [channels, height, width],
        ref shape => {
            let message = format!("{images_name} are {shape:?}, expected [N, H, W] or [N, H, W, C]");
            return Err(refused(path, &message));
        }
    };
    if images.shape().contains(&0) {
        return Err(refused(path, &format!("{images_name} are {:?}, which has no pixels", images.shape())));
    }
    let n = images.shape()[0];
    let Some(pixels) = images.into_bytes() else {
        return Err(refused(path, &format!("{images_name} are not bytes (uint8)")));
    };
    let each = each(&labels, n).ok_or_else(|| {
        refused(path, &format!("{labels_name} are {:?} for {n} images, expected [{n}] or [{n}, K]", labels.shape()))
    })?;
    let limit = if each == 1 { 255.0 } else { 1.0 };
    let labels: Vec<f64> = labels.numbers().collect();
    if let Some(at) = labels.iter().position(|&label| !(0.0..=limit).contains(&label) || label.fract() != 0.0) {
        let message =
            format!("{labels_name}: {} of image {}, expected whole numbers from 0 to {limit}", labels[at], at / each);
        return Err(refused(path, &message));
    }
    Ok(Some(Raw { pixels, extents, labels, each }))
}

/// How many labels each image has.
fn each(labels: &Array, n: usize) -> Option<usize> {
    match *labels.shape() {
        [found] if found == n => Some(1),
        [found, each] if found == n && each > 0 => Some(each),
        _ => None,
    }
}

impl Raw {
    fn samples(self, name: String, classes: usize, path: &Path) -> Result<Arc<dyn Samples>> {
        let unfit = |error: Error| match error {
            Error::Invalid(message) => refused(path, &message),
            other => other,
        };
        let [channels, height, width] = self.extents;
        let planes = if channels == 1 { self.pixels } else { planes(&self.pixels, height * width, channels) };
        if self.each == 1 {
            let labels = self.labels.iter().map(|&label| label as u8).collect();
            let dataset = Dataset::new(name, planes, labels, [channels, height, width], classes);
            return Ok(Arc::new(dataset.map_err(unfit)?));
        }
        let numbers = self.labels.iter().map(|&label| label as f32).collect();
        let annotated = Annotated::with_numbers(name, planes, numbers, [channels, height, width], self.each);
        Ok(Arc::new(annotated.map_err(unfit)?))
    }
}

/// Channels one after the other.
fn planes(pixels: &[u8], plane: usize, channels: usize) -> Vec<u8> {
    let mut planes = Vec::with_capacity(pixels.len());
    for image in pixels.chunks((plane * channels).max(1)) {
        (0..channels).for_each(|channel| planes.extend(image.iter().skip(channel).step_by(channels)));
    }
    planes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Target,
        npz::tests::{npy, zip},
        testing::Folder,
    };

    #[test]
    fn the_parts_of_a_file_are_data_sets() {
        let folder = Folder::new();
        let pixels: Vec<u8> = (0..2 * 6 * 5 * 3).map(|i| i as u8).collect();
        let file = zip(&[
            ("train_images", npy("|u1", &[2, 6, 5, 3], &pixels)),
            ("train_labels", npy("|u1", &[2, 1], &[0, 2])),
            ("val_images", npy("|u1", &[1, 6, 5, 3], &pixels[..90])),
            ("val_labels", npy("<i8", &[1, 1], &3i64.to_le_bytes())),
        ]);
        let parts = load(&folder.write("bloodmnist.npz", &file)).unwrap();
        let (train, validation) = (parts.train, parts.validation.unwrap());
        assert_eq!((train.name(), train.len(), train.classes(), train.label(1)), ("bloodmnist train", 2, 4, 2));
        assert_eq!((validation.len(), validation.classes(), validation.label(0)), (1, 4, 3));
        assert!(parts.test.is_none());
        let image = train.decode(1).unwrap();
        assert_eq!((image.extents(), &image.pixels()[..3], image.pixels()[30]), ([3, 6, 5], &[90, 93, 96][..], 91));
    }

    #[test]
    fn several_labels_are_numbers() {
        let folder = Folder::new();
        let file = zip(&[
            ("train_images", npy("|u1", &[2, 6, 5], &[3; 60])),
            ("train_labels", npy("|u1", &[2, 3], &[0, 1, 1, 1, 0, 0])),
        ]);
        let train = load(&folder.write("chestmnist.npz", &file)).unwrap().train;
        assert_eq!((train.classes(), train.target(0).unwrap()), (3, Target::Numbers(vec![0.0, 1.0, 1.0])));
        assert_eq!(train.decode(1).unwrap().extents(), [1, 6, 5]);
    }

    #[test]
    fn another_form_is_an_error_that_names_file_and_array() {
        let folder = Folder::new();
        let images = || ("train_images", npy("|u1", &[2, 6, 5], &[3; 60]));
        let labels = || ("train_labels", npy("|u1", &[2, 1], &[0, 1]));
        for (members, expected) in [
            (vec![labels()], "it has no train_images"),
            (vec![images()], "it has train_images, but no train_labels"),
            (
                vec![("train_images", npy("|u1", &[60], &[3; 60])), labels()],
                "train_images are [60], expected [N, H, W]",
            ),
            (vec![("train_images", npy("<f4", &[2, 2, 2], &[0; 32])), labels()], "train_images are not bytes"),
            (vec![images(), ("train_labels", npy("|u1", &[3], &[0; 3]))], "train_labels are [3] for 2 images"),
            (vec![images(), ("train_labels", npy("|i1", &[2], &[0, 0xff]))], "train_labels: -1 of image 1"),
            (
                vec![images(), ("train_labels", npy("|u1", &[2, 2], &[0, 1, 2, 0]))],
                "train_labels: 2 of image 1, expected whole numbers from 0 to 1",
            ),
            (
                vec![("train_images", npy("|u1", &[2, 0, 5], &[])), labels()],
                "train_images are [2, 0, 5], which has no pixels",
            ),
            // 16 MiB of them, in a few KB.
            (vec![images(), ("train_labels", npy("|u1", &[1 << 24], &[0; 1 << 24]))], "bytes, expected 73728 at most"),
            // A product of some of the extents that wraps, with a factor of 0.
            (
                vec![
                    ("train_images", npy("|u1", &[0, 1 << 32, 1 << 32, 3], &[])),
                    ("train_labels", npy("|u1", &[0], &[])),
                ],
                "has no pixels",
            ),
            (
                vec![("train_images", npy("|u1", &[0, 6, 5], &[])), ("train_labels", npy("|u1", &[0], &[]))],
                "train_images are [0, 6, 5], which has no pixels",
            ),
            (
                vec![
                    images(),
                    labels(),
                    ("test_images", npy("|u1", &[1, 5, 6], &[0; 30])),
                    ("test_labels", npy("|u1", &[1], &[0])),
                ],
                "its parts differ",
            ),
        ] {
            let message = load(&folder.write("x.npz", &zip(&members))).map(drop).unwrap_err().to_string();
            assert!(message.contains("x.npz") && message.contains(expected), "{message}");
        }
    }
}
