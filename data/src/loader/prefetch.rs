//! A window that moves through an epoch: images within it are made by whichever thread is free.
//!
//! Places in the epoch are begun in order, one by one. A task on the loader's threads begins the next place that may
//! be begun, makes its image and lays it down; so does the thread that waits for images, for as long as one of those
//! is not yet begun. What remains to wait for is then being made by a running thread, which waits for nobody: hence no
//! deadlock, with any number of threads or none, wherever the waiting thread comes from.
//!
//! The threads are not those of rayon's global pool: what computes there would queue behind all the images of a
//! window.

use crate::{Dice, Image, Samples, Target, Transform};
use quarterturn_core::{Error, Result, Stream};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

/// The stream that augments images.
const AUGMENT: u32 = u32::from_be_bytes(*b"augm");
/// Blocks of random numbers reserved for one image.
const PER_IMAGE: u64 = 1 << 16;

/// What became of an image and its target; `Err` is a panic.
type Made = thread::Result<Result<(Image, Target)>>;

/// The threads of a loader, started when they are first needed.
pub struct Threads {
    number: usize,
    pool: OnceLock<std::result::Result<ThreadPool, String>>,
}

impl Threads {
    pub fn new(number: usize) -> Self {
        Threads { number, pool: OnceLock::new() }
    }

    /// The pool, unless there are to be no threads.
    fn pool(&self) -> Result<Option<&ThreadPool>> {
        if self.number == 0 {
            return Ok(None);
        }
        let start = || {
            let builder = ThreadPoolBuilder::new().num_threads(self.number).thread_name(|i| format!("loader-{i}"));
            builder.build().map_err(|e| format!("{} threads to load images: {e}", self.number))
        };
        self.pool.get_or_init(start).as_ref().map(Some).map_err(|message| Error::OutOfMemory(message.clone()))
    }
}

/// The images of one epoch, in order.
pub struct Prefetch {
    threads: Arc<Threads>,
    work: Arc<Work>,
}

struct Work {
    samples: Arc<dyn Samples>,
    transforms: Vec<Transform>,
    stream: Stream,
    /// Which image stands at each place.
    order: Vec<usize>,
    window: Mutex<Window>,
    complete: Condvar,
}

/// Places in the epoch: `start ≤ begun ≤ limit`.
#[derive(Default)]
struct Window {
    /// The first place that has not been taken.
    start: usize,
    /// The first place that nobody has begun.
    begun: usize,
    /// Places from here on may not be begun.
    limit: usize,
    /// Tasks that the threads have been given and not started.
    tasks: usize,
    /// The end of the places that somebody waits for, and how many of them are not made.
    awaited: usize,
    missing: usize,
    /// What was made, from `start` on.
    made: VecDeque<Option<Made>>,
}

impl Prefetch {
    pub fn new(
        threads: Arc<Threads>,
        samples: Arc<dyn Samples>,
        transforms: Vec<Transform>,
        order: Vec<usize>,
        seed: u64,
        epoch: u32,
    ) -> Self {
        let stream = Stream::new(seed, AUGMENT, epoch);
        let (window, complete) = (Mutex::default(), Condvar::new());
        let work = Arc::new(Work { samples, transforms, stream, order, window, complete });
        Prefetch { threads, work }
    }

    pub fn len(&self) -> usize {
        self.work.order.len()
    }

    pub fn order(&self) -> &[usize] {
        &self.work.order
    }

    pub fn samples(&self) -> &dyn Samples {
        &*self.work.samples
    }

    /// Leaves out the places before `place`.
    pub fn pass(&self, place: usize) {
        self.work.window().pass(place);
    }

