//! Programs to run in tests.

use std::{env, path::PathBuf, process::Command, sync::LazyLock};

/// The examples' folder. Cargo builds them for a whole `cargo test`, but not for `cargo test --test runner`. To whoever runs the
/// former, `QUARTERTURN_EXAMPLES_ARE_BUILT=1` saves the minutes in which Cargo builds them for themselves.
pub static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    if env::var_os("QUARTERTURN_EXAMPLES_ARE_BUILT").is_none() {
        build();
    }
    // target/debug/deps/runner-…
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples")
});

fn build() {
    let mut build = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet"]);
    build.args(["fig5", "fig6", "table1", "table2", "evaluate", "exactness"].map(|name| format!("--example={name}")));
    if cfg!(feature = "images") {
        build.arg("--example=inspect");
    }
    // For the whole workspace and with the features of this test, so that a `cargo test` has built most of it.
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if !cfg!(feature = "default") {
        build.arg("--no-default-features");
    }
    let features = [
        ("gpu", cfg!(feature = "gpu")),
        ("formats", cfg!(feature = "formats")),
        ("images", cfg!(feature = "images") && !cfg!(any(feature = "formats", feature = "default"))),
        ("hdf5", cfg!(feature = "hdf5") && !cfg!(feature = "formats")),
        ("download", cfg!(feature = "download")),
    ];
    for (name, _) in features.iter().filter(|(_, is_on)| *is_on) {
        build.arg(format!("--features={name}"));
    }
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the examples do not build");
}
