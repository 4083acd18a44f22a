//! How images are prepared for a network, as its file says it.

use quarterturn::{
    core::{Error, Result},
    data::{Normalization, Pipeline, Transform},
    models::checkpoint::{Notes, Preparation, Step},
};

/// What a pipeline for tests does.
///
/// # Errors
/// If it does anything at random.
pub fn of(pipeline: &Pipeline) -> Result<Preparation> {
    let step = |transform: &Transform| match *transform {
        Transform::Resize { size } => Ok(Step::Resize(size)),
        Transform::ResizeShorter { size } => Ok(Step::ResizeShorter(size)),
        Transform::CenterCrop { size } => Ok(Step::CenterCrop(size)),
        Transform::CircleCrop { radius } => Ok(Step::CircleCrop { radius: Some(radius) }),
        ref random => Err(Error::Invalid(format!("{random:?} is no preparation for a test"))),
    };
    let mut steps = pipeline.transforms.iter().map(step).collect::<Result<Vec<_>>>()?;
    let Normalization { mean, std } = pipeline.normalization.clone();
    steps.push(Step::Normalize { mean, std });
    Ok(Preparation { steps })
}

/// What the file of a network says besides its settings: how images of `size` were prepared, and what `data` they were of.
pub fn notes(preparation: &Preparation, size: usize, data: &str) -> Notes {
    let notes = [
        (Preparation::NOTE, preparation.to_string()),
        ("input", format!("{size}x{size}")),
        ("data", data.chars().filter(|c| !c.is_control()).collect()),
    ];
    notes.map(|(name, text)| (name.into(), text)).into()
}
