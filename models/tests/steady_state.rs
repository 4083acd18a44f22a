//! One image after another: a prediction allocates what its logits and a few lists of layers need, and nothing that grows
//! with filters or maps. A process of its own, since all that it allocates is counted.
#![cfg(not(quarterturn_exact_buffers))]

use quarterturn_core::{Device, Tensor};
use quarterturn_models::{MnistCnn, MnistCnnConfig, Network};
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The system's allocator, which counts.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all calls go to the system's allocator as they come.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// On one thread: two need one buffer more when they first meet, and when that is depends on the system.
#[test]
fn a_prediction_allocates_little() {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    for config in [MnistCnnConfig::z2cnn(), MnistCnnConfig::p4cnn(), MnistCnnConfig::p4mcnn()] {
        let network = MnistCnn::new(config, 1, &Device::Cpu).unwrap();
        let image = Tensor::full([1, 1, 1, 28, 28], 0.5, &Device::Cpu).unwrap();
        let predict = || drop(network.predict(&image).unwrap());
        (0..3).for_each(|_| predict());
        let before = BYTES.load(Relaxed);
        (0..5).for_each(|_| predict());
        let each = (BYTES.load(Relaxed) - before) / 5;
        // A map has 5,000 to 30,000 floats, the filters of a layer have 3,600 to 6,400.
        assert!(each < 16 << 10, "{:?}: {each} bytes", config.group);
    }
}
