use super::{
    super::tests::{assert_near_formula, encoded, fixture, message, parse, picture},
    *,
};
use ::image::ImageFormat;

const FIXTURES: [(&str, u8); 6] = [
    ("progressive.jpg", 9),
    ("restarts.jpg", 9),
    ("progressive-restarts.jpg", 9),
    ("optimised.jpg", 9),
    ("grey.jpg", 255),
    ("cmyk.jpg", 255),
];

/// Where the data of each scan begins and ends.
fn scans(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut file = File { bytes, at: 0, tables: Default::default(), interval: 0, frame: None };
    let mut found = Vec::new();
    loop {
        let marker = file.marker().unwrap();
        if marker == EOI {
            return found;
        }
        file.segment().unwrap();
        if marker == SOS {
            let start = file.at;
            file.marker().unwrap();
            file.at -= 2;
            found.push((start, file.at));
        }
    }
}

/// An image of `[width, height]` whose blocks are all grey, in two bits each: a scan for each list of components.
fn plain(sof: u8, size: [u16; 2], sampling: &[[u8; 2]], scans: &[(&[u8], &[u8], Vec<u8>)]) -> Vec<u8> {
    let segment = |marker: u8, content: &[u8]| {
        let length = content.len() as u16 + 2;
        [&[0xff, marker][..], &length.to_be_bytes(), content].concat()
    };
    let mut bytes = vec![0xff, SOI];
    bytes.extend(segment(0xdb, &[&[0][..], &[1; 64]].concat()));
    // One code of one bit, 0: no difference, and the end of the block.
    let table = |class: u8| [&[class << 4][..], &[1], &[0; 15], &[0]].concat();
    bytes.extend(segment(DHT, &table(0)));
    bytes.extend(segment(DHT, &table(1)));
    let mut frame = vec![8];
    frame.extend(size[1].to_be_bytes());
    frame.extend(size[0].to_be_bytes());
    frame.push(sampling.len() as u8);
    for (id, [h, v]) in (1..).zip(sampling) {
        frame.extend([id, h << 4 | v, 0]);
    }
    bytes.extend(segment(sof, &frame));
    for (components, band, data) in scans {
        let mut header = vec![components.len() as u8];
        components.iter().for_each(|&id| header.extend([id, 0]));
        header.extend(*band);
        bytes.extend(segment(SOS, &header));
        bytes.extend(data);
    }
    bytes.extend([0xff, EOI]);
    bytes
}

/// So many bits of 0, filled up with ones.
fn zeros(bits: usize) -> Vec<u8> {
    let mut bytes = vec![0; bits.div_ceil(8)];
    if !bits.is_multiple_of(8) {
        *bytes.last_mut().unwrap() = (1 << (8 - bits % 8)) - 1;
    }
    bytes
}

#[test]
fn files_of_other_encoders_are_whole() {
    for (name, most) in FIXTURES {
        let image = parse(&fixture(name)).unwrap();
        assert_eq!(image.extents(), [3, 38, 45], "{name}");
        assert_near_formula(&image, most);
    }
}

/// The decoder fills up with grey; so a scan that is cut short and properly ended must not reach it.
#[test]
fn a_scan_that_ends_early_is_an_error_wherever_it_ends() {
    let encoded = encoded(&picture(45, 38).into(), ImageFormat::Jpeg);
    for bytes in FIXTURES.iter().map(|(name, _)| fixture(name)).chain([encoded]) {
        let scans = scans(&bytes);
        for (start, end) in scans {
            for cut in start..end {
                let short = [&bytes[..cut], &[0xff, EOI]].concat();
                let message = message(parse(&short));
                assert!(
                    message.contains("the scan ends") || message.contains("restart") || message.contains("no scan of"),
                    "{cut} of {start}..{end}: {message}"
                );
                // The same with all that followed the scan.
                let gap = [&bytes[..cut], &bytes[end..]].concat();
                assert!(parse(&gap).is_err(), "{cut} of {start}..{end}");
            }
        }
    }
}

