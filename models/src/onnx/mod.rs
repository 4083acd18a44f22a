//! ONNX models: written from plain networks, and read to be judged.

pub(crate) mod proto;
mod write;
