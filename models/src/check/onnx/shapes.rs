//! Operators that treat places alike, join them, or compute shapes.

use super::{
    Judgement,
    walk::{Outcome, Site, Value, bounded, count, few_floats, judged, parameter, passes, unknown},
};

/// Of each value by itself, whatever its place. The result has the shape of the first input.
const ELEMENTWISE: &[&str] = &[
    "Abs",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "DequantizeLinear",
    "Dropout",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LRN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "QuantizeLinear",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
];
/// Of each channel by the statistics of all its places.
const STATISTICS: &[&str] = &["GroupNormalization", "InstanceNormalization", "MeanVarianceNormalization"];
/// Of several values at the same place.
const TOGETHER: &[&str] = &[
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
];

pub(super) fn outcome(op: &str, site: &Site<'_>, reads_map: bool) -> Outcome {
    let first = site.input(0);
    match op {
        _ if ELEMENTWISE.contains(&op) || STATISTICS.contains(&op) => match first {
            Some(value) => passes(value.clone()),
            None => unknown("it reads nothing"),
        },
        _ if TOGETHER.contains(&op) => together(op, site),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => match first {
            Some(Value::Map { dims, space }) => {
                let dims = (0..dims.len()).map(|axis| if space.contains(&axis) { 1 } else { dims[axis] }).collect();
                passes(Value::Map { dims, space: *space })
            }
            _ => unknown("it reads no map"),
        },
        "Constant" => constant(site),
        "ConstantOfShape" => constant_of_shape(site),
        "Shape" => shape(site),
        "Concat" => concat(site),
        "Gather" => gather(site),
        "Flatten" | "Reshape" => reshape(op, site),
        "Transpose" => transpose(site),
        "Squeeze" | "Unsqueeze" => squeeze(op == "Unsqueeze", site),
        "Split" => split(site),
        "Softmax" | "LogSoftmax" | "Hardmax" => softmax(site),
        "LayerNormalization" => layer_norm(site),
        "MatMul" | "Gemm" => matmul(op, site),
        "DepthToSpace" | "SpaceToDepth" => blocks(op == "DepthToSpace", site),
        _ if op.starts_with("Reduce") || op == "ArgMax" || op == "ArgMin" => reduce(op, site),
        "Range" | "Expand" | "Size" | "NonZero" | "Tile" if !reads_map => passes(Value::Unknown),
        _ => unknown("what this operator does to turns is not known here"),
    }
}

/// Values of one place, broadcast against each other.
fn together(op: &str, site: &Site<'_>) -> Outcome {
    let inputs: Vec<&Value> = site.inputs.iter().flatten().copied().collect();
    let Some(all) = inputs.iter().map(|value| value.dims()).collect::<Option<Vec<_>>>() else {
        return unknown("it reads what is not known");
    };
    let rank = all.iter().map(|dims| dims.len()).max().unwrap_or(0);
    // Extents from the last axis on, as far as each has them.
    let at = |dims: &[i64], axis: usize| (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis]);
    let dims: Vec<i64> =
        (0..rank).map(|axis| all.iter().map(|dims| at(dims, axis)).find(|&n| n != 1).unwrap_or(1)).collect();
    if let Some(axis) = (0..rank).find(|&axis| all.iter().any(|all| ![1, dims[axis]].contains(&at(all, axis)))) {
        return Outcome::Unfit(format!("{all:?} differ along axis {axis}"));
    }
    let maps = inputs.iter().filter_map(|value| match value {
        Value::Map { dims, space } => Some(space.map(|axis| axis + rank - dims.len())),
        _ => None,
    });
    let spaces: Vec<[usize; 2]> = maps.collect();
    let Some(&space) = spaces.first() else {
        let ints: Option<Vec<&[i64]>> = inputs.iter().map(|value| value.known()).collect();
        let computed = ints.and_then(|ints| arithmetic(op, &ints));
        return passes(match computed {
            Some(ints) if count(&dims) == Some(ints.len() as i64) => Value::ints(dims, ints),
            _ => Value::Other { dims, ints: None, is_parameter: false },
        });
    };
    if spaces.iter().any(|other| *other != space) {
        return unknown("it joins maps whose height and width are other axes");
    }
    let varies = |value: &&&Value| match value {
        Value::Other { dims, .. } => space.iter().any(|&axis| at(dims, axis) != 1),
        _ => false,
    };
    let made = Value::Map { dims, space };
    match inputs.iter().find(varies) {
        Some(Value::Other { is_parameter: true, .. }) => judged(
            made,
            "",
            Judgement::Unknown("its parameters are others at every place, and weights are not judged here".into()),
        ),
        Some(_) => unknown("it joins a map with values that are others at every place"),
        None => passes(made),
    }
}

