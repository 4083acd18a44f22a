//! Images in memory with masks, or with numbers.

use crate::{Image, Samples, Target, image};
use quarterturn_core::{Error, Result};
use std::{fmt, sync::Arc};

/// 8-bit images of one size in memory, `[N, C, H, W]`, for segmentation (a class for each pixel) or regression (numbers
/// for each image). For one class per image see [`crate::Dataset`]. Cloning shares the memory.
#[derive(Clone, PartialEq)]
pub struct Annotated {
    name: String,
    pixels: Arc<Vec<u8>>,
    extents: [usize; 3],
    len: usize,
    targets: Targets,
    classes: usize,
}

#[derive(Clone, PartialEq)]
enum Targets {
    /// `[N, H, W]`.
    Masks(Arc<Vec<u8>>),
    /// `[N, K]`.
    Numbers(Arc<Vec<f32>>),
}

impl Annotated {
    /// Images `[N, C, H, W]` and masks `[N, H, W]`. A byte of a mask is a class below `classes`, or
    /// [`Target::IGNORED`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if an extent is zero or they look like `[H, W, C]`, the numbers of pixels do not fit, or a byte of a mask is
    /// no class.
    pub fn with_masks(
        name: impl Into<String>,
        pixels: Vec<u8>,
        masks: Vec<u8>,
        extents: [usize; 3],
        classes: usize,
    ) -> Result<Self> {
        let (name, [_, height, width]) = (name.into(), extents);
        let len = images(&name, &pixels, extents)?;
        if masks.len() != len * height * width {
            let message = format!("{name}: {len} masks of {height}x{width} do not have {} pixels", masks.len());
            return Err(Error::Invalid(message));
        }
        let is_none = |&pixel: &u8| usize::from(pixel) >= classes && pixel != Target::IGNORED;
        if let Some(at) = masks.iter().position(is_none) {
            let (image, pixel) = (at / (height * width), masks[at]);
            return Err(Error::Invalid(format!(
                "{name}: class {pixel} in the mask of image {image} is not below {classes}"
            )));
        }
        Ok(Annotated {
            name,
            pixels: Arc::new(pixels),
            extents,
            len,
            targets: Targets::Masks(Arc::new(masks)),
            classes,
        })
    }

    /// Images `[N, C, H, W]` and `each` numbers for every image, `[N, each]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an extent is zero or they look like `[H, W, C]`, the numbers of pixels or numbers do not fit, or a number
    /// is not finite.
    pub fn with_numbers(
        name: impl Into<String>,
        pixels: Vec<u8>,
        numbers: Vec<f32>,
        extents: [usize; 3],
        each: usize,
    ) -> Result<Self> {
        let name = name.into();
        let len = images(&name, &pixels, extents)?;
        if each == 0 || Some(numbers.len()) != len.checked_mul(each) {
            return Err(Error::Invalid(format!("{name}: {} numbers for {len} images, {each} each", numbers.len())));
        }
        if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(Error::Invalid(format!(
                "{name}: number {} of image {} is {}",
                at % each,
                at / each,
                numbers[at]
            )));
        }
        let targets = Targets::Numbers(Arc::new(numbers));
        Ok(Annotated { name, pixels: Arc::new(pixels), extents, len, targets, classes: each })
    }

    /// Channels, height and width of an image.
    pub fn extents(&self) -> [usize; 3] {
        self.extents
    }
}

/// How many images there are.
fn images(name: &str, pixels: &[u8], extents: [usize; 3]) -> Result<usize> {
    image::expect_planes(extents).map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
    let size = image::checked_len(extents).map_err(|e| Error::Invalid(format!("{name}: {e}")))?;
    if !pixels.len().is_multiple_of(size) {
        return Err(Error::Invalid(format!("{name}: {} pixels are no whole images of {extents:?}", pixels.len())));
    }
    Ok(pixels.len() / size)
}

impl Samples for Annotated {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.len
    }
    fn classes(&self) -> usize {
        self.classes
    }
    fn label(&self, _: usize) -> usize {
        0
    }
    fn target(&self, index: usize) -> Result<Target> {
        let [_, height, width] = self.extents;
        match &self.targets {
            Targets::Masks(masks) => {
                let mask = masks[index * height * width..][..height * width].to_vec();
                Image::of_planes(mask, [1, height, width]).map(Target::Mask)
            }
            Targets::Numbers(numbers) => Ok(Target::Numbers(numbers[index * self.classes..][..self.classes].to_vec())),
        }
    }
    fn decode(&self, index: usize) -> Result<Image> {
        let size: usize = self.extents.iter().product();
        Image::of_planes(self.pixels[index * size..][..size].to_vec(), self.extents)
    }
}

