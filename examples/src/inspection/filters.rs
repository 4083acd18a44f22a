//! The filters of a network's first convolution, each with its orbit under the group.

use super::element;
use crate::{
    figure::{Area, Drawn, centred, font, from_left, write},
    palette, raster,
};
use plotters::style::RGBColor;
use quarterturn::{
    core::Result,
    kernels::{Group, filter_orbit},
    models::Network,
};

/// Points of a filter, between filters, of the numbers on the left, and above the first.
const SIDE: f64 = 44.0;
const GAP: f64 = 8.0;
const LABELS: f64 = 56.0;
const HEAD: f64 = 18.0;

/// Filters `[C_out, G, C_in, k, k]`.
pub struct Filters {
    /// The parameter that they are.
    pub name: String,
    group: Group,
    outputs: usize,
    inputs: usize,
    extent: usize,
    values: Vec<f32>,
}

impl Filters {
    /// Those of the first layer that reads images by filters; `None` if there is no such layer.
    ///
    /// # Errors
    /// What went wrong on the GPU.
    pub fn of(network: &dyn Network) -> Result<Option<Self>> {
        let (group, mut first) = (network.group(), None);
        network.read(&mut |name, param| {
            // Of a plane, and not of the elements of a group.
            if let [_, _, 1, k, k2] = *param.value().dims()
                && k == k2
                && first.is_none()
            {
                first = Some((name.to_string(), param.value().clone()));
            }
        });
        let Some((name, weight)) = first else { return Ok(None) };
        let [outputs, inputs, _, extent, _] = *weight.dims() else { unreachable!("it has five axes") };
        let values = filter_orbit(&weight, group).to_vec()?;
        Ok(Some(Filters { name, group, outputs, inputs, extent, values }))
    }

    /// What is drawn, in words.
    pub fn describe(&self) -> String {
        let Filters { outputs, inputs, extent: k, .. } = self;
        let channels = match *inputs {
            1 => String::new(),
            3 => "; colours are the 3 channels that it reads, grey is 0".into(),
            inputs => format!("; of {inputs} channels that it reads, the first"),
        };
        format!("{outputs} filters of {k}×{k} in rows, turned by each element of the group{channels}")
    }

    /// Width and height in points.
    pub fn extent(&self) -> (f64, f64) {
        let columns = self.columns() as f64;
        let block = LABELS + self.group.order() as f64 * (SIDE + GAP);
        (columns * block, HEAD + self.lines() as f64 * (SIDE + GAP))
    }

    /// Many filters stand in several columns.
    fn columns(&self) -> usize {
        let most = if self.group.order() > 4 { 2 } else { 4 };
        self.outputs.div_ceil(8).clamp(1, most)
    }

    fn lines(&self) -> usize {
        self.outputs.div_ceil(self.columns())
    }

    /// Draws them below and to the right of a corner in points.
    ///
    /// # Errors
    /// If plotters fails.
    pub fn draw(&self, area: &Area, (x, y): (f64, f64)) -> Drawn {
        let block = LABELS + self.group.order() as f64 * (SIDE + GAP);
        for column in 0..self.columns() {
            for g in self.group.elements() {
                let middle = x + column as f64 * block + LABELS + g as f64 * (SIDE + GAP) + SIDE / 2.0;
                write(area, &element(g), (middle, y + 6.0), centred(font(8.0)).color(&palette::FAINT_INK))?;
            }
        }
        for output in 0..self.outputs {
            let (column, line) = (output / self.lines(), output % self.lines());
            let (left, top) = (x + column as f64 * block, y + HEAD + line as f64 * (SIDE + GAP));
            write(area, &format!("filter {output}"), (left, top + SIDE / 2.0), from_left(font(8.5)))?;
            for g in self.group.elements() {
                let corner = (left + LABELS + g as f64 * (SIDE + GAP), top);
                raster::stretched(area, corner, (SIDE, SIDE), self.extent, &self.colors(output, g))?;
            }
        }
        Ok(())
    }

    /// Of a filter, turned by an element of the group. Each filter has a scale of its own.
    fn colors(&self, output: usize, g: usize) -> Vec<RGBColor> {
        let (plane, order) = (self.extent * self.extent, self.group.order());
        let filter = self.inputs * plane;
        let orbit = &self.values[output * order * filter..][..order * filter];
        let shown = if self.inputs == 3 { filter } else { plane };
        let values = &orbit[g * filter..][..shown];
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let scaled = |value: f32| if largest == 0.0 { 0.0 } else { f64::from(value / largest) };
        if self.inputs != 3 {
            return values.iter().map(|&value| palette::diverging(scaled(value))).collect();
        }
        let level = |value: f32| (127.5 + 127.5 * scaled(value)).round() as u8;
        let channel = |c: usize, at: usize| level(values[c * plane + at]);
        (0..plane).map(|at| RGBColor(channel(0, at), channel(1, at), channel(2, at))).collect()
    }
}
