//! CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their binary files.
//!
//! A file is a sequence of records: one label, or for CIFAR-100 a coarse and a fine one, then 3 × 32 × 32 pixels, red,
//! green and blue plane. Both data sets fit in memory (180 MB). The versions for Python and MATLAB are not read; the
//! error says so.

use crate::Dataset;
use quarterturn_core::{Error, Result};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// Channels, height and width of an image.
const EXTENTS: [usize; 3] = [3, 32, 32];
const PIXELS: usize = 3 * 32 * 32;
/// The most records that a file may have.
const MAX_RECORDS: usize = 1 << 17;

/// Which of the two data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cifar {
    /// 10 classes.
    Ten,
    /// 100 classes, in 20 coarse ones, which are not used.
    Hundred,
}

/// The training and the test images.
#[derive(Clone, Debug)]
pub struct Parts {
    /// 50,000 images, in the order of the files.
    pub train: Dataset,
    /// 10,000 images.
    pub test: Dataset,
}

impl Cifar {
    fn name(self) -> &'static str {
        match self {
            Cifar::Ten => "CIFAR-10",
            Cifar::Hundred => "CIFAR-100",
        }
    }

    fn classes(self) -> usize {
        match self {
            Cifar::Ten => 10,
            Cifar::Hundred => 100,
        }
    }

    /// Bytes before the pixels of a record, the last of which is the label.
    fn labels(self) -> usize {
        match self {
            Cifar::Ten => 1,
            Cifar::Hundred => 2,
        }
    }

    fn files(self) -> (&'static [&'static str], &'static str) {
        match self {
            Cifar::Ten => {
                let train = &[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ];
                (train, "test_batch.bin")
            }
            Cifar::Hundred => (&["train.bin"], "test.bin"),
        }
    }

    /// Where the archive unpacks to.
    fn folder(self) -> &'static str {
        match self {
            Cifar::Ten => "cifar-10-batches-bin",
            Cifar::Hundred => "cifar-100-binary",
        }
    }

    /// The archive.
    fn archive(self) -> &'static str {
        match self {
            Cifar::Ten => "cifar-10-binary.tar.gz",
            Cifar::Hundred => "cifar-100-binary.tar.gz",
        }
    }

    /// Where the archives of other versions unpack to, and a file of each by which it is told.
    fn others(self) -> [(&'static str, &'static str, &'static str); 2] {
        match self {
            Cifar::Ten => [
                ("Python", "cifar-10-batches-py", "data_batch_1"),
                ("MATLAB", "cifar-10-batches-mat", "data_batch_1.mat"),
            ],
            Cifar::Hundred => [("Python", "cifar-100-python", "train"), ("MATLAB", "cifar-100-matlab", "train.mat")],
        }
    }
}

/// Which of the two data sets `folder` has, by the names of its files; `None` if neither. The files may also be in the
/// subfolder that the archive unpacks to.
pub fn detect(folder: &Path) -> Option<Cifar> {
    [Cifar::Ten, Cifar::Hundred].into_iter().find(|&which| lacking(which, &find(folder, which)).is_empty())
}

/// Reads the files from `folder`, or from the folder in it that the archive unpacks to. Needs memory for at most twice
/// their size, and reads no more than 131,072 records of each file.
///
/// # Errors
/// [`Error::Io`] if a file is missing or cannot be read (files for Python or MATLAB are named as such), [`Error::Corrupt`] if
/// one is cut short or a label is no class, [`Error::OutOfMemory`].
pub fn load(folder: &Path, which: Cifar) -> Result<Parts> {
    let place = find(folder, which);
    let missing = lacking(which, &place);
    if !missing.is_empty() {
        let (name, below) = (which.name(), which.folder());
        let mut message =
            format!("{name} not found here or in {below}: {} lacks {}", place.display(), missing.join(", "));
        for (version, below, file) in which.others() {
            let found = [folder.join(below).join(file), place.join(file)].into_iter().find(|path| path.is_file());
            if let Some(file) = found {
                message += &format!("; {} is of the version for {version}, which is not read", file.display());
                message += &format!(": the binary version is {}", which.archive());
            }
        }
        return Err(Error::Io { path: folder.into(), message });
    }
    let (train, test) = which.files();
    let read = |part: &str, names: &[&str]| {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        names.iter().try_for_each(|name| read_file(&place.join(name), which, &mut pixels, &mut labels))?;
        Dataset::new(format!("{} {part}", which.name()), pixels, labels, EXTENTS, which.classes())
    };
    Ok(Parts { train: read("train", train)?, test: read("test", &[test])? })
}

