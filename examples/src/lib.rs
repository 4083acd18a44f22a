//! What the examples share: command line, device and data choice, figures, tables, files, progress.
#![allow(missing_docs, reason = "nobody but the examples uses it")]

pub mod angle_chart;
pub mod answers;
pub mod args;
pub mod canvas;
pub mod csv;
pub mod device;
pub mod digits;
pub mod dot_chart;
pub mod epochs;
pub mod figure;
pub mod files;
pub mod fingerprint;
pub mod folders;
pub mod image_setting;
pub mod images;
pub mod input;
pub mod inspection;
pub mod model;
pub mod onnx_report;
pub mod palette;
pub mod pictures;
pub mod preparation;
pub mod prepared;
pub mod progress;
pub mod ranks;
pub mod raster;
#[cfg(feature = "images")]
pub mod reader;
pub mod rotations;
pub mod runner;
pub mod say;
pub mod significance;
pub mod table;
pub mod tensorboard;
pub mod weights;

/// Its code is compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../../docs/tutorial.md")]
struct Tutorial;
