//! Builds the page into `examples/web/dist`: static files, which any web server can hand out.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use wasm_bindgen_cli_support::Bindgen;

const TARGET: &str = "wasm32-unknown-unknown";
/// Of the module, and of the script that loads it.
const NAME: &str = "quarterturn_web";
/// Folders whose files are the rest of the page.
const FILES: [&str; 2] = ["page", "networks"];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("build-page: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<()> {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("it stands in no folder")?;
    let module = compile(web)?;
    // Whole or not at all: a page in parts would be shown.
    let (new, dist) = (web.join("dist.new"), web.join("dist"));
    empty(&new)?;
    Bindgen::new().input_path(&module).web(true)?.typescript(false).generate(&new)?;
    optimize(&new.join(format!("{NAME}_bg.wasm")))?;
    for folder in FILES {
        for entry in fs::read_dir(web.join(folder)).map_err(|error| format!("{folder}: {error}"))? {
            let file = entry?;
            fs::copy(file.path(), new.join(file.file_name()))?;
        }
    }
    remove(&dist)?;
    fs::rename(&new, &dist)?;
    report(&dist)
}

/// The module as the compiler makes it.
fn compile(web: &Path) -> Result<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--locked", "--release", "--lib", "--package", "quarterturn-web", "--target", TARGET]);
    cargo.arg("--manifest-path").arg(web.join("Cargo.toml"));
    // All browsers of today have vectors of 128 bits.
    cargo.env("RUSTFLAGS", "-C target-feature=+simd128").env_remove("CARGO_ENCODED_RUSTFLAGS");
    if !cargo.status()?.success() {
        return Err(format!("the module cannot be compiled (`rustup target add {TARGET}` installs the target)").into());
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or(web.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release").join(format!("{NAME}.wasm")))
}

/// The version of binaryen that this was tried with. What 108, Debian 12's, makes of the bindings' tables does not start.
const OLDEST_OPTIMIZER: u32 = 132;

/// Has binaryen make the module smaller and faster, where it is installed.
fn optimize(module: &Path) -> Result<()> {
    let said = Command::new("wasm-opt").arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    // `wasm-opt version 132 (version_132)`
    let version = String::from_utf8_lossy(&said).split_whitespace().nth(2).and_then(|version| version.parse().ok());
    if version.is_none_or(|version: u32| version < OLDEST_OPTIMIZER) {
        println!("no wasm-opt of binaryen {OLDEST_OPTIMIZER} or newer: the module stays as the compiler makes it");
        return Ok(());
    }
    let mut optimizer = Command::new("wasm-opt");
    let features = ["simd", "bulk-memory", "nontrapping-float-to-int", "sign-ext", "mutable-globals", "multivalue"];
    optimizer.args(features.map(|feature| format!("--enable-{feature}"))).arg("--enable-reference-types");
    match optimizer.arg("-O3").arg(module).arg("-o").arg(module).status()?.success() {
        true => Ok(()),
        false => Err("wasm-opt fails".into()),
    }
}

fn empty(folder: &Path) -> Result<()> {
    remove(folder)?;
    Ok(fs::create_dir(folder)?)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("{}: {error}", folder.display()).into()),
        _ => Ok(()),
    }
}

/// What the page is made of.
fn report(dist: &Path) -> Result<()> {
    let mut files: Vec<_> = fs::read_dir(dist)?.collect::<io::Result<_>>()?;
    files.sort_by_key(fs::DirEntry::file_name);
    let mut sum = 0;
    for file in files {
        let bytes = file.metadata()?.len();
        sum += bytes;
        println!("{bytes:>9} {}", file.file_name().display());
    }
    println!("{sum:>9} bytes in {}; serve it with: python3 -m http.server -d {0}", dist.display());
    Ok(())
}
