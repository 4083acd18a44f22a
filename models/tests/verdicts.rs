//! What the checker says of networks whose layers do not say all: nothing is certified that was not examined, and what only moves
//! with the image is not called the same.

use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Device, Error, Result, Shape, Stream, Tensor};
use quarterturn_kernels::{
    Conv, Cosets,
    Group::{self, C1, C4, D4},
    Subgroup, Window, transform_plane,
};
use quarterturn_models::{
    Builder, EquivarianceError, Exactness, GroupConv, Init, Interpolation, Module, Network, Pass, Sequential, Symmetry,
    Trace, Verdict,
};

fn random(shape: impl Into<Shape>, stream: u32, device: &Device) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(23, stream, 0));
    Tensor::from_vec(shape, (0..shape.len() as u64).map(|i| stream.normal(i) as f32).collect(), device).unwrap()
}

/// Whether all elements of the group leave every bit of the logits.
fn leaves_every_bit(network: &dyn Network, images: &Tensor) -> bool {
    let bits =
        |x: &Tensor| network.predict(x).unwrap().to_vec().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let upright = bits(images);
    network.group().elements().all(|g| bits(&transform_plane(images, g)) == upright)
}

/// A layer of one's own that multiplies by a ramp over the places, and says of itself what it is told to.
struct Ramp(Symmetry);

impl Module for Ramp {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        let ramp = (0..x.shape().len()).map(|i| (i % 7) as f32).collect();
        x.mul(&x.tape().constant(Tensor::from_vec(x.shape(), ramp, &x.value().device()).unwrap()))
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        self.0.clone()
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

/// A layer of one's own around another, which says nothing of itself and passes the rest on.
struct Wrapped(GroupConv);

impl Module for Wrapped {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        Ramp(Symmetry::Unknown).apply(self.0.apply(x, pass), pass)
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        self.0.trace(x, trace)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.0.visit(f);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        self.0.read(f);
    }
}

const KEEPING: Window = Window { kernel_size: 3, stride: 1, padding: 1 };

fn headed(layers: impl FnOnce(Builder) -> Builder) -> Sequential {
    let builder = layers(Builder::new(C4, 1, Init::new(1), &Device::Cpu));
    Sequential::new("mine", builder.spatial_mean().coset_max().linear("linear", 2).build().unwrap())
}

