//! How the paper's experiments prepare the images of each data set.

use crate::{Normalization, Pipeline, Transform};

/// The pipelines for training and for testing in the experiments of Edixhoven et al. 2023. Each constructor takes the
/// network's input size, which decides whether the network is exact. You can replace the normalisation.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// With augmentation.
    pub train: Pipeline,
    /// Without.
    pub test: Pipeline,
}

impl Recipe {
    fn new(train: Vec<Transform>, test: Vec<Transform>, normalization: Normalization) -> Self {
        Recipe {
            train: Pipeline { transforms: train, normalization: normalization.clone() },
            test: Pipeline { transforms: test, normalization },
        }
    }

    /// CIFAR-10 and CIFAR-100: resized to `size` (ResNet-44 is exact at 33, not at 32). In training also a random crop
    /// after padding by 4, and a flip with probability ½. Normalised as CIFAR-10.
    pub fn cifar(size: usize) -> Self {
        let size = [size, size];
        let train = vec![
            Transform::Resize { size },
            Transform::RandomCrop { size, padding: 4 },
            Transform::HorizontalFlip { probability: 0.5 },
        ];
        Self::new(train, vec![Transform::Resize { size }], Normalization::cifar10())
    }

    /// Flowers-102. In training: a crop of random size and shape, and a random flip. In testing: the shorter side is
    /// resized, and the centre is cropped. For inputs of 224 and 225 it is resized to 256 (8/7 of the multiple of 7
    /// below). Normalised as ImageNet.
    pub fn flowers(size: usize) -> Self {
        let train = vec![Transform::random_resized_crop(size), Transform::HorizontalFlip { probability: 0.5 }];
        let shorter = (size / 7 * 8).max(size);
        let test = vec![Transform::ResizeShorter { size: shorter }, Transform::CenterCrop { size: [size, size] }];
        Self::new(train, test, Normalization::imagenet())
    }

    /// ImageNet: as [`Recipe::flowers`]. (ResNet-18 is exact at 225, not at 224.)
    pub fn imagenet(size: usize) -> Self {
        Self::flowers(size)
    }

    /// PatchCamelyon, without augmentation. With `circle_crop`, pixels outside of a circle of radius 47.5, which is
    /// inscribed in an image of 96×96, get the mean colour. Then images are resized to `size` (ResNet-44 is exact at
    /// 97, not at 96) and normalised by the data set's statistics. So the mean colour becomes nearly 0; it is rounded
    /// to 8 bits before. The published code has the circle as an option.
    pub fn pcam(size: usize, circle_crop: bool) -> Self {
        let normalization = Normalization::pcam();
        let fill = normalization.mean.iter().map(|mean| (255.0 * mean).round() as u8).collect();
        let mut transforms = vec![Transform::Resize { size: [size, size] }];
        if circle_crop {
            transforms.insert(0, Transform::CircleCrop { radius: 47.5, fill });
        }
        Self::new(transforms.clone(), transforms, normalization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dice, Image};
    use quarterturn_core::{Device, Stream};

    #[test]
    fn every_recipe_makes_images_of_its_size() {
        for size in [32, 33, 96, 97, 224, 225] {
            for recipe in [Recipe::cifar(size), Recipe::flowers(size), Recipe::imagenet(size), Recipe::pcam(size, true)]
            {
                for pipeline in [&recipe.train, &recipe.test] {
                    let mut image = Image::black([3, 300, 400]).unwrap();
                    let mut dice = Dice::new(Stream::new(1, 1, 1), 0);
                    for transform in &pipeline.transforms {
                        image = transform.apply(image, &mut dice).unwrap();
                    }
                    assert_eq!(image.extents(), [3, size, size], "{pipeline:?}");
                    assert_eq!(pipeline.normalization.mean.len(), 3);
                }
            }
        }
    }

    #[test]
    fn what_the_circle_hides_is_the_mean_colour_for_the_network() {
        for size in [96, 97] {
            let prepared = |circle_crop| {
                let image = Image::black([3, 96, 96]).unwrap();
                Recipe::pcam(size, circle_crop).test.prepare(image, &Device::Cpu).unwrap()
            };
            let (whole, cropped) = (prepared(false), prepared(true));
            for (channel, mean) in Normalization::pcam().mean.into_iter().enumerate() {
                let std = Normalization::pcam().std[channel];
                let corner = channel * size * size;
                assert!(cropped.f32s()[corner].abs() <= 0.5 / 255.0 / std, "{}", cropped.f32s()[corner]);
                assert!((whole.f32s()[corner] + mean / std).abs() < 1e-5);
                let centre = corner + size / 2 * size + size / 2;
                assert_eq!(cropped.f32s()[centre], whole.f32s()[centre]);
            }
        }
    }

    #[test]
    fn photographs_are_tested_at_256() {
        for size in [224, 225] {
            assert_eq!(Recipe::imagenet(size).test.transforms[0], Transform::ResizeShorter { size: 256 });
        }
        assert_eq!(Recipe::imagenet(64).test.transforms[0], Transform::ResizeShorter { size: 72 });
        assert_eq!(Recipe::imagenet(3).test.transforms[0], Transform::ResizeShorter { size: 3 });
    }
}
