//! MNIST (LeCun, Cortes, Burges 1998) from its four original files.

use crate::{Dataset, Normalization, idx};
use quarterturn_core::{Error, Result};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The four files without `.gz`: training images and labels, test images and labels.
pub const FILES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// Where the files may lie below the folder that a user names; torchvision puts them in `MNIST/raw`.
const FOLDERS: [&str; 3] = ["", "MNIST/raw", "raw"];

/// Digits 0 to 9.
const CLASSES: usize = 10;

/// The 60,000 and the 10,000 digits.
#[derive(Clone, Debug)]
pub struct Mnist {
    /// The digits of `train-images-idx3-ubyte`, in the order of the file.
    pub train: Dataset,
    /// The digits of `t10k-images-idx3-ubyte`, in the order of the file.
    pub test: Dataset,
}

/// The three parts of an experiment.
#[derive(Clone, Debug)]
pub struct Splits {
    /// To train on.
    pub train: Dataset,
    /// To choose settings and epochs by.
    pub validation: Dataset,
    /// To report accuracy on.
    pub test: Dataset,
}

/// Reads the four files, each compressed or not, from `folder`, `folder/MNIST/raw` or `folder/raw`: the first that
/// has all of them.
///
/// # Errors
/// [`Error::Io`] if no folder has all of them, or one cannot be read; [`Error::Corrupt`] with the file and the place
/// if one is not what it should be: see [`read_pair`].
pub fn load(folder: &Path) -> Result<Mnist> {
    let [train_images, train_labels, test_images, test_labels] = find(folder)?.map_err(|lacking| {
        let message = format!("MNIST not found: {}, each with or without .gz: {lacking}", FILES.join(", "));
        Error::Io { path: folder.into(), message }
    })?;
    let train = read_pair("MNIST train", &train_images, &train_labels)?;
    let test = read_pair("MNIST t10k", &test_images, &test_labels)?;
    if train.extents() != test.extents() {
        let ([_, h, w], [_, height, width]) = (train.extents(), test.extents());
        let message = format!("images of {height}x{width}, those of {} are {h}x{w}", train_images.display());
        return Err(Error::Corrupt { path: test_images, offset: 8, message });
    }
    Ok(Mnist { train, test })
}

/// Reads a file of images and the file of their labels.
///
/// # Errors
/// [`Error::Corrupt`] if one is no IDX file of unsigned bytes with the right number of axes, is cut short or goes on
/// for too long (see [`idx::read`]); if there are not as many labels as images; or if a label is not a digit.
pub fn read_pair(name: &str, images: &Path, labels: &Path) -> Result<Dataset> {
    let pixels = idx::read(images, 3)?;
    let digits = idx::read(labels, 1)?;
    let (count, height, width) = (pixels.extents[0], pixels.extents[1], pixels.extents[2]);
    let corrupt = |offset, message| Err(Error::Corrupt { path: labels.into(), offset, message });
    if digits.extents[0] != count {
        let message = format!("{} labels, but {} has {count} images", digits.extents[0], images.display());
        return corrupt(4, message);
    }
    if let Some(i) = digits.elements.iter().position(|&d| usize::from(d) >= CLASSES) {
        let message = format!("label {} of image {i} is not a digit 0 to 9", digits.elements[i]);
        return corrupt(digits.data_offset + i as u64, message);
    }
    Dataset::new(name, pixels.elements, digits.elements, [1, height, width], CLASSES)
}

/// Whether all four files are below `folder`. Their content is not checked.
///
/// # Errors
/// [`Error::Io`] if a folder cannot be looked into.
pub fn is_present(folder: &Path) -> Result<bool> {
    Ok(find(folder)?.is_ok())
}

/// The files in the first folder that has all four, or else what each folder lacks.
fn find(folder: &Path) -> Result<std::result::Result<[PathBuf; 4], String>> {
    let mut lacking = Vec::new();
    for below in FOLDERS {
        let place = if below.is_empty() { folder.to_path_buf() } else { folder.join(below) };
        let [a, b, c, d] = FILES.map(|name| existing(&place, name));
        let found = [a?, b?, c?, d?];
        let absent: Vec<&str> = FILES.into_iter().zip(&found).filter(|(_, f)| f.is_none()).map(|(n, _)| n).collect();
        match found {
            [Some(a), Some(b), Some(c), Some(d)] => return Ok(Ok([a, b, c, d])),
            _ if absent.len() == FILES.len() => lacking.push(format!("{} has none of them", place.display())),
            _ => lacking.push(format!("{} lacks {}", place.display(), absent.join(", "))),
        }
    }
    Ok(Err(lacking.join("; ")))
}

