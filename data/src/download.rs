//! Fetching the files of a data set from the first mirror that has them unharmed.
//!
//! A mirror may be gone, stall, break off, or answer with a web page. So a file gets its name only after its length and
//! SHA-256 have been checked. It is written to a temporary file, flushed to the disk and renamed.

use crate::mnist;
use quarterturn_core::{Error, NewFile, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::{Agent, Timeout, http::StatusCode};

/// Bytes read at a time.
const CHUNK: usize = 1 << 16;

/// The MNIST files as published, compressed.
pub const MNIST: [Item; 4] = [
    Item {
        name: "train-images-idx3-ubyte.gz",
        bytes: 9_912_422,
        sha256: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    },
    Item {
        name: "train-labels-idx1-ubyte.gz",
        bytes: 28_881,
        sha256: "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    },
    Item {
        name: "t10k-images-idx3-ubyte.gz",
        bytes: 1_648_877,
        sha256: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    },
    Item {
        name: "t10k-labels-idx1-ubyte.gz",
        bytes: 4_542,
        sha256: "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
];

/// Where the MNIST files are, in the order to try.
pub const MNIST_MIRRORS: [&str; 2] =
    ["https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"];

/// Loads MNIST from `folder` as [`mnist::load`] does, after fetching what [`MNIST`] lists if the files are not there.
///
/// # Errors
/// Those of [`mnist::load`] but for missing files, and those of [`Downloader::fetch`].
pub fn mnist(folder: &Path, mut progress: impl FnMut(Progress)) -> Result<mnist::Mnist> {
    if !mnist::is_present(folder)? {
        let downloader = Downloader::new(MNIST_MIRRORS);
        for item in &MNIST {
            downloader.fetch(item, folder, &mut progress)?;
        }
    }
    mnist::load(folder)
}

/// A file to download, with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Its name below the mirror's address, and in the folder.
    pub name: &'a str,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in lower-case hexadecimal digits.
    pub sha256: &'a str,
}

/// The progress of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file's name.
    pub file: &'a str,
    /// The mirror that it comes from.
    pub mirror: &'a str,
    /// Bytes received so far; begins at 0 again with the next mirror.
    pub received: u64,
    /// Bytes that the file has.
    pub total: u64,
}

/// Mirrors, and how long to wait for them. See [`Downloader::fetch`].
#[derive(Clone, Debug)]
pub struct Downloader {
    /// Addresses below which the files lie, in the order to try.
    pub mirrors: Vec<String>,
    /// How long finding the server, and connecting to it, may each take. 15 s.
    pub connect_timeout: Duration,
    /// How long to wait when nothing arrives. 30 s.
    pub stall_timeout: Duration,
    /// How long one file may take from one mirror. 30 min.
    pub total_timeout: Duration,
    /// Whether to go through the proxy that `HTTPS_PROXY` and its like name. Yes.
    pub proxy_from_environment: bool,
}

impl Downloader {
    /// A downloader with the default timeouts.
    pub fn new<M: Into<String>>(mirrors: impl IntoIterator<Item = M>) -> Self {
        Downloader {
            mirrors: mirrors.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            total_timeout: Duration::from_secs(30 * 60),
            proxy_from_environment: true,
        }
    }

    /// Fetches `item` into `folder`, which is made if need be, and returns its path. A file that is there already with
    /// the right content is kept; one with another content is replaced. Calls `progress` after every chunk.
    ///
    /// # Errors
    /// [`Error::Download`] with the reason for each mirror if none has the file; [`Error::Io`] if it cannot be
    /// written. In both cases the files in `folder` are as they were.
    pub fn fetch(&self, item: &Item, folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let path = folder.join(item.name);
        if is_intact(item, &path)? {
            return Ok(path);
        }
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
        let agent = self.agent();
        let mut reasons = Vec::new();
        for mirror in &self.mirrors {
            match self.fetch_from(&agent, mirror, item, &path, progress) {
                Ok(()) => return Ok(path),
                Err(Failure::Mirror(reason)) => reasons.push(format!("{mirror}: {reason}")),
                Err(Failure::Local(error)) => return Err(error),
            }
        }
        if reasons.is_empty() {
            reasons.push("there are no mirrors to try".into());
        }
        Err(Error::Download(format!("{}: {}", item.name, reasons.join("; "))))
    }

    fn agent(&self) -> Agent {
        let mut config = Agent::config_builder()
            .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_connect(Some(self.connect_timeout))
            .timeout_recv_response(Some(self.stall_timeout))
            .timeout_per_read(Some(self.stall_timeout))
            .timeout_global(Some(self.total_timeout));
        if !self.proxy_from_environment {
            config = config.proxy(None);
        }
        config.build().into()
    }

    fn fetch_from(
        &self,
        agent: &Agent,
        mirror: &str,
        item: &Item,
        path: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<(), Failure> {
        let url = format!("{}/{}", mirror.trim_end_matches('/'), item.name);
        let response = agent.get(&url).call().map_err(|e| self.mirror_failure(e))?;
        if response.status() != StatusCode::OK {
            return Err(Failure::Mirror(format!("the server answered {}", response.status())));
        }
        let body = response.into_body();
        if body.mime_type().is_some_and(|mime| mime.eq_ignore_ascii_case("text/html")) {
            return Err(Failure::Mirror("the server sent a web page instead of the file".into()));
        }
        if let Some(announced) = body.content_length().filter(|&n| n != item.bytes) {
            return Err(Failure::Mirror(format!("{announced} bytes are announced, the file has {}", item.bytes)));
        }
        let mut input = body.into_reader();
        let mut part = NewFile::create(path)?;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut report = |received| progress(Progress { file: item.name, mirror, received, total: item.bytes });
        let mut received = 0;
        report(received);
        loop {
            let got = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(got) => got,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(self.mirror_failure(e.into())),
            };
            received += got as u64;
            if received > item.bytes {
                return Err(Failure::Mirror(format!("more than the {} bytes of the file arrived", item.bytes)));
            }
            hasher.update(&chunk[..got]);
            part.write_all(&chunk[..got]).map_err(|e| Error::io(path, &e))?;
            report(received);
        }
        if received < item.bytes {
            return Err(Failure::Mirror(format!("broke off after {received} of {} bytes", item.bytes)));
        }
        let found = hex(&hasher.finalize());
        if found != item.sha256 {
            return Err(Failure::Mirror(format!("the SHA-256 is {found}, not {}", item.sha256)));
        }
        Ok(part.finish()?)
    }

    /// What went wrong at the other end, with the limit if it was a matter of time.
    fn mirror_failure(&self, error: ureq::Error) -> Failure {
        Failure::Mirror(match error {
            ureq::Error::Timeout(Timeout::Resolve) => format!("not resolved within {:?}", self.connect_timeout),
            ureq::Error::Timeout(Timeout::Connect) => format!("no connection within {:?}", self.connect_timeout),
            ureq::Error::Timeout(Timeout::PerRead | Timeout::RecvResponse) => {
                format!("stalled: nothing arrived for {:?}", self.stall_timeout)
            }
            ureq::Error::Timeout(_) => format!("not complete within {:?}", self.total_timeout),
            other => other.to_string(),
        })
    }
}

/// Why a mirror did not deliver.
enum Failure {
    /// The next one may.
    Mirror(String),
    /// No other would help.
    Local(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Local(error)
    }
}

/// Whether `path` is a file with the content of `item`.
fn is_intact(item: &Item, path: &Path) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() != item.bytes => return Ok(false),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::io(path, &e)),
    }
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(|e| Error::io(path, &e))?;
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hex(&hasher.finalize()) == item.sha256),
            Ok(got) => hasher.update(&chunk[..got]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path, &e)),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
