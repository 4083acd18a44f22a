//! A value on a tape, and the one way by which operations get there.

use crate::{Gradients, Tape};
use quarterturn_core::{Result, Shape, Tensor};
use std::{any::Any, rc::Rc};

/// A value on a tape. Cloning shares it.
#[derive(Clone)]
pub struct Var<'t> {
    tape: &'t Tape,
    value: Tensor,
    /// `None` if no gradient flows here.
    node: Option<usize>,
    note: Option<Rc<dyn Any>>,
}

impl<'t> Var<'t> {
    pub(crate) fn new(tape: &'t Tape, value: Tensor, node: Option<usize>) -> Self {
        Var { tape, value, node, note: None }
    }

    /// The result `value` of an operation on `operands`. All operations of this crate are made by this function too.
    ///
    /// Backward calls `vjp` (the vector-Jacobian product) once, with the gradient `dy` of a scalar with respect to the
    /// result, in the result's shape. It returns the gradients with respect to the operands, in their order and shapes:
    /// `None` for a constant one, for which [`Var::is_tracked`] is false. `vjp` owns `dy` and whatever tensors it has
    /// captured, and frees memory early by dropping them early; [`Var::keeps`] helps to capture only what is needed. If
    /// no operand is tracked, `vjp` is dropped at once. `name` is what panics call the operation.
    ///
    /// ```
    /// # use quarterturn_autograd::{Tape, Var};
    /// # use quarterturn_core::{Device, Tensor};
    /// # use quarterturn_kernels as kernels;
    /// /// `y = a · b`, elementwise.
    /// fn product<'t>(a: &Var<'t>, b: &Var<'t>) -> Var<'t> {
    ///     let y = kernels::mul(a.value(), b.value());
    ///     let (for_a, for_b) = (a.keeps(b.value()), b.keeps(a.value()));
    ///     Var::custom("product", &[a, b], y, move |dy| {
    ///         vec![for_a.map(|b| kernels::mul(&dy, &b)), for_b.map(|a| kernels::mul(&dy, &a))]
    ///     })
    /// }
    ///
    /// # fn main() -> quarterturn_core::Result<()> {
    /// let tape = Tape::new();
    /// let a = tape.variable(Tensor::from_vec([2], vec![1.0, 2.0], &Device::Cpu)?);
    /// let b = tape.constant(Tensor::from_vec([2], vec![3.0, 4.0], &Device::Cpu)?);
    /// let gradients = product(&a, &b).sum().backward()?;
    /// assert_eq!(gradients.wrt(&a).unwrap().to_vec()?, [3.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    /// If there is no operand, operands are on two tapes, or backward has consumed the tape. In backward: if `vjp` does
    /// not return one gradient per operand, returns none for a tracked one, or one of another shape.
    #[track_caller]
    pub fn custom(
        name: &'static str,
        operands: &[&Var<'t>],
        value: Tensor,
        vjp: impl FnOnce(Tensor) -> Vec<Option<Tensor>> + 'static,
    ) -> Var<'t> {
        let [first, others @ ..] = operands else { panic!("{name}: expected at least one operand") };
        for other in others {
            assert!(other.tape.id() == first.tape.id(), "{name}: operands on two tapes");
        }
        first.tape.push(name, operands, value, vjp)
    }

    /// As [`Var::custom`], of this operand alone.
    #[track_caller]
    pub(crate) fn unary(
        &self,
        name: &'static str,
        value: Tensor,
        vjp: impl FnOnce(Tensor) -> Tensor + 'static,
    ) -> Var<'t> {
        Var::custom(name, &[self], value, move |dy| vec![Some(vjp(dy))])
    }

    /// The tape it is on.
    pub fn tape(&self) -> &'t Tape {
        self.tape
    }

    /// Its value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The extents of its value.
    pub fn shape(&self) -> Shape {
        self.value.shape()
    }

    /// Whether a gradient flows here: it is a variable or a weight of a recording tape, or depends on one.
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// A share of `value` if a gradient flows here: what the gradient with respect to this operand is computed of.
    pub fn keeps(&self, value: &Tensor) -> Option<Tensor> {
        self.is_tracked().then(|| value.clone())
    }

    /// The same value as a constant: no gradient flows back from it.
    #[must_use]
    pub fn detach(&self) -> Var<'t> {
        self.tape.constant(self.value.clone())
    }

    pub(crate) fn node(&self) -> Option<usize> {
        self.node
    }

    /// The same value with a note for the operation that takes it, in place of any other.
    pub(crate) fn with_note(self, note: Rc<dyn Any>) -> Self {
        Var { note: Some(note), ..self }
    }

    /// The note of type `T` that the operation left which made this value.
    pub(crate) fn note<T: 'static>(&self) -> Option<Rc<T>> {
        self.note.clone()?.downcast().ok()
    }

    /// Gradients of this scalar with respect to every variable and parameter that it depends on. Consumes the record;
    /// saved tensors are freed as the pass goes.
    ///
    /// # Errors
    /// When the GPU has no room for the first gradient.
    ///
    /// # Panics
    /// If this is no scalar, depends on nothing tracked, or the tape is one for evaluation or has been consumed already.
    #[track_caller]
    pub fn backward(&self) -> Result<Gradients> {
        assert_eq!(self.value.len(), 1, "backward: expected one value, got {:?}", self.shape());
        Ok(self.backward_from(Tensor::full(self.shape(), 1.0, &self.value.device())?))
    }

    /// As [`Var::backward`], of `⟨self, dy⟩`.
    ///
    /// # Panics
    /// If `dy` differs in shape or device, or as [`Var::backward`].
    #[track_caller]
    pub fn backward_from(&self, dy: Tensor) -> Gradients {
        let (shape, device) = (self.shape(), self.value.device());
        assert_eq!(
            shape,
            dy.shape(),
            "backward: expected a gradient of the value's shape {shape:?}, got {:?}",
            dy.shape()
        );
        assert!(device.same(&dy.device()), "backward: expected a gradient on {device}, got one on {}", dy.device());
        self.tape.backward(self.node, dy)
    }
}