#[test]
fn what_a_layer_does_not_say_is_not_certified() {
    let images = random([1, 1, 1, 9, 9], 1, &Device::Cpu);
    let ramp = |said: Symmetry| headed(|x| x.conv("conv", 2, KEEPING).layer("roll", Ramp(said)));
    let unknown = ramp(Symmetry::Unknown);
    assert!(!leaves_every_bit(&unknown, &images));
    let exactness = Exactness::of(&unknown, [9, 9]).unwrap();
    assert_eq!((exactness.verdict(), &exactness.unknown[..]), (Verdict::Unknown, &["roll".to_string()][..]));
    assert!(!exactness.is_exact());
    let line = "mine on p4 is unknown beyond roll, which does not say whether it commutes (Module::symmetry)";
    assert_eq!((exactness.to_string(), exactness.warning()), (line.into(), Some(line.into())));

    let exactness = Exactness::of(&ramp(Symmetry::Breaks("it multiplies by a ramp".into())), [9, 9]).unwrap();
    assert_eq!(exactness.verdict(), Verdict::Inexact);
    assert_eq!(exactness.to_string(), "mine on p4 is inexact at any size: roll: it multiplies by a ramp");
    // Whoever says that it commutes is believed; that its windows fit, only with windows.
    assert_eq!(Exactness::of(&ramp(Symmetry::Commutes), [9, 9]).unwrap().verdict(), Verdict::Invariant);
    assert_eq!(Exactness::of(&ramp(Symmetry::Windowed), [9, 9]).unwrap().verdict(), Verdict::Unknown);

    // The word of a layer inside is not that of the one around it, nor does a name matter, nor the place.
    let conv = || {
        let conv = Conv { padding: 1, ..Conv::new(C4) };
        GroupConv::lifting(1, 2, 3, conv, &mut Init::new(1), &Device::Cpu).unwrap()
    };
    let wrapped = Sequential::new("mine", {
        let builder = Builder::new(C4, 1, Init::new(1), &Device::Cpu).layer("wrapped", Wrapped(conv()));
        builder.spatial_mean().coset_max().build().unwrap()
    });
    assert_eq!(Exactness::of(&wrapped, [9, 9]).unwrap().unknown, ["wrapped"]);
    let nameless = headed(|x| x.layer("", Ramp(Symmetry::Unknown)).conv("conv", 2, KEEPING));
    assert_eq!(Exactness::of(&nameless, [9, 9]).unwrap().unknown, ["a layer without a name"]);
    let inside = headed(|x| {
        x.residual("block", |x| x.layer("roll", Ramp(Symmetry::Unknown)), |x| x.layer("other", Ramp(Symmetry::Unknown)))
    });
    assert_eq!(Exactness::of(&inside, [9, 9]).unwrap().unknown, ["block.roll", "block.shortcut.other"]);

    // All that is wrong is told, and sizes are not called exact.
    let halving = Window { stride: 2, ..KEEPING };
    let both = headed(|x| x.conv("conv", 2, halving).layer("roll", Ramp(Symmetry::Unknown)));
    assert_eq!(
        Exactness::of(&both, [8, 8]).unwrap().to_string(),
        "mine on p4 is inexact at 8: conv (3×3, stride 2, padding 1, on 8×8, leaves 1 over) breaks the symmetry; its windows leave \
         nothing over at 7 and 9; it is unknown beyond roll, which does not say whether it commutes (Module::symmetry)"
    );
}

/// Invariant: the same output. Equivariant: the output moves with the image.
#[test]
fn equivariant_outputs_are_not_called_invariant() {
    let images = random([2, 1, 1, 9, 9], 1, &Device::Cpu);
    type Layers = fn(Builder) -> Builder;
    let cases: [(Layers, Verdict); 6] = [
        (|x| x, Verdict::Equivariant),
        (|x| x.coset_max(), Verdict::Equivariant),
        (|x| x.spatial_mean(), Verdict::Equivariant),
        (|x| x.spatial_mean().coset_mean(), Verdict::Invariant),
        (|x| x.coset_max().spatial_mean(), Verdict::Invariant),
        (|x| x.spatial_mean().coset_max().linear("linear", 3), Verdict::Invariant),
    ];
    for (layers, verdict) in cases {
        let chain = layers(Builder::new(C4, 1, Init::new(1), &Device::Cpu).conv("conv", 4, KEEPING)).build().unwrap();
        let network = Sequential::new("mine", chain);
        let exactness = Exactness::of(&network, [9, 9]).unwrap();
        assert_eq!((exactness.verdict(), exactness.is_exact()), (verdict, true), "{:?}", exactness.output);
        assert_eq!(leaves_every_bit(&network, &images), verdict == Verdict::Invariant, "{:?}", exactness.output);
        let mut error = EquivarianceError::at(|_| true);
        error.add(&network, &images).unwrap();
        assert_eq!(error.first_break(), None);
        let said = exactness.to_string();
        let expected = match verdict {
            Verdict::Invariant => "a turned image has the same output, to the last bit",
            _ => "the output of a turned image is that of the upright one, turned, to the last bit",
        };
        assert!(said.ends_with(expected) && exactness.warning().is_none(), "{said}");
    }
}

