//! The test of a trained network at every angle.
//!
//! A quarter turn of an exact network needs no evaluation of its own. The images turned by `a + 90°` are those turned by `a`,
//! turned by 90°, to the last bit: the rotation splits off whole quarter turns and permutes pixels by them, the resizing comes
//! before it, and CircleCrop, which comes behind, compares whole numbers that a turn leaves alone. An exact network has the same
//! logits for both. So the first quarter of the angles decides all of them. It is not taken for granted: the checker must call
//! the network exact at this size, and the logits of some hundred test images, each turned by one of the angles, must be the same
//! (`==`) after each further quarter turn.

use super::{Bench, Protocol, Trial};
use crate::{answers, files, fingerprint, runner::Context};
use quarterturn::{
    core::{Device, Error, Result, Tensor},
    data::Dataset,
    models::{Exactness, Network, training::Tally},
};
use serde::{Deserialize, Serialize};

/// Test digits that are counted together: on the CPU about two seconds' work, on a GPU as many as one buffer holds.
const SLICE: [usize; 2] = [250, 1000];
/// Test digits on which each trained network is asked whether a turn changes a bit of its logits.
const PROBES: usize = 256;
/// The state of that name.
pub(super) const TEST: &str = "test";
/// Bytes that the file of a network has at most.
const LONGEST: u64 = 1 << 26;

/// What a test comes to.
pub(super) struct Counts {
    /// Digits recognised, by angle.
    pub correct: Vec<u64>,
    /// Digits without an answer, by angle; empty if there is none.
    pub unanswered: Vec<u64>,
    /// Whether quarter turns leave every bit of the logits.
    pub exact: bool,
    /// Whether the counts from 90° on are those of the first quarter.
    pub derived: bool,
}

/// How far a test is.
#[derive(Serialize, Deserialize)]
struct Standing {
    /// The fingerprint of the network's file.
    network: String,
    /// Digits tested, the first ones.
    digits: usize,
    /// Of these recognised, by angle.
    correct: Vec<u64>,
    /// Whether some have no answer.
    has_unanswered: bool,
}

