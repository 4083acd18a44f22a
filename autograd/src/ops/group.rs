//! Operations on the group axis, and the group's action.

use crate::Var;
use quarterturn_kernels::{self as kernels, Group};

impl<'t> Var<'t> {
    /// The maximum over the group axis: [`kernels::coset_max`].
    #[track_caller]
    pub fn coset_max(&self) -> Var<'t> {
        let x = self.value().clone();
        self.unary("coset_max", kernels::coset_max(&x), move |dy| kernels::coset_max_vjp(&x, &dy))
    }

    /// The mean over the group axis: [`kernels::coset_mean`].
    #[track_caller]
    pub fn coset_mean(&self) -> Var<'t> {
        let shape = self.shape();
        let y = kernels::coset_mean(self.value());
        self.unary("coset_mean", y, move |dy| kernels::coset_mean_vjp(&dy, shape))
    }

    /// Turns and flips the two last axes: [`kernels::transform_plane`].
    #[track_caller]
    pub fn transform_plane(&self, g: usize) -> Var<'t> {
        let y = kernels::transform_plane(self.value(), g);
        self.unary("transform_plane", y, move |dy| kernels::transform_plane(&dy, Group::D4.inverse(g)))
    }

    /// `T_g` on a feature map: [`kernels::transform_feature_map`].
    #[track_caller]
    pub fn transform_feature_map(&self, g: usize, group: Group) -> Var<'t> {
        let y = kernels::transform_feature_map(self.value(), g, group);
        let vjp = move |dy| kernels::transform_feature_map(&dy, group.inverse(g), group);
        self.unary("transform_feature_map", y, vjp)
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};
    use quarterturn_kernels::Group::D4;

    #[test]
    fn gradients_adjoints_and_devices() {
        let mut table = Table::default();
        for g in [1, 4, 8] {
            table.row("coset_max", NONLINEAR, &[&[2, 3, g, 2, 2]], |_, v| v[0].coset_max());
            table.row("coset_mean", LINEAR, &[&[2, 3, g, 2, 2]], |_, v| v[0].coset_mean());
        }
        for g in D4.elements() {
            table.row(format!("transform_plane {g}"), LINEAR, &[&[2, 3, 5]], move |_, v| v[0].transform_plane(g));
            let map: &[&[usize]] = &[&[1, 2, 8, 3, 3]];
            table.row(format!("transform_feature_map {g}"), LINEAR, map, move |_, v| v[0].transform_feature_map(g, D4));
        }
        table.check();
    }
}
