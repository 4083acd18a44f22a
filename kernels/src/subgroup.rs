//! Feature maps and subgroups: restriction to a subgroup, and pooling over its cosets.

use crate::{Group, coset_max, coset_mean, index_select};
use quarterturn_core::{Shape, Tensor};
use std::{fmt, str::FromStr};

/// A subgroup K of the turns and flips of the square, given by its elements, numbered as in [`Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subgroup(&'static [usize]);

impl Subgroup {
    /// The identity alone: z2.
    pub const Z2: Subgroup = Subgroup(&[0]);
    /// Half turns: p2.
    pub const P2: Subgroup = Subgroup(&[0, 2]);
    /// Quarter turns: p4.
    pub const P4: Subgroup = Subgroup(&[0, 1, 2, 3]);
    /// The flip from top to bottom: pm.
    pub const PM: Subgroup = Subgroup(&[0, 4]);
    /// Half turns and the flips along both axes: p2mm.
    pub const P2MM: Subgroup = Subgroup(&[0, 2, 4, 6]);
    /// Quarter turns and reflections: p4m.
    pub const P4M: Subgroup = Subgroup(&[0, 1, 2, 3, 4, 5, 6, 7]);

    /// Every subgroup that has a name here.
    pub const ALL: [Subgroup; 6] = [Self::Z2, Self::P2, Self::P4, Self::PM, Self::P2MM, Self::P4M];

    /// Its elements in ascending order, which is the order of planes in a map on K.
    pub fn elements(self) -> &'static [usize] {
        self.0
    }

    /// Number of elements.
    pub fn order(self) -> usize {
        self.0.len()
    }

    /// Whether all elements of `other` are elements of this one.
    pub fn contains(self, other: Subgroup) -> bool {
        other.0.iter().all(|g| self.0.contains(g))
    }

    /// The [`Group`] with these elements, if there are convolutions on it.
    pub fn group(self) -> Option<Group> {
        Group::ALL.into_iter().find(|&group| self == group.into())
    }

    /// The name of the plane group in the literature: z2, p2, p4, pm, p2mm, p4m.
    pub fn name(self) -> &'static str {
        match self.0 {
            [0] => "z2",
            [0, 2] => "p2",
            [0, 4] => "pm",
            [0, 1, 2, 3] => "p4",
            [0, 2, 4, 6] => "p2mm",
            _ => "p4m",
        }
    }

    /// The least elements t_0 = identity, t_1, … of the right cosets `K·t` in `group`.
    fn right_cosets(self, group: Group) -> Vec<usize> {
        self.representatives(group, |k, t| group.product(k, t))
    }

    /// The least elements t_0 = identity, t_1, … of the left cosets `t·K` in `group`.
    pub fn left_cosets(self, group: Group) -> Vec<usize> {
        self.representatives(group, |k, t| group.product(t, k))
    }

    /// The elements of `group` in the order in which [`restrict`] takes them: `k_i·t_j` for every right coset j, and in it every i.
    pub fn restriction_of(self, group: Group) -> Vec<usize> {
        let cosets = self.right_cosets(group);
        cosets.iter().flat_map(|&t| self.0.iter().map(move |&k| group.product(k, t))).collect()
    }

    /// The elements of `group` in the order in which [`subgroup_max`] takes them: `t_j·k` for every left coset j.
    /// Within a coset the elements k are ordered so that [`coset_mean`] adds opposite turns first.
    pub fn pooling_of(self, group: Group) -> Vec<usize> {
        let elements = match self.0 {
            [0, 2, 4, 6] => &[0, 4, 2, 6],
            elements => elements,
        };
        let cosets = self.left_cosets(group);
        cosets.iter().flat_map(|&t| elements.iter().map(move |&k| group.product(t, k))).collect()
    }

    fn representatives(self, group: Group, coset: impl Fn(usize, usize) -> usize) -> Vec<usize> {
        let is_least = |&t: &usize| self.0.iter().all(|&k| coset(k, t) >= t);
        group.elements().filter(is_least).collect()
    }
}

impl From<Group> for Subgroup {
    fn from(group: Group) -> Self {
        match group {
            Group::C1 => Subgroup::Z2,
            Group::C4 => Subgroup::P4,
            Group::D4 => Subgroup::P4M,
        }
    }
}

