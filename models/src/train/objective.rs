//! Objectives: losses as functions of outputs and targets.

use quarterturn_autograd::Var;
use quarterturn_core::{Device, Error, Result, Shape, Tensor};
use quarterturn_kernels::{CrossEntropy, Pointwise, Reduction};
use std::{fmt, sync::Arc};

/// The loss that a [`crate::training::Trainer`] minimises: a function of the network's outputs and of the targets,
/// which come with the inputs in each batch. The loss of a batch is a mean over its images, shape `[]`.
///
/// ```
/// use quarterturn_models::training::{Classes, Difference, Objective};
///
/// let digits = Objective::default(); // outputs [N, K], targets [N]; or for each pixel: [N, K, H, W], [N, H, W]
/// let cells = Objective::Classes(Classes { ignored: Some(255), ..Classes::default() });
/// let findings = Objective::SeveralLabels; // outputs [N, K], targets [N, K] of 0 and 1
/// let angle = Objective::Numbers(Difference::Squared); // outputs and targets of one shape
/// let mine = Objective::own("sum of fourth powers", |outputs, targets| {
///     let difference = outputs.sub(&outputs.tape().constant(targets.clone()));
///     Ok(difference.mul(&difference).pow(2.0).mean())
/// });
/// assert_eq!(mine.to_string(), "own: sum of fourth powers");
/// # let _ = (digits, cells, findings, angle);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// Classification: one class for each image or each pixel. Outputs are logits `[N, K, …]`, targets class indices
    /// `[N, …]`, stored as numbers. The loss is the mean cross-entropy ([`quarterturn_kernels::cross_entropy_with`]).
    Classes(Classes),
    /// Multi-label classification: outputs are logits, targets of the same shape are from 0 to 1. The loss is the mean
    /// binary cross-entropy ([`Pointwise::BinaryCrossEntropy`]).
    SeveralLabels,
    /// Regression: outputs and targets are real numbers of the same shape. The loss is the mean of a [`Difference`].
    Numbers(Difference),
    /// A loss of your own: see [`Objective::own`].
    Own(OwnObjective),
}

/// Options of [`Objective::Classes`]. The default is the plain mean of the cross-entropy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Classes {
    /// A weight for each of the K classes.
    pub weights: Option<Vec<f64>>,
    /// Label smoothing, from 0 to 1: this part of each target is spread evenly over all classes (Szegedy et al. 2016).
    pub smoothing: f64,
    /// A label that is ignored, such as 255 (PyTorch: `ignore_index`).
    pub ignored: Option<i32>,
}

/// The loss of one number, where d is output − target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Difference {
    /// `d²`, PyTorch's `MSELoss`.
    Squared,
    /// `|d|`, PyTorch's `L1Loss`.
    Absolute,
    /// `d²/2` where `|d| ≤ δ`, else `δ·(|d| − δ/2)`; δ > 0. PyTorch's `HuberLoss`.
    Huber(f64),
}

type OwnLoss = dyn for<'t> Fn(&Var<'t>, &Tensor) -> Result<Var<'t>> + Send + Sync;

/// A loss of your own: see [`Objective::own`].
#[derive(Clone)]
pub struct OwnObjective {
    name: String,
    loss: Arc<OwnLoss>,
}

impl fmt::Debug for OwnObjective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.name)
    }
}

/// Two losses of your own count as equal if their names are equal.
impl PartialEq for OwnObjective {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// Class labels with the plain mean of the cross-entropy.
impl Default for Objective {
    fn default() -> Self {
        Objective::Classes(Classes::default())
    }
}

/// The objective as text. A run is resumed only if its text is the same as when the run was begun.
impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objective::Classes(Classes { weights, smoothing, ignored }) => {
                write!(f, "classes")?;
                weights.iter().try_for_each(|weights| write!(f, ", weights {weights:?}"))?;
                ignored.iter().try_for_each(|ignored| write!(f, ", ignored {ignored}"))?;
                if *smoothing == 0.0 { Ok(()) } else { write!(f, ", smoothing {smoothing}") }
            }
            Objective::SeveralLabels => write!(f, "several labels"),
            Objective::Numbers(Difference::Squared) => write!(f, "squared difference"),
            Objective::Numbers(Difference::Absolute) => write!(f, "absolute difference"),
            Objective::Numbers(Difference::Huber(delta)) => write!(f, "Huber's difference, δ {delta}"),
            Objective::Own(own) => write!(f, "own: {}", own.name),
        }
    }
}

