//! Scalars of a training run as an event file of TensorBoard.
//!
//! The file is a row of records: the length of the content in 8 bytes, a checksum of these, the content, a checksum of that; all little
//! endian. The content is an `Event` in the form of Protocol Buffers. A checksum is CRC32C, rotated, plus a constant.

use super::files;
use prost::Message;
use quarterturn::{
    core::{Error, Result},
    models::training::Report,
};
use std::{
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// TensorBoard takes each file for one of its own whose name contains `tfevents`.
pub const FILE: &str = "events.out.tfevents.quarterturn";

/// An event, as far as it is written here; the numbers are those of TensorFlow's `event.proto` and `summary.proto`.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// Only of the first event.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of several kinds of values, so that 0 is written too.
    #[prost(float, optional, tag = "2")]
    value: Option<f32>,
}

/// The event file of one run. Its steps are epochs, counted from 1.
pub struct TensorBoard {
    path: PathBuf,
    /// When the epoch began that is under way.
    since: Instant,
}

impl TensorBoard {
    /// In `folder`, which is created if it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new(folder: &Path) -> Result<Self> {
        files::create_folder(folder)?;
        Ok(TensorBoard { path: folder.join(FILE), since: Instant::now() })
    }

    /// Adds an epoch, which took its last step with learning rate `lr`: the loss in training, the learning rate, the seconds since the
    /// last epoch, and what was measured on held-out data. What the file says of this epoch and later ones is removed, and so is a record
    /// that was not written to its end. So each epoch stands there once, if this is called before the state of the run is saved.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the file is no event file or is damaged, naming the record; when the system refuses.
    pub fn write(&mut self, report: &Report, lr: f64) -> Result<()> {
        let seconds = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        let of_training = [("loss", report.loss), ("lr", lr), ("seconds", seconds)];
        let of_training = of_training.map(|(name, value)| (format!("train/{name}"), value));
        let held_out = report.scores.values().into_iter().map(|(name, value)| (format!("held_out/{name}"), value));
        let scalar = |(tag, value)| Scalar { tag, value: Some(value as f32) };
        let values = of_training.into_iter().chain(held_out).map(scalar).collect();
        let summary = Some(Summary { values });
        let epoch = i64::from(report.epoch) + 1;
        self.append(epoch, Event { wall_time: now(), step: epoch, file_version: None, summary })
    }

    /// Puts `event` behind those of steps before `step`.
    fn append(&self, step: i64, event: Event) -> Result<()> {
        let io = |e: std::io::Error| Error::io(&self.path, &e);
        let mut file = files::open_or_create(&self.path).map_err(io)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(io)?;
        let damaged =
            |message: String| Error::Invalid(format!("{}: {message}; move the file away", self.path.display()));
        let records = records(&content).map_err(damaged)?;
        let kept = records.iter().take_while(|(event, _)| event.step < step).last();
        let (end, mut new) = match kept {
            Some((_, end)) => (*end, Vec::new()),
            None => {
                let version = Some("brain.Event:2".to_string());
                (0, record(&Event { wall_time: now(), step: 0, file_version: version, summary: None }))
            }
        };
        new.extend(record(&event));
        file.set_len(end as u64).map_err(io)?;
        file.seek(SeekFrom::Start(end as u64)).map_err(io)?;
        file.write_all(&new).and_then(|()| file.sync_data()).map_err(io)
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn record(event: &Event) -> Vec<u8> {
    let content = event.encode_to_vec();
    let len = (content.len() as u64).to_le_bytes();
    let [of_len, of_content] = [&len[..], &content].map(|bytes| checksum(bytes).to_le_bytes());
    [&len[..], &of_len, &content, &of_content].concat()
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The events of a file, each with the place where its record ends. A last record that is not all there is left out.
///
/// # Errors
/// What is wrong with which record, counted from 1.
fn records(mut bytes: &[u8]) -> std::result::Result<Vec<(Event, usize)>, String> {
    let (whole, mut found) = (bytes.len(), Vec::new());
    loop {
        let refused = |message: &str| format!("record {}: {message}", found.len() + 1);
        let Some(([len, of_len], rest)) =
            bytes.split_at_checked(12).map(|(head, rest)| ([&head[..8], &head[8..]], rest))
        else {
            return Ok(found);
        };
        if checksum(len).to_le_bytes() != of_len {
            return Err(refused("no record of an event file, or a damaged one"));
        }
        let len = u64::from_le_bytes(len.try_into().expect("8 bytes"));
        let content = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
        let Some((content, (of_content, rest))) =
            content.and_then(|(content, rest)| Some((content, rest.split_at_checked(4)?)))
        else {
            return Ok(found);
        };
        if checksum(content).to_le_bytes() != of_content {
            return Err(refused("its content is damaged"));
        }
        let event = Event::decode(content).map_err(|error| refused(&error.to_string()))?;
        bytes = rest;
        found.push((event, whole - bytes.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarterturn::{
        core::{Device, Tensor},
        models::training::{Metric, Objective, Scores},
    };
    use std::fs;

    fn report(epoch: u32, loss: f64) -> Report {
        let mut scores = Scores::new(&Objective::default(), &[Metric::Accuracy]);
        let tensor = |shape: &[usize], values| Tensor::from_vec(shape, values, &Device::Cpu).unwrap();
        scores.count(&tensor(&[1, 2], vec![0.0, 1.0]), &tensor(&[1], vec![0.0])).unwrap();
        Report { epoch, loss, scores, is_best: false }
    }

    /// Steps, and of each the loss.
    fn losses(path: &Path) -> Vec<(i64, f32)> {
        let found = records(&fs::read(path).unwrap()).unwrap();
        assert_eq!(found[0].0.file_version.as_deref(), Some("brain.Event:2"));
        found[1..]
            .iter()
            .map(|(event, _)| (event.step, event.summary.as_ref().unwrap().values[0].value.unwrap()))
            .collect()
    }

    #[test]
    fn a_file_is_read_back_record_by_record_and_has_each_epoch_once() {
        let folder = std::env::temp_dir().join(format!("quarterturn-tensorboard-{}", std::process::id()));
        let path = folder.join(FILE);
        let mut board = TensorBoard::new(&folder).unwrap();
        (0..3).for_each(|epoch| board.write(&report(epoch, f64::from(epoch)), 0.25).unwrap());
        let whole = fs::read(&path).unwrap();
        let (last, _) = records(&whole).unwrap().pop().unwrap();
        let tags = last.summary.unwrap().values.into_iter().map(|scalar| (scalar.tag, scalar.value.unwrap()));
        let tags: Vec<(String, f32)> = tags.filter(|(tag, _)| tag != "train/seconds").collect();
        let expected = [("train/loss", 2.0), ("train/lr", 0.25), ("held_out/accuracy", 0.0)];
        assert_eq!(tags, expected.map(|(tag, value)| (tag.to_string(), value)));

        // A resumed run repeats an epoch that its state does not have; and the last record may not be all there.
        let mut resumed = TensorBoard::new(&folder).unwrap();
        resumed.write(&report(1, 7.0), 0.25).unwrap();
        assert_eq!(losses(&path), [(1, 0.0), (2, 7.0)]);
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        resumed.write(&report(2, 8.0), 0.25).unwrap();
        assert_eq!(losses(&path), [(1, 0.0), (2, 1.0), (3, 8.0)]);
        resumed.write(&report(0, 9.0), 0.25).unwrap();
        assert_eq!(losses(&path), [(1, 9.0)], "a new run begins anew");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_and_left_as_it_is() {
        let folder = std::env::temp_dir().join(format!("quarterturn-tensorboard-damaged-{}", std::process::id()));
        let mut board = TensorBoard::new(&folder).unwrap();
        board.write(&report(0, 1.0), 0.25).unwrap();
        let (path, first) = (folder.join(FILE), records(&fs::read(folder.join(FILE)).unwrap()).unwrap()[0].1);
        for (at, expected) in
            [(0, "record 1: no record"), (first + 2, "record 2: no record"), (first + 14, "record 2: its content")]
        {
            let mut bytes = fs::read(&path).unwrap();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let error = board.write(&report(1, 1.0), 0.25).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("tfevents"), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
        fs::remove_dir_all(folder).unwrap();
    }

    /// The check value of CRC32C's catalogue, and what TensorFlow makes of it.
    #[test]
    fn checksums() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(checksum(b"123456789"), 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }
}
