//! One method of [`crate::Var`] for each operation. Formulas, shapes and panics are documented at the kernels. There is
//! a file for each family of operations, with the table that drives its checks beside it.

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
