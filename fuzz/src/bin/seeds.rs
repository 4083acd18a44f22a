//! Writes a few sound inputs of each target to `corpus/TARGET`, for the fuzzer to start from.

use std::{fs, path::Path};

fn main() -> std::io::Result<()> {
    for target in quarterturn_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, bytes) in (target.seeds)().into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{number}")), bytes)?;
        }
    }
    Ok(())
}
