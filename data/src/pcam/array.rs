//! An array of bytes on four axes, in an HDF5 file.
//!
//! HDF5 fills what was never written with zeros, and an index may say of a chunk what it likes. So all that the index says is
//! compared with the file once, when it is opened: each chunk must be there, within the file, of a size that it can have, and
//! in no other's place.

use crate::guard::guarded;
use hdf5_pure::{Chunk, ChunkIndex, DType, Dataset, FormatError, Layout, Source};
use quarterturn_core::{Error, Result};
use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// The most images of a part: the training images are 262,144.
const MAX_IMAGES: u64 = 1 << 22;
/// The most bytes of a chunk, which is decompressed at once.
const MAX_CHUNK: u64 = 1 << 26;
/// The most chunks of an array.
const MAX_CHUNKS: u64 = 1 << 22;
/// So often may opening a file read each of its bytes, and so many besides: an index whose parts point to each other reads
/// for ever.
const MAX_READS: u64 = 16;
const FREE_READS: u64 = 1 << 20;

/// The array; images are its entries.
pub(super) struct Array {
    pub(super) path: PathBuf,
    place: Arc<Place>,
    dataset: Dataset,
    pub(super) extents: [usize; 4],
}

impl Array {
    pub(super) fn open(path: &Path, name: &str) -> Result<Self> {
        let file = fs::File::open(path).map_err(|e| {
            let packed = PathBuf::from(format!("{}.gz", path.display()));
            let hint =
                if packed.is_file() { format!("; decompress {} first", packed.display()) } else { String::new() };
            Error::Io { path: path.into(), message: format!("{e}{hint}") }
        })?;
        let len = file.metadata().map_err(|e| Error::io(path, &e))?.len();
        let allowed = len.saturating_mul(MAX_READS).saturating_add(FREE_READS);
        let place = Arc::new(Place { at: AtomicU64::new(0), allowed: AtomicU64::new(allowed) });
        let source = Tracked { file: Mutex::new(file), len, place: place.clone() };
        let found = told(path, &place, || {
            let dataset = hdf5_pure::File::from_source(source).and_then(|file| file.dataset(name))?;
            let (shape, kind, layout) = (dataset.shape()?, dataset.dtype()?, dataset.layout()?);
            Ok((dataset, shape, kind, layout))
        });
        let (dataset, shape, kind, layout) = found?;
        let mut array = Array { path: path.into(), place, dataset, extents: [0; 4] };
        if kind != DType::U8 {
            return Err(array.corrupt(format!("{name}: elements are {kind}, expected bytes (u8)")));
        }
        let extents: Option<Vec<usize>> = shape.iter().map(|&e| usize::try_from(e).ok()).collect();
        match extents.as_deref() {
            Some(&[n, a, b, c]) if (1..=MAX_IMAGES).contains(&shape[0]) => array.extents = [n, a, b, c],
            _ => {
                let message = format!("{name}: the extents are {shape:?}, expected [1 to {MAX_IMAGES}, …] on 4 axes");
                return Err(array.corrupt(message));
            }
        }
        array.survey(&layout, len)?.map_err(|message| array.corrupt(format!("{name}: {message}")))?;
        array.place.allowed.store(u64::MAX, Ordering::Relaxed);
        Ok(array)
    }

