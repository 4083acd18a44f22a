//! Gzip files (RFC 1952): one member after the other, each with a checksum of its own. `cat a.gz b.gz` is such a file, as is
//! every BGZF file, whose last member is empty. Zeros may follow the last one, as tapes and block devices leave them.

use flate2::bufread::GzDecoder;
use std::io::{self, BufRead, Read};

/// The content of all members, in order.
pub(crate) struct Members<R> {
    /// `None` after the last one.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Members<R> {
    /// The members that begin here; nothing is read yet.
    pub(crate) fn new(input: R) -> Self {
        Members { member: Some(GzDecoder::new(input)) }
    }

    /// Goes on behind a member whose content and checksum have been read.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else { return Ok(()) };
        let mut input = member.into_inner();
        let mut padded = false;
        let next = loop {
            let bytes = match input.fill_buf() {
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let Some(&first) = bytes.first() else { return Ok(()) };
            let zeros = bytes.iter().take_while(|&&b| b == 0).count();
            if zeros == 0 {
                break first;
            }
            padded = true;
            input.consume(zeros);
        };
        if padded || next != 0x1f {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "trailing bytes after the gzip stream"));
        }
        self.member = Some(GzDecoder::new(input));
        Ok(())
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            match member.read(buffer)? {
                0 => self.next_member()?,
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder, write::GzEncoder};
    use std::io::{BufReader, Write};

    fn member(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// A block of BGZF: a member that says how long it is.
    fn bgzf(content: &[u8]) -> Vec<u8> {
        let builder = || GzBuilder::new().extra(*b"BC\x02\0\0\0");
        let mut encoder = builder().write(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        let mut bytes = encoder.finish().unwrap();
        let last = bytes.len() as u16 - 1;
        bytes[16..18].copy_from_slice(&last.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        // One byte at a time, so that a member ends where the buffer does.
        let mut content = Vec::new();
        Members::new(BufReader::with_capacity(1, bytes)).read_to_end(&mut content)?;
        let mut at_once = Vec::new();
        Members::new(bytes).read_to_end(&mut at_once)?;
        assert_eq!(content, at_once);
        Ok(content)
    }

    #[test]
    fn members_follow_each_other() {
        let (one, two, none) = (member(b"one, "), member(b"two"), member(b""));
        for file in [
            [&one[..], &two].concat(),
            [&none[..], &one, &none, &none, &two, &none].concat(),
            [&one[..], &two, &[0; 700]].concat(),
            [&bgzf(b"one, ")[..], &bgzf(b"two"), &bgzf(b"")].concat(),
        ] {
            assert_eq!(read(&file).unwrap(), b"one, two");
        }
        assert_eq!(read(&none).unwrap(), b"");
    }

    #[test]
    fn every_member_is_checked() {
        let (one, two) = (member(b"one, "), member(b"two"));
        let whole = [&one[..], &two].concat();
        for at in [one.len() - 8, one.len() - 4, whole.len() - 8, whole.len() - 4] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(read(&bytes).is_err(), "byte {at}");
        }
        for end in (1..one.len()).chain(one.len() + 1..whole.len()) {
            assert_eq!(read(&whole[..end]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{end} bytes");
        }
    }

    #[test]
    fn what_is_no_member_is_an_error() {
        let one = member(b"one");
        for rest in [&b"x"[..], b"\0\0\0x", &[&[0][..], &one].concat(), b"\x1f\x8c", b"\x1f\x8b\x09\0\0\0\0\0\0\0"] {
            assert!(read(&[&one[..], rest].concat()).is_err(), "{rest:?}");
        }
    }
}
