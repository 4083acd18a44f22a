//! The walk through an ONNX graph with extents for values.

use super::{JudgedLayer, Judgement};
use crate::onnx::proto::{self, Attribute, Graph, Model, Node, element};
use quarterturn_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Whole numbers of more entries are not followed.
const MOST_INTS: usize = 1 << 14;

/// No axis is longer, so that no sum or product of extents overflows.
const LONGEST: i64 = 1 << 31;
/// No stride, padding or kernel size is larger.
const WIDEST: i64 = 1 << 20;

/// A number that a file says of a window, within what can be computed with.
pub(super) fn bounded(value: i64) -> i64 {
    value.clamp(-WIDEST, WIDEST)
}

/// The elements of what has these extents; `None` if they are no extents, or too many.
pub(super) fn count(dims: &[i64]) -> Option<i64> {
    if dims.iter().any(|n| !(0..=LONGEST).contains(n)) {
        return None;
    }
    dims.iter().try_fold(1i64, |count, &n| count.checked_mul(n))
}

/// A value on the way: what is known of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// A map: its extents, and which of its axes are height and width.
    Map { dims: Vec<i64>, space: [usize; 2] },
    /// What has no places: features of an image, or parameters. Whole numbers that shapes are computed of are known.
    Other { dims: Vec<i64>, ints: Option<Vec<i64>>, is_parameter: bool },
    /// Nothing.
    Unknown,
}

impl Value {
    pub fn features(dims: Vec<i64>) -> Self {
        Value::Other { dims, ints: None, is_parameter: false }
    }

    pub fn ints(dims: Vec<i64>, ints: Vec<i64>) -> Self {
        Value::Other { dims, ints: Some(ints).filter(|ints| ints.len() <= MOST_INTS), is_parameter: true }
    }

    pub fn dims(&self) -> Option<&[i64]> {
        match self {
            Value::Map { dims, .. } | Value::Other { dims, .. } => Some(dims),
            Value::Unknown => None,
        }
    }

    /// The known whole numbers.
    pub fn known(&self) -> Option<&[i64]> {
        match self {
            Value::Other { ints, .. } => ints.as_deref(),
            _ => None,
        }
    }
}

/// Why a node's results are what they are.
pub(super) enum Outcome {
    /// Its results, and what it does to quarter turns, if it could do anything: a description and the judgement.
    Judged(Vec<Value>, Option<(String, Judgement)>),
    /// Images of this size do not fit.
    Unfit(String),
}

pub(super) fn passes(value: Value) -> Outcome {
    Outcome::Judged(vec![value], None)
}

pub(super) fn judged(value: Value, what: impl Into<String>, judgement: Judgement) -> Outcome {
    Outcome::Judged(vec![value], Some((what.into(), judgement)))
}

pub(super) fn unknown(why: impl Into<String>) -> Outcome {
    judged(Value::Unknown, "", Judgement::Unknown(why.into()))
}

/// A node and the values that it reads.
pub(super) struct Site<'a> {
    pub node: &'a Node,
    pub inputs: Vec<Option<&'a Value>>,
    pub opset: i64,
}

impl<'a> Site<'a> {
    pub fn input(&self, index: usize) -> Option<&'a Value> {
        self.inputs.get(index).copied().flatten()
    }

    /// Known whole numbers of an input.
    pub fn known(&self, index: usize) -> Option<&'a [i64]> {
        self.input(index)?.known()
    }

    fn attribute(&self, name: &str) -> Option<&'a Attribute> {
        self.node.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i.unwrap_or(0))
    }

    pub fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    pub fn string(&self, name: &str) -> Option<&'a str> {
        self.attribute(name).and_then(|attribute| str::from_utf8(attribute.s.as_deref()?).ok())
    }

    pub fn floats(&self, name: &str) -> Option<&'a [f32]> {
        self.attribute(name).map(|attribute| &attribute.floats[..])
    }

    pub fn tensor(&self, name: &str) -> Option<&'a proto::Tensor> {
        self.attribute(name).and_then(|attribute| attribute.t.as_ref())
    }

    /// Whole numbers that newer operators read and older ones have as an attribute.
    pub fn ints_or_input(&self, name: &str, index: usize) -> Option<Vec<i64>> {
        self.ints(name).or_else(|| self.known(index)).map(<[i64]>::to_vec)
    }
}

