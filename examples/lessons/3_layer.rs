//! Lesson 3: an operation of your own with its gradient, and a layer of your own made of it.
//!
//! Run it with `cargo run --release --example lesson3_layer`.

use quarterturn::{
    autograd::{Optimizer, Param, Schedule, Var},
    core::{Device, Result, Shape},
    data::{Split, digits},
    kernels::{Cosets, Elementwise, Group, Window, transform_plane},
    models::{
        Builder, Checkpoint, Exactness, Init, Layer, Layers, Module, Network, Node, Pass, Sequential, Site, Symmetry,
        Trace, Verdict, checkpoint,
        training::{Training, train},
    },
};

/// The operation `y = x / √(1 + x²)`: its value and its slope, in f64 and as expressions of WGSL for the GPU. (An operation that is
/// not done value by value goes through `Var::custom`, with a function from the gradient that arrives to that of the operands.)
static SQUASH: Elementwise = Elementwise {
    name: "squash",
    parameters: [],
    value: |x, []| if x.is_infinite() { x.signum() } else { x / (1.0 + x * x).sqrt() },
    slope: |x, []| (1.0 + x * x).powf(-1.5),
    cpu: None,
    wgsl: ["x * inverseSqrt(1.0 + x * x)", "pow(1.0 + x * x, -1.5)"],
};

/// The layer. It has no parameters.
struct Squash;

impl Module for Squash {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x.map(&SQUASH)
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x) // the shape of the output
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes // every value is treated alike, wherever it is
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

/// With a name, so that a file can say that a network has such a layer.
impl Layer for Squash {
    const KIND: &'static str = "squash";
    fn make(_: &Node, _: &mut Site<'_>) -> Result<Self> {
        Ok(Squash)
    }
}

fn main() -> Result<()> {
    // The slope is compared with differences of values in f64, and the device with both.
    SQUASH.check([], &[-2.0, -0.1, 0.3, 5.0], &[Device::Cpu])?.expect("value and slope belong together");

    let layers = Layers::standard().with::<Squash>();
    let builder = Builder::new(Group::C4, 1, Init::new(1), &Device::Cpu).with_layers(layers.clone());
    let builder = builder.conv("conv", 8, Window { kernel_size: 5, stride: 1, padding: 0 });
    let builder = builder.described(Node::new(Squash::KIND, "squash")).spatial_mean().coset_max();
    let mut network = Sequential::new("mine", builder.linear("classes", 10).build()?);
    assert_eq!(Exactness::of(&network, [28, 28])?.verdict(), Verdict::Invariant);

    let data = digits::generate(1, Split::Train, 256)?;
    let training = Training::new(4, Optimizer::adam(0.0).rule(), Schedule::Constant { lr: 0.01 }, 1);
    let losses = train(&mut network, &training, |_| Ok(data.batches(32).map(|batch| Ok(batch?.into_pair()))), |_| ())?;
    assert!(losses[3] < losses[0]);

    // A file is read back by whoever knows the layer, and a turned image has the same logits in every bit.
    let file = std::env::temp_dir().join("lesson3.safetensors");
    checkpoint::save(&file, &network)?;
    let loaded = Checkpoint::read(&file)?.network_of(&layers, &Device::Cpu)?;
    let (images, _) = data.batches(8).next().expect("256 images")?.into_pair();
    let logits = network.predict(&images)?.to_vec()?;
    assert!(loaded.predict(&transform_plane(&images, 1))?.to_vec()? == logits);
    println!("losses {losses:.3?}; a turn of the images changes no bit of the logits of the network in the file");
    Ok(())
}
