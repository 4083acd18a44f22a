//! Operations on the group axis, and the group's action.

use crate::Var;
use quarterturn_kernels::{self as kernels, Group, Subgroup};

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

    /// Turns and flips the two last axes by element `g`: [`kernels::transform_plane`].
    #[track_caller]
    pub fn transform_plane(&self, g: usize) -> Var<'t> {
        let y = kernels::transform_plane(self.value(), g);
        self.unary("transform_plane", y, move |dy| kernels::transform_plane(&dy, Group::D4.inverse(g)))
    }

    /// Turns and flips a feature map by element `g`, group axis included: [`kernels::transform_feature_map`].
    #[track_caller]
    pub fn transform_feature_map(&self, g: usize, group: Group) -> Var<'t> {
        let y = kernels::transform_feature_map(self.value(), g, group);
        let vjp = move |dy| kernels::transform_feature_map(&dy, group.inverse(g), group);
        self.unary("transform_feature_map", y, vjp)
    }

    /// The same feature map as one on a subgroup of `group`, with more channels: [`kernels::restrict`].
    #[track_caller]
    pub fn restrict(&self, group: Group, to: Subgroup) -> Var<'t> {
        let y = kernels::restrict(self.value(), group, to);
        self.unary("restrict", y, move |dy| kernels::restrict_vjp(&dy, group, to))
    }

    /// The maximum over each coset of a subgroup: [`kernels::subgroup_max`].
    #[track_caller]
    pub fn subgroup_max(&self, group: Group, subgroup: Subgroup) -> Var<'t> {
        let x = self.value().clone();
        let y = kernels::subgroup_max(&x, group, subgroup);
        self.unary("subgroup_max", y, move |dy| kernels::subgroup_max_vjp(&x, &dy, group, subgroup))
    }

    /// The mean over each coset of a subgroup: [`kernels::subgroup_mean`].
    #[track_caller]
    pub fn subgroup_mean(&self, group: Group, subgroup: Subgroup) -> Var<'t> {
        let (shape, y) = (self.shape(), kernels::subgroup_mean(self.value(), group, subgroup));
        self.unary("subgroup_mean", y, move |dy| kernels::subgroup_mean_vjp(&dy, shape, group, subgroup))
    }
}

#[cfg(test)]
mod tests {
    use crate::ops::check::{LINEAR, NONLINEAR, Table};
    use quarterturn_kernels::{Group::D4, Subgroup};

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
        for subgroup in Subgroup::ALL {
            let (map, name): (&[&[usize]], _) = (&[&[2, 3, 8, 2, 2]], |op: &str| format!("{op} {subgroup:?}"));
            table.row(name("restrict"), LINEAR, map, move |_, v| v[0].restrict(D4, subgroup));
            table.row(name("subgroup_mean"), LINEAR, map, move |_, v| v[0].subgroup_mean(D4, subgroup));
            table.row(name("subgroup_max"), NONLINEAR, map, move |_, v| v[0].subgroup_max(D4, subgroup));
        }
        table.check();
    }
}
