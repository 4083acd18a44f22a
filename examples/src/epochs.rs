//! What each epoch of a training run came to: a line of JSON and a row of CSV.

use super::{files, runner::json};
use quarterturn::{
    core::{Error, Result},
    models::training::Report,
};
use serde_json::{Map, Value};
use std::{fmt::Write, fs, io, path::PathBuf};

/// The files `NAME.jsonl` and `NAME.csv`. Each epoch rewrites them, so that a run which is stopped and goes on has every epoch once.
pub struct EpochLog {
    lines: PathBuf,
    table: PathBuf,
}

impl EpochLog {
    /// In `folder`, with this name.
    pub fn new(folder: &std::path::Path, name: &str) -> Self {
        EpochLog { lines: folder.join(format!("{name}.jsonl")), table: folder.join(format!("{name}.csv")) }
    }

    /// Adds an epoch, which took its last step with learning rate `lr`. What the files say of this epoch and later ones is
    /// forgotten. Call it before the state of the run is saved: an epoch that is not in the state will be repeated.
    ///
    /// # Errors
    /// If a file cannot be read or written, or a line is none of this log.
    pub fn write(&self, report: &Report, lr: f64) -> Result<()> {
        let numbers = [("lr".to_string(), lr), ("training_loss".to_string(), report.loss)];
        let numbers: Vec<(String, f64)> = numbers.into_iter().chain(report.scores.values()).collect();
        let mut epochs = self.before(report.epoch + 1)?;
        let mut last = Map::from_iter([("epoch".to_string(), Value::from(report.epoch + 1))]);
        last.extend(numbers.iter().map(|(name, value)| (name.clone(), Value::from(*value))));
        epochs.push(last);

        let lines: String = epochs.iter().map(|epoch| format!("{}\n", Value::Object(epoch.clone()))).collect();
        files::write(&self.lines, lines.as_bytes())?;
        let columns: Vec<&str> = ["epoch"].into_iter().chain(numbers.iter().map(|(name, _)| name.as_str())).collect();
        let mut table = columns.join(",") + "\n";
        for epoch in &epochs {
            let cell = |column: &&str| {
                epoch.get(*column).filter(|value| !value.is_null()).map_or(String::new(), Value::to_string)
            };
            let _ = writeln!(table, "{}", columns.iter().map(cell).collect::<Vec<_>>().join(","));
        }
        files::write(&self.table, table.as_bytes())
    }

    /// The epochs that the file has before `epoch`, counted from 1.
    fn before(&self, epoch: u32) -> Result<Vec<Map<String, Value>>> {
        let text = match fs::read_to_string(&self.lines) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(|e| Error::io(&self.lines, &e))?,
        };
        let corrupt = |number: usize, message: String| {
            Error::Invalid(format!("{}: line {}: {message}; move the file away", self.lines.display(), number + 1))
        };
        let mut epochs = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line: Map<String, Value> = json::parse(line.as_bytes()).map_err(|e| corrupt(number, e.to_string()))?;
            let of = line.get("epoch").and_then(Value::as_u64).ok_or_else(|| corrupt(number, "no epoch".into()))?;
            if of < u64::from(epoch) {
                epochs.push(line);
            }
        }
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn::{
        core::{Device, Tensor},
        models::training::{Metric, Objective, Scores},
    };

    fn report(epoch: u32, right: f32) -> Report {
        let mut scores = Scores::new(&Objective::default(), &[Metric::Accuracy]);
        let tensor = |shape: &[usize], values| Tensor::from_vec(shape, values, &Device::Cpu).unwrap();
        scores.count(&tensor(&[1, 2], vec![0.0, 1.0]), &tensor(&[1], vec![right])).unwrap();
        Report { epoch, loss: f64::from(epoch) + 0.5, scores, is_best: false }
    }

    #[test]
    fn a_repeated_epoch_stands_there_once() {
        let folder = std::env::temp_dir().join(format!("quarterturn-epochs-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = EpochLog::new(&folder, "train");
        for (epoch, right) in [(0, 1.0), (1, 1.0), (2, 1.0), (1, 0.0)] {
            log.write(&report(epoch, right), 0.25).unwrap();
        }
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("train.csv"), "epoch,lr,training_loss,accuracy\n1,0.25,0.5,1.0\n2,0.25,1.5,0.0\n");
        assert_eq!(read("train.jsonl").lines().count(), 2);
        log.write(&report(0, 1.0), 0.25).unwrap();
        assert_eq!(read("train.csv").lines().count(), 2, "a new run begins anew");
        fs::write(folder.join("train.jsonl"), "{}\n").unwrap();
        let error = log.write(&report(1, 1.0), 0.25).unwrap_err().to_string();
        assert!(error.contains("train.jsonl: line 1: no epoch"), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}
