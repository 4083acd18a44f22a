//! The GPU runtime: adapter, buffer pool, batched launches, compiled pipelines, read-back.
//!
//! Launches return at once. They are recorded in the order of the calls, submitted every so many launches or when a
//! result is read, and run in that order. Nothing here panics for what the machine does: a failed allocation or
//! launch is noted, its outputs are marked as meaningless (and so are the outputs of all that reads them), and the
//! error comes back from the next [`GpuBuffer::read`] or [`Gpu::check`] and from every later read of a marked buffer.
//! When several things fail, the first is reported. A lost device stays lost; open a new [`Gpu`].

mod adapter;
mod batch;
mod failure;
mod pipeline;
mod pool;
mod profile;
mod readback;
#[cfg(test)]
mod tests;

pub use adapter::{AdapterDescription, GpuOptions};
pub use pipeline::Kernel;
pub use profile::KernelTime;

use crate::{Error, Result};
use batch::{Batch, LAUNCHES_PER_BATCH};
use failure::{Failure, from_wgpu};
use pipeline::{BindKey, Pipelines, UNIFORM_BYTES};
use pool::{Pool, Slot, size_class};
use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// An open GPU. Cloning shares it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    description: AdapterDescription,
    limits: wgpu::Limits,
    memory_limit: u64,
    failure: Arc<Failure>,
    state: Mutex<State>,
    remembered: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    launches: AtomicU64,
    submissions: AtomicU64,
    read_backs: AtomicU64,
}

/// What launches, allocations and drops change.
struct State {
    pool: Pool,
    batch: Batch,
    pipelines: Pipelines,
    uniform_group: wgpu::BindGroup,
}

impl State {
    /// Frees what nobody holds, and the bind groups, which hold on to their buffers.
    fn trim(&mut self) {
        self.pipelines.forget_bind_groups();
        self.pool.trim();
    }
}

/// How many invocations a launch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// At least this many invocations; the shader skips those beyond its data.
    Threads(usize),
    /// This many workgroups; the shader skips those beyond its data.
    Groups(usize),
}

/// What a [`Gpu`] has done so far, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuStatistics {
    /// Kernels launched.
    pub launches: u64,
    /// Batches submitted.
    pub submissions: u64,
    /// Buffers read back.
    pub read_backs: u64,
    /// Pipelines compiled.
    pub pipelines: usize,
    /// Buffers asked of the driver.
    pub buffers: u64,
    /// Bytes held, used or ready for reuse.
    pub bytes: u64,
}