impl Objective {
    /// A loss of your own: `loss(outputs, targets)` must return a mean over the images, shape `[]`. Functions cannot be
    /// compared, so a resumed run compares the name: choose another name for another loss.
    pub fn own(
        name: impl Into<String>,
        loss: impl for<'t> Fn(&Var<'t>, &Tensor) -> Result<Var<'t>> + Send + Sync + 'static,
    ) -> Self {
        Objective::Own(OwnObjective { name: name.into(), loss: Arc::new(loss) })
    }

    /// The loss of a batch, shape `[]`. Targets may be on the CPU, whatever the device of the outputs. They are checked
    /// there before anything is computed, and are then moved.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the shapes of outputs and targets do not fit, or a target is invalid: a label that is no
    /// class, a probability that is not from 0 to 1, a number that is not finite. (Targets on a GPU are not checked,
    /// because that would mean waiting for it. Invalid ones make the loss NaN.) The error of a function of your own.
    pub fn loss<'t>(&self, outputs: &Var<'t>, targets: &Tensor) -> Result<Var<'t>> {
        self.expect_fit(outputs.shape(), targets)?;
        self.of_fit(outputs, targets)
    }

    /// As [`Objective::loss`], of what [`Objective::expect_fit`] has looked at.
    pub(super) fn of_fit<'t>(&self, outputs: &Var<'t>, targets: &Tensor) -> Result<Var<'t>> {
        let targets = &targets.to_device(&outputs.value().device())?;
        match self {
            Objective::Classes(plain) if *plain == Classes::default() => Ok(outputs.cross_entropy(targets)),
            Objective::Classes(classes) => {
                let options = classes.options(&outputs.value().device())?;
                Ok(outputs.cross_entropy_with(targets, &options))
            }
            Objective::SeveralLabels => Ok(outputs.bce_with_logits(targets, Reduction::Mean)),
            Objective::Numbers(difference) => {
                Ok(outputs.pointwise_loss(targets, difference.pointwise(), Reduction::Mean))
            }
            Objective::Own(own) => {
                let loss = (own.loss)(outputs, targets)?;
                match loss.shape().dims() {
                    [] => Ok(loss),
                    shape => {
                        Err(Error::Invalid(format!("objective '{}': expected a loss [], got {shape:?}", own.name)))
                    }
                }
            }
        }
    }

    /// Refuses targets that do not fit outputs of shape `outputs`.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub(super) fn expect_fit(&self, outputs: Shape, targets: &Tensor) -> Result<()> {
        self.expect_shape(outputs, targets)?;
        match targets.device() {
            Device::Cpu | Device::Reference => self.expect_targets(outputs, targets, 0),
            // Without waiting for it, a GPU's targets cannot be looked at.
            #[cfg(feature = "gpu")]
            Device::Gpu(_) => Ok(()),
        }
    }

    /// Refuses targets of a shape that does not fit outputs of shape `outputs`.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming both shapes.
    pub(super) fn expect_shape(&self, outputs: Shape, targets: &Tensor) -> Result<()> {
        let (found, n) = (targets.shape(), outputs.dims().first().copied().unwrap_or_default());
        if found.dims().first() != Some(&n) {
            let what = if matches!(self, Objective::Classes(_)) { "labels" } else { "targets" };
            return Err(Error::Invalid(format!("{n} images, {what} of shape {found:?}")));
        }
        let expected = match self {
            Objective::Own(_) => return Ok(()),
            Objective::Classes(classes) => match outputs.dims() {
                &[n, classes_made, ref places @ ..] if classes_made > 0 => {
                    classes.expect_fit(classes_made)?;
                    Shape::new(&[&[n], places].concat())
                }
                _ => {
                    return Err(Error::Invalid(format!(
                        "the network makes {outputs:?} of {n} images, expected logits [N, classes] or [N, classes, H, W]"
                    )));
                }
            },
            Objective::Numbers(Difference::Huber(delta)) if !(*delta > 0.0 && delta.is_finite()) => {
                return Err(Error::Invalid(format!("objective: expected a δ above 0, got {delta}")));
            }
            Objective::SeveralLabels | Objective::Numbers(_) => outputs,
        };
        if found != expected {
            return Err(Error::Invalid(format!(
                "the network makes {outputs:?} of {n} images, for which targets {expected:?} are expected, got {found:?}"
            )));
        }
        Ok(())
    }

    /// Refuses a target that is none; the first is that of image `first`. Waits for a GPU.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming target and image; what went wrong on the GPU.
    pub(super) fn expect_targets(&self, outputs: Shape, targets: &Tensor, first: u64) -> Result<()> {
        let (found, expected) = match self {
            Objective::Own(_) => return Ok(()),
            Objective::Classes(classes) => {
                let last = outputs.dims()[1] - 1;
                let check = CrossEntropy { ignored: classes.ignored, ..CrossEntropy::default() };
                let ignored = classes.ignored.map_or(String::new(), |ignored| format!(", or {ignored}"));
                let expected = format!("a whole number from 0 to {last}{ignored}");
                (check.first_invalid_label(targets, last + 1)?, ("label", expected))
            }
            Objective::SeveralLabels => {
                (first_not(targets, |target| (0.0..=1.0).contains(&target))?, ("target", "0, 1 or between".into()))
            }
            Objective::Numbers(_) => (first_not(targets, f64::is_finite)?, ("target", "a finite number".into())),
        };
        let Some((at, target)) = found else { return Ok(()) };
        let (what, expected) = expected;
        let each = targets.len() / targets.dims()[0];
        let place = if each == 1 { String::new() } else { format!(" at {}", at % each) };
        let image = first + (at / each) as u64;
        Err(Error::Invalid(format!("{what} {target} of image {image}{place}: expected {expected}")))
    }

    /// The least loss there can be.
    pub(super) fn least(&self) -> f64 {
        if matches!(self, Objective::Own(_)) { f64::NEG_INFINITY } else { 0.0 }
    }
}

