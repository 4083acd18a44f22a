//! What the runs of a folder have in common, by name: a mixture would be worth nothing.

use super::json;
use crate::files;
use quarterturn::core::{Error, Result};
use std::{collections::BTreeMap, fmt::Display, io, path::Path};

/// Bytes that the file of settings has at most.
const LONGEST: u64 = 1 << 20;
/// What former versions kept among the settings. Now each result says it of itself, so that those of several devices may
/// stand in one folder.
const DEVICE: &str = "device";

/// Settings by name.
#[derive(Default)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Adds one; options are named as on the command line.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.0.insert(name.into(), value.to_string());
        self
    }

    /// Writes the settings into a folder that has none; else they must be the same.
    pub(super) fn establish(&self, folder: &Path) -> Result<()> {
        let path = folder.join("settings.json");
        if files::exists(&path)? {
            return self.expect(folder).map(drop);
        }
        let json = serde_json::to_string_pretty(&self.0).map_err(|e| Error::Invalid(format!("settings: {e}")))?;
        files::write(&path, format!("{json}\n").as_bytes())
    }

    /// Refuses a folder with other settings, and names the first that differs. Gives the device that made its results,
    /// where they do not say it themselves.
    pub(super) fn expect(&self, folder: &Path) -> Result<Option<String>> {
        let path = folder.join("settings.json");
        let bytes = files::read(&path, LONGEST).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::Io { path: folder.into(), message: "holds no runs".into() },
            _ => Error::io(&path, &e),
        })?;
        let mut there: BTreeMap<String, String> = json::parse(&bytes).map_err(|e| Error::Corrupt {
            path: path.clone(),
            offset: 0,
            message: e.to_string(),
        })?;
        let device = there.remove(DEVICE);
        for name in self.0.keys().chain(there.keys()) {
            let (now, then) = (self.0.get(name), there.get(name));
            if now != then {
                let words = |value: Option<&String>| value.map_or("not set".into(), |value| format!("{value:?}"));
                return Err(Error::Invalid(format!(
                    "{}: its runs were made with another setting: {name} was {}, now it is {}. Choose another --out, \
                     or the former setting",
                    folder.display(),
                    words(then),
                    words(now)
                )));
            }
        }
        Ok(device)
    }
}
