//! Convolutions.

use crate::{
    Var,
    ops::conv_norm::{Norm, conv_dx},
};
use quarterturn_kernels::{self as kernels, Conv, Group};

impl<'t> Var<'t> {
    /// A plain, lifting or group convolution: [`kernels::group_conv`].
    #[track_caller]
    pub fn group_conv(&self, weight: &Var<'t>, bias: Option<&Var<'t>>, conv: Conv) -> Var<'t> {
        let y = kernels::group_conv(self.value(), weight.value(), bias.map(Var::value), conv);
        let (x_shape, w_shape, has_bias) = (self.shape(), weight.shape(), bias.is_some());
        let operands: Vec<_> = [self, weight].into_iter().chain(bias).collect();
        let x = operands[1..].iter().find_map(|operand| operand.keeps(self.value()));
        let (w, norm) = (self.keeps(weight.value()), self.note::<Norm>());
        Var::custom_adding("group_conv", &operands, y, move |dy, arrived| {
            let (dw, db) = x.map(|x| kernels::group_conv_dw(&x, &dy, w_shape, conv)).unzip();
            // The input's gradient comes last: by then the saved input is free.
            let dx = w.map(|w| conv_dx(&dy, &w, x_shape, conv, norm, arrived));
            [dx, dw].into_iter().chain(has_bias.then_some(db)).collect()
        })
    }

    /// A transposed plain, lifting or group convolution: [`kernels::transposed_group_conv`].
    #[track_caller]
    pub fn transposed_group_conv(
        &self,
        weight: &Var<'t>,
        bias: Option<&Var<'t>>,
        conv: Conv,
        output_padding: usize,
    ) -> Var<'t> {
        let (x, w) = (self.value(), weight.value());
        let y = kernels::transposed_group_conv(x, w, bias.map(Var::value), conv, output_padding);
        let (x_shape, w_shape, has_bias) = (self.shape(), weight.shape(), bias.is_some());
        let operands: Vec<_> = [self, weight].into_iter().chain(bias).collect();
        let x = operands[1..].iter().find_map(|operand| operand.keeps(self.value()));
        let w = self.keeps(weight.value());
        Var::custom("transposed_group_conv", &operands, y, move |dy| {
            let (dw, db) = x.map(|x| kernels::transposed_group_conv_dw(&x, &dy, w_shape, conv)).unzip();
            let dx = w.map(|w| kernels::transposed_group_conv_dx(&dy, &w, x_shape, conv));
            [dx, dw].into_iter().chain(has_bias.then_some(db)).collect()
        })
    }

    /// A depthwise convolution, one filter for each channel: [`kernels::depthwise_conv`].
    #[track_caller]
    pub fn depthwise_conv(&self, weight: &Var<'t>, conv: Conv) -> Var<'t> {
        let y = kernels::depthwise_conv(self.value(), weight.value(), conv);
        let (x_shape, w_shape) = (self.shape(), weight.shape());
        let (x, w) = (weight.keeps(self.value()), self.keeps(weight.value()));
        Var::custom("depthwise_conv", &[self, weight], y, move |dy| {
            let dw = x.map(|x| kernels::depthwise_conv_dw(&x, &dy, w_shape, conv));
            vec![w.map(|w| kernels::depthwise_conv_dx(&dy, &w, x_shape, conv)), dw]
        })
    }

    /// The filter in all its orientations, as the weight of one ordinary convolution: [`kernels::filter_orbit`].
    #[track_caller]
    pub fn filter_orbit(&self, group: Group) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::filter_orbit(self.value(), group);
        self.unary("filter_orbit", y, move |dy| kernels::filter_orbit_vjp(&dy, shape, group))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};
    use quarterturn_kernels::{
        Activation, Conv,
        Group::{C1, C4, D4},
    };

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        for (group, g_in) in [(C1, 1), (C4, 1), (C4, 4), (D4, 1), (D4, 8)] {
            for (k, stride, padding, dilation) in [(3, 1, 1, 1), (2, 2, 0, 1), (3, 2, 1, 1), (4, 1, 0, 1), (3, 2, 2, 2)]
            {
                let conv = Conv { group, stride, padding, dilation };
                let (x, w) = ([2, 2, g_in, 5, 6], [3, 2, g_in, k, k]);
                let name = format!("group_conv {group} from {g_in}, k {k} s {stride} p {padding} d {dilation}");
                table.row(&name, NONLINEAR, &[&x, &w, &[3]], move |_, v| v[0].group_conv(&v[1], Some(&v[2]), conv));
                if stride == 1 && g_in == group.order() {
                    let shapes: &[&[usize]] = &[&x, &w, &[2], &[2]];
                    table.row(
                        format!("before it a norm of what is read again: {name}"),
                        NONLINEAR,
                        shapes,
                        move |_, v| {
                            let (y, _) = v[0].batch_norm_train(&v[2], &v[3], 1e-5, Activation::default());
                            y.group_conv(&v[1], None, conv).add(&v[0].group_conv(&v[1], None, conv))
                        },
                    );
                }
                let name = format!("{name}, no bias");
                table.row(&name, LINEAR, &[&x, &w], move |_, v| v[0].group_conv(&v[1], None, conv));
                let name = format!("depthwise_conv {group} from {g_in}, {conv:?}, k {k}");
                table.row(&name, LINEAR, &[&x, &[2, 1, 1, k, k]], move |_, v| v[0].depthwise_conv(&v[1], conv));
            }
            for (k, stride, padding, dilation, output_padding) in [(3, 2, 1, 1, 0), (4, 2, 1, 1, 1), (2, 1, 0, 2, 0)] {
                let conv = Conv { group, stride, padding, dilation };
                let (x, w) = ([2, 2, g_in, 3, 4], [2, 3, g_in, k, k]);
                let name =
                    format!("transposed_group_conv {group} from {g_in}, {conv:?}, k {k}, output {output_padding}");
                table.row(&name, NONLINEAR, &[&x, &w, &[3]], move |_, v| {
                    v[0].transposed_group_conv(&v[1], Some(&v[2]), conv, output_padding)
                });
                table.row(format!("{name}, no bias"), LINEAR, &[&x, &w], move |_, v| {
                    v[0].transposed_group_conv(&v[1], None, conv, output_padding)
                });
            }
            let name = format!("filter_orbit {group} from {g_in}");
            table.row(&name, LINEAR, &[&[2, 3, g_in, 3, 3]], move |_, v| v[0].filter_orbit(group));
        }
        table.check();
    }
}
