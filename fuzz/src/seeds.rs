//! Sound inputs of each target, made here: small, and as the formats' own writers would make them where there is one.

use flate2::{Compression, write::GzEncoder};
use image::{DynamicImage, ImageFormat};
use quarterturn::{
    core::Device,
    kernels::Group,
    models::{Init, MnistCnn, MnistCnnConfig, Network, UNetConfig, checkpoint, export::Plain, unet},
};
use std::{
    fs,
    io::{Cursor, Write},
};

/// Two 2×2 images and two labels, plain and packed.
pub fn idx() -> Vec<Vec<u8>> {
    let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[0, 1, 2, 3, 4, 5, 6, 255]].concat();
    let labels = vec![0, 0, 8, 1, 0, 0, 0, 2, 3, 9];
    let packed = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let (first, second) = images.split_at(7);
    let members = [packed(first), packed(second)].concat();
    vec![packed(&images), packed(&labels), members, images, labels]
}

/// One record.
pub fn cifar() -> Vec<Vec<u8>> {
    vec![[&[3][..], &[127; 3072]].concat()]
}

/// A matrix of two numbers, as MATLAB 5 writes it.
pub fn matlab() -> Vec<Vec<u8>> {
    let mut file = vec![b' '; 124];
    file[..19].copy_from_slice(b"MATLAB 5.0 MAT-file");
    file.extend([0x00, 0x01, b'I', b'M']);
    let mut matrix = Vec::new();
    let mut element = |kind: u32, bytes: &[u8]| {
        matrix.extend(kind.to_le_bytes());
        matrix.extend((bytes.len() as u32).to_le_bytes());
        matrix.extend(bytes);
        matrix.resize(matrix.len().next_multiple_of(8), 0);
    };
    element(6, &[6, 0, 0, 0, 0, 0, 0, 0]);
    element(5, &[1, 0, 0, 0, 2, 0, 0, 0]);
    element(1, b"labels");
    element(9, &[1.0f64, 2.0].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>());
    file.extend(14u32.to_le_bytes());
    file.extend((matrix.len() as u32).to_le_bytes());
    file.extend(matrix);
    vec![file]
}

/// How to cut into members, then labels and images.
pub fn gzip() -> Vec<Vec<u8>> {
    let cuts = [16 + 32 + 2, 16 + 32 + 2, 7, 128 + 7, 128 + 16];
    idx().into_iter().zip(cuts).map(|(file, cut)| [&[cut][..], &file].concat()).collect()
}

/// The files that the reader's own tests use: images, labels, and every kind of index.
pub fn hdf5() -> Vec<Vec<u8>> {
    fixtures("", |name| name.ends_with(".h5"))
}

/// Two parts in MedMNIST's form, as NumPy writes them.
pub fn npz() -> Vec<Vec<u8>> {
    fixtures("", |name| name.ends_with(".npz"))
}

/// Two rows of four pixels and a label.
pub fn amat() -> Vec<Vec<u8>> {
    vec![b"0 0.25 0.5 1 3\n1 1 0 0.125 7\n".to_vec(), b"   0.0000000e+00   1.0000000e+00   1   0   2\n".to_vec()]
}

/// Files of the reader's own tests, in the order of their names.
fn fixtures(folder: &str, wanted: fn(&str) -> bool) -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/tests/fixtures/").to_owned() + folder;
    let names = fs::read_dir(&folder).expect("the fixtures").map(|entry| entry.expect("a fixture").file_name());
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).filter(|name| wanted(name)).collect();
    names.sort();
    names.into_iter().map(|name| fs::read(format!("{folder}/{name}")).expect("a fixture")).collect()
}

/// A photograph's formats, grey and in colour, and the files of other libraries.
pub fn image() -> Vec<Vec<u8>> {
    let picture = DynamicImage::new_rgb8(9, 7);
    let grey = DynamicImage::new_luma8(8, 8);
    let formats = [
        (&picture, ImageFormat::Png),
        (&picture, ImageFormat::Jpeg),
        (&grey, ImageFormat::Png),
        (&grey, ImageFormat::Jpeg),
    ];
    let encoded = |(picture, format): (&DynamicImage, ImageFormat)| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).expect("memory");
        bytes.into_inner()
    };
    let mut seeds: Vec<Vec<u8>> = formats.into_iter().map(encoded).collect();
    seeds.extend(fixtures("images", |_| true));
    // A TIFF of one grey pixel: header, one value, a directory of eight entries.
    let mut tiff = b"II*\0\x08\0\0\0\x08\0".to_vec();
    for (tag, kind, value) in [
        (256u16, 3u16, 1u32),
        (257, 3, 1),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 4),
        (278, 3, 1),
        (279, 4, 1),
    ] {
        tiff.extend(tag.to_le_bytes());
        tiff.extend(kind.to_le_bytes());
        tiff.extend(1u32.to_le_bytes());
        tiff.extend(value.to_le_bytes());
    }
    tiff.extend([0; 4]);
    seeds.push(tiff);
    seeds
}

fn saved(network: &dyn Network) -> Vec<u8> {
    let path = crate::scratch("seeds").join("network.safetensors");
    checkpoint::save(&path, network).expect("a sound network");
    fs::read(&path).expect("the file was written")
}

fn small() -> [Box<dyn Network>; 2] {
    let config = MnistCnnConfig { width: 1, ..MnistCnnConfig::p4cnn() };
    let levels = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![1, 1] };
    [
        Box::new(MnistCnn::new(config, 1, &Device::Cpu).expect("settings in range")),
        Box::new(unet(&levels, Init::kaiming(1), &Device::Cpu).expect("settings in range")),
    ]
}

/// Networks, of an architecture with settings and of described layers.
pub fn safetensors() -> Vec<Vec<u8>> {
    small().map(|network| saved(&*network)).to_vec()
}

/// What those are made of.
pub fn description() -> Vec<Vec<u8>> {
    small().map(|network| network.description().to_string().into_bytes()).to_vec()
}

/// The same as models for other programs.
pub fn onnx() -> Vec<Vec<u8>> {
    let path = crate::scratch("seeds").join("network.onnx");
    let exported = |network: Box<dyn Network>| {
        let plain = Plain::of(&*network, Some([28, 28])).expect("layers that can be taken out");
        plain.save_onnx(&path, &checkpoint::Notes::new()).expect("a sound network");
        fs::read(&path).expect("the file was written")
    };
    small().map(exported).to_vec()
}

/// Changes of a sound state: none, of the metadata, of values and of names.
pub fn resume() -> Vec<Vec<u8>> {
    let _ = crate::resume::sound();
    vec![vec![], vec![0, 3, 8, 0], vec![3, 5, 3, 1], vec![4, 2, 1, 0, 2, 0, 5, 0], vec![5, 1, 3, 3]]
}