/// The walk.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    opset: i64,
    values: BTreeMap<&'a str, Value>,
    /// Parameters that are not whole numbers, for the factors of old operators.
    floats: BTreeMap<&'a str, Vec<f32>>,
    declared: Option<[usize; 2]>,
}

impl<'a> Walk<'a> {
    /// With images of this size.
    pub fn new(model: &'a Model, [height, width]: [usize; 2]) -> Result<Self> {
        let Some(graph) = &model.graph else { return Err(Error::Invalid("the model has no graph".into())) };
        let default = model.opset_import.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
        let opset = default.and_then(|set| set.version).unwrap_or(1);
        let parameters: BTreeSet<&str> = graph.initializers.iter().map(|tensor| tensor.name.as_str()).collect();
        let (mut values, mut declared, mut has_images) = (BTreeMap::new(), None, false);
        for input in graph.inputs.iter().filter(|input| !parameters.contains(input.name.as_str())) {
            let shape = input.type_.as_ref().and_then(|t| t.tensor.as_ref()).and_then(|t| t.shape.as_ref());
            let dims: Vec<Option<i64>> = shape.map_or(Vec::new(), |shape| {
                shape.dims.iter().map(|dim| dim.value.filter(|n| (1..=WIDEST).contains(n))).collect()
            });
            let value = match dims[..] {
                [_, first, second, third] if !has_images => {
                    has_images = true;
                    let few = |n: Option<i64>| n.is_some_and(|n| n <= 4);
                    let (h, w) = (height as i64, width as i64);
                    let (given, value) = if few(third) && !few(first) {
                        ([first, second], Value::Map { dims: vec![1, h, w, third.unwrap_or(3)], space: [1, 2] })
                    } else {
                        ([second, third], Value::Map { dims: vec![1, first.unwrap_or(3), h, w], space: [2, 3] })
                    };
                    if let [Some(height), Some(width)] = given {
                        declared = Some([height as usize, width as usize]);
                    }
                    value
                }
                _ => Value::Unknown,
            };
            values.insert(input.name.as_str(), value);
        }
        if !has_images {
            return Err(Error::Invalid("the model takes no images: no input has four axes".into()));
        }
        let mut floats = BTreeMap::new();
        for tensor in &graph.initializers {
            values.insert(tensor.name.as_str(), parameter(tensor));
            if let Some(numbers) = few_floats(tensor) {
                floats.insert(tensor.name.as_str(), numbers);
            }
        }
        Ok(Walk { graph, opset, values, floats, declared })
    }

    pub fn declared_size(&self) -> Option<[usize; 2]> {
        self.declared
    }

