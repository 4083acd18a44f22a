//! Folders of grids, as a shard's owner may hand them on: results in `results.jsonl`, networks in `runs`. Whatever is in them, a
//! grid believes nothing that its experiment would not, and writes nothing but its own files.

use crate::{runner, scratch, write};
use clap::Parser;
use quarterturn::{
    core::{Device, Result},
    models::{Checkpoint, MnistCnn, MnistCnnConfig, Network, checkpoint},
};
use runner::{Context, Experiment, Grid, Run, RunnerArgs, Settings};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Run `n` finds `10·n`; nothing is computed here.
struct Tenfold;

impl Experiment for Tenfold {
    type Spec = u64;
    type Found = u64;
    const STATES: &'static [&'static str] = &["half"];

    fn estimate(&self, _: &u64) -> Result<f64> {
        Ok(0.0)
    }

    fn run(&self, n: &u64, _: &mut Context) -> Result<Option<u64>> {
        unreachable!("run {n}: merging computes nothing")
    }

    fn check(&self, n: &u64, found: &u64) -> std::result::Result<(), String> {
        if *found == 10 * n { Ok(()) } else { Err(format!("{found} is not ten times {n}")) }
    }

    fn network(&self, _: &u64) -> Result<Box<dyn Network>> {
        Ok(Box::new(network()))
    }
}

fn network() -> MnistCnn {
    let config = MnistCnnConfig { width: 1, classes: 2, ..MnistCnnConfig::z2cnn() };
    MnistCnn::new(config, 1, &Device::Cpu).expect("settings in range")
}

const RUNS: [u64; 3] = [1, 2, 3];

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    runner: RunnerArgs,
}

/// Merges the folder `shard` into a new one and looks at everything that came of it.
fn merge(shard: &Path) {
    let joined = shard.with_file_name("joined");
    let _ = fs::remove_dir_all(&joined);
    fs::create_dir_all(&joined).expect("room for scratch files");
    let mut args = Options::parse_from(["grid"]).runner;
    args.merge = vec![PathBuf::from(shard)];
    let grid = Grid {
        name: "tenfold",
        folder: &joined,
        settings: Settings::default().with("factor", 10),
        device: &Device::Cpu,
        runs: RUNS.iter().map(|&n| Run { key: format!("number-{n}"), spec: n }).collect(),
        args: &args,
    };
    if let Ok(report) = grid.execute(&Tenfold, |_| Ok(())) {
        for (n, result) in RUNS.iter().zip(&report.results) {
            assert!(result.as_ref().is_none_or(|result| result.found == 10 * n), "a wrong result was believed");
        }
    }
    let beside: BTreeSet<_> = names(shard.parent().expect("a scratch folder"));
    assert_eq!(beside, ["joined", "shard"].map(String::from).into(), "files beside the folders");
    for name in names(&joined) {
        let own = ["lock", "results.jsonl", "runs", "settings.json"].contains(&name.as_str());
        assert!(own, "{name} was written");
    }
    for name in names(&joined.join("runs")) {
        let place = joined.join("runs").join(&name);
        assert!(RUNS.iter().any(|n| name == format!("number-{n}.safetensors")), "{name} was written");
        let file = Checkpoint::read(place).expect("a sound file");
        file.restore(&mut network()).expect("a network of the run");
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// An empty folder of a shard.
fn shard(target: &str) -> PathBuf {
    let shard = scratch(target).join("shard");
    let _ = fs::remove_dir_all(&shard);
    fs::create_dir_all(shard.join("runs")).expect("room for scratch files");
    write(&shard.join("settings.json"), br#"{"factor": "10"}"#);
    shard
}

/// A file of results.
pub fn results(bytes: &[u8]) {
    let shard = shard("results");
    write(&shard.join("results.jsonl"), bytes);
    merge(&shard);
}

/// Two bytes with the length of the results, the results, the network of the first run.
pub fn merged(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_at_checked(2) else { return };
    let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
    let (results, network) = rest.split_at(length.min(rest.len()));
    let shard = shard("merge");
    write(&shard.join("results.jsonl"), results);
    write(&shard.join("runs/number-1.safetensors"), network);
    merge(&shard);
}

/// Lines as a grid writes them.
fn lines() -> Vec<u8> {
    let line = |n: &u64| {
        format!(
            "{{\"run\":\"number-{n}\",\"seconds\":1.5,\"device\":\"CPU\",\"commit\":\"0123abc\",\"result\":{}}}\n",
            10 * n
        )
    };
    RUNS.iter().map(line).collect::<String>().into_bytes()
}

/// Sound results, results of a former version, a torn line, and the same line twice.
pub(crate) fn results_seeds() -> Vec<Vec<u8>> {
    let all = lines();
    let former = b"{\"run\":\"number-2\",\"seconds\":0.25,\"result\":20}\n".to_vec();
    let torn = all[..all.len() - 9].to_vec();
    let twice = [&former[..], &former].concat();
    vec![all, former, torn, twice]
}

/// A sound folder, and one whose network does not say of which run it is.
pub(crate) fn merged_seeds() -> Vec<Vec<u8>> {
    let path = scratch("merge").join("seed.safetensors");
    let folder = |notes: &[(&str, &str)]| {
        let notes = notes.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        checkpoint::save_with(&path, &network(), &notes).expect("room for scratch files");
        let network = fs::read(&path).expect("the file just written");
        let lines = lines();
        [&(lines.len() as u16).to_le_bytes()[..], &lines, &network].concat()
    };
    let seeds = vec![folder(&[(runner::RUN, "number-1")]), folder(&[])];
    fs::remove_file(path).expect("the file just written");
    seeds
}
