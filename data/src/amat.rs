//! `.amat` text, the form of RotMNIST (Larochelle et al. 2007): a row for each image, its pixels from 0 to 1 and then its class.

use crate::Dataset;
use quarterturn_core::{Error, Result};
use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// The longest row, in bytes.
const MAX_ROW: usize = 1 << 20;
/// A pixel may be so much beyond 0 or 1, as rounding makes it.
const ROUNDING: f64 = 1e-3;

/// Reads the file at `path`: square images of one channel, rows from top to bottom. The largest label decides the
/// number of classes. Pixels become bytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`], naming the file, the row and its position, if a row is not as long as the first,
/// its pixels make no square, a pixel is not from 0 to 1, or a label is not a whole number from 0 to 255.
pub fn load(path: &Path) -> Result<Dataset> {
    let file = File::open(path).map_err(|e| Error::io(path, &e))?;
    let (mut reader, mut line) = (BufReader::new(file), Vec::new());
    let (mut pixels, mut labels, mut side, mut offset) = (Vec::new(), Vec::new(), None, 0);
    for number in 1.. {
        line.clear();
        let read = reader.by_ref().take(MAX_ROW as u64 + 1).read_until(b'\n', &mut line);
        let length = read.map_err(|e| Error::io(path, &e))?;
        if length == 0 {
            break;
        }
        let row = row(&line, &mut pixels, side);
        let refused =
            |message: String| Error::Corrupt { path: path.into(), offset, message: format!("row {number}: {message}") };
        if let Some((label, found)) = row.map_err(refused)? {
            labels.push(label);
            side = Some(found);
        }
        offset += length as u64;
    }
    let Some(side) = side else {
        return Err(Error::Corrupt { path: path.into(), offset: 0, message: "there is no row in it".into() });
    };
    let name = path.file_stem().map_or("amat".into(), |name| name.to_string_lossy().into_owned());
    let classes = labels.iter().copied().max().map_or(0, |label: u8| usize::from(label) + 1);
    Dataset::new(name, pixels, labels, [1, side, side], classes)
}

/// Adds a row's pixels, and gives its label and the side of its square; of an empty row, nothing.
fn row(line: &[u8], pixels: &mut Vec<u8>, side: Option<usize>) -> std::result::Result<Option<(u8, usize)>, String> {
    if line.len() > MAX_ROW {
        return Err(format!("it is longer than {MAX_ROW} bytes"));
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is no text".to_string())?;
    let before = pixels.len();
    // A pixel is only known for one when another number follows.
    let mut last: Option<f64> = None;
    for word in text.split_ascii_whitespace() {
        let number: f64 =
            word.parse().map_err(|_| format!("'{}' is no number", word.chars().take(40).collect::<String>()))?;
        if let Some(pixel) = last.replace(number) {
            if !(-ROUNDING..=1.0 + ROUNDING).contains(&pixel) {
                return Err(format!("pixel {} is {pixel}, expected 0 to 1", pixels.len() - before));
            }
            pixels.push((255.0 * pixel).round().clamp(0.0, 255.0) as u8);
        }
    }
    let Some(label) = last else { return Ok(None) };
    let count = pixels.len() - before;
    let found = count.isqrt();
    if count == 0 || found * found != count || side.is_some_and(|side| side != found) {
        let expected = side.map_or("a square".into(), |side| format!("{side}×{side}"));
        return Err(format!("{count} pixels and a label, expected {expected} of pixels"));
    }
    match label {
        label if (0.0..=255.0).contains(&label) && label.fract() == 0.0 => Ok(Some((label as u8, found))),
        label => Err(format!("label {label}, expected a whole number from 0 to 255")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    #[test]
    fn rows_are_images_and_classes() {
        let folder = Folder::new();
        // As the files of RotMNIST are written.
        let text = "   0.0000000e+00   5.0196078e-01 1.0 2.5e-1   6.0000000e+00\r\n0 0 0 1 3\n\n";
        let digits = load(&folder.write("train.amat", text.as_bytes())).unwrap();
        assert_eq!((digits.name(), digits.extents(), digits.classes()), ("train", [1, 2, 2], 7));
        assert_eq!((digits.pixels(), digits.labels()), (&[0, 128, 255, 64, 0, 0, 0, 255][..], &[6, 3][..]));
    }

    #[test]
    fn damage_is_named_by_file_and_row() {
        let folder = Folder::new();
        for (text, expected) in [
            ("", "there is no row in it"),
            ("0 0 0 1 3\n0 0 0 3\n", "at byte 10: row 2: 3 pixels and a label, expected 2×2 of pixels"),
            ("0 0 0 3", "row 1: 3 pixels and a label, expected a square"),
            ("4", "row 1: 0 pixels"),
            ("0 0 zero 1 3", "row 1: 'zero' is no number"),
            ("0 0 1.5 1 3", "row 1: pixel 2 is 1.5, expected 0 to 1"),
            ("0 0 nan 1 3", "row 1: pixel 2 is NaN"),
            ("0 0 0 1 -1", "row 1: label -1, expected"),
            ("0 0 0 1 2.5", "row 1: label 2.5"),
            ("0 0 0 1 256", "row 1: label 256"),
        ] {
            let error = load(&folder.write("x.amat", text.as_bytes())).unwrap_err().to_string();
            assert!(error.contains("x.amat") && error.contains(expected), "{error}");
        }
        let endless = vec![b'1'; MAX_ROW + 9];
        let error = load(&folder.write("x.amat", &endless)).unwrap_err().to_string();
        assert!(error.contains("row 1: it is longer than"), "{error}");
        assert!(
            load(&folder.write("x.amat", b"0 0 0 \xff 3")).unwrap_err().to_string().contains("row 1: it is no text")
        );
    }
}
