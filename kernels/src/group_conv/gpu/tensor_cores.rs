//! Convolutions, their `dx` and `dw` on units for small matrix products (CUDA: tensor cores), where a test finds them exact.

mod gradient;

use super::{Epilogue, Overrides, Pass};
use crate::{Conv, Group, launch, transform_feature_map};
use gradient::Cut;
use quarterturn_core::{
    Device, Result, Shape, Stream, Tensor,
    gpu::{Checks, Gpu, GpuBuffer, Kernel, MatrixUnits, Size, TensorCores},
};
use std::{
    fmt,
    sync::{Arc, LazyLock},
};

static SHADER_8: &str = concat!(
    include_str!("../matrices_8.wgsl"),
    include_str!("../../prelude.wgsl"),
    include_str!("../spectra.wgsl"),
    include_str!("../convolve.wgsl"),
    include_str!("../direct.wgsl"),
    include_str!("../halves.wgsl"),
    include_str!("../tensor_cores.wgsl"),
    include_str!("../matrices.wgsl"),
    include_str!("../runs.wgsl"),
    include_str!("../gradient_halves.wgsl"),
    include_str!("../gradient_matrices.wgsl"),
);

/// The same with matrices of 16 × 16.
static SHADER_16: LazyLock<String> =
    LazyLock::new(|| SHADER_8.replace("coop_mat8x8", "coop_mat16x16").replace("SIZE: u32 = 8u", "SIZE: u32 = 16u"));

/// Tiles of windows in a workgroup, and of result channels at most.
const ROWS: usize = 2;
const COLS: usize = 4;
/// RUN of the shader.
const RUN: usize = 64;
/// Terms that are laid down at a time, by preference. Each divides [`RUN`], so none changes a bit.
const CHUNKS: [usize; 2] = [32, 16];
/// Channels of source and result from which tiles are full enough.
const LEAST_CHANNELS: usize = 16;

/// What wide group convolutions on a GPU are computed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorCoreUse {
    /// Tensor cores with three products of halves for each product of floats: at least as accurate as fp32.
    Accurate,
    /// Tensor cores with one product of halves: see [`TensorCores::Fast`].
    Fast,
    /// Ordinary fp32, and why.
    None(String),
}

impl fmt::Display for TensorCoreUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TensorCoreUse::Accurate => write!(f, "tensor cores, fp16×3"),
            TensorCoreUse::Fast => write!(f, "tensor cores, fp16×1"),
            TensorCoreUse::None(why) => write!(f, "fp32: {why}"),
        }
    }
}

/// What convolutions on p4 and p4m with 16 channels or more, and their gradients, are computed with on this GPU. The first
/// call tests its units for matrix products, if it has any: a convolution on each group must agree with that in fp32, and
/// its results for all turned inputs must be the turned results, in every bit. The gradient of its weight must agree with
/// that in fp32, and of whole numbers it must be the same for all turned inputs, in every bit. Later calls return the same
/// answer. Units that fail are not used, and a warning is logged.
pub fn tensor_core_use(gpu: &Gpu) -> Arc<TensorCoreUse> {
    let Some(units) = gpu.matrix_units() else {
        let why = match gpu.tensor_cores() {
            TensorCores::Off => "tensor cores are switched off",
            _ => "no units for matrix products of f16 that are added up in f32",
        };
        return Arc::new(TensorCoreUse::None(why.into()));
    };
    let found = gpu.remember(|| {
        let wrong = match probe(gpu, units) {
            Ok(wrong) => wrong,
            Err(error) => Some(error.to_string()),
        };
        if let Some(why) = &wrong {
            log::warn!("{}: its units for matrix products fail their test and are not used: {why}", gpu.adapter());
        }
        Ok(match (wrong, gpu.tensor_cores()) {
            (Some(why), _) => TensorCoreUse::None(why),
            (None, TensorCores::Fast) => TensorCoreUse::Fast,
            (None, _) => TensorCoreUse::Accurate,
        })
    });
    found.unwrap_or_else(|error| Arc::new(TensorCoreUse::None(error.to_string())))
}

