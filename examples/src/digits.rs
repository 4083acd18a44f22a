//! From `--data` and `--download` to handwritten digits; without them, to digits that the program draws.

#[cfg(feature = "download")]
use super::progress::Progress;
use super::{args::DataArgs, fingerprint};
#[cfg(feature = "download")]
use quarterturn::data::download;
use quarterturn::{
    core::Result,
    data::{
        Dataset,
        digits::{self, Split},
        mnist::{self, Mnist},
    },
};
use std::path::{Path, PathBuf};

/// Where `--download` puts MNIST if `--data` names no folder.
const DOWNLOADS: &str = "out/mnist";
/// Seed of the built-in test digits: every run is tested on the same ones.
const TEST_SEED: u64 = 0;

/// A source of digits to train and test on.
pub enum Digits {
    /// The files of MNIST.
    Mnist(Mnist),
    /// Drawn from strokes by `quarterturn::data::digits`.
    BuiltIn,
}

impl Digits {
    /// Opens what the user asked for, and says on standard error what that is.
    ///
    /// # Errors
    /// When the folder does not hold MNIST, or the download fails.
    pub fn open(args: &DataArgs) -> Result<Self> {
        if args.download {
            let folder = args.data.clone().unwrap_or_else(|| PathBuf::from(DOWNLOADS));
            super::say::note(format_args!("data: MNIST in {}, downloaded as far as it is missing", folder.display()));
            return Ok(Digits::Mnist(fetch(&folder)?));
        }
        if let Some(folder) = &args.data {
            super::say::note(format_args!(
                "data: MNIST in {}; as in the paper, t10k is trained on and the train file tested on",
                folder.display()
            ));
            return Ok(Digits::Mnist(mnist::load(folder)?));
        }
        super::say::note(
            "data: built-in digits, drawn by the program. For MNIST add --data DIR, or (feature `download`, 11 MB, once) --download",
        );
        Ok(Digits::BuiltIn)
    }

    /// The name, for tables and figures.
    pub fn name(&self) -> &'static str {
        match self {
            Digits::Mnist(_) => "MNIST",
            Digits::BuiltIn => "built-in digits",
        }
    }

    /// A number that other digits would almost surely not have, so that results from two data sets of one name are
    /// told apart.
    pub fn fingerprint(&self) -> String {
        match self {
            Digits::Mnist(mnist) => {
                let parts = [mnist.train.pixels(), mnist.train.labels(), mnist.test.pixels(), mnist.test.labels()];
                fingerprint::of(parts.into_iter().flatten().copied())
            }
            Digits::BuiltIn => "drawn by the program".into(),
        }
    }

    /// `n` digits to train on, drawn by `seed`: of MNIST, out of the paper's 8,000.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn train(&self, n: usize, seed: u64) -> Result<Dataset> {
        match self {
            Digits::Mnist(mnist) => mnist::papers_splits(mnist, seed)?.train.first(n),
            Digits::BuiltIn => digits::generate(seed, Split::Train, n),
        }
    }

    /// `n` digits to choose an epoch by, drawn by `seed`: of MNIST, out of the paper's 2,000, none of which is trained on.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn validation(&self, n: usize, seed: u64) -> Result<Dataset> {
        match self {
            Digits::Mnist(mnist) => mnist::papers_splits(mnist, seed)?.validation.first(n),
            Digits::BuiltIn => digits::generate(seed, Split::Validation, n),
        }
    }

    /// The first `n` digits to test on, the same for every seed: of MNIST, out of the 60,000 training digits, as in
    /// the paper.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn test(&self, n: usize) -> Result<Dataset> {
        match self {
            Digits::Mnist(mnist) => mnist.train.first(n),
            Digits::BuiltIn => digits::generate(TEST_SEED, Split::Test, n),
        }
    }
}

#[cfg(not(feature = "download"))]
fn fetch(_: &Path) -> Result<Mnist> {
    Err(super::args::without("download", "--download"))
}

/// Loads MNIST from `folder`, after downloading what is missing.
#[cfg(feature = "download")]
fn fetch(folder: &Path) -> Result<Mnist> {
    let mut bar: Option<(String, Progress)> = None;
    let loaded = download::mnist(folder, |at| {
        let of = format!("{} from {}", at.file, at.mirror);
        if bar.as_ref().is_none_or(|(name, _)| *name != of) {
            let mut fresh = Progress::new(at.total);
            fresh.say(of.clone());
            bar = Some((of, fresh));
        }
        if let Some((_, bar)) = &mut bar {
            bar.reach(at.received);
        }
    });
    if let Some((_, bar)) = bar {
        bar.done();
    }
    loaded
}
