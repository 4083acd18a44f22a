//! The tape: what backward needs to know of the operations that forward did.
//!
//! A [`Var`] owns its value; the tape only holds, per operation, the closures that map the gradient of its result to
//! those of its operands, with the tensors they captured. So a value lives as long as someone needs it: in
//! evaluation until the next layer has read it, in training until backward has passed it.

use crate::{Param, ParamId};
use quarterturn_core::{Result, Shape, Tensor};
use quarterturn_kernels::{self as kernels, NormGradient, NormSums};
use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// Records operations for [`Var::backward`]. One tape serves one step.
#[derive(Default)]
pub struct Tape {
    state: RefCell<State>,
}

enum State {
    Recording(Record),
    /// Evaluation: nothing is tracked.
    Idle,
    /// Backward has consumed the record.
    Spent,
}

impl Default for State {
    fn default() -> Self {
        State::Recording(Record::default())
    }
}

/// Nodes in order of creation, which is a topological order.
#[derive(Default)]
struct Record {
    nodes: Vec<Node>,
    /// Where each parameter entered, so that one used twice gets one gradient.
    params: HashMap<ParamId, usize>,
    buffers: HashMap<ParamId, Tensor>,
}

struct Node {
    shape: Shape,
    /// Empty for a leaf.
    edges: Vec<Edge>,
}

/// Maps the gradient of a result, its own to drop, to those of the operands.
type Vjp = Box<dyn FnOnce(Tensor) -> Vec<Tensor>>;

/// The way from a node's gradient to those of operands that one closure yields together.
pub(crate) struct Edge {
    /// The operands' nodes; `None` for a constant, whose gradient is dropped.
    operands: Vec<Option<usize>>,
    vjp: Vjp,
}

/// A value on a tape. Cloning shares it.
#[derive(Clone)]
pub struct Var<'t> {
    tape: &'t Tape,
    value: Tensor,
    /// `None` if no gradient flows here.
    node: Option<usize>,
    norm: Option<Rc<Norm>>,
}

/// The norm whose results a value is. Whoever makes the value's whole gradient may leave it the sums that its own gradient
/// begins with.
pub(crate) struct Norm {
    pub gradient: NormGradient,
    pub sums: RefCell<Option<NormSums>>,
}

impl Tape {
    /// A tape that records, for training.
    pub fn new() -> Self {
        Self::default()
    }

    /// A tape that does not record, for evaluation: every value is freed with its last [`Var`].
    pub fn evaluation() -> Self {
        Tape { state: RefCell::new(State::Idle) }
    }

    /// Whether operations are recorded.
    pub fn is_recording(&self) -> bool {
        matches!(*self.state.borrow(), State::Recording(_))
    }

    /// A value that needs no gradient.
    pub fn constant(&self, value: Tensor) -> Var<'_> {
        Var { tape: self, value, node: None, norm: None }
    }

    /// A value whose gradient [`Gradients::wrt`] will tell.
    pub fn variable(&self, value: Tensor) -> Var<'_> {
        self.record(value, Vec::new(), true)
    }

    /// The parameter's value; tracked if it is a weight.
    pub fn param(&self, param: &Param) -> Var<'_> {
        let value = param.value().clone();
        let mut state = self.state.borrow_mut();
        let node = match (&mut *state, param.kind()) {
            (State::Recording(record), crate::Kind::Weight) => {
                let Record { nodes, params, .. } = record;
                Some(*params.entry(param.id()).or_insert_with(|| {
                    nodes.push(Node { shape: value.shape(), edges: Vec::new() });
                    nodes.len() - 1
                }))
            }
            _ => None,
        };
        Var { tape: self, value, node, norm: None }
    }

    /// Notes the new value of a buffer, to be applied after the step by [`crate::Optimizer::step`].
    ///
    /// # Panics
    /// If `param` is no buffer or the shape differs from it.
    #[track_caller]
    pub fn update_buffer(&self, param: &Param, value: Tensor) {
        assert_eq!(param.kind(), crate::Kind::Buffer, "update_buffer: expected a buffer");
        assert_eq!(param.value().shape(), value.shape(), "update_buffer: expected the shape of the buffer");
        if let State::Recording(record) = &mut *self.state.borrow_mut() {
            record.buffers.insert(param.id(), value);
        }
    }

    /// The result of an operation. `leaf` forces a node where there is no edge.
    #[track_caller]
    fn record(&self, value: Tensor, edges: Vec<Edge>, leaf: bool) -> Var<'_> {
        let mut state = self.state.borrow_mut();
        let node = match &mut *state {
            State::Recording(record) if leaf || !edges.is_empty() => {
                record.nodes.push(Node { shape: value.shape(), edges });
                Some(record.nodes.len() - 1)
            }
            State::Spent if leaf || !edges.is_empty() => {
                panic!("Tape: backward has consumed it; take a new one per step")
            }
            _ => None,
        };
        Var { tape: self, value, node, norm: None }
    }
}

