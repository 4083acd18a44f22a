//! What the host's pool holds, of itself and of the process. A process of its own, since the pool is the process's.
#![cfg(not(quarterturn_exact_buffers))]

use quarterturn_core::HostBuffer;
use std::thread;

const MIB: usize = 1 << 20;

/// Bytes of the process in memory; `None` where the system does not say.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<usize>().ok().map(|kib| 1024 * kib)
}

/// What a pass of a network with maps of these sizes for one image asks of the pool: two maps at a time, and room for
/// each of two threads.
fn pass(batch: usize) {
    let mut x = HostBuffer::zeros(784 * batch);
    for map in [27_040, 6_760, 5_760, 4_000, 4_000, 1_440, 6_000] {
        let mut y = HostBuffer::scratch(map * batch);
        thread::scope(|scope| {
            for half in y.chunks_mut(map * batch / 2) {
                scope.spawn(|| {
                    let room = HostBuffer::zeros(map);
                    half.fill(room[0] + x[0]);
                });
            }
        });
        x = y;
    }
}

#[test]
fn a_large_batch_is_not_held_for_ever() {
    pass(8);
    let before = resident();
    // Of this size, glibc keeps blocks that are freed.
    for _ in 0..2 {
        pass(700);
        pass(650);
    }
    pass(2048);
    let large = resident();
    assert!(HostBuffer::kept_bytes() > 250 * MIB, "{} MiB kept", HostBuffer::kept_bytes() / MIB);
    for _ in 0..1000 {
        pass(8);
    }
    let kept = HostBuffer::kept_bytes();
    assert!(kept < 3 * MIB, "{} bytes kept", kept);
    let [Some(before), Some(large), Some(after)] = [before, large, resident()] else { return };
    println!("{} MiB, {} MiB after a large batch, {} MiB in the end", before / MIB, large / MIB, after / MIB);
    assert!(large > before + 250 * MIB, "{before} bytes resident, {large} after a large batch");
    // glibc keeps the end of a thread's heap, of at most 64 MiB.
    assert!(after < before + 64 * MIB, "{before} bytes resident, {large} after a large batch, {after} in the end");
    HostBuffer::trim();
    assert_eq!(HostBuffer::kept_bytes(), 0);
}
