//! What goes through grids of runs: the examples' own code, silent here.
#![allow(dead_code, unused_imports, reason = "merging uses a part of it")]

#[path = "../../examples/support/files.rs"]
pub mod files;
#[path = "../../examples/support/progress.rs"]
pub mod progress;
#[path = "../../examples/support/runner/mod.rs"]
pub mod runner;

pub mod say {
    pub fn note(_: impl std::fmt::Display) {}

    pub fn counted(n: u64, noun: &str) -> String {
        format!("{n} {noun}s")
    }
}

pub mod device {
    pub fn name(device: &quarterturn::core::Device) -> String {
        device.to_string()
    }
}
