//! What must hold for any bytes: each function gives them to one reader, and checks what it makes of them. The fuzz targets in
//! `fuzz/` call these functions, and `corpus.rs` does with the inputs that they began with or found.
#![allow(dead_code, reason = "not everybody who includes this file calls all of it")]

use flate2::Crc;
use quarterturn_data::{
    Samples, amat, cifar, idx,
    image_file::{self, MAX_PIXELS},
    mat5, medmnist,
    pcam::Pcam,
};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    process,
    sync::LazyLock,
    thread,
};

/// A reader, by name.
pub type Reader = (&'static str, fn(&[u8]));

/// All of them; the names are those of the fuzz targets.
pub const ALL: [Reader; 8] = [
    ("amat", amat),
    ("cifar", cifar),
    ("gzip", gzip),
    ("hdf5", hdf5),
    ("idx", idx),
    ("image", image),
    ("matlab", mat5),
    ("npz", npz),
];

/// An array agrees with its own header, and nothing of the file is left.
pub fn idx(bytes: &[u8]) {
    for rank in [1, 3] {
        if let Ok(array) = idx::parse(bytes, Path::new("x"), rank) {
            assert_eq!(array.extents.len(), usize::from(rank));
            assert_eq!(array.extents.iter().product::<usize>(), array.elements.len());
            if !bytes.starts_with(&[0x1f, 0x8b]) {
                assert_eq!(array.elements, bytes[array.data_offset as usize..]);
            }
        }
    }
}

/// However a file is cut into members, it holds the same. The first byte says how, the others are the content; the bytes as
/// they are may be anything.
pub fn gzip(bytes: &[u8]) {
    idx(bytes);
    let Some((&cut, content)) = bytes.split_first() else { return };
    let size = usize::from(cut % 16) + 1;
    let mut file: Vec<u8> = content.chunks(size.max(content.len() / 16 + 1)).flat_map(member).collect();
    if cut & 16 > 0 || content.is_empty() {
        file.extend(member(&[]));
    }
    if cut & 32 > 0 {
        file.resize(file.len() + size, 0);
    }
    let parse = |bytes: &[u8]| idx::parse(bytes, Path::new("x"), 1 + 2 * (cut >> 7)).ok();
    if !content.starts_with(&[0x1f, 0x8b]) {
        assert_eq!(parse(&file), parse(content));
    }
}

/// A member of a gzip file (RFC 1952) in stored blocks: to set up a compressor takes longer than all the rest.
fn member(content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let mut rest = content;
    loop {
        let (block, behind) = rest.split_at(rest.len().min(usize::from(u16::MAX)));
        let length = block.len() as u16;
        bytes.push(behind.is_empty().into());
        bytes.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        bytes.extend(block);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    let mut crc = Crc::new();
    crc.update(content);
    bytes.extend([crc.sum().to_le_bytes(), (content.len() as u32).to_le_bytes()].concat());
    bytes
}

/// Every byte of a file is a label or a pixel. The other files are sound.
pub fn cifar(bytes: &[u8]) {
    static RECORD: [u8; 3074] = [1; 3074];
    let folder = folder();
    for which in [cifar::Cifar::Ten, cifar::Cifar::Hundred] {
        let (train, test, record): (&[&str], _, _) = match which {
            cifar::Cifar::Ten => (
                &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
                "test_batch.bin",
                3073,
            ),
            cifar::Cifar::Hundred => (&["train.bin"], "test.bin", 3074),
        };
        for name in train.iter().map(|name| folder.join(name)).filter(|path| !path.exists()) {
            fs::write(name, &RECORD[..record]).unwrap();
        }
        fs::write(folder.join(test), bytes).unwrap();
        if let Ok(parts) = cifar::load(&folder, which) {
            assert_eq!(parts.test.len() * record, bytes.len());
            assert!(parts.test.labels().iter().all(|&label| usize::from(label) < parts.test.classes()));
        }
    }
}

/// Matrices agree with their extents and have names of their own; all together are within the limits.
pub fn mat5(bytes: &[u8]) {
    let Ok(matrices) = mat5::parse(bytes, Path::new("x")) else { return };
    for matrix in &matrices {
        assert_eq!(matrix.extents.iter().product::<usize>(), matrix.values.len());
        assert!(matrix.offset < bytes.len() as u64);
    }
    assert!(matrices.iter().map(|matrix| matrix.values.len()).sum::<usize>() <= 1 << 21);
    assert_eq!(matrices.iter().map(|matrix| &matrix.name).collect::<HashSet<_>>().len(), matrices.len());
}

/// Rows of text: a byte of memory for each pixel.
pub fn amat(bytes: &[u8]) {
    let file = folder().join("changed.amat");
    fs::write(&file, bytes).unwrap();
    if let Ok(digits) = amat::load(&file) {
        assert!(digits.labels().iter().all(|&label| usize::from(label) < digits.classes()));
        assert!((0..digits.len()).map(|index| digits.image(index).len()).sum::<usize>() <= bytes.len());
    }
}

/// An archive in MedMNIST's form: images and targets can be read.
pub fn npz(bytes: &[u8]) {
    let file = folder().join("changed.npz");
    fs::write(&file, bytes).unwrap();
    let Ok(parts) = medmnist::load(&file) else { return };
    for part in [Some(parts.train), parts.validation, parts.test].into_iter().flatten() {
        for index in 0..part.len().min(100) {
            part.target(index).unwrap();
            part.decode(index).unwrap();
        }
    }
}

/// As images and as labels: what can be opened can be read.
pub fn hdf5(bytes: &[u8]) {
    static IMAGES: &[u8] = include_bytes!("../fixtures/extensible.h5");
    static LABELS: &[u8] = include_bytes!("../fixtures/five-labels.h5");
    let folder = folder();
    let [changed, images, labels] = ["changed.h5", "images.h5", "labels.h5"].map(|name| folder.join(name));
    fs::write(&changed, bytes).unwrap();
    for (path, content) in [(&images, IMAGES), (&labels, LABELS)] {
        if !path.exists() {
            fs::write(path, content).unwrap();
        }
    }
    for (images, labels) in [(&changed, &labels), (&images, &changed)] {
        let Ok(part) = Pcam::open("x", images, labels) else { continue };
        for index in 0..part.len() {
            assert!(part.label(index) < 2);
            // Damaged pixels are an error, of that image.
            if let Ok(image) = part.decode(index) {
                assert_eq!(image.extents()[0], 3);
            }
        }
    }
}

/// An image is within the limits.
pub fn image(bytes: &[u8]) {
    if let Ok(image) = image_file::decode(bytes, Path::new("x")) {
        let [channels, height, width] = image.extents();
        assert!(channels == 3 && height * width <= MAX_PIXELS && image.pixels().len() == 3 * height * width);
    }
}

/// A folder for the files of this thread, made once.
fn folder() -> PathBuf {
    let folder = ROOT.join(format!("{:?}", thread::current().id()).replace(['(', ')'], "-"));
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// In memory, where the system has such a place.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    place.join(format!("quarterturn-readers-{}", process::id()))
});

/// Removes the files of all threads.
pub fn clean_up() {
    let _ = fs::remove_dir_all(&*ROOT);
}
