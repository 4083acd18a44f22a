//! ONNX models: written from plain networks, and read to be judged.

pub(crate) mod proto;
mod write;

/// Bytes of the largest model that other programs read: 2 GiB.
pub(crate) const LARGEST_FILE: u64 = (1 << 31) - 1;
