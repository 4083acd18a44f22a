//! The runtime on whatever adapter the tests have.

mod cache;
mod errors;
mod flight;

use super::*;
use crate::testing;

const SOURCE: &str = "
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(1) @binding(0) var<uniform> factor: f32;
override offset: f32 = 0.0;
var<workgroup> tile: array<f32, 20000>;

@compute @workgroup_size(64)
fn scale(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
         @builtin(local_invocation_index) lane: u32) {
    let i = (group.y * groups.x + group.x) * 64u + lane;
    if (i < arrayLength(&x)) { y[i] = factor * x[i] + offset; }
}

@compute @workgroup_size(64)
fn scale_in_place(@builtin(global_invocation_id) id: vec3u) {
    if (id.x < arrayLength(&w)) { w[id.x] *= factor; }
}

@compute @workgroup_size(64)
fn greedy(@builtin(global_invocation_id) id: vec3u) {
    tile[id.x] = x[id.x];
    workgroupBarrier();
    y[id.x] = tile[63u - id.x];
}

@compute @workgroup_size(64)
fn astray(@builtin(global_invocation_id) id: vec3u) { y[1000000u * (id.x + 1u)] = x[0]; }

// Keeps a driver busy for a while.
@compute @workgroup_size(64)
fn slow(@builtin(global_invocation_id) id: vec3u) {
    var value = x[id.x];
    for (var i = 0u; i < 3000u; i++) { value = fract(value * 1.5 + factor); }
    y[id.x] = value;
}

struct Pair { first: vec2f, second: f32 }
@group(0) @binding(0) var<storage, read> quads: array<vec4f>;
@group(1) @binding(0) var<uniform> pair: Pair;
@compute @workgroup_size(64)
fn of_quads() { y[0] = quads[0].x * pair.second; }

@group(2) @binding(0) var<storage, read> far: array<f32>;
@compute @workgroup_size(64)
fn elsewhere() { y[0] = far[0]; }
";
const SCALE: Kernel = Kernel::new("scale", SOURCE);
const SCALE_IN_PLACE: Kernel = Kernel::new("scale_in_place", SOURCE);

fn scaled(x: &GpuBuffer, factor: f32) -> GpuBuffer {
    let y = x.gpu().output(x.len());
    x.gpu().launch(&SCALE, &[], &[x], &[&y], &[factor.to_bits()], Size::Threads(x.len()));
    y
}

/// An adapter of a test's own, for tests that break it.
fn own(options: &GpuOptions) -> Option<Gpu> {
    let shared = testing::gpu()?;
    Some(Gpu::open(&GpuOptions { adapter: Some(shared.adapter().name.clone()), ..options.clone() }).unwrap())
}

#[test]
fn values_come_back_as_they_went() {
    let Some(gpu) = testing::gpu() else { return };
    for len in [0, 1, 63, 64, 65, 1_000_003] {
        let values: Vec<f32> = (0..len).map(|i| i as f32 - 0.5).collect();
        let buffer = gpu.upload(&values).unwrap();
        assert_eq!(buffer.len(), len);
        assert_eq!(buffer.read().unwrap(), values);
        assert_eq!(pollster::block_on(buffer.read_async()).unwrap(), values);
        assert_eq!(gpu.copy(&buffer).read().unwrap(), values);
    }
}

#[test]
fn a_software_adapter_says_so() {
    let Some(gpu) = testing::gpu() else { return };
    let text = gpu.to_string();
    assert!(text.contains(&gpu.adapter().name) && text.ends_with("software") == gpu.adapter().software, "{text}");
    if text.contains("llvmpipe") {
        assert!(gpu.adapter().software);
    }
}

#[test]
fn an_unknown_adapter_is_an_error() {
    let options = GpuOptions { adapter: Some("no such adapter".into()), ..GpuOptions::default() };
    assert!(matches!(Gpu::open(&options), Err(Error::NoGpu(message)) if message.contains("no such adapter")));
}

#[test]
fn dropped_buffers_are_used_again() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[1.0; 1000]).unwrap();
    let step = || scaled(&scaled(&scaled(&x, 2.0), 2.0), 2.0);
    step();
    let before = gpu.statistics();
    for _ in 0..10 {
        assert_eq!(step().read().unwrap(), [8.0; 1000]);
    }
    let after = gpu.statistics();
    assert_eq!((after.buffers, after.bytes, after.pipelines), (before.buffers, before.bytes, before.pipelines));
    assert_eq!((after.launches - before.launches, after.read_backs - before.read_backs), (30, 10));
    gpu.trim();
    assert!(gpu.statistics().bytes < before.bytes);
    assert_eq!(step().read().unwrap(), [8.0; 1000]);
}

#[test]
fn the_pool_does_not_grow_with_the_number_of_sizes() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    for len in (1000..100_000).step_by(1000) {
        let values = vec![len as f32; len];
        assert_eq!(scaled(&gpu.upload(&values).unwrap(), 1.0).read().unwrap(), values);
    }
    // The last two buffers, and as much again.
    assert!(gpu.statistics().bytes <= 4 * 4 * 113_000, "{:?}", gpu.statistics());
}

#[test]
fn an_upload_does_not_overtake_recorded_work() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let old = gpu.upload(&[1.0; 100]).unwrap();
    let y = scaled(&old, 3.0);
    drop(old);
    let made = gpu.statistics().buffers;
    let new = gpu.upload(&[7.0; 100]).unwrap();
    assert_eq!(gpu.statistics().buffers, made, "the test needs the old buffer to be used again");
    assert_eq!(y.read().unwrap(), [3.0; 100]);
    assert_eq!(new.read().unwrap(), [7.0; 100]);
}

