//! Quarterturn autograd.
