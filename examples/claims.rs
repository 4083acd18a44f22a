//! The claims of the paper about Figures 5 and 6 and Table 1, and answers to the questions of Figures 7 to 9, with intervals and tests:
//! computed from finished runs as they are committed, without any data set.

use clap::Parser;
use quarterturn::core::{Error, Result};
use quarterturn_examples::{
    args,
    csv::Csv,
    files,
    rotations::{percent, statistics},
    say,
    significance::{self, TTest, holm, interval95, variances_differ, welch},
    table,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Bytes that a file of results or settings has at most.
const LONGEST: u64 = 1 << 26;

/// The claims of the paper with intervals and tests, from finished runs
#[derive(Parser)]
struct Args {
    /// Folders of finished runs are looked for here
    #[arg(long, value_name = "DIR", default_value = "examples/results/runs")]
    runs: PathBuf,
    #[command(flatten)]
    out: args::OutArgs,
}

fn main() -> ExitCode {
    args::exit(run(&Args::parse()))
}

fn run(args: &Args) -> Result<ExitCode> {
    let grids = grids(&args.runs)?;
    let folder = args.out.folder("claims")?;
    let mut markdown = String::new();
    let mut csv = Csv::new(
        folder.join("claims.csv"),
        "grid,question,test,a,a_measure,a_seeds,a_mean,a_std,b,b_measure,b_seeds,b_mean,b_std,difference,ci95_half_width,t,df,p,\
         p_holm",
    );
    for grid in &grids {
        markdown += &grid.curves_table();
        markdown += &answers("Comparisons", &grid.comparisons(), &mut csv);
    }
    markdown += &answers("Comparisons of runs with different settings", &across(&grids), &mut csv);
    csv.save()?;
    files::write(&folder.join("claims.md"), markdown.as_bytes())?;
    say::result(markdown.trim_end());
    say::result(format_args!("\nwrote claims.md and claims.csv to {}", folder.display()));
    Ok(ExitCode::SUCCESS)
}

/// Runs with the same settings.
struct Grid {
    settings: BTreeMap<String, String>,
    /// The folders' names.
    folders: Vec<String>,
    /// By training and network, as their names in files are; by seed.
    curves: BTreeMap<(String, String), BTreeMap<u64, Vec<f64>>>,
    /// What computed them.
    devices: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    run: String,
    device: Option<String>,
    result: Found,
}

#[derive(Deserialize)]
struct Found {
    correct: Vec<u64>,
    digits: Option<u64>,
}

/// The grids of experiments on rotated digits below a folder.
fn grids(runs: &Path) -> Result<Vec<Grid>> {
    let mut folders: Vec<PathBuf> = fs::read_dir(runs)
        .map_err(|e| Error::io(runs, &e))?
        .filter_map(|entry| Some(entry.ok()?.path()).filter(|path| path.join("settings.json").is_file()))
        .collect();
    folders.sort();
    let mut grids: Vec<Grid> = Vec::new();
    for folder in folders {
        let mut settings: BTreeMap<String, String> =
            json(&folder.join("settings.json"), &read(&folder.join("settings.json"))?)?;
        let device = settings.remove("device");
        // Of other experiments.
        let (Some(test), true) = (number(&settings, "test"), settings.contains_key("angles")) else { continue };
        let at = grids.iter().position(|grid| grid.settings == settings).unwrap_or_else(|| {
            let (folders, curves, devices) = Default::default();
            grids.push(Grid { settings, folders, curves, devices });
            grids.len() - 1
        });
        let grid = &mut grids[at];
        grid.folders.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let path = folder.join("results.jsonl");
        for text in read(&path)?.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let Line { run, device: own, result } = json(&path, text)?;
            let mut parts = run.splitn(2, '_');
            let (Some(network), Some((training, seed))) =
                (parts.next(), parts.next().and_then(|rest| rest.rsplit_once("_seed-")))
            else {
                return Err(Error::Invalid(format!("{}: {run:?} is no name of a run", path.display())));
            };
            let seed = seed.parse().map_err(|_| Error::Invalid(format!("{}: {run:?} has no seed", path.display())))?;
            let total = result.digits.unwrap_or(test) as f64;
            let accuracies: Vec<f64> = result.correct.iter().map(|&correct| 100.0 * correct as f64 / total).collect();
            if accuracies.is_empty() {
                return Err(Error::Invalid(format!("{}: {run} has no angle", path.display())));
            }
            let device = own.or(device.clone()).unwrap_or("unknown device".into());
            if !grid.devices.contains(&device) {
                grid.devices.push(device);
            }
            // What the protocol does anyway need not be said.
            let training = training.strip_suffix(grid.own_angles()).unwrap_or(training);
            let curve = grid.curves.entry((training.into(), network.into())).or_default();
            curve.entry(seed).or_insert(accuracies);
        }
    }
    Ok(grids)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    files::read(path, LONGEST).map_err(|e| Error::io(path, &e))
}