/// Layers that are exact where they belong, elsewhere.
#[test]
fn layers_of_another_group_are_not_certified() {
    let images = random([2, 1, 1, 9, 9], 1, &Device::Cpu);
    let conv =
        |group| GroupConv::lifting(1, 1, 3, Conv { padding: 1, ..Conv::new(group) }, &mut Init::new(1), &Device::Cpu);
    let plain = headed(|x| x.layer("plain", conv(C1).unwrap()).conv("conv", 2, KEEPING));
    assert!(!leaves_every_bit(&plain, &images));
    let exactness = Exactness::of(&plain, [9, 9]).unwrap();
    assert_eq!(
        exactness.to_string(),
        "mine on p4 is inexact at any size: plain: it convolves on z2, in a network on p4"
    );
    let layers = |builder: Builder| builder.spatial_mean().coset_max().build().unwrap();
    let network =
        Sequential::new("mine", layers(Builder::new(D4, 1, Init::new(1), &Device::Cpu).layer("c", conv(C4).unwrap())));
    assert!(!leaves_every_bit(&network, &images));
    let breaking: Vec<String> =
        Exactness::of(&network, [9, 9]).unwrap().breaking.iter().map(ToString::to_string).collect();
    assert_eq!(breaking[0], "c: it convolves on p4, in a network on p4m");
    assert!(breaking[1].starts_with("coset: it pools over a group axis of [1, 1, 4]"), "{breaking:?}");

    // A pooling that would take rows for elements of the group, or channels for places, does not fit.
    let unfit = |layers: fn(Builder) -> Builder, expected: &str| {
        let chain = layers(Builder::new(C4, 1, Init::new(1), &Device::Cpu).conv("conv", 2, KEEPING)).build().unwrap();
        match Exactness::of(&Sequential::new("mine", chain), [9, 9]) {
            Err(Error::Invalid(message)) => assert!(message.starts_with(expected), "{message}"),
            other => panic!("{other:?}"),
        }
    };
    unfit(
        |x| x.coset_max().coset_mean(),
        "coset2: expected a map [N, C, G, H, W] or means [N, C, G], got [1, 2, 9, 9]",
    );
    unfit(|x| x.spatial_mean().avg_pool("pool", KEEPING), "pool: expected maps");
    unfit(|x| x.spatial_mean().spatial_mean(), "mean2: expected maps");
}

/// Nearest, by the factors of 2 of the two extents, with the reason; between pixels, always.
#[test]
fn a_resize_is_judged_by_its_extents() {
    for (from, to, nearest) in [(12, 20, true), (12, 18, false), (9, 5, true), (8, 12, false), (6, 6, true)] {
        for interpolation in [Interpolation::Bilinear, Interpolation::Nearest] {
            let window = Window { kernel_size: 3, stride: 1, padding: 1 };
            let layers = Builder::new(D4, 1, Init::new(1), &Device::Cpu)
                .resize("resize", to, interpolation)
                .conv("conv", 2, window)
                .spatial_mean()
                .coset_max()
                .linear("linear", 2)
                .build();
            let network = Sequential::new("resized", layers.unwrap());
            let exactness = Exactness::of(&network, [from, from]).unwrap();
            let expected = nearest || interpolation == Interpolation::Bilinear;
            let name = format!("{interpolation} {from} to {to}");
            assert_eq!(exactness.verdict() == Verdict::Invariant, expected, "{name}: {exactness}");
            let images = random([1, 1, 1, from, from], 3, &Device::Cpu);
            assert_eq!(leaves_every_bit(&network, &images), expected, "{name}");
            if !expected {
                let reason = format!("as {from} has more factors of 2 than {to}");
                assert!(exactness.breaking[0].reason.ends_with(&reason), "{name}: {:?}", exactness.breaking);
            }
        }
    }
}

/// Of all places a map has the same greatest value, however it lies.
#[test]
fn the_maximum_over_space_is_invariant() {
    let window = Window { kernel_size: 3, stride: 2, padding: 1 };
    let layers = Builder::new(D4, 1, Init::new(1), &Device::Cpu).conv("conv", 3, window).coset_mean().spatial_max();
    let network = Sequential::new("greatest", layers.build().unwrap());
    assert_eq!(Exactness::of(&network, [9, 9]).unwrap().verdict(), Verdict::Invariant);
    assert!(leaves_every_bit(&network, &random([2, 1, 1, 9, 9], 3, &Device::Cpu)));
    assert_eq!(network.predict(&random([2, 1, 1, 9, 9], 3, &Device::Cpu)).unwrap().shape(), Shape::from([2, 3]));
}

