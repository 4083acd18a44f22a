//! From `--device` to a device.

use super::args::DeviceChoice;
use quarterturn::core::{Device, Error, Result};
#[cfg(feature = "gpu")]
use quarterturn::{
    core::gpu::{Gpu, GpuOptions},
    kernels::bit_exactness,
};

/// Opens what the user asked for, and says on standard error what that is and, of a GPU, whether it keeps equivariance
/// to the last bit.
///
/// # Errors
/// With `--device gpu`: [`Error::NoGpu`] if there is none, or whatever kept it from being opened. Whatever a GPU reports
/// when it is tried out.
pub fn open(choice: DeviceChoice) -> Result<Device> {
    super::say::warnings();
    let device = match choice {
        DeviceChoice::Cpu => Device::Cpu,
        DeviceChoice::Gpu => gpu().map_err(|error| match error {
            Error::NoGpu(why) => Error::NoGpu(format!("{why}\nhint: --device cpu computes without one")),
            other => other,
        })?,
        DeviceChoice::Auto => gpu().unwrap_or_else(|error| {
            super::say::note(format_args!("{error}; the CPU computes instead"));
            Device::Cpu
        }),
    };
    super::say::note(format_args!("device: {device}"));
    #[cfg(feature = "gpu")]
    if let Device::Gpu(gpu) = &device {
        super::say::note(bit_exactness(gpu)?);
    }
    Ok(device)
}

/// What a result says that it was computed on. Nothing of the CPU's: results there do not depend on the number of threads.
pub fn name(device: &Device) -> String {
    match device {
        Device::Cpu => "CPU".into(),
        device => device.to_string(),
    }
}

#[cfg(feature = "gpu")]
fn gpu() -> Result<Device> {
    // One GPU for each process on this machine, as far as there are so many.
    Gpu::open(&GpuOptions { number: super::ranks::local_rank(), ..GpuOptions::default() }).map(Device::Gpu)
}

#[cfg(not(feature = "gpu"))]
fn gpu() -> Result<Device> {
    Err(Error::NoGpu("this program was built without the feature `gpu`".into()))
}
