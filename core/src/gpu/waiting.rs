//! Waiting for the GPU, by blocking or by awaiting. Browsers call back by themselves, elsewhere a thread must look: one
//! per device, which sleeps in the driver while somebody awaits something and is gone when nobody does.

use super::Gpu;
use crate::{Error, Result};
use std::{
    collections::VecDeque,
    future,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread,
};

/// What a callback of the driver tells, once.
#[derive(Clone, Default)]
pub(super) struct Signal(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    outcome: Option<Result<()>>,
    wakers: Vec<Waker>,
}

impl Signal {
    /// Tells those that wait, unless they were told already.
    pub fn tell(&self, outcome: Result<()>) {
        let mut told = self.lock();
        told.outcome.get_or_insert(outcome);
        let wakers = std::mem::take(&mut told.wakers);
        drop(told);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub fn is_told(&self) -> bool {
        self.lock().outcome.is_some()
    }

    /// What was told, when it is.
    pub async fn told(&self) -> Result<()> {
        future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&self, context: &mut Context) -> Poll<Result<()>> {
        let mut told = self.lock();
        match &told.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                if !told.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    told.wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Work that the driver has, and who is told when it is done.
#[derive(Clone)]
pub(super) struct Submission {
    pub index: wgpu::SubmissionIndex,
    pub done: Signal,
}

impl Submission {
    pub fn is_done(&self) -> bool {
        self.done.is_told()
    }
}

/// The thread that looks for those that await.
#[derive(Default)]
pub(super) struct Lookout {
    awaited: VecDeque<Submission>,
    runs: bool,
}

impl Gpu {
    /// Lets the driver's callbacks run, and waits if told to.
    pub(super) fn poll(&self, how: wgpu::PollType) -> Result<()> {
        // wgpu panics when the device is lost while it waits; to us that is an error like any other.
        let polled = panic::catch_unwind(AssertUnwindSafe(|| self.device().poll(how)));
        if polled.is_err() {
            self.failure().lose("the device was lost while waiting for it");
        }
        self.failure().check()
    }

    /// Blocks until the submission is done.
    pub(super) fn wait(&self, submission: &wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None })
    }

    /// What `submission.done` tells.
    pub(super) async fn wait_async(&self, submission: Submission) -> Result<()> {
        let done = submission.done.clone();
        if cfg!(not(target_arch = "wasm32")) && !submission.is_done() {
            self.look_out(submission)?;
        }
        done.told().await
    }

    fn lookout(&self) -> MutexGuard<'_, Lookout> {
        self.0.lookout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread wait for the submission, whose callbacks run then.
    fn look_out(&self, submission: Submission) -> Result<()> {
        let mut lookout = self.lookout();
        lookout.awaited.push_back(submission);
        if !lookout.runs {
            let gpu = self.clone();
            let look = move || {
                while let Some(submission) = gpu.next_awaited() {
                    if let Err(error) = gpu.wait(&submission.index) {
                        // A lost device may call nobody back.
                        submission.done.tell(Err(error));
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("quarterturn-gpu".into()).spawn(look) {
                lookout.awaited.clear();
                return Err(Error::Gpu(format!("no thread to wait for the GPU: {error}")));
            }
            lookout.runs = true;
        }
        Ok(())
    }

    fn next_awaited(&self) -> Option<Submission> {
        let mut lookout = self.lookout();
        let next = lookout.awaited.pop_front();
        lookout.runs = next.is_some();
        next
    }
}
