//! Compares each device with results that PyTorch computed in float64: every `*.safetensors` file of `tests/fixtures`
//! and of the folders that `QUARTERTURN_FIXTURES` lists (separated by `:`). `make_fixtures.py` wrote them, and says
//! what a case holds. A case that this file does not understand in full is a failure.

use quarterturn_autograd::{Optimizer, Tape, Var};
use quarterturn_core::{Device, Tensor, testing};
use quarterturn_kernels::{self as kernels, Activation, Conv, Group, Window};
use quarterturn_models::{MnistCnn, MnistCnnConfig, Mode, Module, Network, training::train_step};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

/// The largest error of single operations, and of networks after some steps of training.
fn tolerances(device: &Device) -> (f64, f64) {
    match device {
        Device::Reference => (1e-10, 1e-8),
        Device::Cpu => (1e-5, 2e-3),
        #[cfg(feature = "gpu")]
        Device::Gpu(_) => (1e-4, 2e-3),
    }
}

/// Shape and values.
type Array = (Vec<usize>, Vec<f64>);

/// A case on a device. Attributes and tensors are taken from it; what is left over at the end was not understood.
struct Case {
    device: Device,
    tolerance: f64,
    attributes: Map<String, Value>,
    tensors: BTreeMap<String, Array>,
    errors: Vec<String>,
}

impl Case {
    fn attribute(&mut self, name: &str) -> Value {
        self.attributes.remove(name).unwrap_or_else(|| panic!("attribute {name} is missing"))
    }

    fn text(&mut self, name: &str) -> String {
        self.attribute(name).as_str().unwrap_or_else(|| panic!("attribute {name} is no text")).to_string()
    }

    fn count(&mut self, name: &str) -> usize {
        self.attribute(name).as_u64().unwrap_or_else(|| panic!("attribute {name} is no count")) as usize
    }

    fn flag(&mut self, name: &str) -> bool {
        self.attribute(name).as_bool().unwrap_or_else(|| panic!("attribute {name} is no flag"))
    }

    fn number(&mut self, name: &str) -> f64 {
        self.attribute(name).as_f64().unwrap_or_else(|| panic!("attribute {name} is no number"))
    }

    fn group(&mut self) -> Group {
        self.text("group").parse().unwrap()
    }

    fn array(&mut self, name: &str) -> Array {
        self.tensors.remove(name).unwrap_or_else(|| panic!("tensor {name} is missing"))
    }

    /// An input, with an axis of one element inserted at `axis` where the case has no group axis.
    fn input(&mut self, name: &str, rank: usize, axis: usize) -> Tensor {
        let (mut shape, values) = self.array(name);
        if shape.len() + 1 == rank {
            shape.insert(axis, 1);
        }
        assert_eq!(shape.len(), rank, "tensor {name} has shape {shape:?}");
        Tensor::from_f64(&shape[..], values, &self.device).unwrap()
    }

    fn vector(&mut self, name: &str) -> Tensor {
        self.input(name, 1, 0)
    }

    /// Compares with the tensor `name`, relative to its largest value or to `scale`, if that is larger.
    fn compare_to_scale(&mut self, name: &str, got: &Tensor, scale: f64) {
        let (shape, expected) = self.array(name);
        assert_eq!(got.len(), expected.len(), "{name}: shape {:?}, expected {shape:?}", got.shape());
        let scale = expected.iter().fold(scale, |m, v| m.max(v.abs()));
        let got = got.to_f64().unwrap();
        let error = got.iter().zip(&expected).map(|(g, e)| (g - e).abs()).fold(0.0, f64::max) / scale.max(1e-300);
        let finite = got.iter().all(|v| v.is_finite());
        if !finite || error > self.tolerance {
            self.errors.push(format!("{name}: relative error {error:.1e} > {:.0e}", self.tolerance));
        }
    }

    fn compare(&mut self, name: &str, got: &Tensor) {
        self.compare_to_scale(name, got, 0.0);
    }

