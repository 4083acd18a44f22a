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

    /// PatchCamelyon: resized to `size` (ResNet-44 is exact at 97, not at 96), black outside of a circle of radius 47.5
    /// (scaled for other sizes), no augmentation. Values are from −1 to 1.
    pub fn pcam(size: usize) -> Self {
        let radius = if (96..=97).contains(&size) { 47.5 } else { (size as f32 - 1.0) / 2.0 };
        let transforms = vec![Transform::Resize { size: [size, size] }, Transform::CircleCrop { radius }];
        let normalization = Normalization { mean: vec![0.5; 3], std: vec![0.5; 3] };
        Self::new(transforms.clone(), transforms, normalization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dice, Image};
    use quarterturn_core::Stream;

    #[test]
    fn every_recipe_makes_images_of_its_size() {
        for size in [32, 33, 96, 97, 224, 225] {
            for recipe in [Recipe::cifar(size), Recipe::flowers(size), Recipe::imagenet(size), Recipe::pcam(size)] {
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
    fn photographs_are_tested_at_256() {
        for size in [224, 225] {
            assert_eq!(Recipe::imagenet(size).test.transforms[0], Transform::ResizeShorter { size: 256 });
        }
        assert_eq!(Recipe::imagenet(64).test.transforms[0], Transform::ResizeShorter { size: 72 });
        assert_eq!(Recipe::imagenet(3).test.transforms[0], Transform::ResizeShorter { size: 3 });
    }
}
