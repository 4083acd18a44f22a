//! PatchCamelyon (Veeling et al. 2018) from its HDF5 files: for each part the images, `x` of `[N, 96, 96, 3]` bytes, and
//! whether there is tumour tissue in the middle of them, `y` of `[N, 1, 1, 1]`.
//!
//! Labels are read when the file is opened, images on demand, so that the 7 GB of training images are never in memory.

mod array;

use crate::{Image, Samples, image::checked_len};
use array::Array;
use quarterturn_core::Result;
use std::{fmt, path::Path};

/// No tumour, tumour.
const CLASSES: usize = 2;

/// The training, validation and test images.
#[derive(Debug)]
pub struct Parts {
    /// 262,144 images.
    pub train: Pcam,
    /// 32,768 images.
    pub validation: Pcam,
    /// 32,768 images.
    pub test: Pcam,
}

/// Opens the six files `camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5` in `folder`.
///
/// # Errors
/// As [`Pcam::open`].
pub fn load(folder: &Path) -> Result<Parts> {
    let part = |name: &str, split: &str| {
        let file = |axis| folder.join(format!("camelyonpatch_level_2_split_{split}_{axis}.h5"));
        Pcam::open(&format!("PatchCamelyon {name}"), &file("x"), &file("y"))
    };
    Ok(Parts { train: part("train", "train")?, validation: part("val", "valid")?, test: part("test", "test")? })
}

/// The training, validation or test images.
pub struct Pcam {
    name: String,
    images: Array,
    extents: [usize; 3],
    labels: Vec<u8>,
}

impl Pcam {
    /// Opens a file of images and the file of their labels. Images may have any size.
    ///
    /// Opening takes memory for the labels and the index of chunks: at most 64 bytes for each byte of a file, and at
    /// most 1 GiB. Reading an image takes memory for the image and for three chunks of at most 64 MiB.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Io`] if a file cannot be read; [`quarterturn_core::Error::Corrupt`], with the
    /// position in the file, if a file is no HDF5 file or is damaged, if it has no such array of bytes or parts of it
    /// were never written, if there are not as many labels as images, or if a label is neither 0 nor 1. Some features
    /// of HDF5 are not supported (version-2 B-trees, some compressions); the error names them and says how to convert
    /// the file.
    pub fn open(name: &str, images: &Path, labels: &Path) -> Result<Self> {
        let images = Array::open(images, "x")?;
        let labels = Array::open(labels, "y")?;
        let [_, height, width, channels] = images.extents;
        if channels != 3 {
            return Err(images.corrupt(format!("x: 3 channels are expected, the extents are {:?}", images.extents)));
        }
        checked_len([3, height, width]).map_err(|e| images.corrupt(format!("x: {e}")))?;
        if labels.extents != [images.extents[0], 1, 1, 1] {
            let wanted = [images.extents[0], 1, 1, 1];
            return Err(labels.corrupt(format!("y: the extents are {:?}, expected {wanted:?}", labels.extents)));
        }
        let values = labels.rows(0, labels.extents[0])?;
        if let Some(i) = values.iter().position(|&label| usize::from(label) >= CLASSES) {
            return Err(labels.corrupt(format!("label {} of image {i} is neither 0 nor 1", values[i])));
        }
        Ok(Pcam { name: name.into(), extents: [height, width, channels], images, labels: values })
    }
}

impl Samples for Pcam {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn classes(&self) -> usize {
        CLASSES
    }
    fn label(&self, index: usize) -> usize {
        usize::from(self.labels[index])
    }
    fn decode(&self, index: usize) -> Result<Image> {
        assert!(index < self.len(), "Pcam::decode: {} images, got index {index}", self.len());
        Image::from_interleaved(&self.images.rows(index, 1)?, self.extents)
    }
    fn describe(&self, index: usize) -> String {
        format!("{}: image {index}", self.images.path.display())
    }
}