impl fmt::Display for Subgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Subgroup {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Subgroup::ALL.into_iter().find(|subgroup| subgroup.name() == name);
        known.ok_or_else(|| format!("no group '{name}': {}", Subgroup::ALL.map(Subgroup::name).join(", ")))
    }
}

/// Turns a feature map on `group` into one on its subgroup K, with more channels: `[N, C, G, H, W]` →
/// `[N, C·G/|K|, |K|, H, W]`. Only whole planes change places. With the right cosets `K·t_j`, ordered by their least
/// elements `t_j`,
///
/// `y[n, c·G/|K| + j, i, p] = x[n, c, k_i·t_j, p]`, k_i the elements of K.
///
/// For every g of K the restriction of `T_g x` is `T_g` of the restriction, in every bit. So layers on p4, say, can
/// follow layers on p4m; the network is then equivariant under p4. There are no convolutions on p2. The two planes of a
/// map on it are in the order of [`Subgroup::P2`]. Gradient: [`restrict_vjp`].
///
/// # Panics
/// If `x` is not a map on `group`, or K is not in `group`.
#[track_caller]
pub fn restrict(x: &Tensor, group: Group, to: Subgroup) -> Tensor {
    let map = Map::of("restrict", x.shape(), group, to);
    index_select(x, 2, &to.restriction_of(group)).reshape(map.restricted())
}

/// Gradient of [`restrict`], its inverse.
///
/// # Panics
/// If `dy` is not a restricted map, or K is not in `group`.
#[track_caller]
pub fn restrict_vjp(dy: &Tensor, group: Group, to: Subgroup) -> Tensor {
    let cosets = group.order() / to.order().min(group.order());
    let [n, c, order, h, w] = *dy.dims() else {
        panic!("restrict_vjp: expected [N, C, {}, H, W], got {:?}", to.order(), dy.shape())
    };
    assert!(
        order == to.order() && c % cosets.max(1) == 0,
        "restrict_vjp: expected [N, C·{cosets}, {}, H, W], got {:?}",
        to.order(),
        dy.shape()
    );
    let dy = dy.reshape([n, c / cosets, group.order(), h, w]);
    Map::of("restrict_vjp", dy.shape(), group, to);
    index_select(&dy, 2, &crate::inverse_order(&to.restriction_of(group)))
}

/// The maximum over each left coset of K: `[N, C, G, H, W]` → `[N, C, G/|K|, H, W]`, with the left cosets `t_j·K` ordered by their
/// least elements ([`Subgroup::left_cosets`]),
///
/// `y[n, c, j, p] = max_{k ∈ K} x[n, c, t_j·k, p]`.
///
/// If `x` is turned by an element g, the pixels of `y` turn, and the plane of the coset `t·K` moves to that of `g·t·K`,
/// in every bit. On p4m, pooling over [`Subgroup::PM`] leaves four planes, numbered as the turns of p4. Pooling over
/// [`Subgroup::P4`] leaves two, for not mirrored and mirrored. Pooling over the whole group is [`coset_max`] with an
/// axis of length 1 kept. A maximum over a NaN is NaN.
///
/// # Panics
/// As [`restrict`].
#[track_caller]
pub fn subgroup_max(x: &Tensor, group: Group, subgroup: Subgroup) -> Tensor {
    let map = Map::of("subgroup_max", x.shape(), group, subgroup);
    map.pooled(&coset_max(&map.by_cosets(x, group, subgroup)))
}

/// The mean over each left coset of K; otherwise as [`subgroup_max`]. Opposite turns are added first, so that an
/// element of the group only exchanges operands of additions, and every bit is kept.
///
/// # Panics
/// As [`restrict`].
#[track_caller]
pub fn subgroup_mean(x: &Tensor, group: Group, subgroup: Subgroup) -> Tensor {
    let map = Map::of("subgroup_mean", x.shape(), group, subgroup);
    map.pooled(&coset_mean(&map.by_cosets(x, group, subgroup)))
}

