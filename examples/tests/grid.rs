//! What a grid of runs does when writing fails, a run fails, two start at once, or what it reads back cannot be: in this
//! process, with runs that compute next to nothing.

use quarterturn::{
    core::{
        Device, Error, Result,
        testing::faults::{count, fail_at},
    },
    models::{MnistCnn, MnistCnnConfig, Network, checkpoint},
};
use quarterturn_examples::{
    csv::Csv,
    files,
    runner::{Context, Experiment, Finished, Grid, RUN, Report, Run, RunnerArgs, Settings},
};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Barrier,
    thread,
};

/// A folder of its own for each test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("quarterturn-grid-{}-{test}", std::process::id()));
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

/// Run `n` counts to `10·n` in two parts, with a state between them, and keeps a network.
#[derive(Default)]
struct Counting {
    /// Runs that fail, and that panic.
    fails: Vec<u64>,
    panics: Vec<u64>,
    /// Parts computed.
    parts: Cell<u64>,
}

struct Number(u64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "number {}", self.0)
    }
}

impl Experiment for Counting {
    type Spec = Number;
    type Found = u64;
    const STATES: &'static [&'static str] = &["half"];

    fn estimate(&self, &Number(n): &Number) -> Result<f64> {
        assert!(!self.panics.contains(&n), "no estimate of {n}");
        Ok(1.0)
    }

    fn run(&self, number @ &Number(n): &Number, context: &mut Context) -> Result<Option<u64>> {
        if self.fails.contains(&n) {
            return Err(Error::Invalid("this number is not liked".into()));
        }
        assert!(!self.panics.contains(&n), "{n} is out of bounds");
        let kept = context.kept::<u64>("half")?;
        if let Some(half) = kept
            && half != 5 * n
        {
            return Err(context.unfit("half", format!("{half} is not half of it")));
        }
        if kept.is_none() {
            self.parts.set(self.parts.get() + 1);
            context.save(|context| context.keep("half", &(5 * n)))?;
        }
        self.parts.set(self.parts.get() + 1);
        let notes = [(RUN.to_string(), format!("number-{n}"))].into();
        checkpoint::save_with(context.network_file(), &*self.network(number)?, &notes)?;
        Ok(Some(10 * n))
    }

    fn check(&self, &Number(n): &Number, found: &u64) -> std::result::Result<(), String> {
        if *found == 10 * n { Ok(()) } else { Err(format!("{found} is not ten times {n}")) }
    }

    fn network(&self, &Number(n): &Number) -> Result<Box<dyn Network>> {
        let config = MnistCnnConfig { width: 1, classes: 2, ..MnistCnnConfig::z2cnn() };
        Ok(Box::new(MnistCnn::new(config, n, &Device::Cpu)?))
    }
}

const NUMBERS: u64 = 3;

fn arguments() -> RunnerArgs {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        runner: RunnerArgs,
    }
    <Cli as clap::Parser>::parse_from(["counting"]).runner
}

fn execute_with(folder: &Path, experiment: &Counting, args: &RunnerArgs) -> Result<Report<u64>> {
    let grid = Grid {
        name: "counting",
        folder,
        settings: Settings::default().with("factor", 10),
        device: &Device::Cpu,
        runs: (1..=NUMBERS).map(|n| Run { key: format!("number-{n}"), spec: Number(n) }).collect(),
        args,
    };
    files::create_folder(folder)?;
    grid.execute(experiment, |results| {
        let mut csv = Csv::new(folder.join("counting.csv"), "number,found,device");
        for (i, result) in results.iter().enumerate() {
            let Some(Finished { found, origin }) = result else { continue };
            csv.row(&[&(i + 1), found, &origin.device()]);
        }
        csv.save()
    })
}

fn execute(folder: &Path, experiment: &Counting) -> Result<Report<u64>> {
    execute_with(folder, experiment, &arguments())
}