impl Gpu {
    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        description: AdapterDescription,
        failure: Arc<Failure>,
        options: &GpuOptions,
    ) -> Self {
        let batch = Batch::new(&device, options.profile);
        let pipelines = Pipelines::new(&device);
        let uniform_group = pipelines.bind_uniform(&device, batch.uniform_buffer());
        Gpu(Arc::new(Inner {
            limits: device.limits(),
            memory_limit: options.memory_limit.unwrap_or(u64::MAX),
            description,
            failure,
            state: Mutex::new(State { pool: Pool::default(), batch, pipelines, uniform_group }),
            remembered: Mutex::default(),
            launches: AtomicU64::new(0),
            submissions: AtomicU64::new(0),
            read_backs: AtomicU64::new(0),
            device,
            queue,
        }))
    }

    /// Whether both are the same open device.
    pub fn same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The adapter this device was opened on.
    pub fn adapter(&self) -> &AdapterDescription {
        &self.0.description
    }

    /// Bytes of `var<workgroup>` that a workgroup can have.
    pub fn workgroup_memory(&self) -> usize {
        self.0.limits.max_compute_workgroup_storage_size as usize
    }

    /// What somebody found out about this device, by its type: made when first asked for, then kept as long as the device.
    ///
    /// # Errors
    /// Whatever `make` returns; nothing is kept then.
    pub fn remember<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        let remembered = || self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered().get(&TypeId::of::<T>()).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                // Not under the lock, since making may ask for other things. Of two who make it, the first counts.
                let made: Arc<dyn Any + Send + Sync> = Arc::new(make()?);
                remembered().entry(TypeId::of::<T>()).or_insert(made).clone()
            }
        };
        Ok(known.downcast().expect("kept under its own type"))
    }

    /// Counts of work and memory.
    pub fn statistics(&self) -> GpuStatistics {
        let state = self.state();
        GpuStatistics {
            launches: self.0.launches.load(Ordering::Relaxed),
            submissions: self.0.submissions.load(Ordering::Relaxed),
            read_backs: self.0.read_backs.load(Ordering::Relaxed),
            pipelines: state.pipelines.compiled(),
            buffers: state.pool.made,
            bytes: state.pool.held,
        }
    }

    /// Reports, and forgets, the first thing that went wrong since the last read-back or check. Does not wait for
    /// work under way.
    ///
    /// # Errors
    /// That thing; [`Error::DeviceLost`] again and again once the device is lost.
    pub fn check(&self) -> Result<()> {
        // Lets a loss make itself known; it is reported with the rest.
        let _ = self.poll(wgpu::PollType::Poll);
        self.0.failure.take()
    }

    /// A buffer of `len` floats with unspecified content. If there is no room, the buffer is marked and the error
    /// noted.
    pub fn alloc(&self, len: usize) -> GpuBuffer {
        let mut state = self.state();
        let slot = self.take_slot(&mut state, len);
        drop(state);
        let poison = OnceLock::new();
        let slot = slot
            .map_err(|error| {
                self.0.failure.record(error.clone());
                poison.get_or_init(|| error);
            })
            .ok();
        GpuBuffer(Arc::new(BufferInner { gpu: self.clone(), len, slot: Mutex::new(slot), poison }))
    }

    /// A buffer of these values.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::OutOfMemory`] when there is no room, [`Error::DeviceLost`].
    pub fn upload(&self, values: &[f32]) -> Result<GpuBuffer> {
        self.poll(wgpu::PollType::Poll)?;
        let buffer = self.alloc(values.len());
        if let Err(error) = buffer.poisoned() {
            // Reported here, so not once more at the next read-back.
            let _ = self.check();
            return Err(error);
        }
        let mut state = self.state();
        if let Some(slot) = &*buffer.slot() {
            // The write would overtake recorded work on the buffer's previous use.
            if slot.batch == state.batch.number {
                self.submit(&mut state);
            }
            let write = || self.0.queue.write_buffer(&slot.buffer, 0, bytemuck::cast_slice(values));
            caught(&self.0.device, write).map_err(|e| self.0.failure.explain(e))?;
        }
        drop(state);
        Ok(buffer)
    }

    /// As [`Gpu::upload`], for operations, which have no other way to fail: the error is noted and marks the buffer.
    pub fn constant(&self, values: &[f32]) -> GpuBuffer {
        self.upload(values).unwrap_or_else(|error| {
            self.0.failure.record(error.clone());
            GpuBuffer(Arc::new(BufferInner {
                gpu: self.clone(),
                len: values.len(),
                slot: Mutex::new(None),
                poison: OnceLock::from(error),
            }))
        })
    }

    /// A copy of `buffer`, recorded like a launch.
    ///
    /// # Panics
    /// If the buffer is on another device.
    #[track_caller]
    pub fn copy(&self, buffer: &GpuBuffer) -> GpuBuffer {
        assert!(buffer.gpu().same(self), "copy: a buffer of another GPU");
        let copy = self.alloc(buffer.len());
        if let Err(error) = buffer.poisoned() {
            copy.0.poison.get_or_init(|| error);
            return copy;
        }
        let mut state = self.state();
        let batch = state.batch.number;
        if let (Some(from), Some(to)) = (&mut *buffer.slot(), &mut *copy.slot()) {
            (from.batch, to.batch) = (batch, batch);
            state.batch.copy(&self.0.device, &from.buffer, &to.buffer, (4 * buffer.len()) as u64);
        }
        drop(state);
        copy
    }

    /// Records a launch of `kernel`.
    ///
    /// `overrides` sets its override constants. `inputs` may repeat a buffer; an output may be neither an input nor
    /// repeated (a kernel that updates in place has its operand among the outputs only). `uniform` is at most 64
    /// words, floats as their bits.
    ///
    /// Errors are noted and mark the outputs; see the module's documentation.
    ///
    /// # Panics
    /// If a buffer is on another device, an output is bound twice, or the uniform is too long.
    #[track_caller]
    pub fn launch(
        &self,
        kernel: &Kernel,
        overrides: &[(&'static str, f64)],
        inputs: &[&GpuBuffer],
        outputs: &[&GpuBuffer],
        uniform: &[u32],
        size: Size,
    ) {
        let bound: Vec<&GpuBuffer> = inputs.iter().chain(outputs).copied().collect();
        let name = kernel.name;
        assert!(bound.iter().all(|b| b.gpu().same(self)), "{name}: a buffer of another GPU");
        assert!(size_of_val(uniform) <= UNIFORM_BYTES, "{name}: uniform of {} words", uniform.len());
        for (i, output) in outputs.iter().enumerate() {
            let others = inputs.iter().chain(&outputs[..i]);
            assert!(others.into_iter().all(|b| !Arc::ptr_eq(&b.0, &output.0)), "{name}: output {i} is bound twice");
        }
        if matches!(size, Size::Threads(0) | Size::Groups(0)) {
            return;
        }
        if let Err(error) = self.record(kernel, overrides, &bound, inputs.len(), uniform, size) {
            let error = self.0.failure.explain(error);
            for output in outputs {
                output.0.poison.get_or_init(|| error.clone());
            }
            self.0.failure.record(error);
        }
    }

    /// Submits everything recorded, without waiting.
    pub fn flush(&self) {
        let mut state = self.state();
        self.submit(&mut state);
    }

    /// How long each kernel has run since the last time, the longest first; empty unless [`GpuOptions::profile`] was set.
    pub fn take_times(&self) -> Vec<KernelTime> {
        let mut state = self.state();
        self.submit(&mut state);
        state.batch.profile.as_mut().map_or(Vec::new(), |profile| profile.take())
    }

    /// Frees the pool's unused memory.
    pub fn trim(&self) {
        self.state().trim();
    }

    fn record(
        &self,
        kernel: &Kernel,
        overrides: &[(&'static str, f64)],
        bound: &[&GpuBuffer],
        inputs: usize,
        uniform: &[u32],
        size: Size,
    ) -> Result<()> {
        for buffer in bound {
            buffer.poisoned()?;
        }
        self.within_limits(kernel, bound.len())?;
        let groups = match size {
            Size::Threads(threads) => threads.div_ceil(kernel.workgroup_size as usize),
            Size::Groups(groups) => groups,
        };
        let groups = fold(groups, kernel.workgroup_size, self.0.limits.max_compute_workgroups_per_dimension)
            .ok_or_else(|| Error::TooLarge(format!("{}: a launch of {groups} workgroups", kernel.name)))?;

        let device = &self.0.device;
        let mut state = self.state();
        let state = &mut *state;
        let pipeline = state.pipelines.pipeline(device, kernel, overrides, inputs, bound.len() - inputs)?;
        let mut ids = Vec::with_capacity(bound.len());
        let mut buffers = Vec::with_capacity(bound.len());
        for buffer in bound {
            if let Some(slot) = &mut *buffer.slot() {
                slot.batch = state.batch.number;
                ids.push((slot.id, (4 * buffer.len().max(1)) as u64));
                buffers.push(slot.buffer.clone());
            }
        }
        let buffers: Vec<&wgpu::Buffer> = buffers.iter().collect();
        let group = state.pipelines.bind(device, BindKey { inputs, buffers: ids }, &buffers)?;
        state.batch.dispatch(device, kernel.name, &pipeline, &group, &state.uniform_group, uniform, groups);
        self.0.launches.fetch_add(1, Ordering::Relaxed);
        if state.batch.launches == LAUNCHES_PER_BATCH {
            self.submit(state);
        }
        Ok(())
    }

    /// Refuses what the driver would not, or not clearly.
    fn within_limits(&self, kernel: &Kernel, bindings: usize) -> Result<()> {
        let limits = &self.0.limits;
        let checks = [
            ("bindings", bindings as u32, limits.max_storage_buffers_per_shader_stage),
            ("invocations per workgroup", kernel.workgroup_size, limits.max_compute_invocations_per_workgroup),
            ("bytes of workgroup memory", kernel.workgroup_memory, limits.max_compute_workgroup_storage_size),
        ];
        for (what, needed, limit) in checks {
            if needed > limit {
                let name = kernel.name;
                return Err(Error::TooLarge(format!("{name}: {needed} {what}, {} has {limit}", self.adapter())));
            }
        }
        Ok(())
    }

    /// A free or new buffer of the driver for `len` floats.
    fn take_slot(&self, state: &mut State, len: usize) -> Result<Slot> {
        let limits = &self.0.limits;
        let bytes = 4 * len as u64;
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if bytes > largest {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            return Err(Error::TooLarge(format!(
                "a tensor of {:.1} MiB; {} binds at most {:.1} MiB",
                mib(bytes),
                self.adapter(),
                mib(largest)
            )));
        }
        let class = size_class(bytes, largest);
        if let Some(slot) = state.pool.take(class) {
            return Ok(slot);
        }
        if state.pool.is_stale(class) {
            state.trim();
        }
        let made = self.make(state, class).or_else(|error| match error {
            Error::OutOfMemory(_) => {
                // Buffers of other sizes may be lying idle; those in recorded work are freed once it has run.
                state.trim();
                self.submit(state);
                self.wait_for_memory()?;
                self.make(state, class)
            }
            other => Err(other),
        })?;
        Ok(state.pool.admit(made, 0))
    }

    fn make(&self, state: &State, bytes: u64) -> Result<wgpu::Buffer> {
        let held = state.pool.held;
        if held + bytes > self.0.memory_limit {
            let limit = self.0.memory_limit;
            return Err(Error::OutOfMemory(format!("{held} bytes held and {bytes} more wanted, of {limit} allowed")));
        }
        let made = caught(&self.0.device, || {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        made.map_err(|error| match error {
            Error::OutOfMemory(_) => {
                Error::OutOfMemory(format!("{held} bytes held and {bytes} more wanted on {}", self.adapter()))
            }
            other => other,
        })
    }

    /// Lets the driver free what nobody uses any more.
    fn wait_for_memory(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    fn submit(&self, state: &mut State) {
        let number = state.batch.number;
        let behind = state.batch.submit(&self.0.device, &self.0.queue);
        if state.batch.number != number {
            self.0.submissions.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(submission_index) = behind {
            // A loss is noted by `poll` and reported by the next read-back.
            let _ = self.poll(wgpu::PollType::Wait { submission_index: Some(submission_index), timeout: None });
        }
    }

    /// Records the copy of `buffer` into `staging` and submits everything.
    fn copy_out(&self, buffer: &GpuBuffer, staging: &wgpu::Buffer, bytes: u64) -> Result<()> {
        let mut state = self.state();
        if let Some(slot) = &*buffer.slot() {
            state.batch.copy(&self.0.device, &slot.buffer, staging, bytes);
        }
        self.submit(&mut state);
        self.0.read_backs.fetch_add(1, Ordering::Relaxed);
        self.0.failure.lost().map_or(Ok(()), Err)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    fn failure(&self) -> &Failure {
        &self.0.failure
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.description.fmt(f)
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({self})")
    }
}

/// Floats in the memory of a [`Gpu`]. Cloning shares them; the memory returns to the pool with the last clone.
#[derive(Clone)]
pub struct GpuBuffer(Arc<BufferInner>);

struct BufferInner {
    gpu: Gpu,
    len: usize,
    /// Missing if it could not be allocated.
    slot: Mutex<Option<Slot>>,
    /// Why the content is meaningless, if it is.
    poison: OnceLock<Error>,
}

impl GpuBuffer {
    /// Number of floats.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// Where it lives.
    pub fn gpu(&self) -> &Gpu {
        &self.0.gpu
    }

    /// Whether nobody else holds this buffer, so that it may be updated in place.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn poisoned(&self) -> Result<()> {
        self.0.poison.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Slot>> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            self.gpu.state().pool.give(slot);
        }
    }
}

/// Folds `groups` workgroups of `size` invocations into two dimensions of at most `most` each: `[x, y]` with
/// x·y ≥ `groups` and the excess as small as x allows. `None` if they do not fit, or an invocation's linear index
/// would not fit 32 bits.
fn fold(groups: usize, size: u32, most: u32) -> Option<[u32; 2]> {
    let rows = groups.div_ceil(most as usize);
    let columns = groups.div_ceil(rows.max(1));
    let invocations = (rows as u64).checked_mul(columns as u64)?.checked_mul(u64::from(size))?;
    (rows <= most as usize && invocations <= u64::from(u32::MAX)).then_some([columns as u32, rows as u32])
}

/// Runs `work`, and returns the first error that the driver reports for it.
fn caught<T>(device: &wgpu::Device, work: impl FnOnce() -> T) -> Result<T> {
    // In a browser the verdict comes later; there the handler of uncaptured errors notes it.
    if cfg!(target_arch = "wasm32") {
        return Ok(work());
    }
    let filters = [wgpu::ErrorFilter::Internal, wgpu::ErrorFilter::OutOfMemory, wgpu::ErrorFilter::Validation];
    let scopes = filters.map(|filter| device.push_error_scope(filter));
    let result = work();
    let mut first = None;
    for scope in scopes.into_iter().rev() {
        let mut verdict = std::pin::pin!(scope.pop());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        if let std::task::Poll::Ready(Some(error)) = verdict.as_mut().poll(&mut context) {
            first.get_or_insert(from_wgpu(error));
        }
    }
    first.map_or(Ok(result), Err)
}
