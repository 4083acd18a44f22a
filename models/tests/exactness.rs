//! The rule `(i + 2p − k) mod s = 0`: that it says what sampled indices say, that networks keep it, and that the checker
//! reads it off them.

use quarterturn_autograd::{Tape, gradcheck};
use quarterturn_core::{Device, Error, Shape, Stream, Tensor, testing, window_extent, window_residual};
use quarterturn_kernels::{
    Group::{self, C1, C4, D4},
    Window, transform_plane,
};
use quarterturn_models::{
    Block, Builder, Checkpoint, EquivarianceError, Exactness, Head, Init, MnistCnn, MnistCnnConfig, Mode, Module,
    Network, ResNet, ResNetConfig, Sequential, Stem, SubsamplingNet, Trace, Verdict, checkpoint,
};
use std::collections::BTreeSet;

fn random(shape: impl Into<Shape>, stream: u32, device: &Device) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(23, stream, 0));
    Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), device).unwrap()
}

/// Gives norms random statistics and weights; filters keep their starting values.
fn randomise(network: &mut dyn Network) {
    let mut stream = 100;
    network.visit(&mut |name, param| {
        let value = random(param.value().shape(), stream, &Device::Cpu);
        let new: Vec<f32> = match name.rsplit('.').next() {
            Some("running_var") => value.f32s().iter().map(|v| 0.5 + v * v).collect(),
            Some("running_mean") => value.f32s().to_vec(),
            _ if name.contains("norm") => value.f32s().iter().map(|v| 0.7 + 0.3 * v).collect(),
            _ => return,
        };
        stream += 1;
        let device = param.value().device();
        param.set(Tensor::from_vec(value.shape(), new, &device).unwrap());
    });
}

/// The samples (row, column) of a padded i×i map that each of the o×o windows reads (Eq. 4, taps d apart), moved by `g` as the map is
/// (Eqs. 5 and 6), must be those of the window that `g` moves it to (Eq. 8).
fn sampled_indices_commute(g: usize, [i, k, s, p, d]: [usize; 5]) -> bool {
    let o = window_extent(i, d * (k - 1) + 1, s, p).unwrap();
    let padded = i + 2 * p;
    let samples = |y: usize, x: usize| {
        (0..k).flat_map(move |u| (0..k).map(move |v| (s * y + d * u, s * x + d * v))).collect::<BTreeSet<_>>()
    };
    (0..o).all(|y| {
        (0..o).all(|x| {
            let (to_y, to_x) = Group::move_entry(g, y, x, o, o);
            let moved = samples(y, x).into_iter().map(|(y, x)| Group::move_entry(g, y, x, padded, padded));
            moved.collect::<BTreeSet<_>>() == samples(to_y, to_x)
        })
    })
}

/// Eqs. 4 to 13 with padding, for all quarter turns and reflections, by brute force. (Reflection about the diagonal, a quarter
/// turn and a flip, moves no window against another: a transpose commutes whatever is left over.)
#[test]
fn the_rule_says_what_sampled_indices_say() {
    let mut seen = [0, 0];
    let plain =
        (1..14).flat_map(|i| (1..6).flat_map(move |k| (1..5).flat_map(move |s| (0..3).map(move |p| [i, k, s, p, 1]))));
    let dilated = (1..12)
        .flat_map(|i| (2..4).flat_map(move |k| (1..4).flat_map(move |s| (2..4).map(move |d| [i, k, s, i % 3, d]))));
    for case in plain.chain(dilated) {
        let [i, k, s, p, d] = case;
        let Some(residual) = window_residual(i, d * (k - 1) + 1, s, p) else { continue };
        let exact = residual == 0;
        seen[usize::from(exact)] += 1;
        let transpose =
            (1..8).find(|&g| Group::move_entry(g, 0, 1, 2, 2) == (1, 0) && Group::move_entry(g, 0, 0, 2, 2) == (0, 0));
        for g in D4.elements().skip(1) {
            let expected = exact || Some(g) == transpose;
            assert_eq!(sampled_indices_commute(g, case), expected, "i={i} k={k} s={s} p={p} d={d}, element {g}");
        }
    }
    assert!(seen.iter().all(|&cases| cases > 100), "{seen:?}");
}

