//! Which GPU to use, and opening it.

use super::{Gpu, MatrixUnits, TensorCores, cache::DiskCache, failure::Failure, from_wgpu, profile::Profile};
use crate::{Error, Result};
use std::{env, fmt, path::PathBuf, sync::Arc};

/// The environment variable that chooses the adapter.
const CHOICE: &str = "QUARTERTURN_GPU";
/// The environment variable that names a file for compiled pipelines.
const PIPELINES: &str = "QUARTERTURN_PIPELINE_CACHE";

/// How to open a [`Gpu`].
#[derive(Clone, Debug, Default)]
pub struct GpuOptions {
    /// Part of the adapter's name, in any case, or `software` for one that computes on the CPU (lavapipe, WARP).
    /// `None` asks the environment variable `QUARTERTURN_GPU`, then takes the fastest kind of real GPU; a software
    /// adapter is never taken unasked.
    pub adapter: Option<String>,
    /// Of several adapters that are equally good, the one of this number, from 0; behind the last, the first again. So processes of one
    /// machine take a GPU each.
    pub number: usize,
    /// Most bytes of GPU memory to hold; beyond that, allocations fail with [`Error::OutOfMemory`].
    pub memory_limit: Option<u64>,
    /// Time every kernel: see [`Gpu::take_times`]. The runtime then waits for each batch of launches, so everything is
    /// slower.
    pub profile: bool,
    /// Whether convolutions may use units for small matrix products (CUDA: tensor cores), where the GPU has some.
    pub tensor_cores: TensorCores,
    /// A file in which compiled pipelines are kept from one process to the next; none by default. `None` asks the environment variable
    /// `QUARTERTURN_PIPELINE_CACHE`. The file is read here, and written by [`Gpu::save_pipelines`] and when the last clone of
    /// this GPU is dropped. It is ignored, and the reason logged, if it is broken or of another adapter or driver, or if the driver
    /// keeps no pipelines (only Vulkan does). The driver trusts what it holds: name a place where only you can write.
    pub pipeline_cache: Option<PathBuf>,
}

/// An adapter: a GPU as one of its drivers offers it.
#[derive(Clone, Debug)]
pub struct AdapterDescription {
    /// The adapter's name, as its driver gives it.
    pub name: String,
    /// The interface through which it is used, such as Vulkan.
    pub backend: String,
    /// Whether it is a software driver, which computes on the CPU.
    pub software: bool,
}

impl AdapterDescription {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let software = info.device_type == wgpu::DeviceType::Cpu
            // Not every driver owns up to it.
            || ["llvmpipe", "swiftshader", "basic render"].iter().any(|s| info.name.to_lowercase().contains(s));
        // Browsers need not tell.
        let name = if info.name.is_empty() { "unnamed adapter".into() } else { info.name };
        AdapterDescription { name, backend: info.backend.to_string(), software }
    }

    fn is(&self, wanted: &str) -> bool {
        let wanted = wanted.to_lowercase();
        wanted == "software" && self.software || self.name.to_lowercase().contains(&wanted)
    }
}

impl fmt::Display for AdapterDescription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}{}", self.name, self.backend, if self.software { ", software" } else { "" })
    }
}

impl Gpu {
    /// Opens a GPU; blocks until it is there. In a browser use [`Gpu::open_async`].
    ///
    /// # Errors
    /// [`Error::NoGpu`] when there is none of the wanted kind, [`Error::Gpu`] when the driver refuses to open it, or cannot
    /// time kernels and should.
    pub fn open(options: &GpuOptions) -> Result<Gpu> {
        if cfg!(target_arch = "wasm32") {
            return Err(Error::NoGpu("a browser cannot wait for one: open it with `Gpu::open_async`".into()));
        }
        pollster::block_on(Self::open_async(options))
    }

