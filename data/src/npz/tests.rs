use super::*;
use crate::testing::Folder;
use flate2::{Compression, write::DeflateEncoder};
use std::io::Write;

/// The bytes of a `.npy` file, as NumPy writes them.
pub(crate) fn npy(of: &str, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let extents: Vec<String> = shape.iter().map(|extent| format!("{extent},")).collect();
    let mut header = format!("{{'descr': '{of}', 'fortran_order': False, 'shape': ({}), }}", extents.join(" "));
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    [b"\x93NUMPY\x01\0", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A zip file of these members, every other one deflated.
pub(crate) fn zip(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (i, (name, content)) in members.iter().enumerate() {
        let name = format!("{name}.npy");
        let mut checksum = Crc::new();
        checksum.update(content);
        let (method, data) = if i % 2 == 0 {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(content).unwrap();
            (8u16, encoder.finish().unwrap())
        } else {
            (0, content.clone())
        };
        let numbers = [checksum.sum(), data.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let common = [&20u16.to_le_bytes()[..], &[0, 0], &method.to_le_bytes(), &[0; 4], &numbers].concat();
        let length = (name.len() as u16).to_le_bytes();
        directory.extend(
            [b"PK\x01\x02\x14\0", &common[..], &length, &[0; 12], &(file.len() as u32).to_le_bytes(), name.as_bytes()]
                .concat(),
        );
        file.extend([b"PK\x03\x04", &common[..], &length, &[0; 2], name.as_bytes(), &data].concat());
    }
    let (count, start) = ((members.len() as u16).to_le_bytes(), (file.len() as u32).to_le_bytes());
    let size = (directory.len() as u32).to_le_bytes();
    [&file[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &size, &start, &[0, 0]].concat()
}

fn sound() -> Vec<u8> {
    let floats: Vec<u8> = [1.5f32, -2.0, 0.25].iter().flat_map(|value| value.to_le_bytes()).collect();
    let big: Vec<u8> = [-3i64, 70_000].iter().flat_map(|value| value.to_be_bytes()).collect();
    zip(&[
        ("bytes", npy("|u1", &[50, 4], &[7; 200])),
        ("floats", npy("<f4", &[3], &floats)),
        ("big", npy(">i8", &[2, 1], &big)),
        ("scalar", npy("|b1", &[], &[1])),
    ])
}

fn numbers(path: &Path, name: &str) -> Result<Vec<f64>> {
    Ok(Npz::open(path)?.array(name)?.map_or(vec![], |array| array.numbers().collect()))
}

#[test]
fn arrays_of_several_types_are_read() {
    let folder = Folder::new();
    let path = folder.write("a.npz", &sound());
    assert_eq!(Npz::open(&path).unwrap().names().collect::<Vec<_>>(), ["bytes", "floats", "big", "scalar"]);
    let bytes = Npz::open(&path).unwrap().array("bytes").unwrap().unwrap();
    assert_eq!((bytes.shape(), bytes.clone().into_bytes()), (&[50, 4][..], Some(vec![7; 200])));
    assert_eq!(numbers(&path, "floats").unwrap(), [1.5, -2.0, 0.25]);
    assert_eq!(numbers(&path, "big").unwrap(), [-3.0, 70_000.0]);
    assert_eq!(numbers(&path, "scalar").unwrap(), [1.0]);
    assert!(Npz::open(&path).unwrap().array("none").unwrap().is_none());
}

/// Whatever a file says, reading it ends with arrays or with an error that names it.
#[test]
fn damage_is_an_error_that_names_the_file() {
    let folder = Folder::new();
    let sound = sound();
    let read_all = |bytes: &[u8]| -> Result<Vec<Vec<f64>>> {
        let path = folder.write("damaged.npz", bytes);
        let mut npz = Npz::open(&path)?;
        let names: Vec<String> = npz.names().map(str::to_string).collect();
        names.iter().map(|name| Ok(npz.array(name)?.expect("it is listed").numbers().collect())).collect()
    };
    let expected = read_all(&sound).unwrap();
    for at in 0..sound.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = sound.clone();
            bytes[at] ^= change;
            match read_all(&bytes) {
                // In times, names and versions that nobody reads.
                Ok(arrays) => assert!(arrays.iter().all(|array| expected.contains(array)), "byte {at}"),
                Err(error) => assert!(error.to_string().contains("damaged.npz"), "byte {at}: {error}"),
            }
        }
        assert!(read_all(&sound[..at]).is_err(), "cut off at {at}");
    }
}

#[test]
fn what_a_file_cannot_hold_is_refused_before_it_is_read() {
    let folder = Folder::new();
    let refused = |bytes: &[u8], expected: &str| {
        let path = folder.write("x.npz", bytes);
        let error = numbers(&path, "a").unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    // Announced with 1 GiB.
    let mut bomb = zip(&[("a", npy("|u1", &[4], &[1; 4]))]);
    let at = bomb.windows(4).rposition(|window| window == b"PK\x01\x02").unwrap() + 24;
    bomb[at..at + 4].copy_from_slice(&(1u32 << 30).to_le_bytes());
    refused(&bomb, "a: 1073741824 bytes cannot be made of");
    for (content, expected) in [
        (npy("|u1", &[5], &[1; 4]), "a: 4 bytes are not an array of [5], 1 bytes each"),
        (npy("|u1", &[usize::MAX, 9], &[1; 4]), "4 bytes are not an array of"),
        (npy("|O", &[1], &[1; 4]), "its type is |O"),
        (npy("<f2", &[2], &[1; 4]), "its type is <f2"),
        (b"\x93NUMPY\x09\0\0\0\0\0\0".to_vec(), "version 9"),
        (b"no array at all".to_vec(), "no array of NumPy"),
    ] {
        refused(&zip(&[("a", content)]), expected);
    }
    refused(b"", "it has no directory at its end");
    let twice = npy("|u1", &[1], &[1]);
    refused(&zip(&[("a", twice.clone()), ("a", twice)]), "a.npy is there twice");
}
