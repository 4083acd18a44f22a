//! Entropy-coded data: which bits belong to which block.

use std::iter;

/// The most bits of a code.
const CODE: usize = 16;
/// Codes of up to this many bits are looked up at once.
const LOOK: u32 = 10;
/// What one block takes at most: 64 codes of 16 bits with 15 bits behind each. Data is followed by so many zeros and a
/// window, so that its end needs to be looked for only after each block.
const PADDING: usize = 64 * 4 + 16;
/// Bits that are at hand in a window, wherever in a byte it begins.
const WINDOW: u32 = 57;
/// So far goes the code for the end of a block: beyond any coefficient.
const END: u8 = 128;

/// A code, and what it means in a sequential scan.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Its bits; 0 where there is none.
    length: u8,
    value: u8,
    /// Its bits, and those of the number behind it.
    total: u8,
    /// How many coefficients it goes on.
    advance: u8,
}

impl Entry {
    fn new(length: u32, value: u8) -> Self {
        let (zeros, size) = (value >> 4, value & 15);
        let advance = match (zeros, size) {
            (15, 0) => 16,
            (_, 0) => END,
            _ => zeros + 1,
        };
        Entry { length: length as u8, value, total: length as u8 + size, advance }
    }
}

/// A Huffman code.
pub(super) struct Table {
    /// By the next [`LOOK`] bits.
    short: Box<[Entry; 1 << LOOK]>,
    /// For each length the first code that is too large for it, shifted to 16 bits, and what to add to a code of this
    /// length to find its value.
    long: [(u32, i32); CODE + 1],
    values: Vec<u8>,
}

impl Table {
    /// From the number of codes of each length, 1 to 16 bits, and their values in order.
    pub(super) fn new(counts: &[u8], values: &[u8]) -> Result<Self, String> {
        let short = Box::new([Entry::default(); 1 << LOOK]);
        let mut table = Table { short, long: [(0, 0); CODE + 1], values: values.to_vec() };
        let (mut code, mut index) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let (first, count) = (code, u32::from(count));
            if first + count > 1 << length {
                return Err(format!("a Huffman table with too many codes of {length} bits"));
            }
            table.long[length as usize] = ((first + count) << (16 - length), index as i32 - first as i32);
            for _ in 0..count {
                if length <= LOOK {
                    let (from, share) = (code << (LOOK - length), 1 << (LOOK - length));
                    table.short[from as usize..][..share].fill(Entry::new(length, values[index]));
                }
                code += 1;
                index += 1;
            }
            code <<= 1;
        }
        Ok(table)
    }

    /// The code that a window begins with.
    fn entry(&self, window: u64) -> Result<Entry, String> {
        let entry = self.short[(window >> (64 - LOOK)) as usize];
        if entry.length > 0 { Ok(entry) } else { self.long_entry((window >> 48) as u32) }
    }

    /// The code that these 16 bits begin with, if it is longer than those that are looked up.
    #[cold]
    fn long_entry(&self, ahead: u32) -> Result<Entry, String> {
        for length in LOOK + 1..=16 {
            let (limit, shift) = self.long[length as usize];
            if ahead < limit {
                return Ok(Entry::new(length, self.values[((ahead >> (16 - length)) as i32 + shift) as usize]));
            }
        }
        Err("a bit pattern that is no code".into())
    }

    fn next(&self, bits: &mut Bits) -> Result<u8, String> {
        let entry = self.entry(bits.window())?;
        bits.skip(entry.length.into());
        Ok(entry.value)
    }
}

/// The parts of a scan between restart markers.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Restart markers met so far.
    restarts: usize,
}

