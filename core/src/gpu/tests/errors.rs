//! What goes wrong, and whom it reaches.

use super::*;

#[test]
fn what_is_too_large_is_refused_clearly() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let most = gpu.0.limits.max_storage_buffer_binding_size.min(gpu.0.limits.max_buffer_size);
    // Four times the last ones are 4, 0 and a little below 0 in 64 bits.
    for len in [most as usize / 4 + 1, (1 << 62) + 1, 1 << 62, usize::MAX] {
        assert!(matches!(gpu.alloc(len), Err(Error::TooLarge(message)) if message.contains("binds at most")), "{len}");
        assert!(matches!(gpu.output(len).read(), Err(Error::TooLarge(_))), "{len}");
    }
    // What reads the refused tensor is as meaningless as it is.
    let y = gpu.output(1);
    gpu.launch(&SCALE, &[], &[&gpu.output(usize::MAX)], &[&y], &[0], Size::Threads(1));
    for _ in 0..2 {
        assert!(matches!(y.check(), Err(Error::TooLarge(_))));
        assert!(matches!(y.read(), Err(Error::TooLarge(_))));
        assert!(matches!(gpu.copy(&y).read(), Err(Error::TooLarge(_))));
    }

    let x = gpu.upload(&[1.0; 64]).unwrap();
    let y = gpu.output(64);
    gpu.launch(&Kernel::new("greedy", SOURCE).workgroup(64, 1 << 30), &[], &[&x], &[&y], &[], Size::Groups(1));
    assert!(matches!(y.read(), Err(Error::TooLarge(message)) if message.contains("workgroup memory")));
    assert!(matches!(gpu.alloc(1), Ok(buffer) if buffer.len() == 1));
    assert_eq!(scaled(&x, 1.0).read().unwrap(), [1.0; 64]);
}

/// Whoever fails is told, at once, and nobody else.
#[test]
fn errors_reach_whom_they_concern() {
    let Some(gpu) = own(&GpuOptions { memory_limit: Some(1 << 20), ..GpuOptions::default() }) else { return };
    let (mine, other) = (gpu.upload(&[3.0; 10]).unwrap(), gpu.clone());
    assert!(matches!(other.alloc(1 << 20), Err(Error::OutOfMemory(_))));
    assert!(matches!(other.upload(&vec![0.0; 1 << 20]), Err(Error::OutOfMemory(_))));
    drop((other.output(1 << 20), other.constant(&vec![0.0; 1 << 20])));
    other.launch(&Kernel::new("missing", SOURCE), &[], &[&mine], &[&other.output(1)], &[], Size::Threads(1));
    gpu.check().unwrap();
    assert_eq!(mine.read().unwrap(), [3.0; 10]);
    assert_eq!(pollster::block_on(scaled(&mine, 2.0).read_async()).unwrap(), [6.0; 10]);
}

#[test]
fn running_out_of_memory_is_an_error_that_passes() {
    let Some(gpu) = own(&GpuOptions { memory_limit: Some(1 << 20), ..GpuOptions::default() }) else { return };
    let x = gpu.upload(&vec![1.0; 100_000]).unwrap();
    let y = scaled(&x, 2.0);
    let refused = scaled(&y, 2.0);
    assert_eq!(y.read().unwrap(), [2.0; 100_000]);
    assert!(matches!(refused.read(), Err(Error::OutOfMemory(_))));
    assert!(matches!(gpu.upload(&vec![1.0; 200_000]), Err(Error::OutOfMemory(_))));
    drop(y);
    // Room again, in the pool and, for another size, by freeing the pool.
    assert_eq!(scaled(&x, 3.0).read().unwrap(), [3.0; 100_000]);
    assert_eq!(gpu.upload(&vec![4.0; 140_000]).unwrap().read().unwrap(), [4.0; 140_000]);
    assert!(gpu.statistics().bytes <= 1 << 20);
    assert!(matches!(refused.read(), Err(Error::OutOfMemory(_))), "that buffer never means anything");
}

