//! Programs to run in tests.

use std::{env, path::PathBuf, process::Command, sync::LazyLock};

/// The examples' folder. Cargo builds them for a whole `cargo test`, but not for `cargo test --test runner`.
pub static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut build = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    build.args(["build", "--quiet"]);
    build.args(["fig5", "fig6", "table1", "table2", "evaluate", "exactness"].map(|name| format!("--example={name}")));
    // For the whole workspace and with the features of this test, to the name, so that a `cargo test` has built it all.
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
    // target/debug/deps/runner-…
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples")
});
