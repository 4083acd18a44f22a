//! What the file of a network says besides its settings.

use quarterturn::models::checkpoint::{Notes, Preparation};

/// How images of `size` were prepared, and what `data` they were of.
pub fn notes(preparation: &Preparation, size: usize, data: &str) -> Notes {
    let notes = [
        (Preparation::NOTE, preparation.to_string()),
        ("input", format!("{size}x{size}")),
        ("data", data.chars().filter(|c| !c.is_control()).collect()),
    ];
    notes.map(|(name, text)| (name.into(), text)).into()
}
