//! Convolutions.

use crate::{Var, tape::Edge};
use quarterturn_kernels::{self as kernels, Conv, Group};

impl<'t> Var<'t> {
    /// Plain, lifting or group convolution: [`kernels::group_conv`].
    #[track_caller]
    pub fn group_conv(&self, weight: &Var<'t>, bias: Option<&Var<'t>>, conv: Conv) -> Var<'t> {
        let y = kernels::group_conv(self.value(), weight.value(), bias.map(Var::value), conv);
        let (x, w) = (self.value().clone(), weight.value().clone());
        let (x_shape, w_shape) = (x.shape(), w.shape());
        let dw = match bias {
            Some(bias) => Edge::joint([weight, bias], move |dy| {
                let (dweight, dbias) = kernels::group_conv_dw(&x, dy, w_shape, conv);
                vec![dweight, dbias]
            }),
            None => weight.edge(move |dy| kernels::group_conv_dw(&x, dy, w_shape, conv).0),
        };
        // The input's gradient comes last: by then the saved input is free.
        self.result(y, [dw, self.edge(move |dy| kernels::group_conv_dx(dy, &w, x_shape, conv))])
    }

    /// The orbit of a filter as one dense weight: [`kernels::filter_orbit`].
    #[track_caller]
    pub fn filter_orbit(&self, group: Group) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::filter_orbit(self.value(), group);
        self.result(y, [self.edge(move |dy| kernels::filter_orbit_vjp(dy, shape, group))])
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};
    use quarterturn_kernels::{
        Conv,
        Group::{C1, C4, D4},
    };

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 1), (D4, 8)] {
            for (k, stride, padding) in [(3, 1, 1), (2, 2, 0), (3, 2, 1), (4, 1, 0)] {
                let conv = Conv { group, stride, padding };
                let (x, w) = ([2, 2, g_in, 5, 6], [3, 2, g_in, k, k]);
                let name = format!("group_conv {group} from {g_in}, k {k} s {stride} p {padding}");
                table.row(&name, NONLINEAR, &[&x, &w, &[3]], move |_, v| v[0].group_conv(&v[1], Some(&v[2]), conv));
                let name = format!("{name}, no bias");
                table.row(&name, LINEAR, &[&x, &w], move |_, v| v[0].group_conv(&v[1], None, conv));
            }
            let name = format!("filter_orbit {group} from {g_in}");
            table.row(&name, LINEAR, &[&[2, 3, g_in, 3, 3]], move |_, v| v[0].filter_orbit(group));
        }
        table.check();
    }
}
