//! The check of every operation, driven by a table of cases: gradients against differences (f64, one random direction),
//! the adjoint identity `⟨A x, y⟩ = ⟨x, Aᵀ y⟩` where an operation is linear, and agreement of the devices.
//!
//! Each file of operations has its own table beside it.

use crate::{Tape, Var, gradcheck};
use quarterturn_core::{Device, Shape, Stream, Tensor, testing};

/// The result is linear in each operand on its own.
pub(crate) const LINEAR: bool = true;
pub(crate) const NONLINEAR: bool = false;

/// An operation as a function of its differentiable operands.
type Op = Box<dyn for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t>>;

/// Normal values, exact in f32, so that all devices read the same ones.
fn random(shape: &[usize], stream: u32) -> Tensor {
    let stream = Stream::new(11, stream, 0);
    let len = Shape::new(shape).len() as u64;
    Tensor::reference(shape, (0..len).map(|i| f64::from(stream.normal(i) as f32)).collect())
}

/// A tensor of given values where `like` is.
pub(crate) fn beside(like: &Var<'_>, values: &[f64]) -> Tensor {
    Tensor::from_f64([values.len()], values.to_vec(), &like.value().device()).unwrap()
}

struct Row {
    name: String,
    shapes: Vec<Vec<usize>>,
    linear: bool,
    op: Op,
}

impl Row {
    fn inputs(&self) -> Vec<Tensor> {
        self.shapes.iter().zip(0..).map(|(shape, stream)| random(shape, stream)).collect()
    }

    /// The result, and the gradients of `⟨result, r⟩` for a random r (returned last).
    fn run(&self, inputs: &[Tensor]) -> (Tensor, Vec<Tensor>, Tensor) {
        let tape = Tape::new();
        let variables: Vec<_> = inputs.iter().map(|input| tape.variable(input.clone())).collect();
        let y = (self.op)(&tape, &variables);
        let r = random(y.shape().dims(), 1000).to_device(&y.value().device()).unwrap();
        let gradients = y.backward_from(r.clone());
        let gradients = variables.iter().map(|v| gradients.wrt(v).expect("every operand counts").clone());
        (y.value().clone(), gradients.collect(), r)
    }

    /// `⟨f(v), r⟩ = ⟨vᵢ, ∂⟨f(v), r⟩/∂vᵢ⟩` where f is linear in operand i.
    fn adjoint_failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (device, tolerance) in devices() {
            let inputs = on(&device, &self.inputs());
            let (y, gradients, r) = self.run(&inputs);
            let expected = dot(&y, &r);
            // Terms of both signs cancel: the scale is that of the vectors.
            let scale = (dot(&y, &y) * dot(&r, &r)).sqrt();
            for (i, (input, gradient)) in inputs.iter().zip(&gradients).enumerate() {
                let error = (dot(input, gradient) - expected).abs() / scale;
                if error.is_nan() || error > tolerance {
                    failures.push(format!("{}: adjoint of operand {i} on {device}: {error:e}", self.name));
                }
            }
        }
        failures
    }

    /// Results and gradients of each device against those of [`Device::Reference`].
    fn device_failures(&self) -> Vec<String> {
        let inputs = self.inputs();
        let (y, gradients, _) = self.run(&inputs);
        let mut failures = Vec::new();
        for (device, tolerance) in devices() {
            let (y_here, gradients_here, _) = self.run(&on(&device, &inputs));
            let pairs = std::iter::once((&y_here, &y)).chain(gradients_here.iter().zip(&gradients));
            for (i, (got, expected)) in pairs.enumerate() {
                assert_eq!(got.shape(), expected.shape(), "{}", self.name);
                let largest = expected.f64s().iter().fold(0.0f64, |m, v| m.max(v.abs()));
                let got = got.to_f64().unwrap();
                let error = got.iter().zip(expected.f64s()).map(|(g, e)| (g - e).abs()).fold(0.0, f64::max);
                if got.iter().any(|v| !v.is_finite()) || error > tolerance * largest {
                    let what = if i == 0 { "result".into() } else { format!("gradient {}", i - 1) };
                    failures.push(format!("{}: {what} on {device}: {:e}", self.name, error / largest));
                }
            }
        }
        failures
    }
}

/// The cases of one file.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// A case: `op` as a function of operands of `shapes`; each of them must count.
    pub(crate) fn row(
        &mut self,
        name: impl Into<String>,
        linear: bool,
        shapes: &[&[usize]],
        op: impl for<'t> Fn(&'t Tape, &[Var<'t>]) -> Var<'t> + 'static,
    ) {
        let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
        self.rows.push(Row { name: name.into(), shapes, linear, op: Box::new(op) });
    }

    /// Checks every case, and tells of all that fail.
    pub(crate) fn check(self) {
        assert!(!self.rows.is_empty(), "a table without cases");
        let mut failures = Vec::new();
        for row in &self.rows {
            failures.extend(gradcheck(&row.op, &row.inputs(), 1e-7).err().map(|e| format!("{}: {e}", row.name)));
            if row.linear {
                failures.extend(row.adjoint_failures());
            }
            failures.extend(row.device_failures());
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

fn devices() -> Vec<(Device, f64)> {
    let tolerance = |device: &Device| match device {
        Device::Reference => 1e-12,
        Device::Cpu => 1e-5,
        #[cfg(feature = "gpu")]
        Device::Gpu(_) => 1e-4,
    };
    let mut devices = testing::devices();
    devices.push(Device::Reference);
    devices.into_iter().map(|device| (device.clone(), tolerance(&device))).collect()
}

fn on(device: &Device, inputs: &[Tensor]) -> Vec<Tensor> {
    inputs.iter().map(|input| input.to_device(device).unwrap()).collect()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.to_f64().unwrap().iter().zip(b.to_f64().unwrap()).map(|(a, b)| a * b).sum()
}

#[test]
#[should_panic(expected = "wrong square: backward gives")]
fn a_wrong_gradient_is_caught() {
    let mut table = Table::default();
    table.row("wrong square", NONLINEAR, &[&[3]], |tape, v| v[0].mul(&tape.constant(v[0].value().clone())));
    table.check();
}