/// Every call of a device that failed says so, again and again; another device is not concerned.
fn assert_failed(gpu: &Gpu, x: &GpuBuffer, expected: fn(&Error) -> bool) {
    for _ in 0..3 {
        let outcomes = [
            gpu.check(),
            x.read().map(drop),
            pollster::block_on(x.read_async()).map(drop),
            pollster::block_on(gpu.ready()),
            gpu.alloc(10).map(drop),
            gpu.upload(&[1.0]).map(drop),
            gpu.output(10).check(),
            gpu.constant(&[1.0]).read().map(drop),
            scaled(x, 2.0).check(),
            gpu.copy(x).read().map(drop),
            gpu.prepare(&SCALE, &[], 1, 1),
        ];
        for (i, outcome) in outcomes.into_iter().enumerate() {
            assert!(outcome.as_ref().is_err_and(expected), "call {i}: {outcome:?}");
        }
    }
    let again = own(&GpuOptions::default()).unwrap();
    assert_eq!(scaled(&again.upload(&[1.0; 10]).unwrap(), 2.0).read().unwrap(), [2.0; 10]);
}

#[test]
fn a_lost_device_is_an_error_and_another_can_be_opened() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[1.0; 10]).unwrap();
    let y = scaled(&x, 2.0);
    gpu.device().destroy();
    assert!(matches!(y.read(), Err(Error::DeviceLost(_))));
    assert_failed(&gpu, &x, |error| matches!(error, Error::DeviceLost(_)));
}

/// What the driver refuses outside of any call, as a browser does with a shader that does not compile.
#[test]
fn an_error_that_nobody_caught_is_never_forgotten() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[1.0; 10]).unwrap();
    let source = wgpu::ShaderSource::Wgsl("fn broken( {".into());
    let _ = gpu.device().create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
    assert_failed(&gpu, &x, |error| matches!(error, Error::Gpu(message) if message.contains("open another `Gpu`")));
}