/// Narrow networks of every kind, three images of three channels, odd widths.
fn narrow(group: Group, stem: Stem, block: Block) -> ResNetConfig {
    let widths = if group == D4 { vec![2, 3] } else { vec![3, 5] };
    ResNetConfig { stem, block, widths, blocks: vec![2, 1], classes: 4, ..ResNetConfig::resnet18(group) }
}

fn kinds() -> impl Iterator<Item = (Stem, Block)> {
    [Stem::Large, Stem::Small]
        .into_iter()
        .flat_map(|stem| [Block::Standard, Block::PreActivation, Block::RawShortcut].map(|block| (stem, block)))
}

/// Whether all elements of the group leave every bit of the logits.
fn leaves_every_bit(network: &dyn Network, images: &Tensor) -> bool {
    let bits =
        |x: &Tensor| network.predict(x).unwrap().to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let upright = bits(images);
    network.group().elements().all(|g| bits(&transform_plane(images, g)) == upright)
}

#[test]
fn predicted_exact_resnets_are_exact_to_the_last_bit_and_others_are_not() {
    for group in [C4, D4] {
        for (stem, block) in kinds() {
            let mut network = ResNet::new(narrow(group, stem, block), Init::kaiming(1), &Device::Cpu).unwrap();
            randomise(&mut network);
            let mut seen = BTreeSet::new();
            for size in [15, 16, 17, 19, 25] {
                let exact = Exactness::of(&network, [size, size]).unwrap().is_exact();
                seen.insert(exact);
                for n in [1, 3] {
                    let images = random([n, 3, 1, size, size], 1, &Device::Cpu);
                    let what = format!("{group} {stem} {block}, {n} of {size}: exact is {exact}");
                    assert_eq!(leaves_every_bit(&network, &images), exact, "{what}");
                }
            }
            assert_eq!(seen.len(), 2, "{group} {stem} {block}: both kinds of sizes");
        }
    }
}

#[test]
fn a_tiny_resnet_is_exact_on_the_gpu_too() {
    for device in testing::devices() {
        let config =
            ResNetConfig { widths: vec![2, 3], blocks: vec![1, 1], ..narrow(C4, Stem::Small, Block::Standard) };
        let mut network = ResNet::new(config, Init::kaiming(1), &device).unwrap();
        randomise(&mut network);
        for (size, exact) in [(9, true), (8, false)] {
            let images = random([2, 3, 1, size, size], 1, &device);
            assert_eq!(leaves_every_bit(&network, &images), exact, "{size} on {device}");
        }
    }
}

#[test]
fn rectangles_need_both_axes() {
    let mut network =
        ResNet::new(narrow(D4, Stem::Small, Block::PreActivation), Init::kaiming(1), &Device::Cpu).unwrap();
    randomise(&mut network);
    for (input, below, above) in [
        ([9, 13], Some([7, 11]), Some([11, 15])),
        ([9, 12], Some([9, 11]), Some([9, 13])),
        ([8, 13], Some([7, 13]), Some([9, 13])),
        ([8, 12], Some([7, 11]), Some([9, 13])),
    ] {
        let exactness = Exactness::of(&network, input).unwrap();
        assert_eq!(exactness.is_exact(), input == [9, 13]);
        assert_eq!((exactness.below, exactness.above), (below, above), "{input:?}");
        let images = random([1, 3, 1, input[0], input[1]], 1, &Device::Cpu);
        assert_eq!(leaves_every_bit(&network, &images), exactness.is_exact(), "{input:?}");
    }
}

fn squares(exactness: &Exactness) -> [Option<usize>; 2] {
    [exactness.below, exactness.above].map(|size| size.map(|[height, _]| height))
}

