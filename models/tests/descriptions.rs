//! Hundreds of networks that no code knows: each is saved, made again of its file alone, and gives the same bits; and where the
//! checker calls it exact, and only there, `==` holds for every element of its group.

use quarterturn_autograd::{Optimizer, Schedule};
use quarterturn_core::{Device, Stream, Tensor};
use quarterturn_kernels::{Group, Subgroup, Window, narrow, transform_cosets, transform_plane};
use quarterturn_models::{
    Builder, Checkpoint, Description, Exactness, Init, Layers, Module, Network, Sequential, Trace, Verdict, checkpoint,
    training::{Objective, Training, train},
};
use support::{bare_network, network, settle};

mod support;

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.f32s().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn any_network_comes_back_from_its_file_and_is_exact_just_where_the_checker_says() {
    let file = std::env::temp_dir().join(format!("quarterturn-descriptions-{}.safetensors", std::process::id()));
    let (mut exact, mut inexact, mut restricted) = (0, 0, 0);
    for number in 0..400 {
        let (mut network, extent) = network(number);
        settle(&mut network);
        checkpoint::save(&file, &network).unwrap();
        let loaded = Checkpoint::read(&file).unwrap().network(&Device::Cpu).unwrap();
        let description = network.description();
        assert_eq!(loaded.description(), description);

        let images = images(&network, extent, number);
        let outputs = network.predict(&images).unwrap();
        assert_eq!(bits(&loaded.predict(&images).unwrap()), bits(&outputs), "{description}");

        let exactness = Exactness::of(&network, [extent, extent]).unwrap();
        let Some(holds) = holds(&network, extent, number, exactness.symmetry) else { continue };
        match exactness.verdict() {
            Verdict::Invariant | Verdict::Equivariant => {
                assert!(holds, "called exact at {extent}, and is not:\n{description}");
                exact += 1;
                restricted += usize::from(exactness.symmetry != network.group().into());
            }
            Verdict::Inexact => {
                assert!(!holds, "called inexact at {extent}, and is exact:\n{description}");
                inexact += 1;
            }
            other => panic!("{other:?}:\n{description}"),
        }
    }
    std::fs::remove_file(&file).unwrap();
    let counts = format!("{exact} exact, of them {restricted} on a subgroup, {inexact} inexact");
    assert!(exact > 60 && inexact > 60 && restricted > 10, "{counts}");
}

/// Behind a layer that repeats pixels, or adds rows at one end, a window may leave over just what does not count. There, and only
/// there, the checker is more careful than it need be; what it calls exact is exact there too.
#[test]
fn the_checker_is_too_careful_only_where_it_says() {
    let (mut exact, mut inexact, mut careful) = (0, 0, 0);
    for number in 0..400 {
        let (mut network, extent) = bare_network(number);
        settle(&mut network);
        let exactness = Exactness::of(&network, [extent, extent]).unwrap();
        let description = network.description().to_string();
        let Some(holds) = holds(&network, extent, number, exactness.symmetry) else { continue };
        if exactness.is_exact() {
            assert!(holds, "called exact at {extent}, and is not:\n{description}");
            exact += 1;
        } else if holds {
            let cases = ["interpolation=nearest", "output_padding=1"];
            let is_known = cases.into_iter().any(|case| description.contains(case));
            assert!(is_known, "called inexact at {extent}, and is exact:\n{description}");
            careful += 1;
        } else {
            inexact += 1;
        }
    }
    assert!(
        exact > 60 && inexact > 60 && careful > 0,
        "{exact} exact, {inexact} inexact, {careful} exact nevertheless"
    );

    // The two cases by themselves: equal pixels are missed, and the row that an output padding adds.
    let window = |kernel_size, stride, padding| Window { kernel_size, stride, padding };
    let repeating: fn(Builder) -> Builder = |x| x.upsample_nearest("up", 2);
    let adding: fn(Builder) -> Builder =
        |x| x.transposed_conv("up", 2, Window { kernel_size: 3, stride: 2, padding: 1 }, 1);
    for (up, pool, holds_too) in [
        (repeating, window(3, 2, 0), true),
        (adding, window(3, 2, 0), true),
        (adding, window(3, 2, 1), false),
        (adding, window(3, 1, 1), false),
    ] {
        let builder = Builder::new(Group::C4, 1, Init::new(1), &Device::Cpu).conv("conv", 2, window(3, 1, 1));
        let network = Sequential::new("careful", up(builder).max_pool("pool", pool).build().unwrap());
        assert_eq!(Exactness::of(&network, [9, 9]).unwrap().verdict(), Verdict::Inexact);
        assert_eq!(holds(&network, 9, 0, Subgroup::P4), Some(holds_too), "{}", network.description());
    }
}