/// What is wrong with the units, if anything.
fn probe(gpu: &Gpu, units: MatrixUnits) -> Result<Option<String>> {
    for group in [Group::C4, Group::D4] {
        let conv = Conv { padding: 1, ..Conv::new(group) };
        let x = noise(Shape::from([2, 16, group.order(), 7, 7]), 1, gpu)?;
        let weight = noise(Shape::from([16, 16, group.order(), 3, 3]), 2, gpu)?;
        let e = super::Extents::new("tensor_core_use", x.shape(), weight.shape(), conv);
        let pass = Pass::forward(&e, conv);
        let split = gpu.tensor_cores() != TensorCores::Fast;
        let memory = gpu.workgroup_memory();
        let (Some(tiles), Some(cut)) = (Tiles::of(&pass, units, split, memory), Cut::of(&pass, units, split, memory))
        else {
            return Ok(Some(format!("{memory} bytes of workgroup memory are too few")));
        };
        let on_units = |x: &Tensor| {
            let y = pass.run_matrices(tiles, gpu, x.buffer(), weight.buffer(), Epilogue::default());
            Tensor::gpu(e.y(), y)
        };
        let y = on_units(&x);
        let plain = pass.run_fp32(gpu, x.buffer(), weight.buffer(), Epilogue::default()).read()?;
        if !close(&y.to_vec()?, &plain, split) {
            return Ok(Some(format!("convolutions on {group} differ from fp32")));
        }
        for g in group.elements().skip(1) {
            let turned = on_units(&transform_feature_map(&x, g, group)).to_vec()?;
            if turned != transform_feature_map(&y, g, group).to_vec()? {
                return Ok(Some(format!("convolutions on {group} do not commute with element {g}")));
            }
        }
        if let Some(wrong) = gradient::probe(gpu, &pass, cut, [x.shape(), weight.shape(), e.y()])? {
            return Ok(Some(wrong));
        }
    }
    Ok(None)
}

/// Some values are large and some small, as those of trained networks.
fn noise(shape: Shape, stream: u64, gpu: &Gpu) -> Result<Tensor> {
    let noise = Stream::new(stream, 0, 0);
    let value = |i| (noise.uniform(2 * i) - 0.5) * if noise.uniform(2 * i + 1) < 0.5 { 0.01 } else { 4.0 };
    Tensor::from_vec(shape, (0..shape.len() as u64).map(value).collect(), &Device::Gpu(gpu.clone()))
}

/// Whether results agree with those of fp32. NaN agrees with nothing.
fn close(got: &[f32], plain: &[f32], split: bool) -> bool {
    let largest = plain.iter().fold(0f32, |most, v| most.max(v.abs()));
    let bound = largest * if split { 2e-6 } else { 2e-3 };
    got.iter().zip(plain).all(|(a, b)| (a - b).abs() <= bound)
}

/// How a convolution is cut for the units. It changes no bit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    units: MatrixUnits,
    /// Whether floats have a low half too.
    split: bool,
    /// Tiles of result channels in a workgroup, and of those the result has.
    cols: usize,
    parts: usize,
    /// Terms laid down at a time, and all, filled up.
    chunk: usize,
    terms: usize,
    taps: usize,
    group: Group,
}

impl Tiles {
    /// Those for a pass, if it has one on the units and workgroups have enough memory.
    fn of(pass: &Pass, units: MatrixUnits, split: bool, memory: usize) -> Option<Self> {
        if pass.group == Group::C1 {
            return None;
        }
        let tiles = pass.c_out.div_ceil(units.size as usize);
        let cols = tiles.min(COLS);
        let of_chunk = |chunk| Tiles {
            units,
            split,
            cols,
            parts: tiles.div_ceil(cols),
            chunk,
            terms: (pass.c_in * pass.taps()).next_multiple_of(chunk),
            taps: pass.taps(),
            group: pass.group,
        };
        CHUNKS.into_iter().map(of_chunk).find(|tiles| tiles.memory() <= memory)
    }

    fn size(self) -> usize {
        self.units.size as usize
    }

    fn threads(self) -> usize {
        ROWS * self.cols * self.units.subgroup as usize
    }

    fn locations(self) -> usize {
        ROWS * self.size()
    }

    fn pitch(self) -> usize {
        self.locations() + 8
    }

    /// Halves of a value.
    fn halves(self) -> usize {
        if self.split { 2 } else { 1 }
    }

    fn lefts(self) -> usize {
        self.group.order() * self.halves() * self.chunk * self.pitch()
    }

    fn results(self) -> usize {
        ROWS * self.cols * self.size() * self.size()
    }

    /// Places of samples in the rotations, and in the reflections: arrays have at least one.
    fn places(self) -> [usize; 2] {
        let places = self.locations() * self.taps;
        [places, if self.group == Group::D4 { places } else { 1 }]
    }

    /// Bytes of workgroup memory.
    fn memory(self) -> usize {
        2 * self.lefts() + 16 * self.places().iter().sum::<usize>() + 4 * self.results() + 8 * self.locations()
    }

    /// Result channels, filled up to those of all workgroups.
    fn channels(self) -> usize {
        self.parts * self.cols * self.size()
    }

    /// Floats that hold all halves of the filters: on C4 one value is there with both signs.
    fn filters(self) -> usize {
        let values = if self.group == Group::C4 { 5 } else { 8 };
        (values * self.halves() * self.terms * self.channels()).div_ceil(2)
    }