/// Gradient of [`subgroup_max`]: it goes to the first maximum of each coset, in the order of [`Subgroup::pooling_of`].
///
/// # Panics
/// As [`restrict`], or if `dy` does not have the shape of the result.
#[track_caller]
pub fn subgroup_max_vjp(x: &Tensor, dy: &Tensor, group: Group, subgroup: Subgroup) -> Tensor {
    let map = Map::of("subgroup_max_vjp", x.shape(), group, subgroup);
    let by_cosets = map.by_cosets(x, group, subgroup);
    map.back(&crate::coset_max_vjp(&by_cosets, &map.flat("subgroup_max_vjp", dy)), group, subgroup)
}

/// Gradient of [`subgroup_mean`]: `dx[n, c, t_j·k, p] = dy[n, c, j, p] / |K|`.
///
/// # Panics
/// As [`restrict`], or if `dy` does not have the shape of the result.
#[track_caller]
pub fn subgroup_mean_vjp(dy: &Tensor, x_shape: Shape, group: Group, subgroup: Subgroup) -> Tensor {
    let map = Map::of("subgroup_mean_vjp", x_shape, group, subgroup);
    map.back(&crate::coset_mean_vjp(&map.flat("subgroup_mean_vjp", dy), map.restricted()), group, subgroup)
}

/// The group element with the largest response at each pixel, `y[n, c, p] = argmax_g x[n, c, g, p]`, stored as a
/// number: `[N, C, G, H, W]` → `[N, C, H, W]`. Of equal responses the first counts. The result is NaN where a response
/// is NaN. There is no gradient.
///
/// If `x` is turned by an element g, the pixels of `y` turn, and the answer h becomes the product `g·h`
/// ([`Group::product`]). This does not hold where responses are equal, because the first of them is taken before and
/// after the turn alike.
///
/// # Panics
/// If `x` is not a map on `group`.
#[track_caller]
pub fn coset_argmax(x: &Tensor, group: Group) -> Tensor {
    Map::of("coset_argmax", x.shape(), group, Subgroup::Z2);
    crate::argmax(x, 2)
}

/// A feature map on a group, of which cosets of a subgroup are taken.
struct Map {
    dims: [usize; 5],
    /// Elements of the subgroup, and cosets.
    order: usize,
    cosets: usize,
}

impl Map {
    #[track_caller]
    fn of(op: &str, shape: Shape, group: Group, subgroup: Subgroup) -> Self {
        let order = group.order();
        let dims = shape.dims().try_into().ok().filter(|dims: &[usize; 5]| dims[2] == order);
        let dims = dims.unwrap_or_else(|| panic!("{op}: expected [N, C, {order}, H, W] for {group}, got {shape:?}"));
        let elements = subgroup.elements();
        assert!(
            elements.iter().all(|&k| k < order),
            "{op}: expected a subgroup of {group}, got the elements {elements:?}"
        );
        Map { dims, order: subgroup.order(), cosets: order / subgroup.order() }
    }

    /// Channels and cosets together, then the subgroup.
    fn restricted(&self) -> Shape {
        let [n, c, _, h, w] = self.dims;
        Shape::from([n, c * self.cosets, self.order, h, w])
    }

    fn by_cosets(&self, x: &Tensor, group: Group, subgroup: Subgroup) -> Tensor {
        index_select(x, 2, &subgroup.pooling_of(group)).reshape(self.restricted())
    }

    /// The result of pooling `[N, C·cosets, |K|, H, W]` with its axis of cosets.
    fn pooled(&self, y: &Tensor) -> Tensor {
        let [n, c, _, h, w] = self.dims;
        y.reshape([n, c, self.cosets, h, w])
    }

    /// A gradient of [`Map::pooled`] as it was before.
    #[track_caller]
    fn flat(&self, op: &str, dy: &Tensor) -> Tensor {
        let [n, c, _, h, w] = self.dims;
        let expected = Shape::from([n, c, self.cosets, h, w]);
        assert_eq!(dy.shape(), expected, "{op}: expected dy {expected:?}, got {:?}", dy.shape());
        dy.reshape([n, c * self.cosets, h, w])
    }

