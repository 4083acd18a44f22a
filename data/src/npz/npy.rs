//! One array as NumPy writes it: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use byteorder::{BigEndian as Be, ByteOrder, LittleEndian as Le};

/// The longest header that is read.
const MAX_HEADER: usize = 1 << 16;

/// A type of numbers: its kind as NumPy says it (`b`, `u`, `i` or `f`) and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Type {
    kind: u8,
    size: usize,
    is_big_endian: bool,
}

/// An array of numbers in the order of C.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    shape: Vec<usize>,
    of: Type,
    bytes: Vec<u8>,
}

impl Array {
    /// Of the bytes of a `.npy` file.
    pub(super) fn parse(mut bytes: Vec<u8>) -> Result<Self, String> {
        let no_array = || "no array of NumPy".to_string();
        if bytes.get(..6) != Some(b"\x93NUMPY") || bytes.len() < 12 {
            return Err(no_array());
        }
        let (length, start) = match bytes[6] {
            1 => (usize::from(Le::read_u16(&bytes[8..])), 10),
            2 | 3 => (Le::read_u32(&bytes[8..]) as usize, 12),
            version => return Err(format!("version {version} of NumPy's format, expected 1 to 3")),
        };
        let header = bytes.get(start..start + length.min(MAX_HEADER)).ok_or_else(no_array)?;
        let header =
            std::str::from_utf8(header).ok().filter(|_| length <= MAX_HEADER).ok_or("its header is no text")?;
        let value = |key: &str| {
            let (_, rest) = header.split_once(&format!("'{key}':")).ok_or(format!("its header has no {key}"))?;
            Ok::<&str, String>(rest.trim_start())
        };
        if !value("fortran_order")?.starts_with("False") {
            return Err("it is in the order of Fortran, expected that of C".into());
        }
        let described = value("descr")?.strip_prefix('\'').and_then(|rest| rest.split('\'').next());
        let of = described.and_then(Type::parse).ok_or_else(|| {
            format!("its type is {}, expected whole numbers or floats", described.unwrap_or("a structure"))
        })?;
        let shape = value("shape")?.strip_prefix('(').and_then(|rest| rest.split(')').next());
        let parse = |text: &str| {
            let extents = text.split(',').map(str::trim).filter(|extent| !extent.is_empty());
            extents.map(|extent| extent.parse().ok()).collect::<Option<Vec<usize>>>()
        };
        let shape = shape.and_then(parse).ok_or("its shape is not understood")?;
        let wanted = shape.iter().try_fold(of.size, |product, &extent| product.checked_mul(extent));
        bytes.drain(..start + length);
        if wanted != Some(bytes.len()) {
            return Err(format!("{} bytes are not an array of {shape:?}, {} bytes each", bytes.len(), of.size));
        }
        Ok(Array { shape, of, bytes })
    }

    /// Its extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its numbers as bytes, if they are unsigned ones of 8 bits.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        (self.of.kind == b'u' && self.of.size == 1).then_some(self.bytes)
    }

    /// Its numbers.
    pub fn numbers(&self) -> impl Iterator<Item = f64> {
        self.bytes.chunks_exact(self.of.size).map(|bytes| self.of.number(bytes))
    }
}

impl Type {
    /// Of `<f4`, `|u1` and so on.
    fn parse(text: &str) -> Option<Self> {
        let (&order, rest) = text.as_bytes().split_first()?;
        let (&kind, size) = rest.split_first()?;
        let size: usize = std::str::from_utf8(size).ok()?.parse().ok()?;
        let is_known = match kind {
            b'b' => size == 1,
            b'u' | b'i' => [1, 2, 4, 8].contains(&size),
            b'f' => [4, 8].contains(&size),
            _ => false,
        };
        let is_big_endian = order == b'>';
        (is_known && (is_big_endian || b"<|=".contains(&order))).then_some(Type { kind, size, is_big_endian })
    }

    fn number(self, bytes: &[u8]) -> f64 {
        let Type { kind, size, is_big_endian } = self;
        match (kind, size) {
            (b'f', 4) => f64::from(if is_big_endian { Be::read_f32(bytes) } else { Le::read_f32(bytes) }),
            (b'f', _) => {
                if is_big_endian {
                    Be::read_f64(bytes)
                } else {
                    Le::read_f64(bytes)
                }
            }
            (b'i', size) => (if is_big_endian { Be::read_int(bytes, size) } else { Le::read_int(bytes, size) }) as f64,
            (_, size) => (if is_big_endian { Be::read_uint(bytes, size) } else { Le::read_uint(bytes, size) }) as f64,
        }
    }
}
