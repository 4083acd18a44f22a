//! Compiled pipelines on the disk.

use super::*;
use std::{fs, path::PathBuf};

/// A name that nobody else has, whose file is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quarterturn-pipelines-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        Place(path)
    }

    /// A GPU with this file, if there is one that keeps pipelines.
    fn open(&self) -> Option<Gpu> {
        let gpu = own(&GpuOptions { pipeline_cache: Some(self.0.clone()), ..GpuOptions::default() })?;
        (gpu.adapter().backend == "vulkan").then_some(gpu)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn tripled(gpu: &Gpu) -> Vec<f32> {
    scaled(&gpu.upload(&[1.0, 2.5, -4.0]).unwrap(), 3.0).read().unwrap()
}

#[test]
fn pipelines_are_kept_in_a_file_and_read_again() {
    let place = Place::new("kept");
    let Some(gpu) = place.open() else { return };
    assert_eq!((gpu.statistics().pipelines_read, place.0.exists()), (0, false));
    assert_eq!(tripled(&gpu), [3.0, 7.5, -12.0]);
    gpu.save_pipelines().unwrap();
    let saved = fs::read(&place.0).unwrap();
    drop(gpu);
    assert_eq!(fs::read(&place.0).unwrap(), saved);

    let gpu = place.open().unwrap();
    let read = gpu.statistics().pipelines_read;
    assert!(read > 0 && read < saved.len() as u64, "{read} of {} bytes", saved.len());
    assert_eq!(tripled(&gpu), [3.0, 7.5, -12.0]);
    // Nothing is new, so nothing is written.
    fs::remove_file(&place.0).unwrap();
    gpu.save_pipelines().unwrap();
    assert!(!place.0.exists());
}

#[test]
fn dropping_the_gpu_writes_the_file() {
    let place = Place::new("dropped");
    let Some(gpu) = place.open() else { return };
    assert_eq!(tripled(&gpu), [3.0, 7.5, -12.0]);
    drop(gpu);
    assert!(place.0.exists());
}

#[test]
fn a_broken_or_foreign_file_is_ignored_and_written_anew() {
    let place = Place::new("broken");
    let Some(gpu) = place.open() else { return };
    tripled(&gpu);
    drop(gpu);
    let good = fs::read(&place.0).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    let broken = [vec![], b"no pipelines".to_vec(), good[..good.len() / 2].to_vec(), changed];
    for (number, bytes) in broken.into_iter().enumerate() {
        fs::write(&place.0, &bytes).unwrap();
        let gpu = place.open().unwrap();
        assert_eq!(gpu.statistics().pipelines_read, 0, "file {number}");
        assert_eq!(tripled(&gpu), [3.0, 7.5, -12.0], "file {number}");
        drop(gpu);
        assert_eq!(fs::read(&place.0).unwrap().len(), good.len(), "file {number}");
    }
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_and_harms_nothing() {
    let place = Place::new("folder");
    let missing = place.0.join("no such folder").join("pipelines");
    let Some(gpu) = own(&GpuOptions { pipeline_cache: Some(missing.clone()), ..GpuOptions::default() }) else { return };
    assert_eq!(tripled(&gpu), [3.0, 7.5, -12.0]);
    if gpu.adapter().backend == "vulkan" {
        let error = gpu.save_pipelines().unwrap_err();
        assert!(matches!(&error, crate::Error::Io { .. }) && error.to_string().contains("no such folder"), "{error}");
    }
}