fn arithmetic(op: &str, inputs: &[&[i64]]) -> Option<Vec<i64>> {
    let [a, b] = *inputs else { return None };
    let count = a.len().max(b.len());
    let pairs = (0..count)
        .map(|i| Some((*a.get(if a.len() == 1 { 0 } else { i })?, *b.get(if b.len() == 1 { 0 } else { i })?)));
    pairs
        .map(|pair| {
            let (a, b) = pair?;
            match op {
                "Add" => a.checked_add(b),
                "Sub" => a.checked_sub(b),
                "Mul" => a.checked_mul(b),
                "Div" => a.checked_div(b),
                "Max" => Some(a.max(b)),
                "Min" => Some(a.min(b)),
                "Equal" => Some(i64::from(a == b)),
                _ => None,
            }
        })
        .collect()
}

fn constant(site: &Site<'_>) -> Outcome {
    let value = match (site.tensor("value"), site.int("value_int"), site.ints("value_ints")) {
        (Some(tensor), ..) => match few_floats(tensor) {
            Some(_) => Value::Other { dims: tensor.dims.clone(), ints: None, is_parameter: true },
            None => parameter(tensor),
        },
        (_, Some(int), _) => Value::ints(Vec::new(), vec![int]),
        (.., Some(ints)) => Value::ints(vec![ints.len() as i64], ints.to_vec()),
        _ => Value::Other { dims: Vec::new(), ints: None, is_parameter: true },
    };
    passes(value)
}

/// Whole numbers that are all the same.
fn constant_of_shape(site: &Site<'_>) -> Outcome {
    let Some(dims) = site.known(0).map(<[i64]>::to_vec) else { return passes(Value::Unknown) };
    let filled = site.tensor("value").map(parameter);
    let value = filled.as_ref().and_then(|value| value.known()?.first().copied());
    passes(match (count(&dims), value) {
        (Some(elements), Some(value)) if elements <= 64 => Value::ints(dims, vec![value; elements as usize]),
        _ => Value::Other { dims, ints: None, is_parameter: true },
    })
}

fn shape(site: &Site<'_>) -> Outcome {
    let Some(dims) = site.input(0).and_then(Value::dims) else { return passes(Value::Unknown) };
    let rank = dims.len() as i64;
    let place = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (place(site.int("start").unwrap_or(0)), place(site.int("end").unwrap_or(rank)));
    let taken = dims.get(start..end).unwrap_or(&[]).to_vec();
    passes(Value::ints(vec![taken.len() as i64], taken))
}

/// An axis, counted from the end if it is negative.
fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis.saturating_add(rank as i64) } else { axis }).ok().filter(|&axis| axis < rank)
}

fn concat(site: &Site<'_>) -> Outcome {
    let inputs: Vec<&Value> = site.inputs.iter().flatten().copied().collect();
    if let Some(ints) = inputs.iter().map(|value| value.known()).collect::<Option<Vec<_>>>() {
        let ints = ints.concat();
        return passes(Value::ints(vec![ints.len() as i64], ints));
    }
    let (Some(all), Some(first)) =
        (inputs.iter().map(|value| value.dims()).collect::<Option<Vec<_>>>(), inputs.first())
    else {
        return unknown("it reads what is not known");
    };
    let mut dims = all[0].to_vec();
    let Some(axis) = axis_of(site.int("axis").unwrap_or(1), dims.len()) else { return unknown("it has no such axis") };
    let fits = |other: &&[i64]| other.len() == dims.len() && (0..dims.len()).all(|i| i == axis || other[i] == dims[i]);
    if !all.iter().all(fits) {
        return Outcome::Unfit(format!("{all:?} cannot be put side by side"));
    }
    dims[axis] = all.iter().map(|dims| dims[axis]).sum();
    match first {
        Value::Map { space, .. } if space.contains(&axis) => {
            let never = Judgement::Never("it puts maps side by side along rows or columns".into());
            judged(Value::Map { dims, space: *space }, "", never)
        }
        Value::Map { space, .. }
            if inputs.iter().all(|other| matches!(other, Value::Map { space: s, .. } if s == space)) =>
        {
            passes(Value::Map { dims, space: *space })
        }
        Value::Map { .. } => unknown("it puts a map beside what is none"),
        _ => passes(Value::features(dims)),
    }
}