impl fmt::Debug for Annotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [c, h, w] = self.extents;
        write!(f, "{}: {} images {c}x{h}x{w}", self.name, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Angle, Loader, Normalization, Pipeline, Transform, fingerprint};

    /// The pixels of each image are its classes, times 20.
    fn cells(n: usize, size: usize) -> Annotated {
        let masks: Vec<u8> = (0..n * size * size).map(|i| (i * i / 3 % 5) as u8).collect();
        let pixels = masks.iter().map(|class| class * 20).collect();
        Annotated::with_masks("cells", pixels, masks, [1, size, size], 5).unwrap()
    }

    fn loader(samples: Annotated, transforms: Vec<Transform>) -> Loader {
        let normalization = Normalization { mean: vec![0.0], std: vec![1.0 / 255.0] };
        Loader::new(samples, Pipeline { transforms, normalization }, 4).seed(7)
    }

    /// Whatever moves pixels moves those of the mask alike: then the image still says what the mask does.
    #[test]
    fn masks_move_with_their_images() {
        let moving = vec![
            Transform::RandomCrop { size: [11, 11], padding: 2 },
            Transform::HorizontalFlip { probability: 0.5 },
            Transform::QuarterTurn,
            Transform::VerticalFlip { probability: 0.5 },
            Transform::Rotate { angle: Angle::Fixed(270.0) },
            Transform::CenterCrop { size: [9, 9] },
            Transform::CircleCrop { radius: 4.0, fill: vec![] },
        ];
        let mut seen = std::collections::BTreeSet::new();
        for epoch in 0..20 {
            for batch in loader(cells(8, 12), moving.clone()).epoch(epoch) {
                let (images, masks) = batch.unwrap().into_pair();
                assert_eq!((images.dims(), masks.dims()), (&[4, 1, 1, 9, 9][..], &[4, 9, 9][..]));
                assert!(
                    images.f32s().iter().zip(masks.f32s()).all(|(pixel, class)| (pixel - 20.0 * class).abs() < 1e-3)
                );
                seen.extend(masks.f32s().chunks(81).map(|mask| format!("{mask:?}")));
            }
        }
        assert!(seen.len() > 50, "{}", seen.len());
    }

    /// Between pixels, a mask has the classes of pixels; colours and holes are not its own.
    #[test]
    fn masks_are_sampled_and_not_mixed() {
        let between = vec![
            Transform::ColorJitter { brightness: 0.5, contrast: 0.5, saturation: 0.5 },
            Transform::Cutout { size: 5 },
            Transform::Resize { size: [10, 17] },
            Transform::Rotate { angle: Angle::Uniform(-40.0, 40.0) },
            Transform::RandomResizedCrop { size: [8, 9], scale: [0.3, 1.0], ratio: [0.7, 1.4] },
            Transform::ResizeShorter { size: 12 },
        ];
        for batch in loader(cells(8, 12), between).epoch(0) {
            let (images, masks) = batch.unwrap().into_pair();
            assert_eq!((images.dims(), masks.dims()), (&[4, 1, 1, 12, 13][..], &[4, 12, 13][..]));
            assert!(masks.f32s().iter().all(|class| class.fract() == 0.0 && (0.0..5.0).contains(class)));
        }
        // Twice as large and back is as it was, for the image too.
        let there_and_back = vec![Transform::Resize { size: [24, 24] }, Transform::Resize { size: [12, 12] }];
        let batch = loader(cells(4, 12), there_and_back).epoch(0).next().unwrap().unwrap();
        let expected: Vec<f32> = (0..4 * 144).map(|i| (i * i / 3 % 5) as f32).collect();
        assert_eq!(batch.labels.f32s(), expected);
    }

    #[test]
    fn numbers_come_in_rows() {
        let samples =
            Annotated::with_numbers("angles", vec![9; 12], vec![0.5, -1.0, 2.0, 3.0, 4.0, 5.0], [1, 2, 2], 2).unwrap();
        let batch = loader(samples, vec![Transform::QuarterTurn]).epoch(0).next().unwrap().unwrap();
        assert_eq!((batch.labels.dims(), batch.labels.f32s()), (&[3, 2][..], &[0.5, -1.0, 2.0, 3.0, 4.0, 5.0][..]));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let masks =
            |pixels: usize, masks: Vec<u8>| Annotated::with_masks("x", vec![0; pixels], masks, [1, 2, 2], 3).map(drop);
        let numbers =
            |n: usize, numbers: Vec<f32>| Annotated::with_numbers("x", vec![0; n], numbers, [1, 2, 2], 1).map(drop);
        for (outcome, expected) in [
            (masks(7, vec![0; 4]), "7 pixels are no whole images of [1, 2, 2]"),
            (masks(8, vec![0; 4]), "2 masks of 2x2 do not have 4 pixels"),
            (masks(8, vec![0, 1, 2, 255, 0, 3, 0, 0]), "class 3 in the mask of image 1 is not below 3"),
            (numbers(8, vec![1.0]), "1 numbers for 2 images, 1 each"),
            (numbers(8, vec![1.0, f32::NAN]), "number 0 of image 1 is NaN"),
        ] {
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        masks(8, vec![0, 1, 2, 255, 0, 1, 0, 0]).unwrap();
    }

    #[test]
    fn a_loader_tells_what_decides_its_batches() {
        let usual = loader(cells(40, 12), vec![Transform::QuarterTurn]);
        let identity = |loader: &Loader| loader.identity().unwrap();
        let differ = |other: &Loader, expected: &[&str]| {
            let (a, b) = (identity(&usual), identity(other));
            let names: Vec<&str> = a.keys().filter(|name| a[*name] != b[*name]).map(String::as_str).collect();
            assert_eq!(names, expected);
        };
        differ(&usual, &[]);
        differ(&usual.clone().threads(0).ahead(5), &[]);
        differ(&usual.clone().shuffled().seed(8), &["order", "seed"]);
        differ(&loader(cells(40, 12), vec![Transform::VerticalFlip { probability: 0.5 }]), &["augmentation"]);
        differ(&loader(cells(41, 12), vec![Transform::QuarterTurn]), &["fingerprint"]);
        let mut other = cells(40, 12);
        Arc::make_mut(&mut other.pixels)[0] += 1;
        assert_ne!(fingerprint(&other).unwrap(), fingerprint(&cells(40, 12)).unwrap());
        let mut other = cells(40, 12);
        let Targets::Masks(masks) = &mut other.targets else { unreachable!() };
        Arc::make_mut(masks)[0] += 1;
        assert_ne!(fingerprint(&other).unwrap(), fingerprint(&cells(40, 12)).unwrap());
    }
}
