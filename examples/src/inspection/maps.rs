//! Feature maps of an image and of the turned image side by side.

use super::{Layer, Maps, element, larger, number};
use crate::{
    figure::{Area, Drawn, bold, centred, font, from_left, write},
    palette, raster,
};
use plotters::style::RGBColor;
use quarterturn::kernels::Group;

/// Points between maps, between panels, and between rows.
const GAP: f64 = 3.0;
const BETWEEN: f64 = 16.0;
const BELOW: f64 = 10.0;
/// Points of the words to the right.
const WORDS: f64 = 84.0;
/// Points above the first row, for the names of the columns, and of a row of values without places.
const HEAD: f64 = 20.0;
const STRIP: f64 = 30.0;
/// The most values in a row, or letters in a name, that can be told apart.
const MOST_VALUES: usize = 128;
const MOST_LETTERS: usize = 32;

/// A picture in colours, for the row above the maps.
pub struct Picture {
    pub width: usize,
    pub colors: Vec<RGBColor>,
}

/// The rows of the chart: the image, then so many rows of maps for each layer.
pub struct MapChart<'a> {
    group: Group,
    /// The image, the turned image, and that turned back.
    images: [Picture; 3],
    layers: &'a [Layer],
    /// Rows for each layer, at most.
    rows: usize,
    /// Maps in a row of a panel, and the extent of each in points.
    slots: usize,
    side: f64,
    /// Points of the names on the left.
    labels: f64,
}

/// What stands in one row of a panel.
struct Row {
    channels: Vec<usize>,
}

impl<'a> MapChart<'a> {
    /// Of a network on `group`.
    pub fn new(group: Group, images: [Picture; 3], layers: &'a [Layer], rows: usize) -> Self {
        // Maps without a group axis share a row with other channels.
        let slots = group.order().max(4);
        let longest = layers.iter().map(|layer| layer.name.chars().count()).max().unwrap_or(0).min(MOST_LETTERS);
        let (side, labels) = (if slots > 4 { 38.0 } else { 48.0 }, (6.2 * longest as f64).max(104.0) + 10.0);
        MapChart { group, images, layers, rows, slots, side, labels }
    }

    /// Width and height in points.
    pub fn extent(&self) -> (f64, f64) {
        let rows: f64 =
            self.layers.iter().map(|layer| self.rows_of(layer).len() as f64 * self.height_of(&layer.upright)).sum();
        (self.labels + 3.0 * (self.panel() + BETWEEN) + self.side + WORDS, 2.0 * HEAD + self.side + BELOW + rows)
    }

    /// Draws it below and to the right of a corner in points.
    ///
    /// # Errors
    /// If plotters fails.
    pub fn draw(&self, area: &Area, (x, y): (f64, f64)) -> Drawn {
        let mut y = y;
        let titles = ["of the image x:  f(x)", "of the turned image:  f(T x)", "turned back:  T′⁻¹ f(T x)"];
        for (panel, title) in titles.iter().enumerate() {
            write(area, title, (self.panel_at(x, panel) + self.panel() / 2.0, y + 6.0), centred(bold(9.0)))?;
        }
        let beside = self.panel_at(x, 3);
        write(area, "difference", (beside + self.side / 2.0, y + 6.0), centred(bold(9.0)))?;
        y += HEAD;
        write(area, "image", (x, y + self.side / 2.0), from_left(bold(8.5)))?;
        for (panel, picture) in self.images.iter().enumerate() {
            let rows = picture.colors.len() / picture.width;
            let (corner, extent) = self.fit((self.panel_at(x, panel), y), rows, picture.width);
            raster::stretched(area, corner, extent, picture.width, &picture.colors)?;
        }
        y += self.side + BELOW;
        self.elements(area, (x, y))?;
        y += HEAD;
        for layer in self.layers {
            for (i, row) in self.rows_of(layer).iter().enumerate() {
                self.row(area, (x, y), layer, row)?;
                if i == 0 {
                    self.difference(area, (beside, y), layer)?;
                }
                y += self.height_of(&layer.upright);
            }
        }
        Ok(())
    }

    /// The names of the group's elements above their maps.
    fn elements(&self, area: &Area, (x, y): (f64, f64)) -> Drawn {
        if self.group.order() < self.slots {
            return Ok(());
        }
        for panel in 0..3 {
            for g in self.group.elements() {
                let middle = self.panel_at(x, panel) + g as f64 * (self.side + GAP) + self.side / 2.0;
                write(area, &element(g), (middle, y + 9.0), centred(font(7.5)).color(&palette::FAINT_INK))?;
            }
        }
        Ok(())
    }

