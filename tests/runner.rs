//! The experiments survive what happens to them: `fig6` as a process that is killed, locked out, split and misled.
//!
//! `QUARTERTURN_KILLS` says how often the process is killed (5 unless set).

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// A folder of its own for each test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("quarterturn-runner-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The examples' folder. Cargo builds them for a whole `cargo test`, but not for `cargo test --test runner`.
static EXAMPLES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut build = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    build.args([
        "build",
        "--quiet",
        "--example",
        "fig6",
        "--example",
        "table1",
        "--example",
        "table2",
        "--example",
        "evaluate",
    ]);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(feature = "gpu") {
        build.arg("--no-default-features");
    }
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    assert!(build.status().unwrap().success(), "the examples do not build");
    // target/debug/deps/runner-…
    env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples")
});

/// An example on the CPU with little to do.
fn example(name: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(EXAMPLES.join(name));
    command.args(["--device", "cpu", "--out"]).arg(out).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `fig6` in four runs of six steps and two slices of tests, with a checkpoint after each; `more` takes precedence.
fn fig6(out: &Path, more: &[&str]) -> Command {
    let mut command = example("fig6", out, &["--quick"]);
    for [name, value] in [
        ["--train", "48"],
        ["--test", "300"],
        ["--angles", "4"],
        ["--epochs", "2"],
        ["--networks", "z2:12,p4:12"],
        ["--checkpoint-every", "0"],
    ] {
        if !more.contains(&name) {
            command.args([name, value]);
        }
    }
    command.args(more);
    command
}

fn succeeds(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, text(&output.stderr));
    output
}

fn fails(mut command: Command, message: &str) {
    let output = command.output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(message), "expected …{message}…, got {error}");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What does not depend on how a grid was computed: networks and results, by path below the folder.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut content = BTreeMap::new();
    for entry in fs::read_dir(folder.join("runs")).unwrap() {
        let path = entry.unwrap().path();
        content.insert(path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(path).unwrap());
    }
    content.insert("fig6.csv".into(), fs::read(folder.join("fig6.csv")).unwrap());
    content
}

fn lines(folder: &Path) -> usize {
    fs::read_to_string(folder.join("results.jsonl")).map_or(0, |text| text.lines().count())
}

