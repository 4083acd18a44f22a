//! The GPU runtime: adapter, buffer pool, batched launches, compiled pipelines, read-back.
//!
//! Work on a GPU is asynchronous, as in CUDA: a call records a kernel launch and returns before it has run. Launches
//! run in the order of the calls. They are submitted once enough have gathered, or when a result is read. At most
//! [`LAUNCHES_IN_FLIGHT`] launches and [`UPLOADS_IN_FLIGHT`] bytes of uploads are recorded or running, for each thread that
//! records. If it records more, it waits for the oldest. A browser does not let a thread wait: there, await [`Gpu::ready`] between steps.
//!
//! What the machine does causes errors, not panics. There are three kinds:
//! - A call that can fail ([`Gpu::alloc`], [`Gpu::upload`], [`GpuBuffer::read`]) returns its error.
//! - If the launch that writes a buffer fails, the buffer is marked as meaningless. So are the outputs of launches that
//!   read it. [`GpuBuffer::check`] and every read of the buffer return the error. Other buffers are not affected.
//! - If the device fails (it is lost, or the driver refuses recorded work), every later call fails, and [`Gpu::check`]
//!   returns the reason. Open a new [`Gpu`]. In a browser every refused call counts as a failure of the device, since
//!   the refusal arrives later than the call.

mod adapter;
mod batch;
mod cache;
mod failure;
mod flight;
mod kernel;
mod pipeline;
mod pool;
mod profile;
mod readback;
#[cfg_attr(target_arch = "wasm32", path = "shader_in_browsers.rs")]
mod shader;
mod tensor_cores;
#[cfg(test)]
mod tests;
mod waiting;

pub use adapter::{AdapterDescription, GpuOptions};
pub use kernel::{Checks, Kernel};
pub use profile::KernelTime;
pub use tensor_cores::{MatrixUnits, TensorCores};

use crate::{Error, Result};
use batch::Batch;
use cache::DiskCache;
use failure::{Failure, from_wgpu};
use flight::{BATCHES_AHEAD, LAUNCHES_PER_BATCH, UPLOADS_PER_BATCH};
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
use waiting::{Lookout, Submission};

/// The most launches and copies that are recorded or running, for each thread that records.
pub const LAUNCHES_IN_FLIGHT: usize = (BATCHES_AHEAD + 1) * LAUNCHES_PER_BATCH;
/// The most bytes of uploads that the driver holds copies of, for each thread that records. If an upload is larger than
/// a third of this, the most is three uploads.
pub const UPLOADS_IN_FLIGHT: u64 = (BATCHES_AHEAD as u64 + 1) * UPLOADS_PER_BATCH;

/// An open GPU. Cloning shares it.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    description: AdapterDescription,
    limits: wgpu::Limits,
    /// Its units for matrix products, and what they may be used for.
    units: Option<MatrixUnits>,
    tensor_cores: TensorCores,
    memory_limit: u64,
    failure: Arc<Failure>,
    state: Mutex<State>,
    lookout: Mutex<Lookout>,
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
    /// Full batches that may be under way: [`BATCHES_AHEAD`], or fewer in a test.
    batches_ahead: usize,
}

impl State {
    /// Frees what nobody holds, and the bind groups, which hold on to their buffers.
    fn trim(&mut self) {
        self.pipelines.forget_bind_groups();
        self.pool.trim();
    }

    /// The submission to wait for, so that there is room for so many full batches more.
    fn too_far(&mut self, room: usize) -> Option<Submission> {
        self.batch.too_far(self.batches_ahead.saturating_sub(room))
    }
}

/// How many invocations a launch needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// At least this many invocations (CUDA: threads). The shader must skip those beyond its data.
    Threads(usize),
    /// This many workgroups (CUDA: blocks). The shader must skip those beyond its data.
    Groups(usize),
}

/// Counters of a [`Gpu`]'s work, and the memory that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuStatistics {
    /// Kernels launched.
    pub launches: u64,
    /// Launches and copies that are recorded or running.
    pub in_flight: usize,
    /// Batches submitted.
    pub submissions: u64,
    /// Buffers read back.
    pub read_backs: u64,
    /// Pipelines compiled.
    pub pipelines: usize,
    /// Bytes of compiled pipelines that [`GpuOptions::pipeline_cache`] held when this GPU was opened.
    pub pipelines_read: u64,
    /// Buffers allocated by the driver.
    pub buffers: u64,
    /// Bytes of memory held, in use or pooled for reuse.
    pub bytes: u64,
}