fn json<T: serde::de::DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Invalid(format!("{}: {e}", path.display())))
}

fn number(settings: &BTreeMap<String, String>, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

/// What is compared.
#[derive(Clone, Copy, PartialEq)]
enum Measure {
    /// The mean over all angles.
    All,
    /// The accuracy at an angle in degrees.
    At(usize),
}

impl Measure {
    /// Of the accuracies of a run. `None` if the angle was not tested.
    fn of(self, accuracies: &[f64]) -> Option<f64> {
        let n = accuracies.len();
        match self {
            Measure::All => Some(statistics(accuracies).0),
            Measure::At(degrees) => (degrees * n).is_multiple_of(360).then(|| accuracies[degrees * n / 360]),
        }
    }

    fn name(self) -> String {
        match self {
            Measure::All => "mean of all angles".into(),
            Measure::At(degrees) => format!("{degrees}°"),
        }
    }
}

/// One network after one training, measured in one way.
#[derive(Clone, Copy)]
struct Sample {
    network: &'static str,
    training: &'static str,
    measure: Measure,
}

/// A question, and the two samples whose difference answers it.
struct Question {
    words: &'static str,
    a: Sample,
    b: Sample,
}

/// One of two samples that are compared.
struct Side {
    name: String,
    measure: Measure,
    values: Vec<f64>,
}

/// An answer.
struct Comparison {
    /// Folders of the runs.
    grid: String,
    words: String,
    a: Side,
    b: Side,
    test: TTest,
    /// Whether values belong together by their seeds.
    paired: bool,
}

/// Every comparison that is made, in the order of the table.
fn questions() -> Vec<Question> {
    use Measure::{All, At};
    let mut questions = Vec::new();
    let mut ask = |words, [a, b]: [(&'static str, &'static str, Measure); 2]| {
        let [a, b] = [a, b].map(|(network, training, measure)| Sample { network, training, measure });
        questions.push(Question { words, a, b });
    };
    for training in ["upright", "normal-45-20", "normal-45-40"] {
        for other in ["p4-27", "p4-29"] {
            let words = "exact minus approximate, all rotations";
            ask(words, [("p4-28", training, All), (other, training, All)]);
        }
        for p4 in ["p4-27", "p4-28", "p4-29"] {
            ask("p4 minus Z2CNN, all rotations", [(p4, training, All), ("z2-28", training, All)]);
        }
    }
    for other in ["p4-27", "p4-29"] {
        ask("approximate minus exact, upright", [(other, "upright", At(0)), ("p4-28", "upright", At(0))]);
    }
    ask("Z2CNN upside down minus on its side", [("z2-28", "upright", At(180)), ("z2-28", "upright", At(90))]);
    for training in ["rotmnist", "uniform", "uniform-batch"] {
        for other in ["p4-27", "p4-29"] {
            for measure in [At(0), All] {
                let words = "exact minus approximate, trained on all rotations";
                ask(words, [("p4-28", training, measure), (other, training, measure)]);
            }
        }
    }
    // How often an angle is drawn.
    for network in ["z2-28", "p4-27"] {
        for (words, other) in [
            ("angles per digit and epoch minus per batch", "batch"),
            ("angles per digit and epoch minus for good", "once"),
        ] {
            for (training, others) in [
                ("normal-45-20", ["normal-45-20-batch", "normal-45-20-once"]),
                ("normal-45-40", ["normal-45-40-batch", "normal-45-40-once"]),
            ] {
                let other = others[usize::from(other == "once")];
                ask(words, [(network, training, All), (network, other, All)]);
            }
        }
    }
    // Figure 7.
    for (adaptive, plain) in [("p4-27-adaptive", "p4-27"), ("p4-29-adaptive", "p4-29")] {
        ask("adaptive minus plain, all rotations", [(adaptive, "upright", All), (plain, "upright", All)]);
        ask("adaptive minus plain, upright", [(adaptive, "upright", At(0)), (plain, "upright", At(0))]);
        ask("adaptive minus the exact size, all rotations", [(adaptive, "upright", All), ("p4-28", "upright", All)]);
        ask("adaptive minus the exact size, upright", [(adaptive, "upright", At(0)), ("p4-28", "upright", At(0))]);
    }
    // Figure 8: against the paper's padding.
    for padding in ["p4-28-zero-4", "p4-28-zero-2", "p4-28-zero-0", "p4-28-circular-6", "p4-28-reflection-6"] {
        ask("padding minus six layers of zeros, all rotations", [(padding, "upright", All), ("p4-28", "upright", All)]);
        ask("padding minus six layers of zeros, upright", [(padding, "upright", At(0)), ("p4-28", "upright", At(0))]);
    }
    // Figure 9: against all poolings exact.
    for broken in ["p4-31-break-1", "p4-31-break-2", "p4-31-break-3", "p4-31-break-123"] {
        ask("broken minus exact, all rotations", [(broken, "upright", All), ("p4-31-break-0", "upright", All)]);
        ask("broken minus exact, upright", [(broken, "upright", At(0)), ("p4-31-break-0", "upright", At(0))]);
    }
    questions
}

impl Grid {
    /// By seed, in percent; empty if there is no such run, or no such angle.
    fn values(&self, Sample { network, training, measure }: Sample) -> Vec<f64> {
        let Some(curve) = self.curves.get(&(training.into(), network.into())) else { return Vec::new() };
        curve.values().filter_map(|seed| measure.of(seed)).collect()
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("?", String::as_str)
    }

    /// The ending of a training's name that says how often the protocol draws an angle.
    fn own_angles(&self) -> &'static str {
        if self.setting("protocol") == "published" { "-batch" } else { "-digit" }
    }

    /// A training's name, with that ending if it says nothing else.
    fn with_angles(&self, training: &str) -> String {
        let says = ["-digit", "-batch", "-once"].iter().any(|ending| training.ends_with(ending));
        format!("{training}{}", if says { "" } else { self.own_angles() })
    }

    fn title(&self) -> String {
        format!(
            "{}: {} digits to train on in batches of {}, {} to test on, {} epochs, {} protocol, the {} epoch tested; runs of {}; {}",
            self.setting("data"),
            self.setting("train"),
            self.setting("batch"),
            self.setting("test"),
            self.setting("epochs"),
            self.setting("protocol"),
            self.settings.get("tested").map_or("last", String::as_str),
            self.folders.join(", "),
            self.devices.join(", "),
        )
    }

    /// Every curve by its mean.
    fn curves_table(&self) -> String {
        let header = ["trained on", "network", "seeds", "mean of all angles", "95%", "0°", "spread at an angle"];
        let rows: Vec<Vec<String>> = self
            .curves
            .iter()
            .map(|((training, network), seeds)| {
                let means: Vec<f64> = seeds.values().map(|seed| statistics(seed).0).collect();
                let upright: Vec<f64> = seeds.values().map(|seed| seed[0]).collect();
                let angles = seeds.values().map(Vec::len).min().unwrap_or(0);
                let stds =
                    (0..angles).map(|angle| statistics(&seeds.values().map(|seed| seed[angle]).collect::<Vec<_>>()).1);
                let spread = statistics(&stds.collect::<Vec<_>>()).0;
                vec![
                    training.clone(),
                    network.clone(),
                    seeds.len().to_string(),
                    percent(&means),
                    interval95(&means).map_or("–".into(), |half| format!("±{half:.2}")),
                    percent(&upright),
                    if seeds.len() > 1 { format!("{spread:.2}") } else { "–".into() },
                ]
            })
            .collect();
        let notes = [
            "mean of all angles, 0°: accuracy in percent, mean over seeds ± their standard deviation (n − 1)",
            "95%: half the width of the mean's interval (Student's t); spread at an angle: the standard deviation over seeds, \
             mean over the angles",
        ];
        format!("{}\n", table::markdown(&self.title(), &header, &rows, notes))
    }

    /// Every question that these runs answer.
    fn comparisons(&self) -> Vec<Comparison> {
        let side = |sample: Sample| Side {
            name: format!("{} ({})", sample.network, sample.training),
            measure: sample.measure,
            values: self.values(sample),
        };
        let compared = questions().into_iter().filter_map(|Question { words, a, b }| {
            let (a, b) = (side(a), side(b));
            let test = welch(&a.values, &b.values)?;
            Some(Comparison { grid: self.folders.join(" "), words: words.into(), a, b, test, paired: false })
        });
        compared.collect()
    }

    /// What sets these runs apart from others, if it is the protocol or the epoch that is tested, and nothing else but the number of
    /// test digits.
    fn apart(&self, other: &Grid) -> Option<[String; 2]> {
        let names = self.settings.keys().chain(other.settings.keys());
        let differs = |name: &&String| self.settings.get(*name) != other.settings.get(*name);
        let allowed = ["protocol", "init", "tested", "test"];
        if names.filter(differs).any(|name| !allowed.contains(&name.as_str())) {
            return None;
        }
        let of = |grid: &Grid| (grid.setting("protocol").to_string(), grid.settings.get("tested").cloned());
        let names = [of(self), of(other)];
        let name = |(protocol, tested): &(String, Option<String>)| {
            format!("{protocol} protocol, {} epoch", tested.as_deref().unwrap_or("last"))
        };
        (names[0] != names[1]).then(|| names.each_ref().map(name))
    }
}