/// The folder that holds the files, if either does; else the one that was named.
fn find(folder: &Path, which: Cifar) -> PathBuf {
    let below = folder.join(which.folder());
    if below.is_dir() { below } else { folder.into() }
}

fn lacking(which: Cifar, place: &Path) -> Vec<&'static str> {
    let (train, test) = which.files();
    train.iter().copied().chain([test]).filter(|name| !place.join(name).is_file()).collect()
}

fn read_file(path: &Path, which: Cifar, pixels: &mut Vec<u8>, labels: &mut Vec<u8>) -> Result<()> {
    let io = |e: std::io::Error| Error::io(path, &e);
    let corrupt = |offset: usize, message| Err(Error::Corrupt { path: path.into(), offset: offset as u64, message });
    let record = which.labels() + PIXELS;
    let mut file = File::open(path).map_err(io)?;
    let len = usize::try_from(file.metadata().map_err(io)?.len()).unwrap_or(usize::MAX);
    let mut start = Vec::new();
    file.by_ref().take(2).read_to_end(&mut start).map_err(io)?;
    // Labels are small; pickles begin with 0x80 and their version, or, the oldest, with text.
    if matches!(start[..], [0x80, 0..=5] | [b'(' | b'}' | b'c', _]) {
        let archive = which.archive();
        return corrupt(0, format!("a pickle of Python's, which is not read: the binary version is {archive}"));
    }
    if len == 0 || len > MAX_RECORDS * record {
        return corrupt(0, format!("1 to {MAX_RECORDS} records of {record} bytes are expected, there are {len} bytes"));
    }
    if !len.is_multiple_of(record) {
        let message = format!("truncated: {len} bytes are {} records of {record} bytes and a part", len / record);
        return corrupt(len / record * record, message);
    }
    let room = |vec: &mut Vec<u8>, more| {
        vec.try_reserve(more).map_err(|e| Error::OutOfMemory(format!("{}: {more} bytes: {e}", path.display())))
    };
    let mut bytes = Vec::new();
    room(&mut bytes, len + 1)?;
    bytes.extend(start);
    file.take(len as u64 - 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() != len {
        return corrupt(bytes.len().min(len), format!("the file had {len} bytes, and changed while it was read"));
    }
    room(pixels, len)?;
    for (i, record_bytes) in bytes.chunks_exact(record).enumerate() {
        let (before, image) = record_bytes.split_at(which.labels());
        let label = before[which.labels() - 1];
        if usize::from(label) >= which.classes() {
            let message = format!("label {label} of record {i} is not below {}", which.classes());
            return corrupt(i * record + which.labels() - 1, message);
        }
        labels.push(label);
        pixels.extend_from_slice(image);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Normalization, testing::Folder};
    use std::fs;

    /// `n` records; pixel `j` of image `i` is i + j, its fine label i mod 10, the coarse one 19.
    fn records(n: usize, which: Cifar) -> Vec<u8> {
        let mut bytes = Vec::new();
        for i in 0..n {
            if which == Cifar::Hundred {
                bytes.push(19);
            }
            bytes.push((i % 10) as u8);
            bytes.extend((0..PIXELS).map(|j| (i + j) as u8));
        }
        bytes
    }

    fn write_all(folder: &Folder, below: &str, which: Cifar) {
        let (train, test) = which.files();
        for (i, name) in train.iter().chain([&test]).enumerate() {
            folder.write(Path::new(below).join(name), &records(i + 2, which));
        }
    }

    #[test]
    fn both_are_read_from_either_folder() {
        for which in [Cifar::Ten, Cifar::Hundred] {
            for below in ["", which.folder()] {
                let folder = Folder::new();
                write_all(&folder, below, which);
                let parts = load(folder.path(), which).unwrap();
                let wanted = if which == Cifar::Ten { (2 + 3 + 4 + 5 + 6, 7) } else { (2, 3) };
                assert_eq!((parts.train.len(), parts.test.len()), wanted);
                assert_eq!((parts.test.extents(), parts.test.classes()), (EXTENTS, which.classes()));
                assert_eq!(parts.test.labels()[..3], [0, 1, 2]);
                assert_eq!(parts.test.image(1)[..3], [1, 2, 3]);
                assert_eq!(parts.train.name(), format!("{} train", which.name()));
                assert_eq!(detect(folder.path()), Some(which));
                let _ = Normalization::of(&parts.train);
            }
        }
    }

    #[test]
    fn what_is_missing_is_listed() {
        let folder = Folder::new();
        write_all(&folder, "", Cifar::Ten);
        fs::remove_file(folder.path().join("data_batch_3.bin")).unwrap();
        let message = load(folder.path(), Cifar::Ten).unwrap_err().to_string();
        assert!(message.ends_with("lacks data_batch_3.bin") && message.contains("CIFAR-10 not found"), "{message}");
        assert_eq!(detect(folder.path()), None);
        let nowhere = load(Path::new("no/such/folder"), Cifar::Hundred).unwrap_err().to_string();
        assert!(nowhere.starts_with("no/such/folder: CIFAR-100 not found"), "{nowhere}");
    }

    #[test]
    fn other_versions_are_named_with_the_way_out() {
        for which in [Cifar::Ten, Cifar::Hundred] {
            for (version, below, file) in which.others() {
                for place in ["", below] {
                    let folder = Folder::new();
                    folder.write(Path::new(place).join(file), b"");
                    let message = load(folder.path(), which).unwrap_err().to_string();
                    let wanted = format!("version for {version}, which is not read: the binary version is cifar-10");
                    assert!(message.contains(&wanted) && message.ends_with("-binary.tar.gz"), "{message}");
                    assert_eq!(detect(folder.path()), None);
                }
            }
            // The same under the names of the binary version.
            for start in [&b"\x80\x02}q\x01("[..], b"\x80\x04\x95", b"(dp1\nS'data'"] {
                let folder = Folder::new();
                write_all(&folder, "", which);
                let mut bytes = records(3, which);
                bytes[..start.len()].copy_from_slice(start);
                folder.write(which.files().0[0], &bytes);
                let message = load(folder.path(), which).unwrap_err().to_string();
                assert!(message.contains("at byte 0: a pickle of Python's, which is not read"), "{message}");
            }
        }
    }

    #[test]
    fn damage_is_named_with_its_place() {
        for (change, offset, wanted) in [
            (
                Box::new(|b: &mut Vec<u8>| b.truncate(3073 + 9)) as Box<dyn Fn(&mut Vec<u8>)>,
                3073,
                "truncated: 3082 bytes",
            ),
            (Box::new(|b: &mut Vec<u8>| b.clear()), 0, "there are 0 bytes"),
            (Box::new(|b: &mut Vec<u8>| b.push(1)), 4 * 3073, "4 records of 3073 bytes and a part"),
            (Box::new(|b: &mut Vec<u8>| b[2 * 3073] = 10), 2 * 3073, "label 10 of record 2 is not below 10"),
        ] {
            let folder = Folder::new();
            write_all(&folder, "", Cifar::Ten);
            let path = folder.path().join("data_batch_3.bin");
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
            match load(folder.path(), Cifar::Ten).unwrap_err() {
                Error::Corrupt { path: at, offset: place, message } => {
                    assert!(message.contains(wanted), "{message}");
                    assert_eq!((at, place), (path, offset), "{message}");
                }
                other => panic!("{other:?} instead of {wanted}"),
            }
        }
    }

    #[test]
    fn fine_labels_count_and_coarse_ones_do_not() {
        let folder = Folder::new();
        write_all(&folder, "", Cifar::Hundred);
        let mut bytes = records(2, Cifar::Hundred);
        (bytes[0], bytes[1]) = (200, 99);
        folder.write("test.bin", &bytes);
        assert_eq!(load(folder.path(), Cifar::Hundred).unwrap().test.labels(), [99, 1]);
        bytes[1] = 100;
        folder.write("test.bin", &bytes);
        let message = load(folder.path(), Cifar::Hundred).unwrap_err().to_string();
        assert!(message.contains("at byte 1: label 100 of record 0"), "{message}");
    }
}
