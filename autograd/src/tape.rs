//! The tape: the record of the forward pass that the backward pass needs.
//!
//! A [`Var`] owns its value. For each operation the tape holds only a closure, with the tensors that it captured. The
//! closure maps the gradient of the result to those of the operands. So memory is freed early: in evaluation as soon as
//! the next layer has read a value, in training as soon as the backward pass has used it.

use crate::{Gradients, Kind, Param, ParamId, Var};
use quarterturn_core::{Shape, Tensor};
use quarterturn_kernels as kernels;
use std::{
    cell::{RefCell, RefMut},
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU64, Ordering},
};

/// Records the operations of one forward pass, for [`Var::backward`]. Make a new tape for each training step.
///
/// ```
/// use quarterturn_autograd::Tape;
/// use quarterturn_core::{Device, Tensor};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let tape = Tape::new();
/// let x = tape.variable(Tensor::full([2], 3.0, &Device::Cpu)?); // PyTorch: requires_grad=True
/// let gradients = x.mul(&x).sum().backward()?;
/// assert_eq!(gradients.wrt(&x).unwrap().to_vec()?, [6.0, 6.0]); // PyTorch: x.grad
/// # Ok(())
/// # }
/// ```
pub struct Tape {
    id: TapeId,
    state: RefCell<State>,
}

/// Tells a tape from every other one of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TapeId(u64);

enum State {
    Recording(Record),
    /// Evaluation: nothing is tracked.
    Evaluating,
    /// Backward has consumed the record.
    Spent,
}

/// Nodes in order of creation, which is a topological order.
#[derive(Default)]
struct Record {
    nodes: Vec<Node>,
    /// Where each parameter entered, so that one used twice gets one gradient.
    params: HashMap<ParamId, usize>,
    /// The buffers' values after what the forward pass has done so far.
    buffers: HashMap<ParamId, Tensor>,
}

struct Node {
    shape: Shape,
    /// `None` for a leaf.
    operation: Option<Operation>,
}

/// The way from the gradient of a result to those of its operands.
struct Operation {
    name: &'static str,
    /// The operands' nodes; `None` for a constant.
    operands: Vec<Option<usize>>,
    vjp: Vjp,
}

/// Maps the gradient of a result, its own to drop, to those of the operands.
enum Vjp {
    Plain(Box<dyn FnOnce(Tensor) -> Gathered>),
    /// It adds what has arrived for the first operand before to what it returns for it.
    Adding(Box<dyn FnOnce(Tensor, Option<Tensor>) -> Gathered>),
}

/// The gradients of all operands.
type Gathered = Vec<Option<Tensor>>;

impl Default for Tape {
    fn default() -> Self {
        Self::new()
    }
}

impl Tape {
    /// A tape that records, for training.
    pub fn new() -> Self {
        Self::in_state(State::Recording(Record::default()))
    }

    /// A tape that records nothing, for evaluation (PyTorch: `torch.no_grad()`).
    #[doc(alias = "no_grad")]
    pub fn evaluation() -> Self {
        Self::in_state(State::Evaluating)
    }