/// Runs of two grids that are alike but for the protocol or the epoch that is tested.
fn across(grids: &[Grid]) -> Vec<Comparison> {
    let mut found = Vec::new();
    for (i, a) in grids.iter().enumerate() {
        for b in &grids[i + 1..] {
            let Some(names) = a.apart(b) else { continue };
            for (of_a, seeds_a) in &a.curves {
                // Named alike, or with angles that are drawn alike.
                let alike = |training: &str| training == of_a.0 || b.with_angles(training) == a.with_angles(&of_a.0);
                for (of_b, seeds_b) in b.curves.iter().filter(|(of_b, _)| of_b.1 == of_a.1 && alike(&of_b.0)) {
                    let sides = [(of_a, seeds_a), (of_b, seeds_b)];
                    found.extend([Measure::All, Measure::At(0)].iter().filter_map(|&measure| {
                        let [a_side, b_side] = [0, 1].map(|i| {
                            let ((training, network), seeds) = sides[i];
                            let values = seeds.values().filter_map(|seed| measure.of(seed)).collect();
                            Side { name: format!("{network} ({training}), {}", names[i]), measure, values }
                        });
                        let one_protocol = a.setting("protocol") == b.setting("protocol");
                        let paired = one_protocol && seeds_a.keys().eq(seeds_b.keys());
                        let test = if paired { significance::paired } else { welch };
                        Some(Comparison {
                            grid: [&a.folders[..], &b.folders[..]].concat().join(" "),
                            words: if one_protocol { "the epoch that is tested" } else { "the protocol" }.into(),
                            test: test(&a_side.values, &b_side.values)?,
                            a: a_side,
                            b: b_side,
                            paired,
                        })
                    }));
                }
            }
        }
    }
    found
}

