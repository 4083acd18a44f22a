//! A browser checks shaders and launches itself, and what it refuses makes the device fail.

use super::Kernel;

/// Stands for what elsewhere is read from a source.
pub(super) struct Shader;

pub(super) struct Needs;

impl Shader {
    pub fn parse(_: &Kernel) -> Result<Self, String> {
        Ok(Shader)
    }

    pub fn needs(&self, _: &Kernel, _: &[(&'static str, f64)], _: usize, _: usize) -> Result<Needs, String> {
        Ok(Needs)
    }
}

impl Needs {
    pub fn check(&self, _: impl Iterator<Item = u64>, _: &[u32]) -> Result<(), String> {
        Ok(())
    }
}
