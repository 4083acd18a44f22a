//! Compiled pipelines on the disk, so that the next process need not compile them: see [`GpuOptions::pipeline_cache`].
//!
//! The file has a head of ours before the data of wgpu: a magic number, a checksum of all that follows it, and the label
//! of adapter and driver with its length.
//!
//! [`GpuOptions::pipeline_cache`]: super::GpuOptions::pipeline_cache

use super::caught;
use crate::{Result, replace_file};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

const MAGIC: &[u8; 8] = b"QTPIPES1";
/// Bytes of magic number, checksum and the label's length.
const HEAD: usize = 20;
/// A longer file is none of ours.
const LONGEST: u64 = 1 << 28;

/// The cache of an open device, and its file.
pub(super) struct DiskCache {
    pub cache: wgpu::PipelineCache,
    path: PathBuf,
    label: String,
    /// The checksum of what the file holds.
    checksum: Option<u64>,
    /// Bytes of the driver's that were read.
    pub read: u64,
}

impl DiskCache {
    /// What an adapter must have.
    pub const FEATURES: wgpu::Features = wgpu::Features::PIPELINE_CACHE;

    /// The cache in the file `path`, or an empty one, if there is no such file or it is not for this driver. `None` if
    /// the driver has no cache to give.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo, path: &Path) -> Option<Self> {
        let Some(key) = wgpu::util::pipeline_cache_key(info) else {
            log::warn!("{}: {} has no pipelines to keep there", path.display(), info.name);
            return None;
        };
        let label = [&key, &info.name, &info.driver, &info.driver_info].map(String::as_str).join("\n");
        let bytes = read(path).unwrap_or_else(|why| {
            log::warn!("{}: {why}: all pipelines are compiled anew", path.display());
            None
        });
        let content = bytes.as_deref().map(|bytes| content(bytes, &label)).transpose().unwrap_or_else(|why| {
            log::warn!("{}: {why}: it is ignored, and all pipelines are compiled anew", path.display());
            None
        });
        let made = |data| {
            let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
            // SAFETY: wgpu asks that the data come from `PipelineCache::get_data`. `save` writes nothing else into such a
            // file. What was not written by `save`, or not wholly, or has changed since, has another magic number, length or
            // checksum, and what another adapter or version of a driver made has another label: `content` lets neither pass.
            // wgpu compares its own key of device and driver once more. The checksum guards against accidents, not against
            // somebody who forges a file: that is for the rights to the folder to do, as with programs, and so
            // `GpuOptions::pipeline_cache` tells its readers.
            caught(device, || unsafe { device.create_pipeline_cache(&descriptor) })
        };
        let (cache, data) = match made(content) {
            Ok(cache) => (cache, content),
            Err(error) => {
                log::warn!("{}: {error}: it is ignored, and all pipelines are compiled anew", path.display());
                (made(None).ok()?, None)
            }
        };
        let checksum = data.and(bytes.as_deref()).map(stated);
        let read = data.map_or(0, <[u8]>::len) as u64;
        Some(DiskCache { cache, path: path.to_path_buf(), label, checksum, read })
    }

    /// Writes the file, unless it holds the same already.
    pub fn save(&mut self) -> Result<()> {
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        let file = framed(&data, &self.label);
        let checksum = Some(stated(&file));
        if checksum != self.checksum {
            replace_file(&self.path, |out| out.write_all(&file))?;
            self.checksum = checksum;
        }
        Ok(())
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            log::warn!("pipelines were not kept: {error}");
        }
    }
}

/// The file's bytes; `None` if there is none.
fn read(path: &Path) -> std::result::Result<Option<Vec<u8>>, String> {
    let told = |error: std::io::Error| error.to_string();
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(told)?,
    };
    let kind = file.metadata().map_err(told)?;
    if !kind.is_file() || kind.len() > LONGEST {
        return Err(format!("not a file of at most {} MiB", LONGEST >> 20));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST).read_to_end(&mut bytes).map_err(told)?;
    Ok(Some(bytes))
}

/// A file of this data.
fn framed(data: &[u8], label: &str) -> Vec<u8> {
    let mut rest = (label.len() as u32).to_le_bytes().to_vec();
    rest.extend_from_slice(label.as_bytes());
    rest.extend_from_slice(data);
    [MAGIC, &checksum(&rest).to_le_bytes()[..], &rest].concat()
}

/// The data in a file that [`framed`] has made with this label.
fn content<'a>(bytes: &'a [u8], label: &str) -> std::result::Result<&'a [u8], String> {
    if bytes.len() < HEAD || &bytes[..8] != MAGIC {
        return Err("not a file of compiled pipelines, or a broken one".into());
    }
    if stated(bytes) != checksum(&bytes[16..]) {
        return Err("its checksum is wrong, so it was cut off or changed".into());
    }
    let length = u32::from_le_bytes(bytes[16..HEAD].try_into().expect("four bytes")) as usize;
    let (found, data) = bytes[HEAD..].split_at_checked(length).ok_or("its label is longer than the file")?;
    if found != label.as_bytes() {
        let [found, label] = [&String::from_utf8_lossy(found), label].map(|label| label.replace('\n', ", "));
        return Err(format!("it is of another adapter or driver ({found}; this is {label})"));
    }
    Ok(data)
}

/// The checksum that stands in a file that is longer than its head.
fn stated(file: &[u8]) -> u64 {
    u64::from_le_bytes(file[8..16].try_into().expect("eight bytes"))
}

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl super::Gpu {
    /// Writes the compiled pipelines to the file of [`GpuOptions::pipeline_cache`](super::GpuOptions::pipeline_cache), if one was named
    /// and has not got them yet. Dropping the last clone of this GPU does the same, and logs the error.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written.
    pub fn save_pipelines(&self) -> Result<()> {
        match &mut self.state().pipelines.disk {
            Some(disk) => disk.save(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_differs_in_any_bit_or_is_cut_off_is_refused() {
        let file = framed(b"what the driver gave", "key\nname");
        assert_eq!(content(&file, "key\nname").unwrap(), b"what the driver gave");
        for len in 0..file.len() {
            assert!(content(&file[..len], "key\nname").is_err(), "cut off after {len} bytes");
        }
        for bit in 0..8 * file.len() {
            let mut changed = file.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(content(&changed, "key\nname").is_err(), "bit {bit}");
        }
        assert!(content(&[&file[..], b"0"].concat(), "key\nname").is_err(), "longer");
        let foreign = content(&file, "key\nother").unwrap_err();
        assert!(foreign.contains("another adapter or driver (key, name; this is key, other)"), "{foreign}");
        // A label that claims to be longer than the file, under a checksum that is right.
        let mut rest = file[16..].to_vec();
        rest[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let forged = [MAGIC, &checksum(&rest).to_le_bytes()[..], &rest].concat();
        assert!(content(&forged, "key\nname").is_err());
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        assert!(read(&std::env::temp_dir()).is_err());
        assert_eq!(read(&std::env::temp_dir().join("quarterturn-no-such-file")), Ok(None));
        if cfg!(unix) {
            assert!(read(Path::new("/dev/zero")).is_err());
        }
    }
}
