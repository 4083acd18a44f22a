//! Every seed and every input that was ever found, without a fuzzer.

use quarterturn_fuzz::TARGETS;
use std::{fs, path::Path};

#[test]
fn every_input_of_the_corpus_is_read_or_refused() {
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let inputs: Vec<_> = entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
        assert!(!inputs.is_empty(), "{} has no seeds", target.name);
        inputs.iter().for_each(|input| (target.run)(input));
    }
}

/// Seeds cut short, and with each byte of their first hundreds changed in turn: what a fuzzer does first.
#[test]
fn what_is_near_a_seed_is_read_or_refused() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            for end in (0..seed.len()).step_by(seed.len() / 40 + 1) {
                (target.run)(&seed[..end]);
            }
            for place in (0..seed.len().min(400)).step_by(seed.len().min(400) / 60 + 1) {
                for value in [0, 0x7f, 0x80, 0xff] {
                    let mut changed = seed.clone();
                    changed[place] = value;
                    (target.run)(&changed);
                }
            }
        }
    }
}
