//! Whatever a file says, the outcome is a judgement or an error.

use super::*;
use crate::{Builder, Init, Sequential, checkpoint::Notes, export::Plain};
use quarterturn_core::{Device, Stream};
use quarterturn_kernels::{Group, Window};

/// A model with operators of many kinds.
fn model() -> Model {
    let window = Window { kernel_size: 3, stride: 2, padding: 1 };
    let same = Window { stride: 1, ..window };
    let layers = Builder::new(Group::C4, 2, Init::new(1), &Device::Cpu).conv("conv", 2, window).norm("norm").relu();
    let layers = layers.concat("join", |x| x, |x| x.conv("a", 1, same)).upsample("up", 2).avg_pool("avg", window);
    let layers = layers.adaptive_conv("even", 2, window, Some("g")).grid_upsample("back", "g");
    let layers = layers.transposed_conv("wide", 2, window, 1).max_pool("max", window).spatial_mean().coset_max();
    let network = Sequential::new("net", layers.linear("linear", 3).build().unwrap());
    Plain::of(&network, Some([17, 18])).unwrap().to_onnx(&Notes::new()).unwrap()
}

/// Judged at a size; that it comes to an end is what is tested.
fn try_out(model: Model) {
    let _ = Walk::new(&model, [17, 18]).and_then(Walk::judge);
}

#[test]
fn numbers_out_of_range_are_no_panic() {
    const EXTREME: [i64; 8] = [i64::MIN, -(1 << 40), -1, 0, 1, 7, 1 << 31, i64::MAX];
    let sound = model();
    assert!(OnnxModel { model: sound.clone() }.exactness([17, 18]).is_ok());
    let (draw, mut drawn) = (Stream::new(3, 0, 0), 0);
    let mut below = |end: usize| {
        drawn += 1;
        (draw.uniform(drawn) * end as f32) as usize
    };
    for _ in 0..2000 {
        let mut model = sound.clone();
        let graph = model.graph.as_mut().unwrap();
        for _ in 0..1 + below(3) {
            let value = EXTREME[below(EXTREME.len())];
            match below(4) {
                0 => {
                    let count = graph.initializers.len();
                    let tensor = &mut graph.initializers[below(count)];
                    if !tensor.dims.is_empty() {
                        let axis = below(tensor.dims.len());
                        tensor.dims[axis] = value;
                    }
                }
                1 => {
                    let count = graph.initializers.len();
                    let tensor = &mut graph.initializers[below(count)];
                    if tensor.raw.len() >= 8 && tensor.raw.len().is_multiple_of(8) {
                        let at = 8 * below(tensor.raw.len() / 8);
                        tensor.raw[at..at + 8].copy_from_slice(&value.to_le_bytes());
                    }
                }
                2 => {
                    let count = graph.nodes.len();
                    let node = &mut graph.nodes[below(count)];
                    for attribute in &mut node.attributes {
                        attribute.i = attribute.i.map(|_| value);
                        if !attribute.ints.is_empty() {
                            let at = below(attribute.ints.len());
                            attribute.ints[at] = value;
                        }
                    }
                }
                _ => {
                    let count = graph.nodes.len();
                    let (from, to) = (below(count), below(count));
                    graph.nodes[to].op_type = graph.nodes[from].op_type.clone();
                }
            }
        }
        try_out(model);
    }
}

#[test]
fn bytes_of_any_kind_are_no_panic() {
    let bytes = model().encode_to_vec();
    let (draw, mut drawn) = (Stream::new(4, 0, 0), 0);
    for _ in 0..1000 {
        let mut broken = bytes.clone();
        for _ in 0..4 {
            drawn += 2;
            let at = (draw.uniform(drawn) * broken.len() as f32) as usize;
            broken[at] = (draw.uniform(drawn + 1) * 256.0) as u8;
        }
        if let Ok(model) = OnnxModel::from_bytes(&broken, "x") {
            try_out(model.model);
        }
    }
}