    /// Whether all of the array lies in the file, which has `len` bytes.
    fn survey(&self, layout: &Layout, len: u64) -> Result<std::result::Result<(), String>> {
        let bytes = self.extents.iter().try_fold(1u64, |product, &e| product.checked_mul(e as u64));
        let Some(bytes) = bytes.filter(|&bytes| bytes > 0) else {
            return Ok(Err(format!("the extents are {:?}", self.extents)));
        };
        Ok(match *layout {
            Layout::Compact { size } | Layout::Contiguous { address: Some(_), size } if size != bytes => {
                Err(format!("{size} bytes are stored, the extents make {bytes}"))
            }
            Layout::Compact { .. } => Ok(()),
            Layout::Contiguous { address: Some(address), size } => within(address, size, len),
            Layout::Contiguous { address: None, .. } => Err("nothing was ever written into it".into()),
            Layout::Chunked { ref chunk_shape, index } => {
                let grid = match Grid::of(self.extents, chunk_shape, index, len) {
                    Ok(grid) => grid,
                    Err(message) => return Ok(Err(message)),
                };
                let filters = self.dataset.filter_pipeline();
                if let Some(filter) = filters.iter().find(|filter| !FILTERS.contains(&filter.id)) {
                    return Ok(Err(format!(
                        "compressed with {filter}, which is not read: h5repack -f GZIP=4 writes it anew"
                    )));
                }
                let chunks = told(&self.path, &self.place, || self.dataset.chunks())?;
                grid.check(chunks, !filters.is_empty(), len)
            }
            _ => Err("parts of other files (a virtual dataset), which are not read: copy it with h5repack".into()),
        })
    }

    /// Bytes of the entries `first..first + count` of the first axis.
    pub(super) fn rows(&self, first: usize, count: usize) -> Result<Vec<u8>> {
        let wanted = count * self.extents[1..].iter().product::<usize>();
        let bytes = told(&self.path, &self.place, || self.dataset.read_u8_rows(first as u64, count as u64))?;
        if bytes.len() != wanted {
            return Err(self.corrupt(format!("entry {first}: {wanted} bytes are expected, there are {}", bytes.len())));
        }
        Ok(bytes)
    }

    pub(super) fn corrupt(&self, message: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset: self.place.at.load(Ordering::Relaxed), message }
    }
}

/// Filters that can be undone: deflate, shuffle, Fletcher's checksum, scale-offset, LZF.
const FILTERS: [u16; 5] = [1, 2, 3, 6, 32000];

fn within(address: u64, size: u64, len: u64) -> std::result::Result<(), String> {
    match address.checked_add(size) {
        Some(end) if end <= len => Ok(()),
        _ => Err(format!("{size} bytes at {address} are not in the file, which has {len}")),
    }
}

/// How an array is cut into chunks.
struct Grid {
    extents: [u64; 4],
    chunk: [u64; 4],
    /// Chunks along each axis.
    counts: [u64; 4],
}

impl Grid {
    fn of(extents: [usize; 4], shape: &[u64], index: ChunkIndex, len: u64) -> std::result::Result<Self, String> {
        if index == ChunkIndex::BTreeV2 {
            return Err(
                "its chunks are indexed by a version-2 B-tree, which is not read: h5repack without options, or \
                        h5py without maxshape, writes it anew"
                    .into(),
            );
        }
        let chunk: [u64; 4] = shape.try_into().map_err(|_| format!("chunks of {shape:?}, expected 4 axes"))?;
        let bytes = chunk.iter().try_fold(1u64, |product, &e| product.checked_mul(e));
        if bytes.is_none_or(|bytes| bytes == 0 || bytes > MAX_CHUNK) {
            return Err(format!("chunks of {chunk:?}, at most {MAX_CHUNK} bytes are read at once"));
        }
        let extents = extents.map(|extent| extent as u64);
        let counts: [u64; 4] = std::array::from_fn(|axis| extents[axis].div_ceil(chunk[axis]));
        let count = counts.iter().try_fold(1u64, |product, &e| product.checked_mul(e));
        if count.is_none_or(|count| count > MAX_CHUNKS.min(len)) {
            return Err(format!(
                "{extents:?} in chunks of {chunk:?}: at most {MAX_CHUNKS} chunks, and one for each byte"
            ));
        }
        Ok(Grid { extents, chunk, counts })
    }

