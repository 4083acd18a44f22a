//! Shaders, compiled when first launched, and the bind groups of buffers seen before.

use super::{
    cache::DiskCache,
    caught,
    kernel::{Checks, Kernel},
    shader::{Needs, Shader},
};
use crate::{Error, Result};
use std::{collections::HashMap, sync::Arc};

/// Bind groups kept; a training step uses a few hundred.
const KEPT_BIND_GROUPS: usize = 8192;
/// Bytes of the uniform that a launch can pass.
pub(super) const UNIFORM_BYTES: usize = 256;

/// A source, by its address and length, and what is compiled into it.
type ModuleKey = (usize, usize, Checks);

/// Which compiled pipeline: the module, the entry point, what its kernel states of workgroups, its bindings, and the
/// values of its overrides.
#[derive(PartialEq, Eq, Hash)]
struct PipelineKey {
    module: ModuleKey,
    name: &'static str,
    workgroup: (u32, u32),
    bindings: (usize, usize),
    overrides: Vec<(&'static str, u64)>,
}

/// Bindings of a launch: how many are inputs, and each buffer's id and length in bytes.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct BindKey {
    pub inputs: usize,
    pub buffers: Vec<(u64, u64)>,
}

/// A source as the driver has it, and as it was read.
#[derive(Clone)]
struct Module {
    compiled: wgpu::ShaderModule,
    shader: Arc<Shader>,
}

/// A compiled entry point, and what its launches must give it.
pub(super) struct Compiled {
    pub pipeline: wgpu::ComputePipeline,
    pub needs: Needs,
}

