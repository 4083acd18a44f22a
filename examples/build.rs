//! Tells the examples the commit that they are built from (with `-dirty` behind it if files differ from it), so that each
//! of their results can say it. `QUARTERTURN_COMMIT` says it where the sources are no git repository.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

const NAME: &str = "QUARTERTURN_COMMIT";
/// What the programs are made of, in the repository.
const SOURCES: [&str; 8] =
    ["Cargo.lock", "src", "core/src", "kernels/src", "autograd/src", "models/src", "data/src", "examples"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={NAME}");
    if let Some(commit) = env::var(NAME).ok().or_else(of_this_repository) {
        println!("cargo::rustc-env={NAME}={commit}");
    }
}

/// `None` where this is no repository of its own, such as in a registry's folder within somebody else's.
fn of_this_repository() -> Option<String> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?).parent()?.to_path_buf();
    if !root.join(".git").exists() {
        return None;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).current_dir(&root).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    let watched = [log.as_str()].into_iter().chain(SOURCES);
    watched.for_each(|path| println!("cargo::rerun-if-changed={}", root.join(path).display()));
    git(&["describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"])
}
