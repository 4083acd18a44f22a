//! Tensors on a tape.

use crate::{Gradients, Tape};
use quarterturn_core::{Result, Shape, Tensor};
use std::{any::Any, rc::Rc};

/// A tensor on a [`Tape`], with methods for all differentiable operations. Cloning shares the tensor.
///
/// PyTorch's counterpart is a tensor with a gradient function. [`Tape::constant`], [`Tape::variable`] and
/// [`Tape::param`] make the first ones; every operation makes further ones on the same tape.
#[derive(Clone)]
#[must_use]
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

    /// Adds an operation of your own to the tape (PyTorch: `torch.autograd.Function`). You have computed its result
    /// `value` from the values of `operands`; `vjp` computes the gradients. All operations of this crate use this
    /// function too.
    ///
    /// The backward pass calls `vjp` (the vector-Jacobian product) once, with the gradient `dy` of the loss with
    /// respect to the result. It must return the gradients with respect to the operands, in their order and shapes. For
    /// an operand without gradient ([`Var::is_tracked`] is false) return `None`. The tensors that `vjp` captures stay
    /// in memory until the backward pass; [`Var::keeps`] helps to capture only those that are needed. If no operand is
    /// tracked, `vjp` is dropped at once. `name` is the operation's name in the messages of panics.
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
        Self::tape_of(name, operands).push(name, operands, value, vjp)
    }

    /// The one tape of some operands.
    #[track_caller]
    fn tape_of(name: &str, operands: &[&Var<'t>]) -> &'t Tape {
        let [first, others @ ..] = operands else { panic!("{name}: expected at least one operand") };
        for other in others {
            assert!(other.tape.id() == first.tape.id(), "{name}: operands on two tapes");
        }
        first.tape
    }

    /// As [`Var::custom`], for a `vjp` that adds what has arrived of the first operand's gradient to its own:
    /// [`Tape::push_adding`].
    #[track_caller]
    pub(crate) fn custom_adding(
        name: &'static str,
        operands: &[&Var<'t>],
        value: Tensor,
        vjp: impl FnOnce(Tensor, Option<Tensor>) -> Vec<Option<Tensor>> + 'static,
    ) -> Var<'t> {
        Self::tape_of(name, operands).push_adding(name, operands, value, vjp)
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

    /// Whether this has a gradient: it is a variable or a weight on a recording tape, or was computed from one
    /// (PyTorch: `requires_grad`).
    pub fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// A clone of `value` if this operand is tracked, else `None`. For `vjp` in [`Var::custom`]: captures a tensor only
    /// if the gradient of this operand needs it.
    pub fn keeps(&self, value: &Tensor) -> Option<Tensor> {
        self.is_tracked().then(|| value.clone())
    }

    /// The same value without gradient (PyTorch: `detach`).
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

    /// Computes the gradients of this scalar (the loss) with respect to all variables and weights that it depends on.
    /// It can be called once for each tape: tensors that the tape holds are freed on the way.
    ///
    /// # Errors
    /// When the GPU has no room for the first gradient.
    ///
    /// # Panics
    /// If this is no scalar, depends on no variable or weight, or if the tape is one for evaluation or has been used
    /// for a backward pass already.
    #[track_caller]
    pub fn backward(&self) -> Result<Gradients> {
        assert_eq!(self.value.len(), 1, "backward: expected one value, got {:?}", self.shape());
        Ok(self.backward_from(Tensor::full(self.shape(), 1.0, &self.value.device())?))
    }

    /// As [`Var::backward`], for outputs of any shape whose gradient `dy` you have computed yourself (PyTorch:
    /// `y.backward(dy)`).
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