/// `folder/name` or `folder/name.gz`, if one is a file.
fn existing(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    for path in [folder.join(name), folder.join(format!("{name}.gz"))] {
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => return Ok(Some(path)),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::io(path, &e)),
        }
    }
    Ok(None)
}

/// The splits for Figures 5 and 6 of Edixhoven et al. 2023, where MNIST's training and test files change roles. Of the
/// 10,000 digits of the test files (t10k), `seed` draws 8,000 to train on and 2,000 to validate with. Tests are made on
/// the 60,000 digits of the training files.
///
/// # Errors
/// [`Error::Invalid`] if there are fewer than 8,000 t10k digits.
pub fn papers_splits(mnist: &Mnist, seed: u64) -> Result<Splits> {
    let (train, validation) = mnist.test.split(8_000, seed)?;
    Ok(Splits { train, validation, test: mnist.train.clone() })
}

/// The usual splits: of the digits of the training files, `seed` draws 10,000 to validate with, and the rest is to
/// train on. Tests are made on the digits of the test files (t10k).
///
/// # Errors
/// [`Error::Invalid`] if there are fewer than 10,000 training digits.
pub fn usual_splits(mnist: &Mnist, seed: u64) -> Result<Splits> {
    let (validation, train) = mnist.train.split(10_000, seed)?;
    Ok(Splits { train, validation, test: mnist.test.clone() })
}

