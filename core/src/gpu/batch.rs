//! Recorded work: launches gather in one compute pass of one encoder until they are worth submitting.

use super::{
    flight::{Flight, LAUNCHES_PER_BATCH, Work},
    pipeline::UNIFORM_BYTES,
    profile::Profile,
    waiting::{Signal, Submission},
};

/// The batch being recorded, and the submissions under way.
pub(super) struct Batch {
    /// Number of this batch; submitted ones have smaller numbers.
    pub number: u64,
    recorded: Work,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    uniforms: Vec<u8>,
    uniform_buffer: wgpu::Buffer,
    uniform_stride: usize,
    under_way: Flight<Submission>,
    /// Only if asked for.
    pub profile: Option<Profile>,
}

impl Batch {
    pub fn new(device: &wgpu::Device, profile: bool) -> Self {
        let uniform_stride = UNIFORM_BYTES.max(device.limits().min_uniform_buffer_offset_alignment as usize);
        let uniform_buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("uniforms"),
            size: (uniform_stride * LAUNCHES_PER_BATCH) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Batch {
            number: 1,
            recorded: Work::default(),
            encoder: None,
            pass: None,
            uniforms: Vec::new(),
            uniform_buffer,
            uniform_stride,
            under_way: Flight::default(),
            profile: profile.then(|| Profile::new(device)),
        }
    }

    /// The buffer that every launch's uniform lies in.
    pub fn uniform_buffer(&self) -> &wgpu::Buffer {
        &self.uniform_buffer
    }

    /// Records a dispatch of the kernel `name`.
    pub fn dispatch(
        &mut self,
        device: &wgpu::Device,
        name: &'static str,
        pipeline: &wgpu::ComputePipeline,
        buffers: &wgpu::BindGroup,
        uniform_group: &wgpu::BindGroup,
        uniform: &[u32],
        groups: [u32; 2],
    ) {
        let offset = self.recorded.launches * self.uniform_stride;
        self.uniforms.resize(offset, 0);
        self.uniforms.extend_from_slice(bytemuck::cast_slice(uniform));
        if self.pass.is_none() {
            let pass = self.encoder(device).begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            self.pass = Some(pass.forget_lifetime());
        }
        if let Some(pass) = &mut self.pass {
            if let Some(profile) = &self.profile {
                profile.begin(pass);
            }
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, buffers, &[]);
            pass.set_bind_group(1, uniform_group, &[offset as u32]);
            pass.dispatch_workgroups(groups[0], groups[1], 1);
            if let Some(profile) = &mut self.profile {
                profile.end(pass, name, u64::from(groups[0]) * u64::from(groups[1]));
            }
        }
        self.recorded.launches += 1;
    }

    /// Records a copy of `bytes` bytes.
    pub fn copy(&mut self, device: &wgpu::Device, from: &wgpu::Buffer, to: &wgpu::Buffer, bytes: u64) {
        // Ends the pass, which holds the encoder.
        self.pass = None;
        self.encoder(device).copy_buffer_to_buffer(from, 0, to, 0, bytes);
        self.recorded.launches += 1;
    }

    /// Counts an upload, which the driver does before the batch.
    pub fn upload(&mut self, bytes: u64) {
        self.recorded.uploads += bytes;
    }

    /// Whether it is worth submitting.
    pub fn is_full(&self) -> bool {
        self.recorded.is_batch()
    }

    /// Launches and copies that are recorded or under way.
    pub fn in_flight(&mut self) -> usize {
        self.under_way.land(Submission::is_done);
        self.recorded.launches + self.under_way.launches()
    }

    /// The submission to wait for, so that no more than so many full batches are under way.
    pub fn too_far(&mut self, batches: usize) -> Option<Submission> {
        self.under_way.land(Submission::is_done);
        self.under_way.too_far(batches)
    }

    fn encoder(&mut self, device: &wgpu::Device) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default()))
    }

    /// Submits what was recorded, if anything.
    pub fn submit(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) -> Option<wgpu::SubmissionIndex> {
        self.pass = None;
        let mut encoder = self.encoder.take();
        if encoder.is_none() && self.recorded.uploads == 0 {
            return None;
        }
        if let (Some(profile), Some(encoder)) = (&self.profile, &mut encoder) {
            profile.resolve(encoder);
        }
        // Written before the batch runs and after the previous one has run, as the queue keeps its order.
        if !self.uniforms.is_empty() {
            queue.write_buffer(&self.uniform_buffer, 0, &self.uniforms);
        }
        let index = queue.submit(encoder.map(|encoder| encoder.finish()));
        let done = Signal::default();
        let told = done.clone();
        queue.on_submitted_work_done(move || told.tell(Ok(())));
        self.under_way.take_off(Submission { index: index.clone(), done }, std::mem::take(&mut self.recorded));
        if let Some(profile) = &mut self.profile {
            profile.collect(device, queue);
        }
        self.uniforms.clear();
        self.number += 1;
        Some(index)
    }
}
