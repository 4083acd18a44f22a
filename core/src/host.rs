//! Host memory that returns to a pool when dropped: a training step asks for the same sizes every time, and
//! fresh pages from the system cost more than the arithmetic done on them. It starts at a cache line, for a vector across
//! two lines costs two accesses, and an allocator's large blocks all start in the middle of one.
//!
//! What is not asked for again returns to the system. Age counts in hand-outs, not in seconds, so that runs repeat:
//! they are cut into windows, and when one ends, the buffers that lay idle all through it are let go. The first has
//! [`FIRST_WINDOW`] hand-outs; if a size is asked for that was let go, windows were shorter than what repeats (a
//! step of a deep network on many threads), and the next is twice as long. So a steady state keeps all its buffers.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    ops::{Deref, DerefMut},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// Shorter buffers are left to the allocator, which is quick for them.
const SMALLEST: usize = 1024;
/// What is in use and kept together never exceeds this many times the most in use in this window and the one before.
const HELD_TO_PEAK: usize = 2;
/// Hand-outs in a window, at first and at most.
const FIRST_WINDOW: u64 = 4096;
const LONGEST_WINDOW: u64 = 1 << 18;
/// Short buffers are counted in lots, without the pool's lock.
const LOT: u64 = 256;

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// Lengths count floats; only those from [`SMALLEST`] on.
struct Pool {
    /// By length; those returned last stand last.
    free: HashMap<usize, VecDeque<Kept>>,
    kept: usize,
    used: usize,
    /// The most in use, in this window and in the one before.
    peaks: [usize; 2],
    /// Hand-outs so far, where the window began and where it ends.
    hand_outs: u64,
    began: u64,
    ends: u64,
    window: u64,
    /// Lengths that were let go for their age, and whether one was asked for since.
    aged: HashSet<usize>,
    too_short: bool,
}

/// A buffer ready for use, and after how many hand-outs it was returned.
struct Kept {
    buffer: Aligned,
    returned: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Pool {
            free: HashMap::new(),
            kept: 0,
            used: 0,
            peaks: [0; 2],
            hand_outs: 0,
            began: 0,
            ends: FIRST_WINDOW,
            window: FIRST_WINDOW,
            aged: HashSet::new(),
            too_short: false,
        }
    }
}

impl Pool {
    /// Notes that a buffer of `len` floats is handed out, and finds one if it can. What is let go comes with it, to be
    /// dropped without the lock.
    fn hand_out(&mut self, len: usize) -> (Option<Aligned>, Vec<Aligned>) {
        self.used += len;
        self.peaks[0] = self.peaks[0].max(self.used);
        let found = self.free.get_mut(&len).and_then(VecDeque::pop_back).map(|kept| kept.buffer);
        if found.is_some() {
            self.kept -= len;
        } else {
            self.too_short |= self.aged.remove(&len);
        }
        (found, self.count(1))
    }

    /// Counts hand-outs; at a window's end, lets go what was idle all through it.
    fn count(&mut self, hand_outs: u64) -> Vec<Aligned> {
        self.hand_outs += hand_outs;
        if self.hand_outs < self.ends {
            return Vec::new();
        }
        if mem::take(&mut self.too_short) {
            self.window = LONGEST_WINDOW.min(2 * self.window);
        }
        let began = mem::replace(&mut self.began, self.hand_outs);
        self.ends = self.hand_outs + self.window;
        self.peaks = [self.used, self.peaks[0]];
        let mut idle = Vec::new();
        self.free.retain(|&len, list| {
            let young = list.partition_point(|kept| kept.returned < began);
            idle.extend(list.drain(..young).map(|kept| kept.buffer));
            if young > 0 {
                self.aged.insert(len);
            }
            !list.is_empty()
        });
        self.kept -= idle.iter().map(|buffer| buffer.len).sum::<usize>();
        idle
    }