    /// The layers that could break quarter turns.
    pub fn judge(mut self) -> Result<Vec<JudgedLayer>> {
        let mut layers = Vec::new();
        // Values of which nothing is known, and of which that has been said.
        let mut said = BTreeSet::new();
        for node in &self.graph.nodes {
            let inputs = node.inputs.iter().map(|name| self.values.get(name.as_str()).filter(|_| !name.is_empty()));
            let site = Site { node, inputs: inputs.collect(), opset: self.opset };
            let name =
                [&node.name, node.outputs.first().unwrap_or(&node.name)].into_iter().find(|name| !name.is_empty());
            let name = name.cloned().unwrap_or_else(|| node.op_type.clone());
            let input = site.inputs.iter().flatten().find_map(|value| match value {
                Value::Map { dims, space } => Some(space.map(|axis| dims[axis] as usize)),
                _ => None,
            });
            // Nothing more can be said behind what is not known, and once is enough to say so.
            let is_unknown = |(name, value): (&&'a String, &Option<&Value>)| match value {
                Some(Value::Unknown) => Some(name.as_str()),
                _ => None,
            };
            let names: Vec<&'a String> = node.inputs.iter().collect();
            let hidden: Vec<&'a str> = names.iter().zip(&site.inputs).filter_map(is_unknown).collect();
            let unsaid = hidden.iter().find(|name| !said.contains(**name));
            let outcome = match (hidden.is_empty(), unsaid) {
                (true, _) => self.outcome(&site),
                (false, Some(name)) if input.is_some() => {
                    unknown(format!("it reads {name}, of which nothing is known"))
                }
                (false, _) => Outcome::Judged(vec![Value::Unknown; node.outputs.len()], None),
            };
            let is_said = matches!(&outcome, Outcome::Judged(_, Some(_))) || (!hidden.is_empty() && unsaid.is_none());
            let (made, judgement) = match outcome {
                Outcome::Judged(made, judgement) => (made, judgement),
                Outcome::Unfit(why) => return Err(Error::Invalid(format!("{name} ({}): {why}", node.op_type))),
            };
            let is_sound = |value: &Value| value.dims().is_none_or(|dims| count(dims).is_some());
            let judgement = match made.iter().all(is_sound) {
                true => judgement,
                false => Some((String::new(), Judgement::Unknown("what it makes is too large".into()))),
            };
            if let Some((what, judgement)) = judgement {
                layers.push(JudgedLayer { name, op: node.op_type.clone(), input, what, judgement });
            }
            let mut made = made.into_iter().map(|value| if is_sound(&value) { value } else { Value::Unknown });
            for output in &node.outputs {
                if is_said {
                    said.insert(output.as_str());
                }
                self.values.insert(output, made.next().unwrap_or(Value::Unknown));
            }
        }
        Ok(layers)
    }

    fn outcome(&self, site: &Site<'_>) -> Outcome {
        let reads_map = site.inputs.iter().flatten().any(|value| matches!(value, Value::Map { .. }));
        let floats = |index: usize| {
            let name = site.node.inputs.get(index)?;
            self.floats.get(name.as_str()).cloned()
        };
        match site.node.op_type.as_str() {
            "Conv" | "FusedConv" | "QLinearConv" | "ConvInteger" | "MaxPool" | "AveragePool" | "LpPool" => {
                super::windows::slide(site)
            }
            "ConvTranspose" => super::windows::transposed(site),
            "Resize" | "Upsample" => super::windows::resize(site, floats),
            "Pad" => super::windows::pad(site),
            "Slice" => super::windows::slice(site),
            op => super::shapes::outcome(op, site, reads_map),
        }
    }
}

/// What is known of a parameter.
pub(super) fn parameter(tensor: &proto::Tensor) -> Value {
    let dims = tensor.dims.clone();
    let Some(count) = count(&dims) else { return Value::Unknown };
    let ints = (count as usize <= MOST_INTS).then(|| whole_numbers(tensor)).flatten();
    Value::Other { dims, ints: ints.filter(|ints| ints.len() as i64 == count), is_parameter: true }
}

fn whole_numbers(tensor: &proto::Tensor) -> Option<Vec<i64>> {
    match tensor.element? {
        element::INT64 if tensor.raw.is_empty() => Some(tensor.int64s.clone()),
        element::INT64 => Some(tensor.raw.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()),
        element::INT32 if tensor.raw.is_empty() => Some(tensor.int32s.iter().map(|&v| v.into()).collect()),
        element::INT32 => {
            Some(tensor.raw.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect())
        }
        _ => None,
    }
}

/// The values of a small parameter.
pub(super) fn few_floats(tensor: &proto::Tensor) -> Option<Vec<f32>> {
    match tensor.element? {
        element::FLOAT if count(&tensor.dims).is_none_or(|count| count > 16) => None,
        element::FLOAT if tensor.raw.is_empty() => Some(tensor.floats.clone()),
        element::FLOAT => Some(tensor.raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        _ => None,
    }
}