    fn in_state(state: State) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Tape { id: TapeId(NEXT.fetch_add(1, Ordering::Relaxed)), state: RefCell::new(state) }
    }

    pub(crate) fn id(&self) -> TapeId {
        self.id
    }

    /// Whether operations are recorded.
    pub fn is_recording(&self) -> bool {
        matches!(*self.state.borrow(), State::Recording(_))
    }

    /// Puts a tensor that needs no gradient on the tape, such as the images.
    pub fn constant(&self, value: Tensor) -> Var<'_> {
        Var::new(self, value, None)
    }

    /// Puts a tensor on the tape whose gradient is wanted. [`Gradients::wrt`] returns it.
    ///
    /// # Panics
    /// If backward has consumed the tape.
    #[track_caller]
    pub fn variable(&self, value: Tensor) -> Var<'_> {
        let node = self.record().map(|mut record| record.push(Node { shape: value.shape(), operation: None }));
        Var::new(self, value, node)
    }

    /// Puts the value of a parameter on the tape. Its gradient is computed if it is a weight and not frozen.
    /// [`Gradients::of`] returns it.
    ///
    /// # Panics
    /// If backward has consumed the tape.
    #[track_caller]
    pub fn param(&self, param: &Param) -> Var<'_> {
        let value = param.value().clone();
        if param.kind() != Kind::Weight || param.is_frozen() {
            return self.constant(value);
        }
        let node = self.record().map(|mut record| {
            let known = record.params.get(&param.id()).copied();
            known.unwrap_or_else(|| {
                let node = record.push(Node { shape: value.shape(), operation: None });
                record.params.insert(param.id(), node);
                node
            })
        });
        Var::new(self, value, node)
    }

    /// Records new values of `buffers`, such as running statistics. [`crate::Optimizer::step`] or
    /// [`Gradients::apply_buffers`] stores them after the step. `update` maps the present values to the new ones. If a
    /// module is used twice in one step, the second update starts from the values of the first. On a tape for
    /// evaluation nothing happens.
    ///
    /// # Panics
    /// If a parameter is no buffer, a new value differs in shape, or backward has consumed the tape.
    #[track_caller]
    pub fn update_buffers<const N: usize>(
        &self,
        buffers: [&Param; N],
        update: impl FnOnce([&Tensor; N]) -> [Tensor; N],
    ) {
        let Some(record) = self.record() else { return };
        let now = buffers.map(|buffer| {
            assert_eq!(buffer.kind(), Kind::Buffer, "update_buffers: expected buffers");
            record.buffers.get(&buffer.id()).unwrap_or(buffer.value()).clone()
        });
        drop(record);
        let new = update(now.each_ref());
        let mut record = self.record().expect("recorded before `update`");
        for (buffer, value) in buffers.into_iter().zip(new) {
            let (old, new) = (buffer.value().shape(), value.shape());
            assert_eq!(old, new, "update_buffers: expected a value of the buffer's shape {old:?}, got {new:?}");
            record.buffers.insert(buffer.id(), value);
        }
    }

    /// The result `value` of an operation on `operands` of this tape. If all of them are constant, `vjp` is dropped at
    /// once with all that it captured.
    #[track_caller]
    pub(crate) fn push(
        &self,
        name: &'static str,
        operands: &[&Var<'_>],
        value: Tensor,
        vjp: impl FnOnce(Tensor) -> Vec<Option<Tensor>> + 'static,
    ) -> Var<'_> {
        self.push_node(name, operands, value, || Vjp::Plain(Box::new(vjp)))
    }

    /// As [`Tape::push`], for a `vjp` that adds: it gets the gradient of the first operand as far as later operations have made
    /// it, and returns the sum of that and its own, which it can make in one go.
    #[track_caller]
    pub(crate) fn push_adding(
        &self,
        name: &'static str,
        operands: &[&Var<'_>],
        value: Tensor,
        vjp: impl FnOnce(Tensor, Option<Tensor>) -> Vec<Option<Tensor>> + 'static,
    ) -> Var<'_> {
        self.push_node(name, operands, value, || Vjp::Adding(Box::new(vjp)))
    }

    #[track_caller]
    fn push_node(
        &self,
        name: &'static str,
        operands: &[&Var<'_>],
        value: Tensor,
        vjp: impl FnOnce() -> Vjp,
    ) -> Var<'_> {
        if !operands.iter().any(|operand| operand.is_tracked()) {
            return self.constant(value);
        }
        let operands = operands.iter().map(|operand| operand.node()).collect();
        let operation = Some(Operation { name, operands, vjp: vjp() });
        let node = self.record().map(|mut record| record.push(Node { shape: value.shape(), operation }));
        Var::new(self, value, node)
    }

    /// The record; `None` in evaluation.
    #[track_caller]
    fn record(&self) -> Option<RefMut<'_, Record>> {
        assert!(!matches!(*self.state.borrow(), State::Spent), "{SPENT}");
        RefMut::filter_map(self.state.borrow_mut(), |state| match state {
            State::Recording(record) => Some(record),
            _ => None,
        })
        .ok()
    }

    /// Walks the record backwards from node `root`, whose gradient is `dy`. `root` is `None` for a constant.
    #[track_caller]
    pub(crate) fn backward(&self, root: Option<usize>, dy: Tensor) -> Gradients {
        match *self.state.borrow() {
            State::Evaluating => panic!("backward: an evaluation tape records nothing; take Tape::new() for training"),
            State::Spent => panic!("{SPENT}"),
            State::Recording(_) => {}
        }
        let root = root.expect("backward: this value depends on no variable and no weight");
        let State::Recording(record) = self.state.replace(State::Spent) else { unreachable!("looked at above") };
        let Record { mut nodes, params, buffers } = record;
        let mut gradients: Vec<Option<Tensor>> = Vec::new();
        gradients.resize_with(nodes.len(), || None);
        gradients[root] = Some(dy);
        let mut leaves = HashMap::new();
        while let Some(node) = nodes.pop() {
            let Some(dy) = gradients[nodes.len()].take() else { continue };
            let Some(Operation { name, operands, vjp }) = node.operation else {
                leaves.insert(nodes.len(), dy);
                continue;
            };
            let results = match vjp {
                Vjp::Plain(vjp) => vjp(dy),
                Vjp::Adding(vjp) => vjp(dy, operands[0].and_then(|operand| gradients[operand].take())),
            };
            let (expected, got) = (operands.len(), results.len());
            assert_eq!(got, expected, "{name}: expected gradients of {expected} operands, got {got}");
            for (i, (operand, d)) in operands.into_iter().zip(results).enumerate() {
                let Some(operand) = operand else { continue };
                let d = d.unwrap_or_else(|| panic!("{name}: expected a gradient of operand {i}, got none"));
                let (expected, got) = (nodes[operand].shape, d.shape());
                assert_eq!(got, expected, "{name}: expected a gradient {expected:?} of operand {i}, got {got:?}");
                let sum = match gradients[operand].take() {
                    Some(before) => kernels::add(&before, &d),
                    None => d,
                };
                gradients[operand] = Some(sum);
            }
        }
        let of_params = params.into_iter().filter_map(|(param, node)| Some((param, leaves.remove(&node)?)));
        let weights: BTreeMap<_, _> = of_params.collect();
        Gradients { tape: Some(self.id), variables: leaves, weights, buffers }
    }
}

