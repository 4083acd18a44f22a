//! Shaders, compiled when first launched, and the bind groups of buffers seen before.

use super::caught;
use crate::Result;
use std::collections::HashMap;

/// Bind groups kept; a training step uses a few hundred.
const KEPT_BIND_GROUPS: usize = 8192;
/// Bytes of the uniform that a launch can pass.
pub(super) const UNIFORM_BYTES: usize = 256;

/// An entry point of a WGSL source.
///
/// Bindings: group 0 holds the inputs (`var<storage, read>`) from 0 in argument order, then the outputs
/// (`var<storage, read_write>`); group 1, binding 0 is the uniform. The shader finds its place with the linear index
/// `(workgroup_id.y · num_workgroups.x + workgroup_id.x) · workgroup size + local_invocation_index`, since a launch
/// of many groups is folded into y.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// The entry point's name, also the pipeline's label.
    pub name: &'static str,
    /// The whole shader.
    pub source: &'static str,
    /// Invocations in a workgroup.
    pub workgroup_size: u32,
    /// Bytes of `var<workgroup>`; the driver is not trusted to check them.
    pub workgroup_memory: u32,
    /// Whether indices are clamped to their arrays.
    checked: bool,
}

impl Kernel {
    /// A kernel of 64 invocations per workgroup without workgroup memory.
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Kernel { name, source, workgroup_size: 64, workgroup_memory: 0, checked: true }
    }

    /// The same with workgroups of this size and memory (bytes).
    pub const fn workgroup(self, size: u32, memory: u32) -> Self {
        Kernel { workgroup_size: size, workgroup_memory: memory, ..self }
    }

    /// The same without clamped indices, where these cost a tenth of the time.
    ///
    /// # Safety
    /// All kernels of its source stay within their arrays and buffers, whatever the buffers contain.
    pub const unsafe fn unchecked(self) -> Self {
        Kernel { checked: false, ..self }
    }
}

/// Which compiled pipeline: the source by its address, the entry point, its bindings, and the values of its overrides.
#[derive(PartialEq, Eq, Hash)]
struct PipelineKey {
    source: usize,
    name: &'static str,
    bindings: (usize, usize),
    overrides: Vec<(&'static str, u64)>,
}

/// Bindings of a launch: how many are inputs, and each buffer's id and length in bytes.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct BindKey {
    pub inputs: usize,
    pub buffers: Vec<(u64, u64)>,
}

/// Everything compiled or assembled so far.
pub(super) struct Pipelines {
    uniform_layout: wgpu::BindGroupLayout,
    layouts: HashMap<(usize, usize), (wgpu::BindGroupLayout, wgpu::PipelineLayout)>,
    modules: HashMap<usize, wgpu::ShaderModule>,
    pipelines: HashMap<PipelineKey, wgpu::ComputePipeline>,
    bind_groups: HashMap<BindKey, wgpu::BindGroup>,
}

impl Pipelines {
    pub fn new(device: &wgpu::Device) -> Self {
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
    ) -> Result<wgpu::ComputePipeline> {
        let source = kernel.source.as_ptr() as usize;
        let key = PipelineKey {
            source,
            name: kernel.name,
            bindings: (inputs, outputs),
            overrides: overrides.iter().map(|&(name, value)| (name, value.to_bits())).collect(),
        };
        if let Some(pipeline) = self.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let module = match self.modules.get(&source) {
            Some(module) => module.clone(),
            None => {
                let source = wgpu::ShaderSource::Wgsl(kernel.source.into());
                let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source };
                let mut checks = wgpu::ShaderRuntimeChecks { bounds_checks: kernel.checked, ..Default::default() };
                // What naga counts to bound a loop keeps drivers from unrolling it: a quarter of a convolution's time.
                checks.force_loop_bounding = false;
                // SAFETY: loops end, since they all count up to a bound (`kernels/tests/shaders.rs` holds them to it);
                // and who left the bounds unchecked has vouched for them.
                caught(device, || unsafe { device.create_shader_module_trusted(descriptor, checks) })?
            }
        };
        self.modules.insert(source, module.clone());
        let layout = self.layout(device, inputs, outputs).1.clone();
        let pipeline = caught(device, || {
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(kernel.name),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(kernel.name),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: overrides,
                    // Our kernels write workgroup memory before they read it.
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        })?;
        self.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
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

    /// Compiled pipelines.
    pub fn compiled(&self) -> usize {
        self.pipelines.len()
    }
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
