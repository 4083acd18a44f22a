//! A plain network as an ONNX model.

use super::{
    LARGEST_FILE,
    proto::{
        self, Attribute, Dim, Entry, Model, Node, OperatorSet, Shape, TensorType, Type, ValueInfo, attribute, element,
    },
};
use crate::{
    checkpoint::Notes,
    export::{Array, Op, Plain, Size},
};
use prost::Message;
use quarterturn_core::{Error, Result, replace_file};
use quarterturn_kernels::Window;
use std::{collections::BTreeSet, f32::consts::FRAC_1_SQRT_2, f64::consts::LN_2, path::Path};

/// The version of the operators.
const OPSET: i64 = 18;
/// The version of the format that came with them.
const IR_VERSION: i64 = 8;
impl Plain {
    /// Writes the network as an ONNX model, operator set 18: images `images` `[batch, C, height, width]` → `result`, `f32`. The batch
    /// may be of any size, and so may height and width unless [`Plain::only_size`]. `notes` become the model's metadata.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of a parameter that has a value which is not finite, or if the file would be larger than
    /// 2 GiB, which no program reads; [`Error::Io`].
    pub fn save_onnx(&self, path: impl AsRef<Path>, notes: &Notes) -> Result<()> {
        let model = self.to_onnx(notes)?;
        let length = model.encoded_len();
        if length as u64 > LARGEST_FILE {
            let message = format!("{length} bytes, more than the {LARGEST_FILE} that other programs read");
            return Err(Error::Checkpoint { name: "file".into(), message });
        }
        let bytes = model.encode_to_vec();
        replace_file(path, |out| out.write_all(&bytes))
    }

    pub(crate) fn to_onnx(&self, notes: &Notes) -> Result<Model> {
        let mut graph = Graph::default();
        let mut values = vec![graph.free("images")];
        let last = self.steps.len();
        for (i, (step, arrays)) in self.steps.iter().zip(self.named_arrays()).enumerate() {
            let mut inputs: Vec<String> = step.inputs.iter().map(|&input| values[input].clone()).collect();
            for (_, name, array) in arrays {
                inputs.push(graph.array(name, array)?);
            }
            graph.layer = if step.name.is_empty() { step.op.name().into() } else { step.name.clone() };
            let y = graph.step(&step.op, inputs);
            if i + 1 == last {
                // The last node is the one that makes it.
                let node = graph.nodes.last_mut().expect("every step adds a node");
                node.outputs = vec!["result".into()];
            }
            values.push(y);
        }
        let extents = |size: Option<[usize; 2]>, names: [&str; 2]| match size {
            Some(size) => size.map(dim).to_vec(),
            None => names.map(named).to_vec(),
        };
        let images = [vec![named("batch"), dim(self.in_channels)], extents(self.only_size(), ["height", "width"])];
        let result = self.result;
        let mut made = vec![named("batch"), dim(result.channels)];
        if result.elements > 1 {
            made.push(dim(result.elements));
        }
        if result.is_map {
            made.extend(extents(result.extents.filter(|_| self.only_size().is_some()), ["rows", "columns"]));
        }
        let entries = notes.iter().map(|(key, value)| Entry { key: key.clone(), value: value.clone() });
        Ok(Model {
            ir_version: Some(IR_VERSION),
            producer_name: "quarterturn".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            doc_string: String::new(),
            graph: Some(proto::Graph {
                nodes: graph.nodes,
                name: notes.get("model").cloned().unwrap_or_else(|| "network".into()),
                initializers: graph.initializers,
                inputs: vec![info("images", images.concat())],
                outputs: vec![info("result", made)],
            }),
            opset_import: vec![OperatorSet { domain: String::new(), version: Some(OPSET) }],
            metadata: entries.collect(),
        })
    }
}

/// The nodes so far.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    initializers: Vec<proto::Tensor>,
    /// Names of values and parameters so far.
    names: BTreeSet<String>,
    /// The layer that nodes are now made for.
    layer: String,
}