impl fmt::Debug for Pcam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} images of {:?}", self.name, self.len(), self.extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Loader, Recipe, testing::Folder};
    use quarterturn_core::Error;
    use std::{fs, path::PathBuf};

    /// Written by the reference library; see `make_pcam.py` beside them.
    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/camelyonpatch_level_2_split_{name}.h5"))
    }

    fn open(split: &str) -> Result<Pcam> {
        Pcam::open(split, &fixture(&format!("{split}_x")), &fixture(&format!("{split}_y")))
    }

    #[test]
    fn contiguous_deflated_and_shuffled_files_are_read() {
        for (split, n, size) in [("train", 3, 20), ("valid", 5, 96), ("test", 6, 96)] {
            let part = open(split).unwrap();
            assert_eq!((part.len(), part.classes()), (n, 2));
            for i in (0..n).rev() {
                let image = part.decode(i).unwrap();
                assert_eq!((image.extents(), part.label(i)), ([3, size, size], i % 2));
                let formula = |at: usize| {
                    let (row, column) = (at / size % size / 16, at % size / 16);
                    [16 * row + 10 * i, 16 * column, 8 * (row + column)][at / (size * size)]
                };
                assert!(image.pixels().iter().enumerate().all(|(at, &p)| usize::from(p) == formula(at)), "{split} {i}");
            }
        }
    }

    #[test]
    fn the_parts_are_found_by_name_and_feed_a_loader() {
        let parts = load(fixture("").parent().unwrap()).unwrap();
        assert_eq!((parts.train.len(), parts.validation.len(), parts.test.len()), (3, 5, 6));
        let loader = Loader::new(parts.test, Recipe::pcam(97, true).test, 6);
        let batch = loader.epoch(0).next().unwrap().unwrap();
        assert_eq!(
            (batch.images.dims(), batch.labels.f32s()),
            (&[6, 3, 1, 97, 97][..], &[0.0, 1.0, 0.0, 1.0, 0.0, 1.0][..])
        );
    }

    #[test]
    fn files_that_do_not_belong_together_are_told_apart() {
        let fails = |images: &str, labels: &str, file: &str, wanted: &str| match Pcam::open(
            "x",
            &fixture(images),
            &fixture(labels),
        )
        .unwrap_err()
        {
            Error::Corrupt { path, message, .. } => {
                assert_eq!(path, fixture(file));
                assert!(message.contains(wanted), "{message}");
            }
            other => panic!("{other:?}"),
        };
        fails("valid_x", "test_y", "test_y", "y: the extents are [6, 1, 1, 1], expected [5, 1, 1, 1]");
        fails("valid_y", "valid_y", "valid_y", "path not found: x");
        let folder = Folder::new();
        let missing = load(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("camelyonpatch_level_2_split_train_x.h5"), "{missing}");
        folder.write("camelyonpatch_level_2_split_train_x.h5.gz", b"");
        let packed = load(folder.path()).unwrap_err().to_string();
        assert!(packed.contains("decompress") && packed.ends_with("_x.h5.gz first"), "{packed}");
        let other = folder.write("x.h5", b"<!DOCTYPE html>");
        assert!(
            matches!(Pcam::open("x", &other, &fixture("test_y")), Err(Error::Corrupt { path, .. }) if path == other)
        );
    }

    /// Opens and reads everything there is.
    fn survey(images: &Path, labels: &Path) -> Result<Vec<Image>> {
        let part = Pcam::open("x", images, labels)?;
        (0..part.len()).map(|i| part.decode(i)).collect()
    }

    #[test]
    fn truncated_files_are_errors() {
        let folder = Folder::new();
        for split in ["train", "valid", "test"] {
            let (x, y) = (fixture(&format!("{split}_x")), fixture(&format!("{split}_y")));
            for (whole, labels) in [(&x, false), (&y, true)] {
                let bytes = fs::read(whole).unwrap();
                for len in (0..bytes.len()).step_by(97) {
                    let cut = folder.write("cut.h5", &bytes[..len]);
                    let result = if labels { survey(&x, &cut) } else { survey(&cut, &y) };
                    assert!(
                        matches!(&result, Err(Error::Corrupt { path, .. }) if *path == cut),
                        "{split} {len}: {result:?}"
                    );
                }
            }
        }
    }

    /// Nothing panics. Extents that grow may make larger images, black where nothing is stored, within the limits.
    #[test]
    fn flipped_bits_are_errors_or_other_pixels() {
        let folder = Folder::new();
        for split in ["train", "valid", "test"] {
            let (x, y) = (fixture(&format!("{split}_x")), fixture(&format!("{split}_y")));
            for (whole, labels) in [(&x, false), (&y, true)] {
                let bytes = fs::read(whole).unwrap();
                // The structure is in the first two kilobytes and at the end; pixels are between.
                for at in (0..bytes.len()).filter(|at| (*at < 2600 || at % 37 == 0) && at % 3 == 0) {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= if at % 2 == 0 { 0xff } else { 0x10 };
                    let changed = folder.write("changed.h5", &bytes);
                    let result = if labels { survey(&x, &changed) } else { survey(&changed, &y) };
                    if let Ok(images) = result {
                        assert!(images.iter().map(|image| image.pixels().len()).sum::<usize>() < 1 << 25);
                    }
                }
            }
        }
    }
}
