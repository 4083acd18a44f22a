//! How long each kernel runs, by the GPU's own clock.

use super::flight::LAUNCHES_PER_BATCH;
use std::collections::BTreeMap;

/// What the launches of a kernel over the same number of workgroups took together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel's entry point.
    pub name: &'static str,
    /// Workgroups of each launch.
    pub workgroups: u64,
    /// Number of launches.
    pub launches: usize,
    /// Seconds from the end of the launch before to the end of this, added up.
    pub seconds: f64,
}

/// Time stamps of the batch being recorded, and what those before came to.
pub(super) struct Profile {
    stamps: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    launches: Vec<(&'static str, u64)>,
    times: BTreeMap<(&'static str, u64), (usize, f64)>,
}

impl Profile {
    /// What an adapter must have.
    pub const FEATURES: wgpu::Features =
        wgpu::Features::TIMESTAMP_QUERY.union(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES);

    pub fn new(device: &wgpu::Device) -> Self {
        let count = LAUNCHES_PER_BATCH as u32 + 1;
        let buffer = |usage| {
            let size = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("stamps"),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        Profile {
            stamps: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("stamps"),
                ty: wgpu::QueryType::Timestamp,
                count,
            }),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            staging: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            launches: Vec::new(),
            times: BTreeMap::new(),
        }
    }

    /// Stamps the time before a batch's first launch.
    pub fn begin(&self, pass: &mut wgpu::ComputePass) {
        if self.launches.is_empty() {
            pass.write_timestamp(&self.stamps, 0);
        }
    }

    /// Stamps the time after a launch.
    pub fn end(&mut self, pass: &mut wgpu::ComputePass, name: &'static str, workgroups: u64) {
        self.launches.push((name, workgroups));
        pass.write_timestamp(&self.stamps, self.launches.len() as u32);
    }

    /// Records that the stamps are to be brought to the host.
    pub fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if !self.launches.is_empty() {
            let count = self.launches.len() as u32 + 1;
            encoder.resolve_query_set(&self.stamps, 0..count, &self.resolved, 0);
            let bytes = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.staging, 0, bytes);
        }
    }

    /// Waits for the batch that was just submitted, and adds up its times. Those of a lost device are forgotten.
    pub fn collect(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
        if self.launches.is_empty() {
            return;
        }
        let launches = std::mem::take(&mut self.launches);
        let range = self.staging.slice(..);
        range.map_async(wgpu::MapMode::Read, |_| ());
        if device.poll(wgpu::PollType::wait_indefinitely()).is_err() {
            return;
        }
        if let Ok(mapped) = range.get_mapped_range() {
            let stamps: &[u64] = bytemuck::cast_slice(&mapped);
            let period = f64::from(queue.get_timestamp_period()) / 1e9;
            for (launch, ends) in launches.into_iter().zip(stamps.windows(2)) {
                let (count, seconds) = self.times.entry(launch).or_default();
                *count += 1;
                *seconds += ends[1].saturating_sub(ends[0]) as f64 * period;
            }
        }
        self.staging.unmap();
    }

    /// What was added up so far, the longest first; forgets it.
    pub fn take(&mut self) -> Vec<KernelTime> {
        let times = std::mem::take(&mut self.times).into_iter();
        let mut times: Vec<KernelTime> = times
            .map(|((name, workgroups), (launches, seconds))| KernelTime { name, workgroups, launches, seconds })
            .collect();
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        times
    }
}
