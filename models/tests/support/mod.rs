//! Random networks, which several tests try.

use quarterturn_core::{Device, Stream, Tensor};
use quarterturn_kernels::{Group, SILU, Subgroup, TANH, Window};
use quarterturn_models::{Builder, Init, Interpolation, Network, Sequential};
use std::cell::Cell;

/// Draws whole numbers, one after another.
struct Draw {
    stream: Stream,
    drawn: Cell<u64>,
    /// With layers behind which windows may leave over what does not count: see [`bare_network`].
    bare: bool,
}

impl Draw {
    fn below(&self, end: usize) -> usize {
        self.drawn.set(self.drawn.get() + 1);
        (self.stream.uniform(self.drawn.get()) * end as f32) as usize
    }

    /// A window that fits maps of at least 3×3 and halves them at most.
    fn window(&self) -> Window {
        let kernel_size = 1 + self.below(3);
        Window { kernel_size, stride: 1 + self.below(2), padding: kernel_size / 2 }
    }
}

/// Some layers, the last of which makes `channels` channels.
fn body(mut x: Builder, draw: &Draw, channels: usize, depth: usize) -> Builder {
    let same = Window { kernel_size: 3, stride: 1, padding: 1 };
    x = if draw.below(4) > 0 { x.conv("first", channels, same) } else { x.separable_conv("first", channels, same) };
    for i in 0..1 + draw.below(3) {
        let name = format!("layer{i}");
        x = match draw.below(if depth < 2 { 18 } else { 10 }) {
            0 => x.conv(&name, channels, draw.window()),
            1 => x.conv_without_bias(&name, channels, draw.window()).norm(&format!("norm{i}")).relu(),
            2 => x.norm(&name).relu().dropout(0.25).dropout_maps(0.5),
            3 => x.max_pool(&name, draw.window()),
            4 => x.avg_pool(&name, draw.window()),
            5 => x.relu(),
            6 => {
                let (dilation, stride) = (2 + draw.below(2), 1 + draw.below(2));
                x.dilated_conv(&name, channels, Window { kernel_size: 3, stride, padding: dilation }, dilation)
            }
            7 => {
                let (kernel_size, stride) = (2 + draw.below(3), 1 + draw.below(2));
                let window = Window { kernel_size, stride, padding: (kernel_size - 1) / 2 };
                x.transposed_conv(&name, channels, window, if draw.bare { draw.below(stride) } else { 0 })
            }
            8 => x.separable_conv(&name, channels, draw.window()),
            9 => {
                let (kernel_size, stride) = (3 + 2 * draw.below(2), 1 + draw.below(2));
                x.blur_pool(&name, Window { kernel_size, stride, padding: kernel_size / 2 })
            }
            10 => x.chain(&name, |x| body(x, draw, channels, depth + 1)),
            11 => {
                let wide = x.concat(&name, |x| x, |x| x.conv("a", channels + 1, same).relu());
                wide.conv(&format!("narrow{i}"), channels, Window { kernel_size: 1, stride: 1, padding: 0 })
            }
            12 => x.upsample(&name, 2).activation(&SILU),
            13 => x.adaptive_max_pool(&name, Window { kernel_size: 2, stride: 2, padding: 0 }, None),
            14 => {
                let interpolation = [Interpolation::Bilinear, Interpolation::Nearest][draw.below(2)];
                // Of pixels that repeat, a window that leaves some over may miss nothing: a convolution makes them differ.
                let x = x.resize(&name, 6 + draw.below(12), interpolation);
                if draw.bare { x } else { x.conv(&format!("fill{i}"), channels, same) }
            }
            // What the padding adds is taken away again.
            16 => {
                let wide = Window { kernel_size: 3, stride: 1, padding: 2 };
                x.conv(&name, channels, wide).crop(&format!("crop{i}"), 1)
            }
            15 if draw.bare => {
                x.upsample_nearest(&name, 2).chain(&format!("behind{i}"), |x| x.max_pool("pool", draw.window()))
            }
            15 => x.upsample_nearest(&name, 2).conv(&format!("fill{i}"), channels, same),
            _ => {
                let (k, kept) = (1 + 2 * draw.below(2), draw.below(2) == 0);
                let step = if kept { 1 } else { 2 };
                let window = Window { kernel_size: k, stride: step, padding: k / 2 };
                let shortcut = Window { kernel_size: 1, stride: step, padding: 0 };
                let branch = |x: Builder| x.conv("a", channels, window).relu().conv("b", channels, same);
                let sum = x.residual(&name, branch, |x| if kept { x } else { x.conv("c", channels, shortcut) });
                if draw.below(2) == 0 { sum.relu() } else { sum }
            }
        };
    }
    x
}

