//! Where a run stands, and what of that must agree.

use quarterturn_core::{Error, Result};

/// How far a run has come, and how it went.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Position {
    /// The epoch under way, from 0; the number of epochs once the run has ended.
    pub epoch: u32,
    /// Steps made in this epoch, and in all.
    pub step: u32,
    pub steps: u32,
    /// Images met in this epoch.
    pub images: u64,
    /// Steps in all of each epoch that has been begun.
    pub epoch_steps: Vec<u32>,
    /// The mean loss of each finished epoch.
    pub losses: Vec<f64>,
}

/// Rounding on a GPU makes a loss of 0 this much negative at most.
const ROUNDING: f64 = 1e-5;

impl Position {
    /// How many epochs have been begun.
    pub fn begun(&self) -> usize {
        self.epoch as usize + usize::from(self.step > 0)
    }

    /// Steps that an optimizer has made by now that makes one after `every` batches, and one at the end of each epoch.
    pub fn updates(&self, every: u32) -> u64 {
        let (finished, present) = self.epoch_steps.split_at(self.epoch_steps.len().min(self.epoch as usize));
        let of_epoch = |&steps: &u32| u64::from(steps.div_ceil(every));
        let so_far = match present.first() {
            Some(&steps) if self.step == steps => steps.div_ceil(every),
            _ => self.step / every,
        };
        finished.iter().map(of_epoch).sum::<u64>() + u64::from(so_far)
    }

    /// Makes sure that it stands between two steps of an optimizer that makes one after `every` batches.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it stands within one.
    pub fn expect_between_steps(&self, every: u32) -> Result<()> {
        let step = self.step;
        if step.is_multiple_of(every) || self.epoch_steps.last() == Some(&step) {
            return Ok(());
        }
        let message = format!("{step} batches, but a step of the optimizer has {every}");
        Err(Error::Checkpoint { name: format!("{}step", super::state::TRAINING), message })
    }