    /// A gradient of [`Map::by_cosets`] as that of the map.
    fn back(&self, dx: &Tensor, group: Group, subgroup: Subgroup) -> Tensor {
        let order = crate::inverse_order(&subgroup.pooling_of(group));
        index_select(&dx.reshape(self.dims), 2, &order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{Tolerance, check, check_adjoint, devices_and_reference, random, same_bits},
        transform_feature_map, transform_plane,
    };
    use quarterturn_core::testing;

    /// Every subgroup of every group.
    fn pairs() -> Vec<(Group, Subgroup)> {
        let within = |group: Group, subgroup: Subgroup| subgroup.elements().iter().all(|&k| k < group.order());
        let all = Group::ALL.into_iter().flat_map(|group| Subgroup::ALL.map(|subgroup| (group, subgroup)));
        all.filter(|&(group, subgroup)| within(group, subgroup)).collect()
    }

    /// What g makes of a map whose planes stand for `places`, where it takes each to another: `y'[g·a] = g y[a]`.
    fn act(y: &Tensor, g: usize, places: usize, source: impl Fn(usize) -> usize) -> Tensor {
        transform_plane(&index_select(y, 2, &(0..places).map(source).collect::<Vec<_>>()), g)
    }

    #[test]
    fn subgroups_are_groups_and_cosets_part_the_group() {
        for (group, subgroup) in pairs() {
            let elements = subgroup.elements();
            for (a, b) in elements.iter().flat_map(|a| elements.iter().map(move |b| (a, b))) {
                assert!(elements.contains(&group.product(*a, *b)), "{subgroup:?}");
            }
            for mut order in [subgroup.restriction_of(group), subgroup.pooling_of(group)] {
                order.sort_unstable();
                assert!(order.into_iter().eq(group.elements()), "{group} {subgroup:?}");
            }
        }
        assert_eq!(pairs().len(), 1 + 3 + 6);
    }

    #[test]
    fn names_parse_back() {
        for subgroup in Subgroup::ALL {
            assert_eq!(subgroup.to_string().parse(), Ok(subgroup));
        }
        for group in Group::ALL {
            assert_eq!((Subgroup::from(group).group(), Subgroup::from(group).name()), (Some(group), group.name()));
        }
        assert!(Subgroup::P2.group().is_none() && "p6".parse::<Subgroup>().is_err());
    }

    #[test]
    fn parity_and_adjoint() {
        for (group, subgroup) in pairs() {
            for [n, c, h, w] in [[1, 1, 1, 1], [2, 3, 5, 4], [3, 5, 17, 16]] {
                let shape = Shape::from([n, c, group.order(), h, w]);
                let (name, x) = (format!("{group} {subgroup:?} {shape:?}"), random(shape, 1));
                let dy = random(subgroup_max(&x, group, subgroup).shape(), 2);
                check(&name, &[&x], Tolerance::Exact, |t| {
                    vec![restrict(&t[0], group, subgroup), subgroup_max(&t[0], group, subgroup)]
                });
                check(&name, &[&x, &dy], Tolerance::Terms(8), |t| {
                    vec![subgroup_mean(&t[0], group, subgroup), subgroup_max_vjp(&t[0], &t[1], group, subgroup)]
                });
                let there = |x: &Tensor| restrict(x, group, subgroup);
                check_adjoint(&name, shape, there, |dy| restrict_vjp(dy, group, subgroup));
                let mean = |x: &Tensor| subgroup_mean(x, group, subgroup);
                check_adjoint(&name, shape, mean, |dy| subgroup_mean_vjp(dy, shape, group, subgroup));
                assert!(same_bits(&restrict_vjp(&there(&x), group, subgroup), &x), "{name}");
            }
        }
    }

    #[test]
    fn restriction_commutes_with_the_subgroup_in_every_bit() {
        for (group, subgroup) in pairs() {
            for (device, size) in devices_and_reference().into_iter().flat_map(|d| [5, 6].map(|n| (d.clone(), n))) {
                let x = random([2, 3, group.order(), size, size], 3).to_device(&device).unwrap();
                let (y, elements) = (restrict(&x, group, subgroup), subgroup.elements());
                for g in group.elements() {
                    let place = |k: usize| elements.iter().position(|&e| e == k);
                    let expected = act(&y, g, elements.len(), |i| {
                        place(group.product(group.inverse(g), elements[i])).unwrap_or(i)
                    });
                    let moved = restrict(&transform_feature_map(&x, g, group), group, subgroup);
                    let name = format!("{group} to {subgroup:?}, {g} on {device}");
                    assert_eq!(same_bits(&moved, &expected), elements.contains(&g), "{name}");
                }
            }
        }
        // Of p4m on p4, it is what any map on p4 does.
        let x = random([1, 2, 8, 5, 5], 3);
        for g in Group::C4.elements() {
            let moved = restrict(&transform_feature_map(&x, g, Group::D4), Group::D4, Subgroup::P4);
            let expected = transform_feature_map(&restrict(&x, Group::D4, Subgroup::P4), g, Group::C4);
            assert!(same_bits(&moved, &expected), "{g}");
        }
    }

    #[test]
    fn pooling_over_cosets_commutes_with_the_group_in_every_bit() {
        type Pool = fn(&Tensor, Group, Subgroup) -> Tensor;
        for (group, subgroup) in pairs() {
            for (device, size) in testing::devices().into_iter().flat_map(|d| [5, 6].map(|n| (d.clone(), n))) {
                let x = random([2, 3, group.order(), size, size], 3).to_device(&device).unwrap();
                let cosets = subgroup.left_cosets(group);
                for (name, pool) in [("max", subgroup_max as Pool), ("mean", subgroup_mean)] {
                    let y = pool(&x, group, subgroup);
                    for g in group.elements() {
                        let coset = |h: usize| {
                            let least = subgroup.elements().iter().map(|&k| group.product(h, k)).min();
                            cosets.iter().position(|&t| Some(t) == least).unwrap()
                        };
                        let source = |j: usize| coset(group.product(group.inverse(g), cosets[j]));
                        let moved = pool(&transform_feature_map(&x, g, group), group, subgroup);
                        let expected = act(&y, g, cosets.len(), source);
                        assert!(same_bits(&moved, &expected), "{name} {group} {subgroup:?}, {g} on {device}");
                    }
                }
            }
        }
        // What is left of p4m without its flips is a map on p4.
        let x = random([1, 2, 8, 5, 5], 3).to_device(&quarterturn_core::Device::Cpu).unwrap();
        for g in Group::C4.elements() {
            let moved = subgroup_mean(&transform_feature_map(&x, g, Group::D4), Group::D4, Subgroup::PM);
            let expected = transform_feature_map(&subgroup_mean(&x, Group::D4, Subgroup::PM), g, Group::C4);
            assert!(same_bits(&moved, &expected), "{g}");
        }
    }

    #[test]
    fn over_the_whole_group_it_is_the_pooling_that_there_was() {
        for (group, whole) in [(Group::C1, Subgroup::Z2), (Group::C4, Subgroup::P4), (Group::D4, Subgroup::P4M)] {
            for device in testing::devices() {
                let x = random([2, 3, group.order(), 5, 5], 3).to_device(&device).unwrap();
                assert!(same_bits(&subgroup_max(&x, group, whole), &coset_max(&x)), "{group} on {device}");
                assert!(same_bits(&subgroup_mean(&x, group, whole), &coset_mean(&x)), "{group} on {device}");
            }
        }
    }

    #[test]
    fn the_largest_response_turns_by_the_groups_product() {
        for group in Group::ALL {
            for device in devices_and_reference() {
                let x = random([2, 3, group.order(), 5, 5], 3).to_device(&device).unwrap();
                let y = coset_argmax(&x, group);
                for g in group.elements() {
                    let got = coset_argmax(&transform_feature_map(&x, g, group), group).to_vec().unwrap();
                    let moved = transform_plane(&y, g).to_vec().unwrap();
                    let expected: Vec<f32> = moved.into_iter().map(|h| group.product(g, h as usize) as f32).collect();
                    assert_eq!(got, expected, "{group} {g} on {device}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "restrict: expected a subgroup of p4, got the elements [0, 4]")]
    fn what_is_no_subgroup_is_refused() {
        restrict(&random([1, 1, 4, 2, 2], 1), Group::C4, Subgroup::PM);
    }
}
