//! Folders of images with a subfolder for each class, as torchvision's `ImageFolder`.

use crate::{Image, Samples, image_file, normal_form::composed};
use quarterturn_core::{Error, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How deep folders of a class may lie in each other; links that lead back end here.
pub(crate) const MAX_DEPTH: usize = 8;
/// What the parts of a data set are called.
const TRAIN: [&str; 2] = ["train", "training"];
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];
const TEST: [&str; 2] = ["test", "testing"];
/// Folders that systems and archives leave among those of the user.
const FOREIGN: [&str; 5] = ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"];

/// Image files in class folders, as torchvision's `ImageFolder`. Files are read on demand; only their paths are in
/// memory. All images have three channels; see [`image_file::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFolder {
    name: String,
    root: PathBuf,
    class_names: Vec<String>,
    /// Path below the root, and class.
    files: Vec<(Box<Path>, u32)>,
}

/// Training, validation and test images, each in a folder of its own, with the same classes.
#[derive(Clone, Debug)]
pub struct Parts {
    /// `train` or `training`.
    pub train: ImageFolder,
    /// `val`, `valid` or `validation`, if there is one.
    pub validation: Option<ImageFolder>,
    /// `test` or `testing`, if there is one.
    pub test: Option<ImageFolder>,
}

impl ImageFolder {
    /// All images below `folder`: `folder/<class>/…/<name>`, ending in jpg, jpeg, png, tif or tiff in small or capital
    /// letters. Classes are the subfolders, numbered in the order of their names; images are in the order of their
    /// paths. Left out are other files, names that begin with a dot, and folders that systems and archives leave
    /// (`__MACOSX` and the like). Without subfolders, images right in `folder` are all of one class, named as the folder is.
    ///
    /// Names are compared and ordered in Unicode's normal form C, so that classes are the same, and have the same numbers, on
    /// every system.
    ///
    /// # Errors
    /// [`Error::Io`] if a folder cannot be read, or there is no image in it or in one of its classes.
    /// [`Error::Invalid`] if there are images beside the class folders, or if two class folders have the same name in
    /// different normal forms.
    pub fn open(folder: &Path) -> Result<Self> {
        let (folders, images) = list_classes(folder)?;
        let name = last_name(folder);
        if folders.is_empty() {
            return Self::flat(folder, vec![name], images);
        }
        let class_names = folders.iter().map(|class| last_name(class)).collect();
        Self::with_classes(folder, class_names)
    }

    /// As [`ImageFolder::open`], with a given list of classes. A subfolder that is not in the list is an error. A class
    /// without a subfolder has no images. Images directly in `folder` are an error, unless there is only one class.
    ///
    /// # Errors
    /// As [`ImageFolder::open`]; [`Error::Invalid`] for a subfolder that is no class, and for images in no folder of a class.
    pub fn with_classes(folder: &Path, class_names: Vec<String>) -> Result<Self> {
        let (folders, images) = list_classes(folder)?;
        if folders.is_empty() && !images.is_empty() {
            return Self::flat(folder, class_names, images);
        }
        let known: Vec<String> = class_names.iter().map(|name| composed(name)).collect();
        let mut files = Vec::new();
        for class in folders {
            let name = composed(&last_name(&class));
            let Some(label) = known.iter().position(|known| *known == name) else {
                let message = format!("not one of the {} classes: {}", class_names.len(), class_names.join(", "));
                return Err(Error::Invalid(format!("{}: {message}", folder.join(class).display())));
            };
            let before = files.len();
            let label = u32::try_from(label).unwrap_or(u32::MAX);
            gather(folder, &class, MAX_DEPTH, &mut |file| files.push((file.into_boxed_path(), label)))?;
            if files.len() == before {
                return Err(Error::Io { path: folder.join(class), message: no_images() });
            }
        }
        Self::with_files(last_name(folder), folder.into(), class_names, files)
    }