    fn overrides(self) -> Overrides {
        vec![
            ("SPLIT", f64::from(u8::from(self.split))),
            ("CHUNK", self.chunk as f64),
            ("ROWS", ROWS as f64),
            ("COLS", self.cols as f64),
            ("TAPS", self.taps as f64),
        ]
    }
}

/// A kernel for these units.
fn kernel(units: MatrixUnits, name: &'static str, threads: usize, memory: usize) -> Kernel {
    let shader = if units.size == 8 { SHADER_8 } else { &SHADER_16 };
    // SAFETY: as for `unchecked`. A tile of factors or of `results` lies within its subgroup's share; those of the filters
    // were made for all terms and channels, filled up, that tiles read.
    let kernel = unsafe { launch::kernel(name, shader).with_checks(Checks::None) };
    kernel.workgroup(threads as u32, memory as u32)
}

impl Pass {
    /// The units, and whether floats have a low half there, where this shape is computed on them. That depends on the
    /// layer, not on the batch.
    fn units(&self, gpu: &Gpu) -> Option<(MatrixUnits, bool)> {
        let units = gpu.matrix_units()?;
        if self.group == Group::C1 || self.c_in.min(self.c_out) < LEAST_CHANNELS {
            return None;
        }
        match *tensor_core_use(gpu) {
            TensorCoreUse::Accurate => Some((units, true)),
            TensorCoreUse::Fast => Some((units, false)),
            TensorCoreUse::None(_) => None,
        }
    }

    /// Its tiles, if it is computed on the units.
    pub(super) fn tiles(&self, gpu: &Gpu) -> Option<Tiles> {
        let (units, split) = self.units(gpu)?;
        Tiles::of(self, units, split, gpu.workgroup_memory())
    }

    /// In three launches: the largest samples of the pixels, the filters' halves, and the products.
    pub(super) fn run_matrices(
        &self,
        tiles: Tiles,
        gpu: &Gpu,
        x: &GpuBuffer,
        weight: &GpuBuffer,
        epilogue: Epilogue,
    ) -> GpuBuffer {
        let [rows, columns] = self.grid();
        let positions = self.batch * rows * columns;
        let workgroups = tiles.parts * positions.div_ceil(tiles.locations()) * self.spread * self.spread;
        let eps = epilogue.norm.map_or(0.0, |norm| norm.eps);
        let uniform = self.uniform((1, columns), [tiles.parts, workgroups], eps, [0; 3]);
        let pixels = self.batch * self.source.0 * self.source.1;
        let peaks = gpu.output(pixels);
        let find = kernel(tiles.units, "find_peaks", 256, 4 * 256);
        gpu.launch(&find, &[], &[x], &[&peaks], &uniform, Size::Groups(pixels.div_ceil(32)));

        let filters = gpu.output(tiles.filters());
        let channels = gpu.output(3 * tiles.channels());
        let make = if self.group == Group::D4 { "split_d4" } else { "split_c4" };
        let make = kernel(tiles.units, make, 64, 4 * 64);
        let mut overrides = self.overrides();
        overrides.extend(tiles.overrides());
        overrides.extend(epilogue.overrides());
        let operands = Self::operands(x, weight, epilogue);
        gpu.launch(&make, &overrides, &operands, &[&filters, &channels], &uniform, Size::Groups(tiles.channels()));

        let y = gpu.output(self.result_len());
        let (multiply, overrides) = self.product(tiles, epilogue);
        let operands = [x, weight, &filters, &channels, &peaks];
        gpu.launch(&multiply, &overrides, &operands, &[&y], &uniform, Size::Groups(workgroups));
        y
    }

    /// The kernel of the products.
    fn product(&self, tiles: Tiles, epilogue: Epilogue) -> (Kernel, Overrides) {
        let name = if self.group == Group::D4 { "matrices_d4" } else { "matrices_c4" };
        let mut overrides = self.overrides();
        overrides.extend(tiles.overrides());
        overrides.extend([
            ("SUBGROUP", f64::from(tiles.units.subgroup)),
            ("THREADS", tiles.threads() as f64),
            ("LOCATIONS", tiles.locations() as f64),
            ("PITCH", tiles.pitch() as f64),
            ("LEFTS", tiles.lefts() as f64),
            ("PLACES", tiles.places()[0] as f64),
            ("MIRRORED_PLACES", tiles.places()[1] as f64),
            ("RESULTS", tiles.results() as f64),
            ("RELU", f64::from(u8::from(epilogue.norm.is_some_and(|norm| norm.relu)))),
        ]);
        (kernel(tiles.units, name, tiles.threads(), tiles.memory()), overrides)
    }
}

#[cfg(test)]
mod tests;
