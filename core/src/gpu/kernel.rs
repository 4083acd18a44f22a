//! GPU kernels: WGSL source and entry point.

/// A GPU kernel: a WGSL source and the name of an entry point in it.
///
/// Bindings: group 0 holds the inputs (`var<storage, read>`) from 0 in argument order, then the outputs
/// (`var<storage, read_write>`); group 1, binding 0 is the uniform. The shader finds its place with the linear index
/// `(workgroup_id.y · num_workgroups.x + workgroup_id.x) · workgroup size + local_invocation_index`, since a launch
/// of many groups is folded into y.
///
/// Any shader may be launched safely. If it does not compile, or needs other bindings than the launch gives it, that is
/// an error (see [`Gpu::prepare`](super::Gpu::prepare)). Bounds checks keep it within its buffers. A shader that never
/// ends occupies the GPU until the driver stops it; the device is then lost.
///
/// ```
/// use quarterturn_core::gpu::{Kernel, Size};
///
/// const SQUARE: Kernel = Kernel::new(
///     "square",
///     "@group(0) @binding(0) var<storage, read> x: array<f32>;
///     @group(0) @binding(1) var<storage, read_write> y: array<f32>;
///     @compute @workgroup_size(64)
///     fn square(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
///               @builtin(local_invocation_index) lane: u32) {
///         let i = (group.y * groups.x + group.x) * 64u + lane;
///         if (i < arrayLength(&x)) { y[i] = x[i] * x[i]; }
///     }",
/// );
/// # fn main() -> quarterturn_core::Result<()> {
/// # let Some(gpu) = quarterturn_core::testing::gpu() else { return Ok(()) };
/// gpu.prepare(&SQUARE, &[], 1, 1)?;
/// let x = gpu.upload(&[1.0, 2.0, 3.0])?;
/// let y = gpu.alloc(x.len())?;
/// gpu.launch(&SQUARE, &[], &[&x], &[&y], &[], Size::Threads(x.len()));
/// assert_eq!(y.read()?, [1.0, 4.0, 9.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    name: &'static str,
    source: &'static str,
    workgroup_size: u32,
    workgroup_memory: u32,
    checks: Checks,
}

/// The safety checks that are compiled into a shader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checks {
    /// Indices are clamped to their arrays, a counter ends each loop, and workgroup memory begins as zeros.
    All,
    /// Indices are clamped to their arrays.
    Bounds,
    /// No checks.
    None,
}

impl Kernel {
    /// A kernel of 64 invocations per workgroup without workgroup memory, with all [`Checks`].
    pub const fn new(name: &'static str, source: &'static str) -> Self {
        Kernel { name, source, workgroup_size: 64, workgroup_memory: 0, checks: Checks::All }
    }

    /// The same kernel with workgroups of `size` invocations and `memory` bytes of `var<workgroup>`.
    ///
    /// # Panics
    /// If `size` is 0.
    #[track_caller]
    pub const fn workgroup(self, size: u32, memory: u32) -> Self {
        assert!(size > 0, "Kernel::workgroup: expected at least one invocation, got 0");
        Kernel { workgroup_size: size, workgroup_memory: memory, ..self }
    }

    /// The same kernel with fewer checks, where these cost too much time.
    ///
    /// # Safety
    /// This must hold for the source, whatever values buffers and uniform have. Without [`Checks::All`]: every loop
    /// ends by itself, and workgroup memory is written before it is read. With [`Checks::None`], also: no index lies
    /// outside of its array.
    pub const unsafe fn with_checks(self, checks: Checks) -> Self {
        Kernel { checks, ..self }
    }

    /// The entry point's name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The whole shader.
    pub const fn source(&self) -> &'static str {
        self.source
    }

    /// Invocations in a workgroup.
    pub const fn workgroup_size(&self) -> u32 {
        self.workgroup_size
    }

    /// Bytes of `var<workgroup>` in a workgroup.
    pub const fn workgroup_memory(&self) -> u32 {
        self.workgroup_memory
    }

    pub(super) const fn checks(&self) -> Checks {
        self.checks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "expected at least one invocation, got 0")]
    fn a_workgroup_of_nobody_is_refused() {
        let _ = Kernel::new("none", "").workgroup(0, 0);
    }
}