/// The normalisation of the paper's experiments. Its standard deviation is unusual: it is that of the means of images,
/// so that black becomes −3.0. The standard deviation of the pixels is 0.308 ([`Normalization::of`]).
pub fn papers_normalization() -> Normalization {
    Normalization { mean: vec![0.13084], std: vec![0.04348] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    /// A folder of its own for each test, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("quarterturn-mnist-{}-{test}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, bytes).unwrap();
            path
        }

        /// The four files: `n` training and `n + 1` test images of 2×3 pixels.
        fn write_all(&self, below: &str, n: u32, compressed: bool) {
            for (name, count) in FILES.iter().zip([n, n, n + 1, n + 1]) {
                let bytes = if name.contains("images") { images(count, 2, 3) } else { labels(count) };
                let place = Path::new(below).join(if compressed { format!("{name}.gz") } else { name.to_string() });
                self.write(place, &if compressed { gzip(&bytes) } else { bytes });
            }
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn images(count: u32, height: u32, width: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 3];
        bytes.extend([count, height, width].iter().flat_map(|e| e.to_be_bytes()));
        bytes.extend((0..count * height * width).map(|i| i as u8));
        bytes
    }

    /// Label `i` is `i mod 10`.
    fn labels(count: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 1];
        bytes.extend(count.to_be_bytes());
        bytes.extend((0..count).map(|i| (i % 10) as u8));
        bytes
    }

    #[test]
    fn every_layout_plain_or_compressed_is_found() {
        for (i, below) in ["", "MNIST/raw", "raw"].into_iter().enumerate() {
            for compressed in [false, true] {
                let folder = Folder::new(&format!("layout-{i}-{compressed}"));
                folder.write_all(below, 12, compressed);
                let mnist = load(&folder.0).unwrap();
                assert_eq!((mnist.train.len(), mnist.test.len()), (12, 13));
                assert_eq!(mnist.train.extents(), [1, 2, 3]);
                assert_eq!(mnist.train.image(1), [6, 7, 8, 9, 10, 11]);
                assert_eq!(mnist.test.labels()[9..], [9, 0, 1, 2]);
            }
        }
    }

    #[test]
    fn compression_is_told_by_content_not_by_name() {
        let folder = Folder::new("misnamed");
        folder.write_all("", 4, false);
        for (name, bytes) in [(FILES[0], images(4, 2, 3)), (FILES[1], labels(4))] {
            folder.write(name, &gzip(&bytes)); // compressed under the plain name
        }
        fs::rename(folder.0.join(FILES[2]), folder.0.join(format!("{}.gz", FILES[2]))).unwrap(); // and the reverse
        assert_eq!(load(&folder.0).unwrap().test.len(), 5);
    }

    #[test]
    fn a_folder_that_lacks_a_file_does_not_hide_one_that_has_all() {
        let folder = Folder::new("partial");
        folder.write(FILES[0], b"a download that was broken off");
        folder.write_all("MNIST/raw", 3, true);
        assert_eq!(load(&folder.0).unwrap().train.len(), 3);
    }

    #[test]
    fn missing_files_are_listed_for_every_folder() {
        let folder = Folder::new("missing");
        folder.write(FILES[0], &images(1, 2, 3));
        fs::create_dir(folder.0.join(FILES[1])).unwrap(); // a folder of that name is no file
        let error = load(&folder.0).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if *path == folder.0), "{error:?}");
        let message = error.to_string();
        let root = folder.0.display();
        for wanted in [
            format!("{root} lacks {}, {}, {}", FILES[1], FILES[2], FILES[3]),
            format!("{} has none of them", folder.0.join("MNIST/raw").display()),
            format!("{}, each with or without .gz", FILES.join(", ")),
        ] {
            assert!(message.contains(&wanted), "{message} does not say {wanted}");
        }
        let nowhere = load(Path::new("no/such/folder")).unwrap_err().to_string();
        assert!(nowhere.starts_with("no/such/folder: MNIST not found"), "{nowhere}");
        let inside_a_file = load(&folder.0.join(FILES[0])).unwrap_err().to_string();
        assert!(inside_a_file.contains("MNIST not found"), "{inside_a_file}");
    }

    #[track_caller]
    fn assert_corrupt<T: std::fmt::Debug>(result: Result<T>, file: &Path, wanted_offset: u64, wanted: &str) {
        match result.unwrap_err() {
            Error::Corrupt { path, offset, message } => {
                assert!(message.contains(wanted), "{message:?} does not say {wanted:?}");
                assert_eq!((path.as_path(), offset), (file, wanted_offset), "{message}");
            }
            other => panic!("{other:?} instead of a corrupt file with {wanted:?}"),
        }
    }

    #[test]
    fn a_label_that_is_no_digit() {
        let folder = Folder::new("label");
        let mut bytes = labels(20);
        bytes[8 + 17] = 10;
        let (x, y) = (folder.write("x", &images(20, 2, 2)), folder.write("y", &bytes));
        assert_corrupt(read_pair("x", &x, &y), &y, 25, "label 10 of image 17 is not a digit");
    }

    #[test]
    fn a_count_of_labels_that_is_not_that_of_images() {
        let folder = Folder::new("count");
        let (x, y) = (folder.write("x", &images(20, 2, 2)), folder.write("y", &labels(19)));
        let wanted = format!("19 labels, but {} has 20 images", x.display());
        assert_corrupt(read_pair("x", &x, &y), &y, 4, &wanted);
    }

    #[test]
    fn errors_name_the_file_they_are_about() {
        let folder = Folder::new("names");
        let (x, y) = (folder.write("x", &images(2, 2, 2)), folder.write("y", &labels(2)));
        assert_corrupt(read_pair("x", &y, &x), &y, 3, "these are labels, not images");
        assert_corrupt(read_pair("x", &x, &x), &x, 3, "these are images, not labels");
        let short = folder.write("short", &labels(2)[..9]);
        assert_corrupt(read_pair("x", &x, &short), &short, 9, "truncated");
    }

    #[test]
    fn training_and_test_images_of_different_sizes() {
        let folder = Folder::new("sizes");
        folder.write_all("", 3, false);
        let file = folder.write(FILES[2], &images(4, 3, 2));
        assert_corrupt(load(&folder.0), &file, 8, "images of 3x2");
    }

    #[test]
    fn the_papers_splits_swap_the_parts() {
        let part = |name: &str, n: usize| {
            let pixels = (0..n).flat_map(|i| [(i >> 8) as u8, i as u8]).collect();
            Dataset::new(name, pixels, vec![0; n], [1, 1, 2], CLASSES).unwrap()
        };
        let mnist = Mnist { train: part("train", 60_000), test: part("t10k", 10_000) };
        let splits = papers_splits(&mnist, 5).unwrap();
        assert_eq!((splits.train.len(), splits.validation.len(), splits.test.len()), (8_000, 2_000, 60_000));
        assert_eq!((splits.train.name(), splits.validation.name(), splits.test.name()), ("t10k", "t10k", "train"));
        let mut used: Vec<&[u8]> = (0..8_000).map(|i| splits.train.image(i)).collect();
        used.extend((0..2_000).map(|i| splits.validation.image(i)));
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), 10_000, "training and validation overlap");
        assert_ne!(papers_splits(&mnist, 6).unwrap().train, splits.train);

        let splits = usual_splits(&mnist, 5).unwrap();
        assert_eq!((splits.train.len(), splits.validation.len(), splits.test.len()), (50_000, 10_000, 10_000));
        assert_eq!(splits.test.name(), "t10k");

        let small = Mnist { train: part("train", 10), test: part("t10k", 7_999) };
        assert!(matches!(papers_splits(&small, 0), Err(Error::Invalid(_))));
        assert!(matches!(usual_splits(&small, 0), Err(Error::Invalid(_))));
    }
}
