//! The experiments survive what happens to them: `fig6` as a process that is killed, locked out, split and misled.
//!
//! `QUARTERTURN_KILLS` says how often the process is killed (5 unless set).

mod built;

use built::EXAMPLES;
use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
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

/// An example on the CPU with little to do.
fn example(name: &str, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(EXAMPLES.join(name));
    command.args(["--device", "cpu", "--out"]).arg(out).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A quick example, with options unless `more` has them too.
fn quick(name: &str, out: &Path, options: &[[&str; 2]], more: &[&str]) -> Command {
    let mut command = Command::new(EXAMPLES.join(name));
    command.arg("--quick").arg("--out").arg(out);
    for [option, value] in [&[["--device", "cpu"]], options].concat() {
        if !more.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `fig6` in four runs of six steps and two slices of tests, with a checkpoint after each.
fn fig6(out: &Path, more: &[&str]) -> Command {
    let small = [
        ["--train", "48"],
        ["--test", "300"],
        ["--angles", "4"],
        ["--epochs", "2"],
        ["--networks", "z2:12,p4:12"],
        ["--checkpoint-every", "0"],
    ];
    quick("fig6", out, &small, more)
}

/// `fig5` on images so small that Z2CNN's last maps have one place each.
fn fig5(out: &Path, more: &[&str]) -> Command {
    let small = [["--test", "20"], ["--epochs", "1"], ["--angles", "4"], ["--networks", "z2:8,p4:8"]];
    quick("fig5", out, &small, more)
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
    kill_at_random_moments("kill", &[]);
}

/// The weights of the best epoch lie in a file of their own, written before the state that knows of it.
#[test]
fn killed_at_any_moment_it_tests_the_same_best_epoch() {
    kill_at_random_moments("kill-best", &["--tested", "best", "--epochs", "4"]);
}

fn kill_at_random_moments(test: &str, more: &[&str]) {
    let folder = Folder::new(test);
    let (whole, killed) = (folder.join("whole"), folder.join("killed"));
    std::sync::LazyLock::force(&EXAMPLES);
    let begun = Instant::now();
    succeeds(fig6(&whole, more));
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
        let mut child = fig6(&killed, more).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
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
    succeeds(fig6(&killed, more));
    assert!(content(&killed) == content(&whole), "another result after {kills} kills");
    assert_eq!(lines(&killed), 4, "a run was repeated");
}

/// Which epoch is tested is chosen by the validation digits, said in every row, and is a setting of the folder.
#[test]
fn the_best_epoch_is_tested_where_that_is_asked_for() {
    let folder = Folder::new("best");
    let (best, last) = (folder.join("best"), folder.join("last"));
    // At this rate the last of the epochs is hardly ever the best.
    let small = ["--networks", "p4:12", "--train", "48", "--epochs", "6", "--lr", "0.05"];
    succeeds(fig5(&best, &[&small[..], &["--protocol", "published"]].concat()));
    succeeds(fig5(&last, &[&small[..], &["--protocol", "published", "--tested", "last"]].concat()));
    let rows = |out: &Path| {
        let csv = fs::read_to_string(out.join("fig5.csv")).unwrap();
        csv.lines().map(|row| row.split(',').map(String::from).collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let (of_best, of_last) = (rows(&best), rows(&last));
    let column = |name: &str| of_best[0].iter().position(|column| column == name).unwrap();
    assert!(of_best[1..].iter().all(|row| row[column("tested")] == "best"));
    assert!(of_last[1..].iter().all(|row| row[column("tested")] == "last" && row[column("tested_epoch")] == "6"));
    let epoch: u32 = of_best[1][column("tested_epoch")].parse().unwrap();
    assert!((1..=6).contains(&epoch));
    fails(fig5(&best, &[&small[..], &["--protocol", "published", "--tested", "last"]].concat()), "tested was");
}

/// The counts of three quarters of the angles, which an exact network need not be asked for, are those that it gives if asked.
#[test]
fn derived_counts_are_those_of_a_test_at_every_angle() {
    let folder = Folder::new("derived");
    let out = folder.join("out");
    succeeds(fig5(&out, &["--networks", "p4:12,p4:13", "--angles", "8", "--test", "60", "--train", "64"]));
    let csv = fs::read_to_string(out.join("fig5.csv")).unwrap();
    let rows: Vec<Vec<&str>> = csv.lines().map(|row| row.split(',').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|&column| column == name).unwrap();
    for size in ["12", "13"] {
        let mine = rows[1..].iter().filter(|row| row[column("input_size")] == size);
        for (i, row) in mine.clone().enumerate() {
            assert_eq!(row[column("derived")], (size == "12" && i >= 2).to_string(), "angle {i} at {size}");
        }
        let network = out.join(format!("runs/p4-{size}_upright_seed-0.safetensors"));
        let evaluated = folder.join(size);
        let more = ["--angles", "8", "--test", "60", "--checkpoint", network.to_str().unwrap()];
        succeeds(example("evaluate", &evaluated, &more));
        let evaluated = fs::read_to_string(evaluated.join("evaluate.csv")).unwrap();
        let header: Vec<&str> = evaluated.lines().next().unwrap().split(',').collect();
        let correct = header.iter().position(|&name| name == "correct").unwrap();
        let evaluated: Vec<&str> = evaluated.lines().skip(1).map(|row| row.split(',').nth(correct).unwrap()).collect();
        assert_eq!(mine.map(|row| row[column("correct")]).collect::<Vec<_>>(), evaluated, "{size}");
    }
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
    fails(fig6(&out, &["--epochs", "1000", "--protocol", "published"]), "init was not set, now it is \"published\"");
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

    // More seeds than there are, behind the last of them.
    let last = ["--training", "upright", "--networks", "p4:12", "--seed", "18446744073709551615"];
    fails(fig6(&folder.join("seeds"), &[&last[..], &["--seeds", "2"]].concat()), "no 2 seeds begin there");
    succeeds(fig6(&folder.join("seeds"), &last));

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
        let small = ["--angles", "4", "--test", "300", "--checkpoint", file.to_str().unwrap()];
        let mut command = example("evaluate", &folder.join(to), &small);
        command.args(more);
        command
    };
    let output = text(&succeeds(evaluate(&network, "ours", &[])).stdout);
    assert!(
        output.contains("prepared: normalize 0.13084 0.04348; resize 12x12; circle_crop; as the file says"),
        "{output}"
    );
    assert!(output.contains("\nexact: "), "{output}");
    let counts = |csv: &Path, column: usize| -> Vec<String> {
        let text = fs::read_to_string(csv).unwrap();
        text.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().to_string()).collect()
    };
    let expected = counts(&out.join("fig6.csv"), 8);
    assert_eq!(expected.len(), 4);
    assert_eq!(counts(&folder.join("ours/evaluate.csv"), 4), expected, "the test of the experiment");
    // Prepared in another way, which is said.
    let output = text(&succeeds(evaluate(&network, "other", &["--preparation", "resize 12x12; normalize 0 1"])).stdout);
    assert!(output.contains("prepared: resize 12x12; normalize 0 1; as --preparation says"), "{output}");
    assert_eq!(counts(&folder.join("other/evaluate.csv"), 1), ["resize 12x12; normalize 0 1"; 4]);
    fails(
        evaluate(&network, "x", &["--preparation", "channels 3; normalize 0,0,0 1,1,1"]),
        "the network takes images of 1",
    );
    for steps in ["resize 40000x40000; normalize 0 1", "normalize 0 1; resize 12x65536", "pad 2049x12; normalize 0 1"] {
        fails(evaluate(&network, "x", &["--preparation", steps]), "images are made at most 2048 pixels high and wide");
    }
    let output = text(&succeeds(evaluate(&network, "named", &["--protocol", "paper", "--size", "12"])).stdout);
    assert!(output.contains("as --protocol says"), "{output}");
    assert_eq!(counts(&folder.join("named/evaluate.csv"), 4), expected);

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
    fails(evaluate(&published, "x", &[]), "model: the file does not say of what network its tensors are");

    let names: Vec<String> = (1..=7).map(|i| format!("\"bn{i}\": \"norm{i}\"")).collect();
    let settings = "\"model\": \"mnist_cnn\", \"group\": \"p4\", \"width\": \"10\", \"in_channels\": \"1\", \
                    \"classes\": \"10\", \"dropout\": \"0.3\"";
    let json = format!("{{\"settings\": {{{settings}}}, \"names\": {{{}}}}}", names.join(", "));
    let map = folder.join("names.json");
    fs::write(&map, json).unwrap();
    let map = ["--names", map.to_str().unwrap()];
    fails(evaluate(&published, "x", &map), "linear.weight: the file has no such tensor");
    #[cfg(unix)]
    fails(evaluate(&published, "x", &["--names", "/dev/zero"]), "/dev/zero: longer than 16777216 bytes");
    fails(evaluate(&published, "x", &[&map[..], &["--rename", "head=linear"]].concat()), "head: is to be renamed");
    let theirs = [&map[..], &["--rename", "fc=linear", "--size", "12"]].concat();
    let output = text(&succeeds(evaluate(&published, "theirs", &theirs)).stdout);
    assert!(output.contains("; assumed: the file does not say; "), "{output}");
    assert_eq!(counts(&folder.join("theirs/evaluate.csv"), 4), expected);

    // The checker reads both files, by the same options.
    for (file, more) in [(&network, &[][..]), (&published, &theirs[..4])] {
        let mut command = Command::new(EXAMPLES.join("exactness"));
        command.args(["--checkpoint", file.to_str().unwrap(), "--json"]).args(more);
        let output = text(&succeeds(command).stdout);
        assert!(output.contains("\"model\": \"mnist_cnn\""), "{output}");
    }
}

/// A network that no example knows by name: the file says what it is made of, but not of what size its images are.
#[test]
fn the_checker_reads_any_network() {
    use quarterturn::{
        core::Device,
        kernels::Group,
        models::{Init, UNetConfig, checkpoint, unet},
    };
    let folder = Folder::new("any");
    let file = folder.join("unet.safetensors");
    let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![2, 2] };
    let network = unet(&config, Init::kaiming(1), &Device::Cpu).unwrap();
    checkpoint::save(&file, &network).unwrap();
    let exactness = |more: &[&str]| {
        let mut command = Command::new(EXAMPLES.join("exactness"));
        command.args(["--checkpoint", file.to_str().unwrap(), "--json"]).args(more);
        command
    };
    fails(exactness(&[]), "the file does not say the size of its images; --input does");
    for size in ["16", "17"] {
        let output = text(&succeeds(exactness(&["--input", size])).stdout);
        assert!(!output.contains("\"exact\": false") && output.contains("\"exact\": true"), "{size}: {output}");
    }
}

/// Finite weights whose products are not: such a network recognises nothing, and is not exact, though the logits of turned
/// images are as equal as those of the upright one.
#[test]
fn logits_that_are_no_numbers_are_no_answers() {
    use quarterturn::{
        core::{Device, Tensor},
        models::{MnistCnn, MnistCnnConfig, Module, checkpoint},
    };
    let folder = Folder::new("nan");
    let file = folder.join("overflow.safetensors");
    let mut network = MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() }, 0, &Device::Cpu).unwrap();
    network.visit(&mut |name, param| {
        let value = param.value().clone();
        let alternating = |i: usize| if i.is_multiple_of(2) { 3e38 } else { -3e38 };
        let values: Vec<f32> = match name {
            "linear.weight" => (0..value.len()).map(alternating).collect(),
            "norm7.bias" => vec![10.0; value.len()],
            _ => return,
        };
        param.set(Tensor::from_vec(value.shape(), values, &Device::Cpu).unwrap());
    });
    checkpoint::save(&file, &network).unwrap();
    let small = ["--size", "12", "--angles", "4", "--test", "20", "--checkpoint", file.to_str().unwrap()];
    let output = text(&succeeds(example("evaluate", &folder.join("out"), &small)).stdout);
    assert!(
        output.contains("the logits of 80 of 80 turned images (up to 20 of 20 at one angle) are not numbers"),
        "{output}"
    );
    assert!(output.contains("\nnot exact: where there is no answer") && output.contains(" 0.00 %"), "{output}");
    let csv = fs::read_to_string(folder.join("out/evaluate.csv")).unwrap();
    assert!(csv.lines().skip(1).all(|row| row.ends_with(",0,20,20")), "{csv}");
}