const SPENT: &str = "Tape: backward has consumed it; take a new one per step";

impl Record {
    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::Device;
    use std::rc::Rc;

    fn scalar(value: f64) -> Tensor {
        Tensor::reference([], vec![value])
    }

    #[test]
    fn a_value_used_twice_sums_its_gradients() {
        let tape = Tape::new();
        let x = tape.variable(scalar(3.0));
        // y = x² · x, dy/dx = 3x² = 27
        let gradients = x.mul(&x).mul(&x).backward().unwrap();
        assert_eq!(gradients.wrt(&x).unwrap().f64s(), [27.0]);
    }

    #[test]
    fn a_parameter_used_twice_has_one_gradient() {
        let tape = Tape::new();
        let weight = Param::weight(scalar(2.0));
        let gradients = tape.param(&weight).mul(&tape.param(&weight)).backward().unwrap();
        assert_eq!(gradients.of(&weight).unwrap().f64s(), [4.0]);
    }

    #[test]
    fn a_buffer_updated_twice_keeps_both_updates_in_order() {
        let (mut buffer, weight) = (Param::buffer(scalar(1.0)), Param::weight(scalar(1.0)));
        let tape = Tape::new();
        tape.update_buffers([&buffer], |[now]| [kernels::add(now, &scalar(2.0))]);
        tape.update_buffers([&buffer], |[now]| [kernels::scale(now, 10.0)]);
        let mut gradients = tape.param(&weight).backward().unwrap();
        gradients.apply_buffers(|f| f("buffer", &mut buffer));
        assert_eq!(buffer.value().f64s(), [30.0]);
        assert!(gradients.buffer(&buffer).is_none());
    }

    #[test]
    fn what_constants_do_not_need_is_dropped() {
        let tape = Tape::new();
        let (x, w) = (tape.constant(scalar(3.0)), tape.variable(scalar(2.0)));
        let captured = Rc::new(());
        let held = captured.clone();
        let y = Var::custom("held", &[&x, &x], scalar(1.0), move |_| {
            let _ = &held;
            vec![None, None]
        });
        assert!(!y.is_tracked());
        assert_eq!(Rc::strong_count(&captured), 1);
        let gradients = x.mul(&w).backward().unwrap();
        assert_eq!(gradients.wrt(&w).unwrap().f64s(), [3.0]);
        assert!(gradients.wrt(&x).is_none());
    }