    /// Images that lie right in `folder`, which must all be of one class.
    fn flat(folder: &Path, class_names: Vec<String>, images: Vec<PathBuf>) -> Result<Self> {
        if class_names.len() != 1 {
            let message = format!("expected in a folder for each class: {}", class_names.join(", "));
            let count = images.len();
            return Err(Error::Invalid(format!("{}: {count} images right in the folder; {message}", folder.display())));
        }
        let files = images.into_iter().map(|file| (file.into_boxed_path(), 0)).collect();
        Self::with_files(last_name(folder), folder.into(), class_names, files)
    }

    /// Files that somebody else has found.
    pub(crate) fn with_files(
        name: String,
        root: PathBuf,
        class_names: Vec<String>,
        files: Vec<(Box<Path>, u32)>,
    ) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::Io { path: root, message: no_images() });
        }
        Ok(ImageFolder { name, root, class_names, files })
    }

    /// Opens the subfolders `train`, `val` and `test` of `folder` (see [`Parts`] for other spellings). The training
    /// images decide which classes there are. Each part is named after the folder and its subfolder.
    ///
    /// # Errors
    /// As [`ImageFolder::open`] and [`ImageFolder::with_classes`]; [`Error::Io`] if there is no folder with training images;
    /// [`Error::Invalid`] if there are two folders for one part, such as `val` and `validation`.
    pub fn parts(folder: &Path) -> Result<Parts> {
        let (folders, _) = list(folder)?;
        let find = |names: &[&str]| {
            let one_of = |path: &&PathBuf| names.contains(&last_name(path).to_lowercase().as_str());
            let found: Vec<&PathBuf> = folders.iter().filter(one_of).collect();
            match found[..] {
                [] => Ok(None),
                [part] => Ok(Some(folder.join(part))),
                [a, b, ..] => {
                    let message = format!("{} and {}: which of them is it?", a.display(), b.display());
                    Err(Error::Invalid(format!("{}: {message}", folder.display())))
                }
            }
        };
        let named = |part: Self, name: &str| Self { name: format!("{} {name}", last_name(folder)), ..part };
        let Some(train) = find(&TRAIN)? else {
            let message = format!("no folder of training images ({})", TRAIN.join(" or "));
            return Err(Error::Io { path: folder.into(), message });
        };
        let train = named(Self::open(&train)?, TRAIN[0]);
        let other = |names: &[&str]| {
            let part = find(names)?.map(|path| Self::with_classes(&path, train.class_names.clone()));
            part.transpose().map(|part| part.map(|part| named(part, names[0])))
        };
        Ok(Parts { validation: other(&VALIDATION)?, test: other(&TEST)?, train })
    }

    /// What the classes are called, in the order of the labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The file of image `index`.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn path(&self, index: usize) -> PathBuf {
        self.root.join(&self.files[index].0)
    }
}

impl Samples for ImageFolder {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn classes(&self) -> usize {
        self.class_names.len()
    }
    fn label(&self, index: usize) -> usize {
        self.files[index].1 as usize
    }
    fn decode(&self, index: usize) -> Result<Image> {
        image_file::read(&self.path(index))
    }
    fn describe(&self, index: usize) -> String {
        self.path(index).display().to_string()
    }
}

fn no_images() -> String {
    format!("no images in it: no file that ends in {}", image_file::EXTENSIONS.join(", "))
}

/// The last part of a path; of `.` or `..`, that of the folder meant.
pub(crate) fn last_name(path: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    name(path).or_else(|| name(&path.canonicalize().ok()?)).unwrap_or_else(|| path.display().to_string())
}

/// As [`list`], of a folder whose subfolders are classes: no image may lie beside them, and no two may have one name.
fn list_classes(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (folders, images) = list(folder)?;
    if let (Some(class), Some(image)) = (folders.first(), images.first()) {
        let message = format!("an image beside the folders of the classes, {} among them", class.display());
        return Err(Error::Invalid(format!("{}: {message}", folder.join(image).display())));
    }
    let same = |pair: &&[PathBuf]| composed(&last_name(&pair[0])) == composed(&last_name(&pair[1]));
    match folders.windows(2).find(same) {
        Some(pair) => {
            let name = pair[0].display();
            let message = format!("two folders {name}, whose names differ only in how accents are stored");
            Err(Error::Invalid(format!("{}: {message}", folder.display())))
        }
        None => Ok((folders, images)),
    }
}

