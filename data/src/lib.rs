//! Quarterturn data.
