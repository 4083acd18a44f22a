//! Operators that sample a map at certain places: convolutions, pools, resizing, padding, cutting.

use super::{
    Judgement,
    rules::{Coordinates, Nearest, Sliding, resize_commutes},
    walk::{Outcome, Site, Value, bounded, count, judged, passes, unknown},
};

/// No map is resized from or to more rows or columns.
const HIGHEST: i64 = 1 << 16;

/// A map with its height and width.
struct Map<'a> {
    dims: &'a [i64],
    space: [usize; 2],
}

impl<'a> Map<'a> {
    /// The first input, if it is a map with channels before height and width, as operators of maps expect.
    fn of(site: &Site<'a>) -> Result<Self, Outcome> {
        match site.input(0) {
            Some(Value::Map { dims, space }) if dims.len() == 4 && *space == [2, 3] => Ok(Map { dims, space: *space }),
            Some(Value::Map { .. }) => Err(unknown("height and width are not the last two axes of four")),
            _ => Err(unknown("it reads no map")),
        }
    }

    fn extents(&self) -> [i64; 2] {
        self.space.map(|axis| self.dims[axis])
    }

    fn with(&self, channels: i64, [height, width]: [i64; 2]) -> Value {
        Value::Map { dims: vec![self.dims[0], channels, height, width], space: [2, 3] }
    }
}

/// One number where both are the same.
fn both(two: [i64; 2]) -> String {
    if two[0] == two[1] { two[0].to_string() } else { format!("{}, {}", two[0], two[1]) }
}

/// The two numbers of an attribute, for height and width.
fn pair(site: &Site<'_>, name: &str, default: i64) -> [i64; 2] {
    match site.ints(name) {
        Some(&[height, width]) => [height, width].map(bounded),
        _ => [default; 2],
    }
}

/// Kernel size, strides, dilations and pads, in words; and what slides along height and along width.
struct Windows {
    kernel: [i64; 2],
    along: [Sliding; 2],
    what: String,
}

impl Windows {
    fn of(site: &Site<'_>, kernel: [i64; 2], extents: [i64; 2], ceil: bool) -> Self {
        let (strides, dilations) = (pair(site, "strides", 1), pair(site, "dilations", 1));
        let pads = match site.ints("pads") {
            Some(&[top, left, bottom, right]) => [[top, bottom], [left, right]].map(|pads| pads.map(bounded)),
            _ => [[0, 0]; 2],
        };
        let auto = site.string("auto_pad").unwrap_or("NOTSET");
        let along = [0, 1].map(|axis| {
            let reach = dilations[axis] * (kernel[axis] - 1) + 1;
            let sliding = Sliding { reach, stride: strides[axis], pads: pads[axis], ceil };
            match auto {
                "SAME_UPPER" if sliding.stride > 0 => sliding.same(extents[axis], false),
                "SAME_LOWER" if sliding.stride > 0 => sliding.same(extents[axis], true),
                "VALID" => Sliding { pads: [0, 0], ..sliding },
                _ => sliding,
            }
        });
        let mut what = format!("{}×{}", kernel[0], kernel[1]);
        if strides != [1, 1] {
            what += &format!(", stride {}", both(strides));
        }
        let (before, behind) = (along.map(|axis| axis.pads[0]), along.map(|axis| axis.pads[1]));
        if before != behind {
            what += &format!(", padding {} before and {} behind", both(before), both(behind));
        } else if before != [0, 0] {
            what += &format!(", padding {}", both(before));
        }
        if dilations != [1, 1] {
            what += &format!(", dilation {}", both(dilations));
        }
        Windows { kernel, along, what }
    }

    /// What makes it another window when it is turned, if anything does.
    fn lopsided(&self) -> Option<String> {
        let [height, width] = self.kernel;
        if height != width {
            return Some(format!("a quarter turn makes its {height}×{width} window one of {width}×{height}"));
        }
        let steps = self.along.map(|axis| (axis.stride, axis.reach));
        (steps[0] != steps[1]).then(|| "its steps along rows and columns differ".into())
    }
}

