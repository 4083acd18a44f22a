//! Bringing results to the host: the only place that waits for the GPU.

use super::{Gpu, GpuBuffer, caught};
use crate::{Error, Result};
use std::{
    future,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError},
    task::{Poll, Waker},
};

/// Where the driver says that a mapping is done, and who waits for it.
#[derive(Default)]
struct Mapping {
    done: Option<std::result::Result<(), wgpu::BufferAsyncError>>,
    waker: Option<Waker>,
}

/// A copy on its way to the host.
struct Staged {
    buffer: wgpu::Buffer,
    mapping: Arc<Mutex<Mapping>>,
}

impl GpuBuffer {
    /// Submits all recorded work and brings the values to the host. Blocks; in a browser, which does not let anybody wait,
    /// use [`GpuBuffer::read_async`].
    ///
    /// # Errors
    /// The first thing that went wrong on this GPU since the last read-back or [`Gpu::check`], or whatever made this
    /// buffer's content meaningless; [`Error::Gpu`] in a browser.
    pub fn read(&self) -> Result<Vec<f32>> {
        if cfg!(target_arch = "wasm32") {
            return Err(Error::Gpu("a browser cannot wait for the GPU: read with an `_async` function".into()));
        }
        let staged = self.stage().map_err(|e| self.gpu().failure().explain(e))?;
        self.gpu().poll(wgpu::PollType::wait_indefinitely())?;
        pollster::block_on(self.fetch(staged))
    }

    /// As [`GpuBuffer::read`], without blocking.
    ///
    /// # Errors
    /// As [`GpuBuffer::read`].
    pub async fn read_async(&self) -> Result<Vec<f32>> {
        let staged = self.stage().map_err(|e| self.gpu().failure().explain(e))?;
        self.fetch(staged).await
    }

    /// Records the copy, submits, and asks for the mapping.
    fn stage(&self) -> Result<Staged> {
        let gpu = self.gpu();
        gpu.poll(wgpu::PollType::Poll)?;
        let device = gpu.device();
        let bytes = (4 * self.len().max(1)) as u64;
        let staging = caught(device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        gpu.copy_out(self, &staging, bytes)?;
        gpu.check()?;
        self.poisoned()?;

        let mapping = Arc::new(Mutex::new(Mapping::default()));
        let theirs = mapping.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let mut mapping = theirs.lock().unwrap_or_else(PoisonError::into_inner);
            mapping.done = Some(result);
            if let Some(waker) = mapping.waker.take() {
                waker.wake();
            }
        });
        Ok(Staged { buffer: staging, mapping })
    }

    /// Waits for the mapping and copies the values.
    async fn fetch(&self, staged: Staged) -> Result<Vec<f32>> {
        let gpu = self.gpu();
        let mapped = future::poll_fn(|context| {
            // Browsers call back by themselves; elsewhere somebody must look.
            let looked = gpu.poll(wgpu::PollType::Poll);
            let mut mapping = staged.mapping.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(done) = mapping.done.take() {
                return Poll::Ready(done.map_err(|e| Error::Gpu(format!("read-back: {e}"))));
            }
            if let Err(error) = looked {
                return Poll::Ready(Err(error));
            }
            mapping.waker = Some(context.waker().clone());
            if cfg!(not(target_arch = "wasm32")) {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        // What went wrong while the work ran explains a failed mapping.
        gpu.check()?;
        mapped?;
        let view = staged.buffer.get_mapped_range(..).map_err(|e| Error::Gpu(format!("read-back: {e}")))?;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&view);
        values.truncate(self.len());
        Ok(values)
    }
}

impl Gpu {
    /// Lets the driver's callbacks run, and waits if told to.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<()> {
        // wgpu panics when the device is lost while it waits; to us that is an error like any other.
        let polled = panic::catch_unwind(AssertUnwindSafe(|| self.device().poll(how)));
        if polled.is_err() {
            self.failure().lose("the device was lost while waiting for it");
        }
        self.failure().lost().map_or(Ok(()), Err)
    }
}
