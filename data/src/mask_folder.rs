//! Folders of images with masks, for segmentation.

use crate::{
    Image, Samples, Target,
    image_file::{self, EXTENSIONS},
    image_folder::{MAX_DEPTH, gather, last_name},
};
use quarterturn_core::{Error, Result};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Image files, each with a mask file of the same name in another folder. The endings may differ. Files are read on
/// demand. Images have three channels; see [`image_file::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskFolder {
    name: String,
    images: PathBuf,
    masks: PathBuf,
    /// Of each image, and of its mask, below these folders.
    files: Vec<[PathBuf; 2]>,
    /// The grey level of each class.
    levels: Vec<u8>,
}

impl MaskFolder {
    /// The images below `images` in the order of their paths, and their masks below `masks`: for `images/a/1.jpg`, `masks/a/1.png` or
    /// another ending. Class k has the grey level `levels[k]` in the masks: `[0, 1, 2]` where they hold class indices, `[0, 255]`
    /// where they are black and white. The level 255, if it is no class's, is ignored.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read or has no image, or an image has no mask. [`Error::Invalid`] if a mask
    /// has no image, if two files differ in their ending only, or if there are no levels or one twice.
    pub fn open(images: &Path, masks: &Path, levels: &[u8]) -> Result<Self> {
        let is_twice = |i: usize| levels[..i].contains(&levels[i]);
        if levels.is_empty() || (0..levels.len()).any(is_twice) {
            return Err(Error::Invalid(format!(
                "{}: expected a level for each class, got {levels:?}",
                masks.display()
            )));
        }
        let (of_images, mut of_masks) = (stems(images)?, stems(masks)?);
        let mut files = Vec::new();
        for (stem, image) in of_images {
            let Some(mask) = of_masks.remove(&stem) else {
                let message =
                    format!("no mask of {}: no such file that ends in {}", image.display(), EXTENSIONS.join(", "));
                return Err(Error::Io { path: masks.join(stem), message });
            };
            files.push([image, mask]);
        }
        if let Some(mask) = of_masks.into_values().next() {
            let message = format!("a mask without an image in {}", images.display());
            return Err(Error::Invalid(format!("{}: {message}", masks.join(mask).display())));
        }
        let name = last_name(images);
        Ok(MaskFolder { name, images: images.into(), masks: masks.into(), files, levels: levels.to_vec() })
    }

    /// The files of image `index` and of its mask.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn paths(&self, index: usize) -> [PathBuf; 2] {
        let [image, mask] = &self.files[index];
        [self.images.join(image), self.masks.join(mask)]
    }
}

/// The image files below a folder, by their paths without ending.
fn stems(folder: &Path) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let (mut files, mut twice) = (BTreeMap::new(), None);
    gather(folder, Path::new(""), MAX_DEPTH, &mut |file| {
        if let Some(other) = files.insert(file.with_extension(""), file.clone()) {
            twice = Some((other, file));
        }
    })?;
    if let Some((a, b)) = twice {
        let message = format!("{} and {} have one name", a.display(), b.display());
        return Err(Error::Invalid(format!("{}: {message}", folder.display())));
    }
    if files.is_empty() {
        let message = format!("no images in it: no file that ends in {}", EXTENSIONS.join(", "));
        return Err(Error::Io { path: folder.into(), message });
    }
    Ok(files)
}

impl Samples for MaskFolder {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn classes(&self) -> usize {
        self.levels.len()
    }
    fn label(&self, _: usize) -> usize {
        0
    }
    fn decode(&self, index: usize) -> Result<Image> {
        image_file::read(&self.paths(index)[0])
    }
    fn target(&self, index: usize) -> Result<Target> {
        let [_, path] = self.paths(index);
        let image = image_file::read(&path)?;
        let [_, height, width] = image.extents();
        let refused = |at: usize, what: String| {
            let message = format!("{}: {what} at row {}, column {}", path.display(), at / width, at % width);
            Err(Error::Invalid(message))
        };
        let planes: Vec<&[u8]> = image.planes().collect();
        if let Some(at) = (0..height * width).find(|&at| planes.iter().any(|plane| plane[at] != planes[0][at])) {
            return refused(at, "a coloured pixel, but the classes of a mask are grey levels".into());
        }
        let mut classes = [None; 256];
        classes[usize::from(Target::IGNORED)] = Some(Target::IGNORED);
        self.levels.iter().enumerate().for_each(|(class, &level)| classes[usize::from(level)] = Some(class as u8));
        let mut mask = Vec::with_capacity(height * width);
        for (at, &level) in planes[0].iter().enumerate() {
            match classes[usize::from(level)] {
                Some(class) => mask.push(class),
                None => return refused(at, format!("grey level {level}, which is none of {:?}", self.levels)),
            }
        }
        Image::of_planes(mask, [1, height, width]).map(Target::Mask)
    }
    fn describe(&self, index: usize) -> String {
        self.paths(index)[0].display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Loader, Pipeline, testing::Folder};
    use image::{ImageFormat, Rgb, RgbImage};
    use std::io::Cursor;

