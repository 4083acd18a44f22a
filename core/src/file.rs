//! Atomic writing of files. Content is written to a temporary file in the same folder, flushed to the disk and then
//! renamed. So no reader ever sees half a file, and a failure leaves the former file as it was.

use crate::{Error, Result, testing::faults};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

/// How temporary names end. What comes before it is the final name, the process and a number.
const SUFFIX: &str = ".part";

/// Writes a file at `path` with the content that `write` produces. If that fails, the former file stays.
///
/// Any number of threads and processes may write to one path. The last to finish wins, and every reader sees one
/// complete file. Where `path` is a link, the link is replaced, never the file that it points to.
///
/// # Errors
/// [`Error::Io`] with `path`: when the disk is full, the folder is missing or read-only, or `write` fails.
pub fn replace_file(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let mut file = NewFile::create(path)?;
    // Many small writes become few large ones.
    let mut buffered = io::BufWriter::with_capacity(1 << 16, &mut file);
    let written = write(&mut buffered).and_then(|()| buffered.flush());
    // What is still in the buffer would otherwise be written when it is dropped.
    drop(buffered.into_parts());
    match written {
        Ok(()) => file.finish(),
        Err(error) => Err(Error::io(&file.target, &error)),
    }
}

/// A file that is being written in pieces. It gets its name when it is [finished](NewFile::finish); if it is dropped
/// before that, it is removed. Otherwise as [`replace_file`].
#[derive(Debug)]
pub struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    /// `None` once it is finished.
    file: Option<File>,
}

impl NewFile {
    /// An empty file that will be called `target`.
    ///
    /// # Errors
    /// [`Error::Io`] with `target`, when its folder takes no file.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let target = target.as_ref().to_path_buf();
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let mut name = target.as_os_str().to_owned();
            name.push(format!(".{}-{number}{SUFFIX}", process::id()));
            let temporary = PathBuf::from(name);
            // Never an existing file, and never through a link that somebody has put there.
            let opened = faults::tick().and_then(|()| OpenOptions::new().write(true).create_new(true).open(&temporary));
            match opened {
                Ok(file) => return Ok(NewFile { target, temporary, file: Some(file) }),
                // A process of the same number, on another machine or before a restart.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::io(target, &error)),
            }
        }
    }

    /// Flushes the content to the disk, then gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`] with the final name. A former file is unharmed, with one exception: if only the folder could not
    /// be flushed, the new file is in place, but might not survive a power cut.
    pub fn finish(mut self) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let renamed = faults::tick().and_then(|()| file.sync_all()).and_then(|()| {
            drop(file); // some systems do not rename an open file
            faults::tick()?;
            fs::rename(&self.temporary, &self.target)
        });
        if let Err(error) = renamed {
            // The first error is the one to tell.
            let _ = fs::remove_file(&self.temporary);
            return Err(Error::io(&self.target, &error));
        }
        sync_folder_of(&self.target)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::tick()?;
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the file is finished")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // nothing is buffered here
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            // A leftover does no harm.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// If `file_name` is a temporary name of an unfinished [`NewFile`], which a killed process leaves behind: the final
/// name.
pub fn unfinished_name(file_name: &str) -> Option<&str> {
    let (name, tag) = file_name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    let (process, number) = tag.split_once('-')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    (!name.is_empty() && is_number(process) && is_number(number)).then_some(name)
}

/// Flushes the folder of `path` to the disk, so that files just created, renamed or removed there stay so after a power
/// cut.
///
/// # Errors
/// [`Error::Io`] with the folder. File systems that cannot do it, and systems other than Unix, are no error.
pub fn sync_folder_of(path: impl AsRef<Path>) -> Result<()> {
    let folder = match path.as_ref().parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if cfg!(unix) {
        let synced = faults::tick().and_then(|()| File::open(folder)).and_then(|folder| folder.sync_all());
        match synced {
            Err(error) if !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                return Err(Error::io(folder, &error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("quarterturn-file-{name}-{}", process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Folder(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn threads_that_write_to_one_name_never_tear_the_file() {
        let folder = Folder::new("threads");
        let path = folder.0.join("shared");
        const BYTES: usize = 100_000;
        replace_file(&path, |out| out.write_all(&[0; BYTES])).unwrap();
        thread::scope(|scope| {
            for writer in 1..=4 {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace_file(path, |out| (0..BYTES / 100).try_for_each(|_| out.write_all(&[writer; 100])))
                            .unwrap();
                    }
                });
            }
            for _ in 0..200 {
                let content = fs::read(&path).unwrap();
                assert_eq!(content.len(), BYTES);
                assert!(content.iter().all(|&byte| byte == content[0]));
            }
        });
        assert_eq!(folder.names(), ["shared"]);
    }

    /// Whichever step fails: the former file stays (but for the folder's flush, the last step), and nothing is left behind.
    #[test]
    fn a_failure_at_any_step_loses_nothing_and_leaves_nothing() {
        const ENOSPC: i32 = 28;
        let folder = Folder::new("faults");
        let path = folder.0.join("kept");
        fs::write(&path, b"former").unwrap();
        let write = || replace_file(&path, |out| out.write_all(&[7; 200_000]));
        let steps = faults::count(|| write().unwrap());
        assert!(steps >= 4, "create, write, flush and rename at least, got {steps}");
        for step in 0..steps {
            fs::write(&path, b"former").unwrap();
            let error = faults::fail_at(step, ENOSPC, write).unwrap_err();
            assert!(matches!(&error, Error::Io { message, .. } if message.contains("28")), "step {step}: {error}");
            let content = fs::read(&path).unwrap();
            let is_last = cfg!(unix) && step + 1 == steps;
            assert!(if is_last { content == [7; 200_000] } else { content == b"former" }, "step {step}");
            assert_eq!(folder.names(), ["kept"], "step {step}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_replaced_and_what_it_points_to_is_not() {
        let folder = Folder::new("link");
        let (target, link) = (folder.0.join("precious"), folder.0.join("link"));
        fs::write(&target, b"precious").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        replace_file(&link, |out| out.write_all(b"new")).unwrap();
        assert_eq!((fs::read(&target).unwrap(), fs::read(&link).unwrap()), (b"precious".to_vec(), b"new".to_vec()));
        assert!(!fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn only_names_of_this_module_are_called_unfinished() {
        assert_eq!(unfinished_name("a.csv.4711-0.part"), Some("a.csv"));
        for name in ["a.part", "a.csv.part", "a.1-.part", "a.-1.part", "a.x-1.part", ".1-1.part", "a.1-1.part2", "a"] {
            assert_eq!(unfinished_name(name), None, "{name}");
        }
    }

    #[test]
    fn an_error_of_the_content_is_reported_with_the_final_name() {
        let folder = Folder::new("content");
        let path = folder.0.join("never");
        let error = replace_file(&path, |_| Err(io::Error::other("no content"))).unwrap_err();
        assert_eq!(error.to_string(), format!("{}: no content", path.display()));
        assert!(folder.names().is_empty());
    }
}
