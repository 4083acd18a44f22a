//! One run: a network, trained with one seed on one kind of digits, and tested at every angle; and what it finds.

use super::{Classes, Subject, Turns};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// What a network is trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Task {
    pub turns: Turns,
    /// Of the training and the test digits.
    pub classes: Classes,
}

impl From<Turns> for Task {
    fn from(turns: Turns) -> Self {
        Task { turns, classes: Classes::ALL }
    }
}

impl Task {
    /// In figures and tables.
    pub fn title(self) -> String {
        let turns = self.turns.title();
        if self.classes == Classes::ALL { turns } else { format!("{turns}, of {} only", self.classes) }
    }

    /// The name in files.
    fn key(self) -> String {
        let turns = self.turns.key();
        if self.classes == Classes::ALL { turns } else { format!("{turns}_of-{}", self.classes) }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.classes == Classes::ALL {
            write!(f, "{}", self.turns)
        } else {
            write!(f, "{} of {}", self.turns, self.classes)
        }
    }
}

/// What to train and test.
#[derive(Clone, Copy)]
pub struct Trial {
    pub subject: Subject,
    pub task: Task,
    pub seed: u64,
}

impl Trial {
    /// Its name in files.
    pub fn key(self) -> String {
        let Trial { subject, task, seed } = self;
        format!("{}_{}_seed-{seed}", subject.key(), task.key())
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, seed {}", self.subject, self.task.title(), self.seed)
    }
}

/// What a trial finds.
#[derive(Clone, Serialize, Deserialize)]
pub struct Tested {
    /// Digits recognised, by angle.
    pub correct: Vec<u64>,
    /// Digits without an answer, as their logits are not numbers, by angle; empty if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<u64>,
    /// Whether quarter turns leave every bit of the logits.
    pub exact: bool,
    /// Whether the counts from 90° on are those of the first quarter, since every bit of the logits is. Only where the network is
    /// exact.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub derived: bool,
    /// The epoch whose weights were tested, from 1; `None`: the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// Digits tested at each angle, where only some classes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<u64>,
    /// Trained values of the network.
    pub parameters: u64,
    /// What else the experiment measures, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measured: Measured,
}

/// Numbers by name.
pub type Measured = BTreeMap<String, Vec<f64>>;