/// Answers, with p-values adjusted for their number; empty if there is none.
fn answers(title: &str, comparisons: &[Comparison], csv: &mut Csv) -> String {
    if comparisons.is_empty() {
        return String::new();
    }
    let adjusted = holm(&comparisons.iter().map(|comparison| comparison.test.p).collect::<Vec<_>>());
    let p = |p: f64| if p < 1e-3 { format!("{p:.0e}") } else { format!("{p:.3}") };
    let mut rows = Vec::new();
    for (Comparison { grid, words, a, b, test, paired }, adjusted) in comparisons.iter().zip(&adjusted) {
        let ((mean_a, std_a), (mean_b, std_b)) = (statistics(&a.values), statistics(&b.values));
        let measure = match a.measure == b.measure {
            true => a.measure.name(),
            false => format!("{} and {}", a.measure.name(), b.measure.name()),
        };
        rows.push(vec![
            words.clone(),
            format!("{}: {}", a.name, percent(&a.values)),
            format!("{}: {}", b.name, percent(&b.values)),
            measure,
            format!("{:+.2} ± {:.2}", mean_a - mean_b, test.half),
            p(test.p),
            p(*adjusted),
            // Pairs are no independent samples.
            variances_differ(&a.values, &b.values)
                .filter(|_| !paired)
                .map_or("–".into(), |f| format!("{:.1} (p {})", std_a / std_b, p(f))),
        ]);
        csv.row(&[
            grid,
            words,
            &if *paired { "paired" } else { "Welch" },
            &a.name,
            &a.measure.name(),
            &a.values.len(),
            &mean_a,
            &std_a,
            &b.name,
            &b.measure.name(),
            &b.values.len(),
            &mean_b,
            &std_b,
            &(mean_a - mean_b),
            &test.half,
            &test.t,
            &test.freedom,
            &test.p,
            adjusted,
        ]);
    }
    let header = ["question", "a", "b", "measure", "a − b, 95%", "p", "p (Holm)", "std a : b"];
    let notes = [
        "a − b: difference of the means in percent points, with the interval that covers the true one with probability 95%; \
         p: two-sided, Welch's t-test, or the paired one where runs of the same seeds differ in the tested epoch alone; \
         std a : b: ratio of the standard deviations over seeds, with the F-test's p"
            .to_string(),
        format!(
            "This table makes {} comparisons. Of so many tests at 5%, {:.1} would come out significant by chance alone if \
             nothing differed; p (Holm) is adjusted for it: those below 0.05 may be called significant together, with a risk of \
             5% that any of them is so by chance",
            comparisons.len(),
            0.05 * comparisons.len() as f64
        ),
    ];
    format!("{}\n", table::markdown(title, &header, &rows, notes))
}