fn gather(site: &Site<'_>) -> Outcome {
    let (Some(value), Some(index)) = (site.input(0), site.input(1)) else { return unknown("it reads nothing") };
    let (Some(dims), Some(index_dims)) = (value.dims(), index.dims()) else {
        return unknown("it reads what is not known");
    };
    let Some(axis) = axis_of(site.int("axis").unwrap_or(0), dims.len()) else { return unknown("it has no such axis") };
    let extent = dims[axis];
    let indices = index
        .known()
        .map(|known| known.iter().map(|&i| if i < 0 { i.saturating_add(extent) } else { i }).collect::<Vec<_>>());
    let mut made = dims[..axis].to_vec();
    made.extend(index_dims);
    made.extend(&dims[axis + 1..]);
    if let (Some(ints), Some(indices)) = (value.known(), &indices) {
        let taken: Option<Vec<i64>> = indices.iter().map(|&i| ints.get(usize::try_from(i).ok()?).copied()).collect();
        return match taken {
            Some(taken) => passes(Value::ints(made, taken)),
            None => Outcome::Unfit("it reads beyond the end".into()),
        };
    }
    match value {
        Value::Map { space, .. } if space.contains(&axis) => match indices {
            Some(indices) if index_dims.len() == 1 => {
                let reversed = indices.iter().zip(indices.iter().rev()).all(|(a, b)| a.wrapping_add(*b) == extent - 1);
                let judgement = match reversed {
                    true => Judgement::Exact,
                    false => {
                        Judgement::Inexact("it takes other rows or columns than it would from the other end".into())
                    }
                };
                judged(Value::Map { dims: made, space: *space }, format!("{} of {extent}", indices.len()), judgement)
            }
            _ => unknown("it takes rows or columns that are not known"),
        },
        Value::Map { space, .. } => {
            let moved = |at: usize| if at > axis { at + index_dims.len() - 1 } else { at };
            passes(Value::Map { dims: made, space: space.map(moved) })
        }
        _ => passes(Value::features(made)),
    }
}

fn reshape(op: &str, site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let Some(elements) = count(dims) else { return unknown("it is too large") };
    let made: Vec<i64> = if op == "Flatten" {
        let axis = bounded(site.int("axis").unwrap_or(1));
        let axis = (if axis < 0 { axis + dims.len() as i64 } else { axis }).clamp(0, dims.len() as i64) as usize;
        vec![dims[..axis].iter().product(), dims[axis..].iter().product()]
    } else {
        let Some(target) = site.ints_or_input("shape", 1) else {
            return unknown("its shape is computed in a way that is not followed");
        };
        let kept = |(i, &n): (usize, &i64)| if n == 0 { dims.get(i).copied().unwrap_or(1) } else { n };
        let mut made: Vec<i64> = target.iter().enumerate().map(kept).collect();
        let given: Vec<i64> = made.iter().copied().filter(|&n| n != -1).collect();
        let Some(known) = count(&given) else { return Outcome::Unfit(format!("{made:?} is no shape")) };
        made.iter_mut().filter(|n| **n == -1).for_each(|n| *n = elements.checked_div(known).unwrap_or(0));
        made
    };
    if count(&made) != Some(elements) {
        return Outcome::Unfit(format!("{dims:?} does not become {made:?}"));
    }
    let Value::Map { space: [h, w], .. } = value else {
        return passes(match value.known() {
            Some(ints) => Value::ints(made, ints.to_vec()),
            None => Value::features(made),
        });
    };
    let (height, width) = (dims[*h], dims[*w]);
    // The axis of the result that stands where this one did.
    let found = |axis: usize, extent: i64| {
        let before: i64 = dims[..axis].iter().product();
        (0..made.len()).find(|&i| made[i] == extent && made[..i].iter().product::<i64>() == before)
    };
    match (found(*h, height), found(*w, width)) {
        (Some(h), Some(w)) if h != w => passes(Value::Map { dims: made, space: [h, w] }),
        _ if height * width == 1 => passes(Value::features(made)),
        _ if *w == h + 1 && found(*h, height * width).is_some() => {
            unknown("it joins rows and columns into one axis, behind which places are not followed")
        }
        _ if count(&dims[1..]) != made.last().copied() => {
            unknown("it arranges rows and columns anew, behind which places are not followed")
        }
        _ => judged(
            Value::features(made),
            "",
            Judgement::Never(format!(
                "it joins the places of a {height}×{width} map with the channels, so that what follows has other weights for each place"
            )),
        ),
    }
}

