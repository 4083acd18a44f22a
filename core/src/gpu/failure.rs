//! Whether a device still computes. What concerns one buffer or one call is told there; what concerns the device, here.

use crate::{Error, Result};
use std::sync::OnceLock;

/// Why the device computes no more, if so. Once failed, it has failed for ever.
#[derive(Default)]
pub(super) struct Failure {
    error: OnceLock<Error>,
    lost: OnceLock<String>,
}

impl Failure {
    /// Notes an error that belongs to no call: work that was recorded has not run, so nothing computed since can be
    /// trusted. Only the first is kept, for the others are mostly its consequences.
    pub fn record(&self, error: Error) {
        const FOR_EVER: &str = "this device computes no more; open another `Gpu`";
        self.error.get_or_init(|| match error {
            Error::Gpu(message) => Error::Gpu(format!("{message}; {FOR_EVER}")),
            Error::OutOfMemory(message) => Error::OutOfMemory(format!("{message}; {FOR_EVER}")),
            other => other,
        });
    }

    /// Notes that the device is gone.
    pub fn lose(&self, reason: &str) {
        self.lost.get_or_init(|| reason.to_owned());
    }

    /// The device's failure.
    pub fn check(&self) -> Result<()> {
        match (self.error.get(), self.lost.get()) {
            (None, None) => Ok(()),
            (Some(error), _) => Err(self.explain(error.clone())),
            (None, Some(reason)) => Err(Error::DeviceLost(reason.clone())),
        }
    }

    /// What lies behind `error`: a lost device makes the driver refuse everything, for all sorts of reasons. A
    /// failure of another kind (out of memory, say) explains more than the loss that followed it.
    pub fn explain(&self, error: Error) -> Error {
        match (error, self.lost.get()) {
            (Error::Gpu(_), Some(reason)) => Error::DeviceLost(reason.clone()),
            (error, _) => error,
        }
    }
}

/// The driver's errors, sorted by what the caller can do next.
pub(super) fn from_wgpu(error: wgpu::Error) -> Error {
    match error {
        wgpu::Error::OutOfMemory { source } => Error::OutOfMemory(format!("GPU memory: {source}")),
        wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
            Error::Gpu(description)
        }
    }
}
