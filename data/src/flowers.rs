//! Flowers-102 (Nilsback and Zisserman 2008): photographs `jpg/image_00001.jpg` and so on, their classes in
//! `imagelabels.mat`, and the parts of the data set in `setid.mat`.

use crate::{
    ImageFolder,
    mat5::{self, Matrix},
};
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
/// without a class, a class that is none, or an image that is in a list already.
pub fn load(folder: &Path) -> Result<Parts> {
    let places = FOLDERS.map(|below| if below.is_empty() { folder.to_path_buf() } else { folder.join(below) });
    let Some(root) = places.iter().find(|place| place.join("setid.mat").is_file()) else {
        let message = "Flowers-102 not found here or in flowers-102: no setid.mat".into();
        return Err(Error::Io { path: folder.into(), message });
    };
    let (labels_file, parts_file) = (root.join("imagelabels.mat"), root.join("setid.mat"));
    let labels = list(&labels_file, &mat5::read(&labels_file)?, "labels", CLASSES)?;
    let lists = mat5::read(&parts_file)?;
    let mut parts = Vec::new();
    // Which list each image is in.
    let mut home: Vec<Option<&str>> = vec![None; labels.len()];
    for variable in ["trnid", "valid", "tstid"] {
        let images = list(&parts_file, &lists, variable, labels.len())?;
        for image in &images {
            if let Some(other) = home[*image as usize - 1].replace(variable) {
                let message = format!("image {image} is in {other} and in {variable}: each is to be in one list, once");
                return Err(Error::Corrupt { path: parts_file, offset: 0, message });
            }
        }
        parts.push(files(root, variable, images, &labels)?);
    }
    let classes = || (1..=CLASSES).map(|class| format!("flower {class}")).collect();
    let part = |name, files| ImageFolder::with_files(format!("Flowers-102 {name}"), root.clone(), classes(), files);
    let both = [&parts[0][..], &parts[1]].concat();
    let mut next = parts.into_iter();
    let mut next = |name| part(name, next.next().unwrap_or_default());
    let (train, validation, test) = (next("train")?, next("val")?, next("test")?);
    Ok(Parts { train, validation, train_and_validation: part("train + val", both)?, test })
}

/// Path and label of each image of a list.
fn files(root: &Path, variable: &str, images: Vec<u32>, labels: &[u32]) -> Result<Vec<(Box<Path>, u32)>> {
    let file = |image: u32| {
        let file = PathBuf::from(format!("jpg/image_{image:05}.jpg"));
        if !root.join(&file).is_file() {
            let message = format!("missing, but among the images of {variable} in setid.mat");
            return Err(Error::Io { path: root.join(file), message });
        }
        Ok((file.into_boxed_path(), labels[image as usize - 1] - 1))
    };
    images.into_iter().map(file).collect()
}

/// The whole numbers 1 to `most` of a variable of the file at `path`.
fn list(path: &Path, matrices: &[Matrix], variable: &str, most: usize) -> Result<Vec<u32>> {
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
        let lists = |lists: [&[u16]; 3]| {
            let parts = [("trnid", lists[0]), ("valid", lists[1]), ("tstid", lists[2])];
            file(&parts.map(|(name, ids)| matrix(name, ids, false)), false)
        };
        for (ids, wanted) in [
            ([&[3, 1][..], &[6], &[2, 3, 5]], "image 3 is in trnid and in tstid"),
            ([&[3, 1], &[1, 6], &[2]], "image 1 is in trnid and in valid"),
            ([&[3, 1], &[6], &[2, 6]], "image 6 is in valid and in tstid"),
            ([&[3, 1, 3], &[6], &[2]], "image 3 is in trnid and in trnid"),
        ] {
            folder.write("setid.mat", &lists(ids));
            fails(&folder, wanted);
        }
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