    /// Runs `f` on `x` and compares the result and the gradient of `x`; returns the gradients.
    fn compare_unary(&mut self, f: impl for<'t> FnOnce(&Var<'t>) -> Var<'t>) {
        let x = self.input("x", 5, 2);
        let tape = Tape::new();
        let x = tape.variable(x);
        let y = f(&x);
        self.compare("y", y.value());
        let dy = self.array("dy").1;
        let gradients = y.backward_from(Tensor::from_f64(y.shape(), dy, &self.device).unwrap());
        self.compare("dx", gradients.wrt(&x).unwrap());
    }

    fn run(&mut self) {
        match self.text("op").as_str() {
            "conv" => self.conv(None),
            "transposed_conv" => {
                let output_padding = self.count("output_padding");
                self.conv(Some(output_padding));
            }
            "depthwise_conv" => self.depthwise_conv(),
            "resize" => self.resize(),
            "pool" => self.pool(),
            "coset_pool" => match self.text("kind").as_str() {
                "max" => self.compare_unary(|x| x.coset_max()),
                "mean" => self.compare_unary(|x| x.coset_mean()),
                kind => panic!("coset_pool: unknown kind {kind}"),
            },
            "batch_norm" => self.batch_norm(),
            "transform" => self.transform(),
            "network" => self.network(),
            op => panic!("unknown op {op}"),
        }
        assert!(self.attributes.is_empty(), "unknown attributes {:?}", self.attributes);
        assert!(self.tensors.is_empty(), "unknown tensors {:?}", self.tensors.keys());
    }

    /// Transposed, if it has an output padding.
    fn conv(&mut self, output_padding: Option<usize>) {
        let lift = self.flag("lift");
        self.attributes.entry("dilation").or_insert(1.into());
        let conv = self.window();
        let group = conv.group;
        let (x, weight) = (self.input("x", 5, 2), self.input("weight", 5, 2));
        let g_in = if lift { 1 } else { group.order() };
        assert_eq!((x.dims()[2], weight.dims()[2]), (g_in, g_in), "group axes");
        let bias = self.tensors.contains_key("bias").then(|| self.vector("bias"));
        let tape = Tape::new();
        let (x, weight) = (tape.variable(x), tape.variable(weight));
        let bias = bias.map(|bias| tape.variable(bias));
        let y = match output_padding {
            None => x.group_conv(&weight, bias.as_ref(), conv),
            Some(output_padding) => x.transposed_group_conv(&weight, bias.as_ref(), conv, output_padding),
        };
        self.compare_with_gradients(&y, &x, &weight, bias.as_ref());
    }

    fn depthwise_conv(&mut self) {
        let conv = self.window();
        let tape = Tape::new();
        let (x, weight) = (tape.variable(self.input("x", 5, 2)), tape.variable(self.input("weight", 5, 2)));
        let y = x.depthwise_conv(&weight, conv);
        self.compare_with_gradients(&y, &x, &weight, None);
    }

    /// The windows of a convolution and its group.
    fn window(&mut self) -> Conv {
        let group = self.group();
        let (stride, padding, dilation) = (self.count("stride"), self.count("padding"), self.count("dilation"));
        Conv { stride, padding, dilation, ..Conv::new(group) }
    }

    fn compare_with_gradients<'t>(&mut self, y: &Var<'t>, x: &Var<'t>, weight: &Var<'t>, bias: Option<&Var<'t>>) {
        self.compare("y", y.value());
        let dy = self.array("dy").1;
        let gradients = y.backward_from(Tensor::from_f64(y.shape(), dy, &self.device).unwrap());
        self.compare("dx", gradients.wrt(x).unwrap());
        self.compare("dweight", gradients.wrt(weight).unwrap());
        if let Some(bias) = bias {
            self.compare("dbias", gradients.wrt(bias).unwrap());
        }
    }

    fn resize(&mut self) {
        let (height, width) = (self.count("height"), self.count("width"));
        match self.text("mode").as_str() {
            "bilinear" => self.compare_unary(|x| x.resize(height, width)),
            "nearest" => self.compare_unary(|x| x.resize_nearest(height, width)),
            mode => panic!("resize: unknown mode {mode}"),
        }
    }

    fn pool(&mut self) {
        let kind = self.text("kind");
        let window = Window {
            kernel_size: self.count("kernel_size"),
            stride: self.count("stride"),
            padding: self.count("padding"),
        };
        match kind.as_str() {
            "max" => self.compare_unary(|x| x.max_pool(window)),
            "avg" => self.compare_unary(|x| x.avg_pool(window)),
            "blur" => self.compare_unary(|x| x.blur_pool(window)),
            kind => panic!("pool: unknown kind {kind}"),
        }
    }

    fn batch_norm(&mut self) {
        let (training, momentum, eps) = (self.flag("training"), self.number("momentum"), self.number("eps"));
        let tape = Tape::new();
        let x = tape.variable(self.input("x", 5, 2));
        let (weight, bias) = (tape.variable(self.vector("weight")), tape.variable(self.vector("bias")));
        let (mean, var) = (self.vector("running_mean"), self.vector("running_var"));
        let none = Activation::default();
        let (y, mean, var) = if training {
            let (y, forward) = x.batch_norm_train(&weight, &bias, eps, none);
            let (mean, var) = kernels::update_running(&mean, &var, &forward, momentum);
            (y, mean, var)
        } else {
            (x.batch_norm_eval(&weight, &bias, &mean, &var, eps, none), mean, var)
        };
        self.compare("y", y.value());
        self.compare("new_running_mean", &mean);
        self.compare("new_running_var", &var);
        let dy = self.array("dy").1;
        let gradients = y.backward_from(Tensor::from_f64(y.shape(), dy, &self.device).unwrap());
        self.compare("dx", gradients.wrt(&x).unwrap());
        self.compare("dweight", gradients.wrt(&weight).unwrap());
        self.compare("dbias", gradients.wrt(&bias).unwrap());
    }

    fn transform(&mut self) {
        let group = self.group();
        let x = self.input("x", 5, 2);
        self.tolerance = 0.0;
        for g in group.elements() {
            self.compare(&format!("y{g}"), &kernels::transform_feature_map(&x, g, group));
        }
    }

    /// Three steps of Adam on one batch.
    fn network(&mut self) {
        self.tolerance = tolerances(&self.device).1;
        let net = self.text("net");
        let group = net.strip_suffix("cnn").and_then(|group| group.parse().ok());
        let group = group.unwrap_or_else(|| panic!("network: unknown net {net}"));
        let (width, size, steps, lr) =
            (self.count("width"), self.count("input_size"), self.count("steps"), self.number("lr"));
        let optimizer = self.text("optimizer");
        assert_eq!(optimizer, "adam", "network: unknown optimizer");
        let images = self.input("x", 5, 2);
        assert_eq!(images.dims()[3..], [size, size]);
        let labels = self.vector("labels");
        let classes = self.tensors["start.linear.bias"].1.len();
        let config = MnistCnnConfig {
            group,
            width,
            in_channels: images.dims()[1],
            classes,
            dropout: 0.0,
            ..MnistCnnConfig::p4cnn()
        };
        let mut network = MnistCnn::new(config, 0, &self.device).unwrap();
        network.visit(&mut |name, param| {
            // Running statistics start at 0 and 1, as built.
            if !name.contains("running_") {
                let values = self.array(&format!("start.{name}")).1;
                param.set(Tensor::from_f64(param.value().shape(), values, &self.device).unwrap());
            }
        });

        // Step 1 by hand, for its gradients. Those of the convolutions' biases are 0 in exact arithmetic, as a batch
        // norm follows: the scale is the network's largest gradient.
        let mode = Mode::Train { seed: 0, step: 0 };
        let tape = Tape::new();
        let loss = network.forward(tape.constant(images.clone()), mode).cross_entropy(&labels);
        let gradients = loss.backward().unwrap();
        let (names, largest) = self.tensors.iter().filter(|(name, _)| name.starts_with("grad.")).fold(
            (BTreeSet::new(), 0.0f64),
            |(mut names, largest), (name, (_, values))| {
                names.insert(name.clone());
                (names, values.iter().fold(largest, |m, v| m.max(v.abs())))
            },
        );
        network.visit(&mut |name, param| {
            if names.contains(&format!("grad.{name}")) {
                let zero = Tensor::full(param.value().shape(), 0.0, &self.device).unwrap();
                self.compare_to_scale(&format!("grad.{name}"), gradients.of(param).unwrap_or(&zero), largest);
            }
        });
        drop((gradients, loss));

        // Where f32 rounds a value to the other side of a ReLU or a maximum than f64 does, gradients jump, and Adam turns
        // this into whole steps: then weights are compared with what such a step can make. Losses stay near.
        let mut other = MnistCnn::new(config, 0, &Device::Reference).unwrap();
        let mut values = Vec::new();
        network.visit(&mut |_, param| values.push(param.value().to_device(&Device::Reference).unwrap()));
        let mut values = values.into_iter();
        other.visit(&mut |_, param| param.set(values.next().unwrap()));
        let [exact_images, exact_labels] = [&images, &labels].map(|t| t.to_device(&Device::Reference).unwrap());
        let mut jumped = false;

        let (mut optimizer, mut other_optimizer) = (Optimizer::adam(0.0), Optimizer::adam(0.0));
        let mut losses = Vec::new();
        for step in 0..steps {
            jumped |= decisions(&mut network, &images, group) != decisions(&mut other, &exact_images, group);
            let mode = Mode::Train { seed: 0, step: step as u32 };
            let loss = train_step(&mut network, &mut optimizer, lr, mode, &images, &labels).unwrap();
            losses.extend(loss.to_f64().unwrap());
            train_step(&mut other, &mut other_optimizer, lr, mode, &exact_images, &exact_labels).unwrap();
        }
        let losses = Tensor::from_f64([steps], losses, &self.device).unwrap();
        self.compare("losses", &losses);
        if jumped {
            self.tolerance = 2.0 * lr * steps as f64;
        }
        // The evaluation starts from the case's end, whatever way training took.
        network.visit(&mut |name, param| {
            let name = format!("end.{name}");
            let end = self.tensors.get(&name).unwrap_or_else(|| panic!("tensor {name} is missing")).1.clone();
            self.compare_to_scale(&name, param.value(), 1.0);
            param.set(Tensor::from_f64(param.value().shape(), end, &self.device).unwrap());
        });
        self.tolerance = tolerances(&self.device).1;
        self.compare("eval_logits", &network.predict(&images).unwrap());
    }
}