    fn write(folder: &Folder, name: &str, pixels: [[u8; 3]; 4]) {
        let mut bytes = Cursor::new(Vec::new());
        let image = RgbImage::from_fn(2, 2, |x, y| Rgb(pixels[(2 * y + x) as usize]));
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        folder.write(name, bytes.get_ref());
    }

    fn grey(levels: [u8; 4]) -> [[u8; 3]; 4] {
        levels.map(|level| [level; 3])
    }

    fn open(folder: &Folder, levels: &[u8]) -> Result<MaskFolder> {
        MaskFolder::open(&folder.path().join("images"), &folder.path().join("masks"), levels)
    }

    #[test]
    fn images_find_their_masks() {
        let folder = Folder::new();
        write(&folder, "images/b/2.png", grey([1, 2, 3, 4]));
        write(&folder, "images/a.jpg", grey([9; 4]));
        write(&folder, "masks/b/2.tif", grey([0, 255, 255, 0]));
        write(&folder, "masks/a.png", grey([255, 0, 0, 0]));
        let samples = open(&folder, &[0, 255]).unwrap();
        assert_eq!((samples.len(), samples.classes()), (2, 2));
        let batch = Loader::new(samples, Pipeline::plain(3), 2).epoch(0).next().unwrap().unwrap();
        assert_eq!(
            (batch.labels.dims(), batch.labels.f32s()),
            (&[2, 2, 2][..], &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0][..])
        );

        // Indices, of which 255 is none.
        write(&folder, "masks/a.png", grey([2, 0, 255, 1]));
        write(&folder, "masks/b/2.tif", grey([0; 4]));
        let target = open(&folder, &[0, 1, 2]).unwrap().target(0).unwrap();
        assert_eq!(target, Target::Mask(Image::new(vec![2, 0, 255, 1], [1, 2, 2]).unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_file() {
        let folder = Folder::new();
        let failed = |result: Result<()>, file: &str, expected: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(file) && message.contains(expected), "{message}");
        };
        let opened = |levels: &[u8]| open(&folder, levels).map(drop);
        write(&folder, "images/1.png", grey([9; 4]));
        folder.write("masks/notes.txt", b"");
        failed(opened(&[0]), "masks", "no images in it");
        write(&folder, "masks/2.png", grey([0; 4]));
        failed(opened(&[0]), "1", "no mask of 1.png");
        write(&folder, "masks/1.png", grey([0, 1, 7, 0]));
        failed(opened(&[0]), "2.png", "a mask without an image");
        write(&folder, "images/2.png", grey([9; 4]));
        failed(opened(&[0, 0]), "masks", "a level for each class");
        let target = |index: usize| open(&folder, &[0, 1]).unwrap().target(index).map(drop);
        failed(target(0), "1.png", "grey level 7, which is none of [0, 1] at row 1, column 0");
        write(&folder, "masks/1.png", [[0; 3], [1, 0, 1], [0; 3], [0; 3]]);
        failed(target(0), "1.png", "a coloured pixel");
        folder.write("masks/2.png", b"no image");
        failed(target(1), "masks/2.png", "");
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::new(3, 2).write_to(&mut bytes, ImageFormat::Png).unwrap();
        folder.write("masks/2.png", bytes.get_ref());
        let batch =
            Loader::new(open(&folder, &[0, 1]).unwrap(), Pipeline::plain(3), 1).epoch(0).nth(1).unwrap().map(drop);
        failed(batch, "images/2.png", "a mask of 1x2x3 for an image of 2x2");
        write(&folder, "images/2.jpg", grey([9; 4]));
        failed(opened(&[0]), "images", "have one name");
    }
}
