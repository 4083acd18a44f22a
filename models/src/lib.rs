//! Quarterturn models.
