//! Original files, which are not part of the sources.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

/// The folder that the environment variable `variable` names. Without it a test is left out, and says so; `REQUIRE_DATA=1`
/// makes that a failure.
pub fn folder(variable: &str) -> Option<PathBuf> {
    let required = env::var("REQUIRE_DATA").is_ok_and(|value| value == "1");
    let found = find(variable, env::var_os(variable), required).unwrap_or_else(|message| panic!("{message}"));
    if found.is_none() {
        // Past the capture of the test runner, so that it is seen.
        let _ = writeln!(io::stderr(), "left out: {variable} does not name the folder of the original files");
    }
    found
}

fn find(variable: &str, value: Option<OsString>, required: bool) -> Result<Option<PathBuf>, String> {
    match value.map(PathBuf::from) {
        Some(folder) if folder.is_dir() => Ok(Some(folder)),
        Some(folder) => Err(format!("{variable} names {}, which is no folder", folder.display())),
        None if required => {
            Err(format!("REQUIRE_DATA=1, but {variable} does not name the folder of the original files"))
        }
        None => Ok(None),
    }
}

#[test]
fn what_is_required_is_not_left_out() {
    assert_eq!(find("X", None, false), Ok(None));
    assert_eq!(find("X", Some(env::temp_dir().into()), false), Ok(Some(env::temp_dir())));
    assert!(find("X", None, true).is_err());
    // A folder that is named and not there is a mistake, required or not.
    assert!(find("X", Some("no/such/folder".into()), false).is_err());
}
