//! Parameter groups: weights with their own learning rate or weight decay.

use crate::Param;

/// Weights with their own learning rate or weight decay in an [`crate::Optimizer`], as PyTorch's parameter groups.
///
/// ```
/// use quarterturn_autograd::{Optimizer, ParamGroup};
///
/// // Fine-tuning: a new head learns ten times as fast, and neither norms nor biases decay.
/// let optimizer = Optimizer::adamw(0.01)
///     .with_groups([ParamGroup::named(["fc.*"]).with_lr_factor(10.0), ParamGroup::vectors().with_weight_decay(0.0)]);
/// # let _ = optimizer;
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ParamGroup {
    members: Members,
    lr_factor: f64,
    weight_decay: Option<f64>,
}

#[derive(Clone, Debug, PartialEq)]
enum Members {
    Named(Vec<String>),
    Vectors,
}

impl ParamGroup {
    /// The weights whose name matches one of `patterns`, where `*` stands for any characters, or none. Names are those
    /// of `visit`.
    pub fn named<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Self {
        Self::of(Members::Named(patterns.into_iter().map(Into::into).collect()))
    }

    /// The weights with one axis or none: biases, and the weights of norms.
    pub fn vectors() -> Self {
        Self::of(Members::Vectors)
    }

    fn of(members: Members) -> Self {
        ParamGroup { members, lr_factor: 1.0, weight_decay: None }
    }

    /// The same group with `factor` times the learning rate.
    #[must_use]
    pub fn with_lr_factor(self, factor: f64) -> Self {
        ParamGroup { lr_factor: factor, ..self }
    }

    /// The same group with this weight decay in place of the rule's.
    #[must_use]
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        ParamGroup { weight_decay: Some(weight_decay), ..self }
    }

    pub(crate) fn lr_factor(&self) -> f64 {
        self.lr_factor
    }

    pub(crate) fn weight_decay(&self) -> Option<f64> {
        self.weight_decay
    }

    /// Whether a parameter of this name is one of them.
    pub fn has(&self, name: &str, param: &Param) -> bool {
        match &self.members {
            Members::Named(patterns) => patterns.iter().any(|pattern| matches(pattern, name)),
            Members::Vectors => param.value().shape().rank() <= 1,
        }
    }

    /// What its members are called, for messages.
    pub(crate) fn wanted(&self) -> String {
        match &self.members {
            Members::Named(patterns) => format!("called {}", patterns.join(" or ")),
            Members::Vectors => "with one axis or none".into(),
        }
    }
}

/// Whether `name` is as `pattern` says.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| matches(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, name, expected) in [
            ("fc.weight", "fc.weight", true),
            ("fc.weight", "fc.weights", false),
            ("fc.*", "fc.weight", true),
            ("fc.*", "fc2.weight", false),
            ("*.bias", "layer1.0.bn1.bias", true),
            ("*.bias", "bias", false),
            ("layer*.bn*.weight", "layer1.0.bn1.weight", true),
            ("layer*.bn*.weight", "layer1.0.conv1.weight", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*ü*", "für", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
