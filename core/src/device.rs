//! The devices that tensors live on.

#[cfg(feature = "gpu")]
use crate::gpu::Gpu;
use std::fmt;

/// A device that stores tensors and computes, as `torch.device`. An operation runs on the device of its operands, which
/// must be the same.
#[derive(Clone, Default)]
pub enum Device {
    /// `f32` on the CPU's cores: the fast path.
    #[default]
    Cpu,
    /// `f64` on one core, by the plain formula of each operation. It is slow; tests compare the other devices with it.
    Reference,
    /// `f32` on a GPU through WGSL compute shaders.
    #[cfg(feature = "gpu")]
    Gpu(Gpu),
}

impl Device {
    /// Whether both are the same device.
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
