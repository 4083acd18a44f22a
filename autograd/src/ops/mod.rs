//! One method of [`crate::Var`] per operation: the kernel's result, and one closure per operand (or per group of operands
//! whose gradients one sweep yields). Formulas, shapes and panics are the kernels'. A file per family, with the table that
//! drives its checks beside it.

mod adaptive;
mod arithmetic;
#[cfg(test)]
mod check;
mod conv;
mod conv_norm;
mod dropout;
mod elementwise;
mod group;
mod loss;
mod matmul;
mod norm;
mod pool;
mod reduce;
mod resize;
mod shape;
