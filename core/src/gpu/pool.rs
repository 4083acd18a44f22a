//! GPU memory that returns to a pool when dropped.
//!
//! A training step asks for the same sizes every time. A buffer that is dropped while recorded work still uses it may
//! be handed out at once: launches run in the order in which they were recorded. Only writes from the host overtake
//! recorded work, which is why a slot remembers the last batch that touched it.

use std::collections::HashMap;

/// Smallest buffer, in bytes.
const SMALLEST: u64 = 256;

/// One buffer of the driver.
#[derive(Clone)]
pub(super) struct Slot {
    /// Names the buffer in the keys of cached bind groups.
    pub id: u64,
    pub buffer: wgpu::Buffer,
    /// The last batch that recorded work on it.
    pub batch: u64,
}

/// Buffers by size, ready for use.
#[derive(Default)]
pub(super) struct Pool {
    free: HashMap<u64, Vec<Slot>>,
    /// Bytes in all buffers, handed out or free.
    pub held: u64,
    /// Bytes handed out, now and at most so far.
    used: u64,
    most_used: u64,
    /// Buffers made so far.
    pub made: u64,
}

impl Pool {
    /// A free buffer of exactly this class.
    pub fn take(&mut self, class: u64) -> Option<Slot> {
        let slot = self.free.get_mut(&class)?.pop()?;
        self.count_used(class);
        Some(slot)
    }

    /// Whether one more buffer of this class would make more than twice what was ever in use at a time: then sizes have
    /// changed, and the free buffers are of the old ones.
    pub fn is_stale(&self, class: u64) -> bool {
        self.held + class > 2 * self.most_used.max(self.used + class)
    }

    fn count_used(&mut self, class: u64) {
        self.used += class;
        self.most_used = self.most_used.max(self.used);
    }

    /// Counts a buffer that was just made.
    pub fn admit(&mut self, buffer: wgpu::Buffer, batch: u64) -> Slot {
        self.held += buffer.size();
        self.count_used(buffer.size());
        self.made += 1;
        Slot { id: self.made, buffer, batch }
    }

    /// Takes a buffer back.
    pub fn give(&mut self, slot: Slot) {
        self.used -= slot.buffer.size();
        self.free.entry(slot.buffer.size()).or_default().push(slot);
    }

    /// Frees every buffer that nobody holds.
    pub fn trim(&mut self) {
        let freed: u64 = self.free.drain().map(|(class, slots)| class * slots.len() as u64).sum();
        self.held -= freed;
    }
}

/// The size of the buffer that holds `bytes`: an eighth of a power of two apart, so that a last smaller batch finds
/// the buffers of the full ones, and at most an eighth is wasted.
pub(super) fn size_class(bytes: u64, largest: u64) -> u64 {
    let step = (bytes.next_power_of_two() / 16).max(SMALLEST);
    (bytes.max(1).div_ceil(step) * step).min(largest / 4 * 4).max(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_what_they_must_and_waste_little() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 4, 999_999, 1 << 31]) {
            let class = size_class(bytes, 1 << 31);
            assert!(class >= bytes && class.is_multiple_of(4));
            assert!(class <= (bytes + bytes / 8).max(bytes + SMALLEST), "{bytes} in {class}");
        }
        assert_eq!(size_class(1000, 1000), 1000);
    }
}