impl Bench<'_> {
    /// How many of the digits the network recognises at each angle; `per_view` is how long a digit takes at one.
    pub(super) fn test(
        &self,
        network: &dyn Network,
        trial: &Trial,
        per_view: f64,
        context: &mut Context,
    ) -> Result<Option<Counts>> {
        let test = self.test_digits(trial.task.classes)?;
        let all = self.degrees.len();
        let probes = self.quarter().unwrap_or(1);
        let exact = self.turns_leave_every_bit(network, trial, &test, probes)?;
        let by_checker = Exactness::of(network, [trial.subject.size; 2])?.is_exact();
        let mut views = match self.quarter() {
            Some(quarter) if exact && by_checker => quarter,
            _ => all,
        };
        // What is kept of a test at all angles is gone on with.
        if context.kept::<Standing>(TEST)?.is_some_and(|kept| kept.correct.len() == all) {
            views = all;
        }
        loop {
            let Some((mut correct, has_unanswered)) =
                self.count_all(network, trial, &test, views, per_view, context)?
            else {
                return Ok(None);
            };
            // Logits that are no numbers are equal to nothing: then nothing is derived.
            if has_unanswered && views < all {
                views = all;
                continue;
            }
            let derived = views < all;
            correct = correct.iter().copied().cycle().take(all).collect();
            let unanswered = if has_unanswered { self.unanswered(network, trial, &test)? } else { Vec::new() };
            return Ok(Some(Counts { correct, unanswered, exact: exact && !has_unanswered, derived }));
        }
    }

    /// How many angles lie in a quarter of the circle, if each of the others is one of them and 90°, 180° or 270°, in every bit.
    pub(super) fn quarter(&self) -> Option<usize> {
        let n = self.degrees.len();
        let quarter = n / 4;
        let is_turned = |i: usize| f64::from(self.degrees[i]) == f64::from(self.degrees[i - quarter]) + 90.0;
        (n.is_multiple_of(4) && (quarter..n).all(is_turned)).then_some(quarter)
    }

    /// Whether `f(turned(x, a + 90°)) = f(turned(x, a))` to the last bit for the first digits, each turned by one of the first
    /// `angles` angles, and so for two and three quarter turns more.
    fn turns_leave_every_bit(
        &self,
        network: &dyn Network,
        trial: &Trial,
        test: &Dataset,
        angles: usize,
    ) -> Result<bool> {
        let probes = test.first(PROBES.min(test.len()))?;
        let Some(batch) = self.batches(&probes, PROBES).next().transpose()? else {
            return Err(Error::Invalid("there is no digit to test on".into()));
        };
        let images = self.settings.protocol.resized(&batch.images, trial.subject.size);
        answers::views_leave_every_bit(network, 4, |turns| {
            let degrees: Vec<f32> = (0..probes.len()).map(|i| self.degrees[i % angles] + 90.0 * turns as f32).collect();
            self.settings.protocol.turned(&images, &degrees)
        })
    }

    /// Counts at the first `views` angles, and whether some digits have no answer.
    fn count_all(
        &self,
        network: &dyn Network,
        trial: &Trial,
        test: &Dataset,
        views: usize,
        per_view: f64,
        context: &mut Context,
    ) -> Result<Option<(Vec<u64>, bool)>> {
        let file = context.network_file();
        let file = files::read(&file, LONGEST).map_err(|e| Error::io(file, &e))?;
        let anew =
            Standing { network: fingerprint::of(file), digits: 0, correct: vec![0; views], has_unanswered: false };
        let mut standing = match context.kept::<Standing>(TEST)? {
            // A test at the first quarter, or at all angles, once there was a digit without an answer.
            Some(kept) if [self.degrees.len(), self.quarter().unwrap_or(1)].contains(&kept.correct.len()) => {
                let message = |message| context.unfit(TEST, message);
                check_standing(&kept, &anew.network, test.len()).map_err(message)?;
                if kept.correct.len() == views { kept } else { anew }
            }
            Some(kept) => {
                let message = format!("{} angles are tested, there are {views}", kept.correct.len());
                return Err(context.unfit(TEST, message));
            }
            None => anew,
        };
        let seconds = |digits: usize| per_view * (digits * self.degrees.len()) as f64;
        context.skip(seconds(standing.digits));
        context.say(format!("testing at {views} angles"));
        let (protocol, degrees) = (self.settings.protocol, &self.degrees);
        let turned = |images: &Tensor, angle: usize| turned(protocol, images, degrees[angle]);
        let mut tally = Tally::from_counts(standing.correct.clone());
        let rest: Vec<usize> = (standing.digits..test.len()).collect();
        let rest = if standing.digits == 0 { test.clone() } else { test.subset(&rest) };
        let slice = SLICE[usize::from(!matches!(self.device, Device::Cpu))];
        for batch in self.batches(&rest, slice) {
            let batch = batch?;
            let images = self.settings.protocol.resized(&batch.images, trial.subject.size);
            tally.count(network, &images, &batch.labels, turned)?;
            tally.wait()?;
            standing.digits += batch.indices.len();
            context.advance(seconds(batch.indices.len()));
            if standing.digits < test.len() && context.due() {
                standing.correct = tally.read()?.to_vec();
                standing.has_unanswered |= tally.has_unanswered();
                context.save(|context| context.keep(TEST, &standing))?;
                if context.stopping() {
                    return Ok(None);
                }
            }
        }
        let correct = tally.read()?.to_vec();
        Ok(Some((correct, standing.has_unanswered || tally.has_unanswered())))
    }

    /// The digits without an answer, by angle.
    fn unanswered(&self, network: &dyn Network, trial: &Trial, test: &Dataset) -> Result<Vec<u64>> {
        let protocol: Protocol = self.settings.protocol;
        let batches =
            self.batches(test, SLICE[0]).map(|batch| Ok(protocol.resized(&batch?.images, trial.subject.size)));
        answers::unanswered(network, batches, self.degrees.len(), |images, angle| {
            turned(protocol, images, self.degrees[angle])
        })
    }
}

/// Resized images, all turned by one angle.
fn turned(protocol: Protocol, resized: &Tensor, degrees: f32) -> Tensor {
    protocol.turned(resized, &vec![degrees; resized.dims()[0]])
}

/// Refuses a standing of another network or another test, or that no test can have.
fn check_standing(kept: &Standing, network: &str, test: usize) -> std::result::Result<(), String> {
    let Standing { network: of, digits, correct, .. } = kept;
    if of != network {
        return Err("a test of another network".into());
    }
    if *digits > test {
        return Err(format!("{digits} digits are tested, there are {test}"));
    }
    answers::check_counts(correct, &[], correct.len(), *digits as u64, false)
}