/// All files but the lock and the results, whose lines say how long it took, by path below the folder.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut content = BTreeMap::new();
    for below in ["", "runs"] {
        for entry in fs::read_dir(folder.join(below)).into_iter().flatten().map(|entry| entry.unwrap()) {
            let name = Path::new(below).join(entry.file_name());
            if entry.file_type().unwrap().is_file() && !["lock", "results.jsonl"].map(Path::new).contains(&&*name) {
                content.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    content
}

fn is_success(report: &Report<u64>) -> bool {
    format!("{:?}", report.finish(|| Ok(()))) == format!("{:?}", ExitCode::SUCCESS)
}

fn error(outcome: Result<Report<u64>>) -> String {
    match outcome {
        Ok(_) => panic!("expected an error"),
        Err(error) => error.to_string(),
    }
}

/// Whichever call of the system fails while files are written, with whatever error: it is said, what was there stays, no
/// unfinished file is left, and the same command ends with the same bytes.
#[test]
fn a_write_that_fails_at_any_step_loses_nothing() {
    const ENOSPC: i32 = 28;
    const EIO: i32 = 5;
    let folder = Folder::new("faults");
    let whole = folder.join("whole");
    let steps = count(|| assert!(is_success(&execute(&whole, &Counting::default()).unwrap())));
    assert!(steps > 60, "settings, states, networks, results and tables of three runs, in {steps} steps?");
    let whole = content(&whole);
    for (fault, step) in [ENOSPC, EIO].into_iter().flat_map(|fault| (0..steps).map(move |step| (fault, step))) {
        let broken = folder.join("broken");
        let _ = fs::remove_dir_all(&broken);
        let outcome = fail_at(step, fault, || execute(&broken, &Counting::default()));
        let unfinished = |name: &Path| quarterturn::core::unfinished_name(name.to_str().unwrap()).is_some();
        assert!(!content(&broken).keys().any(|name| unfinished(name)), "step {step}: {:?}", content(&broken).keys());
        let finished = match &outcome {
            Err(error) => {
                assert!(matches!(error, Error::Io { .. }), "step {step}: {error}");
                0
            }
            // A checkpoint in between may be missed; all else is told in the end, and by the exit code.
            Ok(report) => report.results.iter().flatten().count(),
        };
        if let Ok(report) = &outcome {
            assert!(finished as u64 == NUMBERS || !is_success(report), "step {step}: {finished} runs, and not a word");
        }
        // What is called finished is, and is not computed again.
        let again = Counting::default();
        assert!(is_success(&execute(&broken, &again).unwrap()), "step {step}");
        assert!(again.parts.get() <= 2 * (NUMBERS - finished as u64), "step {step}: {}", again.parts.get());
        assert!(content(&broken) == whole, "step {step}: other files after a fault");
    }
}

#[test]
fn a_run_that_fails_or_panics_takes_no_other_with_it() {
    let folder = Folder::new("fails");
    let report = execute(&folder.0, &Counting { fails: vec![1], panics: vec![2], ..Counting::default() }).unwrap();
    assert!(!is_success(&report));
    let found: Vec<_> = report.results.iter().map(|result| result.as_ref().map(|result| result.found)).collect();
    assert_eq!(found, [None, None, Some(30)]);
    let failed = report.failed();
    assert_eq!(failed, ["number 1: this number is not liked", "number 2: panic: 2 is out of bounds"]);
    assert!(is_success(&execute(&folder.0, &Counting::default()).unwrap()));
}

/// Locks are of open files, so two threads exclude each other as two processes do.
#[test]
fn of_two_threads_in_one_folder_one_is_refused_or_finds_all_done() {
    let folder = Folder::new("threads");
    for round in 0..20 {
        let (out, barrier) = (folder.join(&round.to_string()), Barrier::new(2));
        let start = || {
            barrier.wait();
            let experiment = Counting::default();
            (execute(&out, &experiment).map(|report| is_success(&report)), experiment.parts.get())
        };
        let outcomes = thread::scope(|scope| [(); 2].map(|()| scope.spawn(start)).map(|thread| thread.join().unwrap()));
        let parts: u64 = outcomes.iter().map(|(_, parts)| parts).sum();
        assert_eq!(parts, 2 * NUMBERS, "each run once");
        for (outcome, _) in outcomes {
            match outcome {
                Ok(success) => assert!(success),
                Err(error) => assert!(error.to_string().contains("in use by"), "{error}"),
            }
        }
        assert!(!content(&out).keys().any(|name| name.to_str().unwrap().ends_with(".part")));
    }
}

/// A finished line with `change` made to its text.
fn with_line(out: &Path, change: impl Fn(&str) -> String) -> Result<Report<u64>> {
    let path = out.join("results.jsonl");
    let sound = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(&sound)).unwrap();
    let outcome = execute(out, &Counting::default());
    fs::write(&path, sound).unwrap();
    outcome
}

#[test]
fn a_line_is_judged_before_it_is_believed() {
    let folder = Folder::new("judged");
    execute(&folder.0, &Counting::default()).unwrap();
    let first = |text: &str| text.lines().next().unwrap().to_string();
    let refused = |change: &dyn Fn(&str) -> String, message: &str| {
        let error = error(with_line(&folder.0, change));
        assert!(error.contains("results.jsonl: at byte ") && error.contains(message), "{error}");
    };
    refused(&|text| text.replace(":20}", ":21}"), "number-2: 21 is not ten times 2");
    refused(&|text| text.replace(":20}", ":18446744073709551615}"), "18446744073709551615 is not ten times 2");
    refused(&|text| text.replace(":20}", ":\"x\"}"), "number-2: invalid type");
    refused(&|text| text.replacen("\"seconds\":", "\"seconds\":-1", 1), "a run does not take -1");
    refused(&|text| text.replacen("number-1", "../../../x", 1), "\"../../../x\" is no name of a run");
    refused(&|text| text.replacen("CPU", "C\\nU", 1), "device or commit is no name");
    refused(
        &|text| text.replacen("{\"run\":", "{\"run\":\"number-9\",\"run\":", 1),
        "the key \"run\" stands here twice",
    );
    refused(&|text| text.replacen('{', "x", 1), "this line is no result");
    refused(&|text| format!("{text}{}\n", first(text).replace(":10}", ":10.5}")), "number-1: invalid type");
    refused(&|_| "my own notes".into(), "neither a result nor the beginning of one");
    // The same once more is the same, a run that nobody asked for is left alone, and what a crash tore off is dropped.
    for change in [
        &(|text: &str| format!("{text}{}\n", first(text))) as &dyn Fn(&str) -> String,
        &|text| format!("{text}{}\n", first(text).replace("number-1", "number-77")),
        &|text| format!("{text}{}", &first(text)[..30]),
        &|text| format!("{text}\0\0\0\0"),
    ] {
        let report = with_line(&folder.0, change).unwrap();
        assert!(is_success(&report) && report.complete());
    }
}

#[test]
fn two_different_results_of_one_run_are_refused() {
    /// Finds what it is told, and believes everything.
    struct Told(u64);
    impl Experiment for Told {
        type Spec = Number;
        type Found = u64;
        const STATES: &'static [&'static str] = &[];
        fn estimate(&self, _: &Number) -> Result<f64> {
            Ok(0.0)
        }
        fn run(&self, _: &Number, _: &mut Context) -> Result<Option<u64>> {
            Ok(Some(self.0))
        }
        fn check(&self, _: &Number, _: &u64) -> std::result::Result<(), String> {
            Ok(())
        }
        fn network(&self, number: &Number) -> Result<Box<dyn Network>> {
            Counting::default().network(number)
        }
    }
    let folder = Folder::new("two");
    let execute = |out: &str, found: u64, merge: Vec<PathBuf>| {
        let out = folder.join(out);
        files::create_folder(&out)?;
        let args = RunnerArgs { merge, ..arguments() };
        let runs = vec![Run { key: "number-1".into(), spec: Number(1) }];
        let (settings, device) = (Settings::default(), &Device::Cpu);
        Grid { name: "told", folder: &out, settings, device, runs, args: &args }.execute(&Told(found), |_| Ok(()))
    };
    execute("a", 1, vec![]).unwrap();
    execute("b", 2, vec![]).unwrap();
    execute("c", 1, vec![]).unwrap();
    assert!(execute("joined", 0, vec![folder.join("a"), folder.join("c")]).is_ok());
    let message = error(execute("joined", 0, vec![folder.join("b")]));
    assert!(message.contains("there are two different results of number-1"), "{message}");
    fs::copy(folder.join("b").join("results.jsonl"), folder.join("a").join("results-1-of-2.jsonl")).unwrap();
    let message = error(execute("a", 0, vec![]));
    assert!(message.contains("there are two different results of number-1"), "{message}");
}