    /// Makes sure that a run of `epochs` epochs can stand here, with this sum of losses in the present epoch; no loss is below
    /// `least`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the name of the value that contradicts another one.
    pub fn check(&self, epochs: u32, least: f64, loss_sum: Option<f64>) -> Result<()> {
        let Position { epoch, step, steps, images, epoch_steps, losses } = self;
        let refused = |name: &str, message: String| {
            Err(Error::Checkpoint { name: format!("{}{name}", super::state::TRAINING), message })
        };
        if *epoch > epochs {
            return refused("epoch", format!("{epoch}, but the run has {epochs} epochs"));
        }
        if *epoch == epochs && *step > 0 {
            return refused("step", format!("{step} steps behind the last epoch"));
        }
        if epoch_steps.len() != self.begun() || epoch_steps.contains(&0) {
            let begun = self.begun();
            return refused("epoch_steps", format!("expected those of {begun} epochs, found {epoch_steps:?}"));
        }
        let (finished, present) = epoch_steps.split_at(*epoch as usize);
        if let Some(present) = present.first().filter(|&present| present < step) {
            return refused("step", format!("{step} in an epoch of {present}"));
        }
        let made = finished.iter().map(|&steps| u64::from(steps)).sum::<u64>() + u64::from(*step);
        if u64::from(*steps) != made {
            return refused("steps", format!("{steps}, but the epochs so far have {made}"));
        }
        // Every batch has an image, and no more than can be counted.
        let step = u64::from(*step);
        if *images < step || *images > step * u64::from(u32::MAX) {
            return refused("images", format!("{images} in {step} steps"));
        }
        if losses.len() != finished.len() {
            return refused("losses", format!("{} of {epoch} epochs", losses.len()));
        }
        if let Some(loss) = losses.iter().find(|&&loss| !loss.is_finite() || loss < least - ROUNDING) {
            return refused("losses", format!("{loss} is no loss"));
        }
        match loss_sum {
            None if step > 0 => refused("loss_sum", format!("missing, after {step} steps of an epoch")),
            Some(_) if step == 0 => refused("loss_sum", "found between two epochs".into()),
            Some(sum) if !sum.is_finite() || sum < (least - ROUNDING) * *images as f64 => {
                refused("loss_sum", format!("{sum} is no sum of losses"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_that_contradict_themselves_are_refused_by_name() {
        let sound =
            Position { epoch: 2, step: 3, steps: 12, images: 30, epoch_steps: vec![4, 5, 4], losses: vec![2.0, 1.0] };
        sound.check(5, 0.0, Some(20.0)).unwrap();
        Position::default().check(5, 0.0, None).unwrap();
        let ended =
            Position { epoch: 2, steps: 9, epoch_steps: vec![4, 5], losses: vec![2.0, 0.0], ..Position::default() };
        ended.check(2, 0.0, None).unwrap();
        let refused = |position: &Position, epochs: u32, sum: Option<f64>, expected: &str| match position
            .check(epochs, 0.0, sum)
        {
            Err(Error::Checkpoint { name, .. }) => assert_eq!(name, format!("training.{expected}"), "{position:?}"),
            other => panic!("{expected}: {other:?} of {position:?}"),
        };
        type Edit = fn(&mut Position);
        let edits: [(Edit, &str); 18] = [
            (|p| p.epoch = 6, "epoch"),
            (|p| p.epoch = 5, "step"),
            (|p| p.epoch = 1, "epoch_steps"),
            (|p| p.epoch = 3, "epoch_steps"),
            (|p| p.step = 0, "epoch_steps"),
            (|p| p.step = 5, "step"),
            (|p| p.step = 4, "steps"),
            (|p| p.step = u32::MAX, "step"),
            (|p| p.steps = 0, "steps"),
            (|p| p.steps = u32::MAX, "steps"),
            (|p| p.images = 2, "images"),
            (|p| p.images = u64::MAX, "images"),
            (|p| p.epoch_steps[0] = 0, "epoch_steps"),
            (|p| p.epoch_steps = vec![u32::MAX; 3], "steps"),
            (|p| p.epoch_steps.clear(), "epoch_steps"),
            (|p| p.losses.truncate(1), "losses"),
            (|p| p.losses[1] = -0.5, "losses"),
            (|p| p.losses[0] = f64::INFINITY, "losses"),
        ];
        for (edit, expected) in edits {
            let mut position = sound.clone();
            edit(&mut position);
            refused(&position, 5, Some(20.0), expected);
        }
        for sum in [None, Some(-1.0), Some(f64::NAN)] {
            refused(&sound, 5, sum, "loss_sum");
        }
        refused(&ended, 2, Some(0.0), "loss_sum");
        refused(&sound, 2, Some(20.0), "step");
        refused(&sound, 1, Some(20.0), "epoch");
        // Only losses of one's own can be negative.
        sound.check(5, f64::NEG_INFINITY, Some(-20.0)).unwrap();
        refused(&sound, 5, Some(-20.0), "loss_sum");
    }

    #[test]
    fn a_position_within_a_step_is_refused() {
        let at = |step| Position { step, epoch_steps: vec![8], ..Position::default() };
        for (step, is_between) in [(0, true), (2, false), (3, true), (7, false), (8, true)] {
            assert_eq!(at(step).expect_between_steps(3).is_ok(), is_between, "{step}");
        }
    }

    #[test]
    fn an_optimizer_that_waits_for_batches_makes_fewer_steps() {
        let at = |step, epoch_steps: &[u32]| Position {
            epoch: 1,
            step,
            epoch_steps: epoch_steps.to_vec(),
            ..Position::default()
        };
        for (step, every, expected) in
            [(0, 1, 5), (2, 1, 7), (0, 2, 3), (1, 2, 3), (2, 2, 4), (3, 2, 5), (3, 9, 2), (2, 9, 1)]
        {
            assert_eq!(at(step, &[5, 3]).updates(every), expected, "{step} {every}");
        }
        assert_eq!(Position::default().updates(3), 0);
    }
}