impl<'t> Var<'t> {
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

    /// Gradients of this scalar with respect to every variable and parameter that it depends on. Consumes the record;
    /// saved tensors are freed as the pass goes.
    ///
    /// # Errors
    /// When the GPU has no room for the first gradient.
    ///
    /// # Panics
    /// If this is no scalar, or depends on nothing tracked.
    #[track_caller]
    pub fn backward(&self) -> Result<Gradients> {
        assert_eq!(self.value.len(), 1, "backward: expected one value, got {:?}", self.shape());
        Ok(self.backward_from(Tensor::full(self.shape(), 1.0, &self.value.device())?))
    }

    /// As [`Var::backward`], of `⟨self, dy⟩`.
    ///
    /// # Panics
    /// If `dy` has another shape, or this depends on nothing tracked.
    #[track_caller]
    pub fn backward_from(&self, dy: Tensor) -> Gradients {
        assert_eq!(self.shape(), dy.shape(), "backward: expected a gradient of the value's shape");
        let root = self.node.expect("backward: this value depends on no variable and no weight");
        let State::Recording(mut record) = self.tape.state.replace(State::Spent) else {
            panic!("Tape: backward has consumed it; take a new one per step")
        };
        let mut gradients: Vec<Option<Tensor>> = Vec::new();
        gradients.resize_with(record.nodes.len(), || None);
        gradients[root] = Some(dy);
        let mut leaves = HashMap::new();
        while let Some(node) = record.nodes.pop() {
            let index = record.nodes.len();
            let Some(dy) = gradients[index].take() else { continue };
            if node.edges.is_empty() {
                leaves.insert(index, dy);
                continue;
            }
            let mut dy = Some(dy);
            let mut edges = node.edges.into_iter().peekable();
            while let Some(edge) = edges.next() {
                // The last one may drop it.
                let dy = if edges.peek().is_some() { dy.clone() } else { dy.take() };
                let results = (edge.vjp)(dy.expect("taken by the last edge"));
                assert_eq!(results.len(), edge.operands.len(), "vjp: one gradient per operand");
                for (operand, d) in edge.operands.into_iter().zip(results) {
                    let Some(operand) = operand else { continue };
                    assert_eq!(d.shape(), record.nodes[operand].shape, "vjp: expected the operand's shape");
                    let sum = match gradients[operand].take() {
                        Some(before) => kernels::add(&before, &d),
                        None => d,
                    };
                    gradients[operand] = Some(sum);
                }
            }
        }
        Gradients { leaves, params: record.params, buffers: record.buffers }
    }

