//! Micro-batches that go through the network side by side, because their norms share statistics (synchronised batch norm).
//!
//! Each micro-batch has a thread of its own with a tape of its own. At a norm, forward and backward, a thread hands over its sums and
//! waits. The thread that has started them adds the sums in the tree of [`super::ranks`], over the other ranks too, and hands the total
//! back. No other thread talks to other ranks.

use super::ranks::{NOTHING, Ranks, add_over_ranks, tree};
use quarterturn_autograd::Parts;
use quarterturn_core::{Error, Result, Share};
use std::{
    panic::resume_unwind,
    rc::Rc,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

/// The micro-batches of one step.
pub(super) struct Step<'a> {
    /// Which of the step's places are this rank's.
    pub share: Share,
    /// How many micro-batches the step has, on all ranks.
    pub micro_batches: usize,
    /// The most channels that a norm has.
    pub channels: usize,
    pub ranks: &'a dyn Ranks,
}

/// What the thread of a micro-batch has of the others.
struct Seat {
    images: usize,
    hand_over: Sender<Result<Vec<f64>>>,
    total: Receiver<Vec<f64>>,
}

/// The other ends.
struct Place {
    own: Receiver<Result<Vec<f64>>>,
    hand_back: Sender<Vec<f64>>,
}

impl Parts for Seat {
    fn sum(&self, own: Result<Vec<f64>>) -> Option<Vec<f64>> {
        self.hand_over.send(own).ok()?;
        self.total.recv().ok()
    }

    fn weight(&self) -> f64 {
        self.images as f64
    }
}

impl Step<'_> {
    /// What `work` makes of each of this rank's micro-batches, given its number among them and the others. `images` are how many each
    /// has. A rank that has none takes part in the sums.
    ///
    /// # Errors
    /// The first error of `work`; else as [`Ranks::exchange`].
    pub fn run<T: Send>(
        &self,
        images: &[usize],
        work: impl Fn(usize, Rc<dyn Parts>) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let work = &work;
        thread::scope(|scope| {
            let start = |(n, &images): (usize, &usize)| {
                let ((hand_over, own), (hand_back, total)) = (channel(), channel());
                let made = scope.spawn(move || work(n, Rc::new(Seat { images, hand_over, total })));
                (Place { own, hand_back }, made)
            };
            let (places, threads): (Vec<_>, Vec<_>) = images.iter().enumerate().map(start).unzip();
            let met = self.meet(places);
            let made = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            let made = made.collect::<Result<Vec<T>>>()?;
            met.map(|()| made)
        })
    }

    /// Adds up at one norm after the other, until all micro-batches are through.
    fn meet(&self, places: Vec<Place>) -> Result<()> {
        // How many micro-batches have come, and with how many numbers in all; then their sums.
        const HEAD: usize = 2;
        let message = |head: [f64; HEAD], sums: &[f64]| {
            let mut message = [&head[..], sums].concat();
            message.resize(HEAD + 1 + 2 * self.channels, f64::from(NOTHING));
            message
        };
        let add = |mut a: Vec<f64>, b: Vec<f64>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            Ok(a)
        };
        loop {
            let mut come = |place: usize| match places.get(place - self.share.first()).map(|place| place.own.recv()) {
                Some(Ok(own)) => own.map(|own| Some(message([1.0, own.len() as f64], &own))),
                // It is through, or has failed, or there is none.
                Some(Err(_)) | None => Ok(None),
            };
            let own = tree(self.share.first(), self.share.places(), &mut come, &add)?;
            let mut sums = own.unwrap_or_else(|| message([f64::from(NOTHING); HEAD], &[]));
            add_over_ranks(self.ranks, &mut sums)?;
            let [here, numbers] = [sums[0], sums[1]];
            if here == 0.0 {
                return Ok(());
            }
            if here != self.micro_batches as f64 {
                let all = self.micro_batches;
                return Err(Error::Invalid(format!(
                    "{here} of {all} micro-batches have come to a norm; the others have failed"
                )));
            }
            let total = &sums[HEAD..][..(numbers / here) as usize];
            for place in &places {
                // One that has gone since does not want it.
                let _ = place.hand_back.send(total.to_vec());
            }
        }
    }
}
