//! What the logits of a trained network say: whether turns leave them alone, and where they are no answer.

use quarterturn::{
    core::{Result, Tensor},
    kernels::{argmax, transform_plane},
    models::Network,
};

/// Whether `f(T x) = f(x)` to the last bit, for every quarter turn of the images `[N, C, 1, H, W]`. Logits that are not
/// numbers are not equal to anything.
///
/// # Errors
/// If the images do not fit the network, or the device fails.
pub fn turns_leave_every_bit<N: Network + ?Sized>(network: &N, images: &Tensor) -> Result<bool> {
    views_leave_every_bit(network, 4, |turn| transform_plane(images, turn))
}

/// Whether the logits of all views of some images, `view(0)` to `view(views − 1)`, are the same to the last bit.
///
/// # Errors
/// As [`turns_leave_every_bit`].
pub fn views_leave_every_bit<N: Network + ?Sized>(
    network: &N,
    views: usize,
    view: impl Fn(usize) -> Tensor,
) -> Result<bool> {
    let logits = |v| network.predict(&view(v))?.to_vec();
    let upright = logits(0)?;
    for v in 1..views {
        let turned = logits(v)?;
        if turned.iter().zip(&upright).any(|(a, b)| a.is_nan() || a.to_bits() != b.to_bits()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many of the images have no answer, as one of their logits is not a number, in each of `views`; the images are in
/// `batches`, and view `v` of some is `view(images, v)`. One more pass over a test, for the rare one that needs it.
///
/// # Errors
/// What `batches` report; if the images do not fit the network, or the device fails.
pub fn unanswered<N: Network + ?Sized>(
    network: &N,
    batches: impl Iterator<Item = Result<Tensor>>,
    views: usize,
    view: impl Fn(&Tensor, usize) -> Tensor,
) -> Result<Vec<u64>> {
    let mut counts = vec![0; views];
    for images in batches {
        let images = images?;
        for (v, count) in counts.iter_mut().enumerate() {
            let answers = argmax(&network.predict(&view(&images, v))?, 1).to_vec()?;
            *count += answers.iter().filter(|answer| answer.is_nan()).count() as u64;
        }
    }
    Ok(counts)
}

/// Refuses counts by view that are not one for each of `views`, or are more than there are images. `unanswered` may be
/// empty, where all were.
///
/// # Errors
/// What is wrong, in words.
pub fn check_counts(
    correct: &[u64],
    unanswered: &[u64],
    views: usize,
    images: u64,
    exact: bool,
) -> std::result::Result<(), String> {
    if correct.len() != views || ![0, views].contains(&unanswered.len()) {
        return Err(format!("{} counts of views, and {} without answers, of {views}", correct.len(), unanswered.len()));
    }
    for (v, &correct) in correct.iter().enumerate() {
        let none = unanswered.get(v).copied().unwrap_or(0);
        if correct.checked_add(none).is_none_or(|sum| sum > images) {
            return Err(format!("{correct} of {images} images recognised, {none} without an answer"));
        }
    }
    match exact && unanswered.iter().any(|&none| none > 0) {
        true => Err("called exact, though there are images without an answer".into()),
        false => Ok(()),
    }
}
