//! What the tests of every crate of the workspace share.

use crate::Device;
#[cfg(feature = "gpu")]
use crate::gpu::{Gpu, GpuOptions};
#[cfg(feature = "gpu")]
use std::{
    env,
    io::{self, Write},
    sync::OnceLock,
};

/// The devices whose results are compared with [`Device::Reference`]: the CPU and, if there is one, the GPU.
pub fn devices() -> Vec<Device> {
    #[cfg(feature = "gpu")]
    if let Some(gpu) = gpu() {
        return vec![Device::Cpu, Device::Gpu(gpu)];
    }
    vec![Device::Cpu]
}

/// The adapter that tests run on, opened once per process: what `QUARTERTURN_GPU` names, else a real GPU, else a
/// software adapter. Without one the GPU part of a test is left out, and a line says so.
///
/// # Panics
/// If there is none and `REQUIRE_GPU=1`.
#[cfg(feature = "gpu")]
pub fn gpu() -> Option<Gpu> {
    static SHARED: OnceLock<Option<Gpu>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let software = || Gpu::open(&GpuOptions { adapter: Some("software".into()), ..GpuOptions::default() });
        let opened = Gpu::open(&GpuOptions::default()).or_else(|error| match env::var("QUARTERTURN_GPU") {
            Ok(_) => Err(error),
            Err(_) => software(),
        });
        // Past the capture of `eprintln!`, so that it is seen when everything passes.
        let mut stderr = io::stderr();
        // Nothing depends on whether the line could be written.
        let _ = match &opened {
            Ok(gpu) => writeln!(stderr, "GPU tests run on {gpu}"),
            Err(error) => writeln!(stderr, "GPU tests are left out: {error}"),
        };
        opened.ok()
    });
    let required = env::var("REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(shared.is_some() || !required, "REQUIRE_GPU=1, but there is no adapter");
    shared.clone()
}

/// Faults on purpose, for tests of what writes files: `core::file` asks before each call of the system.
pub mod faults {
    use std::{cell::Cell, io};

    thread_local! {
        static STEPS: Cell<u64> = const { Cell::new(0) };
        /// The step that fails, and the system's number of the error.
        static FAULT: Cell<Option<(u64, i32)>> = const { Cell::new(None) };
    }

    /// One more call of the system on this thread, which may be the one to fail.
    pub(crate) fn tick() -> io::Result<()> {
        let step = STEPS.replace(STEPS.get() + 1);
        match FAULT.get() {
            Some((at, error)) if at == step => Err(io::Error::from_raw_os_error(error)),
            _ => Ok(()),
        }
    }

    /// How many calls of the system `work` makes to write files, on this thread.
    pub fn count(work: impl FnOnce()) -> u64 {
        STEPS.set(0);
        work();
        STEPS.get()
    }

    /// Does `work`, whose `step`th call of the system (from 0) fails with the system's `error`.
    pub fn fail_at<T>(step: u64, error: i32, work: impl FnOnce() -> T) -> T {
        STEPS.set(0);
        FAULT.set(Some((step, error)));
        let outcome = work();
        FAULT.set(None);
        outcome
    }
}