/// On p4m up to a layer that restricts maps to p4: turns are kept, and flips no more.
#[test]
fn a_restricted_network_keeps_to_the_subgroup() {
    let layers = |x: Builder| {
        let x = x.conv("conv1", 2, KEEPING).norm("norm").relu().restrict("restrict", Subgroup::P4);
        x.conv("conv2", 3, KEEPING).relu().spatial_mean().coset_max().linear("linear", 2)
    };
    let network = Sequential::new("mine", layers(Builder::new(D4, 1, Init::new(1), &Device::Cpu)).build().unwrap());
    let exactness = Exactness::of(&network, [9, 9]).unwrap();
    assert_eq!((exactness.group, exactness.symmetry, exactness.verdict()), (D4, Subgroup::P4, Verdict::Invariant));
    assert_eq!(
        exactness.to_string(),
        "mine on p4m, restricted to p4, is exact at 9: a turned image has the same output, to the last bit"
    );
    let images = random([1, 1, 1, 9, 9], 1, &Device::Cpu);
    let logits = |g| network.predict(&transform_plane(&images, g)).unwrap().to_vec().unwrap();
    let keeps: Vec<usize> = D4.elements().filter(|&g| logits(g) == logits(0)).collect();
    assert_eq!(keeps, [0, 1, 2, 3]);

    // Measured at every depth, maps on cosets too.
    let pooled = |x: Builder| {
        let x = x.conv("conv1", 2, KEEPING).subgroup_max("pool", Subgroup::PM).norm("norm");
        x.restrict("restrict", Subgroup::P4).conv("conv2", 3, KEEPING).subgroup_mean("halves", Subgroup::P2)
    };
    let pooled = Sequential::new("mine", pooled(Builder::new(D4, 1, Init::new(1), &Device::Cpu)).build().unwrap());
    for network in [network, pooled] {
        let mut error = EquivarianceError::at(|_| true);
        error.add(&network, &images).unwrap();
        assert!(error.depths().len() > 4 && error.first_break().is_none(), "{:?}", error.first_break());
    }
}

#[test]
fn what_cannot_be_convolved_pooled_or_restricted_is_refused() {
    let refused = |group: Group, layers: fn(Builder) -> Builder, expected: &str| {
        let built = layers(Builder::new(group, 1, Init::new(1), &Device::Cpu).conv("conv", 1, KEEPING)).build();
        assert_eq!(built.unwrap_err().to_string(), expected);
    };
    refused(C4, |x| x.restrict("r", Subgroup::P4M), "r: expected z2, p2, p4 or p4m, and a subgroup of p4, not p4m");
    refused(D4, |x| x.restrict("r", Subgroup::PM), "r: expected z2, p2, p4 or p4m, and a subgroup of p4m, not pm");
    refused(C4, |x| x.restrict("r", Subgroup::P2).conv("c", 1, KEEPING), "c: there are no convolutions on p2");
    refused(C4, |x| x.subgroup_max("s", Subgroup::PM), "s: expected a subgroup of p4, not pm");
    refused(
        D4,
        |x| x.subgroup_max("s", Subgroup::P4).conv("c", 1, KEEPING),
        "c: what was pooled over p4 is no map on p4m, so that it cannot be convolved on it; restrict it first",
    );
    refused(
        D4,
        |x| x.subgroup_max("s", Subgroup::P4).restrict("r", Subgroup::P2),
        "r: what was pooled over p4 cannot be restricted to p2",
    );
    refused(
        D4,
        |x| x.concat("join", |x| x.restrict("r", Subgroup::P4), |x| x.subgroup_max("s", Subgroup::PM)),
        "join: the branch makes 2 channels on a group axis of 4 of p4, the next 1 on 4 of p4m",
    );
}