/// A convolution or a pool.
pub(super) fn slide(site: &Site<'_>) -> Outcome {
    let map = match Map::of(site) {
        Ok(map) => map,
        Err(outcome) => return outcome,
    };
    let is_conv = site.node.op_type.ends_with("Conv") || site.node.op_type == "ConvInteger";
    let weight = if site.node.op_type == "QLinearConv" { 3 } else { 1 };
    let weight = site.input(weight).filter(|_| is_conv).and_then(Value::dims);
    let kernel = match (site.ints("kernel_shape"), weight) {
        (Some(&[height, width]), _) | (None, Some(&[_, _, height, width])) => [height, width].map(bounded),
        _ => return unknown("the size of its window is not in the file"),
    };
    let channels = match weight {
        Some(&[filters, ..]) => filters,
        Some(_) => return unknown("its filters have no axes"),
        None if is_conv => return unknown("the shape of its filters is not in the file"),
        None => map.dims[1],
    };
    let extents = map.extents();
    let windows = Windows::of(site, kernel, extents, site.int("ceil_mode") == Some(1));
    let made = [0, 1].map(|axis| windows.along[axis].windows(extents[axis]));
    let [Some(height), Some(width)] = made else {
        return Outcome::Unfit(format!("its {} window does not fit a {}×{} map", windows.what, extents[0], extents[1]));
    };
    let left = [0, 1].map(|axis| windows.along[axis].left_over(extents[axis]).unwrap_or(0));
    let judgement = match windows.lopsided() {
        Some(why) => Judgement::Never(why),
        None if left == [0, 0] => Judgement::Exact,
        None if left.iter().any(|&left| left < 0) => {
            Judgement::Inexact(format!("its windows reach {} further behind than before", both(left.map(|left| -left))))
        }
        None => Judgement::Inexact(format!("leaves {} over", both(left))),
    };
    let made = map.with(channels, [height, width]);
    let results = vec![made; site.node.outputs.len().max(1)];
    Outcome::Judged(results, Some((windows.what, judgement)))
}

pub(super) fn transposed(site: &Site<'_>) -> Outcome {
    let map = match Map::of(site) {
        Ok(map) => map,
        Err(outcome) => return outcome,
    };
    let Some(weight @ [_, outputs, ..]) = site.input(1).and_then(Value::dims) else {
        return unknown("the shape of its filters is not in the file");
    };
    let kernel = match (site.ints("kernel_shape"), weight) {
        (Some(&[height, width]), _) | (None, &[_, _, height, width]) => [height, width].map(bounded),
        _ => return unknown("the size of its window is not in the file"),
    };
    let extents = map.extents();
    let windows = Windows::of(site, kernel, extents, false);
    let added = pair(site, "output_padding", 0);
    let auto = site.string("auto_pad").unwrap_or("NOTSET");
    let full = [0, 1].map(|axis| windows.along[axis].stride * (extents[axis] - 1) + windows.along[axis].reach);
    // Rows and columns that are taken away before and behind, less those that are added there.
    let cut = [0, 1].map(|axis| {
        let wanted = site.ints("output_shape").and_then(|shape| shape.get(shape.len().checked_sub(2)? + axis).copied());
        let wanted =
            wanted.map(bounded).or(auto.starts_with("SAME").then(|| extents[axis] * windows.along[axis].stride));
        match wanted {
            Some(wanted) => {
                let all = full[axis] + added[axis] - wanted;
                let (less, more) = (all / 2, all - all / 2);
                if auto == "SAME_LOWER" { [more, less - added[axis]] } else { [less, more - added[axis]] }
            }
            None => [windows.along[axis].pads[0], windows.along[axis].pads[1] - added[axis]],
        }
    });
    let made = [0, 1].map(|axis| full[axis] - cut[axis][0] - cut[axis][1]);
    if made.iter().any(|&extent| extent < 1) {
        return Outcome::Unfit(format!("of a {}×{} map its padding leaves nothing", extents[0], extents[1]));
    }
    let uneven = cut.iter().any(|[before, behind]| before != behind);
    let judgement = match windows.lopsided() {
        Some(why) => Judgement::Never(why),
        None if uneven && added != [0, 0] => Judgement::Never(format!(
            "its output padding, {}, adds rows and columns at the bottom and on the right alone",
            both(added)
        )),
        None if uneven => Judgement::Never("it takes away more rows and columns at one end than at the other".into()),
        None => Judgement::Exact,
    };
    let mut what = windows.what;
    if added != [0, 0] {
        what += &format!(", output padding {}", both(added));
    }
    judged(map.with(outputs * bounded(site.int("group").unwrap_or(1)), made), what, judgement)
}