impl Graph {
    /// `name`, or with the first number behind it that nothing is called.
    fn free(&mut self, name: &str) -> String {
        let numbered = (2..).map(|number| format!("{name}_{number}"));
        let names = [name.to_string()].into_iter().chain(numbered);
        let is_free = |name: &String| name != "result" && !self.names.contains(name);
        let free = names.into_iter().find(is_free).unwrap_or_default();
        self.names.insert(free.clone());
        free
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], attributes: Vec<Attribute>) -> String {
        let layer = self.layer.clone();
        let name = self.free(&format!("{layer}/{op_type}"));
        self.nodes.push(Node {
            inputs: inputs.iter().map(|input| input.to_string()).collect(),
            outputs: vec![name.clone()],
            name: name.clone(),
            op_type: op_type.into(),
            attributes,
            domain: String::new(),
        });
        name
    }

    /// A parameter.
    fn array(&mut self, name: String, array: &Array) -> Result<String> {
        if let Some(index) = array.values.iter().position(|&value| !(value as f32).is_finite()) {
            let message = format!("value {index} is {}, which is not finite here", array.values[index]);
            return Err(Error::Checkpoint { name, message });
        }
        let name = self.free(&name);
        let raw = array.values.iter().flat_map(|&value| (value as f32).to_le_bytes()).collect();
        Ok(self.constant(name, &array.dims, element::FLOAT, raw))
    }

    fn constant(&mut self, name: String, dims: &[usize], element: i32, raw: Vec<u8>) -> String {
        let dims = dims.iter().map(|&n| n as i64).collect();
        let tensor = proto::Tensor { dims, element: Some(element), name: name.clone(), raw, ..Default::default() };
        self.initializers.push(tensor);
        name
    }

    fn ints(&mut self, values: &[i64]) -> String {
        let name = self.free(&format!("{}/ints", self.layer.clone()));
        self.constant(name, &[values.len()], element::INT64, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    /// Numbers, as one axis or, if there is one of them, none.
    fn floats(&mut self, values: &[f32]) -> String {
        let name = self.free(&format!("{}/floats", self.layer.clone()));
        let dims: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
        self.constant(name, dims, element::FLOAT, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn doubles(&mut self, values: &[f64]) -> String {
        let name = self.free(&format!("{}/doubles", self.layer.clone()));
        let dims: &[usize] = if values.len() == 1 { &[] } else { &[values.len()] };
        self.constant(name, dims, element::DOUBLE, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    fn reshape(&mut self, x: &str, shape: &[i64]) -> String {
        let shape = self.ints(shape);
        self.node("Reshape", &[x, &shape], Vec::new())
    }

    fn reduce(&mut self, op_type: &str, x: &str, axes: &[i64], keep: bool) -> String {
        let axes = self.ints(axes);
        self.node(op_type, &[x, &axes], vec![int("keepdims", i64::from(keep))])
    }

    /// Rows and columns of zeros above, left, below and right; rows and columns less where negative.
    fn pad(&mut self, x: &str, [above, left, below, right]: [i64; 4]) -> String {
        if [above, left, below, right] == [0; 4] {
            return x.into();
        }
        let pads = self.ints(&[0, 0, above, left, 0, 0, below, right]);
        self.node("Pad", &[x, &pads], Vec::new())
    }

    /// From `starts` on so many rows and columns.
    fn cut(&mut self, x: &str, starts: [usize; 2], extents: [usize; 2]) -> String {
        let ends = [starts[0] + extents[0], starts[1] + extents[1]].map(|end| end as i64);
        let (starts, ends) = (self.ints(&starts.map(|start| start as i64)), self.ints(&ends));
        let axes = self.ints(&[2, 3]);
        self.node("Slice", &[x, &starts, &ends, &axes], Vec::new())
    }

    fn cast(&mut self, x: &str, element: i32) -> String {
        self.node("Cast", &[x], vec![int("to", element.into())])
    }

    /// The nodes of an operation on these values and parameters; what they make.
    fn step(&mut self, op: &Op, inputs: Vec<String>) -> String {
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        match op {
            Op::Conv { weight, stride, padding, dilation, groups, .. } => {
                let mut attributes = window(weight.dims[2], *stride, *padding);
                attributes.extend([ints("dilations", &[*dilation; 2]), int("group", *groups as i64)]);
                self.node("Conv", &names, attributes)
            }
            Op::TransposedConv { weight, stride, padding, dilation, output_padding, .. } => {
                let mut attributes = window(weight.dims[2], *stride, *padding);
                attributes.extend([ints("dilations", &[*dilation; 2]), ints("output_padding", &[*output_padding; 2])]);
                self.node("ConvTranspose", &names, attributes)
            }
            Op::Norm { eps, .. } => {
                let eps = Attribute { f: Some(*eps as f32), ..of("epsilon", attribute::FLOAT) };
                self.node("BatchNormalization", &names, vec![eps])
            }
            Op::Linear { .. } => self.node("Gemm", &names, vec![int("transB", 1)]),
            Op::Function(name) => self.function(name, names[0]),
            Op::MaxPool(pool) => self.node("MaxPool", &names, window_of(pool)),
            Op::AvgPool(pool) => {
                let mut attributes = window_of(pool);
                attributes.push(int("count_include_pad", 1));
                self.node("AveragePool", &names, attributes)
            }
            Op::Max(axes) => self.reduce("ReduceMax", names[0], &signed(axes), false),
            Op::Mean(axes) => self.reduce("ReduceMean", names[0], &signed(axes), false),
            Op::Part { is_map, channels, elements } => {
                let parted = [0, *channels as i64, *elements as i64];
                if !is_map {
                    return self.reshape(names[0], &parted);
                }
                let parted = self.ints(&parted);
                let space = self.node("Shape", &names, vec![int("start", 2)]);
                let shape = self.node("Concat", &[&parted, &space], vec![int("axis", 0)]);
                self.node("Reshape", &[names[0], &shape], Vec::new())
            }
            Op::Resize(size) => self.resize(names[0], *size, "linear"),
            Op::Repeat(factor) => self.resize(names[0], Size::Times(*factor), "nearest"),
            Op::Crop(margin) => self.pad(names[0], [-(*margin as i64); 4]),
            Op::Select { axis, indices } => {
                let indices = self.ints(&signed(indices));
                self.node("Gather", &[names[0], &indices], vec![int("axis", *axis as i64)])
            }
            Op::Sum => self.node("Add", &names, Vec::new()),
            Op::Concat => self.node("Concat", &names, vec![int("axis", 1)]),
            Op::ChooseGrid { inset, extents, bits, spare } => {
                self.choose_grid(names[0], *inset, *extents, *bits, *spare)
            }
            Op::Subsample(extents) => {
                let map = self.parted(names[0], *extents);
                let weights = self.reshape(names[1], &[0, 1, 1, 2, 1, 2]);
                let weighted = self.node("Mul", &[&map, &weights], Vec::new());
                self.reduce("ReduceSum", &weighted, &[3, 5], false)
            }
            Op::MoveOntoGrid { before, behind, extents } => {
                let before = *before as i64;
                let map = self.pad(names[0], [before, before, behind[0] as i64, behind[1] as i64]);
                let weights = self.reshape(names[1], &[0, 4, 1, 1]);
                let grids: Vec<String> = (0..4)
                    .map(|grid| {
                        let moved = self.cut(&map, [grid / 2, grid % 2], *extents);
                        let index = self.ints(&[grid as i64]);
                        let weight = self.node("Gather", &[&weights, &index], vec![int("axis", 1)]);
                        self.node("Mul", &[&moved, &weight], Vec::new())
                    })
                    .collect();
                let opposite = self.node("Add", &[&grids[0], &grids[3]], Vec::new());
                let other = self.node("Add", &[&grids[1], &grids[2]], Vec::new());
                self.node("Add", &[&opposite, &other], Vec::new())
            }
            Op::GridUpsample(extents) => {
                let weights = match names.get(1) {
                    Some(&weights) => weights.to_string(),
                    None => {
                        let first = self.floats(&[1.0, 0.0, 0.0, 0.0]);
                        self.reshape(&first, &[1, 4])
                    }
                };
                let weights = self.reshape(&weights, &[0, 1, 1, 2, 1, 2]);
                let axes = self.ints(&[3, 5]);
                let samples = self.node("Unsqueeze", &[names[0], &axes], Vec::new());
                let map = self.node("Mul", &[&samples, &weights], Vec::new());
                let [height, width] = extents.map(|n| n.next_multiple_of(2) as i64);
                let map = self.reshape(&map, &[0, -1, height, width]);
                self.cut(&map, [0, 0], *extents)
            }
        }
    }

    fn function(&mut self, name: &str, x: &str) -> String {
        match name {
            "relu" => self.node("Relu", &[x], Vec::new()),
            "sigmoid" => self.node("Sigmoid", &[x], Vec::new()),
            "tanh" => self.node("Tanh", &[x], Vec::new()),
            "softplus" => self.node("Softplus", &[x], Vec::new()),
            "silu" => {
                let gate = self.node("Sigmoid", &[x], Vec::new());
                self.node("Mul", &[x, &gate], Vec::new())
            }
            "gelu" => {
                let [root, one, half] = [FRAC_1_SQRT_2, 1.0, 0.5].map(|value| self.floats(&[value]));
                let scaled = self.node("Mul", &[x, &root], Vec::new());
                let erf = self.node("Erf", &[&scaled], Vec::new());
                let twice = self.node("Add", &[&erf, &one], Vec::new());
                let distribution = self.node("Mul", &[&twice, &half], Vec::new());
                self.node("Mul", &[x, &distribution], Vec::new())
            }
            other => unreachable!("{other} is none of Op::FUNCTIONS"),
        }
    }

    fn resize(&mut self, x: &str, size: Size, mode: &str) -> String {
        let (mut attributes, axes) = (vec![string("mode", mode)], ints("axes", &[2, 3]));
        attributes.extend([string("coordinate_transformation_mode", "half_pixel"), axes]);
        match size {
            Size::Times(factor) => {
                let scales = self.floats(&[factor as f32; 2]);
                self.node("Resize", &[x, "", &scales], attributes)
            }
            Size::Of(extents) => {
                let sizes = self.ints(&extents.map(|extent| extent as i64));
                self.node("Resize", &[x, "", "", &sizes], attributes)
            }
        }
    }

    /// Rows and columns by the grid that they belong to: `[N, C, H/2, 2, W/2, 2]`, an odd extent filled up with zeros.
    fn parted(&mut self, map: &str, [height, width]: [usize; 2]) -> String {
        let map = self.pad(map, [0, 0, (height % 2) as i64, (width % 2) as i64]);
        self.reshape(&map, &[0, -1, height.div_ceil(2) as i64, 2, width.div_ceil(2) as i64, 2])
    }

    /// As [`quarterturn_kernels::choose_grid`]: sums of integers, in `f64`, which holds them all.
    fn choose_grid(&mut self, z: &str, inset: isize, extents: [usize; 2], bits: u32, spare: u32) -> String {
        let z = match usize::try_from(inset) {
            Ok(0) => z.to_string(),
            Ok(inset) => self.cut(z, [inset; 2], extents),
            Err(_) => self.pad(z, [-(inset as i64); 4]),
        };
        let two = self.doubles(&[2.0]);
        let magnitudes = self.node("Abs", &[&z], Vec::new());
        let largest = self.reduce("ReduceMax", &magnitudes, &[2, 3], true);
        let largest = self.cast(&largest, element::DOUBLE);
        let [least, most] = [-103, 125].map(|exponent| self.doubles(&[2f64.powi(exponent)]));
        let largest = self.node("Clip", &[&largest, &least, &most], Vec::new());
        let logarithm = self.node("Log", &[&largest], Vec::new());
        let [per_bit, little] = [LN_2, 1e-10].map(|value| self.doubles(&[value]));
        let logarithm = self.node("Div", &[&logarithm, &per_bit], Vec::new());
        let logarithm = self.node("Add", &[&logarithm, &little], Vec::new());
        let exponent = self.node("Floor", &[&logarithm], Vec::new());
        let half = self.doubles(&[f64::from(bits / 2) - 1.0]);
        let shift = self.node("Sub", &[&half, &exponent], Vec::new());
        let scale = self.node("Pow", &[&two, &shift], Vec::new());
        let scale = self.cast(&scale, element::FLOAT);
        let root = self.node("Mul", &[&z, &scale], Vec::new());
        let square = self.node("Mul", &[&root, &root], Vec::new());
        let most = self.floats(&[(1u64 << bits) as f32]);
        let term = self.node("Min", &[&square, &most], Vec::new());
        let term = self.node("Round", &[&term], Vec::new());
        let term = self.parted(&term, extents);
        let term = self.cast(&term, element::DOUBLE);
        let sums = self.reduce("ReduceSum", &term, &[2, 4], false);
        // Of all planes, as multiples of what the largest of them counts in.
        let highest = self.reduce("ReduceMax", &exponent, &[1], true);
        let below = self.node("Sub", &[&exponent, &highest], Vec::new());
        let twice = self.node("Mul", &[&below, &two], Vec::new());
        let spare = self.doubles(&[f64::from(spare)]);
        let shift = self.node("Sub", &[&twice, &spare], Vec::new());
        let factor = self.node("Pow", &[&two, &shift], Vec::new());
        let shifted = self.node("Mul", &[&sums, &factor], Vec::new());
        let shifted = self.node("Floor", &[&shifted], Vec::new());
        let scores = self.reduce("ReduceSum", &shifted, &[1], false);
        let scores = self.reshape(&scores, &[0, 4]);
        // A grid that begins at 1 exists along an even extent alone.
        let exists = |grid: usize| grid / 2 + extents[0] % 2 < 2 && grid % 2 + extents[1] % 2 < 2;
        let missing: Vec<f64> = (0..4).map(|grid| if exists(grid) { 0.0 } else { -2f64.powi(60) }).collect();
        let missing = self.doubles(&missing);
        let scores = self.node("Add", &[&scores, &missing], Vec::new());
        let best = self.reduce("ReduceMax", &scores, &[1], true);
        let chosen = self.node("Equal", &[&scores, &best], Vec::new());
        let chosen = self.cast(&chosen, element::FLOAT);
        let count = self.reduce("ReduceSum", &chosen, &[1], true);
        self.node("Div", &[&chosen, &count], Vec::new())
    }
}

fn of(name: &str, kind: i32) -> Attribute {
    Attribute { name: name.into(), kind: Some(kind), ..Default::default() }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { i: Some(value), ..of(name, attribute::INT) }
}

fn ints(name: &str, values: &[usize]) -> Attribute {
    Attribute { ints: signed(values), ..of(name, attribute::INTS) }
}

fn string(name: &str, value: &str) -> Attribute {
    Attribute { s: Some(value.into()), ..of(name, attribute::STRING) }
}

fn signed(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

fn window_of(pool: &Window) -> Vec<Attribute> {
    window(pool.kernel_size, pool.stride, pool.padding)
}

fn window(kernel_size: usize, stride: usize, padding: usize) -> Vec<Attribute> {
    vec![ints("kernel_shape", &[kernel_size; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])]
}

fn dim(value: usize) -> Dim {
    Dim { value: Some(value as i64), name: None }
}

fn named(name: &str) -> Dim {
    Dim { value: None, name: Some(name.into()) }
}

fn info(name: &str, dims: Vec<Dim>) -> ValueInfo {
    let tensor = TensorType { element: Some(element::FLOAT), shape: Some(Shape { dims }) };
    ValueInfo { name: name.into(), type_: Some(Type { tensor: Some(tensor) }) }
}