    /// Opens a GPU without blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_async(options: &GpuOptions) -> Result<Gpu> {
        let wanted = options.adapter.clone().or_else(|| env::var(CHOICE).ok()).filter(|name| !name.is_empty());
        let adapter = choose(wanted.as_deref(), options.number).await?;
        let description = AdapterDescription::of(&adapter);
        // All that the adapter has, so that a tensor may be as large as the hardware allows.
        let limits = adapter.limits();
        let mut features = if options.profile { Profile::FEATURES } else { wgpu::Features::empty() };
        if !adapter.features().contains(features) {
            return Err(Error::Gpu(format!("{description} has no clock to time kernels by")));
        }
        let cache = options.pipeline_cache.clone().or_else(|| env::var_os(PIPELINES).map(PathBuf::from));
        let cache = cache.filter(|path| !path.as_os_str().is_empty());
        if cache.is_some() {
            features |= adapter.features() & DiskCache::FEATURES;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("quarterturn"),
            required_limits: limits,
            required_features: features,
            ..Default::default()
        };
        let mut units = MatrixUnits::of(&adapter).filter(|_| options.tensor_cores != TensorCores::Off);
        let mut opened = match units {
            Some(_) => adapter.request_device(&with_matrix_units(&descriptor)).await,
            None => adapter.request_device(&descriptor).await,
        };
        if let (Some(_), Err(error)) = (units, &opened) {
            log::warn!("{description} cannot be opened with its matrix units, which are not used: {error}");
            units = None;
            opened = adapter.request_device(&descriptor).await;
        }
        let (device, queue) = opened.map_err(|e| Error::Gpu(format!("{description} cannot be opened: {e}")))?;

        let failure = Arc::new(Failure::default());
        let on_error = failure.clone();
        device.on_uncaptured_error(Arc::new(move |error| on_error.record(from_wgpu(error))));
        let on_loss = failure.clone();
        device.set_device_lost_callback(move |_, message| on_loss.lose(&message));
        let cache = cache.and_then(|path| DiskCache::open(&device, &adapter.get_info(), &path));
        Ok(Gpu::new(device, queue, description, failure, units, options, cache))
    }

    /// Every adapter of this machine, software included.
    pub async fn adapters() -> Vec<AdapterDescription> {
        instance().enumerate_adapters(wgpu::Backends::all()).await.iter().map(AdapterDescription::of).collect()
    }
}

/// The same, to use [`MatrixUnits`] as well.
fn with_matrix_units<'a>(descriptor: &wgpu::DeviceDescriptor<'a>) -> wgpu::DeviceDescriptor<'a> {
    wgpu::DeviceDescriptor {
        required_features: descriptor.required_features | MatrixUnits::FEATURES,
        // SAFETY: this takes note that experimental features may have bugs. The only one that is enabled is that of matrix
        // units. `Shader::parse` refuses it to every kernel that nobody has vouched for.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..descriptor.clone()
    }
}

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

/// The best adapter that may be used: what `wanted` names, else the fastest kind of real GPU; of several, that of this number.
async fn choose(wanted: Option<&str>, number: usize) -> Result<wgpu::Adapter> {
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let all = instance().enumerate_adapters(wgpu::Backends::all()).await;
    let names: Vec<String> = all.iter().map(|a| AdapterDescription::of(a).to_string()).collect();
    let fitting = all.into_iter().filter(|adapter| {
        let description = AdapterDescription::of(adapter);
        wanted.map_or(!description.software, |name| description.is(name))
    });
    let fitting: Vec<_> = fitting.collect();
    let best = fitting.iter().min_by_key(|adapter| rank(adapter)).map(|best| (rank(best), best.get_info().backend));
    // A GPU may be there once for each interface that it is reached through.
    let alike = fitting.into_iter().filter(|adapter| Some((rank(adapter), adapter.get_info().backend)) == best);
    let mut alike: Vec<_> = alike.collect();
    let chosen = (!alike.is_empty()).then(|| alike.swap_remove(number % alike.len()));
    chosen.ok_or_else(|| {
        let found = if names.is_empty() { "found none".into() } else { format!("found {}", names.join("; ")) };
        Error::NoGpu(match wanted {
            Some("software") => format!("there is no software adapter; {found}"),
            Some(name) => format!("no adapter is named '{name}'; {found}"),
            None if names.is_empty() => found,
            // A browser has no environment variables.
            None if cfg!(target_arch = "wasm32") => format!("{found}; it is used where `GpuOptions` name it"),
            None => format!("{found}; {CHOICE}=software uses it"),
        })
    })
}
