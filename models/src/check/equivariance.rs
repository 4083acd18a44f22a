//! The equivariance error of a network, measured at every depth.

use super::exactness::trace;
use crate::Network;
use quarterturn_core::{Error, Result, Tensor};
use quarterturn_kernels::{Cosets, Subgroup, transform_cosets, transform_plane};
use std::collections::BTreeMap;

/// Measures how far a network is from being equivariant: how far `f(T x)` is from `T′ f(x)` at each depth, over any
/// number of batches. T turns (or mirrors) the image; T′ does the same to the feature map f(x), and also exchanges the
/// planes of its group axis.
///
/// ```
/// use quarterturn_core::{Device, Tensor};
/// use quarterturn_models::{EquivarianceError, MnistCnn, MnistCnnConfig};
///
/// # fn main() -> quarterturn_core::Result<()> {
/// let network = MnistCnn::new(MnistCnnConfig::p4cnn(), 0, &Device::Cpu)?;
/// let mut error = EquivarianceError::at(|_| true); // at every layer
/// error.add(&network, &Tensor::full([1, 1, 1, 28, 28], 0.5, &Device::Cpu)?)?;
/// assert!(error.first_break().is_none()); // exact at 28×28
/// # Ok(())
/// # }
/// ```
///
/// For one channel of one image with feature map `f(x)`, of I rows, J columns and K group elements, Eq. 14 of Edixhoven et al.
/// 2023 is
///
/// ```text
/// ε = √( Σ_i Σ_j Σ_k |f(T x)[k, i, j] − (T′ f(x))[k, i, j]|² ) / (I·J·K)
/// ```
///
/// The paper does not say what is done with several channels and images. Here [`DepthError::eq14`] is the mean of ε
/// over channels, images, and all elements T of the group except the identity. (If a layer restricts the network to a
/// subgroup, T runs over that.) After the mean over pixels I = J = 1. After the maximum over the group K = 1 too, and
/// `T′` is the identity.
///
/// In evaluation mode, the error of an exact network is 0 at every depth, not just small.
pub struct EquivarianceError<'a> {
    wanted: Box<dyn Fn(&str) -> bool + 'a>,
    depths: Vec<Sums>,
}

/// The errors measured at one depth.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthError {
    /// The layer or block whose output was compared.
    pub name: String,
    /// ε of Eq. 14: see [`EquivarianceError`].
    pub eq14: f64,
    /// The relative error `√(Σ |f(T x) − T′ f(x)|² / Σ |f(x)|²)`, over all values.
    pub relative: f64,
    /// The mean of `|f(T x) − T′ f(x)|` over all values, turns (and reflections) included. The paper's published code for
    /// PatchCamelyon adds up the means of the three quarter turns: three times this.
    pub l1: f64,
    /// The largest `|f(T x) − T′ f(x)|`.
    pub largest: f64,
    /// The root mean square of f(x), as the scale of the errors.
    pub rms: f64,
}

struct Sums {
    name: String,
    /// Of ε over channels, their number, and likewise of absolute differences and of values.
    eq14: f64,
    channels: usize,
    l1: f64,
    values: usize,
    largest: f64,
    squares: f64,
    /// Of differences.
    squared_differences: f64,
}

impl<'a> EquivarianceError<'a> {
    /// A measurement at the layers and blocks whose names are `wanted`: `|_| true` for all,
    /// `|name| !name.contains('.')` for whole stages only.
    pub fn at(wanted: impl Fn(&str) -> bool + 'a) -> Self {
        EquivarianceError { wanted: Box::new(wanted), depths: Vec::new() }
    }