fn transpose(site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let order: Vec<i64> = site.ints("perm").map_or((0..dims.len() as i64).rev().collect(), <[i64]>::to_vec);
    let order: Option<Vec<usize>> = order.iter().map(|&axis| axis_of(axis, dims.len())).collect();
    let Some(order) = order.filter(|order| order.len() == dims.len()) else { return unknown("it has no such axes") };
    let made = order.iter().map(|&axis| dims[axis]).collect();
    match value {
        Value::Map { space, .. } => {
            let place = |axis: usize| order.iter().position(|&old| old == axis).unwrap_or(0);
            passes(Value::Map { dims: made, space: space.map(place) })
        }
        _ => passes(match (value.known(), dims, &order[..]) {
            (Some(ints), &[rows, columns], [1, 0]) => {
                let entry = |i: i64| ints[(i % rows * columns + i / rows) as usize];
                Value::ints(made, (0..rows * columns).map(entry).collect())
            }
            _ => Value::features(made),
        }),
    }
}

fn squeeze(adds: bool, site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let axes = site.ints_or_input("axes", 1);
    let rank = if adds { dims.len() + axes.as_ref().map_or(0, Vec::len) } else { dims.len() };
    let axes = match axes {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>(),
        None if !adds => Some((0..rank).filter(|&axis| dims[axis] == 1).collect()),
        None => None,
    };
    let Some(axes) = axes else { return unknown("its axes are not known") };
    // For each axis of the result, the one that it was.
    let kept: Vec<usize> = (0..rank).filter(|axis| !axes.contains(axis)).collect();
    if adds && kept.len() != dims.len() {
        return unknown("it adds an axis twice");
    }
    let made: Vec<i64> = match adds {
        true => (0..rank).map(|axis| kept.iter().position(|&k| k == axis).map_or(1, |old| dims[old])).collect(),
        false => kept.iter().map(|&axis| dims[axis]).collect(),
    };
    match value {
        Value::Map { space, .. } if adds => passes(Value::Map { dims: made, space: space.map(|axis| kept[axis]) }),
        Value::Map { space, .. } => {
            let place = |axis: usize| kept.iter().position(|&k| k == axis);
            match (place(space[0]), place(space[1])) {
                (Some(h), Some(w)) => passes(Value::Map { dims: made, space: [h, w] }),
                _ if space.iter().all(|&axis| dims[axis] == 1) => passes(Value::features(made)),
                _ => unknown("it takes away one of height and width"),
            }
        }
        _ => passes(match value.known() {
            Some(ints) => Value::ints(made, ints.to_vec()),
            None => Value::features(made),
        }),
    }
}

fn split(site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let Some(axis) = axis_of(site.int("axis").unwrap_or(0), dims.len()) else { return unknown("it has no such axis") };
    let count = site.node.outputs.len().max(1) as i64;
    let parts = site.ints_or_input("split", 1).unwrap_or_else(|| {
        let part = (dims[axis] + count - 1) / count;
        (0..count).map(|i| part.min(dims[axis] - i * part)).collect()
    });
    let part = |extent: i64| {
        let made = (0..dims.len()).map(|i| if i == axis { extent } else { dims[i] }).collect();
        match value {
            Value::Map { space, .. } => Value::Map { dims: made, space: *space },
            _ => Value::features(made),
        }
    };
    match value {
        Value::Map { space, .. } if space.contains(&axis) => unknown("it parts a map along rows or columns"),
        _ => Outcome::Judged(parts.into_iter().map(part).collect(), None),
    }
}

fn softmax(site: &Site<'_>) -> Outcome {
    let axis = site.int("axis").unwrap_or(if site.opset < 13 { 1 } else { -1 });
    match site.input(0) {
        Some(value @ Value::Map { dims, space }) => match axis_of(axis, dims.len()) {
            Some(axis) if space.contains(&axis) && dims[axis] > 1 => {
                judged(value.clone(), "", Judgement::Never("it compares the places of a row or column alone".into()))
            }
            _ => passes(value.clone()),
        },
        Some(value) => passes(value.clone()),
        None => unknown("it reads nothing"),
    }
}