    /// One row of a layer: its name and what the channels are, and its maps in the three panels.
    fn row(&self, area: &Area, (x, y): (f64, f64), layer: &Layer, row: &Row) -> Drawn {
        let name: String = layer.name.chars().take(MOST_LETTERS).collect();
        let shape: Vec<String> = layer.shape.dims()[1..].iter().map(ToString::to_string).collect();
        let channels: Vec<String> = row.channels.iter().map(ToString::to_string).collect();
        let maps = &layer.upright;
        let shown = match layer.shape.rank() {
            4 | 5 if channels.len() == 1 => format!("channel {}", channels[0]),
            4 | 5 => format!("channels {}", channels.join(", ")),
            _ if maps.height.max(maps.width) > MOST_VALUES => format!("the first {MOST_VALUES}"),
            _ => String::new(),
        };
        let faint = || from_left(font(7.5)).color(&palette::FAINT_INK);
        write(area, &name, (x, y + 6.0), from_left(bold(8.5)))?;
        let (of, shown) = if is_strip(maps) { (format!("  {shown}"), "") } else { (String::new(), shown.as_str()) };
        write(area, &format!("{}{of}", shape.join("×")), (x, y + 18.0), faint())?;
        write(area, shown, (x, y + 29.0), faint())?;
        let planes = || {
            row.channels
                .iter()
                .flat_map(|&channel| (0..maps.elements).map(move |element| (channel, element)))
                .enumerate()
        };
        let values = planes().flat_map(|(_, (c, g))| maps.plane(c, g).iter().chain(layer.turned.plane(c, g)));
        let largest = f64::from(values.fold(0.0, |largest, value| larger(value.abs(), largest)));
        for (panel, maps) in [maps, &layer.turned, &layer.back].into_iter().enumerate() {
            for (slot, (channel, element)) in planes() {
                let corner = (self.panel_at(x, panel) + slot as f64 * (self.side + GAP), y);
                self.map(area, corner, self.panel(), maps, maps.plane(channel, element), |value| {
                    palette::diverging(if value == 0.0 { 0.0 } else { value / largest })
                })?;
            }
        }
        Ok(())
    }

    /// The places where the turned image's maps are others, and by how much at most.
    fn difference(&self, area: &Area, (x, y): (f64, f64), layer: &Layer) -> Drawn {
        let difference = layer.difference();
        let largest = f64::from(difference.iter().copied().fold(0.0, larger));
        self.map(area, (x, y), self.side, &layer.upright, &difference, |value| {
            palette::diverging(if value == 0.0 { 0.0 } else { value / largest })
        })?;
        let (x, style) = (x + self.side + 6.0, |color| from_left(bold(9.0)).color(color));
        match largest {
            0.0 => write(area, "0", (x, y + 7.0), style(&palette::GREEN))?,
            largest => write(area, &number(largest), (x, y + 7.0), style(&palette::VERMILLION))?,
        }
        if largest != 0.0 && !is_strip(&layer.upright) {
            write(area, "at most", (x, y + 18.0), from_left(font(7.5)).color(&palette::FAINT_INK))?;
        }
        Ok(())
    }

    /// One map; values without places lie in a strip as wide as `room`.
    fn map(
        &self,
        area: &Area,
        corner: (f64, f64),
        room: f64,
        maps: &Maps,
        values: &[f32],
        color: impl Fn(f64) -> RGBColor,
    ) -> Drawn {
        let colors: Vec<RGBColor> = values.iter().map(|&value| color(f64::from(value))).collect();
        if is_strip(maps) {
            let shown = colors.len().min(MOST_VALUES);
            return raster::stretched(area, corner, (room, STRIP - 14.0), shown, &colors[..shown]);
        }
        // A column of values stands for a map.
        if maps.width == 1 {
            let shown = colors.len().min(MOST_VALUES);
            return raster::stretched(area, corner, (self.side, self.side), 1, &colors[..shown]);
        }
        let height = values.len() / maps.width;
        let (corner, extent) = self.fit(corner, height, maps.width);
        raster::stretched(area, corner, extent, maps.width, &colors)
    }

    /// Where an image of so many rows and columns lies in the square at a corner, and its extent.
    fn fit(&self, (x, y): (f64, f64), rows: usize, columns: usize) -> ((f64, f64), (f64, f64)) {
        let scale = self.side / rows.max(columns) as f64;
        let (width, height) = (columns as f64 * scale, rows as f64 * scale);
        ((x + (self.side - width) / 2.0, y + (self.side - height) / 2.0), (width, height))
    }

    fn rows_of(&self, layer: &Layer) -> Vec<Row> {
        let beside = (self.slots / layer.upright.elements).max(1);
        let order = layer.upright.most_varied();
        order.chunks(beside).take(self.rows).map(|channels| Row { channels: channels.to_vec() }).collect()
    }

    fn height_of(&self, maps: &Maps) -> f64 {
        if is_strip(maps) { STRIP } else { self.side + BELOW }
    }

    /// Points that a panel is wide.
    fn panel(&self) -> f64 {
        self.slots as f64 * (self.side + GAP) - GAP
    }

    fn panel_at(&self, x: f64, panel: usize) -> f64 {
        x + self.labels + panel as f64 * (self.panel() + BETWEEN)
    }
}

/// Whether there is one row of values and no map.
fn is_strip(maps: &Maps) -> bool {
    maps.channels * maps.elements * maps.height == 1 && maps.width > 1
}