pub(super) fn resize(site: &Site<'_>, floats: impl Fn(usize) -> Option<Vec<f32>>) -> Outcome {
    let Some(Value::Map { dims, space }) = site.input(0) else { return unknown("it reads no map") };
    let is_upsample = site.node.op_type == "Upsample";
    let axes: Vec<i64> = site.ints("axes").map_or((0..dims.len() as i64).collect(), <[i64]>::to_vec);
    let place =
        |axis: usize| axes.iter().position(|&a| a == axis as i64 || a.wrapping_add(dims.len() as i64) == axis as i64);
    let scales = site
        .floats("scales")
        .map(<[f32]>::to_vec)
        .or_else(|| if is_upsample || site.opset < 11 { floats(1) } else { floats(2) });
    let scales = scales.filter(|scales| scales.len() == axes.len());
    let sizes = site.known(3).filter(|sizes| sizes.len() == axes.len() && !is_upsample);
    let mut made = dims.clone();
    let mut factors = vec![1.0; dims.len()];
    for axis in 0..dims.len() {
        let Some(at) = place(axis) else { continue };
        match (sizes, &scales) {
            (Some(sizes), _) => (made[axis], factors[axis]) = (sizes[at], sizes[at] as f64 / dims[axis] as f64),
            (None, Some(scales)) => {
                factors[axis] = scales[at].into();
                made[axis] = (dims[axis] as f64 * factors[axis]).floor() as i64;
            }
            (None, None) => return unknown("its size is computed in a way that is not followed"),
        }
    }
    if made.iter().any(|&extent| extent < 1) {
        return Outcome::Unfit(format!("it makes nothing of {dims:?}"));
    }
    if space.iter().any(|&axis| made[axis].max(dims[axis]) > HIGHEST) {
        return unknown(format!("it makes more than {HIGHEST} rows or columns"));
    }
    let mode = site.string("mode").unwrap_or("nearest");
    let default = if is_upsample || site.opset < 11 { "asymmetric" } else { "half_pixel" };
    let coordinates = match site.string("coordinate_transformation_mode").unwrap_or(default) {
        "half_pixel" | "half_pixel_symmetric" => Coordinates::HalfPixel,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        other => return unknown(format!("its coordinates are {other}")),
    };
    let default = if is_upsample || site.opset < 11 { "floor" } else { "round_prefer_floor" };
    let nearest = match site.string("nearest_mode").unwrap_or(default) {
        _ if mode != "nearest" => None,
        "floor" => Some(Nearest::Floor),
        "ceil" => Some(Nearest::Ceil),
        "round_prefer_ceil" => Some(Nearest::RoundPreferCeil),
        _ => Some(Nearest::RoundPreferFloor),
    };
    let commutes =
        space.iter().all(|&axis| resize_commutes(dims[axis], made[axis], factors[axis], coordinates, nearest));
    let [height, width] = space.map(|axis| made[axis]);
    let what = format!("{mode} to {height}×{width}");
    let judgement = match commutes {
        true => Judgement::Exact,
        false if nearest.is_some() => {
            Judgement::Inexact("seen from the other end, some places take another pixel".into())
        }
        false => Judgement::Inexact("its places lie closer to one end than to the other".into()),
    };
    judged(Value::Map { dims: made, space: *space }, what, judgement)
}

