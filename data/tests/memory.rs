//! How much memory a small file can take. A process of its own, since what is looked at is the process's peak.
#![cfg(all(feature = "images", target_os = "linux"))]

use flate2::{Compression, Crc, write::ZlibEncoder};
use quarterturn_data::image_file;
use std::{fs, io::Write, path::Path};

/// The most that the process has held, in MiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
}

fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(content);
    [&(content.len() as u32).to_be_bytes()[..], kind, content, &crc.sum().to_be_bytes()].concat()
}

/// 256 KB that unpack to 250 MiB took those for a picture of one pixel.
#[test]
fn a_profile_of_colours_is_no_larger_than_it_may_be() {
    let packed = |bytes: usize| {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        (0..bytes >> 16).for_each(|_| encoder.write_all(&[0; 1 << 16]).unwrap());
        encoder.write_all(&vec![0; bytes & 0xffff]).unwrap();
        encoder.finish().unwrap()
    };
    let header = chunk(b"IHDR", &[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]);
    let profile = chunk(b"iCCP", &[&b"x\0\0"[..], &packed(250 << 20)].concat());
    let pixel = chunk(b"IDAT", &packed(4));
    let file = [&b"\x89PNG\r\n\x1a\n"[..], &header, &profile, &pixel, &chunk(b"IEND", &[])].concat();
    let before = peak();
    assert_eq!(image_file::decode(&file, Path::new("x.png")).unwrap().pixels(), [0; 3]);
    assert!(peak() < before + 30, "{before} MiB, then {}", peak());
}