    /// Takes a buffer back. If there are too many then, those returned longest ago are let go.
    fn take_back(&mut self, buffer: Aligned) -> Vec<Aligned> {
        self.used -= buffer.len;
        self.kept += buffer.len;
        let list = self.free.entry(buffer.len).or_default();
        list.push_back(Kept { buffer, returned: self.hand_outs });
        let mut superfluous = Vec::new();
        while self.used + self.kept > HELD_TO_PEAK * self.peaks[0].max(self.peaks[1]) {
            let oldest = self.free.values_mut().filter(|list| !list.is_empty()).min_by_key(|list| list[0].returned);
            let Some(Kept { buffer, .. }) = oldest.and_then(VecDeque::pop_front) else { break };
            self.kept -= buffer.len;
            superfluous.push(buffer);
        }
        superfluous
    }

    /// Lets everything go that nobody holds.
    fn trim(&mut self) -> Vec<Aligned> {
        self.kept = 0;
        mem::take(&mut self.free).into_values().flatten().map(|kept| kept.buffer).collect()
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

    /// Whether it is of the pool: it is long enough, and has room for its alignment, which a vector from outside lacks.
    /// (Those would gather, one for each batch of a loader, where no operation asks for that length.)
    fn is_of_the_pool(&self) -> bool {
        self.len >= SMALLEST && self.vec.len() > self.len
    }
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);
static SHORT: AtomicU64 = AtomicU64::new(0);

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns buffers to the system.
fn let_go(buffers: Vec<Aligned>) {
    if buffers.is_empty() {
        return;
    }
    drop(buffers);
    // glibc keeps freed blocks of up to 32 MiB in its heaps: 145 MiB in `tests/host_memory.rs`, 32 with this call.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: declared as in glibc's malloc.h; it may be called at any time, on any thread.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        malloc_trim(0);
    }
}

/// An array of `f32` in host memory. Dropping it returns the memory to a pool.
///
/// Compiled with `--cfg quarterturn_exact_buffers`, for tests, every buffer is an allocation of its own of exactly its
/// length, so that a tool that watches memory sees an overrun by one element, and [`HostBuffer::scratch`] is full of NaN.
#[derive(Debug)]
pub struct HostBuffer(Aligned);

impl HostBuffer {
    /// `len` floats of unspecified (but initialised) content. For outputs that are overwritten in full.
    pub fn scratch(len: usize) -> Self {
        if cfg!(quarterturn_exact_buffers) {
            return HostBuffer::from(vec![f32::NAN; len]);
        }
        if len < SMALLEST {
            if SHORT.fetch_add(1, Ordering::Relaxed) % LOT == LOT - 1 {
                let idle = pool().count(LOT);
                let_go(idle);
            }
            return HostBuffer(Aligned::zeros(len));
        }
        let (reused, idle) = pool().hand_out(len);
        let_go(idle);
        HostBuffer(reused.unwrap_or_else(|| Aligned::zeros(len)))
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut buffer = Self::scratch(len);
        buffer.fill(0.0);
        buffer
    }

    /// Bytes of unused memory in the pool.
    pub fn kept_bytes() -> usize {
        size_of::<f32>() * pool().kept
    }

    /// Gives all unused memory of the pool back to the system. The pool does so by itself with buffers that were not
    /// needed during some thousands of allocations. Call this if your program will compute nothing more.
    pub fn trim() {
        let kept = pool().trim();
        let_go(kept);
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        if self.0.is_of_the_pool() {
            let buffer = mem::take(&mut self.0);
            let _superfluous = pool().take_back(buffer);
        }
    }
}