/// 4 KB that claim 9000×9000 took 467 MiB.
#[test]
fn a_size_without_the_bits_for_it_is_refused_first() {
    for name in ["progressive.jpg", "restarts.jpg", "optimised.jpg", "grey.jpg"] {
        let mut bytes = fixture(name);
        let frame = bytes.windows(2).position(|w| w[0] == 0xff && (0xc0..=0xc2).contains(&w[1])).unwrap();
        for (height, width, wanted) in [
            (8191u16, 8191u16, "truncated"),
            (39, 46, ""),
            (54, 45, "truncated"),
            (9000, 9000, "at most"),
            (0, 45, "0x45"),
        ] {
            bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
            bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
            let before = std::time::Instant::now();
            match parse(&bytes) {
                // Within the blocks that are there.
                Ok(image) => assert_eq!((image.extents(), wanted), ([3, 39, 46], ""), "{name}"),
                Err(error) => assert!(error.to_string().contains(wanted) && !wanted.is_empty(), "{name}: {error}"),
            }
            assert!(before.elapsed().as_secs() < 5);
        }
    }
}

#[test]
fn restart_markers_are_counted() {
    let bytes = fixture("restarts.jpg");
    let markers: Vec<usize> = bytes
        .windows(2)
        .enumerate()
        .filter(|(_, w)| w[0] == 0xff && (0xd0..=0xd7).contains(&w[1]))
        .map(|(at, _)| at)
        .collect();
    assert!(markers.len() > 3);
    // Without the part between two of them, with two exchanged, and with one missing.
    let lost = [&bytes[..markers[1]], &bytes[markers[2]..]].concat();
    assert_eq!(message(parse(&lost)), "restart marker 2, expected 1");
    let mut exchanged = bytes.clone();
    exchanged[markers[0] + 1] = 0xd3;
    assert_eq!(message(parse(&exchanged)), "restart marker 3, expected 0");
    let joined = [&bytes[..markers[2]], &bytes[markers[2] + 2..]].concat();
    assert!(message(parse(&joined)).contains("restart marker 3, expected 2"));
    // One more at the end does no harm.
    let end = scans(&bytes)[0].1;
    let more = [&bytes[..end], &[0xff, 0xd0 + (markers.len() % 8) as u8], &bytes[end..]].concat();
    assert_eq!(parse(&more).unwrap(), parse(&bytes).unwrap());
}

#[test]
fn every_layout_of_blocks_is_counted() {
    let band = &[0, 63, 0][..];
    // 35×20: 5×3 blocks, or 3×2 units of 16×16.
    for (sof, sampling, parts) in [
        (0xc0, &[[1, 1]][..], vec![(&[1][..], 15 * 2)]),
        // One component by itself has no units, whatever its factors.
        (0xc1, &[[2, 2]], vec![(&[1], 15 * 2)]),
        (0xc0, &[[1, 1], [1, 1], [1, 1]], vec![(&[1, 2, 3], 15 * 3 * 2)]),
        (0xc0, &[[2, 2], [1, 1], [1, 1]], vec![(&[1, 2, 3], 6 * 6 * 2)]),
        (0xc0, &[[2, 1], [1, 1], [1, 1]], vec![(&[1, 2, 3], 9 * 4 * 2)]),
        (0xc0, &[[1, 1], [1, 1], [1, 1]], vec![(&[1], 15 * 2), (&[2], 15 * 2), (&[3], 15 * 2)]),
        (0xc0, &[[2, 2], [1, 1], [1, 1]], vec![(&[1], 15 * 2), (&[2, 3], 6 * 2 * 2)]),
    ] {
        let file = |less: usize| {
            let last = parts.len() - 1;
            let data = |i: usize, bits: usize| if i == last { zeros(bits - less) } else { zeros(bits) };
            let scans: Vec<_> = parts.iter().enumerate().map(|(i, &(ids, bits))| (ids, band, data(i, bits))).collect();
            plain(sof, [35, 20], sampling, &scans)
        };
        assert_eq!(check(&file(0)), Ok((Size { width: 35, height: 20 }, sampling.len())), "{sampling:?}");
        // What fills up the last byte is ones, which are no code.
        assert!(check(&file(1)).is_err() && check(&file(8)).is_err() && check(&file(20)).is_err(), "{sampling:?}");
    }
    let missing = plain(0xc0, [35, 20], &[[1, 1]; 3], &[(&[1], band, zeros(30)), (&[3], band, zeros(30))]);
    assert_eq!(check(&missing).unwrap_err().1, "truncated: no scan of component 2");
}