/// Waits until `reached` holds, or the process has ended.
fn wait_until(child: &mut Child, reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(300), "nothing happens");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_at_any_moment_it_ends_with_the_same_bytes() {
    let folder = Folder::new("kill");
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    LazyLock::force(&EXAMPLES);
    let begun = Instant::now();
    succeeds(fig6(&whole, &[]));
    let took = begun.elapsed();
    assert_eq!(content(&whole).len(), 5, "four networks and the CSV");

    let kills: u32 =
        env::var("QUARTERTURN_KILLS").map_or(5, |kills| kills.parse().expect("QUARTERTURN_KILLS: a number"));
    // Other moments each time; together about as long as the whole takes.
    let moments = quarterturn::core::Stream::new(took.as_nanos() as u64, 0, 0);
    let (mut made, mut at_work) = (0, 0);
    for attempt in 0..100 * kills {
        if made == kills {
            break;
        }
        let mut child = fig6(&killed, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(took.mul_f32(2.0 * moments.uniform(attempt.into()) / kills.max(4) as f32));
        if child.try_wait().unwrap().is_some() {
            // It came to the end before it was killed often enough: so once more from the beginning.
            fs::remove_dir_all(&killed).unwrap();
            continue;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        made += 1;
        at_work += u32::from(killed.join("runs").is_dir());
    }
    assert_eq!(made, kills);
    println!("killed {made} times, {at_work} times with work under way or done");
    succeeds(fig6(&killed, &[]));
    assert!(content(&killed) == content(&whole), "another result after {kills} kills");
    assert_eq!(lines(&killed), 4, "a run was repeated");
}

#[cfg(unix)]
#[test]
fn an_interrupt_stops_after_a_checkpoint() {
    let folder = Folder::new("interrupt");
    let out = folder.join("out");
    let mut child = fig6(&out, &["--epochs", "200"]).spawn().unwrap();
    let begun = |out: &Path| fs::read_dir(out.join("runs")).is_ok_and(|mut files| files.next().is_some());
    wait_until(&mut child, || begun(&out));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{error}");
    assert!(error.contains("0 of 4 runs are finished. The same command goes on from here"), "{error}");
    let states = content(&out).into_keys().filter(|name| name.contains(".training.")).count();
    assert_eq!(states, 1);
}

#[test]
fn two_processes_and_changed_settings_are_kept_out() {
    let folder = Folder::new("lock");
    let out = folder.join("out");
    let mut child = fig6(&out, &["--epochs", "1000"]).spawn().unwrap();
    wait_until(&mut child, || fs::read(out.join("lock")).is_ok_and(|note| !note.is_empty()));
    let holder = format!("in use by process {} on ", child.id());
    fails(fig6(&out, &["--epochs", "1000"]), &holder);
    fails(fig6(&out, &["--epochs", "1000", "--shard", "1/2"]), &holder);
    child.kill().unwrap();
    child.wait().unwrap();

    fails(fig6(&out, &[]), "epochs was \"1000\", now it is \"2\"");
    fails(fig6(&out, &["--epochs", "1000", "--protocol", "published"]), "protocol was \"paper\"");
    fails(fig6(&out, &["--epochs", "1000", "--lr", "0.1"]), "lr was \"0.01\"");
    // More seeds, networks or trainings are more runs, not other settings.
    let other = folder.join("other");
    succeeds(fig6(&other, &["--training", "upright", "--networks", "z2:12"]));
    succeeds(fig6(&other, &["--training", "upright", "--networks", "z2:12,z2:13"]));
    assert_eq!(lines(&other), 2);
}

#[test]
fn shards_in_two_folders_or_in_one_are_joined() {
    let folder = Folder::new("shards");
    let whole = folder.join("whole");
    succeeds(fig6(&whole, &[]));
    let (first, second, joined) = (folder.join("first"), folder.join("second"), folder.join("joined"));
    succeeds(fig6(&first, &["--shard", "1/2"]));
    let sources = [first.to_str().unwrap(), second.to_str().unwrap()];

    fails(fig6(&joined, &["--merge", sources[0], sources[1]]), "holds no runs");
    succeeds(fig6(&joined, &["--merge", sources[0]]));
    assert_eq!(lines(&joined), 2);
    succeeds(fig6(&second, &["--shard", "2/2"]));
    let output = succeeds(fig6(&joined, &["--merge", sources[0], sources[1]]));
    assert!(text(&output.stdout).contains("wrote fig6.csv"));
    assert!(content(&joined) == content(&whole), "joined from two folders");

    // Both shards at once in one folder, which needs no joining.
    let shared = folder.join("shared");
    let shards = ["1/2", "2/2"].map(|shard| fig6(&shared, &["--shard", shard]).spawn().unwrap());
    for shard in shards {
        let output = shard.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    let output = succeeds(fig6(&shared, &[]));
    assert!(!text(&output.stderr).contains("plan:"), "all is there");
    assert!(content(&shared) == content(&whole), "joined in one folder");
}

#[test]
fn a_torn_line_is_dropped_and_a_foreign_one_refused() {
    let folder = Folder::new("torn");
    let out = folder.join("out");
    succeeds(fig6(&out, &[]));
    let (before, journal) = (content(&out), out.join("results.jsonl"));
    let all = fs::read(&journal).unwrap();
    fs::write(&journal, &all[..all.len() - 9]).unwrap();
    let output = succeeds(fig6(&out, &[]));
    assert!(text(&output.stderr).contains("of a line that was never finished; dropped"));
    // What made the network whose line was lost is not known.
    let mut after = content(&out);
    let csv = text(&after["fig6.csv"]);
    assert_eq!(csv.matches(",\"unknown, then CPU\",\"unknown, then ").count(), 4, "four angles of one run: {csv}");
    after.insert(
        "fig6.csv".into(),
        csv.replace("\"unknown, then ", "").replace("CPU\"", "CPU").replace("\"\n", "\n").into(),
    );
    assert!(after == before);
    assert_eq!(lines(&out), 4);

    let mut bad = all.clone();
    bad[3] = b'x';
    bad[1] = b'x';
    fs::write(&journal, bad).unwrap();
    fails(fig6(&out, &[]), "at byte 0: this line is no result");
}

#[test]
fn a_run_that_diverges_is_reported_and_the_others_go_on() {
    let folder = Folder::new("diverges");
    let out = folder.join("out");
    let diverging = ["--training", "upright", "--networks", "z2:12,p4:12", "--lr", "1e38"];
    let output = fig6(&out, &diverging).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    for network in ["Z2CNN", "P4CNN"] {
        assert!(
            error.contains(&format!("failed: {network} 12×12, upright digits, seed 0: training diverged")),
            "{error}"
        );
    }
    assert!(error.contains("0 of 2 runs are finished"), "{error}");

    // A run whose state cannot be read fails alone, by name.
    let out = folder.join("corrupt");
    fs::create_dir_all(out.join("runs")).unwrap();
    fs::write(out.join("runs/z2-12_upright_seed-0.training.safetensors"), b"no state").unwrap();
    let output = fig6(&out, &["--training", "upright"]).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("z2-12_upright_seed-0.training.safetensors") && error.contains("begins anew"), "{error}");
    assert_eq!(lines(&out), 1);
    assert!(fs::read_to_string(out.join("fig6.csv")).unwrap().contains("P4CNN"));
}

#[test]
fn table_1_counts_over_seeds_and_marks_the_papers_numbers() {
    let folder = Folder::new("table1");
    let out = folder.join("out");
    let small = ["--quick", "--train", "48", "--test", "40", "--angles", "4", "--epochs", "1", "--seeds", "3"];
    let mut command = example("table1", &out, &small);
    command.args(["--networks", "p4:12,p4:13"]);
    let output = text(&succeeds(command).stdout);
    assert!(output.contains("exact minus this") && !output.contains("98.47"), "{output}");
    let summary = fs::read_to_string(out.join("table1-summary.csv")).unwrap();
    let rows: Vec<Vec<&str>> = summary.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|&column| column == name).unwrap();
    assert_eq!(rows.len(), 1 + 8, "two trainings, two measures, two networks");
    for row in &rows[1..] {
        assert_eq!(row[column("seeds")], "3");
        // At 12 the pooling fits, at 13 it leaves a row and a column over.
        assert_eq!(row[column("exact")], (row[column("input_size")] == "12").to_string());
    }
    let csv = fs::read_to_string(out.join("table1.csv")).unwrap();
    let accuracy = |training: &str| {
        let upright = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let counts: Vec<f64> = upright
            .filter(|row| row[2] == training && row[5] == "13" && row[7] == "0")
            .map(|row| row[8].parse().unwrap())
            .collect();
        assert_eq!(counts.len(), 3);
        100.0 * counts.iter().sum::<f64>() / 3.0 / 40.0
    };
    for training in ["upright", "rotmnist"] {
        let row = rows.iter().find(|row| row[2] == training && row[3] == "accuracy at 0°" && row[6] == "13").unwrap();
        assert!((row[column("mean")].parse::<f64>().unwrap() - accuracy(training)).abs() < 1e-9);
    }
}

/// `table2` in three runs of four steps, with a checkpoint after each.
fn table2(out: &Path) -> Command {
    let small = ["--train", "64", "--test", "40", "--epochs", "2", "--seeds", "1", "--checkpoint-every", "0"];
    example("table2", out, &small)
}

#[test]
fn table_2_counts_the_same_after_every_turn_where_the_network_is_exact_and_survives_a_kill() {
    let folder = Folder::new("table2");
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    let output = text(&succeeds(table2(&whole)).stdout);
    assert!(output.contains("built-in textures") && !output.contains("paper: unseen"), "{output}");
    let csv = fs::read_to_string(whole.join("table2.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|&column| column == name).unwrap();
    assert_eq!(rows.len(), 1 + 3, "one run of each network");
    for row in &rows[1..] {
        let correct: Vec<f64> = ["correct_0", "correct_90", "correct_180", "correct_270"]
            .iter()
            .map(|name| row[column(name)].parse().unwrap())
            .collect();
        let exact = row[column("group")] == "p4" && row[column("input_size")] == "33";
        assert_eq!(row[column("exact")], exact.to_string());
        assert_eq!(row[column("images")], "40");
        assert_eq!(row[column("seen")].parse::<f64>().unwrap(), 100.0 * correct[0] / 40.0);
        assert_eq!(row[column("unseen")].parse::<f64>().unwrap(), 100.0 * correct.iter().sum::<f64>() / 160.0);
        if exact {
            assert!(correct.iter().all(|&count| count == correct[0]), "{row:?}");
            assert_eq!(row[column("seen")], row[column("unseen")]);
        }
    }

    // Killed within the second run.
    let mut child = table2(&killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until(&mut child, || killed.join("runs/p4-33_seed-0.training.safetensors").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    succeeds(table2(&killed));
    assert_eq!(lines(&killed), 3, "a run was repeated");
    for file in ["table2.csv", "table2-summary.csv", "table2.md", "runs/p4-33_seed-0.safetensors"] {
        assert!(fs::read(killed.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "another {file}");
    }
    let mut other = table2(&whole);
    other.args(["--width", "3"]);
    fails(other, "widths on p4 was");
    let mut twice = table2(&folder.join("twice"));
    twice.args(["--networks", "p4:33,p4:33"]);
    fails(twice, "p4 33×33, seed 0 is named twice");
}

#[test]
fn a_network_with_the_published_names_is_evaluated_as_the_original() {
    let folder = Folder::new("evaluate");
    let out = folder.join("out");
    succeeds(fig6(&out, &["--training", "upright", "--networks", "p4:12"]));
    let network = out.join("runs/p4-12_upright_seed-0.safetensors");
    let evaluate = |file: &Path, to: &str, more: &[&str]| {
        let small = ["--size", "12", "--angles", "4", "--test", "300", "--checkpoint", file.to_str().unwrap()];
        let mut command = example("evaluate", &folder.join(to), &small);
        command.args(more);
        command
    };
    succeeds(evaluate(&network, "ours", &[]));
    let counts = |csv: &Path, column: usize| -> Vec<String> {
        let text = fs::read_to_string(csv).unwrap();
        text.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().to_string()).collect()
    };
    let expected = counts(&out.join("fig6.csv"), 8);
    assert_eq!(expected.len(), 4);
    assert_eq!(counts(&folder.join("ours/evaluate.csv"), 4), expected, "the test of the experiment");

    // The published networks say bn1 … bn7 and fc, and nothing about themselves. Names of equal length keep the header's.
    let mut bytes = fs::read(&network).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = text(&bytes[8..end]);
    let (start, stop) = (header.find("\"__metadata__\"").unwrap(), header.find("},").unwrap() + 2);
    let renamed = format!("{{{}", &header[stop..]).replace("\"norm", "\"bn").replace("\"linear.", "\"fc.");
    assert!(start == 1 && renamed.contains("\"bn1.running_mean\"") && renamed.contains("\"fc.weight\""));
    let padded = format!("{renamed:<width$}", width = header.len());
    bytes[8..end].copy_from_slice(padded.as_bytes());
    let published = folder.join("published.safetensors");
    fs::write(&published, &bytes).unwrap();
    fails(evaluate(&published, "x", &[]), "model: expected mnist_cnn");

    let names: Vec<String> = (1..=7).map(|i| format!("\"bn{i}\": \"norm{i}\"")).collect();
    let settings = "\"model\": \"mnist_cnn\", \"group\": \"p4\", \"width\": \"10\", \"in_channels\": \"1\", \
                    \"classes\": \"10\", \"dropout\": \"0.3\"";
    let json = format!("{{\"settings\": {{{settings}}}, \"names\": {{{}}}}}", names.join(", "));
    let map = folder.join("names.json");
    fs::write(&map, json).unwrap();
    let map = ["--names", map.to_str().unwrap()];
    fails(evaluate(&published, "x", &map), "linear.weight: the file has no such tensor");
    fails(evaluate(&published, "x", &[&map[..], &["--rename", "head=linear"]].concat()), "head: is to be renamed");
    succeeds(evaluate(&published, "theirs", &[&map[..], &["--rename", "fc=linear"]].concat()));
    assert_eq!(counts(&folder.join("theirs/evaluate.csv"), 4), expected);
}