impl From<Vec<f32>> for HostBuffer {
    fn from(vec: Vec<f32>) -> Self {
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

    /// A buffer from the pool, or a new one.
    fn fresh(pool: &mut Pool, len: usize) -> Aligned {
        pool.hand_out(len).0.unwrap_or_else(|| Aligned::zeros(len))
    }

    /// Asks for buffers of these lengths at a time and returns them; how many had to be made.
    fn step(pool: &mut Pool, lens: &[usize]) -> usize {
        let mut made = 0;
        let mut held = Vec::new();
        for &len in lens {
            held.push(pool.hand_out(len).0.unwrap_or_else(|| {
                made += 1;
                Aligned::zeros(len)
            }));
        }
        for buffer in held {
            pool.take_back(buffer);
        }
        assert_eq!(pool.kept, pool.free.values().flatten().map(|kept| kept.buffer.len).sum::<usize>());
        made
    }

    #[test]
    #[cfg(not(quarterturn_exact_buffers))]
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
    fn a_change_of_sizes_lets_the_oldest_go() {
        let mut pool = Pool::default();
        for len in [5000, 6000, 7000, 8000] {
            step(&mut pool, &[len, len]);
            assert!(pool.used == 0 && pool.kept <= HELD_TO_PEAK * pool.peaks[0]);
            assert_eq!(pool.free[&len].len(), 2, "{len} is at hand");
        }
        assert!(pool.peaks == [16_000, 0] && pool.free.get(&5000).is_none_or(VecDeque::is_empty));
    }

    /// One large step, then many small ones: what the large one took is let go within two windows.
    #[test]
    fn what_is_not_asked_for_is_let_go() {
        let mut pool = Pool::default();
        step(&mut pool, &[1 << 22, 1 << 21]);
        assert_eq!(pool.kept, 3 << 21);
        let mut small = 0;
        for _ in 0..2 * FIRST_WINDOW / 2 {
            small += step(&mut pool, &[5000, 6000]);
        }
        assert_eq!((pool.kept, small), (11_000, 2));
        // And from then on at most twice what small steps take.
        for len in 5000..5100 {
            step(&mut pool, &[len]);
        }
        assert!(pool.kept <= 2 * 11_000, "{}", pool.kept);
    }

    #[test]
    fn short_buffers_count_too() {
        let mut pool = Pool::default();
        step(&mut pool, &[1 << 20]);
        let let_go: usize = (0..2 * FIRST_WINDOW / LOT).map(|_| pool.count(LOT).len()).sum();
        assert_eq!((pool.kept, let_go), (0, 1));
    }

    /// A step of more hand-outs than a window: each size but one is asked for once a step, and soon nothing is made.
    #[test]
    fn a_steady_state_keeps_everything() {
        let mut pool = Pool::default();
        let weights = fresh(&mut pool, 100_000);
        let mut made = Vec::new();
        for _ in 0..12 {
            let mut new = 0;
            for len in 5000..5010 {
                new += step(&mut pool, &[len]);
                for _ in 0..3 * FIRST_WINDOW / LOT {
                    pool.count(LOT);
                }
            }
            made.push(new);
        }
        assert_eq!(made[0], 10);
        assert_eq!(made[6..], [0; 6], "{made:?}");
        pool.take_back(weights);
    }

    #[test]
    fn zeros_are_zeros_even_after_use() {
        const LEN: usize = 65_539;
        let mut dirty = HostBuffer::scratch(LEN);
        dirty.fill(7.0);
        drop(dirty);
        assert!(HostBuffer::zeros(LEN).iter().all(|&v| v == 0.0));
    }

    #[test]
    fn vectors_from_outside_do_not_gather() {
        let mut pool = Pool::default();
        let vector = HostBuffer::from(vec![1.0; 70_001]);
        assert!(!vector.0.is_of_the_pool() && fresh(&mut pool, 70_001).is_of_the_pool());
    }

    #[test]
    #[cfg(quarterturn_exact_buffers)]
    fn buffers_are_exact() {
        for len in [0, 1, 100, 10_000] {
            let buffer = HostBuffer::scratch(len);
            assert!(buffer.0.vec.capacity() == len && buffer.iter().all(|v| v.is_nan()));
        }
    }
}
