//! Flowers-102 (Nilsback and Zisserman 2008): photographs `jpg/image_00001.jpg` and so on, their classes in
//! `imagelabels.mat`, and the parts of the data set in `setid.mat`.

use crate::{ImageFolder, mat5};
use quarterturn_core::{Error, Result};
use std::path::{Path, PathBuf};

/// Flowers of so many kinds.
const CLASSES: usize = 102;
/// Where the files may lie below the folder that a user names; torchvision puts them in `flowers-102`.
const FOLDERS: [&str; 2] = ["", "flowers-102"];

/// The official parts.
#[derive(Clone, Debug)]
pub struct Parts {
    /// 1,020 images, ten of each class (`trnid`).
    pub train: ImageFolder,
    /// 1,020 images, ten of each class (`valid`).
    pub validation: ImageFolder,
    /// Both of them, 2,040 images: what the experiments of Edixhoven et al. 2023 train on.
    pub train_and_validation: ImageFolder,
    /// 6,149 images (`tstid`).
    pub test: ImageFolder,
}

/// Reads the two lists from `folder` or `folder/flowers-102`, and makes sure that every image they name is there.
/// Classes 1 to 102 of the files are labels 0 to 101.
///
/// # Errors
/// [`Error::Io`] if a file is missing, [`Error::Corrupt`] if a list is damaged, lacks a variable, or names an image
/// without a class or a class that is none.
pub fn load(folder: &Path) -> Result<Parts> {
    let places = FOLDERS.map(|below| if below.is_empty() { folder.to_path_buf() } else { folder.join(below) });
    let Some(root) = places.iter().find(|place| place.join("setid.mat").is_file()) else {
        let message = "Flowers-102 not found here or in flowers-102: no setid.mat".into();
        return Err(Error::Io { path: folder.into(), message });
    };
    let labels = list(&root.join("imagelabels.mat"), "labels", CLASSES)?;
    let part = |name: &str, variables: &[&str]| {
        let mut files = Vec::new();
        for variable in variables {
            for image in list(&root.join("setid.mat"), variable, labels.len())? {
                let file = PathBuf::from(format!("jpg/image_{image:05}.jpg"));
                if !root.join(&file).is_file() {
                    let message = format!("missing, but among the images of {variable} in setid.mat");
                    return Err(Error::Io { path: root.join(file), message });
                }
                files.push((file.into_boxed_path(), labels[image as usize - 1] - 1));
            }
        }
        let classes = (1..=CLASSES).map(|class| format!("flower {class}")).collect();
        ImageFolder::with_files(format!("Flowers-102 {name}"), root.clone(), classes, files)
    };
    Ok(Parts {
        train: part("train", &["trnid"])?,
        validation: part("val", &["valid"])?,
        train_and_validation: part("train + val", &["trnid", "valid"])?,
        test: part("test", &["tstid"])?,
    })
}

/// The whole numbers 1 to `most` of a variable.
fn list(path: &Path, variable: &str, most: usize) -> Result<Vec<u32>> {
    let matrices = mat5::read(path)?;
    let corrupt = |offset, message| Error::Corrupt { path: path.into(), offset, message };
    let found = matrices.iter().find(|matrix| matrix.name == variable);
    let matrix = found.ok_or_else(|| corrupt(0, format!("no numeric matrix {variable} in it")))?;
    let number = |(i, &value): (usize, &f64)| {
        let whole = value.fract() == 0.0 && (1.0..=most as f64).contains(&value);
        let message = || format!("entry {i} of {variable} is {value}, not one of 1 to {most}");
        whole.then_some(value as u32).ok_or_else(|| corrupt(matrix.offset, message()))
    };
    matrix.values.iter().enumerate().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Samples,
        mat5::tests::{file, matrix},
        testing::Folder,
    };
    use image::{Rgb, RgbImage};

    /// Six images of classes 5, 5, 102, 1, 1, 7; image i has the colour i.
    fn write_all(below: &str) -> Folder {
        let folder = Folder::new();
        let place = Path::new(below);
        folder.write(place.join("imagelabels.mat"), &file(&[matrix("labels", &[5, 5, 102, 1, 1, 7], false)], false));
        let parts = [("trnid", &[3, 1][..]), ("valid", &[6]), ("tstid", &[2, 4, 5])];
        folder.write(place.join("setid.mat"), &file(&parts.map(|(name, ids)| matrix(name, ids, false)), false));
        for i in 1..=6 {
            let path = folder.write(place.join(format!("jpg/image_{i:05}.jpg")), b"");
            RgbImage::from_pixel(8, 8, Rgb([10 * i; 3])).save(path).unwrap();
        }
        folder
    }

    #[test]
    fn the_parts_are_those_of_the_lists() {
        for below in FOLDERS {
            let folder = write_all(below);
            let parts = load(folder.path()).unwrap();
            let labels = |part: &ImageFolder| (0..part.len()).map(|i| part.label(i)).collect::<Vec<_>>();
            assert_eq!((labels(&parts.train), labels(&parts.validation)), (vec![101, 4], vec![6]));
            assert_eq!((labels(&parts.train_and_validation), labels(&parts.test)), (vec![101, 4, 6], vec![4, 0, 0]));
            assert_eq!((parts.test.classes(), parts.test.name()), (102, "Flowers-102 test"));
            assert!(parts.train.path(0).ends_with("jpg/image_00003.jpg"));
            assert!(parts.train.decode(0).unwrap().pixels()[0].abs_diff(30) < 3);
        }
    }

    #[test]
    fn what_is_missing_or_does_not_fit_is_named() {
        let fails = |folder: &Folder, wanted: &str| {
            let message = load(folder.path()).unwrap_err().to_string();
            assert!(message.contains(wanted), "{message} does not say {wanted}");
        };
        fails(&Folder::new(), "Flowers-102 not found");
        let folder = write_all("");
        std::fs::remove_file(folder.path().join("jpg/image_00004.jpg")).unwrap();
        fails(&folder, "image_00004.jpg: missing, but among the images of tstid");
        folder.write("setid.mat", &file(&[matrix("trnid", &[1, 7], false)], false));
        fails(&folder, "setid.mat: at byte 128: entry 1 of trnid is 7, not one of 1 to 6");
        folder.write("setid.mat", &file(&[matrix("trnid", &[1], false)], false));
        fails(&folder, "no numeric matrix valid in it");
        folder.write("imagelabels.mat", &file(&[matrix("labels", &[0], false)], false));
        fails(&folder, "imagelabels.mat: at byte 128: entry 0 of labels is 0, not one of 1 to 102");
        std::fs::remove_file(folder.path().join("imagelabels.mat")).unwrap();
        fails(&folder, "imagelabels.mat: ");
    }
}
