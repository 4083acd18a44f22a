//! What the builder refuses, and layers that change the number of channels.

use crate::{Builder, Init, Mode, Module, Pass, Relu, Trace};
use quarterturn_autograd::{Param, Tape, Var};
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use quarterturn_kernels::{Group, Window};

const KEEPING: Window = Window { kernel_size: 3, stride: 1, padding: 1 };

fn builder() -> Builder {
    Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu)
}

fn refused(builder: Builder, expected: &str) {
    match builder.build() {
        Err(Error::Invalid(message)) => assert_eq!(message, expected),
        other => panic!("expected {expected}, got {other:?}"),
    }
}

#[test]
fn two_layers_of_one_name_are_refused() {
    let conv = |x: Builder, name: &str| x.conv(name, 2, KEEPING);
    let already = |name: &str| format!("{name}: another layer has this name already");
    refused(conv(conv(builder(), "d"), "d"), &already("d"));
    refused(conv(builder(), "d").norm("d"), &already("d"));
    refused(conv(builder(), "a").norm("n").relu().max_pool("a", KEEPING), &already("a"));
    refused(builder().max_pool("p", KEEPING).avg_pool("p", KEEPING), &already("p"));
    refused(builder().layer("r", Relu).layer("r", Relu), &already("r"));
    refused(conv(builder(), "c").spatial_mean().coset_max().linear("c", 2), &already("c"));
    refused(builder().chain("a", |x| conv(x, "d")).chain("a", |x| conv(x, "e")), &already("a"));
    // By a point in a name.
    refused(conv(builder().chain("a", |x| conv(x, "d")), "a.d"), &already("a.d"));
    refused(conv(builder(), "c").residual("b", |x| conv(conv(x, "d"), "d"), |x| x).relu(), &already("b.d"));
    let beside = |x: Builder| x.residual("b", |x| conv(x, "shortcut.d"), |x| conv(x, "d"));
    refused(beside(conv(builder(), "c")), &already("b.shortcut.d"));

    // In other places, or with no name to speak of, the same is fine.
    let chains = builder().chain("a", |x| conv(x, "d").relu().relu()).chain("b", |x| conv(x, "d"));
    chains.residual("", |x| conv(x, "e"), |x| x).coset_max().chain("c", |x| conv(x, "d")).coset_max().build().unwrap();
}

/// A layer of one's own whose parameters are called as another layer's.
struct Own(Param);

impl Module for Own {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        f("c.bias", &mut self.0);
    }

    fn read(&self, f: &mut dyn FnMut(&str, &Param)) {
        f("c.bias", &self.0);
    }
}

/// A layer whose parameter only training would see, and no file.
struct Unread(Own);

impl Module for Unread {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        x
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        Ok(x)
    }

    fn visit(&mut self, f: &mut dyn FnMut(&str, &mut Param)) {
        self.0.visit(f);
    }
}

#[test]
fn two_parameters_of_one_name_are_refused() {
    let own = || Own(Param::weight(Tensor::full([1], 0.0, &Device::Cpu).unwrap()));
    refused(builder().conv("c", 1, KEEPING).layer("", own()), "c.bias: two parameters have this name");
    builder().conv_without_bias("c", 1, KEEPING).layer("", own()).build().unwrap();
}

#[test]
fn a_parameter_that_no_file_would_keep_is_refused() {
    let unread = Unread(Own(Param::weight(Tensor::full([1], 0.0, &Device::Cpu).unwrap())));
    let message = "own.c.bias: Module::visit and Module::read do not tell of the same parameters";
    refused(builder().conv("c", 1, KEEPING).layer("own", unread), message);
}

/// Each channel twice.
struct Twice;

impl Module for Twice {
    fn apply<'t>(&self, x: Var<'t>, _: &mut Pass<'_>) -> Var<'t> {
        Var::concat(&[&x, &x], 1)
    }

    fn trace(&self, x: Shape, _: &mut Trace) -> Result<Shape> {
        let mut dims = x.dims().to_vec();
        dims[1] *= 2;
        Ok(Shape::new(&dims))
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

#[test]
fn layers_behind_one_of_ones_own_have_the_channels_that_it_makes() {
    let layers = builder().conv("c", 2, KEEPING).layer_to("twice", Twice, 4).conv("d", 3, KEEPING).build().unwrap();
    let mut inputs = None;
    layers.read(&mut |name, param| {
        if name == "d.weight" {
            inputs = Some(param.value().dims()[1]);
        }
    });
    assert_eq!(inputs, Some(4));
    let tape = Tape::evaluation();
    let y = layers.forward(tape.constant(Tensor::full([1, 1, 1, 5, 5], 1.0, &Device::Cpu).unwrap()), Mode::Eval);
    assert_eq!(y.value().dims(), [1, 3, 4, 5, 5]);
}
