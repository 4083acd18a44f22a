//! Host memory that returns to a pool when dropped: a training step asks for the same sizes every time, and
//! fresh pages from the system cost more than the arithmetic done on them.

use std::{
    collections::HashMap,
    mem,
    ops::{Deref, DerefMut},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// Bytes the pool keeps at most; what comes back beyond that is freed.
const KEPT_BYTES: usize = 1 << 30;
/// Shorter buffers are left to the allocator, which is quick for them.
const SMALLEST: usize = 4096;

#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An owned slice of `f32` from the pool.
#[derive(Debug)]
pub struct HostBuffer(Vec<f32>);

impl HostBuffer {
    /// `len` floats of unspecified (but initialised) content: for outputs that are written in full.
    pub fn scratch(len: usize) -> Self {
        if len >= SMALLEST {
            let mut pool = pool();
            if let Some(vec) = pool.free.get_mut(&len).and_then(Vec::pop) {
                pool.bytes -= len * mem::size_of::<f32>();
                return HostBuffer(vec);
            }
        }
        HostBuffer(vec![0.0; len])
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::scratch(len);
        buffer.fill(0.0);
        buffer
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        let vec = mem::take(&mut self.0);
        let bytes = vec.len() * mem::size_of::<f32>();
        if vec.len() >= SMALLEST {
            let mut pool = pool();
            if pool.bytes + bytes <= KEPT_BYTES {
                pool.bytes += bytes;
                pool.free.entry(vec.len()).or_default().push(vec);
            }
        }
    }
}

impl From<Vec<f32>> for HostBuffer {
    fn from(vec: Vec<f32>) -> Self {
        HostBuffer(vec)
    }
}

impl FromIterator<f32> for HostBuffer {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        HostBuffer(values.into_iter().collect())
    }
}

impl Clone for HostBuffer {
    fn clone(&self) -> Self {
        let mut copy = Self::scratch(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for HostBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_used_again() {
        const LEN: usize = 65_537; // a length no other test uses
        let first = HostBuffer::zeros(LEN);
        let address = first.as_ptr();
        drop(first);
        let second = HostBuffer::scratch(LEN);
        assert_eq!(second.as_ptr(), address);
        assert_eq!(second.len(), LEN);
    }

    #[test]
    fn zeros_are_zeros_even_after_use() {
        const LEN: usize = 65_539;
        let mut dirty = HostBuffer::scratch(LEN);
        dirty.fill(7.0);
        drop(dirty);
        assert!(HostBuffer::zeros(LEN).iter().all(|&v| v == 0.0));
    }
}