    /// The result `value` of an operation on this tape.
    #[track_caller]
    pub(crate) fn result(&self, value: Tensor, edges: impl IntoIterator<Item = Option<Edge>>) -> Var<'t> {
        self.tape.record(value, edges.into_iter().flatten().collect(), false)
    }

    /// Whether a gradient flows here.
    pub(crate) fn is_tracked(&self) -> bool {
        self.node.is_some()
    }

    /// The norm whose results this is.
    pub(crate) fn norm(&self) -> Option<Rc<Norm>> {
        self.norm.clone()
    }

    /// The same, as the results of a norm.
    pub(crate) fn of_norm(self, norm: Rc<Norm>) -> Self {
        Var { norm: Some(norm), ..self }
    }

    /// The closure that maps the result's gradient to this operand's; dropped at once, with what it captured, if
    /// this operand is constant.
    pub(crate) fn edge(&self, vjp: impl FnOnce(&Tensor) -> Tensor + 'static) -> Option<Edge> {
        Edge::joint([self], |dy| vec![vjp(dy)])
    }
}

impl Edge {
    /// One closure for several operands, whose gradients come out of one sweep. `None` if all are constant.
    pub(crate) fn joint<const N: usize>(
        operands: [&Var<'_>; N],
        vjp: impl FnOnce(&Tensor) -> Vec<Tensor> + 'static,
    ) -> Option<Edge> {
        Self::consuming(operands, move |dy| vjp(&dy))
    }

    /// As [`Edge::joint`], for a closure that drops the result's gradient as soon as it can.
    pub(crate) fn consuming<const N: usize>(
        operands: [&Var<'_>; N],
        vjp: impl FnOnce(Tensor) -> Vec<Tensor> + 'static,
    ) -> Option<Edge> {
        let operands: Vec<_> = operands.into_iter().map(|operand| operand.node).collect();
        operands.iter().any(Option::is_some).then(|| Edge { operands, vjp: Box::new(vjp) })
    }
}

/// What a step yields: gradients of the leaves, and the buffers' new values.
pub struct Gradients {
    leaves: HashMap<usize, Tensor>,
    params: HashMap<ParamId, usize>,
    buffers: HashMap<ParamId, Tensor>,
}

impl Gradients {
    /// The gradient of a weight; `None` if the result did not depend on it.
    pub fn of(&self, param: &Param) -> Option<&Tensor> {
        self.leaves.get(self.params.get(&param.id())?)
    }

    /// The gradient of a [`Tape::variable`] of the same tape; `None` if the result did not depend on it.
    pub fn wrt(&self, variable: &Var<'_>) -> Option<&Tensor> {
        self.leaves.get(&variable.node?)
    }

    /// The new value that the step noted for a buffer.
    pub fn buffer(&self, param: &Param) -> Option<&Tensor> {
        self.buffers.get(&param.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn_core::Device;

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
    fn constants_drop_their_closures() {
        let tape = Tape::new();
        let (x, w) = (tape.constant(scalar(3.0)), tape.variable(scalar(2.0)));
        let captured = std::rc::Rc::new(());
        let held = captured.clone();
        let edge = x.edge(move |dy| {
            let _ = &held;
            dy.clone()
        });
        assert!(edge.is_none());
        assert_eq!(std::rc::Rc::strong_count(&captured), 1);
        let gradients = x.mul(&w).backward().unwrap();
        assert_eq!(gradients.wrt(&w).unwrap().f64s(), [3.0]);
        assert!(gradients.wrt(&x).is_none());
    }

    #[test]
    fn backward_frees_what_forward_saved() {
        let tape = Tape::new();
        let held = std::rc::Rc::new(());
        let x = tape.variable(scalar(1.0));
        let saved = held.clone();
        let y = x.result(
            scalar(1.0),
            [x.edge(move |dy| {
                let _ = &saved;
                dy.clone()
            })],
        );
        assert_eq!(std::rc::Rc::strong_count(&held), 2);
        y.backward().unwrap();
        assert_eq!(std::rc::Rc::strong_count(&held), 1);
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
    #[should_panic(expected = "depends on no variable")]
    fn an_evaluation_tape_tracks_nothing() {
        let tape = Tape::evaluation();
        let weight = Param::weight(Tensor::full([], 1.0, &Device::Reference).unwrap());
        let _ = tape.param(&weight).mul(&tape.variable(scalar(1.0))).backward();
    }
}
