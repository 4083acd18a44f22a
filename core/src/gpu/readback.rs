//! Bringing results to the host.

use super::{
    GpuBuffer, caught,
    waiting::{Signal, Submission},
};
use crate::{Error, Result};

/// A copy on its way to the host: told when it can be read there.
struct Staged {
    buffer: wgpu::Buffer,
    copied: Submission,
}

impl GpuBuffer {
    /// Submits all recorded work and brings the values to the host. Blocks; in a browser, which does not let anybody wait,
    /// use [`GpuBuffer::read_async`].
    ///
    /// # Errors
    /// What made this buffer's content meaningless ([`GpuBuffer::check`]) or the device fail ([`Gpu::check`](super::Gpu::check));
    /// [`Error::OutOfMemory`] if there is no room for the copy; [`Error::Gpu`] in a browser.
    pub fn read(&self) -> Result<Vec<f32>> {
        if cfg!(target_arch = "wasm32") {
            return Err(Error::Gpu("a browser cannot wait for the GPU: read with an `_async` function".into()));
        }
        let staged = self.stage()?;
        self.gpu().wait(&staged.copied.index)?;
        // Another thread that waits may be about to run the callback.
        self.fetch(&staged, pollster::block_on(staged.copied.done.told()))
    }

    /// As [`GpuBuffer::read`], without blocking: whoever awaits is woken when the values are there.
    ///
    /// # Errors
    /// As [`GpuBuffer::read`].
    pub async fn read_async(&self) -> Result<Vec<f32>> {
        let staged = self.stage()?;
        let told = self.gpu().wait_async(staged.copied.clone()).await;
        self.fetch(&staged, told)
    }

    /// Records the copy, submits, and asks for the mapping.
    fn stage(&self) -> Result<Staged> {
        let (gpu, device) = (self.gpu(), self.gpu().device());
        gpu.check()?;
        self.check()?;
        let bytes = (4 * self.len().max(1)) as u64;
        let staging = caught(device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("read-back"),
                size: bytes,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        let buffer = staging.map_err(|error| gpu.failure().explain(error))?;
        let index = gpu.copy_out(self, &buffer, bytes)?;
        let done = Signal::default();
        let told = done.clone();
        buffer.map_async(wgpu::MapMode::Read, .., move |mapped| {
            told.tell(mapped.map_err(|e| Error::Gpu(format!("read-back: {e}"))));
        });
        Ok(Staged { buffer, copied: Submission { index, done } })
    }

    /// Copies the values, once `mapped` was told.
    fn fetch(&self, staged: &Staged, mapped: Result<()>) -> Result<Vec<f32>> {
        // What went wrong while the work ran explains a failed mapping.
        self.gpu().check()?;
        mapped?;
        let view = staged.buffer.get_mapped_range(..).map_err(|e| Error::Gpu(format!("read-back: {e}")))?;
        let mut values: Vec<f32> = bytemuck::pod_collect_to_vec(&view);
        values.truncate(self.len());
        Ok(values)
    }
}