#[test]
fn launches_keep_their_order_and_uniforms_over_many_batches() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let mut x = gpu.upload(&[1.0]).unwrap();
    let launches = 20 * LAUNCHES_PER_BATCH + 1;
    for i in 0..launches {
        // 2, ½, 3, ⅓, … and one more at the end.
        let n = (i / 2 % 5 + 2) as f32;
        x = scaled(
            &x,
            if i == launches - 1 {
                5.0
            } else if i % 2 == 0 {
                n
            } else {
                1.0 / n
            },
        );
    }
    assert_eq!(gpu.statistics().submissions, 20);
    assert!((x.read().unwrap()[0] - 5.0).abs() < 1e-3);
    assert_eq!(gpu.statistics().submissions, 21);
}

#[test]
fn overrides_make_pipelines_of_their_own() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[1.0, 2.0]).unwrap();
    for offset in [10.0, 20.0, 10.0] {
        let y = gpu.output(2);
        gpu.launch(&SCALE, &[("offset", offset)], &[&x], &[&y], &[1f32.to_bits()], Size::Groups(1));
        assert_eq!(y.read().unwrap(), [1.0 + offset as f32, 2.0 + offset as f32]);
    }
    assert_eq!(gpu.statistics().pipelines, 2);
}

#[test]
fn an_update_in_place_is_seen_by_what_follows() {
    let Some(gpu) = testing::gpu() else { return };
    let w = gpu.upload(&[1.0; 70]).unwrap();
    let before = gpu.copy(&w);
    gpu.launch(&SCALE_IN_PLACE, &[], &[], &[&w], &[4f32.to_bits()], Size::Threads(70));
    assert_eq!(scaled(&w, 0.5).read().unwrap(), [2.0; 70]);
    assert_eq!(before.read().unwrap(), [1.0; 70]);
}

#[test]
fn launches_of_many_groups_are_folded() {
    assert_eq!(fold(65_535, 64, 65_535), Some([65_535, 1]));
    assert_eq!(fold(65_536, 64, 65_535), Some([32_768, 2]));
    assert_eq!(fold(1 << 30, 64, 65_535), None);
    for groups in [65_537, 1_000_003, 60_000_001] {
        let [x, y] = fold(groups, 64, 65_535).unwrap();
        let (x, y) = (x as usize, y as usize);
        assert!(x * y >= groups && x * y < groups + y && x <= 65_535 && y <= 65_535);
    }
    let Some(gpu) = testing::gpu() else { return };
    let len = 65_535 * 64 + 100;
    let x = gpu.upload(&(0..len).map(|i| i as f32).collect::<Vec<_>>()).unwrap();
    let y = scaled(&x, 2.0).read().unwrap();
    assert!((0..len).all(|i| y[i] == 2.0 * i as f32));
}

#[test]
fn threads_share_one_gpu() {
    let Some(gpu) = testing::gpu() else { return };
    std::thread::scope(|scope| {
        for t in 0..4 {
            let gpu = gpu.clone();
            scope.spawn(move || {
                for i in 0..50 {
                    let value = (t * 50 + i) as f32;
                    let x = gpu.upload(&[value; 200]).unwrap();
                    assert_eq!(scaled(&scaled(&x, 3.0), 2.0).read().unwrap(), [6.0 * value; 200]);
                }
            });
        }
    });
}

#[test]
fn findings_are_made_once_and_failures_not_kept() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    struct Finding(u32);
    assert!(gpu.remember::<Finding>(|| Err(Error::Gpu("not now".into()))).is_err());
    let first = gpu.remember(|| Ok(Finding(1))).unwrap();
    let again = gpu.clone().remember(|| Ok(Finding(2))).unwrap();
    assert_eq!((first.0, again.0), (1, 1));
}

/// Every launch is timed, under its kernel and its number of workgroups; what was taken is gone.
#[test]
fn kernels_are_timed() {
    let Some(gpu) = own(&GpuOptions { profile: true, ..GpuOptions::default() }) else { return };
    let (small, large) = (gpu.upload(&[1.0; 64]).unwrap(), gpu.upload(&[2.0; 1000]).unwrap());
    // More than a batch.
    for _ in 0..LAUNCHES_PER_BATCH {
        scaled(&small, 2.0);
        scaled(&large, 2.0);
    }
    assert_eq!(scaled(&large, 3.0).read().unwrap(), [6.0; 1000]);
    let mut times = gpu.take_times();
    assert!(times.is_sorted_by(|a, b| a.seconds >= b.seconds), "{times:?}");
    times.sort_by_key(|time| time.workgroups);
    let counts: Vec<_> = times.iter().map(|time| (time.name, time.workgroups, time.launches)).collect();
    assert_eq!(counts, [("scale", 1, LAUNCHES_PER_BATCH), ("scale", 16, LAUNCHES_PER_BATCH + 1)]);
    assert!(times.iter().all(|time| time.seconds > 0.0 && time.seconds < 10.0), "{times:?}");
    assert_eq!(gpu.take_times(), []);
    let Some(unwatched) = testing::gpu() else { return };
    scaled(&unwatched.upload(&[1.0]).unwrap(), 2.0).read().unwrap();
    assert_eq!(unwatched.take_times(), []);
}
