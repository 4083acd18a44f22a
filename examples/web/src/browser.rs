//! What the page's worker calls. Nothing here blocks: answers are awaited.

use crate::{checker::Checked, classifier, drawing};
use quarterturn::{
    core::{
        Device, Error,
        gpu::{Gpu, GpuOptions},
    },
    kernels::{bit_exactness_async, softmax},
};
use wasm_bindgen::{JsError, prelude::wasm_bindgen};

type Result<T> = std::result::Result<T, JsError>;

/// Errors of the library are the page's errors, in its words.
fn thrown(error: Error) -> JsError {
    JsError::new(&error.to_string())
}

/// Panics are told in the console with their place; the worker's end is told on the page.
#[wasm_bindgen(start)]
fn start() {
    console_error_panic_hook::set_once();
}

/// What computes.
#[wasm_bindgen]
pub struct Computer(Device);

#[wasm_bindgen]
impl Computer {
    /// The processor, through WebAssembly.
    pub fn cpu() -> Computer {
        Computer(Device::Cpu)
    }

    /// A GPU, through WebGPU. `software` asks for one that computes on the processor.
    pub async fn gpu(software: bool) -> Result<Computer> {
        let adapter = software.then(|| "software".to_string());
        let gpu = Gpu::open_async(&GpuOptions { adapter, ..GpuOptions::default() }).await.map_err(thrown)?;
        Ok(Computer(Device::Gpu(gpu)))
    }

    /// In words.
    pub fn name(&self) -> String {
        match &self.0 {
            Device::Gpu(gpu) => gpu.to_string(),
            _ => "CPU, WebAssembly with vectors of 128 bits".into(),
        }
    }

    /// Tries out small layers of every kind on a GPU, every element of the group, and compares bits: one sentence.
    #[wasm_bindgen(js_name = tryOut)]
    pub async fn try_out(&self) -> Result<String> {
        let Device::Gpu(gpu) = &self.0 else { return Err(JsError::new("only a GPU is tried out")) };
        Ok(bit_exactness_async(gpu).await.map_err(thrown)?.to_string())
    }
}

/// A network that answers.
#[wasm_bindgen]
pub struct Classifier(classifier::Classifier);

/// What it answers.
#[wasm_bindgen(getter_with_clone)]
pub struct Answer {
    /// Of the four quarter turns, classes side by side.
    pub logits: Vec<f32>,
    /// Likewise.
    pub probabilities: Vec<f32>,
    /// Grey values of what the network saw.
    pub seen: Vec<u8>,
    /// Whether the four quarter turns have the same logits in every bit.
    #[wasm_bindgen(js_name = sameBits)]
    pub same_bits: bool,
}

#[wasm_bindgen]
impl Classifier {
    /// Of a checkpoint's bytes.
    pub fn open(bytes: Vec<u8>, name: &str, computer: &Computer) -> Result<Classifier> {
        classifier::Classifier::new(bytes, name, &computer.0).map(Classifier).map_err(thrown)
    }

    /// Height and width of what it sees.
    #[wasm_bindgen(getter)]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// Trained values.
    #[wasm_bindgen(getter)]
    pub fn parameters(&self) -> usize {
        self.0.parameters()
    }

    /// What the checker says of it: one word.
    #[wasm_bindgen(getter)]
    pub fn verdict(&self) -> String {
        self.0.exactness.verdict().name().into()
    }

    /// The layer that breaks the symmetry, if one does.
    #[wasm_bindgen(getter)]
    pub fn breaking(&self) -> Option<String> {
        self.0.exactness.first_inexact().map(ToString::to_string)
    }

    /// To a digit, turned clockwise by `degrees` and by three quarter turns more.
    pub async fn answer(&self, digit: Vec<u8>, degrees: f32) -> Result<Answer> {
        let answer = self.0.answer(&digit, degrees).await.map_err(thrown)?;
        let (classes, same_bits) = (answer.classes(), answer.same_bits());
        let probabilities = quarterturn::core::Tensor::from_vec([4, classes], answer.logits.clone(), &Device::Cpu)
            .and_then(|logits| softmax(&logits, 1).to_vec())
            .map_err(thrown)?;
        Ok(Answer { logits: answer.logits, probabilities, seen: answer.seen, same_bits })
    }
}

/// The digit of a drawing, 255 for ink: 28×28 pixels.
#[wasm_bindgen]
pub fn digit(pixels: &[u8], height: usize, width: usize) -> Result<Vec<u8>> {
    drawing::digit(pixels, height, width).map_err(thrown)
}

/// A network of the zoo, for the checker.
#[wasm_bindgen]
pub struct Checker(Checked);

#[wasm_bindgen]
impl Checker {
    /// By name, group and kind of subsampling.
    #[wasm_bindgen(constructor)]
    pub fn new(model: &str, group: &str, adaptive: bool) -> Result<Checker> {
        Checked::new(model, group, adaptive).map(Checker).map_err(thrown)
    }

    /// What the checker says at a size, as JSON.
    pub fn report(&self, size: usize) -> Result<String> {
        json(&self.0.report(size).map_err(thrown)?)
    }

    /// What is measured on an image, as JSON.
    pub fn measure(&self, rgba: &[u8], height: usize, width: usize, size: usize) -> Result<String> {
        json(&self.0.measure(rgba, height, width, size).map_err(thrown)?)
    }
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}
