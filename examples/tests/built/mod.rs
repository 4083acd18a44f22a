//! Programs to run in tests.

use std::{env, path::PathBuf, process::Command, sync::LazyLock};

/// The examples' folder. Cargo builds them for a whole `cargo test`, but not for `cargo test --test runner`.
pub static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut build = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    build.args([
        "build",
        "--quiet",
        "--example",
        "fig5",
        "--example",
        "fig6",
        "--example",
        "table1",
        "--example",
        "table2",
        "--example",
        "evaluate",
        "--example",
        "exactness",
    ]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // As this test is built itself.
    let features = [
        ("gpu", cfg!(feature = "gpu")),
        ("images", cfg!(feature = "images")),
        ("hdf5", cfg!(feature = "hdf5")),
        ("download", cfg!(feature = "download")),
    ];
    let features = features.iter().filter(|(_, is_on)| *is_on).map(|(name, _)| *name);
    build.args(["--no-default-features", "--features", &features.collect::<Vec<_>>().join(",")]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the examples do not build");
    // target/debug/deps/runner-…
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples")
});