/// Which side of each ReLU and which operand of each maximum a training forward pass takes.
fn decisions(network: &mut MnistCnn, images: &Tensor, group: Group) -> Vec<bool> {
    let mut params = BTreeMap::new();
    network.visit(&mut |name, param| drop(params.insert(name.to_string(), param.value().clone())));
    let mut taken = Vec::new();
    let mut note = |t: &Tensor| taken.extend(t.to_f64().unwrap().iter().map(|&v| v > 0.0));
    let ones = |t: &Tensor| Tensor::full(t.shape(), 1.0, &t.device()).unwrap();
    let mut x = images.clone();
    for layer in 1..=7 {
        let [w, b] = ["weight", "bias"].map(|part| &params[&format!("conv{layer}.{part}")]);
        let conv = Conv { padding: if layer == 7 { 0 } else { 1 }, ..Conv::new(group) };
        x = kernels::group_conv(&x, w, Some(b), conv);
        let [w, b] = ["weight", "bias"].map(|part| &params[&format!("norm{layer}.{part}")]);
        x = kernels::relu(&kernels::batch_norm_train(&x, w, b, 1e-5, Activation::default()).y);
        note(&x);
        if layer == 2 {
            let window = Window { kernel_size: 2, stride: 2, padding: 0 };
            let y = kernels::max_pool(&x, window);
            note(&kernels::max_pool_vjp(&x, &ones(&y), window));
            x = y;
        }
    }
    let x = kernels::spatial_mean(&x);
    note(&kernels::coset_max_vjp(&x, &ones(&kernels::coset_max(&x))));
    taken
}