/// Names of the subfolders and of the images in a folder, each in order; nothing that begins with a dot or is foreign.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut folders, mut images) = (Vec::new(), Vec::new());
    let io = |e: std::io::Error| Error::io(folder, &e);
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = PathBuf::from(entry.file_name());
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || FOREIGN.iter().any(|foreign| name.as_os_str() == *foreign) {
            continue;
        }
        let extension = name.extension().map(|e| e.to_string_lossy().to_lowercase());
        let image = extension.is_some_and(|e| image_file::EXTENSIONS.contains(&e.as_str()));
        let mut kind = entry.file_type().map_err(|e| Error::io(entry.path(), &e))?;
        if kind.is_symlink() {
            kind = fs::metadata(entry.path()).map_err(|e| Error::io(entry.path(), &e))?.file_type();
        }
        if kind.is_dir() {
            folders.push(name);
        } else if image {
            images.push(name);
        }
    }
    for names in [&mut folders, &mut images] {
        names.sort_by_cached_key(|name| (composed(&name.to_string_lossy()), name.clone()));
    }
    Ok((folders, images))
}

/// The images in `root/below` and in the folders there, as paths below the root, folders last.
pub(crate) fn gather(root: &Path, below: &Path, depth: usize, take: &mut impl FnMut(PathBuf)) -> Result<()> {
    if depth == 0 {
        let message = format!("more than {MAX_DEPTH} folders in each other; is it a link that leads back?");
        return Err(Error::Io { path: root.join(below), message });
    }
    let (folders, images) = list(&root.join(below))?;
    images.into_iter().for_each(|image| take(below.join(image)));
    folders.into_iter().try_for_each(|folder| gather(root, &below.join(folder), depth - 1, take))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Loader, Recipe, testing::Folder};
    use image::{ImageFormat, Rgb, RgbImage};
    use std::io::Cursor;

    /// An image of one colour, a PNG file whatever its name.
    fn write(folder: &Folder, name: &str, grey: u8) {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_pixel(6, 5, Rgb([grey; 3])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        folder.write(name, bytes.get_ref());
    }

    fn paths(images: &ImageFolder) -> Vec<String> {
        images.files.iter().map(|(path, label)| format!("{}={label}", path.display())).collect()
    }

    #[test]
    fn classes_and_images_are_in_the_order_of_their_names() {
        let folder = Folder::new();
        for (i, name) in
            ["zebra/1.png", "ant/2.PNG", "ant/10.jpeg", "ant/deep/er/3.tiff", "Bee/x.jpg"].iter().enumerate()
        {
            write(&folder, name, i as u8);
        }
        folder.write("ant/notes.txt", b"no image");
        folder.write("ant/.hidden.png", b"no image");
        folder.write(".cache/x.png", b"no image");
        let images = ImageFolder::open(folder.path()).unwrap();
        assert_eq!(images.class_names(), ["Bee", "ant", "zebra"]);
        let wanted = ["Bee/x.jpg=0", "ant/10.jpeg=1", "ant/2.PNG=1", "ant/deep/er/3.tiff=1", "zebra/1.png=2"];
        assert_eq!(paths(&images), wanted);
        assert_eq!((images.len(), images.classes(), images.label(4)), (5, 3, 2));
        assert_eq!(images.decode(2).unwrap().pixels(), [1; 90]);
        assert!(images.describe(4).ends_with("zebra/1.png"));
    }

    #[test]
    fn images_without_folders_are_one_class() {
        let folder = Folder::new();
        write(&folder, "tiles/b.tif", 1);
        write(&folder, "tiles/a.tif", 2);
        let images = ImageFolder::open(&folder.path().join("tiles")).unwrap();
        assert_eq!((paths(&images), images.name()), (vec!["a.tif=0".into(), "b.tif=0".into()], "tiles"));
        assert_eq!(images.class_names(), ["tiles"]);
        write(&folder, "beside.png", 3);
        let message = ImageFolder::open(folder.path()).unwrap_err().to_string();
        assert!(
            message.ends_with("beside.png: an image beside the folders of the classes, tiles among them"),
            "{message}"
        );
    }

    #[test]
    fn parts_share_the_classes_of_the_training_images() {
        let folder = Folder::new();
        for name in ["train/a/1.png", "train/b/1.png", "train/c/1.png", "val/b/1.png", "test/c/2.png", "test/a/1.png"] {
            write(&folder, name, 9);
        }
        let parts = ImageFolder::parts(folder.path()).unwrap();
        let (validation, test) = (parts.validation.unwrap(), parts.test.unwrap());
        assert_eq!((paths(&validation), validation.classes()), (vec!["b/1.png=1".into()], 3));
        assert_eq!(paths(&test), ["a/1.png=0", "c/2.png=2"]);
        assert!(parts.train.name().ends_with(" train") && validation.name().ends_with(" val"));

        write(&folder, "val/d/1.png", 9);
        let message = ImageFolder::parts(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("val/d: not one of the 3 classes: a, b, c"), "{message}");
    }

    /// In `val` they were dropped without a word, and a folder full of images had "no images in it".
    #[test]
    fn images_in_no_class_are_errors_in_every_part() {
        for part in ["train", "val", "test"] {
            let folder = Folder::new();
            for name in ["train/a/1.png", "train/b/1.png", "val/a/1.png", "test/b/1.png"] {
                write(&folder, name, 9);
            }
            write(&folder, &format!("{part}/stray.png"), 9);
            let message = ImageFolder::parts(folder.path()).unwrap_err().to_string();
            assert!(
                message.contains(&format!("{part}/stray.png: an image beside the folders of the classes")),
                "{message}"
            );
        }
        for part in ["val", "test"] {
            let folder = Folder::new();
            for name in
                ["train/a/1.png", "train/b/1.png"].map(String::from).into_iter().chain([format!("{part}/1.png")])
            {
                write(&folder, &name, 9);
            }
            let message = ImageFolder::parts(folder.path()).unwrap_err().to_string();
            let wanted = format!("{part}: 1 images right in the folder; expected in a folder for each class: a, b");
            assert!(message.ends_with(&wanted), "{message}");
        }
        // Of one class only, there is no doubt.
        for (train, test) in
            [("train/a/1.png", "test/2.png"), ("train/1.png", "test/2.png"), ("train/1.png", "test/train/2.png")]
        {
            let folder = Folder::new();
            write(&folder, train, 9);
            write(&folder, test, 9);
            let parts = ImageFolder::parts(folder.path()).unwrap();
            assert_eq!((parts.train.len(), parts.test.unwrap().label(0)), (1, 0));
        }
    }

    #[test]
    fn what_systems_leave_behind_is_no_class() {
        let folder = Folder::new();
        for name in ["train/a/1.png", "train/b/1.png", "val/a/1.png"] {
            write(&folder, name, 9);
        }
        for foreign in FOREIGN.into_iter().chain([".git", ".ipynb_checkpoints"]) {
            for place in ["", "train", "train/a", "val"] {
                write(&folder, format!("{place}/{foreign}/._x.png").trim_start_matches('/'), 1);
                write(&folder, format!("{place}/{foreign}/x.png").trim_start_matches('/'), 1);
            }
        }
        for name in [".DS_Store", "Thumbs.db", "desktop.ini", "._1.png"] {
            for place in ["train", "train/a", "val"] {
                folder.write(Path::new(place).join(name), b"\0");
            }
        }
        let parts = ImageFolder::parts(folder.path()).unwrap();
        assert_eq!((paths(&parts.train), parts.train.classes()), (vec!["a/1.png=0".into(), "b/1.png=1".into()], 2));
        assert_eq!(paths(&parts.validation.unwrap()), ["a/1.png=0"]);
    }

    /// macOS stores accents as characters of their own. (So there both names are one, and nothing to be told apart.)
    #[cfg(target_os = "linux")]
    #[test]
    fn classes_are_the_same_in_both_normal_forms() {
        const C: [&str; 3] = ["eau", "\u{e9}t\u{e9}", "f\u{fc}r"];
        const D: [&str; 3] = ["eau", "e\u{301}te\u{301}", "fu\u{308}r"];
        for (train, test) in [(C, D), (D, C)] {
            let folder = Folder::new();
            for class in 0..3 {
                write(&folder, &format!("train/{}/1.png", train[class]), 1);
                write(&folder, &format!("test/{}/2.png", test[class]), 1);
            }
            let parts = ImageFolder::parts(folder.path()).unwrap();
            // Numbered as in form C, in which é comes behind f.
            assert_eq!(parts.train.class_names(), [train[0], train[2], train[1]]);
            let test = parts.test.unwrap();
            let labels: Vec<usize> = (0..3).map(|i| test.label(i)).collect();
            assert_eq!(labels, [0, 1, 2]);
        }
        let folder = Folder::new();
        for class in [C[1], D[1]] {
            write(&folder, &format!("{class}/1.png"), 1);
        }
        let message = ImageFolder::open(folder.path()).unwrap_err().to_string();
        assert!(message.contains("differ only in how accents are stored"), "{message}");
    }

    #[test]
    fn the_folder_of_a_part_is_one() {
        let folder = Folder::new();
        write(&folder, "Train/a/1.png", 1);
        write(&folder, "VAL/a/1.png", 1);
        assert_eq!(ImageFolder::parts(folder.path()).unwrap().validation.unwrap().len(), 1);
        write(&folder, "validation/a/1.png", 1);
        let message = ImageFolder::parts(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("VAL and validation: which of them is it?"), "{message}");
    }

    #[test]
    fn folders_without_images_are_errors() {
        let folder = Folder::new();
        let nothing = |result: Result<ImageFolder>, wanted: &str| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains(wanted), "{message}");
        };
        nothing(ImageFolder::open(folder.path()), "no images in it: no file that ends in jpg, jpeg, png, tif, tiff");
        nothing(ImageFolder::open(&folder.path().join("none")), "none: ");
        nothing(ImageFolder::parts(folder.path()).map(|parts| parts.train), "no folder of training images");
        write(&folder, "a/1.png", 1);
        folder.write("b/notes.txt", b"");
        nothing(ImageFolder::open(folder.path()), "b: no images in it");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        let folder = Folder::new();
        write(&folder, "elsewhere/1.png", 4);
        write(&folder, "data/a/2.png", 5);
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join("data/b")).unwrap();
        let data = folder.path().join("data");
        assert_eq!(paths(&ImageFolder::open(&data).unwrap()), ["a/2.png=0", "b/1.png=1"]);
        std::os::unix::fs::symlink(&data, folder.path().join("data/a/back")).unwrap();
        let message = ImageFolder::open(&data).unwrap_err().to_string();
        assert!(message.contains("more than 8 folders in each other"), "{message}");
    }

    #[test]
    fn a_damaged_file_stops_its_batch_and_is_named() {
        let folder = Folder::new();
        for name in ["a/1.png", "a/2.png", "b/3.png", "b/4.png"] {
            write(&folder, name, 9);
        }
        let whole = std::fs::read(folder.path().join("a/2.png")).unwrap();
        folder.write("a/2.png", &whole[..whole.len() / 2]);
        let images = ImageFolder::open(folder.path()).unwrap();
        std::fs::remove_file(folder.path().join("b/4.png")).unwrap();
        let loader = Loader::new(images, Recipe::cifar(8).test, 1);
        let results: Vec<_> = loader.epoch(0).map(|batch| batch.map(|batch| batch.labels.f32s()[0])).collect();
        assert_eq!((results[0].clone().unwrap(), results[2].clone().unwrap()), (0.0, 1.0));
        assert!(matches!(&results[1], Err(Error::Corrupt { path, .. }) if path.ends_with("a/2.png")), "{results:?}");
        assert!(matches!(&results[3], Err(Error::Io { path, .. }) if path.ends_with("b/4.png")), "{results:?}");
    }
}