/// What the paper's networks are at the paper's sizes.
#[test]
fn the_papers_networks_at_the_papers_sizes() {
    let narrowed = |config: ResNetConfig| ResNetConfig { widths: vec![1; config.widths.len()], ..config };
    for group in [C4, D4] {
        let resnet = |config| ResNet::new(narrowed(config), Init::new(1), &Device::Cpu).unwrap();
        let resnet18 = resnet(ResNetConfig::resnet18(group));
        let at_224 = Exactness::of(&resnet18, [224, 224]).unwrap();
        let inexact: Vec<_> =
            at_224.layers.iter().filter(|l| !l.is_exact()).map(|l| (&l.name[..], l.input[0])).collect();
        assert_eq!(
            inexact,
            [
                ("stem.conv", 224),
                ("stem.pool", 112),
                ("stage2.block1.conv1", 56),
                ("stage2.block1.shortcut.conv", 56),
                ("stage3.block1.conv1", 28),
                ("stage3.block1.shortcut.conv", 28),
                ("stage4.block1.conv1", 14),
                ("stage4.block1.shortcut.conv", 14),
            ]
        );
        assert_eq!(at_224.subsampling(), (5, 5));
        assert_eq!(at_224.layers.len(), 21);
        assert_eq!(squares(&at_224), [Some(193), Some(225)]);
        let warning = at_224.warning().unwrap();
        assert!(warning.contains("stem.conv (7×7, stride 2, padding 3, on 224×224, leaves 1 over)"), "{warning}");
        assert!(warning.ends_with("nearest exact sizes 193 and 225") && !warning.contains('\n'), "{warning}");
        let at_225 = Exactness::of(&resnet18, [225, 225]).unwrap();
        assert!(at_225.is_exact() && at_225.warning().is_none() && at_225.subsampling() == (0, 5));
        assert_eq!(squares(&at_225), [Some(193), Some(257)]);

        let small = resnet(ResNetConfig::resnet18_small_stem(group));
        for size in 193..=225 {
            assert_eq!(Exactness::of(&small, [size, size]).unwrap().is_exact(), size % 8 == 1, "{size}");
        }
        let resnet44 = resnet(ResNetConfig::resnet44(group));
        for (size, exact, nearest) in
            [(32, false, [29, 33]), (33, true, [29, 37]), (96, false, [93, 97]), (97, true, [93, 101])]
        {
            let exactness = Exactness::of(&resnet44, [size, size]).unwrap();
            assert_eq!((exactness.is_exact(), squares(&exactness)), (exact, nearest.map(Some)), "{size}");
        }
        let config = MnistCnnConfig { group, width: 1, ..MnistCnnConfig::p4cnn() };
        let mnist = MnistCnn::new(config, 1, &Device::Cpu).unwrap();
        for (size, exact, nearest) in [(27, false, [26, 28]), (28, true, [26, 30]), (29, false, [28, 30])] {
            let exactness = Exactness::of(&mnist, [size, size]).unwrap();
            assert_eq!((exactness.is_exact(), squares(&exactness)), (exact, nearest.map(Some)), "{size}");
        }
    }
    let subsampling = SubsamplingNet::new(1, &Device::Cpu).unwrap();
    assert!(Exactness::of(&subsampling, [33, 33]).unwrap().is_exact());
    assert!(!Exactness::of(&subsampling, [32, 32]).unwrap().is_exact());
    // Nothing smaller fits an exact size.
    assert_eq!(Exactness::of(&subsampling, [1, 1]).unwrap().below, None);
}

#[test]
fn z2_promises_nothing_and_a_head_without_coset_pooling_breaks_what_windows_keep() {
    let plain = ResNet::new(narrow(C1, Stem::Small, Block::Standard), Init::new(1), &Device::Cpu).unwrap();
    for size in [16, 17] {
        let exactness = Exactness::of(&plain, [size, size]).unwrap();
        assert_eq!((exactness.verdict(), exactness.warning()), (Verdict::NoSymmetry, None));
        assert!(exactness.to_string().contains("no symmetry is promised"), "{exactness}");
    }
    assert!(EquivarianceError::at(|_| true).add(&plain, &random([1, 3, 1, 9, 9], 1, &Device::Cpu)).is_err());

    let config = ResNetConfig { head: Head::Mean, ..narrow(C4, Stem::Small, Block::Standard) };
    let mut published = ResNet::new(config, Init::kaiming(1), &Device::Cpu).unwrap();
    randomise(&mut published);
    let exactness = Exactness::of(&published, [17, 17]).unwrap();
    assert!(exactness.first_inexact().is_none() && !exactness.is_exact());
    assert!(
        exactness.warning().unwrap().contains("is inexact at any size: linear: it has a weight for each element"),
        "{exactness}"
    );
    let images = random([1, 3, 1, 17, 17], 1, &Device::Cpu);
    assert!(!leaves_every_bit(&published, &images));
    let mut error = EquivarianceError::at(|_| true);
    error.add(&published, &images).unwrap();
    assert_eq!(error.first_break().unwrap().name, "linear");
}

