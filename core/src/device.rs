//! Where a tensor lives and computes.

#[cfg(feature = "gpu")]
use crate::gpu::Gpu;
use std::fmt;

/// A place that stores and computes. A device is a value that each kernel matches once, in its own file.
#[derive(Clone, Default)]
pub enum Device {
    /// `f32` on the CPU's cores: the fast path.
    #[default]
    Cpu,
    /// The plain formula in `f64` on one core: the oracle of every test.
    Reference,
    /// `f32` on a GPU through WGSL compute shaders.
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

impl Device {
    /// Whether both are the same place.
    pub fn same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Cpu, Device::Cpu) | (Device::Reference, Device::Reference) => true,
            #[cfg(feature = "gpu")]
            (Device::Gpu(a), Device::Gpu(b)) => a.same(b),
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => write!(f, "CPU, {} threads", rayon::current_num_threads()),
            Device::Reference => write!(f, "reference (f64)"),
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => write!(f, "{gpu}"),
        }
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
