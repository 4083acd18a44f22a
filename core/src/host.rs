//! Host memory that returns to a pool when dropped: a training step asks for the same sizes every time, and
//! fresh pages from the system cost more than the arithmetic done on them. It starts at a cache line, for a vector across
//! two lines costs two accesses, and an allocator's large blocks all start in the middle of one.

use std::{
    collections::HashMap,
    mem,
    ops::{Deref, DerefMut},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

/// Shorter buffers are left to the allocator, which is quick for them.
const SMALLEST: usize = 4096;
/// What is in use and kept together never exceeds this many times the most that was ever in use.
const HELD_TO_PEAK: usize = 2;

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// Lengths count floats; only those from [`SMALLEST`] on.
#[derive(Default)]
struct Pool {
    free: HashMap<usize, Vec<Aligned>>,
    kept: usize,
    used: usize,
    peak: usize,
}

impl Pool {
    /// Notes that a buffer of `len` floats is handed out, and finds one if it can.
    fn hand_out(&mut self, len: usize) -> Option<Aligned> {
        self.used += len;
        self.peak = self.peak.max(self.used);
        let buffer = self.free.get_mut(&len)?.pop()?;
        self.kept -= len;
        Some(buffer)
    }

    /// Takes a buffer back. When sizes have changed (another batch, another network), the old ones go first.
    fn take_back(&mut self, buffer: Aligned) {
        self.used -= buffer.len;
        if self.used + self.kept + buffer.len > HELD_TO_PEAK * self.peak {
            self.free.clear();
            self.kept = 0;
        }
        self.kept += buffer.len;
        self.free.entry(buffer.len).or_default().push(buffer);
    }
}

/// `len` floats, from a cache line's start on unless they came in a vector.
#[derive(Debug, Default)]
struct Aligned {
    vec: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn zeros(len: usize) -> Self {
        let vec = vec![0.0; len + LINE / size_of::<f32>()];
        let start = vec.as_ptr().align_offset(LINE);
        Aligned { vec, start, len }
    }
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An owned slice of `f32` from the pool.
#[derive(Debug)]
pub struct HostBuffer(Aligned);

impl HostBuffer {
    /// `len` floats of unspecified (but initialised) content: for outputs that are written in full.
    pub fn scratch(len: usize) -> Self {
        let reused = if len >= SMALLEST { pool().hand_out(len) } else { None };
        HostBuffer(reused.unwrap_or_else(|| Aligned::zeros(len)))
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
        let buffer = mem::take(&mut self.0);
        if buffer.len >= SMALLEST {
            pool().take_back(buffer);
        }
    }
}

impl From<Vec<f32>> for HostBuffer {
    fn from(vec: Vec<f32>) -> Self {
        if vec.len() >= SMALLEST {
            let mut pool = pool();
            pool.used += vec.len();
            pool.peak = pool.peak.max(pool.used);
        }
        HostBuffer(Aligned { start: 0, len: vec.len(), vec })
    }
}

impl FromIterator<f32> for HostBuffer {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Self {
        HostBuffer::from(values.into_iter().collect::<Vec<f32>>())
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
        &self.0.vec[self.0.start..][..self.0.len]
    }
}

impl DerefMut for HostBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0.vec[self.0.start..][..self.0.len]
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
        assert_eq!(address.align_offset(LINE), 0);
    }

    #[test]
    fn a_change_of_sizes_lets_the_old_ones_go() {
        let mut pool = Pool::default();
        for len in [5000, 6000, 7000, 8000] {
            let fresh = |pool: &mut Pool| pool.hand_out(len).unwrap_or_else(|| Aligned::zeros(len));
            let (a, b) = (fresh(&mut pool), fresh(&mut pool));
            pool.take_back(a);
            pool.take_back(b);
            assert!(pool.used == 0 && pool.kept <= HELD_TO_PEAK * pool.peak);
            assert_eq!(pool.kept, pool.free.values().flatten().map(|buffer| buffer.len).sum::<usize>());
            assert!(pool.hand_out(len).is_some(), "{len} is at hand");
            pool.used -= len;
        }
        assert_eq!(pool.peak, 16_000);
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