fn layer_norm(site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Value::Map { dims, space } = value else { return passes(value.clone()) };
    let from = axis_of(site.int("axis").unwrap_or(-1), dims.len()).unwrap_or(0);
    match space.map(|axis| axis >= from) {
        [false, false] => passes(value.clone()),
        [true, true] => judged(
            value.clone(),
            "",
            Judgement::Unknown("it has parameters for every place, and weights are not judged".into()),
        ),
        _ => judged(value.clone(), "", Judgement::Never("it takes statistics of a row or column alone".into())),
    }
}

fn matmul(op: &str, site: &Site<'_>) -> Outcome {
    let (Some(a), Some(b)) = (site.input(0), site.input(1)) else { return unknown("it reads nothing") };
    let (Some(dims), Some(other)) = (a.dims(), b.dims()) else { return unknown("it reads what is not known") };
    let transposed = op == "Gemm" && site.int("transB").unwrap_or(0) == 1;
    let [.., rows, columns] = *other else { return unknown("it multiplies by no matrix") };
    let (rows, columns) = if transposed { (columns, rows) } else { (rows, columns) };
    let mut made = dims.to_vec();
    match made.last_mut() {
        Some(last) if *last == rows => *last = columns,
        Some(last) => return Outcome::Unfit(format!("it multiplies {last} features by a matrix with {rows} rows")),
        None => return unknown("it multiplies a number"),
    }
    match (a, b) {
        (Value::Map { space, dims }, Value::Other { .. }) if !space.contains(&(dims.len() - 1)) && other.len() == 2 => {
            passes(Value::Map { dims: made, space: *space })
        }
        (Value::Map { .. }, Value::Other { .. }) => {
            judged(Value::Unknown, "", Judgement::Never("it mixes the places of a row or column".into()))
        }
        (Value::Map { .. }, _) | (_, Value::Map { .. }) => unknown("it multiplies maps as matrices"),
        _ => passes(Value::features(made)),
    }
}

fn blocks(to_space: bool, site: &Site<'_>) -> Outcome {
    let Some(Value::Map { dims, space: [2, 3] }) = site.input(0) else { return unknown("it reads no map") };
    let block = bounded(site.int("blocksize").unwrap_or(1)).max(1);
    let &[n, channels, height, width] = &dims[..] else { return unknown("it reads no map of four axes") };
    let made = match to_space {
        true => [n, channels / (block * block), height * block, width * block],
        false if height % block != 0 || width % block != 0 => {
            return Outcome::Unfit(format!("a {height}×{width} map has no blocks of {block}"));
        }
        false => [n, channels * block * block, height / block, width / block],
    };
    judged(Value::Map { dims: made.to_vec(), space: [2, 3] }, format!("blocks of {block}×{block}"), Judgement::Exact)
}

fn reduce(op: &str, site: &Site<'_>) -> Outcome {
    let Some(value) = site.input(0) else { return unknown("it reads nothing") };
    let Some(dims) = value.dims() else { return unknown("it reads what is not known") };
    let axes = match op {
        "ArgMax" | "ArgMin" => Some(vec![site.int("axis").unwrap_or(0)]),
        _ => site.ints_or_input("axes", 1),
    };
    let axes = axes.unwrap_or_else(|| (0..dims.len() as i64).collect());
    let axes: Option<Vec<usize>> = axes.iter().map(|&axis| axis_of(axis, dims.len())).collect();
    let Some(axes) = axes else { return unknown("it has no such axes") };
    let keeps = site.int("keepdims").unwrap_or(1) == 1;
    let kept = |axis: &usize| keeps || !axes.contains(axis);
    let made: Vec<i64> =
        (0..dims.len()).filter(kept).map(|axis| if axes.contains(&axis) { 1 } else { dims[axis] }).collect();
    let Value::Map { space, .. } = value else { return passes(Value::features(made)) };
    let place = |axis: usize| (0..axis).filter(kept).count();
    match space.map(|axis| axes.contains(&axis)) {
        [true, true] if !keeps => passes(Value::features(made)),
        [false, true] | [true, false] => {
            judged(Value::Unknown, "", Judgement::Never("it joins the places of rows or of columns alone".into()))
        }
        _ => passes(Value::Map { dims: made, space: space.map(place) }),
    }
}
