//! What made a result: a device, and the program of a commit. No settings, since runs of several devices may stand in one
//! folder; each result says its own.

use crate::device;
use quarterturn::core::Device;
use serde::{Deserialize, Serialize};

/// Characters that a device or a commit has at most.
const LONGEST: usize = 400;

/// What computed, as far as it is known: results of former versions do not say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// What computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The commit that the program was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

impl Origin {
    /// This program on `device`.
    pub fn here(device: &Device) -> Self {
        Origin { device: Some(device::name(device)), commit: option_env!("QUARTERTURN_COMMIT").map(Into::into) }
    }

    /// What computed; empty if that is not known.
    pub fn device(&self) -> &str {
        self.device.as_deref().unwrap_or_default()
    }

    /// The commit; empty if that is not known.
    pub fn commit(&self) -> &str {
        self.commit.as_deref().unwrap_or_default()
    }

    /// What one made and others went on with.
    pub(super) fn chain(origins: &[Origin]) -> Self {
        let join = |field: fn(&Origin) -> &Option<String>| {
            let mut names: Vec<&str> = origins.iter().map(|one| field(one).as_deref().unwrap_or("unknown")).collect();
            names.dedup();
            (names != ["unknown"]).then(|| names.join(", then "))
        };
        Origin { device: join(|origin| &origin.device), commit: join(|origin| &origin.commit) }
    }

    /// What cannot be written into tables and figures.
    pub(super) fn check(&self) -> Result<(), String> {
        for text in [&self.device, &self.commit].into_iter().flatten() {
            if text.is_empty() || text.chars().count() > LONGEST || text.chars().any(char::is_control) {
                return Err("device or commit is no name".into());
            }
        }
        Ok(())
    }
}
