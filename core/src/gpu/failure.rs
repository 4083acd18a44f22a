//! What went wrong on the GPU, kept until somebody asks.

use crate::{Error, Result};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The first failure since the last question, and whether the device is gone for good.
#[derive(Default)]
pub(super) struct Failure {
    first: Mutex<Option<Error>>,
    lost: OnceLock<String>,
}

impl Failure {
    /// Notes `error`, unless one is waiting already: what follows a failure is mostly its consequence.
    pub fn record(&self, error: Error) {
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Notes that the device is gone; every later question gets this answer.
    pub fn lose(&self, reason: &str) {
        // Only the first reason says why.
        let _ = self.lost.set(reason.to_owned());
    }

    /// The error of a lost device.
    pub fn lost(&self) -> Option<Error> {
        self.lost.get().map(|reason| Error::DeviceLost(reason.clone()))
    }

    /// Reports and forgets the first failure; a lost device stays lost.
    pub fn take(&self) -> Result<()> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).take();
        first.map(|error| self.explain(error)).or_else(|| self.lost()).map_or(Ok(()), Err)
    }

    /// What lies behind `error`: a lost device makes the driver refuse everything, for all sorts of reasons. A
    /// failure of another kind (out of memory, say) explains more than the loss that followed it.
    pub fn explain(&self, error: Error) -> Error {
        match (error, self.lost()) {
            (Error::Gpu(_), Some(lost)) => lost,
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