/// Whether `==` holds for every element of `symmetry`; `None` if nothing could be seen to break.
fn holds(network: &Sequential, extent: usize, number: u32, symmetry: Subgroup) -> Option<bool> {
    let images = images(network, extent, number);
    let outputs = network.predict(&images).unwrap();
    let mut trace = Trace::new(network.group());
    network.trace(images.shape(), &mut trace).unwrap();
    assert_eq!(trace.axis().group(), symmetry);
    let turned = |g: usize| {
        let expected = match outputs.dims() {
            [_, _] => outputs.clone(),
            [_, _, _, _] => transform_plane(&outputs, g),
            _ => transform_cosets(&outputs, g, trace.axis()),
        };
        bits(&network.predict(&transform_plane(&images, g)).unwrap()) == bits(&expected)
    };
    // Of z2 nothing is expected; and all may have died in a ReLU.
    let (first, second) = outputs.f32s().split_at(outputs.len() / 2);
    (symmetry != Subgroup::Z2 && first != second).then(|| symmetry.elements().iter().copied().all(turned))
}

/// Two images of noise.
fn images(network: &Sequential, extent: usize, number: u32) -> Tensor {
    let shape = [2, network.in_channels(), 1, extent, extent];
    let stream = Stream::new(5, number, 0);
    let len = shape.iter().product::<usize>() as u64;
    Tensor::from_vec(shape, (0..len).map(|i| stream.normal(i) as f32).collect(), &Device::Cpu).unwrap()
}

/// A description of a few words can ask for maps of any size.
#[test]
fn maps_beyond_any_memory_are_refused() {
    let conv = |stride: u64, padding: u64| {
        format!("conv c out_channels=1 kernel_size=1 stride={stride} padding={padding} bias=false")
    };
    for layer in [
        conv(1, 1 << 62),
        conv(1, 1 << 40),
        // The map that is made is small, but not the one that is read.
        conv(1 << 30, 1 << 30),
        format!("max_pool p kernel_size={0} stride={0} padding={1}", 3u64 << 30, 1u64 << 30),
        "adaptive_conv a out_channels=1 kernel_size=1 stride=2 padding=1099511627776 bias=false".into(),
    ] {
        let text = format!("quarterturn-network 1\nname big\ngroup p4\nin_channels 1\n{layer}\n");
        let layers =
            text.parse::<Description>().unwrap().build(&Layers::standard(), Init::new(0), &Device::Cpu).unwrap();
        let network = Sequential::new("big", layers);
        let image = Tensor::full([1, 1, 1, 9, 9], 1.0, &Device::Cpu).unwrap();
        let outcomes = [
            Exactness::of(&network, [9, 9]).map(drop),
            network.output_shape(image.shape()).map(drop),
            network.predict(&image).map(drop),
        ];
        for outcome in outcomes {
            let message = outcome.expect_err(&layer).to_string();
            assert!(message.contains("too large"), "{layer}: {message}");
        }
    }
}

/// A class and a direction of one image: heads that end in one output, each with its part of an objective of one's own.
#[test]
fn a_network_of_several_outputs_has_heads_side_by_side() {
    let same = Window { kernel_size: 3, stride: 1, padding: 1 };
    let body = Builder::new(Group::C4, 1, Init::kaiming(1), &Device::Cpu).conv("conv", 3, same).relu();
    let class = |x: Builder| x.spatial_mean().coset_max().linear("fc", 4);
    let size = |x: Builder| x.spatial_mean().coset_mean().linear("fc", 2);
    let network = Sequential::new("two heads", body.concat("heads", class, size).build().unwrap());
    let file = std::env::temp_dir().join(format!("quarterturn-heads-{}.safetensors", std::process::id()));
    checkpoint::save(&file, &network).unwrap();
    let mut network = Checkpoint::read(&file).unwrap().network(&Device::Cpu).unwrap();
    std::fs::remove_file(&file).unwrap();

    let stream = Stream::new(7, 0, 0);
    let images = (0..2 * 81).map(|i| stream.normal(i) as f32).collect();
    let images = Tensor::from_vec([2, 1, 1, 9, 9], images, &Device::Cpu).unwrap();
    let outputs = network.predict(&images).unwrap();
    assert_eq!(outputs.dims(), [2, 6]);
    for turn in 1..4 {
        assert_eq!(bits(&network.predict(&transform_plane(&images, turn)).unwrap()), bits(&outputs));
    }

    let objective = Objective::own("class, and square of two numbers", |outputs, targets| {
        let class = outputs.narrow(1, 0, 4).cross_entropy(&narrow(targets, 1, 0, 1).reshape([2]));
        let off = outputs.narrow(1, 4, 2).sub(&outputs.tape().constant(narrow(targets, 1, 1, 2)));
        Ok(class.add(&off.mul(&off).mean()))
    });
    let targets = Tensor::from_vec([2, 3], vec![1.0, 0.5, -0.5, 3.0, 2.0, 1.0], &Device::Cpu).unwrap();
    let training = Training::new(30, Optimizer::adam(0.0).rule(), Schedule::OneCycle { max_lr: 0.05 }, 1);
    let training = Training { objective, ..training };
    let losses =
        train(&mut *network, &training, |_| Ok(std::iter::once(Ok((images.clone(), targets.clone())))), |_| ())
            .unwrap();
    assert!(losses[29] < 0.5 * losses[0], "{losses:?}");
}
