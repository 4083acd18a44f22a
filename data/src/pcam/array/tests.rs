use super::*;
use crate::testing::Folder;
use std::time::Instant;

/// Written by the reference library; see `make_pcam.py` beside them.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.h5"))
}

const VALID: &str = "camelyonpatch_level_2_split_valid_x";
const TEST: &str = "camelyonpatch_level_2_split_test_x";

/// Opens the array and reads all of it.
fn survey(path: &Path) -> Result<Vec<u8>> {
    let array = Array::open(path, "x")?;
    array.rows(0, array.extents[0])
}

#[track_caller]
fn refused(path: &Path, wanted: &str) {
    let before = Instant::now();
    match Array::open(path, "x").map(|array| array.extents) {
        Err(Error::Corrupt { path: at, message, .. }) => {
            assert_eq!(at, path);
            assert!(message.contains(wanted), "{message} does not say {wanted}");
        }
        other => panic!("{other:?} instead of {wanted}"),
    }
    assert!(before.elapsed().as_secs() < 5, "{wanted}");
}

/// A fixture with some of its bytes changed.
fn changed(folder: &Folder, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(fixture(name)).unwrap();
    change(&mut bytes);
    folder.write("changed.h5", &bytes)
}

/// Where the only node of the version-1 B-tree of chunks begins.
fn node(bytes: &[u8]) -> usize {
    bytes.windows(5).position(|w| w == b"TREE\x01").unwrap()
}

/// Where the key of chunk `index` begins in it: 4 bytes of stored size, 4 of skipped filters, 5 times 8 of offsets; then the
/// chunk's address.
fn key(bytes: &[u8], index: usize) -> usize {
    node(bytes) + 24 + 56 * index
}

fn find(bytes: &[u8], signature: &[u8; 4]) -> usize {
    bytes.windows(4).position(|w| w == signature).unwrap()
}

/// Jenkins' lookup3, the checksum of HDF5's newer structures, put into the last 4 bytes of `block`.
fn stamp(block: &mut [u8]) {
    const MIX: [(usize, usize, usize, u32); 6] =
        [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)];
    const END: [(usize, usize, u32); 7] =
        [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)];
    let (content, sum) = block.split_at_mut(block.len() - 4);
    let mut state = [0xdead_beef_u32.wrapping_add(content.len() as u32); 3];
    let parts = content.chunks(12);
    let last = parts.len() - 1;
    for (i, part) in parts.enumerate() {
        let mut words = [0; 12];
        words[..part.len()].copy_from_slice(part);
        for (state, word) in state.iter_mut().zip(words.as_chunks::<4>().0) {
            *state = state.wrapping_add(u32::from_le_bytes(*word));
        }
        if i < last {
            for (into, from, then, shift) in MIX {
                state[into] = state[into].wrapping_sub(state[from]) ^ state[from].rotate_left(shift);
                state[from] = state[from].wrapping_add(state[then]);
            }
        }
    }
    for (into, from, shift) in END {
        state[into] = (state[into] ^ state[from]).wrapping_sub(state[from].rotate_left(shift));
    }
    sum.copy_from_slice(&state[2].to_le_bytes());
}

/// Changes something in a structure of `len` bytes that ends with its checksum.
fn restamped(bytes: &mut [u8], start: usize, len: usize, change: impl FnOnce(&mut [u8])) {
    let block = &mut bytes[start..start + len];
    let before = block.to_vec();
    stamp(block);
    assert_eq!(block, before, "the checksum of a sound file");
    change(block);
    stamp(block);
}

/// Header of the fixed array, and its entries: 14 bytes, then for each chunk 8 of address, the stored size, 4 of skipped
/// filters.
const FAHD: usize = 28;
const FADB: usize = 14;

#[test]
fn every_layout_is_read() {
    for name in ["extensible", "plain-chunks", "lzf", "checksums"] {
        let bytes = survey(&fixture(name)).unwrap();
        assert_eq!(bytes.len(), 5 * 1200);
        assert!(bytes.iter().enumerate().all(|(at, &byte)| usize::from(byte) == 10 * (at / 1200) + 1), "{name}");
    }
}

/// They were read as black images of label 0.
#[test]
fn what_was_never_written_is_an_error() {
    refused(&fixture("holes"), "x: 2 of its 5 chunks were never written");
    refused(&fixture("holes-fixed"), "x: 2 of its 5 chunks were never written");
    refused(&fixture("holes-extensible"), "x: 3 of its 5 chunks were never written");
    refused(&fixture("nothing-written"), "x: nothing was ever written into it");
    refused(&fixture("nothing-chunked"), "x: 5 of its 5 chunks were never written");
}

/// Opening succeeded, and each read failed.
#[test]
fn what_is_not_read_is_named_with_the_way_out() {
    refused(&fixture("btree2"), "version-2 B-tree, which is not read: h5repack without options");
    let folder = Folder::new();
    // Compressed with filter 4, szip.
    let other = changed(&folder, VALID, |bytes| {
        let deflate = bytes.windows(8).position(|w| w[..6] == [1, 0, 8, 0, 1, 0]).unwrap();
        bytes[deflate] = 4;
    });
    refused(&other, "compressed with szip");
}

