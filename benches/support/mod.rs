//! Measures with criterion on every device, and prints a table beside the peak that the device reached in the same run.

use criterion::{Criterion, Throughput};
#[cfg(feature = "gpu")]
use quarterturn::{
    core::gpu::{Gpu, GpuOptions, TensorCores},
    kernels::gpu_peak_flops,
};
use quarterturn::{
    core::{Device, Shape, Stream, Tensor},
    kernels::{Isa, peak_flops},
};
use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

/// Takes all measurements of a bench, on each of [`devices`].
pub fn on_every_device(measure: impl Fn(&Device, &mut Criterion)) {
    let mut criterion = Criterion::default().configure_from_args();
    for device in devices() {
        measure(&device, &mut criterion);
    }
    criterion.final_summary();
}

/// What to measure on: the CPU and, if there is one, a GPU. A software adapter is not timed, it shows nothing; with
/// `--test`, where criterion times nothing either, `QUARTERTURN_GPU=software` takes it. With `QUARTERTURN_PROFILE=1` a
/// GPU also says how long each kernel takes. `QUARTERTURN_ISA=avx2`, say, has the CPU compute with that instruction set in place
/// of its best one.
fn devices() -> Vec<Device> {
    choose_isa();
    #[cfg(feature = "gpu")]
    match Gpu::open(&GpuOptions { profile: profiled(), ..GpuOptions::default() }) {
        Ok(gpu) if gpu.adapter().software && !untimed() => {
            eprintln!("note: {gpu} is not timed: the ids that end in /gpu are left out");
        }
        Ok(gpu) => return vec![Device::Cpu, Device::Gpu(gpu)],
        Err(error) => eprintln!("note: {error}: the ids that end in /gpu are left out"),
    }
    vec![Device::Cpu]
}

/// The same GPU opened once more, with this use of tensor cores.
#[cfg(feature = "gpu")]
#[allow(dead_code, reason = "only one bench asks for it")]
pub fn reopened(gpu: &Gpu, tensor_cores: TensorCores) -> Gpu {
    let adapter = Some(gpu.adapter().name.clone());
    Gpu::open(&GpuOptions { adapter, profile: profiled(), tensor_cores, ..GpuOptions::default() })
        .expect("it was opened before")
}

fn choose_isa() {
    let Ok(wanted) = std::env::var("QUARTERTURN_ISA") else { return };
    let known = Isa::available();
    match known.iter().find(|isa| isa.to_string() == wanted) {
        Some(&isa) => Isa::choose(isa),
        None => {
            let names: Vec<String> = known.iter().map(Isa::to_string).collect();
            eprintln!("QUARTERTURN_ISA={wanted}: this processor has {}", names.join(", "));
            std::process::exit(2);
        }
    }
}

/// Whether criterion runs everything once and times nothing.
pub fn untimed() -> bool {
    std::env::args().any(|arg| arg == "--test")
}

/// Whether the time of each kernel is asked for.
#[cfg(feature = "gpu")]
fn profiled() -> bool {
    std::env::var_os("QUARTERTURN_PROFILE").is_some_and(|value| value != "0")
}

/// The end of an id.
pub fn suffix(device: &Device) -> &'static str {
    if matches!(device, Device::Cpu) { "cpu" } else { "gpu" }
}

/// Uniform on [−½, ½).
pub fn random(shape: impl Into<Shape>, stream: u32, device: &Device) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(1, stream, 0));
    let values = (0..shape.len() as u64).map(|i| stream.uniform(i) - 0.5).collect();
    Tensor::from_vec(shape, values, device).expect("the device holds the operands")
}

/// The measurements of one run on one device.
pub struct Report {
    device: Device,
    /// Benchmark id and operations per iteration.
    rows: Vec<(String, f64)>,
    peak: f64,
}

impl Report {
    /// An empty report.
    pub fn new(device: &Device) -> Self {
        Report { device: device.clone(), rows: Vec::new(), peak: 0.0 }
    }

