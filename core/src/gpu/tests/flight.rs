//! How far recording runs ahead, and who waits for what.

use super::*;
use std::{pin::pin, task, thread, time::Duration};

/// Launches that take a while each, and wait for one another.
fn slow(x: &GpuBuffer, launches: usize, mut each: impl FnMut()) -> GpuBuffer {
    let mut y = x.clone();
    for _ in 0..launches {
        let next = x.gpu().output(x.len());
        x.gpu().launch(&Kernel::new("slow", SOURCE), &[], &[&y], &[&next], &[0], Size::Threads(x.len()));
        y = next;
        each();
    }
    y
}

/// However far ahead somebody wants to record.
#[test]
fn what_is_in_flight_is_bounded() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[0.5; 640]).unwrap();
    let mut most = 0;
    let y = slow(&x, 5 * LAUNCHES_PER_BATCH, || most = most.max(gpu.statistics().in_flight));
    assert!(most <= LAUNCHES_IN_FLIGHT, "{most}");
    // Copies count as launches do, and so do launches that uploads cut into small batches.
    let mut copy = y.clone();
    for _ in 0..LAUNCHES_IN_FLIGHT {
        copy = gpu.copy(&copy);
        drop(slow(&gpu.upload(&[0.5; 64]).unwrap(), 1, || ()));
        assert!(gpu.statistics().in_flight <= LAUNCHES_IN_FLIGHT, "{:?}", gpu.statistics());
    }
    assert_eq!(copy.read().unwrap(), y.read().unwrap());
    assert_eq!(gpu.statistics().in_flight, 0);
}

/// A driver that waits for all but the last batch by itself, as software does, hides whether recording waits. Where not
/// even the last batch may be under way, it cannot.
#[test]
fn recording_waits_for_what_is_under_way() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[0.5; 640]).unwrap();
    gpu.state().batches_ahead = 0;
    for _ in 0..3 {
        drop(slow(&x, LAUNCHES_PER_BATCH, || ()));
        assert_eq!(gpu.statistics().in_flight, 0);
    }
}

#[test]
fn uploads_are_submitted_without_launches() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let values = vec![1.0; 1 << 20];
    for _ in 0..4 * UPLOADS_PER_BATCH / (4 << 20) {
        gpu.upload(&values).unwrap();
    }
    assert_eq!(gpu.statistics().submissions, 4);
}

/// Counts how often an executor is told to look again.
#[derive(Default)]
struct Woken(AtomicU64);

impl task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls when woken; how often it polled.
fn drive<T>(work: impl Future<Output = T>) -> (T, u64) {
    let (woken, mut work) = (Arc::new(Woken::default()), pin!(work));
    let waker = woken.clone().into();
    let mut polls = 0;
    loop {
        polls += 1;
        if let task::Poll::Ready(done) = work.as_mut().poll(&mut task::Context::from_waker(&waker)) {
            return (done, polls);
        }
        while woken.0.swap(0, Ordering::Relaxed) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn whoever_awaits_is_woken_once() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[0.5; 640]).unwrap();
    let y = slow(&x, LAUNCHES_IN_FLIGHT, || ());
    let (ready, polls) = drive(gpu.ready());
    ready.unwrap();
    assert!(polls <= 4 && gpu.statistics().in_flight <= 2 * LAUNCHES_PER_BATCH, "{polls}, {:?}", gpu.statistics());
    let other = slow(&x, 100, || ());
    let ((values, others), polls) = drive(async { (other.read_async().await, y.read_async().await) });
    assert!((2..=3).contains(&polls), "{polls}");
    assert_eq!((values.unwrap().len(), others.unwrap().len()), (640, 640));
}

/// One thread looks for all who await, and is gone when nobody does.
#[test]
fn many_can_await_at_once() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    for round in 0..20 {
        thread::scope(|scope| {
            for i in 0..8 {
                let x = gpu.upload(&[(round * i) as f32; 64]).unwrap();
                scope.spawn(move || {
                    let read = pollster::block_on(scaled(&x, 2.0).read_async()).unwrap();
                    assert_eq!(read, [2.0 * (round * i) as f32; 64]);
                });
            }
        });
    }
}

/// A future that is dropped harms nobody.
#[test]
fn a_read_can_be_given_up() {
    let Some(gpu) = own(&GpuOptions::default()) else { return };
    let x = gpu.upload(&[0.5; 640]).unwrap();
    for _ in 0..10 {
        let y = slow(&x, 20, || ());
        let mut read = Box::pin(y.read_async());
        assert!(read.as_mut().poll(&mut task::Context::from_waker(task::Waker::noop())).is_pending());
    }
    assert_eq!(scaled(&x, 2.0).read().unwrap(), [1.0; 640]);
}