/// What is measured is 0 up to the first layer that the checker names, and not from there on.
#[test]
fn the_measured_error_starts_at_the_layer_that_the_checker_names() {
    for device in testing::devices() {
        for (group, block) in [(C4, Block::Standard), (D4, Block::PreActivation)] {
            let mut network = ResNet::new(narrow(group, Stem::Small, block), Init::kaiming(1), &device).unwrap();
            randomise(&mut network);
            for size in [9, 10] {
                let mut error = EquivarianceError::at(|_| true);
                for batch in 0..2 {
                    error.add(&network, &random([1, 3, 1, size, size], batch, &device)).unwrap();
                }
                let named =
                    Exactness::of(&network, [size, size]).unwrap().first_inexact().map(|layer| layer.name.clone());
                assert_eq!(error.first_break().map(|depth| depth.name), named, "{group} {size} on {device}");
                let mut broken = false;
                for depth in error.depths() {
                    broken |= Some(&depth.name) == named.as_ref();
                    let errors = [depth.eq14, depth.l1, depth.largest];
                    assert!(errors.iter().all(|&e| if broken { e > 0.0 } else { e == 0.0 }), "{depth:?}");
                    assert!(depth.rms > 0.0 && depth.rms.is_finite());
                }
            }
        }
    }
}

/// Eq. 14 by hand: one channel, one image. The convolution at 4×4 with stride 2 and no padding has a single tap.
#[test]
fn equation_14_by_hand() {
    let layers = Builder::new(C4, 1, Init::new(1), &Device::Reference)
        .conv_without_bias("conv", 1, Window { kernel_size: 1, stride: 2, padding: 0 })
        .spatial_mean()
        .coset_max()
        .linear("linear", 1)
        .build()
        .unwrap();
    let mut network = Sequential::new("by hand", layers);
    network.visit(&mut |_, param| param.set(Tensor::full(param.value().shape(), 1.0, &Device::Reference).unwrap()));
    // Samples rows and columns 0 of a 2×2 image: element k of the map of T_g x is the entry that g moves to (0, 0).
    let images = Tensor::reference([1, 1, 1, 2, 2], vec![1.0, 2.0, 4.0, 8.0]);
    let mut error = EquivarianceError::at(|name| name == "conv");
    error.add(&network, &images).unwrap();
    let depth = error.depths().remove(0);
    // All four elements see |2 − 1|, |8 − 1|, |4 − 1| for the three turns: ε = √(4d²)/4 = d/2.
    assert_eq!(depth.eq14, (1.0 + 7.0 + 3.0) / 2.0 / 3.0);
    assert_eq!((depth.l1, depth.largest, depth.rms), (11.0 / 3.0, 7.0, 1.0));
    assert_eq!(depth.relative, ((1.0f64 + 49.0 + 9.0) / 3.0).sqrt());
}

/// Every layer makes the shape that its trace predicts, under the same name; the training pass, too, makes the predicted logits.
#[test]
fn traced_shapes_are_those_of_the_forward_pass() {
    let resnets =
        [C1, C4, D4].into_iter().flat_map(|group| kinds().map(move |(stem, block)| narrow(group, stem, block)));
    let mut networks: Vec<(Box<dyn Network>, [usize; 2])> = Vec::new();
    for config in resnets {
        networks.push((Box::new(ResNet::new(config, Init::new(1), &Device::Cpu).unwrap()), [13, 18]));
    }
    for config in [MnistCnnConfig::z2cnn(), MnistCnnConfig::p4mcnn()] {
        networks
            .push((Box::new(MnistCnn::new(MnistCnnConfig { width: 2, ..config }, 1, &Device::Cpu).unwrap()), [11, 14]));
    }
    networks.push((Box::new(SubsamplingNet::new(1, &Device::Cpu).unwrap()), [5, 8]));
    for (network, [height, width]) in &networks {
        let images = random([2, network.in_channels(), 1, *height, *width], 1, &Device::Cpu);
        let mut trace = Trace::new(network.group());
        let logits = network.trace(images.shape(), &mut trace).unwrap();
        let mut told = Vec::new();
        let y = network.predict_watched(&images, &mut |name, y| told.push((name.to_string(), y.shape()))).unwrap();
        assert_eq!(told, trace.outputs());
        assert_eq!((y.shape(), told.last().unwrap().1), (logits, logits));
        let tape = Tape::new();
        assert_eq!(network.forward(tape.constant(images), Mode::Train { seed: 1, step: 0 }).shape(), logits);
    }
}

