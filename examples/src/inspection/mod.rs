//! What the layers of a network make of an image and of the image turned, and pictures of it.

mod errors;
mod filters;
mod maps;

pub use errors::ErrorChart;
pub use filters::Filters;
pub use maps::{MapChart, Picture};

use quarterturn::{
    core::{Error, Result, Shape, Tensor},
    kernels::{Cosets, Group, transform_plane},
    models::{Network, Trace, transform_output},
};

/// A layer's maps of the two images.
pub struct Layer {
    pub name: String,
    /// The shape of what it makes of one image.
    pub shape: Shape,
    /// f(x).
    pub upright: Maps,
    /// f(T x).
    pub turned: Maps,
    /// T′⁻¹ f(T x): f(x) in every bit, if the layers so far are exact.
    pub back: Maps,
}

/// Planes by channel and entry of the group axis.
///
/// A layer without places is drawn as if it had some: of `[C, G]`, each group element has a column of C values, of `[C]` there
/// is one row of C.
#[derive(PartialEq)]
pub struct Maps {
    pub channels: usize,
    pub elements: usize,
    pub height: usize,
    pub width: usize,
    values: Vec<f32>,
}

/// All layers and blocks of `network`, in order, with what their group axes stand for.
///
/// # Errors
/// If such images do not fit the network.
pub fn layers(network: &dyn Network, image: Shape) -> Result<Vec<(String, Cosets)>> {
    let mut trace = Trace::new(network.group());
    network.trace(image, &mut trace)?;
    Ok(trace.outputs().iter().zip(trace.axes()).map(|((name, _), &axis)| (name.clone(), axis)).collect())
}

/// What the layers that are `wanted` make of `image` `[1, C, 1, H, W]` and of what element `g` of p4m makes of it.
///
/// # Errors
/// If the image does not fit the network, or a layer makes something else of the turned image.
pub fn watch(network: &dyn Network, image: &Tensor, g: usize, wanted: &[String]) -> Result<Vec<Layer>> {
    let axes = layers(network, image.shape())?;
    let kept = |image: &Tensor| -> Result<Vec<(usize, Tensor)>> {
        let (mut kept, mut number) = (Vec::new(), 0);
        network.predict_watched(image, &mut |name, y| {
            if wanted.iter().any(|wanted| wanted == name) {
                kept.push((number, y.clone()));
            }
            number += 1;
        })?;
        Ok(kept)
    };
    let (upright, turned) = (kept(image)?, kept(&transform_plane(image, g))?);
    let of = |((number, y), (_, turned)): ((usize, Tensor), (usize, Tensor))| {
        let (name, axis) = axes[number].clone();
        let back = transform_output(&turned, Group::D4.inverse(g), axis);
        if back.shape() != y.shape() {
            let (back, shape) = (back.shape(), y.shape());
            return Err(Error::Invalid(format!("{name}: makes {shape:?} of the image, {back:?} of the turned one")));
        }
        let [upright, turned, back] = [Maps::of(&y)?, Maps::of(&turned)?, Maps::of(&back)?];
        Ok(Layer { name, shape: y.shape(), upright, turned, back })
    };
    upright.into_iter().zip(turned).map(of).collect()
}

impl Layer {
    /// At each place the largest |T′⁻¹ f(T x) − f(x)|, over channels and group elements.
    pub fn difference(&self) -> Vec<f32> {
        let mut largest = vec![0.0_f32; self.upright.height * self.upright.width];
        for (i, (a, b)) in self.upright.values.iter().zip(&self.back.values).enumerate() {
            let (d, at) = ((a - b).abs(), i % largest.len());
            largest[at] = larger(d, largest[at]);
        }
        largest
    }
}

impl Maps {
    fn of(y: &Tensor) -> Result<Self> {
        let values = y.to_vec()?;
        let maps = |channels, elements, height, width, values| Maps { channels, elements, height, width, values };
        Ok(match *y.dims() {
            [1, channels, elements, height, width] => maps(channels, elements, height, width, values),
            [1, channels, height, width] => maps(channels, 1, height, width, values),
            [1, channels, elements] => {
                let columns = (0..elements).flat_map(|g| values.iter().skip(g).step_by(elements));
                maps(1, elements, channels, 1, columns.copied().collect())
            }
            _ => maps(1, 1, 1, values.len(), values),
        })
    }

    fn plane(&self, channel: usize, element: usize) -> &[f32] {
        let len = self.height * self.width;
        &self.values[(channel * self.elements + element) * len..][..len]
    }

    /// Channels, those first whose values vary most.
    fn most_varied(&self) -> Vec<usize> {
        let len = self.values.len() / self.channels.max(1);
        let spread = |channel: usize| {
            let values = self.values[channel * len..][..len].iter().map(|&value| f64::from(value));
            let mean = values.clone().sum::<f64>() / len as f64;
            values.map(|value| (value - mean).powi(2)).sum::<f64>()
        };
        let spreads: Vec<f64> = (0..self.channels).map(spread).collect();
        let mut order: Vec<usize> = (0..self.channels).collect();
        order.sort_by(|&a, &b| spreads[b].total_cmp(&spreads[a]));
        order
    }
}

/// The larger of two, where what is no number is larger than all.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// `0`, and nothing else, for 0.
fn number(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if (0.01..1000.0).contains(&value.abs()) => format!("{value:.3}"),
        value => format!("{value:.1e}"),
    }
}

/// The name of element `g` of p4m, above a map or a filter.
fn element(g: usize) -> String {
    format!("{}°{}", 90 * (g % 4), if g < 4 { "" } else { " flip" })
}

/// What element `g` of p4m does to an image, in words.
pub fn describe(g: usize) -> String {
    match (90 * (g % 4), g / 4) {
        (degrees, 0) => format!("turned by {degrees}°"),
        (0, _) => "flipped".into(),
        (degrees, _) => format!("turned by {degrees}° and flipped"),
    }
}
