//! What a training step asks of the GPU.
#![cfg(feature = "gpu")]

use quarterturn_autograd::Optimizer;
use quarterturn_core::{
    Device, Stream, Tensor,
    gpu::{Gpu, GpuOptions},
    testing,
};
use quarterturn_models::{MnistCnn, MnistCnnConfig, Mode, training::train_step};

/// Steps are recorded without waiting for the GPU, take 78 launches, and once the first ones have
/// filled the pool, ask the driver for no memory.
#[test]
fn a_step_waits_for_nothing_and_allocates_nothing() {
    let Some(shared) = testing::gpu() else { return };
    // Of its own, so that other tests do not count.
    let name = Some(shared.adapter().name.clone());
    let gpu = Gpu::open(&GpuOptions { adapter: name, ..GpuOptions::default() }).unwrap();
    let device = Device::Gpu(gpu.clone());
    let (n, stream) = (4, Stream::new(1, 2, 3));
    let pixels = (0..n as u64 * 784).map(|i| stream.uniform(i)).collect();
    let images = Tensor::from_vec([n, 1, 1, 28, 28], pixels, &device).unwrap();
    let labels = Tensor::from_vec([n], (0..n).map(|i| i as f32).collect(), &device).unwrap();
    let mut network = MnistCnn::new(MnistCnnConfig::p4cnn(), 1, &device).unwrap();
    let mut optimizer = Optimizer::adam(1e-5);
    let mut step =
        |step| train_step(&mut network, &mut optimizer, 0.01, Mode::Train { seed: 1, step }, &images, &labels).unwrap();
    let first = step(0).to_vec().unwrap()[0];
    step(1);
    let before = gpu.statistics();
    let losses: Vec<Tensor> = (2..8).map(&mut step).collect();
    let after = gpu.statistics();
    assert_eq!(after.read_backs, before.read_backs);
    assert_eq!(after.pipelines, before.pipelines);
    assert!(after.bytes - before.bytes < 4096, "only the losses, which are kept, need memory");
    let launches = (after.launches - before.launches) / 6;
    // Forward, a layer is convolution, moments, norm and running statistics: 28. Back, it is two for the norm, two for the
    // weight and, but for the first, one for the input: 34. Pool, mean, maximum, linear layer and loss: 12. Adam: 23 weights,
    // seven in a launch.
    let adam = if gpu.bindings() >= 28 { 4 } else { 23 };
    assert_eq!(launches, 74 + adam, "launches of a step");
    let last = losses[5].to_vec().unwrap()[0];
    assert!(last.is_finite() && last < first, "the loss went from {first} to {last}");
}
