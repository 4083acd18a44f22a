//! PatchCamelyon (Veeling et al. 2018) from its HDF5 files: for each part the images, `x` of `[N, 96, 96, 3]` bytes, and
//! whether there is tumour tissue in the middle of them, `y` of `[N, 1, 1, 1]`.
//!
//! Labels are read at once, images one by one (of a file whose images are stored in chunks of several, the chunk), so
//! that the 7 GB of the training images need no memory.

use crate::{Image, Samples, image::checked_len};
use hdf5_pure::{DType, FormatError, Source};
use quarterturn_core::{Error, Result};
use std::{
    fmt, fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// No tumour, tumour.
const CLASSES: usize = 2;
/// The most images of a part: the training images are 262,144.
const MAX_IMAGES: u64 = 1 << 22;
/// The most bytes of a chunk, which is decompressed at once.
const MAX_CHUNK: u64 = 1 << 26;

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

/// One part.
pub struct Pcam {
    name: String,
    images: Array,
    extents: [usize; 3],
    labels: Vec<u8>,
}

impl Pcam {
    /// Opens a file of images and the file of their labels. Images may have any size.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; [`Error::Corrupt`], with the place up to which the file had been read, if
    /// one is no HDF5 file, is damaged, holds something else than such an array of bytes, if there are not as many
    /// labels as images, or a label is neither 0 nor 1.
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

/// An array of bytes on four axes, in a file.
struct Array {
    path: PathBuf,
    place: Arc<AtomicU64>,
    dataset: hdf5_pure::Dataset,
    extents: [usize; 4],
}

impl Array {
    fn open(path: &Path, name: &str) -> Result<Self> {
        let file = fs::File::open(path).map_err(|e| {
            let packed = PathBuf::from(format!("{}.gz", path.display()));
            let hint =
                if packed.is_file() { format!("; decompress {} first", packed.display()) } else { String::new() };
            Error::Io { path: path.into(), message: format!("{e}{hint}") }
        })?;
        let len = file.metadata().map_err(|e| Error::io(path, &e))?.len();
        let place = Arc::new(AtomicU64::new(0));
        let source = Tracked { file: Mutex::new(file), len, place: place.clone() };
        let told = |e| error(path, &place, &e);
        let dataset = hdf5_pure::File::from_source(source).and_then(|file| file.dataset(name)).map_err(told)?;
        let shape = dataset.shape().map_err(told)?;
        let kind = dataset.dtype().map_err(told)?;
        let chunk = dataset.chunk_shape().map_err(told)?;
        let mut array = Array { path: path.into(), place: place.clone(), dataset, extents: [0; 4] };
        if kind != DType::U8 {
            return Err(array.corrupt(format!("{name}: elements are {kind}, expected bytes (u8)")));
        }
        let extents: Option<Vec<usize>> = shape.iter().map(|&e| usize::try_from(e).ok()).collect();
        match extents.as_deref() {
            Some(&[n, a, b, c]) if (1..=MAX_IMAGES).contains(&shape[0]) => array.extents = [n, a, b, c],
            _ => {
                let message = format!("{name}: the extents are {shape:?}, expected [1 to {MAX_IMAGES}, …] on 4 axes");
                return Err(array.corrupt(message));
            }
        }
        let chunk_len = chunk.iter().flatten().try_fold(1u64, |product, &e| product.checked_mul(e));
        if chunk_len.is_none_or(|len| len > MAX_CHUNK) {
            return Err(
                array.corrupt(format!("{name}: chunks of {chunk:?}, at most {MAX_CHUNK} bytes are read at once"))
            );
        }
        Ok(array)
    }

    /// Bytes of the entries `first..first + count` of the first axis.
    fn rows(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let wanted = count * self.extents[1..].iter().product::<usize>();
        let bytes = self.dataset.read_u8_rows(first as u64, count as u64);
        let bytes = bytes.map_err(|e| error(&self.path, &self.place, &e))?;
        if bytes.len() != wanted {
            return Err(self.corrupt(format!("entry {first}: {wanted} bytes are expected, there are {}", bytes.len())));
        }
        Ok(bytes)
    }

    fn corrupt(&self, message: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: self.place.load(Ordering::Relaxed), message }
    }
}

fn error(path: &Path, place: &AtomicU64, error: &hdf5_pure::Error) -> Error {
    match error {
        hdf5_pure::Error::Io(e) => Error::io(path, e),
        hdf5_pure::Error::Format(FormatError::Source(message)) => {
            Error::Io { path: path.into(), message: message.clone() }
        }
        e => Error::Corrupt { path: path.into(), offset: place.load(Ordering::Relaxed), message: e.to_string() },
    }
}

/// A file that knows where it was last read, for errors to name a place.
struct Tracked {
    file: Mutex<fs::File>,
    len: u64,
    place: Arc<AtomicU64>,
}

impl Source for Tracked {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), FormatError> {
        self.place.store(offset.min(self.len), Ordering::Relaxed);
        let length = buffer.len() as u64;
        let end = offset.checked_add(length).ok_or(FormatError::OffsetOverflow { offset, length })?;
        if end > self.len {
            let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            return Err(FormatError::UnexpectedEof { expected: count(end), available: count(self.len) });
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer));
        read.map_err(|e| FormatError::Source(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Loader, Recipe, testing::Folder};

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
        let loader = Loader::new(parts.test, Recipe::pcam(97).test, 6);
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