    #[test]
    fn backward_frees_what_forward_saved() {
        let tape = Tape::new();
        let held = Rc::new(());
        let x = tape.variable(scalar(1.0));
        let saved = held.clone();
        let y = Var::custom("held", &[&x], scalar(1.0), move |dy| {
            let _ = &saved;
            vec![Some(dy)]
        });
        assert_eq!(Rc::strong_count(&held), 2);
        y.backward().unwrap();
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn an_operation_that_adds_gets_what_has_arrived() {
        let tape = Tape::new();
        let x = tape.variable(scalar(3.0));
        let adding = tape.push_adding("adding", &[&x], scalar(3.0), |dy, arrived| {
            let arrived = arrived.expect("that of the product");
            assert_eq!(arrived.f64s(), [3.0]);
            vec![Some(kernels::add(&dy, &arrived))]
        });
        // y = 3x, of a product that comes later, plus x.
        let y = adding.add(&x.scale(3.0));
        assert_eq!(y.backward().unwrap().wrt(&x).unwrap().f64s(), [4.0]);
    }

    #[test]
    fn a_detached_operand_is_a_constant() {
        let tape = Tape::new();
        let x = tape.variable(scalar(3.0));
        let y = x.mul(&x.detach());
        assert_eq!(y.backward().unwrap().wrt(&x).unwrap().f64s(), [3.0]);
    }

    /// The operation owns the only gradient there is, so that it may drop it early.
    #[test]
    fn an_operation_owns_the_gradient_of_its_result() {
        let tape = Tape::new();
        let x = tape.variable(Tensor::full([4], 1.0, &Device::Cpu).unwrap());
        let y = Var::custom("owner", &[&x], x.value().clone(), |mut dy| {
            let before = dy.f32s().as_ptr();
            assert_eq!(dy.f32s_mut().as_ptr(), before, "somebody else holds it");
            vec![Some(dy)]
        });
        y.backward_from(Tensor::full([4], 2.0, &Device::Cpu).unwrap());
    }

    #[test]
    #[should_panic(expected = "mul: operands on two tapes")]
    fn operands_of_two_tapes_are_refused() {
        let (a, b) = (Tape::new(), Tape::new());
        let _ = a.variable(scalar(1.0)).mul(&b.constant(scalar(2.0)));
    }

    #[test]
    #[should_panic(expected = "add: operands on two tapes")]
    fn operands_of_two_evaluation_tapes_are_refused() {
        let (a, b) = (Tape::evaluation(), Tape::evaluation());
        let _ = a.constant(scalar(1.0)).add(&b.constant(scalar(2.0)));
    }

    #[test]
    #[should_panic(expected = "take a new one per step")]
    fn a_spent_tape_refuses_to_record() {
        let tape = Tape::new();
        let x = tape.variable(scalar(1.0));
        x.mul(&x).backward().unwrap();
        let _ = x.mul(&x);
    }

    #[test]
    #[should_panic(expected = "take a new one per step")]
    fn a_spent_tape_refuses_weights() {
        let tape = Tape::new();
        tape.variable(scalar(1.0)).backward().unwrap();
        let _ = tape.param(&Param::weight(scalar(1.0)));
    }

    #[test]
    #[should_panic(expected = "take a new one per step")]
    fn a_second_backward_is_refused() {
        let tape = Tape::new();
        let y = tape.variable(scalar(1.0)).scale(2.0);
        y.backward().unwrap();
        let _ = y.backward();
    }

    #[test]
    #[should_panic(expected = "backward: an evaluation tape records nothing")]
    fn an_evaluation_tape_tracks_nothing() {
        let tape = Tape::evaluation();
        let weight = Param::weight(scalar(1.0));
        let _ = tape.param(&weight).mul(&tape.variable(scalar(1.0))).backward();
    }

    #[test]
    #[should_panic(expected = "depends on no variable")]
    fn a_constant_has_no_gradients() {
        let _ = Tape::new().constant(scalar(1.0)).backward();
    }

    /// `y = x`, whose gradient is told by `vjp`.
    fn told(vjp: impl FnOnce(Tensor) -> Vec<Option<Tensor>> + 'static) {
        let tape = Tape::new();
        let x = tape.variable(scalar(1.0));
        let _ = Var::custom("told", &[&x], scalar(1.0), vjp).backward();
    }

    #[test]
    #[should_panic(expected = "told: expected gradients of 1 operands, got 2")]
    fn one_gradient_an_operand() {
        told(|dy| vec![Some(dy.clone()), Some(dy)]);
    }

    #[test]
    #[should_panic(expected = "told: expected a gradient of operand 0, got none")]
    fn a_tracked_operand_has_a_gradient() {
        told(|_| vec![None]);
    }

    #[test]
    #[should_panic(expected = "told: expected a gradient [] of operand 0, got [1]")]
    fn a_gradient_has_the_shape_of_its_operand() {
        told(|dy| vec![Some(dy.reshape([1]))]);
    }
}
