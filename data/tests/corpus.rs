//! All inputs of the fuzz targets: those that they begin with, and those that they have found. So none comes back, whatever
//! compiler there is.
#![cfg(all(feature = "hdf5", feature = "images"))]

mod readers;

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

#[test]
fn every_input_of_the_fuzz_targets_is_an_error_or_sound() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    if !corpus.is_dir() {
        // A crate that was packaged does not have it. Past the capture of the test runner, so that it is seen.
        let _ = writeln!(io::stderr(), "left out: no inputs of fuzz targets at {}", corpus.display());
        return;
    }
    for (name, read) in readers::ALL {
        let inputs = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path());
        let mut count = 0;
        for input in inputs {
            let bytes = fs::read(&input).unwrap();
            let result = std::panic::catch_unwind(|| read(&bytes));
            assert!(result.is_ok(), "{}", input.display());
            count += 1;
        }
        assert!(count > 0, "no inputs for {name}");
    }
    readers::clean_up();
}