/// What lies in the folder and is not this program's stays, whatever it is called, and no link is followed.
#[test]
fn files_of_the_users_are_left_alone() {
    let folder = Folder::new("users");
    let out = folder.join("out");
    fs::create_dir_all(out.join("runs")).unwrap();
    let theirs = [
        "draft.part",
        "thesis.tex.4711-0.part",
        "results-of-mine.jsonl",
        "runs/number-1.notes.txt",
        "runs/number-1.part",
        "runs/number-1.7.json",
        "runs/other.training.safetensors",
    ];
    theirs.iter().for_each(|name| fs::write(out.join(name), b"precious").unwrap());
    // These a killed process of this program left.
    let leftover = ["counting.csv.4711-0.part", "settings.json.4711-3.part", "runs/number-1.half.json.4711-1.part"];
    leftover.iter().for_each(|name| fs::write(out.join(name), b"{").unwrap());
    assert!(is_success(&execute(&out, &Counting::default()).unwrap()));
    assert!(is_success(&execute(&out, &Counting::default()).unwrap()));
    for name in theirs {
        assert_eq!(fs::read(out.join(name)).unwrap(), b"precious", "{name}");
    }
    leftover.iter().for_each(|name| assert!(!out.join(name).exists(), "{name}"));
}

#[cfg(unix)]
#[test]
fn a_link_at_the_place_of_a_file_is_refused_and_what_it_points_to_unharmed() {
    use std::os::unix::fs::symlink;
    let folder = Folder::new("links");
    let precious = folder.join("precious");
    for (name, wanted) in [
        ("lock", "lock: a link, where a file is needed"),
        ("settings.json", "settings.json: a link"),
        ("results.jsonl", "results.jsonl: a link"),
        ("runs/number-1.half.json", "number-1.half.json: a link"),
        ("runs/number-1.origins.json", "number-1.origins.json: a link"),
    ] {
        for dangling in [false, true] {
            let out = folder.join("out");
            fs::create_dir_all(out.join("runs")).unwrap();
            fs::write(&precious, b"precious").unwrap();
            symlink(if dangling { folder.join("nothing") } else { precious.clone() }, out.join(name)).unwrap();
            let message = match execute(&out, &Counting::default()) {
                Err(error) => error.to_string(),
                Ok(report) => report.failed().join("; "),
            };
            assert!(message.contains(wanted), "{name}: {message}");
            assert_eq!(fs::read(&precious).unwrap(), b"precious", "{name}");
            assert!(fs::symlink_metadata(out.join(name)).unwrap().is_symlink(), "{name}");
            assert!(!folder.join("nothing").exists(), "{name}");
            fs::remove_dir_all(&out).unwrap();
        }
    }
    // The folder of runs, and a file that is called as a lock is.
    let (out, elsewhere) = (folder.join("out"), folder.join("elsewhere"));
    fs::create_dir_all(&out).unwrap();
    fs::create_dir_all(&elsewhere).unwrap();
    fs::write(elsewhere.join("number-1.half.json"), b"precious").unwrap();
    symlink(&elsewhere, out.join("runs")).unwrap();
    let message = error(execute(&out, &Counting::default()));
    assert!(message.contains("runs: a link, where a folder is needed"), "{message}");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
    fs::remove_file(out.join("runs")).unwrap();
    fs::write(out.join("lock"), b"the combination is 4711").unwrap();
    let message = error(execute(&out, &Counting::default()));
    assert!(message.contains("lock: not the lock of this program"), "{message}");
    assert_eq!(fs::read(out.join("lock")).unwrap(), b"the combination is 4711");
    // A lock that a killed process left is taken over.
    for left in ["", "process 4711 on elsewhere\n", "shards of 3\n"] {
        fs::write(out.join("lock"), left).unwrap();
        assert!(is_success(&execute(&out, &Counting::default()).unwrap()));
    }
}

