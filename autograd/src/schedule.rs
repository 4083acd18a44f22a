//! Learning-rate schedules.

use std::{f64::consts::PI, fmt, sync::Arc};

/// How the learning rate changes during a run.
///
/// ```
/// use quarterturn_autograd::Schedule;
///
/// let schedule = Schedule::Step { lr: 0.1, factor: 0.5, every: 10 };
/// assert_eq!(schedule.lr(25, 0, 50, 100), 0.025); // epoch 25 of 50, step 0 of 100
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// The same rate throughout.
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
    /// along a cosine, changing each step: the rates of PyTorch's `OneCycleLR` with its defaults (Smith & Topin 2018). There Adam's
    /// β₁ moves against the rate, from 0.95 to 0.85 and back; here it stays as the optimizer has it.
    OneCycle {
        /// The highest rate.
        max_lr: f64,
    },
    /// From `lr` down to `last` along half a cosine, changing each step: `last + (lr − last)·(1 + cos πt)/2`, where t goes
    /// from 0 to 1 over what follows the first `after` epochs; in those the rate is `lr` (Loshchilov & Hutter 2017,
    /// without restarts). See [`Schedule::cosine`].
    Cosine {
        /// The first rate.
        lr: f64,
        /// What it comes down to.
        last: f64,
        /// Epochs before it begins to fall.
        after: u32,
    },
    /// `last + (lr − last)·(1 − t)^power`, where t goes from 0 to 1 over the run, changing each step.
    Polynomial {
        /// The first rate.
        lr: f64,
        /// What it comes down to.
        last: f64,
        /// 1: along a line.
        power: f64,
    },
    /// Any function: see [`Schedule::own`].
    Own(OwnRate),
    /// Warm-up: in the first `epochs` epochs the rate of `then` is multiplied by a factor that rises linearly to 1;
    /// after that it is the rate of `then`.
    WarmUp {
        /// Length of the rise.
        epochs: u32,
        /// The schedule after the warm-up. Its epochs are counted from the start of the run.
        then: Box<Schedule>,
    },
}

/// The position of a step in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The epoch, from 0.
    pub epoch: u32,
    /// The step in it, from 0.
    pub step: u32,
    /// Epochs of the run.
    pub epochs: u32,
    /// Steps of an epoch.
    pub steps: u32,
}

impl Position {
    /// The fraction of the run before this step, from 0 to 1. The first `after` epochs are not counted: during them it
    /// is 0.
    pub fn progress(&self, after: u32) -> f64 {
        let [epoch, step, epochs, steps] = [self.epoch, self.step, self.epochs, self.steps].map(f64::from);
        let total = (epochs - f64::from(after)) * steps;
        let now = (epoch - f64::from(after)) * steps + step;
        if total > 0.0 { (now / total).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A learning rate of your own: see [`Schedule::own`].
#[derive(Clone)]
pub struct OwnRate {
    name: String,
    rate: Arc<dyn Fn(Position) -> f64 + Send + Sync>,
}

impl fmt::Debug for OwnRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// Two are taken for equal if their names are.
impl PartialEq for OwnRate {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Schedule {
    /// A linear warm-up to `lr` over `warm_up` epochs, then half a cosine down to 0.
    pub fn cosine(lr: f64, warm_up: u32) -> Self {
        let then = Schedule::Cosine { lr, last: 0.0, after: warm_up };
        if warm_up == 0 { then } else { Schedule::WarmUp { epochs: warm_up, then: Box::new(then) } }
    }

    /// Any function `rate` from the position in the run to the learning rate. Functions cannot be compared, so a
    /// resumed run compares the name: choose another name for another function.
    ///
    /// ```
    /// # use quarterturn_autograd::Schedule;
    /// let schedule = Schedule::own("1/√epoch from 0.1", |at| 0.1 / f64::from(at.epoch + 1).sqrt());
    /// assert_eq!(schedule.lr(3, 0, 10, 100), 0.05);
    /// ```
    pub fn own(name: impl Into<String>, rate: impl Fn(Position) -> f64 + Send + Sync + 'static) -> Self {
        Schedule::Own(OwnRate { name: name.into(), rate: Arc::new(rate) })
    }

    /// The rate for step `step` (from 0) of epoch `epoch` (from 0), in a run of `epochs` epochs of `steps` steps.
    pub fn lr(&self, epoch: u32, step: u32, epochs: u32, steps: u32) -> f64 {
        let at = Position { epoch, step, epochs, steps };
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
                let cosine =
                    |from: f64, to: f64, way: f64| to + (from - to) / 2.0 * (1.0 + (PI * way.clamp(0.0, 1.0)).cos());
                if now <= top {
                    cosine(max_lr / 25.0, *max_lr, if top > 0.0 { now / top } else { 1.0 })
                } else {
                    cosine(*max_lr, max_lr / 250_000.0, (now - top) / (total - 1.0 - top))
                }
            }
            Schedule::Cosine { lr, last, after } => last + (lr - last) / 2.0 * (1.0 + (PI * at.progress(*after)).cos()),
            Schedule::Polynomial { lr, last, power } => last + (lr - last) * (1.0 - at.progress(0)).powf(*power),
            Schedule::Own(own) => (own.rate)(at),
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

    fn assert_rates(schedule: &Schedule, expected: &[(u32, f64)]) {
        for &(step, rate) in expected {
            let got = schedule.lr(step / 10, step % 10, 10, 10);
            assert!((got - rate).abs() < 1e-12, "step {step}: {got}, not {rate}");
        }
    }

    /// PyTorch's CosineAnnealingLR(T_max=100, eta_min=0.1), and transformers' cosine schedule with 20 steps of warm-up.
    #[test]
    fn cosine_falls_along_half_a_wave() {
        let cosine = Schedule::Cosine { lr: 0.5, last: 0.1, after: 0 };
        assert_rates(&cosine, &[(0, 0.5), (25, 0.3 + 0.2 * 0.5f64.sqrt()), (50, 0.3), (75, 0.3 - 0.2 * 0.5f64.sqrt())]);
        let warm = Schedule::cosine(0.8, 2);
        assert_rates(&warm, &[(0, 0.04), (9, 0.4), (19, 0.8), (20, 0.8), (60, 0.4)]);
        assert_rates(&Schedule::cosine(0.8, 0), &[(0, 0.8), (50, 0.4)]);
    }

    /// PyTorch's PolynomialLR(total_iters=100).
    #[test]
    fn polynomials_fall_to_their_last_rate() {
        let polynomial = Schedule::Polynomial { lr: 0.5, last: 0.0, power: 2.0 };
        assert_rates(&polynomial, &[(0, 0.5), (50, 0.125), (90, 0.005)]);
        let line = Schedule::Polynomial { lr: 0.5, last: 0.1, power: 1.0 };
        assert_rates(&line, &[(0, 0.5), (25, 0.4), (99, 0.104)]);
    }

    #[test]
    fn functions_of_ones_own_are_compared_by_name() {
        let own = |name: &str| Schedule::own(name, |at| f64::from(at.epoch) + 0.5 * at.progress(5));
        assert_rates(&own("a"), &[(0, 0.0), (39, 3.0), (75, 7.25)]);
        assert!(own("a") == own("a") && own("a") != own("b"));
        assert_eq!(format!("{:?}", own("a")), "Own(\"a\")");
    }
}