    /// Whether each chunk is there once.
    fn check(&self, chunks: Vec<Chunk>, filtered: bool, len: u64) -> std::result::Result<(), String> {
        let whole: u64 = self.chunk.iter().product();
        let mut seen = vec![false; self.counts.iter().product::<u64>() as usize];
        let mut places = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let (offset, size) = (&chunk.offset, chunk.storage_size);
            let cell = self.cell(offset).ok_or_else(|| format!("a chunk at {offset:?}, where none can begin"))?;
            if std::mem::replace(&mut seen[cell], true) {
                return Err(format!("two chunks at {offset:?}"));
            }
            // What cannot be compressed becomes a little longer, with LZF twice as long at most.
            let fits = if filtered { (1..=2 * whole + 64).contains(&size) } else { size == whole };
            if !fits {
                return Err(format!("the chunk at {offset:?} has {size} bytes stored, for {whole}"));
            }
            within(chunk.address, size, len).map_err(|message| format!("the chunk at {offset:?}: {message}"))?;
            places.push((chunk.address, size));
        }
        let holes = seen.iter().filter(|&&seen| !seen).count();
        if holes > 0 {
            return Err(format!("{holes} of its {} chunks were never written, and would be read as zeros", seen.len()));
        }
        places.sort_unstable();
        match places.windows(2).find(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
            Some(pair) => Err(format!("two chunks share the bytes at {}", pair[1].0)),
            None => Ok(()),
        }
    }

    /// The number of the chunk that begins at `offset`.
    fn cell(&self, offset: &[u64]) -> Option<usize> {
        let offset: [u64; 4] = offset.try_into().ok()?;
        let cell = (0..4).try_fold(0, |cell, axis| {
            let fits = offset[axis] < self.extents[axis] && offset[axis].is_multiple_of(self.chunk[axis]);
            fits.then_some(cell * self.counts[axis] + offset[axis] / self.chunk[axis])
        });
        usize::try_from(cell?).ok()
    }
}

/// Runs something of the library's on the file at `path`.
fn told<T>(path: &Path, place: &Place, work: impl FnOnce() -> std::result::Result<T, hdf5_pure::Error>) -> Result<T> {
    let corrupt = |message| Error::Corrupt { path: path.into(), offset: place.at.load(Ordering::Relaxed), message };
    match guarded(work).map_err(corrupt)? {
        Ok(value) => Ok(value),
        Err(hdf5_pure::Error::Io(e)) => Err(Error::io(path, &e)),
        Err(hdf5_pure::Error::Format(FormatError::Source(message))) => Err(Error::Io { path: path.into(), message }),
        Err(e) => Err(corrupt(e.to_string())),
    }
}

/// Where a file was last read, for errors to name a place, and how much of it may still be read.
struct Place {
    at: AtomicU64,
    allowed: AtomicU64,
}

/// A file that keeps account of what is read.
struct Tracked {
    file: Mutex<fs::File>,
    len: u64,
    place: Arc<Place>,
}

impl Source for Tracked {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::result::Result<(), FormatError> {
        self.place.at.store(offset.min(self.len), Ordering::Relaxed);
        let length = buffer.len() as u64;
        let end = offset.checked_add(length).ok_or(FormatError::OffsetOverflow { offset, length })?;
        if end > self.len {
            let count = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
            return Err(FormatError::UnexpectedEof { expected: count(end), available: count(self.len) });
        }
        let allowed = self.place.allowed.load(Ordering::Relaxed);
        if allowed < u64::MAX {
            let left = allowed.checked_sub(length.max(16));
            let left = left.ok_or_else(|| FormatError::ChunkedReadError("an index that leads in circles".into()))?;
            self.place.allowed.store(left, Ordering::Relaxed);
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.read_exact(buffer));
        read.map_err(|e| FormatError::Source(e.to_string()))?;
        match page_bits(buffer) {
            // The library shifts by it.
            Some(bits) if allowed < u64::MAX && bits >= 32 => {
                Err(FormatError::ChunkedReadError(format!("pages of 2^{bits} chunks in the index")))
            }
            _ => Ok(()),
        }
    }
}

/// The logarithm of the number of entries in a page, if this is the header of an index that has pages.
fn page_bits(header: &[u8]) -> Option<u8> {
    match header.first_chunk()? {
        b"FAHD" => header.get(7).copied(),
        b"EAHD" => header.get(11).copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
