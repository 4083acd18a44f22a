//! States of training that contradict themselves. Plain mutation of a file is refused at its first bytes, so here a sound state is
//! changed on purpose: each four bytes of the input are one change.

use crate::{scratch, write};
use quarterturn::{
    autograd::{Optimizer, Schedule},
    core::{Device, Tensor},
    models::{
        MnistCnn, MnistCnnConfig, Network,
        training::{Trainer, Training},
    },
};
use serde_json::{Map, Value, json};
use std::{fs, ops::ControlFlow, sync::OnceLock};

fn training() -> Training {
    Training::new(3, Optimizer::adam(1e-5).rule(), Schedule::Step { lr: 0.01, factor: 0.5, every: 2 }, 1)
}

fn network() -> MnistCnn {
    MnistCnn::new(MnistCnnConfig { width: 1, ..MnistCnnConfig::p4cnn() }, 1, &Device::Cpu).expect("settings in range")
}

/// One batch of two images.
fn batches(
    _: u32,
    _: u32,
) -> quarterturn::core::Result<std::vec::IntoIter<quarterturn::core::Result<(Tensor, Tensor)>>> {
    let values = (0..2 * 64).map(|i| (i % 7) as f32 / 7.0).collect();
    let images = Tensor::from_vec([2, 1, 1, 8, 8], values, &Device::Cpu)?;
    let labels = Tensor::from_vec([2], vec![3.0, 4.0], &Device::Cpu)?;
    Ok(vec![Ok((images, labels))].into_iter())
}

/// The bytes of a state after one step.
pub(crate) fn sound() -> &'static [u8] {
    static STATE: OnceLock<Vec<u8>> = OnceLock::new();
    STATE.get_or_init(|| {
        let path = scratch("resume").join("sound.safetensors");
        let mut network = network();
        let mut trainer = Trainer::new(&mut network, training());
        let stopped = trainer.run(batches, |trainer, _| {
            trainer.save(&path)?;
            Ok(ControlFlow::Break(()))
        });
        assert!(stopped.expect("a sound run").is_break());
        fs::read(&path).expect("the state was written")
    })
}

/// Values that a field of the metadata may be given.
const VALUES: [&str; 16] = [
    "",
    "-1",
    "0",
    "1",
    "2",
    "3",
    "4",
    "50",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "NaN",
    "inf",
    "-0.0",
    "1e308",
    "x",
];

/// Bytes that a value of a tensor may be given.
const FLOATS: [f32; 8] = [0.0, -1.0, 1.0, f32::NAN, f32::INFINITY, -f32::MIN_POSITIVE, 1e30, -0.0];

/// Changes a sound state as `bytes` say and resumes from it; what is accepted must run to its end or report an error.
pub fn resume(bytes: &[u8]) {
    let state = sound();
    let length = u64::from_le_bytes(state[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Map<String, Value> = serde_json::from_slice(&state[8..8 + length]).expect("a sound header");
    let mut data = state[8 + length..].to_vec();
    for change in bytes.chunks_exact(4).take(8) {
        apply(change, &mut header, &mut data);
    }
    let header = serde_json::to_vec(&header).expect("a header");
    let path = scratch("resume").join("changed.safetensors");
    write(&path, &[&(header.len() as u64).to_le_bytes()[..], &header, &data].concat());
    let mut network = network();
    if let Ok(mut trainer) = Trainer::resume(&mut network, training(), &path) {
        assert!(trainer.epoch() <= 3);
        if trainer.run(batches, |_, _| Ok(ControlFlow::Continue(()))).is_ok() {
            network.visit_all();
        }
    }
}

/// What a finished run must have: finite values.
trait VisitAll {
    fn visit_all(&mut self);
}

impl VisitAll for MnistCnn {
    fn visit_all(&mut self) {
        use quarterturn::models::Module;
        assert!(self.parameters() > 0);
        self.visit(&mut |name, param| {
            assert!(
                param.value().f32s().iter().all(|value| value.is_finite()),
                "{name} is not finite after a run that ended well"
            );
        });
    }
}

fn apply(change: &[u8], header: &mut Map<String, Value>, data: &mut [u8]) {
    let [what, which, value, more] = [0, 1, 2, 3].map(|i| usize::from(change[i]));
    let names: Vec<String> = header.keys().filter(|name| *name != "__metadata__").cloned().collect();
    let metadata = header.get_mut("__metadata__").and_then(Value::as_object_mut);
    match (what % 6, metadata) {
        (0, Some(metadata)) => {
            let Some(name) = metadata.keys().nth(which % metadata.len().max(1)).cloned() else { return };
            metadata.insert(name, json!(VALUES[value % VALUES.len()]));
        }
        (1, Some(metadata)) => {
            let Some(name) = metadata.keys().nth(which % metadata.len().max(1)).cloned() else { return };
            metadata.remove(&name);
        }
        (2, Some(metadata)) => {
            let names = ["training.more", "optimizer.more", "note.more", "training.losses", "more"];
            metadata.insert(names[which % names.len()].into(), json!(VALUES[value % VALUES.len()]));
        }
        (3, _) if !names.is_empty() => {
            let name = &names[which % names.len()];
            let offsets = header[name]["data_offsets"].clone();
            let (Some(start), Some(end)) = (offsets[0].as_u64(), offsets[1].as_u64()) else { return };
            let place = start as usize + 4 * (more % ((end - start).max(4) as usize / 4));
            if let Some(bytes) = data.get_mut(place..place + 4) {
                bytes.copy_from_slice(&FLOATS[value % FLOATS.len()].to_le_bytes());
            }
        }
        (4, _) if !names.is_empty() => {
            // Another name for a tensor.
            let entry = header.remove(&names[which % names.len()]).expect("a name of the header");
            let others = ["optimizer.moment1.more", "training.more", "more", "conv1.weight"];
            header.insert(others[value % others.len()].into(), entry);
        }
        (5, _) if !names.is_empty() => {
            let name = &names[which % names.len()];
            header[name]["shape"] = json!([value, more]);
        }
        _ => {}
    }
}
