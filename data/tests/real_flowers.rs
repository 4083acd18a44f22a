//! The original lists of Flowers-102, if the variable `QUARTERTURN_FLOWERS` names their folder; see `support::folder`.
#![cfg(feature = "images")]

mod support;

use quarterturn_data::mat5;
use std::collections::BTreeSet;

#[test]
fn the_original_lists_are_the_known_parts() {
    let Some(folder) = support::folder("QUARTERTURN_FLOWERS") else { return };
    let labels = mat5::read(&folder.join("imagelabels.mat")).unwrap();
    assert_eq!((labels[0].name.as_str(), &labels[0].extents[..]), ("labels", &[1, 8189][..]));
    let labels = &labels[0].values;
    assert_eq!((labels[0], labels.iter().copied().fold(0.0, f64::max)), (77.0, 102.0));

    let parts = mat5::read(&folder.join("setid.mat")).unwrap();
    let ids = |name: &str| &parts.iter().find(|part| part.name == name).unwrap().values[..];
    let (train, validation, test) = (ids("trnid"), ids("valid"), ids("tstid"));
    assert_eq!((train.len(), validation.len(), test.len()), (1020, 1020, 6149));
    assert_eq!((train[..3].to_vec(), test[..3].to_vec()), (vec![6765.0, 6755.0, 6768.0], vec![6734.0, 6735.0, 6737.0]));
    let all: BTreeSet<usize> = [train, validation, test].concat().iter().map(|&id| id as usize).collect();
    assert!(all.into_iter().eq(1..=8189));
    for part in [train, validation] {
        let of = |class: usize| part.iter().filter(|&&id| labels[id as usize - 1] == class as f64).count();
        assert!((1..=102).all(|class| of(class) == 10));
    }
}
