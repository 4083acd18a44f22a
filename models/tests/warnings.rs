//! What is said through the `log` facade, and how often. One test, since a process has one logger.

use quarterturn_core::{Device, Tensor};
use quarterturn_kernels::scale;
use quarterturn_models::{
    MnistCnn, MnistCnnConfig, Network,
    training::{Training, evaluate, train},
};
use std::sync::Mutex;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Kept;

impl log::Log for Kept {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        assert_eq!(record.level(), log::Level::Warn);
        SAID.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// What has been said since the last time.
fn said() -> Vec<String> {
    std::mem::take(&mut *SAID.lock().unwrap())
}

#[test]
fn raw_pixels_and_inexact_sizes_are_told_once() {
    log::set_logger(&Kept).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let mut network = MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() }, 1, &Device::Cpu).unwrap();
    let pixels = |size: usize| {
        let values = (0..4 * size * size).map(|i| (i % 256) as f32).collect();
        Tensor::from_vec([4, 1, 1, size, size], values, &Device::Cpu).unwrap()
    };
    let labels = Tensor::full([4], 1.0, &Device::Cpu).unwrap();
    let normalised = scale(&pixels(12), 1.0 / 50.0);
    let training = Training { epochs: 2, ..Training::mnist(1) };
    let train_on = |network: &mut MnistCnn, images: &Tensor| {
        train(network, &training, |_| Ok([Ok((images.clone(), labels.clone()))].into_iter()), |_| ()).unwrap();
    };

    train_on(&mut network, &normalised);
    assert_eq!(evaluate(&network, &normalised, &labels).unwrap() / 5, 0);
    assert_eq!(said(), [""; 0]);

    let raw = "mnist_cnn: the images have values above 50, like pixels of 8 bits; networks expect normalised ones, such as \
        (pixel / 255 − mean) / std";
    network.predict(&pixels(12)).unwrap();
    assert_eq!(said(), [raw]);
    evaluate(&network, &pixels(12), &labels).unwrap();
    train_on(&mut network, &pixels(12));
    assert_eq!(said(), [""; 0]);

    for _ in 0..2 {
        train_on(&mut network, &scale(&pixels(11), 0.01));
    }
    let warnings = said();
    assert!(warnings.len() == 1 && warnings[0].starts_with("mnist_cnn on p4 is inexact at 11: pool2"), "{warnings:?}");
}