    /// Adds a batch of `images` `[N, C, 1, H, W]`. The wanted feature maps of the upright images stay in memory during
    /// the call.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the images do not fit, or the network's group is z2; what went wrong on the GPU.
    pub fn add<N: Network + ?Sized>(&mut self, network: &N, images: &Tensor) -> Result<()> {
        network.output_shape(images.shape())?;
        let (trace, _) = trace(network, [images.dims()[3], images.dims()[4]])?;
        let group = trace.axis().group();
        if group == Subgroup::Z2 {
            return Err(Error::Invalid(
                "the equivariance error needs a network on p4 or p4m; z2 promises no symmetry".into(),
            ));
        }
        let axes: BTreeMap<&str, Cosets> =
            trace.outputs().iter().zip(trace.axes()).map(|((name, _), &axis)| (name.as_str(), axis)).collect();
        let mut upright = Vec::new();
        network.predict_watched(images, &mut |name, y| {
            if (self.wanted)(name) {
                upright.push((name.to_string(), y.clone()));
            }
        })?;
        if self.depths.is_empty() {
            self.depths = upright.iter().map(|(name, _)| Sums::new(name)).collect();
        }
        if !upright.iter().map(|(name, _)| name).eq(self.depths.iter().map(|depth| &depth.name)) {
            return Err(Error::Invalid("the equivariance error of two networks cannot be mixed".into()));
        }
        for &g in group.elements().iter().skip(1) {
            let mut outcome = Ok(());
            let mut depths = self.depths.iter_mut().zip(&upright);
            network.predict_watched(&transform_plane(images, g), &mut |name, turned| {
                if (self.wanted)(name) && outcome.is_ok() {
                    let (sums, (_, y)) = depths.next().expect("every pass tells of the same depths");
                    outcome =
                        sums.add(turned, &transform_output(y, g, axes[name]), turned.dims()[2..].iter().product());
                }
            })?;
            outcome?;
        }
        Ok(())
    }

    /// The errors at each depth, from the first layer to the logits.
    pub fn depths(&self) -> Vec<DepthError> {
        self.depths.iter().map(Sums::error).collect()
    }

    /// The first depth with an error that is not 0, if there is one.
    pub fn first_break(&self) -> Option<DepthError> {
        // A difference that is not a number is an error too.
        self.depths.iter().find(|depth| depth.l1 != 0.0).map(Sums::error)
    }
}

impl Sums {
    fn new(name: &str) -> Self {
        Sums {
            name: name.into(),
            eq14: 0.0,
            channels: 0,
            l1: 0.0,
            values: 0,
            largest: 0.0,
            squares: 0.0,
            squared_differences: 0.0,
        }
    }

    /// Adds the differences of two batches with channels of `len` values.
    fn add(&mut self, turned: &Tensor, expected: &Tensor, len: usize) -> Result<()> {
        let (a, b) = (turned.to_f64()?, expected.to_f64()?);
        for (a, b) in a.chunks_exact(len).zip(b.chunks_exact(len)) {
            let mut sum = 0.0;
            for (a, b) in a.iter().zip(b) {
                let d = (a - b).abs();
                sum += d * d;
                self.l1 += d;
                self.largest = if d > self.largest || d.is_nan() { d } else { self.largest };
                self.squares += b * b;
            }
            self.squared_differences += sum;
            self.eq14 += sum.sqrt() / len as f64;
            self.channels += 1;
            self.values += len;
        }
        Ok(())
    }

    fn error(&self) -> DepthError {
        let values = self.values as f64;
        DepthError {
            name: self.name.clone(),
            eq14: self.eq14 / self.channels as f64,
            // A map of zeros that stays one has no error.
            relative: if self.squared_differences == 0.0 {
                0.0
            } else {
                (self.squared_differences / self.squares).sqrt()
            },
            l1: self.l1 / values,
            largest: self.largest,
            rms: (self.squares / values).sqrt(),
        }
    }
}

/// `T′`: turns and flips the output `y` of a layer, as element g turns and flips the image. It moves the pixels of a
/// map, and exchanges the planes of a group axis, which stand for `axis` (see [`crate::Trace::axes`]). If g is not in
/// the group of `axis`, only pixels move. To test a layer for equivariance, compare `f(T x) == T′ f(x)`.
///
/// # Panics
/// If g is not below 8.
#[track_caller]
pub fn transform_output(y: &Tensor, g: usize, axis: Cosets) -> Tensor {
    let has_axis = axis.group().elements().contains(&g);
    match *y.dims() {
        [_, _, extent] | [_, _, extent, _, _] if has_axis && extent == axis.order() => transform_cosets(y, g, axis),
        [_, _, _, _] | [_, _, _, _, _] => transform_plane(y, g),
        _ => y.clone(),
    }
}