    /// The images at all places before `end` that have not been taken, while those before `limit` may be begun.
    /// All of them are made, or have failed, before an error is returned: that of the first place that has one.
    pub fn take(&self, end: usize, limit: usize) -> Result<Vec<(Image, Target)>> {
        let pool = self.threads.pool()?;
        let tasks = self.work.open(end, limit);
        if let Some(pool) = pool {
            for _ in 0..tasks {
                let work = self.work.clone();
                pool.spawn(move || work.run());
            }
        }
        let made = self.work.wait(end);
        made.into_iter().map(|made| made.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    }
}

impl Drop for Prefetch {
    /// What has been begun is finished by whoever does it; nothing else is.
    fn drop(&mut self) {
        self.pass(self.len());
    }
}

impl Work {
    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Widens the window, and says how many tasks are lacking for a task to come to every place that may be begun.
    fn open(&self, end: usize, limit: usize) -> usize {
        let mut window = self.window();
        window.limit = window.limit.max(limit.min(self.order.len()));
        let made = window.made.iter().take(end - window.start).filter(|made| made.is_some()).count();
        window.awaited = end;
        window.missing = end - window.start - made;
        let lacking = (window.limit - window.begun).saturating_sub(window.tasks);
        window.tasks += lacking;
        lacking
    }

    /// A task: one place, if there is one left to be begun.
    fn run(&self) {
        let mut window = self.window();
        window.tasks -= 1;
        let place = window.begin(usize::MAX);
        drop(window);
        if let Some(place) = place {
            self.make(place);
        }
    }

    /// What stands at the places before `end`, once all of them are made; helps to make them.
    fn wait(&self, end: usize) -> Vec<Made> {
        let mut window = self.window();
        while window.missing > 0 {
            if let Some(place) = window.begin(end) {
                drop(window);
                self.make(place);
                window = self.window();
            } else {
                window = self.complete.wait(window).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let taken = end - window.start;
        window.start = end;
        window.made.drain(..taken).flatten().collect()
    }

    fn make(&self, place: usize) {
        let made = catch_unwind(AssertUnwindSafe(|| self.image(self.order[place])));
        let mut window = self.window();
        if window.lay(place, made) {
            self.complete.notify_all();
        }
    }

    fn image(&self, index: usize) -> Result<(Image, Target)> {
        let named = |error| match error {
            Error::Invalid(message) => Error::Invalid(format!("{}: {message}", self.samples.describe(index))),
            other => other,
        };
        let mut dice = Dice::new(self.stream, index as u64 * PER_IMAGE);
        let (mut image, mut target) = (self.samples.decode(index)?, self.samples.target(index)?);
        if let Target::Mask(mask) = &target {
            expect_mask(mask, &image).map_err(named)?;
        }
        for transform in &self.transforms {
            // With the same draws as the image.
            if let Target::Mask(mask) = target {
                target = Target::Mask(transform.apply_to_mask(mask, &mut dice.clone()).map_err(named)?);
            }
            image = transform.apply(image, &mut dice).map_err(named)?;
        }
        Ok((image, target))
    }
}

fn expect_mask(mask: &Image, image: &Image) -> Result<()> {
    let ([_, height, width], found) = (image.extents(), mask.extents());
    if found == [1, height, width] {
        return Ok(());
    }
    let [channels, h, w] = found;
    Err(Error::Invalid(format!("a mask of {channels}x{h}x{w} for an image of {height}x{width}")))
}

impl Window {
    /// The next place before `end`, if one may be begun.
    fn begin(&mut self, end: usize) -> Option<usize> {
        let place = self.begun;
        (place < end.min(self.limit)).then(|| {
            self.begun += 1;
            place
        })
    }

    /// Keeps what was made at a place, unless nobody wants it any more, and says whether it was the last that
    /// somebody waits for.
    fn lay(&mut self, place: usize, made: Made) -> bool {
        let Some(at) = place.checked_sub(self.start) else { return false };
        if self.made.len() <= at {
            self.made.resize_with(at + 1, || None);
        }
        self.made[at] = Some(made);
        if place < self.awaited {
            self.missing -= 1;
        }
        self.missing == 0
    }

    fn pass(&mut self, place: usize) {
        let passed = place.saturating_sub(self.start).min(self.made.len());
        self.made.drain(..passed);
        self.start = self.start.max(place);
        self.begun = self.begun.max(place);
        self.limit = self.limit.max(place);
    }
}
