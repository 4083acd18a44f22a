//! The original MNIST files, if the variable `QUARTERTURN_MNIST` names their folder; see `support::folder`.

mod support;

use quarterturn_data::{Normalization, mnist};

#[test]
fn the_original_files_have_the_known_statistics() {
    let Some(folder) = support::folder("QUARTERTURN_MNIST") else { return };
    let mnist = mnist::load(&folder).unwrap();
    assert_eq!((mnist.train.len(), mnist.test.len()), (60_000, 10_000));
    assert_eq!(mnist.train.extents(), [1, 28, 28]);
    assert_eq!(mnist.train.labels()[..10], [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]);
    assert_eq!(mnist.test.labels()[..10], [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]);
    let statistics = Normalization::of(&mnist.train);
    assert!((statistics.mean[0] - 0.1307).abs() < 5e-5 && (statistics.std[0] - 0.3081).abs() < 5e-5, "{statistics:?}");

    let splits = mnist::papers_splits(&mnist, 1).unwrap();
    assert_eq!((splits.train.len(), splits.validation.len(), splits.test.len()), (8_000, 2_000, 60_000));
    let per_class = (0..10).map(|c| splits.train.labels().iter().filter(|&&l| l == c).count());
    assert!(per_class.into_iter().all(|n| (600..1_000).contains(&n)));
}

/// What a mirror has to deliver is what the original files are.
#[cfg(feature = "download")]
#[test]
fn the_original_files_need_no_download() {
    use quarterturn_data::download::{Downloader, MNIST, mnist};
    let Some(folder) = support::folder("QUARTERTURN_MNIST") else { return };
    let nowhere = Downloader::new::<&str>([]);
    for item in MNIST {
        let path = folder.join(item.name);
        if path.exists() {
            assert_eq!(nowhere.fetch(&item, &folder, &mut |_| ()).unwrap(), path);
        }
    }
    let loaded = mnist(&folder, |progress| panic!("{progress:?}")).unwrap();
    assert_eq!(loaded.test.len(), 10_000);
}