/// A last batch of one image is none that batch norm could normalise where its maps have one place each.
#[test]
fn a_batch_that_cannot_be_normalised_fails_its_run_alone() {
    let folder = Folder::new("one-left");
    let output = fig5(&folder.join("out"), &["--train", "65"]).output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("failed: Z2CNN 8×8, upright digits, seed 0: "), "{error}");
    assert!(error.contains("1 of 2 runs are finished. The same command tries the others again"), "{error}");
    assert_eq!(lines(&folder.join("out")), 1);
    assert!(fs::read_to_string(folder.join("out/fig5.csv")).unwrap().contains("P4CNN"));
}

/// On a GPU as on the CPU: an error that says so, no result, no network, no state.
#[test]
fn a_diverged_run_is_no_result_on_any_device() {
    let folder = Folder::new("diverged");
    for device in quarterturn::core::testing::devices() {
        let device = if matches!(device, quarterturn::core::Device::Cpu) { "cpu" } else { "gpu" };
        let out = folder.join(device);
        let diverging = ["--device", device, "--networks", "p4:8", "--train", "40", "--epochs", "3", "--batch", "8"];
        let mut command = fig5(&out, &[&diverging[..], &["--lr", "1e10", "--checkpoint-every", "0"]].concat());
        if env::var_os("QUARTERTURN_GPU").is_none() {
            command.env("QUARTERTURN_GPU", "software");
        }
        fails(command, "diverged");
        assert_eq!(lines(&out), 0, "{device}");
        let left = fs::read_dir(out.join("runs")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut left = left.map(|name| name.into_string().unwrap());
        let is_network = |name: String| name.ends_with(".safetensors") && !name.contains(".training.");
        assert!(!left.any(is_network), "{device}: a network is kept");
    }
}

/// The lines of `results.jsonl` and what is kept of a run in progress are compared with the settings when they are read.
#[test]
fn counts_that_cannot_be_are_refused() {
    let folder = Folder::new("counts");
    let out = folder.join("out");
    let upright = |more: &[&str]| fig6(&out, &[&["--training", "upright", "--networks", "p4:12"], more].concat());
    succeeds(upright(&[]));
    let journal = out.join("results.jsonl");
    let sound = fs::read_to_string(&journal).unwrap();
    let counts = sound.split_once("\"correct\":[").unwrap().1.split_once(']').unwrap().0.to_string();
    let first = counts.split(',').next().unwrap();
    for (counts_instead, message) in [
        (counts.rsplit_once(',').unwrap().0.to_string(), "3 counts of views, and 0 without answers, of 4"),
        (format!("{counts},1"), "5 counts of views"),
        (counts.replacen(first, "301", 1), "301 of 300 images recognised"),
        (counts.replacen(first, "18446744073709551615", 1), "18446744073709551615 of 300 images recognised"),
        (counts.replacen(first, "-1", 1), "invalid value: integer `-1`"),
    ] {
        fs::write(&journal, sound.replace(&counts, &counts_instead)).unwrap();
        fails(upright(&[]), message);
    }
    fs::write(&journal, sound.replace("\"parameters\":", "\"parameters\":1")).unwrap();
    fails(upright(&[]), "parameters, the network has 24810");

    // With its line lost, the network is tested once more, unless what is kept says how far that was.
    let csv = fs::read_to_string(out.join("fig6.csv")).unwrap();
    let network = fs::read(out.join("runs/p4-12_upright_seed-0.safetensors")).unwrap();
    let fingerprint = network
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let state = |network: &str, digits: u64, correct: [u64; 4]| {
        fs::write(&journal, "").unwrap();
        let [a, b, c, d] = correct;
        let json = format!(
            "{{\"network\":\"{network}\",\"digits\":{digits},\"correct\":[{a},{b},{c},{d}],\"has_unanswered\":false}}"
        );
        fs::write(out.join("runs/p4-12_upright_seed-0.test.json"), json).unwrap();
    };
    let own = format!("{fingerprint:016x}");
    state("0123456789abcdef", 250, [9; 4]);
    fails(
        upright(&[]),
        "test.json: at byte 0: a test of another network; without this file the run's part begins anew",
    );
    state(&own, 250, [9, 251, 9, 9]);
    fails(upright(&[]), "251 of 250 images recognised");
    state(&own, 301, [9; 4]);
    fails(upright(&[]), "301 digits are tested, there are 300");
    // All are tested, by whatever slices: nothing is counted twice.
    state(&own, 299, [299; 4]);
    succeeds(upright(&[]));
    let again = fs::read_to_string(out.join("fig6.csv")).unwrap();
    let correct = |csv: &str| -> Vec<u64> {
        csv.lines().skip(1).map(|row| row.split(',').nth(8).unwrap().parse().unwrap()).collect()
    };
    assert!(correct(&again).iter().all(|&count| count == 299 || count == 300), "{again}");
    assert_ne!(correct(&again), correct(&csv));
}

/// The number of threads is no setting, and neither is the device; the images are, by more than their name.
#[cfg(feature = "images")]
#[test]
fn table_2_goes_on_with_other_threads_and_not_with_other_images() {
    let folder = Folder::new("images");
    let (data, out) = (folder.join("data"), folder.join("out"));
    let image = |path: PathBuf, level: u8| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut pixels = tiny_skia::Pixmap::new(9, 9).unwrap();
        pixels.fill(tiny_skia::Color::from_rgba8(level, 255 - level, level, 255));
        fs::write(path, pixels.encode_png().unwrap()).unwrap();
    };
    for (i, (part, class)) in [("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")].into_iter().enumerate() {
        for n in 0..4 {
            image(data.join(format!("{part}/{class}/{n}.png")), 20 * i as u8 + 40 * n);
        }
    }
    let table2 = |threads: &str, more: &[&str]| {
        let data = ["--data", data.to_str().unwrap(), "--format", "cifar-folder", "--networks", "p4:9"];
        let mut command = example("table2", &out, &data);
        command.args(["--width", "1", "--blocks", "1", "--epochs", "1", "--batch", "4"]).args(more);
        command.env("RAYON_NUM_THREADS", threads);
        command
    };
    succeeds(table2("1", &["--seeds", "1"]));
    succeeds(table2("2", &["--seeds", "2"]));
    assert_eq!(lines(&out), 2, "a run was repeated");
    image(data.join("train/b/2.png"), 7);
    fails(table2("2", &["--seeds", "2"]), "data fingerprint was ");
    fails(table2("2", &["--no-circle-crop"]), "only the images of --format pcam are cropped");
}