impl<'a> Segments<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Segments { bytes, at, restarts: 0 }
    }

    /// Where the scan ends: behind its data that was asked for, or at the next marker other than a restart.
    pub(super) fn end(&self) -> usize {
        self.at
    }

    /// Puts the data up to the next marker into `bits`, without the zeros that follow each 0xFF.
    fn read(&mut self, bits: &mut Bits) {
        bits.data.clear();
        loop {
            let rest = &self.bytes[self.at..];
            let plain = rest.iter().position(|&b| b == 0xff).unwrap_or(rest.len());
            bits.data.extend_from_slice(&rest[..plain]);
            self.at += plain;
            match rest.get(plain + 1) {
                Some(0) => bits.data.push(0xff),
                _ => break,
            }
            self.at += 2;
        }
        bits.end = 8 * bits.data.len();
        bits.at = 0;
        bits.data.resize(bits.data.len() + PADDING, 0);
    }

    /// Steps over the restart marker that must come here.
    fn restart(&mut self) -> Result<(), String> {
        while self.bytes.get(self.at..self.at + 2) == Some(&[0xff, 0xff]) {
            self.at += 1;
        }
        match self.bytes.get(self.at..self.at + 2) {
            Some(&[0xff, marker @ 0xd0..=0xd7]) => {
                let wanted = self.restarts % 8;
                if usize::from(marker - 0xd0) != wanted {
                    return Err(format!("restart marker {}, expected {wanted}", marker - 0xd0));
                }
                self.restarts += 1;
                self.at += 2;
                Ok(())
            }
            _ => Err("truncated: the scan ends before its last restart".into()),
        }
    }
}

/// Bits of the data between two markers, the highest of each byte first.
#[derive(Default)]
struct Bits {
    data: Vec<u8>,
    at: usize,
    end: usize,
}

impl Bits {
    /// The next [`WINDOW`] bits, and no matter what below them.
    fn window(&self) -> u64 {
        let word = self.data.get(self.at >> 3..).and_then(<[u8]>::first_chunk);
        u64::from_be_bytes(word.copied().unwrap_or_default()) << (self.at & 7)
    }

    fn skip(&mut self, count: u32) {
        self.at += count as usize;
    }

    /// Up to 16 bits as a number.
    fn take(&mut self, count: u32) -> u32 {
        let number = (self.window() >> 32 >> (32 - count)) as u32;
        self.skip(count);
        number
    }
}

/// A component of a scan.
pub(super) struct Part<'a> {
    /// Which of the frame's it is.
    pub index: usize,
    /// Its blocks in a unit.
    pub sampling: usize,
    pub dc: Option<&'a Table>,
    pub ac: Option<&'a Table>,
}

/// What a scan holds of each block.
#[derive(Clone, Copy)]
pub(super) enum Scan {
    /// All of it.
    Sequential,
    /// Mean values, or one bit more of them.
    Means { refine: bool },
    /// The coefficients `from..=to`, or one bit more of them.
    Band { from: usize, to: usize, refine: bool },
}

impl Scan {
    /// From the spectral selection and the successive approximation of a progressive scan.
    pub(super) fn progressive(band: [u8; 2], bits: [u8; 2], components: usize) -> Result<Self, String> {
        let (refine, [from, to]) = (bits[0] > 0, band.map(usize::from));
        if bits[0] > 13 || bits[1] > 13 || (refine && bits[0] != bits[1] + 1) {
            return Err(format!("a scan of bits {bits:?}"));
        }
        match (from, to) {
            (0, 0) => Ok(Scan::Means { refine }),
            (1.., ..64) if from <= to && components == 1 => Ok(Scan::Band { from, to, refine }),
            _ => Err(format!("a scan of coefficients {from} to {to} of {components} components")),
        }
    }

    pub(super) fn brings_means(self) -> bool {
        matches!(self, Scan::Sequential | Scan::Means { refine: false })
    }

    pub(super) fn needs_map(self) -> bool {
        matches!(self, Scan::Band { .. })
    }
}

/// Steps over `units` units of a scan. `nonzero` is the map of the component of a [`Scan::Band`].
pub(super) fn walk(
    segments: &mut Segments,
    scan: Scan,
    parts: &[Part],
    units: usize,
    interval: usize,
    nonzero: &mut [u64],
) -> Result<(), String> {
    let interval = if interval == 0 { units } else { interval };
    let mut bits = Bits::default();
    for first in (0..units).step_by(interval) {
        if first > 0 {
            segments.restart()?;
        }
        segments.read(&mut bits);
        let mut run = 0;
        for unit in first..units.min(first + interval) {
            for part in parts.iter().flat_map(|part| iter::repeat_n(part, part.sampling)) {
                let stepped = step(&mut bits, scan, part, &mut run, nonzero.get_mut(unit));
                // Behind the end come zeros, of which no code may be made either.
                if bits.at > bits.end || (stepped.is_err() && bits.at + CODE > bits.end) {
                    return Err(format!("truncated: the scan ends in unit {unit} of {units}"));
                }
                stepped?;
            }
        }
    }
    Ok(())
}

