//! Dropout of whole feature maps.

use crate::{
    Layer, Mode, Module, Node, Pass, Site, Symmetry, Trace,
    export::{Plain, Value},
};
use quarterturn_autograd::{Param, Var};
use quarterturn_core::{Result, Shape, Stream};
use quarterturn_kernels::Cosets;

/// The first of the streams that it draws from; each layer adds its number.
const STREAM: u32 = u32::from_be_bytes(*b"maps");

/// Dropout of whole channels (PyTorch: `Dropout2d`). In training, each channel of an image, with all its pixels and
/// group elements, becomes 0 with probability `p`, and is divided by `1 − p` otherwise:
/// [`quarterturn_kernels::dropout_maps`]. In evaluation nothing changes.
#[derive(Clone, Copy, Debug)]
pub struct DropoutMaps {
    p: f32,
    /// Among the layers of this kind.
    number: u32,
}

impl Layer for DropoutMaps {
    const KIND: &'static str = "dropout_maps";

    fn make(node: &Node, site: &mut Site<'_>) -> Result<Self> {
        node.knows_only(&["p"])?;
        match node.setting("p")? {
            p if (0.0..1.0).contains(&p) => Ok(DropoutMaps { p, number: site.count_map_dropout() }),
            p => Err(site.unfit(format!("expected a probability of at least 0 and below 1, not {p}"))),
        }
    }
}

impl Module for DropoutMaps {
    fn apply<'t>(&self, x: Var<'t>, pass: &mut Pass<'_>) -> Var<'t> {
        match pass.mode() {
            Mode::Train { seed, step } if self.p > 0.0 => {
                x.dropout_maps(self.p, Stream::new(seed, STREAM + self.number, step))
            }
            _ => x,
        }
    }

    fn trace(&self, x: Shape, trace: &mut Trace) -> Result<Shape> {
        match x.rank() {
            2.. => Ok(x),
            _ => Err(trace.unfit(format!("expected [N, C, …], got {x:?}"))),
        }
    }

    fn export(&self, x: Value, _: &mut Plain) -> Result<Value> {
        Ok(x)
    }

    fn symmetry(&self, _: Shape, _: Cosets) -> Symmetry {
        Symmetry::Commutes
    }

    fn visit(&mut self, _: &mut dyn FnMut(&str, &mut Param)) {}
}

#[cfg(test)]
mod tests {
    use crate::{Builder, Init, Mode, Module};
    use quarterturn_autograd::Tape;
    use quarterturn_core::{Device, Tensor};
    use quarterturn_kernels::Group;

    /// Whole maps are dropped, by each layer others and in each step others; in evaluation none.
    #[test]
    fn it_drops_whole_maps_in_training_alone() {
        let layers = |count: usize| {
            let builder = Builder::new(Group::C4, 30, Init::new(0), &Device::Cpu);
            (0..count).fold(builder, |builder, _| builder.dropout_maps(0.5)).build().unwrap()
        };
        let ones = Tensor::full([2, 30, 4, 3, 3], 1.0, &Device::Cpu).unwrap();
        let kept = |count: usize, mode: Mode| -> Vec<f32> {
            let tape = Tape::new();
            let y = layers(count).forward(tape.constant(ones.clone()), mode);
            y.value().f32s().chunks(36).map(|map| map.iter().all(|v| *v == map[0]).then_some(map[0]).unwrap()).collect()
        };
        let train = |step| Mode::Train { seed: 1, step };
        let once = kept(1, train(0));
        assert!(once.contains(&0.0) && once.contains(&2.0) && once.iter().all(|v| [0.0, 2.0].contains(v)));
        assert_eq!(once, kept(1, train(0)));
        assert_ne!(once, kept(1, train(1)));
        let twice = kept(2, train(0));
        assert!(once.iter().zip(&twice).any(|(once, twice)| *once == 2.0 && *twice == 0.0), "the layers draw apart");
        assert!(kept(2, Mode::Eval).iter().all(|v| *v == 1.0));
    }

    #[test]
    fn a_certain_loss_is_refused() {
        let error = Builder::new(Group::C4, 1, Init::new(0), &Device::Cpu).dropout_maps(1.0).build().unwrap_err();
        assert_eq!(error.to_string(), "expected a probability of at least 0 and below 1, not 1");
    }
}
