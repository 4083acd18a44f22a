//! Reshaping, slicing, padding and joining.

use crate::Var;
use quarterturn_core::{Shape, Tensor};
use quarterturn_kernels::{self as kernels, Padding};

impl<'t> Var<'t> {
    /// The same elements with other axes, in row-major order.
    #[track_caller]
    pub fn reshape(&self, shape: impl Into<Shape>) -> Var<'t> {
        let before = self.shape();
        self.unary("reshape", self.value().reshape(shape), move |dy| dy.reshape(before))
    }

    /// Axis `order[a]` becomes axis `a`: [`kernels::permute`].
    #[track_caller]
    pub fn permute(&self, order: &[usize]) -> Var<'t> {
        let y = kernels::permute(self.value(), order);
        let inverse = kernels::inverse_order(order);
        self.unary("permute", y, move |dy| kernels::permute(&dy, &inverse))
    }

    /// The slice of `len` entries of `axis` from `start` on: [`kernels::narrow`].
    #[track_caller]
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Var<'t> {
        let y = kernels::narrow(self.value(), axis, start, len);
        let extent = self.shape()[axis];
        self.unary("narrow", y, move |dy| kernels::narrow_vjp(&dy, axis, start, extent))
    }

    /// Entries of `axis`, in any order: [`kernels::index_select`].
    #[track_caller]
    pub fn index_select(&self, axis: usize, indices: &[usize]) -> Var<'t> {
        let y = kernels::index_select(self.value(), axis, indices);
        let (extent, indices) = (self.shape()[axis], indices.to_vec());
        self.unary("index_select", y, move |dy| kernels::index_select_vjp(&dy, axis, &indices, extent))
    }

    /// Padding before and after the entries of an axis: [`kernels::pad`].
    #[track_caller]
    pub fn pad(&self, axis: usize, before: usize, after: usize, padding: Padding) -> Var<'t> {
        let y = kernels::pad(self.value(), axis, before, after, padding);
        self.unary("pad", y, move |dy| kernels::pad_vjp(&dy, axis, before, after, padding))
    }

    /// The two last axes padded on all four sides: [`kernels::pad_plane`].
    #[track_caller]
    pub fn pad_plane(&self, amount: usize, padding: Padding) -> Var<'t> {
        let y = kernels::pad_plane(self.value(), amount, padding);
        self.unary("pad_plane", y, move |dy| kernels::pad_plane_vjp(&dy, amount, padding))
    }

    /// The two last axes without their outermost places on all four sides: [`kernels::crop_plane`].
    #[track_caller]
    pub fn crop_plane(&self, margin: usize) -> Var<'t> {
        let y = kernels::crop_plane(self.value(), margin);
        self.unary("crop_plane", y, move |dy| kernels::pad_plane(&dy, margin, Padding::Zeros))
    }

    /// `operands` one after another along `axis`: [`kernels::concat`].
    #[track_caller]
    pub fn concat(operands: &[&Var<'t>], axis: usize) -> Var<'t> {
        let values: Vec<_> = operands.iter().map(|operand| operand.value()).collect();
        let y = kernels::concat(&values, axis);
        let parts: Vec<_> = operands.iter().map(|operand| (operand.shape()[axis], operand.is_tracked())).collect();
        Var::custom("concat", operands, y, move |dy| {
            let mut start = 0;
            let part = |(extent, tracked): (usize, bool)| {
                start += extent;
                tracked.then(|| kernels::narrow(&dy, axis, start - extent, extent))
            };
            parts.into_iter().map(part).collect()
        })
    }

    /// `operands` of one shape along a new axis before axis `axis`: [`kernels::stack`].
    #[track_caller]
    pub fn stack(operands: &[&Var<'t>], axis: usize) -> Var<'t> {
        let values: Vec<_> = operands.iter().map(|operand| operand.value()).collect();
        let y = kernels::stack(&values, axis);
        let parts: Vec<_> = operands.iter().map(|operand| (operand.shape(), operand.is_tracked())).collect();
        Var::custom("stack", operands, y, move |dy| {
            let part = |(i, (shape, tracked)): (usize, (Shape, bool))| {
                tracked.then(|| kernels::narrow(&dy, axis, i, 1).reshape(shape))
            };
            parts.into_iter().enumerate().map(part).collect()
        })
    }

    /// The parts along `axis`, which have these extents: [`kernels::split`].
    #[track_caller]
    pub fn split(&self, axis: usize, extents: &[usize]) -> Vec<Var<'t>> {
        let values = kernels::split(self.value(), axis, extents);
        let (whole, mut start) = (self.shape()[axis], 0);
        let part = |value: Tensor| {
            let first = start;
            start += value.shape()[axis];
            self.unary("split", value, move |dy| kernels::narrow_vjp(&dy, axis, first, whole))
        };
        values.into_iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Var,
        ops::check::{LINEAR, NONLINEAR, Table},
    };
    use quarterturn_kernels::Padding;

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        table.row("reshape", LINEAR, &[&[3, 4]], |_, v| v[0].reshape([2, 6]));
        table.row("permute", LINEAR, &[&[2, 3, 4]], |_, v| v[0].permute(&[2, 0, 1]));
        table.row("narrow", LINEAR, &[&[2, 5, 3]], |_, v| v[0].narrow(1, 1, 3));
        table.row("index_select", LINEAR, &[&[2, 3, 2]], |_, v| v[0].index_select(1, &[2, 0, 2, 1]));
        for padding in [Padding::Zeros, Padding::Reflection, Padding::Circular] {
            table.row(format!("pad {padding:?}"), LINEAR, &[&[2, 4, 3]], move |_, v| v[0].pad(1, 3, 2, padding));
            table.row(format!("pad_plane {padding:?}"), LINEAR, &[&[2, 4, 3]], move |_, v| v[0].pad_plane(2, padding));
        }
        table.row("crop_plane", LINEAR, &[&[2, 5, 4]], |_, v| v[0].crop_plane(1));
        // Not linear in each operand on its own.
        let parts: &[&[usize]] = &[&[2, 1, 3], &[2, 4, 3], &[2, 2, 3]];
        table.row("concat", NONLINEAR, parts, |_, v| Var::concat(&[&v[0], &v[1], &v[2], &v[0]], 1));
        table.row("stack", NONLINEAR, &[&[2, 3], &[2, 3]], |_, v| Var::stack(&[&v[0], &v[1]], 1));
        table.row("split", NONLINEAR, &[&[2, 5]], |_, v| {
            let parts = v[0].split(1, &[2, 1, 2]);
            parts[0].mul(&parts[2]).add(&parts[1])
        });
        table.check();
    }
}
