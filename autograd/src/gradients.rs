//! The gradients of one backward pass, as a value that can be read and changed.

use crate::{Kind, Param, ParamId, Var, tape::TapeId};
use quarterturn_core::Tensor;
use quarterturn_kernels::{self as kernels, Elementwise};
use std::collections::{BTreeMap, HashMap};

/// The result of [`Var::backward`]: the gradients of weights and variables, and the new values of buffers (running
/// statistics).
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// The tape that `variables` were on.
    pub(crate) tape: Option<TapeId>,
    /// By node.
    pub(crate) variables: HashMap<usize, Tensor>,
    /// In an order that does not change from run to run.
    pub(crate) weights: BTreeMap<ParamId, Tensor>,
    pub(crate) buffers: HashMap<ParamId, Tensor>,
}

impl Gradients {
    /// No gradients: the start of a sum.
    pub fn new() -> Self {
        Self::default()
    }

    /// The gradient of a weight; `None` if the result did not depend on it.
    pub fn of(&self, param: &Param) -> Option<&Tensor> {
        self.weights.get(&param.id())
    }

    /// Replaces the gradient of a weight.
    ///
    /// # Panics
    /// If `param` is no weight, or `gradient` differs from it in shape.
    #[track_caller]
    pub fn set(&mut self, param: &Param, gradient: Tensor) {
        assert_eq!(param.kind(), Kind::Weight, "Gradients::set: expected a weight");
        let (expected, got) = (param.value().shape(), gradient.shape());
        assert_eq!(got, expected, "Gradients::set: expected the weight's shape {expected:?}, got {got:?}");
        self.weights.insert(param.id(), gradient);
    }

    /// The gradients of the weights that `visit` lists, with their names.
    pub fn named(&self, visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param))) -> Vec<(String, Tensor)> {
        let mut named = Vec::new();
        visit(&mut |name, param| named.extend(self.of(param).map(|gradient| (name.to_owned(), gradient.clone()))));
        named
    }

    /// The gradient of a [`crate::Tape::variable`]; `None` if the result did not depend on it.
    ///
    /// # Panics
    /// If the variable is not on the tape whose backward pass these gradients are of.
    #[track_caller]
    pub fn wrt(&self, variable: &Var<'_>) -> Option<&Tensor> {
        assert!(self.tape == Some(variable.tape().id()), "Gradients::wrt: the variable is on another tape");
        self.variables.get(&variable.node()?)
    }

    /// The new value of a buffer, as the forward pass has computed it.
    pub fn buffer(&self, param: &Param) -> Option<&Tensor> {
        self.buffers.get(&param.id())
    }

    /// Stores the new values in the buffers that `visit` lists, and removes them from here. [`crate::Optimizer::step`]
    /// does so too. If you sum the gradients of several passes for one step, call this after each pass, so that the
    /// running statistics of the next pass start from there.
    pub fn apply_buffers(&mut self, visit: impl FnOnce(&mut dyn FnMut(&str, &mut Param))) {
        visit(&mut |_, param| {
            if let Some(value) = self.buffers.remove(&param.id()) {
                param.set(value);
            }
        });
    }

    /// `self += other` for the gradients of weights. Those of variables ([`Gradients::wrt`]) are not changed.
    ///
    /// # Panics
    /// If both have a new value of the same buffer, one of which would be lost: see [`Gradients::apply_buffers`].
    #[track_caller]
    pub fn add(&mut self, other: &Gradients) {
        for (&param, gradient) in &other.weights {
            let sum = self.weights.get(&param).map(|before| kernels::add(before, gradient));
            self.weights.insert(param, sum.unwrap_or_else(|| gradient.clone()));
        }
        for (&buffer, value) in &other.buffers {
            let before = self.buffers.insert(buffer, value.clone());
            assert!(before.is_none(), "Gradients::add: two values of one buffer; call apply_buffers after each pass");
        }
    }

    /// `self ← factor · self`, for weights and variables.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.weights.values_mut().chain(self.variables.values_mut()) {
            *gradient = kernels::scale(gradient, factor);
        }
    }

    /// Clips by norm, as PyTorch's `clip_grad_norm_`: multiplies the gradients of weights by
    /// `min(1, max / (‖g‖ + 1e-6))`, where `‖g‖` is the root of the sum of all their squares. Returns the norm `‖g‖`
    /// before clipping, shape `[]`, on the device; `None` if there is no gradient. If one of them is NaN, all become
    /// NaN. Nothing is copied to the host.
    ///
    /// # Panics
    /// If the gradients are on two devices.
    #[track_caller]
    pub fn clip_norm(&mut self, max: f64) -> Option<Tensor> {
        let squares = self.weights.values().map(|gradient| kernels::sum(&kernels::map(gradient, &kernels::SQUARE, [])));
        let norm = kernels::map(&squares.reduce(|a, b| kernels::add(&a, &b))?, &kernels::SQRT, []);
        let factor = kernels::map(&norm, &CLIP_FACTOR, [max]);
        for gradient in self.weights.values_mut() {
            *gradient = kernels::mul(gradient, &factor);
        }
        Some(norm)
    }

    /// Clips each element of the weights' gradients to `-limit..=limit`, as PyTorch's `clip_grad_value_`. NaN stays.
    pub fn clip_value(&mut self, limit: f64) {
        for gradient in self.weights.values_mut() {
            *gradient = kernels::map(gradient, &kernels::CLAMP, [-limit, limit]);
        }
    }
}

