//! Renaming tensors, for weights that another program has trained.

use super::Checkpoint;
use quarterturn_core::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};

impl Checkpoint {
    /// Renames tensors by the function `rename`, and leaves out those for which it returns `None`. Use it for weights
    /// that another program has trained. Values stay as they are, because weights follow GrouPy's conventions.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if two tensors would have the same name.
    pub fn renamed(mut self, rename: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (old, entry) in self.archive.tensors {
            let Some(new) = rename(&old) else { continue };
            if tensors.insert(new.clone(), entry).is_some() {
                return Err(Error::Checkpoint { name: new, message: format!("{old} is the second to get this name") });
            }
        }
        self.archive.tensors = tensors;
        Ok(self)
    }

    /// Removes the prefixes `module` and `_orig_mod` from all names, which PyTorch's `DataParallel` and `torch.compile`
    /// add.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if two tensors would have the same name.
    pub fn unwrapped(mut self) -> Result<Self> {
        let common = |names: &[&str]| {
            let mut wrappers = ["module.", "_orig_mod."].into_iter();
            wrappers.find(|prefix| !names.is_empty() && names.iter().all(|name| name.starts_with(prefix)))
        };
        while let Some(prefix) = common(&self.names().collect::<Vec<_>>()) {
            self = self.renamed(|name| name.strip_prefix(prefix).map(String::from))?;
        }
        Ok(self)
    }

    /// Leaves out tensors whose name is one of `parts`, or begins with one of them and a dot: `fc` leaves out
    /// `fc.weight` and `fc.bias`.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if one of `parts` fits no tensor.
    pub fn without(self, parts: &[String]) -> Result<Self> {
        let is = |name: &str, part: &str| {
            name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        if let Some(part) = parts.iter().find(|part| !self.names().any(|name| is(name, part))) {
            let message = "is to be left out, but no tensor of the file has it".to_string();
            return Err(Error::Checkpoint { name: part.clone(), message });
        }
        self.renamed(|name| (!parts.iter().any(|part| is(name, part))).then(|| name.into()))
    }

    /// Replaces whole names, or the part of a name before one of its dots: with `("fc", "linear")`, `fc.weight` becomes
    /// `linear.weight`. Of several parts that fit, the longest is replaced. A part whose new name is empty is removed
    /// first, with its dot: `("module", "")` removes the prefix of PyTorch's wrappers.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if no tensor's name has one of the parts, or two tensors would have the same name.
    pub fn renamed_parts(self, names: &BTreeMap<String, String>) -> Result<Self> {
        let mut unused: BTreeSet<&str> = names.keys().map(String::as_str).collect();
        let renamed: BTreeMap<String, String> =
            self.names().map(|name| (name.to_string(), renamed_part(name, names, &mut unused))).collect();
        if let Some(part) = unused.first() {
            let message = "is to be renamed, but no tensor of the file has it".to_string();
            return Err(Error::Checkpoint { name: part.to_string(), message });
        }
        self.renamed(|name| renamed.get(name).cloned())
    }
}

/// `name` without the parts that `names` takes away, and with its longest part that has another new name replaced. Parts that it
/// has are no longer `unused`.
fn renamed_part<'a>(name: &str, names: &'a BTreeMap<String, String>, unused: &mut BTreeSet<&'a str>) -> String {
    // Where the parts of a name end that have an entry, and their new names.
    let mut parts = |name: &str| -> Vec<(usize, &'a str)> {
        let entry = |end| {
            let (old, new) = names.get_key_value(&name[..end])?;
            unused.remove(old.as_str());
            Some((end, new.as_str()))
        };
        name.match_indices('.').map(|(at, _)| at).chain([name.len()]).filter_map(entry).collect()
    };
    let mut name = name;
    while let Some(&(end, _)) = parts(name).iter().find(|&&(end, new)| new.is_empty() && end < name.len()) {
        name = &name[end + 1..];
    }
    match parts(name).into_iter().rev().find(|(_, new)| !new.is_empty()) {
        Some((end, new)) => format!("{new}{}", &name[end..]),
        None => name.to_string(),
    }
}
