//! GPU launches whose result is one new tensor.

use quarterturn_core::{
    Shape, Tensor,
    gpu::{Checks, Gpu, GpuBuffer, Kernel, Size},
};

/// An entry point of a shader of this crate.
pub(crate) const fn kernel(name: &'static str, source: &'static str) -> Kernel {
    // naga's counter in each loop would keep drivers from unrolling it: a quarter of a convolution's time.
    // SAFETY: `tests/shaders.rs` holds every loop of this crate's shaders to end by itself, and their workgroup memory is
    // written before it is read.
    unsafe { Kernel::new(name, source).with_checks(Checks::Bounds) }
}

/// The result, of this shape, of a launch with one invocation per element.
pub(crate) fn each(
    gpu: &Gpu,
    kernel: Kernel,
    overrides: &[(&'static str, f64)],
    operands: &[&Tensor],
    shape: Shape,
    uniform: &[u32],
) -> Tensor {
    result(gpu, kernel, overrides, operands, shape, uniform, Size::Threads(shape.len()))
}

/// The result, of this shape, of a launch of this size.
pub(crate) fn result(
    gpu: &Gpu,
    kernel: Kernel,
    overrides: &[(&'static str, f64)],
    operands: &[&Tensor],
    shape: Shape,
    uniform: &[u32],
    size: Size,
) -> Tensor {
    let inputs: Vec<&GpuBuffer> = operands.iter().map(|operand| operand.buffer()).collect();
    let y = gpu.output(shape.len());
    gpu.launch(&kernel, overrides, &inputs, &[&y], uniform, size);
    Tensor::gpu(shape, y)
}