#[test]
fn a_dilated_window_leaves_over_what_its_taps_reach() {
    let halving = Window { kernel_size: 3, stride: 2, padding: 2 };
    let layers = Builder::new(C4, 1, Init::new(1), &Device::Cpu).dilated_conv("wide", 2, halving, 2);
    let network = Sequential::new("net", layers.spatial_mean().coset_max().build().unwrap());
    let at_8 = Exactness::of(&network, [8, 8]).unwrap();
    assert_eq!(
        at_8.warning().unwrap(),
        "net on p4 is inexact at 8: wide (3×3, stride 2, padding 2, dilation 2, on 8×8, leaves 1 over) breaks the symmetry; \
         nearest exact sizes 7 and 9"
    );
    assert!(Exactness::of(&network, [9, 9]).unwrap().is_exact());
}

#[test]
fn a_transposed_convolution_is_exact_without_output_padding_alone() {
    let network = |output_padding| {
        let doubling = Window { kernel_size: 3, stride: 2, padding: 1 };
        let layers = Builder::new(C4, 1, Init::new(1), &Device::Cpu).transposed_conv("up", 2, doubling, output_padding);
        Sequential::new("net", layers.build().unwrap())
    };
    for extent in [4, 5] {
        let exact = Exactness::of(&network(0), [extent, extent]).unwrap();
        assert!(exact.is_exact() && exact.output == Shape::from([1, 2, 4, 2 * extent - 1, 2 * extent - 1]));
        let inexact = Exactness::of(&network(1), [extent, extent]).unwrap();
        assert_eq!(
            inexact.warning().unwrap(),
            "net on p4 is inexact at any size: up: its output padding, 1, adds rows and columns at the bottom and on the right alone"
        );
        assert_eq!(inexact.output, Shape::from([1, 2, 4, 2 * extent, 2 * extent]));
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let keeping = Window { kernel_size: 3, stride: 1, padding: 1 };
    let halving = Window { stride: 2, ..keeping };
    let builder = || Builder::new(C4, 3, Init::new(1), &Device::Cpu);
    for (builder, expected) in [
        (builder().conv("a", 0, keeping), "a: expected 1 to"),
        (builder().conv("a", 2, Window { stride: 0, ..keeping }), "a: expected a kernel size"),
        (builder().dilated_conv("a", 2, keeping, 0), "a: expected a dilation of 1 to 64, not 0"),
        (builder().dilated_conv("a", 2, keeping, 65), "a: expected a dilation of 1 to 64, not 65"),
        (builder().transposed_conv("a", 2, halving, 2), "a: expected an output padding below the stride 2, not 2"),
        (
            builder().transposed_conv("a", 2, Window { stride: 65, ..keeping }, 0),
            "a: expected a stride of 1 to 64, not 65",
        ),
        (builder().conv("a", 2, keeping).relu().dropout(0.5), "dropout: expected a norm"),
        (builder().conv("a", 2, keeping).norm("n").relu().dropout(1.5), "dropout: expected a probability"),
        (
            builder().chain("stage", |x| x.residual("block", |x| x.conv("a", 2, keeping), |x| x)),
            "stage.block: the branch makes 2 channels on a group axis of 4, the shortcut 3 on 1",
        ),
        (Builder::new(C4, 0, Init::new(1), &Device::Cpu), "in_channels: expected 1 to"),
    ] {
        match builder.build() {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let network = |builder: Builder| {
        Sequential::new("net", builder.spatial_mean().coset_max().linear("linear", 2).build().unwrap())
    };
    // 3×3 with padding 1 makes 3 of 5 samples, 2×2 without padding 2.
    let two = Window { kernel_size: 2, stride: 2, padding: 0 };
    let block = builder().conv("a", 2, keeping).residual("b", |x| x.conv("c", 2, halving), |x| x.conv("d", 2, two));
    let unfit = network(block);
    assert!(unfit.output_shape(Shape::from([1, 3, 1, 4, 4])).is_ok());
    for (network, shape, expected) in [
        (
            &unfit,
            [1, 3, 1, 5, 5],
            "b: the branch makes [1, 2, 4, 3, 3] of [1, 2, 4, 5, 5], the shortcut [1, 2, 4, 2, 2]",
        ),
        (&unfit, [1, 3, 1, 1, 4], "b.shortcut.d: a 2×2 filter does not fit a 1×4 map"),
        (&unfit, [1, 1, 1, 4, 4], "a: expected 3 channels"),
        (&unfit, [0, 3, 1, 4, 4], "a: expected at least one image"),
        (
            &network(builder().dilated_conv("a", 2, keeping, 3)),
            [1, 3, 1, 4, 9],
            "a: a 3×3 filter of dilation 3 does not fit a 4×9 map",
        ),
        (
            &network(builder().transposed_conv("a", 2, Window { padding: 3, ..keeping }, 0)),
            [1, 3, 1, 4, 9],
            "a: of a 4×9 map, padding 3 leaves nothing",
        ),
        (
            &network(builder().transposed_conv("a", 2, Window { stride: 64, ..keeping }, 0)),
            [1, 3, 1, 2000, 1],
            "a: it would make a map of 127937×1, which is too large",
        ),
        (
            &network(builder().transposed_conv("a", 2, halving, 0)),
            [1, 2, 1, 4, 4],
            "a: expected at least one image with 3",
        ),
        (&network(builder().max_pool("pool", Window { padding: 2, ..two })), [1, 3, 1, 4, 4], "pool: expected padding"),
        (&network(builder().max_pool("pool", two)), [1, 3, 1, 4, 1], "pool: a 2×2 window does not fit a 4×1 map"),
        (&network(builder().max_pool("pool", keeping)), [1, 3, 1, 0, 4], "pool: a 3×3 window does not fit a 0×4 map"),
    ] {
        match network.output_shape(Shape::from(shape)) {
            Err(Error::Invalid(message)) => assert!(message.contains(expected), "{message}, expected {expected}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let small = ResNetConfig { widths: vec![2, 2], blocks: vec![1, 1], ..ResNetConfig::resnet18(C4) };
    for config in [
        ResNetConfig { widths: vec![2], ..small.clone() },
        ResNetConfig { widths: vec![2, 0], ..small.clone() },
        ResNetConfig { blocks: vec![1, 1 << 20], ..small.clone() },
        ResNetConfig { classes: usize::MAX, ..small.clone() },
    ] {
        assert!(matches!(ResNet::new(config, Init::new(1), &Device::Cpu), Err(Error::Invalid(_))));
    }
}

#[test]
fn fused_and_recorded_evaluation_agree() {
    for (stem, block) in kinds() {
        let mut network = ResNet::new(narrow(C4, stem, block), Init::kaiming(1), &Device::Cpu).unwrap();
        randomise(&mut network);
        let images = random([2, 3, 1, 17, 17], 1, &Device::Cpu);
        let fused = network.predict(&images).unwrap();
        let tape = Tape::new();
        let recorded = network.forward(tape.constant(images), Mode::Eval);
        let largest = fused.f32s().iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let pairs = fused.f32s().iter().zip(recorded.value().f32s());
        assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-5 * largest), "{:?}", pairs.collect::<Vec<_>>());
    }
}

/// Gradients of a residual block with a projection, in its image and in every parameter, against differences.
#[test]
fn gradients_of_residual_blocks_agree_with_differences() {
    for (group, block) in
        [(C4, Block::Standard), (C4, Block::PreActivation), (D4, Block::Standard), (C1, Block::PreActivation)]
    {
        let config = ResNetConfig { widths: vec![2, 3], blocks: vec![1, 1], ..narrow(group, Stem::Small, block) };
        let mode = Mode::Train { seed: 0, step: 0 };
        let network = ResNet::new(config.clone(), Init::kaiming(3), &Device::Reference).unwrap();
        let images = random([2, 3, 1, 5, 5], 5, &Device::Reference);
        gradcheck(|_, v| network.forward(v[0].clone(), mode), std::slice::from_ref(&images), 1e-6)
            .unwrap_or_else(|error| panic!("{group} {block}, images: {error}"));

        // Along one random direction of all parameters at once.
        let loss = |shift: f64| {
            let mut network = ResNet::new(config.clone(), Init::kaiming(3), &Device::Reference).unwrap();
            let mut direction = 0;
            network.visit(&mut |name, param| {
                direction += 1;
                if !name.contains("running_") {
                    let step = random(param.value().shape(), direction, &Device::Reference);
                    let moved = param.value().f64s().iter().zip(step.f64s()).map(|(v, d)| v + shift * d).collect();
                    param.set(Tensor::reference(param.value().shape(), moved));
                }
            });
            let tape = Tape::new();
            let labels = Tensor::reference([2], vec![1.0, 3.0]);
            let loss = network.forward(tape.constant(images.clone()), mode).cross_entropy(&labels);
            let gradients = loss.backward().unwrap();
            let (mut derivative, mut direction) = (0.0, 0);
            network.visit(&mut |_, param| {
                direction += 1;
                if let Some(gradient) = gradients.of(param) {
                    let step = random(param.value().shape(), direction, &Device::Reference);
                    derivative += gradient.f64s().iter().zip(step.f64s()).map(|(g, d)| g * d).sum::<f64>();
                }
            });
            (loss.value().f64s()[0], derivative)
        };
        let (epsilon, (_, derivative)) = (1e-6, loss(0.0));
        let difference = (loss(epsilon).0 - loss(-epsilon).0) / (2.0 * epsilon);
        let error = (derivative - difference).abs() / derivative.abs().max(1.0);
        assert!(error < 1e-6, "{group} {block}: {derivative} {difference}");
    }
}

#[test]
fn networks_travel_through_checkpoints() {
    let folder = std::env::temp_dir().join(format!("quarterturn-nets-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let images = random([1, 3, 1, 17, 17], 1, &Device::Cpu);
    for (stem, block) in kinds() {
        let path = folder.join("resnet.safetensors");
        let head = if stem == Stem::Small { Head::MaxThenMean } else { Head::Mean };
        let config = ResNetConfig { head, ..narrow(C4, stem, block) };
        let mut network = ResNet::new(config.clone(), Init::kaiming(1), &Device::Cpu).unwrap();
        randomise(&mut network);
        checkpoint::save(&path, &network).unwrap();
        let loaded = ResNet::from_checkpoint(&path, &Device::Cpu).unwrap();
        assert_eq!(loaded.settings(), &config);
        assert_eq!(loaded.predict(&images).unwrap().f32s(), network.predict(&images).unwrap().f32s());
        assert!(matches!(MnistCnn::from_checkpoint(&path, &Device::Cpu), Err(Error::Checkpoint { .. })));
    }
    let build = |seed| {
        let layers = Builder::new(D4, 3, Init::new(seed), &Device::Cpu)
            .conv("conv", 2, Window { kernel_size: 3, stride: 2, padding: 1 })
            .norm("norm")
            .relu()
            .spatial_mean()
            .coset_mean()
            .linear("linear", 2)
            .build();
        Sequential::new("mine", layers.unwrap())
    };
    let (path, first, mut second) = (folder.join("mine.safetensors"), build(1), build(2));
    checkpoint::save(&path, &first).unwrap();
    assert_ne!(first.predict(&images).unwrap().f32s(), second.predict(&images).unwrap().f32s());
    Checkpoint::read(&path).unwrap().restore(&mut second).unwrap();
    assert_eq!(first.predict(&images).unwrap().f32s(), second.predict(&images).unwrap().f32s());
    std::fs::remove_dir_all(&folder).unwrap();
}