/// The factor for gradients of a given norm, so that the norm is at most `max`.
static CLIP_FACTOR: Elementwise<1> = Elementwise {
    name: "clip_factor",
    parameters: ["limit"],
    value: |norm, [limit]| (limit / (norm + 1e-6)).min(1.0),
    slope: |norm, [limit]| if norm + 1e-6 > limit { -limit / (norm + 1e-6).powi(2) } else { 0.0 },
    cpu: None,
    wgsl: ["min(limit / (x + 1e-6), 1.0)", "select(0.0, -limit / pow(x + 1e-6, 2.0), x + 1e-6 > limit)"],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tape;
    use quarterturn_core::{Device, testing};

    fn weight(value: f64) -> Param {
        Param::weight(Tensor::reference([], vec![value]))
    }

    /// Of `w²`.
    fn of_square(w: &Param) -> Gradients {
        let tape = Tape::new();
        tape.param(w).mul(&tape.param(w)).backward().unwrap()
    }

    #[test]
    fn sums_and_multiples_of_gradients() {
        let (mut a, mut b) = (weight(3.0), weight(5.0));
        let mut sum = Gradients::new();
        sum.add(&of_square(&a));
        sum.add(&of_square(&a));
        sum.add(&of_square(&b));
        sum.scale(0.5);
        let named = sum.named(|f| [("a", &mut a), ("b", &mut b)].into_iter().for_each(|(name, p)| f(name, p)));
        let named: Vec<_> = named.iter().map(|(name, gradient)| (name.as_str(), gradient.f64s()[0])).collect();
        assert_eq!(named, [("a", 6.0), ("b", 5.0)]);
        sum.set(&a, Tensor::reference([], vec![-1.0]));
        assert_eq!(sum.of(&a).unwrap().f64s(), [-1.0]);
    }

    #[test]
    #[should_panic(expected = "Gradients::set: expected the weight's shape [], got [2]")]
    fn a_gradient_of_another_shape_is_refused() {
        Gradients::new().set(&weight(1.0), Tensor::reference([2], vec![0.0; 2]));
    }

    #[test]
    #[should_panic(expected = "Gradients::wrt: the variable is on another tape")]
    fn a_gradient_is_not_asked_of_another_tape() {
        let gradients = {
            let tape = Tape::new();
            tape.variable(Tensor::reference([], vec![2.0])).scale(3.0).backward().unwrap()
        };
        let tape = Tape::new();
        gradients.wrt(&tape.variable(Tensor::reference([], vec![2.0])));
    }

    /// One pass that adds 1 to a buffer.
    fn count(buffer: &Param, w: &Param) -> Gradients {
        let tape = Tape::new();
        tape.update_buffers([buffer], |[now]| [kernels::add(now, &Tensor::reference([], vec![1.0]))]);
        tape.param(w).backward().unwrap()
    }

    #[test]
    fn buffers_of_several_passes_are_applied_in_turn() {
        let (mut buffer, w) = (Param::buffer(Tensor::reference([], vec![10.0])), weight(1.0));
        let mut sum = Gradients::new();
        for _ in 0..3 {
            let mut gradients = count(&buffer, &w);
            gradients.apply_buffers(|f| f("count", &mut buffer));
            sum.add(&gradients);
        }
        assert_eq!((buffer.value().f64s()[0], sum.of(&w).unwrap().f64s()[0]), (13.0, 3.0));
    }

    #[test]
    #[should_panic(expected = "Gradients::add: two values of one buffer")]
    fn no_value_of_a_buffer_is_lost_in_a_sum() {
        let (buffer, w) = (Param::buffer(Tensor::reference([], vec![10.0])), weight(1.0));
        let mut sum = count(&buffer, &w);
        sum.add(&count(&buffer, &w));
    }

    /// The gradients of two weights, made on each device.
    fn clipped(clip: impl Fn(&mut Gradients) -> Option<Tensor>) -> Vec<[Vec<f64>; 3]> {
        let mut devices = testing::devices();
        devices.push(Device::Reference);
        let on = |device: &Device| {
            let [a, b] = [vec![3.0, -4.0], vec![0.0, 12.0, 0.5]]
                .map(|values| Tensor::from_f64([values.len()], values, device).unwrap());
            let [of_a, of_b] = [&a, &b].map(|value| Param::weight(value.clone()));
            let mut gradients = Gradients::new();
            gradients.set(&of_a, a);
            gradients.set(&of_b, b);
            let norm = clip(&mut gradients).map_or(vec![], |norm| norm.to_f64().unwrap());
            [norm, gradients.of(&of_a).unwrap().to_f64().unwrap(), gradients.of(&of_b).unwrap().to_f64().unwrap()]
        };
        devices.iter().map(on).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}, not {expected:?}");
    }

    #[test]
    fn the_norm_of_all_gradients_is_clipped() {
        let norm = 169.25f64.sqrt();
        for (max, factor) in [(2.0, 2.0 / norm), (20.0, 1.0)] {
            for [before, a, b] in clipped(|gradients| gradients.clip_norm(max)) {
                assert_close(&before, &[norm]);
                assert_close(&a, &[3.0 * factor, -4.0 * factor]);
                assert_close(&b, &[0.0, 12.0 * factor, 0.5 * factor]);
            }
        }
        assert!(Gradients::new().clip_norm(1.0).is_none());
    }

    #[test]
    fn a_gradient_that_is_nan_is_not_clipped_away() {
        let (a, b) = (weight(1.0), weight(1.0));
        let mut gradients = Gradients::new();
        gradients.set(&a, Tensor::reference([], vec![f64::NAN]));
        gradients.set(&b, Tensor::reference([], vec![1.0]));
        gradients.clip_value(0.5);
        assert!(gradients.of(&a).unwrap().f64s()[0].is_nan() && gradients.of(&b).unwrap().f64s()[0] == 0.5);
        assert!(gradients.clip_norm(1.0).unwrap().f64s()[0].is_nan());
        assert!(gradients.of(&b).unwrap().f64s()[0].is_nan());
    }

    #[test]
    fn values_are_clipped() {
        for [_, a, b] in clipped(|gradients| {
            gradients.clip_value(3.5);
            None
        }) {
            assert_eq!((a, b), (vec![3.0, -3.5], vec![0.0, 3.5, 0.5]));
        }
    }
}
