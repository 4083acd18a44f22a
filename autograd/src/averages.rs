//! The exponential moving average (EMA) of a network's parameters during training.

use crate::{Param, ParamId};
use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels::Updates;
use std::collections::{HashMap, hash_map::Entry};

/// `mean ← decay·mean + (1 − decay)·value` for every weight and buffer, starting with the first value. The averaged
/// network often generalises better than the last one.
///
/// ```
/// use quarterturn_autograd::{Averages, Param};
/// use quarterturn_core::{Device, Tensor};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let mut weight = Param::weight(Tensor::full([1], 4.0, &Device::Cpu)?);
/// let mut averages = Averages::new(0.75);
/// averages.update(|f| f("weight", &mut weight));
/// weight.set(Tensor::full([1], 8.0, &Device::Cpu)?);
/// averages.update(|f| f("weight", &mut weight));
///
/// averages.swap(|f| f("weight", &mut weight))?;
/// assert_eq!(weight.value().to_vec()?, [5.0]); // evaluate and save here
/// averages.swap(|f| f("weight", &mut weight))?;
/// assert_eq!(weight.value().to_vec()?, [8.0]); // and train on
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Averages {
    decay: f64,
    means: HashMap<ParamId, Tensor>,
    /// Whether means and parameters are exchanged at present: the network has the means.
    swapped: bool,
}

impl Averages {
    /// No means yet. With a `decay` of 0.999 they reach back over about a thousand steps.
    ///
    /// # Panics
    /// If `decay` is not from 0 to 1.
    #[track_caller]
    pub fn new(decay: f64) -> Self {
        assert!((0.0..=1.0).contains(&decay), "Averages: expected a decay from 0 to 1, got {decay}");
        Averages { decay, means: HashMap::new(), swapped: false }
    }

    /// Updates the means with the parameters that `visit` lists. Call it after each step of the optimizer.
    ///
    /// # Panics
    /// If the network has the means at present.
    #[track_caller]
    pub fn update(&mut self, visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param))) {
        assert!(!self.swapped, "Averages::update: the network has the means; swap once more first");
        let mut updates = Updates::new();
        visit(&mut |_, param| match self.means.entry(param.id()) {
            Entry::Vacant(entry) => {
                entry.insert(param.value().clone());
            }
            Entry::Occupied(mut mean) => updates.average(mean.get_mut(), param.value(), self.decay),
        });
    }

    /// Puts the means into the network, or, at the second call, the parameters back.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the name of a parameter that has no mean because it is of another network. Some
    /// parameters may then be exchanged already.
    pub fn swap(&mut self, visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param))) -> Result<()> {
        let mut unknown = None;
        visit(&mut |name, param| match self.means.get_mut(&param.id()) {
            Some(mean) => std::mem::swap(mean, param.value_mut()),
            None => unknown = unknown.take().or(Some(name.to_owned())),
        });
        self.swapped = !self.swapped;
        match unknown {
            Some(name) => Err(Error::Invalid(format!("Averages: no mean of '{name}' has been taken"))),
            None => Ok(()),
        }
    }

    /// The mean of a parameter; `None` before its first update.
    ///
    /// # Panics
    /// If the network has the means at present.
    #[track_caller]
    pub fn mean(&self, param: &Param) -> Option<&Tensor> {
        assert!(!self.swapped, "Averages::mean: the network has the means; swap once more first");
        self.means.get(&param.id())
    }

    /// Sets the mean of a parameter, to resume a run.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it differs from the parameter in shape.
    pub fn set_mean(&mut self, param: &Param, mean: Tensor) -> Result<()> {
        let (expected, got) = (param.value().shape(), mean.shape());
        if got != expected {
            return Err(Error::Invalid(format!("mean of a parameter: expected {expected:?}, got {got:?}")));
        }
        self.means.insert(param.id(), mean);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(value: f64) -> Param {
        Param::weight(Tensor::reference([], vec![value]))
    }

    fn set(param: &mut Param, value: f64) {
        param.set(Tensor::reference([], vec![value]));
    }

    #[test]
    fn means_by_hand_are_exchanged_and_resumed() {
        let mut averages = Averages::new(0.9);
        let (mut w, mut buffer) = (param(1.0), Param::buffer(Tensor::reference([], vec![10.0])));
        for value in [1.0, 2.0, -3.0] {
            set(&mut w, value);
            averages.update(|f| {
                f("w", &mut w);
                f("buffer", &mut buffer);
            });
        }
        let expected = 0.9 * (0.9 * 1.0 + 0.1 * 2.0) + 0.1 * -3.0;
        let close = |param: &Param, value: f64| (param.value().f64s()[0] - value).abs() < 1e-15;
        averages.swap(|f| f("w", &mut w)).unwrap();
        assert!(close(&w, expected) && close(&buffer, 10.0));
        averages.swap(|f| f("w", &mut w)).unwrap();
        assert!(close(&w, -3.0));

        let (mut resumed, mut again) = (Averages::new(0.9), param(5.0));
        resumed.set_mean(&again, averages.mean(&w).unwrap().clone()).unwrap();
        resumed.update(|f| f("w", &mut again));
        assert!((resumed.mean(&again).unwrap().f64s()[0] - (0.9 * expected + 0.5)).abs() < 1e-15);
        assert!(resumed.set_mean(&again, Tensor::reference([2], vec![0.0; 2])).is_err());
    }

    #[test]
    fn means_of_another_network_are_an_error() {
        let (mut averages, mut w, mut other) = (Averages::new(0.9), param(1.0), param(2.0));
        averages.update(|f| f("w", &mut w));
        let error = averages.swap(|f| f("other", &mut other)).unwrap_err();
        assert_eq!(error.to_string(), "Averages: no mean of 'other' has been taken");
    }

    #[test]
    #[should_panic(expected = "Averages::update: the network has the means")]
    fn means_are_not_taken_of_means() {
        let (mut averages, mut w) = (Averages::new(0.9), param(1.0));
        averages.update(|f| f("w", &mut w));
        averages.swap(|f| f("w", &mut w)).unwrap();
        averages.update(|f| f("w", &mut w));
    }
}