/// A launch that does not fit its shader is an error with the kernel's name, and the launches around it run.
#[test]
fn launches_that_do_not_fit_are_errors_of_their_own() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let (one, x) = (gpu.upload(&[1.0]).unwrap(), gpu.upload(&[1.0; 64]).unwrap());
    let before = scaled(&x, 2.0);
    let factor = &[1f32.to_bits()][..];
    let named = |name| Kernel::new(name, SOURCE);
    type Case<'a> = (Kernel, &'a [(&'static str, f64)], &'a [&'a GpuBuffer], usize, &'a [u32], &'a str);
    let cases: [Case; 14] = [
        (Kernel::new("broken", "fn broken( {"), &[], &[&x], 1, factor, "broken: error: expected"),
        (Kernel::new("wrong", "fn wrong() -> f32 { return 1u; }"), &[], &[&x], 1, factor, "wrong: error:"),
        (named("missing"), &[], &[&x], 1, factor, "missing: expected a compute entry point of this name"),
        (SCALE, &[], &[], 1, factor, "scale: binding 0 is read; of 0 inputs and 1 outputs it is read_write"),
        (SCALE, &[], &[&x, &x], 1, factor, "scale: binding 1 is read_write; of 2 inputs and 1 outputs it is read"),
        (SCALE, &[], &[], 2, factor, "scale: binding 0 is read; of 0 inputs and 2 outputs it is read_write"),
        (SCALE, &[], &[&x], 1, &[], "scale: its uniform has 4 bytes, the launch gives it 0"),
        (SCALE, &[("no such", 1.0)], &[&x], 1, factor, "scale: pipeline-overridable constant 'no such'"),
        (SCALE, &[("offset", f64::NAN)], &[&x], 1, factor, "scale: "),
        (SCALE.workgroup(32, 0), &[], &[&x], 1, factor, "scale: stated are 32 invocations per workgroup, its source"),
        (named("greedy"), &[], &[&x], 1, &[], "greedy: stated are 0 bytes of workgroup memory, its source has 80000"),
        (named("of_quads"), &[], &[&one], 1, &[0; 3], "of_quads: binding 0 has at least 16 bytes, its buffer 4"),
        (named("of_quads"), &[], &[&x], 1, &[0; 2], "of_quads: its uniform has 12 bytes, the launch gives it 8"),
        (named("elsewhere"), &[], &[&x], 1, &[], "elsewhere: expected storage in group 0"),
    ];
    for (kernel, overrides, inputs, outputs, uniform, expected) in cases {
        let outputs: Vec<GpuBuffer> = (0..outputs).map(|_| gpu.output(64)).collect();
        gpu.launch(&kernel, overrides, inputs, &outputs.iter().collect::<Vec<_>>(), uniform, Size::Groups(1));
        for output in &outputs {
            let error = output.check().expect_err(expected).to_string();
            assert!(error.contains(expected), "expected {expected}, got {error}");
            assert!(output.read().is_err());
        }
        // What does not depend on lengths is said without a launch.
        let prepared = gpu.prepare(&kernel, overrides, inputs.len(), outputs.len());
        let by_length = expected.contains("the launch gives it") || expected.contains("its buffer");
        assert_eq!(prepared.is_err(), !by_length, "{expected}");
    }
    gpu.prepare(&SCALE, &[("offset", 1.0)], 1, 1).unwrap();
    let quad = gpu.output(1);
    gpu.launch(&named("of_quads"), &[], &[&x], &[&quad], &[0, 0, 5f32.to_bits()], Size::Groups(1));
    assert_eq!((quad.read().unwrap()[0], before.read().unwrap()), (5.0, vec![2.0; 64]));
    gpu.check().unwrap();
}

/// A kernel stays in its buffers, also if somebody has vouched for another one of its source.
#[test]
fn a_kernel_that_goes_astray_stays_in_its_buffers() {
    if testing::gpu().is_none() {
        return;
    }
    // SAFETY: this kernel stays within its arrays. (The other one of the source is not launched without checks.)
    let vouched = unsafe { SCALE.with_checks(Checks::None) };
    for checked_first in [true, false] {
        let gpu = own(&GpuOptions::default()).unwrap();
        let (x, y, z) = (gpu.upload(&[7.0]).unwrap(), gpu.output(64), gpu.output(1));
        let astray = || gpu.launch(&Kernel::new("astray", SOURCE), &[], &[&x], &[&y], &[], Size::Groups(1));
        let scale = || gpu.launch(&vouched, &[], &[&x], &[&z], &[2f32.to_bits()], Size::Threads(1));
        if checked_first {
            astray();
            scale();
        } else {
            scale();
            astray();
        }
        assert_eq!((x.read().unwrap(), z.read().unwrap(), y.read().unwrap().len()), (vec![7.0], vec![14.0], 64));
        assert_eq!(gpu.state().pipelines.modules(), 2, "with checks and without are two modules");
    }
}

/// What contradicts a launch's contract panics, before anything is recorded.
#[test]
fn launches_against_their_contract_are_refused() {
    let (Some(gpu), Some(other)) = (own(&GpuOptions::default()), testing::gpu()) else { return };
    let (x, y) = (gpu.upload(&[1.0]).unwrap(), gpu.output(1));
    let foreign = other.upload(&[1.0]).unwrap();
    let refused = |inputs: &[&GpuBuffer], outputs: &[&GpuBuffer], uniform: &[u32]| {
        let launch = || gpu.launch(&SCALE, &[], inputs, outputs, uniform, Size::Threads(1));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(launch)).expect_err("a launch");
        panic.downcast_ref::<String>().unwrap().clone()
    };
    assert_eq!(refused(&[&x], &[&x], &[0]), "scale: output 0 is bound twice");
    assert_eq!(refused(&[&x], &[&y, &y], &[0]), "scale: output 1 is bound twice");
    assert_eq!(refused(&[&foreign], &[&y], &[0]), "scale: a buffer of another GPU");
    assert_eq!(refused(&[&x], &[&y], &[0; 65]), "scale: uniform of 65 words");
    assert_eq!((gpu.statistics().launches, scaled(&x, 2.0).read().unwrap()), (0, vec![2.0]));
}