#[test]
fn progressive_scans_are_counted() {
    let means = |bits| (&[1u8][..], &[0u8, 0, 0x01][..], zeros(bits));
    let (refined, band) = (&[0, 0, 0x10][..], &[1, 63, 0][..]);
    let file = |scans: &[(&[u8], &[u8], Vec<u8>)]| check(&plain(0xc2, [35, 20], &[[1, 1]], scans));
    assert!(file(&[means(15)]).is_ok());
    assert!(file(&[means(15), (&[1], refined, zeros(15))]).is_ok());
    assert!(file(&[means(15), (&[1], refined, zeros(15)), (&[1], band, zeros(15))]).is_ok());
    assert!(file(&[means(15), (&[1], refined, zeros(8))]).is_err());
    assert!(file(&[means(15), (&[1], band, zeros(8))]).is_err());
    assert_eq!(file(&[(&[1], band, zeros(15))]).unwrap_err().1, "truncated: no scan of component 1");
    for wrong in [&[0, 5, 0][..], &[5, 4, 0], &[1, 64, 0], &[1, 63, 0x20]] {
        assert!(file(&[means(15), (&[1], wrong, zeros(600))]).is_err(), "{wrong:?}");
    }
    let many: Vec<_> = (0..101).map(|_| means(15)).collect();
    assert_eq!(file(&many).unwrap_err().1, "more than 100 scans");
}

#[test]
fn kinds_that_are_not_read_are_named() {
    for (sof, wanted) in [(0xc3, "lossless"), (0xc9, "arithmetic"), (0xca, "arithmetic")] {
        let message = check(&plain(sof, [8, 8], &[[1, 1]], &[])).unwrap_err().1;
        assert!(message.contains(wanted), "{message}");
    }
    let mut twelve = plain(0xc1, [8, 8], &[[1, 1]], &[(&[1], &[0, 63, 0], zeros(2))]);
    let frame = twelve.windows(2).position(|w| w == [0xff, 0xc1]).unwrap();
    twelve[frame + 4] = 12;
    assert_eq!(check(&twelve).unwrap_err().1, "12 bits a sample, 8 are read");
    assert_eq!(check(b"\xff\xd8\xff\xd9").unwrap_err().1, "no image in the JPEG file");
}

#[test]
fn the_end_of_a_jpeg_is_not_that_of_its_thumbnail() {
    let jpeg = encoded(&picture(19, 12).into(), ImageFormat::Jpeg);
    // An application segment that holds a whole small JPEG.
    let inner = encoded(&picture(3, 3).into(), ImageFormat::Jpeg);
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xff, 0xe1]);
    bytes.extend((inner.len() as u16 + 2).to_be_bytes());
    bytes.extend(&inner);
    bytes.extend(&jpeg[2..]);
    assert_eq!(parse(&bytes).unwrap(), parse(&jpeg).unwrap());
    let cut = &bytes[..bytes.len() - 2];
    assert_eq!(message(parse(cut)), "truncated: the JPEG image does not end");
    // What follows the end does not matter, nor do bytes that fill up before a marker.
    assert_eq!(parse(&[&bytes[..], b"and more"].concat()).unwrap(), parse(&jpeg).unwrap());
    let filled = [&jpeg[..jpeg.len() - 2], &[0xff, 0xff, 0xff], &jpeg[jpeg.len() - 1..]].concat();
    assert_eq!(parse(&filled).unwrap(), parse(&jpeg).unwrap());
}