/// Everything compiled or assembled so far.
pub(super) struct Pipelines {
    uniform_layout: wgpu::BindGroupLayout,
    layouts: HashMap<(usize, usize), (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    modules: HashMap<ModuleKey, Module>,
    pipelines: HashMap<PipelineKey, Arc<Compiled>>,
    bind_groups: HashMap<BindKey, wgpu::BindGroup>,
    /// Where pipelines outlive this process, if they do.
    pub disk: Option<DiskCache>,
}

impl Pipelines {
    pub fn new(device: &wgpu::Device, disk: Option<DiskCache>) -> Self {
        let uniform_layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("uniform"),
            entries: &[entry(0, wgpu::BufferBindingType::Uniform)],
        });
        Pipelines {
            uniform_layout,
            layouts: HashMap::new(),
            modules: HashMap::new(),
            pipelines: HashMap::new(),
            bind_groups: HashMap::new(),
            disk,
        }
    }

    /// The bind group of the uniform's buffer, one slot of which each launch selects by its dynamic offset.
    pub fn bind_uniform(&self, device: &wgpu::Device, buffer: &wgpu::Buffer) -> wgpu::BindGroup {
        let binding = wgpu::BufferBinding { buffer, offset: 0, size: wgpu::BufferSize::new(UNIFORM_BYTES as u64) };
        device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("uniform"),
            layout: &self.uniform_layout,
            entries: &[wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }],
        })
    }

    fn layout(
        &mut self,
        device: &wgpu::Device,
        inputs: usize,
        outputs: usize,
    ) -> &(wgpu::BindGroupLayout, wgpu::PipelineLayout) {
        self.layouts.entry((inputs, outputs)).or_insert_with(|| {
            let entries: Vec<_> = (0..inputs + outputs)
                .map(|i| entry(i as u32, wgpu::BufferBindingType::Storage { read_only: i < inputs }))
                .collect();
            let group =
                device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
            let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&group), Some(&self.uniform_layout)],
                immediate_size: 0,
            });
            (group, pipeline)
        })
    }

    /// The compiled kernel, from the cache or the driver.
    pub fn pipeline(
        &mut self,
        device: &wgpu::Device,
        kernel: &Kernel,
        overrides: &[(&'static str, f64)],
        inputs: usize,
        outputs: usize,
    ) -> Result<Arc<Compiled>> {
        let source = kernel.source();
        let key = PipelineKey {
            module: (source.as_ptr() as usize, source.len(), kernel.checks()),
            name: kernel.name(),
            workgroup: (kernel.workgroup_size(), kernel.workgroup_memory()),
            bindings: (inputs, outputs),
            overrides: overrides.iter().map(|&(name, value)| (name, value.to_bits())).collect(),
        };
        if let Some(compiled) = self.pipelines.get(&key) {
            return Ok(compiled.clone());
        }
        let refused = |what: String| Error::Gpu(format!("{}: {what}", kernel.name()));
        let named = |error| match error {
            Error::Gpu(message) => refused(message),
            other => other,
        };
        let module = match self.modules.get(&key.module) {
            Some(module) => module.clone(),
            None => {
                let shader = Arc::new(Shader::parse(kernel).map_err(refused)?);
                let compiled = caught(device, || compile(device, kernel)).map_err(named)?;
                self.modules.entry(key.module).or_insert(Module { compiled, shader }).clone()
            }
        };
        let needs = module.shader.needs(kernel, overrides, inputs, outputs).map_err(refused)?;
        let layout = self.layout(device, inputs, outputs).1.clone();
        let pipeline = caught(device, || {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name()),
                layout: Some(&layout),
                module: &module.compiled,
                entry_point: Some(kernel.name()),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: overrides,
                    zero_initialize_workgroup_memory: kernel.checks() == Checks::All,
                },
                cache: self.disk.as_ref().map(|disk| &disk.cache),
            })
        });
        let compiled = Arc::new(Compiled { pipeline: pipeline.map_err(named)?, needs });
        self.pipelines.insert(key, compiled.clone());
        Ok(compiled)
    }

    /// The bind group of these buffers, given with their lengths in bytes; the first `inputs` are read only.
    pub fn bind(&mut self, device: &wgpu::Device, key: BindKey, buffers: &[&wgpu::Buffer]) -> Result<wgpu::BindGroup> {
        if let Some(group) = self.bind_groups.get(&key) {
            return Ok(group.clone());
        }
        if self.bind_groups.len() >= KEPT_BIND_GROUPS {
            self.bind_groups.clear();
        }
        let layout = self.layout(device, key.inputs, buffers.len() - key.inputs).0.clone();
        let entries: Vec<_> = buffers
            .iter()
            .zip(&key.buffers)
            .enumerate()
            .map(|(i, (buffer, &(_, bytes)))| wgpu::BindGroupEntry {
                binding: i as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: 0,
                    size: wgpu::BufferSize::new(bytes),
                }),
            })
            .collect();
        let group = caught(device, || {
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries })
        })?;
        self.bind_groups.insert(key, group.clone());
        Ok(group)
    }

    /// Forgets the bind groups, which hold on to their buffers.
    pub fn forget_bind_groups(&mut self) {
        self.bind_groups.clear();
    }

    #[cfg(test)]
    pub fn modules(&self) -> usize {
        self.modules.len()
    }

    /// Compiled pipelines.
    pub fn compiled(&self) -> usize {
        self.pipelines.len()
    }
}

/// Has the driver compile the kernel's source, with the kernel's checks.
fn compile(device: &wgpu::Device, kernel: &Kernel) -> wgpu::ShaderModule {
    let source = wgpu::ShaderSource::Wgsl(kernel.source().into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name()), source };
    let mut checks = wgpu::ShaderRuntimeChecks::checked();
    checks.bounds_checks = kernel.checks() != Checks::None;
    checks.force_loop_bounding = kernel.checks() == Checks::All;
    // SAFETY: who left checks out has vouched for the source, see `Kernel::with_checks`.
    unsafe { device.create_shader_module_trusted(descriptor, checks) }
}

fn entry(binding: u32, ty: wgpu::BufferBindingType) -> wgpu::BindGroupLayoutEntry {
    let has_dynamic_offset = ty == wgpu::BufferBindingType::Uniform;
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}