/// Steps over a block. `run` blocks to come have nothing new in this band.
fn step(bits: &mut Bits, scan: Scan, part: &Part, run: &mut u32, nonzero: Option<&mut u64>) -> Result<(), String> {
    let missing = "a scan without its Huffman table";
    match (scan, nonzero) {
        (Scan::Sequential, _) => block(bits, part.dc.ok_or(missing)?, part.ac.ok_or(missing)?)?,
        (Scan::Means { refine: false }, _) => mean(bits, part.dc.ok_or(missing)?)?,
        (Scan::Means { refine: true }, _) => bits.skip(1),
        (Scan::Band { from, to, refine: true }, Some(map)) => {
            *run = refined(bits, part.ac.ok_or(missing)?, from, to, map, *run)?;
        }
        (Scan::Band { .. }, _) if *run > 0 => *run -= 1,
        (Scan::Band { from, to, .. }, Some(map)) => *run = band(bits, part.ac.ok_or(missing)?, from, to, map)?,
        (Scan::Band { .. }, None) => return Err("a block outside of the image".into()),
    }
    Ok(())
}

fn mean(bits: &mut Bits, table: &Table) -> Result<(), String> {
    let size = table.next(bits)?;
    if size > 15 {
        return Err(format!("a difference of {size} bits"));
    }
    bits.skip(u32::from(size));
    Ok(())
}

/// One block of a sequential scan.
fn block(bits: &mut Bits, dc: &Table, ac: &Table) -> Result<(), String> {
    mean(bits, dc)?;
    let mut at = 1;
    while at < 64 {
        let (mut window, mut left) = (bits.window(), WINDOW);
        // A code and its number are 31 bits at most.
        while at < 64 && left > 31 {
            let entry = ac.entry(window)?;
            window <<= entry.total;
            left -= u32::from(entry.total);
            at += usize::from(entry.advance);
        }
        bits.skip(WINDOW - left);
    }
    if (65..usize::from(END)).contains(&at) { Err("a coefficient outside of its block".into()) } else { Ok(()) }
}

/// The first scan of a band in a block. Returns for how many more blocks there is nothing.
fn band(bits: &mut Bits, table: &Table, from: usize, to: usize, nonzero: &mut u64) -> Result<u32, String> {
    let mut at = from;
    while at <= to {
        let code = table.next(bits)?;
        match (u32::from(code >> 4), u32::from(code & 15)) {
            (15, 0) => at += 16,
            (run, 0) => return Ok((1 << run) - 1 + bits.take(run)),
            (zeros, size) => {
                at += zeros as usize;
                if at > to {
                    break;
                }
                *nonzero |= 1 << at;
                bits.skip(size);
                at += 1;
            }
        }
    }
    if at > to + 1 { Err("a coefficient outside of its band".into()) } else { Ok(0) }
}

/// A refining scan of a band in a block, which has a bit for each coefficient that was not zero. `run` blocks, this one
/// among them, have no new ones; returns how many are left of them.
fn refined(
    bits: &mut Bits,
    table: &Table,
    from: usize,
    to: usize,
    nonzero: &mut u64,
    mut run: u32,
) -> Result<u32, String> {
    let mut at = from;
    while run == 0 && at <= to {
        let code = table.next(bits)?;
        let new = match (u32::from(code >> 4), u32::from(code & 15)) {
            (15, 0) => false,
            (length, 0) => {
                run = (1 << length) + bits.take(length);
                break;
            }
            (_, 1) => {
                bits.skip(1);
                true
            }
            (_, size) => return Err(format!("a refined coefficient of {size} bits")),
        };
        let mut zeros = code >> 4;
        loop {
            if at > to {
                return Err("a coefficient outside of its band".into());
            }
            let known = *nonzero >> at & 1 == 1;
            if known {
                bits.skip(1);
            } else if zeros == 0 {
                *nonzero |= u64::from(new) << at;
                at += 1;
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
    }
    if run > 0 {
        let rest = (*nonzero & u64::MAX >> (63 - to)).checked_shr(at as u32).unwrap_or(0);
        bits.skip(rest.count_ones());
        run -= 1;
    }
    Ok(run)
}
