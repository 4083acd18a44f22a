//! GPU launches whose result is one new tensor.

use quarterturn_core::{
    Shape, Tensor,
    gpu::{Gpu, GpuBuffer, Kernel, Size},
};

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
    let y = gpu.alloc(shape.len());
    gpu.launch(&kernel, overrides, &inputs, &[&y], uniform, size);
    Tensor::gpu(shape, y)
}
