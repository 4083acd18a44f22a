//! How much work is under way, and what to wait for so that it stays bounded.

use std::collections::VecDeque;

/// Launches per submission: enough to hide its cost, few enough that the GPU starts early.
pub(super) const LAUNCHES_PER_BATCH: usize = 128;
/// Bytes of uploads per submission: the driver keeps a copy of them until it has run.
pub(super) const UPLOADS_PER_BATCH: u64 = 32 << 20;
/// Full batches under way beyond which the host waits: one that runs and one that follows keep a GPU busy, while the
/// next is recorded.
pub(super) const BATCHES_AHEAD: usize = 2;

/// How much a batch is, or several are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Launches and copies.
    pub launches: usize,
    /// Bytes of uploads.
    pub uploads: u64,
}

impl Work {
    /// Whether it is worth submitting.
    pub fn is_batch(self) -> bool {
        self.launches >= LAUNCHES_PER_BATCH || self.uploads >= UPLOADS_PER_BATCH
    }

    fn exceeds(self, batches: usize) -> bool {
        self.launches > batches * LAUNCHES_PER_BATCH || self.uploads > batches as u64 * UPLOADS_PER_BATCH
    }
}

/// Submissions under way, in their order.
pub(super) struct Flight<T> {
    submissions: VecDeque<(T, Work)>,
    sum: Work,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Flight { submissions: VecDeque::new(), sum: Work::default() }
    }
}

impl<T: Clone> Flight<T> {
    pub fn take_off(&mut self, submission: T, work: Work) {
        // At least 1, so that submissions of nothing but a small upload are bounded too.
        let work = Work { launches: work.launches.max(1), ..work };
        self.sum.launches += work.launches;
        self.sum.uploads += work.uploads;
        self.submissions.push_back((submission, work));
    }

    /// Forgets the first submissions as far as they are done.
    pub fn land(&mut self, is_done: impl Fn(&T) -> bool) {
        while let Some((_, work)) = self.submissions.pop_front_if(|(first, _)| is_done(first)) {
            self.sum.launches -= work.launches;
            self.sum.uploads -= work.uploads;
        }
    }

    /// Launches and copies under way.
    pub fn launches(&self) -> usize {
        self.sum.launches
    }

    /// The submission to wait for, so that no more is under way than so many full batches, or as many submissions,
    /// if these are larger.
    pub fn too_far(&self, batches: usize) -> Option<T> {
        let (mut last, mut rest) = (None, self.sum);
        let may_land = self.submissions.len().saturating_sub(batches);
        for (submission, work) in self.submissions.iter().take(may_land) {
            if !rest.exceeds(batches) {
                break;
            }
            rest.launches -= work.launches;
            rest.uploads -= work.uploads;
            last = Some(submission.clone());
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAUNCHES: Work = Work { launches: LAUNCHES_PER_BATCH, uploads: 0 };

    /// Submits one after the other, and waits when told to; the most launches and uploads that were under way.
    fn run(works: impl IntoIterator<Item = Work>) -> Work {
        let mut flight = Flight::default();
        let mut most = Work::default();
        for (i, work) in works.into_iter().enumerate() {
            flight.take_off(i, work);
            if let Some(behind) = flight.too_far(BATCHES_AHEAD) {
                flight.land(|&submission| submission <= behind);
            }
            assert_eq!(flight.too_far(BATCHES_AHEAD), None, "one wait is enough");
            most.launches = most.launches.max(flight.launches());
            most.uploads = most.uploads.max(flight.sum.uploads);
        }
        flight.land(|_| true);
        assert_eq!(flight.sum, Work::default());
        most
    }

    #[test]
    fn a_gpu_is_kept_busy_and_no_more() {
        assert_eq!(run([LAUNCHES; 20]).launches, 2 * LAUNCHES_PER_BATCH);
        // Batches that uploads or reads cut short: as many launches, in more submissions.
        let short = (0..5000).map(|i| Work { launches: 1 + i % 50, uploads: 100 });
        let most = run(short).launches;
        assert!((2 * LAUNCHES_PER_BATCH - 50..=2 * LAUNCHES_PER_BATCH).contains(&most), "{most}");
        assert_eq!(run([Work { launches: 0, uploads: 4 }; 5000]).launches, 2 * LAUNCHES_PER_BATCH);
    }

    #[test]
    fn uploads_are_bounded_too() {
        let upload = |uploads| Work { launches: 10, uploads };
        assert_eq!(run([upload(UPLOADS_PER_BATCH); 20]).uploads, 2 * UPLOADS_PER_BATCH);
        // Of large ones two, so that the GPU does not stand still.
        assert_eq!(run([upload(500 << 20); 20]).uploads, 1000 << 20);
        assert!(
            upload(UPLOADS_PER_BATCH).is_batch() && !upload(UPLOADS_PER_BATCH - 1).is_batch() && LAUNCHES.is_batch()
        );
    }
}
