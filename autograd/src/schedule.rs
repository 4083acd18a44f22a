//! Learning rates as functions of the position in the run.

/// How the learning rate changes.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// The same throughout.
    Constant {
        /// The rate.
        lr: f64,
    },
    /// `lr · factor^⌊epoch / every⌋`.
    Step {
        /// The first rate.
        lr: f64,
        /// What it is multiplied by.
        factor: f64,
        /// After how many epochs.
        every: u32,
    },
    /// `lr · factor^(number of milestones ≤ epoch)`.
    Milestones {
        /// The first rate.
        lr: f64,
        /// What it is multiplied by.
        factor: f64,
        /// At the start of which epochs.
        epochs: Vec<u32>,
    },
    /// From `max_lr / 25` up to `max_lr` within the first 30 % of the run, then down to `max_lr / 250,000`, both
    /// along a cosine, changing each step (Smith & Topin 2018, with PyTorch's `OneCycleLR` defaults).
    OneCycle {
        /// The highest rate.
        max_lr: f64,
    },
    /// Linear from `then / epochs` of the first epoch up to `then`, in epochs; after that as `then` says.
    WarmUp {
        /// Length of the rise.
        epochs: u32,
        /// The schedule that it leads into, read at the true epoch.
        then: Box<Schedule>,
    },
}

impl Schedule {
    /// The rate for step `step` (from 0) of epoch `epoch` (from 0), in a run of `epochs` epochs of `steps` steps.
    pub fn lr(&self, epoch: u32, step: u32, epochs: u32, steps: u32) -> f64 {
        match self {
            Schedule::Constant { lr } => *lr,
            Schedule::Step { lr, factor, every } => lr * factor.powi((epoch / (*every).max(1)) as i32),
            Schedule::Milestones { lr, factor, epochs } => {
                lr * factor.powi(epochs.iter().filter(|&&milestone| milestone <= epoch).count() as i32)
            }
            Schedule::OneCycle { max_lr } => {
                let total = f64::from(epochs) * f64::from(steps);
                let now = f64::from(epoch) * f64::from(steps) + f64::from(step);
                let top = 0.3 * total - 1.0;
                let cosine = |from: f64, to: f64, way: f64| {
                    to + (from - to) / 2.0 * (1.0 + (std::f64::consts::PI * way.clamp(0.0, 1.0)).cos())
                };
                if now <= top {
                    cosine(max_lr / 25.0, *max_lr, if top > 0.0 { now / top } else { 1.0 })
                } else {
                    cosine(*max_lr, max_lr / 250_000.0, (now - top) / (total - 1.0 - top))
                }
            }
            Schedule::WarmUp { epochs: rise, then } => {
                let progress = f64::from(epoch) + f64::from(step + 1) / f64::from(steps.max(1));
                then.lr(epoch, step, epochs, steps) * (progress / f64::from((*rise).max(1))).min(1.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_milestones_multiply() {
        let step = Schedule::Step { lr: 0.01, factor: 0.5, every: 10 };
        assert_eq!([0, 9, 10, 19, 49].map(|epoch| step.lr(epoch, 0, 50, 8)), [0.01, 0.01, 0.005, 0.005, 0.000625]);
        let milestones = Schedule::Milestones { lr: 1.0, factor: 0.75, epochs: vec![8, 16, 20] };
        assert_eq!([7, 8, 19, 20].map(|epoch| milestones.lr(epoch, 3, 30, 8)), [1.0, 0.75, 0.5625, 0.421875]);
    }

    /// Values of PyTorch's OneCycleLR(max_lr=1e-3, total_steps=100): rises to step 29, ends at step 99.
    #[test]
    fn one_cycle_starts_peaks_and_ends_where_it_should() {
        let cycle = Schedule::OneCycle { max_lr: 1e-3 };
        let at = |step: u32| cycle.lr(step / 10, step % 10, 10, 10);
        assert!((at(0) - 4e-5).abs() < 1e-12);
        assert!((at(29) - 1e-3).abs() < 1e-12);
        assert!((at(99) - 4e-9).abs() < 1e-12);
        assert!((1..=29).all(|s| at(s) > at(s - 1)) && (30..100).all(|s| at(s) < at(s - 1)));
    }

    #[test]
    fn warm_up_reaches_the_schedule_at_its_end() {
        let warm = Schedule::WarmUp { epochs: 5, then: Box::new(Schedule::Constant { lr: 0.1 }) };
        assert!((warm.lr(0, 0, 90, 10) - 0.1 / 50.0).abs() < 1e-15);
        assert!((warm.lr(4, 9, 90, 10) - 0.1).abs() < 1e-15);
        assert_eq!(warm.lr(7, 0, 90, 10), 0.1);
    }
}
