//! What the first step of a training run costs on a GPU, where the kernels are compiled, and what a file of compiled pipelines
//! saves of it: `cargo bench --bench first_step`.
//!
//! Each network is trained for two steps on a GPU that is opened for it alone: without a file, with a file that does not exist yet
//! (`writes`), and with that file (`reads`). Drivers keep files of their own; `MESA_SHADER_CACHE_DISABLE=1`
//! or `__GL_SHADER_DISK_CACHE=0` (NVIDIA) turns them off. An argument is a part of the names of the networks to measure. A software
//! adapter gets a batch of one.

#[cfg(feature = "gpu")]
mod on_gpu {
    use quarterturn::{
        autograd::Optimizer,
        core::{
            Device, Result, Stream, Tensor,
            gpu::{Gpu, GpuOptions},
        },
        kernels::Group,
        models::{Init, MnistCnn, MnistCnnConfig, Mode, Network, ResNet, ResNetConfig, training::train_step},
    };
    use std::{env, fs, path::Path, time::Instant};

    type Build = fn(&Device) -> Result<Box<dyn Network>>;

    const NETWORKS: [(&str, Build, usize, usize); 3] = [
        ("p4cnn", |device| Ok(Box::new(MnistCnn::new(MnistCnnConfig::p4cnn(), 1, device)?)), 128, 28),
        ("p4resnet44_32", |device| Ok(Box::new(resnet(ResNetConfig::resnet44(Group::C4), device)?)), 32, 32),
        ("p4resnet18_224", |device| Ok(Box::new(resnet(ResNetConfig::resnet18(Group::C4), device)?)), 16, 224),
    ];

    fn resnet(config: ResNetConfig, device: &Device) -> Result<ResNet> {
        ResNet::new(config, Init::kaiming(1), device)
    }

    pub fn main() -> Result<()> {
        let wanted: Vec<String> = env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
        let file = env::temp_dir().join(format!("quarterturn-first-step-{}", std::process::id()));
        println!(
            "{:<16} {:>4} {:<8} {:>9} {:>12} {:>13} {:>9} {:>8} {:>10}",
            "network", "n", "file", "opened s", "first step s", "second step s", "pipelines", "launches", "bytes read"
        );
        for (name, build, batch, extent) in NETWORKS {
            if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
                continue;
            }
            for (kind, path) in [("none", None), ("writes", Some(&*file)), ("reads", Some(&*file))] {
                if kind != "reads" {
                    // There may be none.
                    let _ = fs::remove_file(&file);
                }
                measure(name, build, batch, extent, kind, path)?;
            }
        }
        let _ = fs::remove_file(&file);
        Ok(())
    }

    fn measure(name: &str, build: Build, batch: usize, extent: usize, kind: &str, file: Option<&Path>) -> Result<()> {
        let start = Instant::now();
        let gpu = Gpu::open(&GpuOptions { pipeline_cache: file.map(Path::to_path_buf), ..GpuOptions::default() })?;
        let opened = start.elapsed().as_secs_f64();
        let batch = if gpu.adapter().software { 1 } else { batch };
        let device = Device::Gpu(gpu.clone());
        let mut network = build(&device)?;
        let stream = Stream::new(1, 2, 3);
        let dims = [batch, network.in_channels(), 1, extent, extent];
        let pixels = (0..dims.iter().product::<usize>() as u64).map(|i| stream.uniform(i)).collect();
        let images = Tensor::from_vec(dims, pixels, &device)?;
        let labels = Tensor::from_vec([batch], (0..batch).map(|i| (i % 10) as f32).collect(), &device)?;
        let mut optimizer = Optimizer::sgd(0.9, 1e-4);
        let mut step = |step| -> Result<f64> {
            let start = Instant::now();
            let mode = Mode::Train { seed: 1, step };
            train_step(&mut *network, &mut optimizer, 0.01, mode, &images, &labels)?.to_vec()?;
            Ok(start.elapsed().as_secs_f64())
        };
        let first = step(0)?;
        let before = gpu.statistics();
        let second = step(1)?;
        let after = gpu.statistics();
        println!(
            "{name:<16} {batch:>4} {kind:<8} {opened:>9.2} {first:>12.3} {second:>13.3} {:>9} {:>8} {:>10}",
            after.pipelines,
            after.launches - before.launches,
            after.pipelines_read
        );
        Ok(())
    }
}

fn main() {
    #[cfg(feature = "gpu")]
    if let Err(error) = on_gpu::main() {
        eprintln!("note: {error}: nothing was measured");
    }
    #[cfg(not(feature = "gpu"))]
    eprintln!("note: this needs the feature gpu");
}
