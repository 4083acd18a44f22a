//! Measures with criterion, and prints a table beside the peak that the processor reached in the same run.

use criterion::{Criterion, Throughput};
use quarterturn::kernels::{Isa, peak_flops};
use std::{fs, path::PathBuf};

/// The measurements of one run.
pub struct Report {
    /// Benchmark id and operations per iteration.
    rows: Vec<(String, f64)>,
    peak: f64,
}

impl Report {
    /// An empty report.
    pub fn new() -> Self {
        Report { rows: Vec::new(), peak: peak_flops() }
    }

    /// Runs a benchmark of `flops` operations per iteration.
    pub fn measure(&mut self, criterion: &mut Criterion, id: &str, flops: f64, mut run: impl FnMut()) {
        let mut group = criterion.benchmark_group(id);
        group.throughput(Throughput::Elements(flops as u64)).sample_size(20);
        group.bench_function("time", |b| b.iter(&mut run));
        group.finish();
        // Other work can slow a measurement of the peak, but nothing can make it too fast.
        self.peak = self.peak.max(peak_flops());
        self.rows.push((id.to_string(), flops));
    }

    /// Prints a row for each benchmark that has been measured, in this run or before.
    pub fn print(&self) {
        let threads = rayon::current_num_threads();
        println!("\npeak {:.0} GFLOP/s: {threads} threads, {}", self.peak / 1e9, Isa::current());
        println!("{:<60} {:>9} {:>9} {:>7}", "id", "ms", "GFLOP/s", "of peak");
        for (id, flops) in &self.rows {
            if let Some(seconds) = median(id) {
                let rate = flops / seconds;
                println!("{id:<60} {:>9.3} {:>9.1} {:>7.2}", seconds * 1e3, rate / 1e9, rate / self.peak);
            }
        }
    }
}

/// The median in seconds, from the file that criterion leaves.
fn median(id: &str) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let file = target.join("criterion").join(id.replace('/', "_")).join("time/new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    Some(estimates["median"]["point_estimate"].as_f64()? / 1e9)
}