/// A stored size of 2^32 − 16 took 4.1 GiB.
#[test]
fn sizes_of_chunks_are_compared_with_the_file() {
    let folder = Folder::new();
    let resized = |index: usize, size: u32| {
        changed(&folder, VALID, |bytes| {
            let at = key(bytes, index);
            bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
        })
    };
    refused(&resized(0, u32::MAX - 15), "4294967280 bytes stored, for 27648");
    refused(&resized(4, 60_000), "60000 bytes stored, for 27648");
    refused(&resized(2, 20_000), "are not in the file, which has 6280");
    refused(&resized(2, 0), "0 bytes stored, for 27648");
    // Longer than it is, into the next.
    refused(&resized(0, 600), "two chunks share the bytes at");
    let plain = changed(&folder, "plain-chunks", |bytes| {
        let at = key(bytes, 1);
        bytes[at..at + 4].copy_from_slice(&2399u32.to_le_bytes());
    });
    refused(&plain, "has 2399 bytes stored, for 1200");
    // The same in a fixed array, whose checksum is right.
    let bytes = fs::read(fixture(TEST)).unwrap();
    let (header, block) = (find(&bytes, b"FAHD"), find(&bytes, b"FADB"));
    let entry = usize::from(bytes[header + 6]);
    let len = FADB + 2 * entry + 4;
    for (size, wanted) in
        [(u64::MAX >> (8 * (20 - entry)), "bytes stored, for 110592"), (100_000, "are not in the file")]
    {
        let path = changed(&folder, TEST, |bytes| {
            restamped(bytes, block, len, |block| {
                block[FADB + 8..FADB + entry - 4].copy_from_slice(&size.to_le_bytes()[..entry - 12]);
            });
        });
        refused(&path, wanted);
    }
    // Both at one address, or at none.
    let shared = changed(&folder, TEST, |bytes| {
        restamped(bytes, block, len, |block| block.copy_within(FADB..FADB + 8, FADB + entry));
    });
    refused(&shared, "two chunks share the bytes at");
    let absent = changed(&folder, TEST, |bytes| {
        restamped(bytes, block, len, |block| block[FADB..FADB + 8].fill(0xff));
    });
    refused(&absent, "1 of its 2 chunks were never written");
}

#[test]
fn every_chunk_is_there_once() {
    let folder = Folder::new();
    let moved = |offset: u64| {
        changed(&folder, VALID, |bytes| {
            let at = key(bytes, 2) + 8;
            bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
        })
    };
    refused(&moved(1), "two chunks at [1, 0, 0, 0]");
    refused(&moved(9), "a chunk at [9, 0, 0, 0], where none can begin");
    let fewer = changed(&folder, VALID, |bytes| {
        let at = node(bytes) + 6;
        bytes[at..at + 2].copy_from_slice(&4u16.to_le_bytes());
    });
    refused(&fewer, "1 of its 5 chunks were never written");
}

/// The library shifts by what the header says; an index that leads back to itself has five times as many parts at each level.
#[test]
fn an_index_that_contradicts_itself_is_an_error() {
    let folder = Folder::new();
    for bits in [64, 74, 255] {
        let path = changed(&folder, TEST, |bytes| {
            let header = find(bytes, b"FAHD");
            restamped(bytes, header, FAHD, |header| header[7] = bits);
        });
        refused(&path, &format!("pages of 2^{bits} chunks"));
    }
    for count in [1u64, 3, 1 << 40, u64::MAX] {
        let path = changed(&folder, TEST, |bytes| {
            let header = find(bytes, b"FAHD");
            restamped(bytes, header, FAHD, |header| header[8..16].copy_from_slice(&count.to_le_bytes()));
        });
        refused(&path, "");
    }
    for address in [u64::MAX - 20, u64::MAX - 1, 1 << 63] {
        let path = changed(&folder, TEST, |bytes| {
            let header = find(bytes, b"FAHD");
            restamped(bytes, header, FAHD, |header| {
                header[7] = 1;
                header[8..16].copy_from_slice(&100u64.to_le_bytes());
                header[16..24].copy_from_slice(&address.to_le_bytes());
            });
        });
        refused(&path, "");
    }
    // Twelve levels: all children of a node are the one node below it, down to the leaf.
    let circle = changed(&folder, VALID, |bytes| {
        let (node, len) = (node(bytes), 24 + 5 * 56 + 48);
        let mut below = bytes.len() as u64;
        bytes.extend_from_within(node..node + len);
        for level in 1..12 {
            let at = if level == 11 { node } else { bytes.len() };
            if level < 11 {
                bytes.extend_from_within(node..node + len);
            }
            bytes[at + 5] = level;
            for child in 0..5 {
                let place = at + 24 + 56 * child + 48;
                bytes[place..place + 8].copy_from_slice(&below.to_le_bytes());
            }
            below = at as u64;
        }
    });
    refused(&circle, "an index that leads in circles");
}

#[test]
fn extents_that_the_file_cannot_hold_are_refused_first() {
    let folder = Folder::new();
    // Rows of 20 become so many, in chunks of one image; the file has some 5,000 bytes.
    for (extents, wanted) in [([1u64 << 22, 20, 20, 3], "one for each byte"), ([5, 1 << 40, 1 << 40, 3], "")] {
        let path = changed(&folder, "holes", |bytes| {
            let now: Vec<u8> = [5u64, 20, 20, 3].iter().flat_map(|e| e.to_le_bytes()).collect();
            let at = bytes.windows(32).position(|w| w == now).unwrap();
            bytes[at..at + 32].copy_from_slice(&extents.map(u64::to_le_bytes).concat());
        });
        refused(&path, wanted);
    }
}
