//! Which digits are trained and tested on.

use quarterturn::{
    core::{Error, Result},
    data::Dataset,
};
use std::fmt;

/// A set of the ten digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes(u16);

impl Classes {
    /// All ten.
    pub const ALL: Classes = Classes(0x3ff);

    /// These digits.
    ///
    /// # Panics
    /// If one is above 9.
    pub const fn of(digits: &[u8]) -> Self {
        let (mut set, mut i) = (0, 0);
        while i < digits.len() {
            assert!(digits[i] < 10, "Classes: digits are 0 to 9");
            set |= 1 << digits[i];
            i += 1;
        }
        Classes(set)
    }

    /// Whether the digit is one of them.
    pub fn has(self, digit: u8) -> bool {
        digit < 10 && self.0 >> digit & 1 == 1
    }

    /// Out of how many digits of all ten classes about `n` are of these.
    pub fn out_of(self, n: usize) -> usize {
        (n * 10).div_ceil(self.0.count_ones() as usize)
    }

    /// The images of `dataset` that are of these classes, the first `n`.
    ///
    /// # Errors
    /// If there are none.
    pub fn of_dataset(self, dataset: Dataset, n: usize) -> Result<Dataset> {
        if self == Classes::ALL {
            return dataset.first(n.min(dataset.len()));
        }
        let of_them = dataset.labels().iter().enumerate().filter(|&(_, &label)| self.has(label));
        let indices: Vec<usize> = of_them.map(|(i, _)| i).take(n).collect();
        match indices.is_empty() {
            true => Err(Error::Invalid(format!("{}: no image of the digits {self}", dataset.name()))),
            false => Ok(dataset.subset(&indices)),
        }
    }
}

/// `69`.
impl fmt::Display for Classes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..10).filter(|&digit| self.has(digit)).try_for_each(|digit| write!(f, "{digit}"))
    }
}