    /// Runs a benchmark of `flops` operations per iteration, unless the filter of the command line leaves it out; returns
    /// whether it ran.
    pub fn measure(&mut self, criterion: &mut Criterion, id: &str, flops: f64, mut run: impl FnMut()) -> bool {
        let mut group = criterion.benchmark_group(id);
        group.throughput(Throughput::Elements(flops as u64)).sample_size(20);
        let mut measured = false;
        group.bench_function("time", |b| {
            measured = true;
            b.iter_custom(|iterations| self.time(iterations, &mut run));
        });
        group.finish();
        #[cfg(feature = "gpu")]
        if let Device::Gpu(gpu) = &self.device
            && measured
            && profiled()
        {
            print_times(gpu, id, &mut run);
        }
        if measured && !untimed() {
            // Other work can slow a measurement of the peak, but nothing can make it too fast.
            self.peak = self.peak.max(self.measure_peak());
            self.rows.push((id.to_string(), flops));
        }
        measured
    }

    /// The time of some iterations. A GPU gets them all, and is waited for once.
    fn time(&self, iterations: u64, run: &mut impl FnMut()) -> Duration {
        let small = random([64], 1, &self.device);
        self.wait(&small);
        let start = Instant::now();
        for _ in 0..iterations {
            run();
        }
        self.wait(&small);
        start.elapsed()
    }

    /// Returns when the device has done all that it was given.
    fn wait(&self, small: &Tensor) {
        if !matches!(self.device, Device::Cpu) {
            quarterturn::kernels::relu(small).to_vec().expect("the device computes");
        }
    }

    fn measure_peak(&self) -> f64 {
        match &self.device {
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu_peak_flops(gpu).expect("the device computes"),
            _ => peak_flops(),
        }
    }

    /// Prints a row for each benchmark that has been measured.
    pub fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("\npeak {:.0} GFLOP/s: {}", self.peak / 1e9, self.device);
        if matches!(self.device, Device::Cpu) {
            println!("{} threads, {}", rayon::current_num_threads(), Isa::current());
        }
        println!("{:<60} {:>9} {:>9} {:>7}", "id", "ms", "GFLOP/s", "of peak");
        for (id, flops) in &self.rows {
            if let Some(seconds) = median(id) {
                let rate = flops / seconds;
                println!("{id:<60} {:>9.3} {:>9.1} {:>7.2}", seconds * 1e3, rate / 1e9, rate / self.peak);
            }
        }
    }
}

/// Runs a benchmark a few times more, and prints how long each kernel took: by the GPU's clock, with the time stamps between.
#[cfg(feature = "gpu")]
fn print_times(gpu: &Gpu, id: &str, run: &mut impl FnMut()) {
    const RUNS: usize = 10;
    run();
    gpu.take_times();
    (0..RUNS).for_each(|_| run());
    let times = gpu.take_times();
    let total: f64 = times.iter().map(|time| time.seconds).sum();
    let launches: usize = times.iter().map(|time| time.launches).sum();
    println!("\n{id}: {} launches in {:.1} µs", launches / RUNS, total * 1e6 / RUNS as f64);
    println!("{:<24} {:>10} {:>8} {:>10} {:>6}", "kernel", "workgroups", "launches", "µs each", "share");
    for time in times {
        let each = time.seconds / time.launches as f64 * 1e6;
        let (launches, share) = (time.launches / RUNS, 100.0 * time.seconds / total);
        println!("{:<24} {:>10} {launches:>8} {each:>10.1} {share:>5.1}%", time.name, time.workgroups);
    }
}

/// The median in seconds, from the file that criterion leaves.
fn median(id: &str) -> Option<f64> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let file = target.join("criterion").join(id.replace('/', "_")).join("time/new/estimates.json");
    let estimates: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    Some(estimates["median"]["point_estimate"].as_f64()? / 1e9)
}