impl Classes {
    /// As the kernels take it.
    fn options(&self, device: &Device) -> Result<CrossEntropy> {
        let on_device = |weights: &Vec<f64>| Tensor::from_f64([weights.len()], weights.clone(), device);
        let weights = self.weights.as_ref().map(on_device).transpose()?;
        Ok(CrossEntropy { weights, smoothing: self.smoothing, ignored: self.ignored, reduction: Reduction::Mean })
    }

    fn expect_fit(&self, classes: usize) -> Result<()> {
        let weights = self.weights.as_ref().map_or(classes, Vec::len);
        if weights != classes {
            return Err(Error::Invalid(format!("objective: {weights} weights for {classes} classes")));
        }
        match self.smoothing {
            smoothing if (0.0..=1.0).contains(&smoothing) => Ok(()),
            smoothing => Err(Error::Invalid(format!("objective: expected a smoothing from 0 to 1, got {smoothing}"))),
        }
    }
}

impl Difference {
    fn pointwise(self) -> Pointwise {
        match self {
            Difference::Squared => Pointwise::Squared,
            Difference::Absolute => Pointwise::Absolute,
            Difference::Huber(delta) => Pointwise::Huber(delta),
        }
    }
}

/// The first number that is not as it should be, and its place.
fn first_not(targets: &Tensor, fits: impl Fn(f64) -> bool) -> Result<Option<(usize, f64)>> {
    Ok(targets.to_f64()?.into_iter().enumerate().find(|&(_, target)| !fits(target)))
}
