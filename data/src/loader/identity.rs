//! What two loaders must have in common for a training run to go on with the other.

use super::Loader;
use crate::{Samples, Target};
use quarterturn_core::Result;
use std::collections::BTreeMap;

/// Images whose pixels the fingerprint takes in, at most.
const PROBED: usize = 16;

impl Loader {
    /// Everything that decides the batches, by name: `fingerprint` (see [`fingerprint`]), `batch_size`, `augmentation`,
    /// `normalization`, `order` and `seed`. Pass it to `quarterturn_models::training::Training::data`; a resumed run
    /// then returns an error if something has changed.
    ///
    /// # Errors
    /// If one of the images that the fingerprint includes cannot be read.
    pub fn identity(&self) -> Result<BTreeMap<String, String>> {
        let order = match (self.shuffled, self.full_only) {
            (false, false) => "as they are",
            (false, true) => "as they are, full batches only",
            (true, false) => "shuffled",
            (true, true) => "shuffled, full batches only",
        };
        let named = [
            ("fingerprint", fingerprint(&*self.samples)?),
            ("batch_size", self.batch_size.to_string()),
            ("augmentation", format!("{:?}", self.pipeline.transforms)),
            ("normalization", format!("{:?}", self.pipeline.normalization)),
            ("order", order.into()),
            ("seed", self.seed.to_string()),
        ];
        Ok(named.map(|(name, value)| (name.to_string(), value)).into())
    }
}

/// A number that almost surely differs for other data: 16 hexadecimal digits (FNV-1a). It is made from the number of images
/// and classes, all labels, and the pixels and targets of up to 16 images spread over the data set.
///
/// # Errors
/// If one of these images cannot be read.
pub fn fingerprint(samples: &dyn Samples) -> Result<String> {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    let len = samples.len();
    [len, samples.classes()].into_iter().for_each(|number| hash.number(number));
    (0..len).for_each(|index| hash.number(samples.label(index)));
    for index in (0..len).step_by(len.div_ceil(PROBED).max(1)) {
        let image = samples.decode(index)?;
        image.extents().into_iter().for_each(|extent| hash.number(extent));
        hash.bytes(image.pixels());
        match samples.target(index)? {
            Target::Class(label) => hash.number(label),
            Target::Mask(mask) => hash.bytes(mask.pixels()),
            Target::Numbers(numbers) => numbers.iter().for_each(|number| hash.bytes(&number.to_le_bytes())),
        }
    }
    Ok(format!("{:016x}", hash.0))
}

struct Hash(u64);

impl Hash {
    fn bytes(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    fn number(&mut self, number: usize) {
        self.bytes(&(number as u64).to_le_bytes());
    }
}