pub(super) fn pad(site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let pads = site.ints_or_input("pads", 1).or_else(|| site.ints("paddings").map(<[i64]>::to_vec));
    let Some(pads) = pads else { return unknown("its padding is computed in a way that is not followed") };
    let rank = dims.len() as i64;
    let axes = site.known(3).map_or((0..rank).collect(), <[i64]>::to_vec);
    if pads.len() != 2 * axes.len() {
        return unknown("its padding does not fit the map");
    }
    let (mut before, mut behind) = (vec![0; dims.len()], vec![0; dims.len()]);
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis.rem_euclid(rank.max(1)) as usize;
        if axis >= dims.len() {
            return unknown("it has no such axis");
        }
        (before[axis], behind[axis]) = (bounded(pads[i]), bounded(pads[i + axes.len()]));
    }
    let made: Vec<i64> = (0..dims.len()).map(|axis| dims[axis] + before[axis] + behind[axis]).collect();
    if made.iter().any(|&extent| extent < 1) {
        return Outcome::Unfit(format!("it leaves nothing of {dims:?}"));
    }
    let Value::Map { space, .. } = value else { return passes(Value::features(made)) };
    let at = |pads: &[i64]| space.map(|axis| pads[axis]);
    let made = Value::Map { dims: made, space: *space };
    let what = format!("{} before and {} behind", both(at(&before)), both(at(&behind)));
    let judgement = match (at(&before), at(&behind)) {
        (before, behind) if before != behind => Judgement::Never("it adds more at one end than at the other".into()),
        ([rows, columns], _) if rows != columns => {
            Judgement::Never("it adds other numbers of rows than of columns".into())
        }
        _ => Judgement::Exact,
    };
    judged(made, what, judgement)
}

pub(super) fn slice(site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let (Some(starts), Some(ends)) = (site.ints_or_input("starts", 1), site.ints_or_input("ends", 2)) else {
        return unknown("where it begins and ends is computed in a way that is not followed");
    };
    let rank = dims.len() as i64;
    let axes = site.ints_or_input("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = site.known(4).map_or(vec![1; starts.len()], <[i64]>::to_vec);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return unknown("it has not as many beginnings as ends");
    }
    let (mut made, mut first, mut by) = (dims.to_vec(), vec![0; dims.len()], vec![1; dims.len()]);
    for (i, axis) in axes.iter().enumerate() {
        let axis = axis.rem_euclid(rank.max(1)) as usize;
        let (Some(&extent), step) = (dims.get(axis), bounded(steps[i])) else { return unknown("it has no such axis") };
        if step == 0 {
            return unknown("it takes steps of 0");
        }
        // Backwards, the first is at most the last entry, and the end may be before the first.
        let back = i64::from(step < 0);
        let place = |at: i64| if at < 0 { at.saturating_add(extent) } else { at };
        (first[axis], by[axis]) = (place(starts[i]).clamp(0, extent - back), step);
        let length = (place(ends[i]).clamp(-back, extent - back) - first[axis]) * step.signum();
        made[axis] = (length.max(0) + step.abs() - 1) / step.abs();
    }
    if let Some(ints) = value.known() {
        return passes(match strided(ints, dims, &first, &by, &made) {
            Some(taken) => Value::ints(made, taken),
            None => Value::features(made),
        });
    }
    if by.iter().any(|&step| step < 0) {
        return unknown("it goes backwards");
    }
    let Value::Map { space, .. } = value else { return passes(Value::features(made)) };
    if space.iter().any(|&axis| made[axis] < 1) {
        return Outcome::Unfit(format!("it leaves nothing of {dims:?}"));
    }
    let result = Value::Map { dims: made.clone(), space: *space };
    if space.iter().all(|&axis| made[axis] == dims[axis]) {
        return passes(result);
    }
    let left = space.map(|axis| dims[axis] - 1 - first[axis] - (first[axis] + by[axis] * (made[axis] - 1)));
    let what = format!("from {} in steps of {}", both(space.map(|axis| first[axis])), both(space.map(|axis| by[axis])));
    let judgement = match left {
        [0, 0] if made[space[0]] == made[space[1]] || dims[space[0]] != dims[space[1]] => Judgement::Exact,
        [0, 0] => Judgement::Never("it leaves other numbers of rows than of columns".into()),
        _ => Judgement::Inexact(format!("leaves {} more behind than before", both(left))),
    };
    judged(result, what, judgement)
}

/// Of whole numbers with these extents, those from `first` on in steps of `by`, so many along each axis.
fn strided(ints: &[i64], dims: &[i64], first: &[i64], by: &[i64], made: &[i64]) -> Option<Vec<i64>> {
    let entry = |mut index: i64| {
        let (mut at, mut unit) = (0, 1);
        for axis in (0..dims.len()).rev() {
            at += unit * (first[axis] + index % made[axis] * by[axis]);
            index /= made[axis];
            unit *= dims[axis];
        }
        ints.get(usize::try_from(at).ok()?).copied()
    };
    (0..count(made)?.min(ints.len() as i64)).map(entry).collect()
}
