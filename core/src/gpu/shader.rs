//! What a shader asks of its launches, read from its source before the driver sees it. So a launch that does not fit
//! is an error of that launch, with the kernel's name; from the driver it would be one of the whole batch. Not in
//! browsers, which check all this themselves.

use super::{Checks, Kernel};
use wgpu::naga::{
    AddressSpace, GlobalVariable, Module, ShaderStage, StorageAccess, TypeInner,
    back::pipeline_constants::process_overrides,
    front::wgsl,
    valid::{Capabilities, ModuleInfo, ValidationFlags, Validator},
};

/// A source that is sound in itself.
pub(super) struct Shader {
    module: Module,
    info: ModuleInfo,
}

/// What a launch must give one entry point.
pub(super) struct Needs {
    /// Least bytes of each buffer.
    buffers: Vec<u64>,
    /// Least bytes of the uniform.
    uniform: u64,
}

impl Shader {
    pub fn parse(kernel: &Kernel) -> Result<Self, String> {
        let source = kernel.source();
        let module = wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
        // Which capabilities there are, the device knows. But no check holds a cooperative matrix within its buffer.
        let unsafe_ones =
            if kernel.checks() == Checks::None { Capabilities::empty() } else { Capabilities::COOPERATIVE_MATRIX };
        let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all() - unsafe_ones);
        let info = validator.validate(&module).map_err(|error| error.emit_to_string(source))?;
        Ok(Shader { module, info })
    }

    /// Compares the kernel with its entry point for these bindings, and says what else a launch must give it.
    pub fn needs(
        &self,
        kernel: &Kernel,
        overrides: &[(&'static str, f64)],
        inputs: usize,
        outputs: usize,
    ) -> Result<Needs, String> {
        let known =
            |entry: &&wgpu::naga::EntryPoint| entry.name == kernel.name() && entry.stage == ShaderStage::Compute;
        if self.module.entry_points.iter().find(known).is_none() {
            let names: Vec<_> = self.module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
            return Err(format!("expected a compute entry point of this name, found {names:?}"));
        }
        let constants = overrides.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        let entry = Some((ShaderStage::Compute, kernel.name()));
        let (module, info) =
            process_overrides(&self.module, &self.info, entry, &constants).map_err(|error| error.to_string())?;
        let index = module.entry_points.iter().position(|entry| known(&entry)).ok_or("no entry point is left")?;
        let size = module.entry_points[index].workgroup_size.iter().map(|&n| u64::from(n)).product::<u64>();
        if size != u64::from(kernel.workgroup_size()) {
            return Err(format!(
                "stated are {} invocations per workgroup, its source has {size}",
                kernel.workgroup_size()
            ));
        }

        let mut needs = Needs { buffers: vec![0; inputs + outputs], uniform: 0 };
        let mut memory = 0;
        let used =
            module.global_variables.iter().filter(|(handle, _)| !info.get_entry_point(index)[*handle].is_empty());
        for (_, variable) in used {
            let bytes = least_bytes(&module, variable);
            match (variable.space, variable.binding.map(|binding| (binding.group, binding.binding as usize))) {
                (AddressSpace::Storage { access }, Some((0, binding))) => {
                    let Some(buffer) = needs.buffers.get_mut(binding) else {
                        return Err(format!(
                            "it has a binding {binding}; the launch has {inputs} inputs and {outputs} outputs"
                        ));
                    };
                    let written = access.contains(StorageAccess::STORE);
                    if written != (binding >= inputs) {
                        let [shader, launch] = [written, !written].map(|w| if w { "read_write" } else { "read" });
                        return Err(format!(
                            "binding {binding} is {shader}; of {inputs} inputs and {outputs} outputs it is {launch}"
                        ));
                    }
                    *buffer = bytes.max(*buffer);
                }
                (AddressSpace::Uniform, Some((1, 0))) => needs.uniform = bytes,
                (AddressSpace::WorkGroup, None) => memory += bytes,
                (AddressSpace::Private, None) => {}
                (space, at) => {
                    return Err(format!(
                        "expected storage in group 0 and a uniform at binding 0 of group 1, got {space:?} at {at:?}"
                    ));
                }
            }
        }
        if memory > u64::from(kernel.workgroup_memory()) {
            let stated = kernel.workgroup_memory();
            return Err(format!("stated are {stated} bytes of workgroup memory, its source has {memory}"));
        }
        Ok(needs)
    }
}

impl Needs {
    /// Whether these lengths of buffers in bytes, and this uniform, are enough.
    pub fn check(&self, buffers: impl Iterator<Item = u64>, uniform: &[u32]) -> Result<(), String> {
        for (i, (&needed, bytes)) in self.buffers.iter().zip(buffers).enumerate() {
            if bytes < needed {
                return Err(format!("binding {i} has at least {needed} bytes, its buffer {bytes}"));
            }
        }
        let bytes = size_of_val(uniform) as u64;
        if bytes < self.uniform {
            return Err(format!("its uniform has {} bytes, the launch gives it {bytes}", self.uniform));
        }
        Ok(())
    }
}

/// Bytes of a variable, with one element of an array that has no length of its own, and without what pads its end.
fn least_bytes(module: &Module, variable: &GlobalVariable) -> u64 {
    let size = |ty| u64::from(module.types[ty].inner.size(module.to_ctx()));
    match &module.types[variable.ty].inner {
        TypeInner::Struct { members, .. } if variable.space == AddressSpace::Uniform => {
            members.last().map_or(0, |last| u64::from(last.offset) + size(last.ty))
        }
        _ => size(variable.ty),
    }
}