/// The case of a file: attributes and tensors.
fn read(path: &Path) -> (Map<String, Value>, BTreeMap<String, Array>) {
    let bytes = fs::read(path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let case = header.metadata().as_ref().and_then(|metadata| metadata.get("case")).expect("no case in the metadata");
    let Value::Object(attributes) = serde_json::from_str(case).unwrap() else { panic!("the case is no JSON object") };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let chunks = view.data().as_chunks::<8>().0.iter();
        let values = match view.dtype() {
            Dtype::F64 => chunks.map(|&b| f64::from_le_bytes(b)).collect(),
            Dtype::I64 => chunks.map(|&b| i64::from_le_bytes(b) as f64).collect(),
            dtype => panic!("tensor {name} is {dtype}"),
        };
        (name.to_string(), (view.shape().to_vec(), values))
    });
    (attributes, tensors.collect())
}

fn files() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    if let Some(more) = env::var_os("QUARTERTURN_FIXTURES") {
        folders.extend(env::split_paths(&more));
    }
    let mut files = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let before = files.len();
        files.extend(entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")));
        assert!(files.len() > before, "{}: no case", folder.display());
    }
    files.sort();
    files
}

/// Runs `body`; the message, if it panics.
fn caught(body: impl FnOnce()) -> Option<String> {
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).err()?;
    let text = payload.downcast_ref::<String>().cloned();
    Some(text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

#[test]
fn every_case_agrees_on_every_device() {
    let mut devices = testing::devices();
    devices.push(Device::Reference);
    let mut failures = Vec::new();
    for path in files() {
        for device in &devices {
            let mut errors = Vec::new();
            let panicked = caught(|| {
                let (attributes, tensors) = read(&path);
                let tolerance = tolerances(device).0;
                let mut case = Case { device: device.clone(), tolerance, attributes, tensors, errors: Vec::new() };
                case.run();
                errors = case.errors;
            });
            errors.extend(panicked);
            failures.extend(errors.iter().map(|error| format!("{} on {device}: {error}", path.display())));
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// The comparison itself is checked: a changed value, an unknown attribute, an unknown op and a tensor left over fail.
#[test]
fn a_wrong_or_unknown_case_fails() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/p4_lift_k3.safetensors");
    let outcome = |edit: &dyn Fn(&mut Case)| {
        let (attributes, tensors) = read(&path);
        let device = Device::Reference;
        let mut case = Case { device, tolerance: 1e-10, attributes, tensors, errors: Vec::new() };
        edit(&mut case);
        let panicked = caught(|| case.run());
        case.errors.into_iter().chain(panicked).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(outcome(&|_| ()), "");
    assert!(outcome(&|case| case.tensors.get_mut("dx").unwrap().1[3] += 1e-6).contains("dx: relative error"));
    assert!(outcome(&|case| drop(case.attributes.insert("groups".into(), 2.into()))).contains("unknown attributes"));
    assert!(outcome(&|case| drop(case.attributes.insert("op".into(), "swirl".into()))).contains("unknown op swirl"));
    assert!(
        outcome(&|case| drop(case.tensors.insert("more".into(), (vec![1], vec![0.0])))).contains("unknown tensors")
    );
}