/// A disk that takes no more than so many bytes of a file: what cannot be written is said, what can be is kept, and with
/// room the same command goes on.
#[cfg(unix)]
#[test]
fn without_room_for_a_network_its_run_fails_and_nothing_is_lost() {
    let folder = Folder::new("room");
    let (whole, full) = (folder.join("whole"), folder.join("full"));
    let upright = ["--training", "upright"];
    succeeds(fig6(&whole, &upright));
    let roomy = fig6(&full, &upright);
    let mut narrow = Command::new("sh");
    // 32 blocks of 512 or 1024 bytes: less than a network takes. Without the signal, the write itself fails.
    narrow
        .args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$@\"", "sh"])
        .arg(roomy.get_program())
        .args(roomy.get_args());
    narrow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = narrow.output().unwrap();
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no checkpoint: ") && error.contains("0 of 2 runs are finished"), "{error}");
    for network in ["z2-12", "p4-12"] {
        assert!(error.contains(&format!("{network}_upright_seed-0.safetensors: File too large")), "{error}");
    }
    let unfinished = |name: &String| name.ends_with(".part");
    assert!(!content(&full).keys().any(unfinished), "{:?}", content(&full).keys());
    succeeds(fig6(&full, &upright));
    assert!(content(&full) == content(&whole));
}