#[test]
fn what_is_merged_is_checked_first() {
    let folder = Folder::new("merge");
    let shard = folder.join("shard");
    let merged = |merge: &[&Path]| {
        let out = folder.join("joined");
        let _ = fs::remove_dir_all(&out);
        let merge = merge.iter().map(|path| path.to_path_buf()).collect();
        let outcome = execute_with(&out, &Counting::default(), &RunnerArgs { merge, ..arguments() });
        let networks = fs::read_dir(out.join("runs")).unwrap().count();
        outcome.map(|report| (report.results.iter().flatten().count(), networks)).map_err(|error| {
            let below: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(below.len(), 2, "something beside the two folders: {below:?}");
            (error.to_string(), networks)
        })
    };
    execute(&shard, &Counting::default()).unwrap();
    assert_eq!(merged(&[&shard]).unwrap(), (3, 3));
    let place = |n: u64| shard.join(format!("runs/number-{n}.safetensors"));
    let sound = [1, 2].map(|n| fs::read(place(n)).unwrap());

    // Another bytes, another run's network, another network, none.
    fs::write(place(2), b"no network").unwrap();
    let (message, networks) = merged(&[&shard]).unwrap_err();
    assert!(message.contains("number-2.safetensors: at byte") && networks == 1, "{message}, {networks}");
    fs::write(place(2), &sound[0]).unwrap();
    let (message, _) = merged(&[&shard]).unwrap_err();
    assert!(message.contains("not the network of this run: it is that of \"number-1\""), "{message}");
    let other = MnistCnn::new(MnistCnnConfig { width: 2, ..MnistCnnConfig::z2cnn() }, 0, &Device::Cpu).unwrap();
    checkpoint::save(place(2), &other).unwrap();
    let (message, _) = merged(&[&shard]).unwrap_err();
    assert!(message.contains("not the network of this run"), "{message}");
    fs::remove_file(place(2)).unwrap();
    assert_eq!(merged(&[&shard]).unwrap(), (3, 2));

    #[cfg(unix)]
    {
        let secret = folder.join("shard/secret");
        fs::write(&secret, &sound[1]).unwrap();
        std::os::unix::fs::symlink(&secret, place(2)).unwrap();
        let (message, _) = merged(&[&shard]).unwrap_err();
        assert!(message.contains("number-2.safetensors: a link, where a file is needed"), "{message}");
        fs::remove_file(place(2)).unwrap();
        fs::rename(shard.join("runs"), shard.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(shard.join("elsewhere"), shard.join("runs")).unwrap();
        let (message, _) = merged(&[&shard]).unwrap_err();
        assert!(message.contains("runs: a link, where a folder is needed"), "{message}");
        fs::remove_file(shard.join("runs")).unwrap();
        fs::rename(shard.join("elsewhere"), shard.join("runs")).unwrap();
    }
    fs::write(place(2), &sound[1]).unwrap();
    assert_eq!(merged(&[&shard]).unwrap(), (3, 3));

    // A line that would place a file elsewhere, though its network lies where it says.
    let lines = fs::read_to_string(shard.join("results.jsonl")).unwrap();
    fs::write(shard.join("results.jsonl"), lines.replace("number-1", "../../x")).unwrap();
    fs::write(shard.join("x.safetensors"), &sound[0]).unwrap();
    let (message, networks) = merged(&[&shard]).unwrap_err();
    assert!(message.contains("\"../../x\" is no name of a run") && networks == 0, "{message}");
}

/// Results of former versions have neither device nor commit; the folder's settings say the device.
#[test]
fn results_of_former_versions_and_other_devices_are_taken_up() {
    let folder = Folder::new("former");
    let out = &folder.0;
    fs::write(out.join("settings.json"), br#"{"factor": "10", "device": "an old GPU, vulkan"}"#).unwrap();
    let line = "{\"run\":\"number-1\",\"seconds\":1.5,\"result\":10}\n";
    fs::write(out.join("results.jsonl"), line).unwrap();
    let report = execute(out, &Counting::default()).unwrap();
    assert!(is_success(&report));
    assert_eq!(report.devices(), "an old GPU, vulkan and CPU");
    let lines = fs::read_to_string(out.join("results.jsonl")).unwrap();
    assert!(lines.starts_with(line) && lines.lines().count() == 3, "{lines}");
    assert!(lines.lines().nth(1).unwrap().contains("\"device\":\"CPU\""), "{lines}");
    let csv = fs::read_to_string(out.join("counting.csv")).unwrap();
    assert_eq!(csv, "number,found,device\n1,10,\"an old GPU, vulkan\"\n2,20,CPU\n3,30,CPU\n");
    // Merged, each line says it of itself.
    let joined = folder.join("joined");
    let args = RunnerArgs { merge: vec![out.clone()], ..arguments() };
    execute_with(&joined, &Counting::default(), &args).unwrap();
    let lines = fs::read_to_string(joined.join("results.jsonl")).unwrap();
    assert!(lines.lines().next().unwrap().contains("\"device\":\"an old GPU, vulkan\""), "{lines}");
    // A run that one device began and another ends says both.
    let begun = folder.join("begun");
    fs::create_dir_all(begun.join("runs")).unwrap();
    fs::write(begun.join("settings.json"), br#"{"factor": "10", "device": "an old GPU, vulkan"}"#).unwrap();
    fs::write(begun.join("runs/number-1.half.json"), b"5").unwrap();
    let report = execute(&begun, &Counting::default()).unwrap();
    assert_eq!(report.devices(), "an old GPU, vulkan, then CPU and CPU");
}
