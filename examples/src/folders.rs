//! Built-in images as files, for lessons and tests: folders as somebody would have them.

use super::files;
use quarterturn::{
    core::{Error, Result},
    data::{Image, Samples, Target},
};
use std::path::Path;
use tiny_skia::{ColorU8, Pixmap};

/// Writes each image to `folder/class-K/I.png`; the folders are created.
///
/// # Errors
/// If an image cannot be read or written.
pub fn write_classes(samples: &dyn Samples, folder: &Path) -> Result<()> {
    for index in 0..samples.len() {
        let class = folder.join(format!("class-{}", samples.label(index)));
        files::create_folder(&class)?;
        write_png(&class.join(format!("{index}.png")), &samples.decode(index)?)?;
    }
    Ok(())
}

/// Writes each image to `folder/images/I.png` and its mask, whose grey levels are the classes, to `folder/masks/I.png`.
///
/// # Errors
/// If an image cannot be read or written, or has no mask.
pub fn write_masks(samples: &dyn Samples, folder: &Path) -> Result<()> {
    let [images, masks] = ["images", "masks"].map(|name| folder.join(name));
    files::create_folder(&images)?;
    files::create_folder(&masks)?;
    for index in 0..samples.len() {
        let Target::Mask(mask) = samples.target(index)? else {
            return Err(Error::Invalid(format!("{}: no mask", samples.describe(index))));
        };
        let name = format!("{index}.png");
        write_png(&images.join(&name), &samples.decode(index)?)?;
        write_png(&masks.join(&name), &mask)?;
    }
    Ok(())
}

/// An image of one channel as grey, of three as colours.
///
/// # Errors
/// If it has other channels, or cannot be written.
pub fn write_png(path: &Path, image: &Image) -> Result<()> {
    let ([channels, height, width], pixels) = (image.extents(), image.pixels());
    let unfit = || Error::Invalid(format!("{}: {image:?} is no picture of 1 or 3 channels", path.display()));
    let mut picture =
        Pixmap::new(width as u32, height as u32).filter(|_| [1, 3].contains(&channels)).ok_or_else(unfit)?;
    for (at, pixel) in picture.pixels_mut().iter_mut().enumerate() {
        let [r, g, b] = [0, channels / 2, channels - 1].map(|channel| pixels[channel * height * width + at]);
        *pixel = ColorU8::from_rgba(r, g, b, 255).premultiply();
    }
    let png = picture.encode_png().map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))?;
    files::write(path, &png)
}