impl Gpu {
    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        description: AdapterDescription,
        failure: Arc<Failure>,
        units: Option<MatrixUnits>,
        options: &GpuOptions,
        cache: Option<DiskCache>,
    ) -> Self {
        let batch = Batch::new(&device, options.profile);
        let pipelines = Pipelines::new(&device, cache);
        let uniform_group = pipelines.bind_uniform(&device, batch.uniform_buffer());
        Gpu(Arc::new(Inner {
            limits: device.limits(),
            memory_limit: options.memory_limit.unwrap_or(u64::MAX),
            description,
            units,
            tensor_cores: options.tensor_cores,
            failure,
            state: Mutex::new(State {
                pool: Pool::default(),
                batch,
                pipelines,
                uniform_group,
                batches_ahead: BATCHES_AHEAD,
            }),
            lookout: Mutex::default(),
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

    /// The most bytes of `var<workgroup>` (CUDA: shared memory) in a workgroup.
    pub fn workgroup_memory(&self) -> usize {
        self.0.limits.max_compute_workgroup_storage_size as usize
    }

    /// Its units for small matrix products, if it has any and [`GpuOptions::tensor_cores`] is not `Off`. A test of what they
    /// compute decides whether convolutions use them: see `tensor_core_use` in the crate of kernels.
    pub fn matrix_units(&self) -> Option<MatrixUnits> {
        self.0.units
    }

    /// What [`GpuOptions::tensor_cores`] was.
    pub fn tensor_cores(&self) -> TensorCores {
        self.0.tensor_cores
    }

    /// The most buffers of a launch, inputs and outputs together.
    pub fn bindings(&self) -> usize {
        self.0.limits.max_storage_buffers_per_shader_stage as usize
    }

    /// A cached value of type `T`, one for each device. `make` computes it at the first call. For properties of a
    /// device that are measured once, such as whether its arithmetic is exact.
    ///
    /// # Errors
    /// The error of `make`; nothing is cached then.
    pub fn remember<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Result<T>) -> Result<Arc<T>> {
        if let Some(known) = self.remembered() {
            return Ok(known);
        }
        // Not under the lock, since making may ask for other things. Of two who make it, the first counts.
        let made: Arc<dyn Any + Send + Sync> = Arc::new(make()?);
        let mut kept = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.entry(TypeId::of::<T>()).or_insert(made).clone();
        Ok(known.downcast().expect("kept under its own type"))
    }

    /// The value of type `T` that [`Gpu::remember`] has cached, if any.
    pub fn remembered<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let kept = self.0.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&TypeId::of::<T>()).cloned().map(|known| known.downcast().expect("kept under its own type"))
    }

    /// Counts of work and memory.
    pub fn statistics(&self) -> GpuStatistics {
        // Lets the driver say what is done.
        let _ = self.poll(wgpu::PollType::Poll);
        let mut state = self.state();
        GpuStatistics {
            launches: self.0.launches.load(Ordering::Relaxed),
            in_flight: state.batch.in_flight(),
            submissions: self.0.submissions.load(Ordering::Relaxed),
            read_backs: self.0.read_backs.load(Ordering::Relaxed),
            pipelines: state.pipelines.compiled(),
            pipelines_read: state.pipelines.disk.as_ref().map_or(0, |disk| disk.read),
            buffers: state.pool.made,
            bytes: state.pool.held,
        }
    }

    /// Whether the device works. Does not wait for running work.
    ///
    /// # Errors
    /// Once the device has failed, every call returns the reason: [`Error::DeviceLost`], or what the driver refused.
    pub fn check(&self) -> Result<()> {
        // Lets a loss make itself known.
        self.poll(wgpu::PollType::Poll)
    }

    /// Waits, without blocking, until launches can be recorded without waiting: see the module's documentation. In
    /// browsers, where threads cannot wait, await this between the steps of a computation. Otherwise the number of
    /// pending launches grows without bound.
    ///
    /// # Errors
    /// As [`Gpu::check`].
    pub async fn ready(&self) -> Result<()> {
        loop {
            self.check()?;
            // A statement of its own, so that the lock is not held while waiting. Room is left for a batch.
            let behind = self.state().too_far(1);
            let Some(behind) = behind else { return Ok(()) };
            self.wait_async(behind).await?;
        }
    }

    /// A buffer of `len` floats with unspecified content.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::OutOfMemory`] when there is no room; as [`Gpu::check`].
    pub fn alloc(&self, len: usize) -> Result<GpuBuffer> {
        self.0.failure.check()?;
        let mut state = self.state();
        let slot = self.take_slot(&mut state, len).map_err(|error| self.0.failure.explain(error))?;
        Ok(self.buffer(len, Ok(slot)))
    }

    /// As [`Gpu::alloc`], for operations, which return no error: if it fails, the buffer is marked.
    pub fn output(&self, len: usize) -> GpuBuffer {
        self.alloc(len).unwrap_or_else(|error| self.buffer(len, Err(error)))
    }

    /// A buffer of these values.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn upload(&self, values: &[f32]) -> Result<GpuBuffer> {
        self.check()?;
        let buffer = self.alloc(values.len())?;
        let mut state = self.state();
        if let Some(slot) = &*buffer.slot() {
            // The write would overtake recorded work on the buffer's previous use.
            if slot.batch == state.batch.number {
                self.submit_recorded(&mut state);
            }
            let write = || self.0.queue.write_buffer(&slot.buffer, 0, bytemuck::cast_slice(values));
            caught(&self.0.device, write).map_err(|error| self.0.failure.explain(error))?;
            state.batch.upload(size_of_val(values) as u64);
        }
        self.keep_in_bounds(state);
        Ok(buffer)
    }

    /// As [`Gpu::upload`], for operations, which return no error: if it fails, the buffer is marked.
    pub fn constant(&self, values: &[f32]) -> GpuBuffer {
        self.upload(values).unwrap_or_else(|error| self.buffer(values.len(), Err(error)))
    }

    /// A copy of `buffer`. It is recorded like a launch.
    ///
    /// # Panics
    /// If the buffer is on another device.
    #[track_caller]
    pub fn copy(&self, buffer: &GpuBuffer) -> GpuBuffer {
        assert!(buffer.gpu().same(self), "copy: a buffer of another GPU");
        if let Err(error) = buffer.check() {
            return self.buffer(buffer.len(), Err(error));
        }
        let copy = self.output(buffer.len());
        let mut state = self.state();
        let batch = state.batch.number;
        if let (Some(from), Some(to)) = (&mut *buffer.slot(), &mut *copy.slot()) {
            (from.batch, to.batch) = (batch, batch);
            state.batch.copy(&self.0.device, &from.buffer, &to.buffer, (4 * buffer.len()) as u64);
        }
        self.keep_in_bounds(state);
        copy
    }

    /// Records a launch of `kernel`.
    ///
    /// `overrides` sets its override constants. `inputs` may repeat a buffer; an output may be neither an input nor
    /// repeated (a kernel that updates in place has its operand among the outputs only). `uniform` is at most 64
    /// words, floats as their bits.
    ///
    /// An error marks the outputs, see the module's documentation. Errors are: the kernel does not compile; it needs
    /// other bindings, more workgroup memory or a longer uniform than it is given; an input is marked.
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
        let name = kernel.name();
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
        }
    }

    /// Compiles `kernel` for launches with these overrides and numbers of buffers, and returns compile errors at once.
    /// Without this call, the first launch compiles the kernel. In a browser a compile error is no result of this call:
    /// it makes the device fail later.
    ///
    /// # Errors
    /// [`Error::Gpu`] with the kernel's name: the shader does not compile, or it and the kernel differ (bindings, workgroup
    /// size, workgroup memory, overrides). [`Error::TooLarge`] if the device cannot run it. As [`Gpu::check`].
    pub fn prepare(
        &self,
        kernel: &Kernel,
        overrides: &[(&'static str, f64)],
        inputs: usize,
        outputs: usize,
    ) -> Result<()> {
        self.check()?;
        self.within_limits(kernel, inputs + outputs)?;
        let compiled = self.state().pipelines.pipeline(&self.0.device, kernel, overrides, inputs, outputs);
        compiled.map(drop).map_err(|error| self.0.failure.explain(error))
    }

    /// Submits everything recorded. Waits only while too much is running.
    pub fn flush(&self) {
        let mut state = self.state();
        self.submit_recorded(&mut state);
        self.keep_in_bounds(state);
    }

    /// The time that each kernel has run since the last call, the longest first. Empty unless [`GpuOptions::profile`]
    /// was set.
    pub fn take_times(&self) -> Vec<KernelTime> {
        let mut state = self.state();
        self.submit_recorded(&mut state);
        state.batch.profile.as_mut().map_or(Vec::new(), |profile| profile.take())
    }

    /// Gives unused memory of the pool back to the driver.
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
        self.0.failure.check()?;
        for buffer in bound {
            buffer.check()?;
        }
        self.within_limits(kernel, bound.len())?;
        let groups = match size {
            Size::Threads(threads) => threads.div_ceil(kernel.workgroup_size() as usize),
            Size::Groups(groups) => groups,
        };
        let groups = fold(groups, kernel.workgroup_size(), self.0.limits.max_compute_workgroups_per_dimension)
            .ok_or_else(|| Error::TooLarge(format!("{}: a launch of {groups} workgroups", kernel.name())))?;

        let device = &self.0.device;
        let mut guard = self.state();
        let state = &mut *guard;
        let compiled = state.pipelines.pipeline(device, kernel, overrides, inputs, bound.len() - inputs)?;
        let lengths = bound.iter().map(|buffer| 4 * buffer.len().max(1) as u64);
        let fits = compiled.needs.check(lengths, uniform);
        fits.map_err(|what| Error::Gpu(format!("{}: {what}", kernel.name())))?;
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
        let pipeline = &compiled.pipeline;
        state.batch.dispatch(device, kernel.name(), pipeline, &group, &state.uniform_group, uniform, groups);
        self.0.launches.fetch_add(1, Ordering::Relaxed);
        self.keep_in_bounds(guard);
        Ok(())
    }

    /// Refuses what the driver would not, or not clearly.
    fn within_limits(&self, kernel: &Kernel, bindings: usize) -> Result<()> {
        let limits = &self.0.limits;
        let checks = [
            ("bindings", bindings as u32, limits.max_storage_buffers_per_shader_stage),
            ("invocations per workgroup", kernel.workgroup_size(), limits.max_compute_invocations_per_workgroup),
            ("bytes of workgroup memory", kernel.workgroup_memory(), limits.max_compute_workgroup_storage_size),
        ];
        for (what, needed, limit) in checks {
            if needed > limit {
                let name = kernel.name();
                return Err(Error::TooLarge(format!("{name}: {needed} {what}, {} has {limit}", self.adapter())));
            }
        }
        Ok(())
    }

    /// A free or new buffer of the driver for `len` floats.
    fn take_slot(&self, state: &mut State, len: usize) -> Result<Slot> {
        let limits = &self.0.limits;
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let bytes = (len as u64).checked_mul(4).filter(|&bytes| bytes <= largest).ok_or_else(|| {
            let mib = |floats: f64| floats * 4.0 / f64::from(1 << 20);
            Error::TooLarge(format!(
                "a tensor of {:.1} MiB; {} binds at most {:.1} MiB",
                mib(len as f64),
                self.adapter(),
                mib(largest as f64 / 4.0)
            ))
        })?;
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
                self.submit_recorded(state);
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

    /// Submits everything recorded, if anything.
    fn submit_recorded(&self, state: &mut State) -> Option<wgpu::SubmissionIndex> {
        let index = state.batch.submit(&self.0.device, &self.0.queue)?;
        self.0.submissions.fetch_add(1, Ordering::Relaxed);
        Some(index)
    }

    /// Submits a full batch and, where that is possible, waits while too much is under way.
    fn keep_in_bounds(&self, mut state: MutexGuard<State>) {
        if state.batch.is_full() {
            self.submit_recorded(&mut state);
        }
        if cfg!(target_arch = "wasm32") {
            return;
        }
        let behind = state.too_far(0);
        drop(state);
        if let Some(behind) = behind {
            // A loss is noted by `wait` and reported by whatever is called next.
            let _ = self.wait(&behind.index);
        }
    }

    /// Records the copy of `buffer` into `staging` and submits everything.
    fn copy_out(&self, buffer: &GpuBuffer, staging: &wgpu::Buffer, bytes: u64) -> Result<wgpu::SubmissionIndex> {
        let mut state = self.state();
        if let Some(slot) = &*buffer.slot() {
            state.batch.copy(&self.0.device, &slot.buffer, staging, bytes);
        }
        let submitted = self.submit_recorded(&mut state);
        self.0.read_backs.fetch_add(1, Ordering::Relaxed);
        self.0.failure.check()?;
        submitted.ok_or_else(|| Error::Gpu("read-back: nothing was submitted".into()))
    }

    fn buffer(&self, len: usize, slot: Result<Slot>) -> GpuBuffer {
        let poison = OnceLock::new();
        let slot = slot.map_err(|error| poison.get_or_init(|| error).clone()).ok();
        GpuBuffer(Arc::new(BufferInner { gpu: self.clone(), len, slot: Mutex::new(slot), poison }))
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

/// An array of `f32` in the memory of a [`Gpu`]. Cloning shares it; dropping the last clone returns the memory to the
/// pool.
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

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The GPU that it is on.
    pub fn gpu(&self) -> &Gpu {
        &self.0.gpu
    }

    /// Whether this is the only clone, so that the buffer may be updated in place.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Whether the content is valid, as far as is known without waiting.
    ///
    /// # Errors
    /// The error of its allocation or of the launches that computed it, at every call.
    pub fn check(&self) -> Result<()> {
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
    // In a browser the verdict comes later: there the handler of uncaptured errors notes it, and the device has failed.
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
