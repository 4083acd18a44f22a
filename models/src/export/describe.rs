//! A plain network as a safetensors file: weights, and a description in JSON under `plain` in the metadata.

use super::{Array, Op, Plain, Size, Step};
use crate::{
    checkpoint::Notes,
    io::{Encoder, quote},
};
use quarterturn_core::Result;
use quarterturn_kernels::Window;
use std::{collections::BTreeSet, path::Path};

impl Plain {
    /// Writes the network as a safetensors file, with `notes` as in a checkpoint. Its metadata have a description under `plain`:
    ///
    /// ```text
    /// {"version": 1, "in_channels": 3, "size": null, "steps": [
    ///   {"name": "stem.conv", "op": "conv2d", "inputs": [0], "tensors": {"weight": "stem.conv.weight"}, "options": {"stride": 2}},
    ///   …]}
    /// ```
    ///
    /// `inputs` are numbers of earlier results: 0 is the images `[N, C, H, W]`, i the output of the i-th step. `op` is
    /// the name of a PyTorch function, which takes the named tensors and options. `examples/export/plain.py` runs such
    /// a file.
    ///
    /// # Errors
    /// [`quarterturn_core::Error::Checkpoint`] with the name of a tensor that has a value which is not finite;
    /// [`quarterturn_core::Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>, notes: &Notes) -> Result<()> {
        let mut encoder = Encoder::default();
        let mut steps = Vec::with_capacity(self.steps.len());
        for (step, arrays) in self.steps.iter().zip(self.named_arrays()) {
            for (_, name, array) in &arrays {
                encoder.values(name.clone(), &array.dims, &array.values)?;
            }
            let tensors = arrays.iter().map(|(role, name, _)| format!("{}:{}", quote(role), quote(name)));
            let options = options(&step.op).into_iter().map(|(name, value)| format!("{}:{value}", quote(name)));
            steps.push(format!(
                "{{\"name\":{},\"op\":{},\"inputs\":{:?},\"tensors\":{{{}}},\"options\":{{{}}}}}",
                quote(&step.name),
                quote(step.op.name()),
                step.inputs,
                tensors.collect::<Vec<_>>().join(","),
                options.collect::<Vec<_>>().join(","),
            ));
        }
        let size = self.only_size().map_or("null".into(), |size| format!("{size:?}"));
        let head = format!("\"version\":1,\"in_channels\":{},\"size\":{size}", self.in_channels);
        encoder.setting("plain".into(), format!("{{{head},\"steps\":[{}]}}", steps.join(",")));
        encoder.notes(notes);
        encoder.write(path)
    }

    /// The only image size that fits, if the exported operations depend on the size.
    pub fn only_size(&self) -> Option<[usize; 2]> {
        self.size.filter(|_| self.fixed_by.is_some())
    }

    /// The parameters of each step: what they are to the operation, a name that no other has, and the values.
    pub(crate) fn named_arrays(&self) -> Vec<Vec<(&'static str, String, &Array)>> {
        let mut taken = BTreeSet::new();
        let mut free = |name: String| {
            let numbered = (2..).map(|number| format!("{name}_{number}"));
            let free = [name.clone()].into_iter().chain(numbered).find(|name| !taken.contains(name)).unwrap_or(name);
            taken.insert(free.clone());
            free
        };
        let mut named = |step: &Step, role: &str| match step.name.as_str() {
            "" => free(role.into()),
            layer => free(format!("{layer}.{role}")),
        };
        let mut all = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let arrays = step.op.arrays().into_iter();
            all.push(arrays.map(|(role, array)| (role, named(step, role), array)).collect());
        }
        all
    }
}

/// The options of an operation, as PyTorch calls them, and their values in JSON.
fn options(op: &Op) -> Vec<(&'static str, String)> {
    let window = |window: &Window| {
        let Window { kernel_size, stride, padding } = window;
        vec![("kernel_size", kernel_size.to_string()), ("stride", stride.to_string()), ("padding", padding.to_string())]
    };
    let extents = |extents: &[usize; 2]| format!("{extents:?}");
    match op {
        Op::Conv { stride, padding, dilation, groups, .. } => vec![
            ("stride", stride.to_string()),
            ("padding", padding.to_string()),
            ("dilation", dilation.to_string()),
            ("groups", groups.to_string()),
        ],
        Op::TransposedConv { stride, padding, dilation, output_padding, .. } => vec![
            ("stride", stride.to_string()),
            ("padding", padding.to_string()),
            ("dilation", dilation.to_string()),
            ("output_padding", output_padding.to_string()),
        ],
        Op::Norm { eps, .. } => vec![("eps", format!("{eps:e}"))],
        Op::MaxPool(pool) | Op::AvgPool(pool) => window(pool),
        Op::Max(axes) | Op::Mean(axes) => vec![("dim", format!("{axes:?}"))],
        Op::Part { channels, elements, .. } => vec![("dim", "1".into()), ("sizes", format!("[{channels},{elements}]"))],
        Op::Resize(size) => {
            let to = match size {
                Size::Times(factor) => ("scale_factor", factor.to_string()),
                Size::Of(size) => ("size", extents(size)),
            };
            vec![to, ("mode", quote("bilinear"))]
        }
        Op::Repeat(factor) => vec![("scale_factor", factor.to_string()), ("mode", quote("nearest"))],
        Op::Crop(margin) => vec![("pad", format!("[-{margin},-{margin},-{margin},-{margin}]"))],
        Op::Select { axis, indices } => vec![("dim", axis.to_string()), ("index", format!("{indices:?}"))],
        Op::ChooseGrid { inset, extents: size, bits, spare } => vec![
            ("inset", inset.to_string()),
            ("extents", extents(size)),
            ("bits", bits.to_string()),
            ("spare", spare.to_string()),
        ],
        Op::MoveOntoGrid { before, behind, extents: size } => {
            vec![("before", before.to_string()), ("behind", extents(behind)), ("extents", extents(size))]
        }
        Op::Subsample(_) => Vec::new(),
        Op::GridUpsample(size) => vec![("extents", extents(size))],
        Op::Linear { .. } | Op::Function(_) | Op::Sum | Op::Concat => Vec::new(),
    }
}
