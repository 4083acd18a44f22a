//! What the planes along the group axis of a feature map stand for, and how turns and flips exchange them.

use crate::{Group, Subgroup, index_select, transform_plane};
use quarterturn_core::Tensor;

/// What the planes along a group axis stand for: the left cosets t·K of a subgroup K in a group, ordered by their least
/// elements. A coset is the set of products t·k for all k in K.
///
/// There are three cases. If K is the identity alone, there is a plane for each element of the group: an ordinary
/// feature map on the group. If K is the whole group, there is one plane: an image, or a map after a maximum over the
/// group. After [`crate::subgroup_max`], K is in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosets {
    group: Subgroup,
    pooled: Subgroup,
}

impl Cosets {
    /// The cosets of the subgroup `pooled` in `group`.
    ///
    /// # Panics
    /// If `pooled` is not in `group`.
    #[track_caller]
    pub fn new(group: Subgroup, pooled: Subgroup) -> Self {
        assert!(group.contains(pooled), "Cosets: expected a subgroup of {group}, got {pooled}");
        Cosets { group, pooled }
    }

    /// One plane for each element of the group.
    pub fn elements(group: impl Into<Subgroup>) -> Self {
        Cosets { group: group.into(), pooled: Subgroup::Z2 }
    }

    /// A single plane for the whole group.
    pub fn one(group: impl Into<Subgroup>) -> Self {
        let group = group.into();
        Cosets { group, pooled: group }
    }

    /// The group.
    pub fn group(self) -> Subgroup {
        self.group
    }

    /// The subgroup K over which planes were pooled.
    pub fn pooled(self) -> Subgroup {
        self.pooled
    }

    /// The number of planes: the length of the group axis.
    pub fn order(self) -> usize {
        self.group.order() / self.pooled.order()
    }

    /// What the group axis of a sum of two maps stands for, if theirs stand for `self` and `other`; `None` if such maps
    /// cannot be added. If both have a single plane, the smaller group counts, because only its elements are known to
    /// leave both summands unchanged.
    pub fn in_sum(self, other: Cosets) -> Option<Cosets> {
        match self {
            _ if self == other => Some(self),
            _ if self.order() > 1 || other.order() > 1 => None,
            _ if self.group.contains(other.group) => Some(other),
            _ => other.group.contains(self.group).then_some(self),
        }
    }

    /// The coset `g⁻¹·t·K` for each coset `t·K`: where its values come from.
    fn sources(self, g: usize) -> Vec<usize> {
        let least = |t: usize| self.pooled.elements().iter().map(|&k| Group::D4.product(t, k)).min().unwrap_or(t);
        let cosets: Vec<usize> = self.group.elements().iter().copied().filter(|&t| least(t) == t).collect();
        let inverse = Group::D4.inverse(g);
        let source = |&t: &usize| {
            let source = least(Group::D4.product(inverse, t));
            cosets.iter().position(|&t| t == source).expect("the product of two elements of a group is in the group")
        };
        cosets.iter().map(source).collect()
    }
}

/// Turns and flips a feature map `[N, C, cosets, H, W]`, or means `[N, C, cosets]`, by element g:
/// `(T_g f)(p, t·K) = f(g⁻¹p, g⁻¹t·K)`. For a map with a plane for each element this is
/// [`crate::transform_feature_map`].
///
/// # Panics
/// If `x` is no such map, or g is not in the group.
#[track_caller]
pub fn transform_cosets(x: &Tensor, g: usize, cosets: Cosets) -> Tensor {
    let (group, order) = (cosets.group(), cosets.order());
    assert!(group.elements().contains(&g), "transform_cosets: expected an element of {group}, got {g}");
    let is_map = matches!(*x.dims(), [_, _, axis] | [_, _, axis, _, _] if axis == order);
    assert!(is_map, "transform_cosets: expected [N, C, {order}] or [N, C, {order}, H, W], got {:?}", x.shape());
    let moved = index_select(x, 2, &cosets.sources(g));
    if moved.shape().rank() == 5 { transform_plane(&moved, g) } else { moved }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{devices_and_reference, random, same_bits},
        restrict, subgroup_max, transform_feature_map,
    };

    #[test]
    fn on_a_group_it_is_the_groups_action() {
        for device in devices_and_reference() {
            for group in Group::ALL {
                let x = random([2, 3, group.order(), 4, 4], 1).to_device(&device).unwrap();
                for g in group.elements() {
                    let moved = transform_cosets(&x, g, Cosets::elements(group));
                    assert!(same_bits(&moved, &transform_feature_map(&x, g, group)), "{group} {g} on {device}");
                }
            }
        }
    }

    #[test]
    fn restricted_and_pooled_maps_move_by_it() {
        let x = random([2, 3, 8, 5, 5], 2);
        for subgroup in Subgroup::ALL {
            let (restricted, pooled) = (restrict(&x, Group::D4, subgroup), subgroup_max(&x, Group::D4, subgroup));
            let cosets = Cosets::new(Subgroup::P4M, subgroup);
            assert_eq!(cosets.order(), pooled.shape()[2]);
            for g in Group::D4.elements() {
                let moved = transform_feature_map(&x, g, Group::D4);
                let expected = transform_cosets(&pooled, g, cosets);
                assert!(same_bits(&subgroup_max(&moved, Group::D4, subgroup), &expected), "{subgroup} {g}");
                if subgroup.elements().contains(&g) {
                    let expected = transform_cosets(&restricted, g, Cosets::elements(subgroup));
                    assert!(same_bits(&restrict(&moved, Group::D4, subgroup), &expected), "{subgroup} {g}");
                }
            }
        }
        // The cosets of a flip move under turns as the turns themselves do.
        let pooled = subgroup_max(&x, Group::D4, Subgroup::PM);
        for g in Group::C4.elements() {
            let expected = transform_feature_map(&pooled, g, Group::C4);
            assert!(same_bits(&transform_cosets(&pooled, g, Cosets::new(Subgroup::P4M, Subgroup::PM)), &expected));
        }
    }

    #[test]
    #[should_panic(expected = "transform_cosets: expected an element of p2, got 1")]
    fn elements_of_other_groups_are_refused() {
        transform_cosets(&random([1, 1, 2], 1), 1, Cosets::elements(Subgroup::P2));
    }
}