/// Layers that take only a part of the group into account, and layers on what is left of it; and whether there still is a group axis.
fn on_a_subgroup(x: Builder, draw: &Draw, group: Group, channels: usize) -> (Builder, bool) {
    let parts = Subgroup::ALL.into_iter().filter(|&part| Subgroup::from(group).contains(part));
    let of_group: Vec<Subgroup> = parts.collect();
    let restricted = |x: Builder, to: Subgroup| {
        let x = x.restrict("restrict", to);
        let conv = |x: Builder| x.chain("restricted", |x| body(x, draw, channels, 1));
        if to == Subgroup::P2 { x.avg_pool("smooth", draw.window()) } else { conv(x) }
    };
    let x = match draw.below(4) {
        0 => {
            let to = of_group[draw.below(of_group.len())];
            let has_way = !matches!(to, Subgroup::PM | Subgroup::P2MM);
            restricted(x, if has_way { to } else { Subgroup::P4 })
        }
        1 if group == Group::D4 => restricted(x.subgroup_max("pool", Subgroup::PM), Subgroup::P4),
        // A branch on a subgroup beside one on the whole group.
        2 => {
            let to = if group == Group::D4 { Subgroup::P4 } else { Subgroup::from(group) };
            let point = Window { kernel_size: 1, stride: 1, padding: 0 };
            let branch = |x: Builder| x.restrict("restrict", to).conv("conv", 2, point).coset_max();
            return (x.concat("heads", |x| x.coset_max(), branch), false);
        }
        way => {
            let part = of_group[draw.below(of_group.len())];
            let x = if way == 1 { x.subgroup_max("part", part) } else { x.subgroup_mean("part", part) };
            x.norm("pooled").relu().max_pool("after", draw.window())
        }
    };
    (x, true)
}

/// The random network of this number, and the extent of images that fit it.
pub fn network(number: u32) -> (Sequential, usize) {
    drawn(Draw { stream: Stream::new(2026, number, 0), drawn: Cell::new(0), bare: false }, number)
}

/// As [`network`], with any layer behind one that repeats pixels or adds rows at one end.
#[allow(dead_code, reason = "not every test that has this module tries them")]
pub fn bare_network(number: u32) -> (Sequential, usize) {
    drawn(Draw { stream: Stream::new(2027, number, 0), drawn: Cell::new(0), bare: true }, number)
}

fn drawn(draw: Draw, number: u32) -> (Sequential, usize) {
    let group = Group::ALL[draw.below(3)];
    let builder = Builder::new(group, 1 + draw.below(2), Init::kaiming(u64::from(number)), &Device::Cpu);
    let channels = 1 + draw.below(3);
    let mut x = body(builder, &draw, channels, 0);
    let mut has_axis = true;
    if draw.below(3) == 0 {
        (x, has_axis) = on_a_subgroup(x, &draw, group, channels);
    // Only as the last: a window of stride 2 behind it may leave over just what an output padding adds.
    } else if draw.below(4) == 0 {
        let doubling = Window { kernel_size: 3, stride: 2, padding: 1 };
        x = x.transposed_conv("last", channels, doubling, draw.below(2));
    }
    if draw.below(4) > 0 {
        x = match draw.below(2) {
            _ if !has_axis => x.spatial_mean(),
            0 => x.spatial_mean().coset_max(),
            _ => x.coset_mean().spatial_mean(),
        };
        x = match draw.below(3) {
            0 => x.concat("outputs", |x| x.linear("classes", 3), |x| x.linear("numbers", 2).activation(&TANH)),
            _ => x.linear("linear", 3),
        };
    }
    (Sequential::new(&format!("random network {number}"), x.build().unwrap()), 17 + draw.below(8))
}

/// Random running statistics, as after training.
#[allow(dead_code, reason = "not every test that has this module settles networks")]
pub fn settle<N: Network + ?Sized>(network: &mut N) {
    let mut number = 0;
    network.visit(&mut |name, param| {
        let stream = Stream::new(7, number, 0);
        number += 1;
        if name.ends_with("running_var") || name.ends_with("running_mean") {
            let least = if name.ends_with("var") { 0.5 } else { -0.5 };
            let values = (0..param.value().len() as u64).map(|i| least + stream.uniform(i)).collect();
            param.set(Tensor::from_vec(param.value().shape(), values, &Device::Cpu).unwrap());
        }
    });
}
