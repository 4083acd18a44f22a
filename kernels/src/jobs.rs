//! How work is shared out over the threads.
//!
//! What a job does is called by pointer. As a type parameter each operation would have a copy of its own of all that shares out
//! the work, ten kilobytes of machine code: together as much as the kernels themselves, and as long to compile.

use rayon::prelude::*;
use std::{
    ops::Range,
    sync::{Mutex, OnceLock},
};

/// Calls `job` with ranges that make up `0..count`, each of `least` or more (but if `count` is less).
pub(crate) fn for_each_run(count: usize, least: usize, job: &(dyn Fn(Range<usize>) + Sync)) {
    let halves = |run: Range<usize>| {
        let half = run.len() / 2;
        match half >= least.max(1) {
            true => (run.start..run.start + half, Some(run.start + half..run.end)),
            false => (run, None),
        }
    };
    rayon::iter::split(0..count, halves).for_each(job);
}

/// Calls `f(i, y_i)` for the chunks `y_i` of `len` elements, of which a thread takes at least `least`.
pub(crate) fn for_each_chunk(y: &mut [f32], len: usize, least: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    y.par_chunks_mut(len).enumerate().with_min_len(least).for_each(|(i, y)| f(i, y));
}

/// `[f(0), f(1), …, f(count − 1)]`, of which a thread makes at least `least`.
pub(crate) fn collect<R: Send + Sync>(count: usize, least: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    collect_init(count, least, || (), |(), i| f(i))
}

/// As [`collect`], with something that `init` makes for several calls of `f` one after the other.
pub(crate) fn collect_init<S, R: Send + Sync>(
    count: usize,
    least: usize,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize) -> R + Sync,
) -> Vec<R> {
    let results: Vec<OnceLock<R>> = (0..count).map(|_| OnceLock::new()).collect();
    for_each_run(count, least, &|run| {
        let mut state = init();
        for i in run {
            // Each is made once.
            let _ = results[i].set(f(&mut state, i));
        }
    });
    results.into_iter().map(|result| result.into_inner().expect("every run is done")).collect()
}

/// `f(i, item)` of each item, in their order.
pub(crate) fn map_items<T: Send, R: Send + Sync>(
    items: impl Iterator<Item = T>,
    least: usize,
    f: impl Fn(usize, T) -> R + Sync,
) -> Vec<R> {
    map_items_init(items, least, || (), |(), i, item| f(i, item))
}

/// As [`map_items`], with something that `init` makes for several calls of `f` one after the other.
pub(crate) fn map_items_init<T: Send, S, R: Send + Sync>(
    items: impl Iterator<Item = T>,
    least: usize,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize, T) -> R + Sync,
) -> Vec<R> {
    let items: Vec<Mutex<Option<T>>> = items.map(|item| Mutex::new(Some(item))).collect();
    collect_init(items.len(), least, init, |state, i| {
        let item = items[i].lock().expect("no thread panics that holds it").take();
        f(state, i, item.expect("each is taken once"))
    })
}
