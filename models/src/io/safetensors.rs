//! The safetensors format: eight bytes with the length of a JSON header, the header, then the tensors' bytes without
//! gaps. The header maps names to `{"dtype", "shape", "data_offsets": [begin, end]}`, and `__metadata__` to a map from
//! strings to strings; numbers are little-endian.
//!
//! Read and written here, because the format's own library brings twelve crates more than the whole embedding path may
//! have, and does not tell where in a file the error is. The tests compare the two.

use std::{collections::BTreeMap, ops::Range};

/// Length of the field that holds the header's length.
pub(crate) const LENGTH: usize = 8;
/// No header may be longer: room for some hundred thousand tensors.
const LONGEST_HEADER: u64 = 16 << 20;
/// No value that is passed over may be nested more deeply.
const DEEPEST: usize = 64;

/// The content of a file.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    /// The free text of `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: BTreeMap<String, Entry>,
}

/// A tensor of a file. What this reader does not understand of one is of no concern to who does not want it.
#[derive(Debug, PartialEq)]
pub(crate) enum Entry {
    Tensor {
        /// The type of its elements: `F32`, …; also one that is unknown here.
        dtype: String,
        shape: Vec<usize>,
        /// Where its bytes are in the file.
        bytes: Range<usize>,
    },
    /// Something else under a tensor's name: what is missing.
    Other(String),
}

/// What is wrong with a file, and at which byte.
#[derive(Debug, PartialEq)]
pub(crate) struct Malformed {
    pub offset: usize,
    pub message: String,
}

type Parsed<T> = Result<T, Malformed>;

fn malformed<T>(offset: usize, message: impl Into<String>) -> Parsed<T> {
    Err(Malformed { offset, message: message.into() })
}

/// Bytes per element of the types that the format knows.
fn size_of(dtype: &str) -> Option<usize> {
    match dtype {
        "BOOL" | "U8" | "I8" | "F8_E4M3" | "F8_E5M2" => Some(1),
        "U16" | "I16" | "F16" | "BF16" => Some(2),
        "U32" | "I32" | "F32" => Some(4),
        "U64" | "I64" | "F64" | "C64" => Some(8),
        _ => None,
    }
}

/// The file with these tensors (name, dtype, shape, bytes), in this order.
pub(crate) fn serialize(
    metadata: &BTreeMap<String, String>,
    tensors: &[(String, &str, Vec<usize>, Vec<u8>)],
) -> Vec<u8> {
    let mut entries = Vec::new();
    if !metadata.is_empty() {
        let pairs: Vec<_> = metadata.iter().map(|(key, value)| format!("{}:{}", quote(key), quote(value))).collect();
        entries.push(format!("\"__metadata__\":{{{}}}", pairs.join(",")));
    }
    let mut end = 0;
    for (name, dtype, shape, bytes) in tensors {
        let begin = end;
        end += bytes.len();
        entries.push(format!(
            "{}:{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}",
            quote(name)
        ));
    }
    let mut header = format!("{{{}}}", entries.join(","));
    // The tensors start at a multiple of eight.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let mut file = Vec::with_capacity(LENGTH + header.len() + end);
    file.extend((header.len() as u64).to_le_bytes());
    file.extend(header.as_bytes());
    tensors.iter().for_each(|(_, _, _, bytes)| file.extend(bytes));
    file
}

/// `text` as a JSON string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Where the tensors' bytes begin in a file of `file` bytes that begins with `bytes`, all of it or the first [`LENGTH`].
pub(crate) fn data_start(bytes: &[u8], file: u64) -> Parsed<usize> {
    // A file may say that it has no bytes and yet give some, as those of Linux about processes do.
    let (Some((length, _)), Some(follow)) = (bytes.split_first_chunk::<LENGTH>(), file.checked_sub(LENGTH as u64))
    else {
        let found = file.min(bytes.len() as u64);
        return malformed(0, format!("expected the header's length in {LENGTH} bytes, the file has {found}"));
    };
    // Only where it is no sound length: a header of 640 bytes begins like a pickle.
    let other_format = || other_format(length);
    let length = u64::from_le_bytes(*length);
    if length > follow {
        if let Some(format) = other_format() {
            return malformed(0, format);
        }
        let message = format!("the header should have {length} bytes, but only {follow} follow");
        return malformed(0, format!("{message}: this is no safetensors file, or one that was cut off"));
    }
    if length > LONGEST_HEADER {
        return malformed(0, format!("a header of {length} bytes, expected {LONGEST_HEADER} at most"));
    }
    Ok(LENGTH + length as usize)
}

/// What a file of another format is, by its first bytes, and what to do.
fn other_format(first: &[u8; LENGTH]) -> Option<String> {
    let torch = "as torch.save writes it. Convert it in Python: safetensors.torch.save_file(torch.load(FILE, \
        map_location='cpu', weights_only=True), 'FILE.safetensors')";
    match first {
        [b'P', b'K', 3, 4, ..] => Some(format!("this is a zip archive, {torch}")),
        [0x80, 2..=5, ..] => Some(format!("this is a Python pickle, {torch}")),
        [0x89, b'H', b'D', b'F', ..] => Some("this is an HDF5 file, not safetensors".into()),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => Some("this is a NumPy array, not safetensors".into()),
        [b'G', b'G', b'U', b'F', ..] => Some("this is a GGUF file, not safetensors".into()),
        _ => None,
    }
}

/// Reads the header of a file of `file` bytes that begins with `bytes`, all of it or up to where the tensors' bytes begin, and
/// checks it. Memory is bounded by the header's length.
pub(crate) fn parse(bytes: &[u8], file: u64) -> Parsed<Archive> {
    let data = data_start(bytes, file)?;
    let header = match std::str::from_utf8(&bytes[LENGTH..data]) {
        Ok(header) => header,
        Err(error) => return malformed(LENGTH + error.valid_up_to(), "the header is not UTF-8"),
    };
    let mut reader = Reader { text: header, at: 0 };
    let (archive, places) = reader.header(data)?;
    check_layout(&archive, &places, file as usize, data)?;
    Ok(archive)
}

/// Tensors must have the bytes that shape and type demand, if the type is known, and follow each other without gap to the file's
/// end.
fn check_layout(archive: &Archive, places: &BTreeMap<String, usize>, file: usize, data: usize) -> Parsed<()> {
    let tensors = archive.tensors.iter().filter_map(|(name, entry)| match entry {
        Entry::Tensor { dtype, shape, bytes } => Some((name, dtype, shape, bytes)),
        Entry::Other(_) => None,
    });
    let mut order: Vec<_> = tensors.collect();
    order.sort_by_key(|(.., bytes)| (bytes.start, bytes.end));
    let mut end = data;
    for (name, dtype, shape, bytes) in order {
        let place = places[name];
        let found = bytes.end.checked_sub(bytes.start);
        let needed = match size_of(dtype) {
            Some(size) => shape.iter().try_fold(size, |product, &extent| product.checked_mul(extent)),
            None => found,
        };
        if needed.is_none() || needed != found {
            let (begin, end) = (bytes.start - data, bytes.end - data);
            return malformed(place, format!("tensor {name}: bytes {begin}..{end} do not hold {dtype} {shape:?}"));
        }
        if bytes.start != end {
            return malformed(place, format!("tensor {name} does not start where the one before it ends"));
        }
        if bytes.end > file {
            return malformed(file, format!("the file ends within tensor {name}"));
        }
        end = bytes.end;
    }
    if end != file {
        return malformed(end, format!("{} bytes follow the last tensor", file - end));
    }
    Ok(())
}

/// A reader of the header's JSON. It accepts just the values that the format has, so nesting is bounded by the code.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        malformed(LENGTH + self.at, message)
    }

    /// Skips white space; the next byte, if any.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text[self.at..].trim_start_matches([' ', '\t', '\n', '\r']);
        self.at = self.text.len() - rest.len();
        rest.bytes().next()
    }

    fn expect(&mut self, wanted: char) -> Parsed<()> {
        if self.peek() == Some(wanted as u8) {
            self.at += 1;
            Ok(())
        } else {
            self.fail(format!("expected '{wanted}' in the header"))
        }
    }

    /// Comma-separated items between `open` and `close`.
    fn items(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self) -> Parsed<()>) -> Parsed<()> {
        self.expect(open)?;
        if self.peek() == Some(close as u8) {
            return self.expect(close);
        }
        loop {
            item(self)?;
            if self.peek() != Some(b',') {
                return self.expect(close);
            }
            self.expect(',')?;
        }
    }

    /// An object: `value` reads what stands behind each key.
    fn object(&mut self, mut value: impl FnMut(&mut Self, String) -> Parsed<()>) -> Parsed<()> {
        self.items('{', '}', |reader| {
            let key = reader.string()?;
            reader.expect(':')?;
            value(reader, key)
        })
    }

    fn string(&mut self) -> Parsed<String> {
        self.expect('"')?;
        let mut string = String::new();
        loop {
            let rest = &self.text[self.at..];
            let Some(c) = rest.chars().next() else { return self.fail("the header ends within a string") };
            match c {
                '"' => {
                    self.at += 1;
                    return Ok(string);
                }
                '\\' => string.push(self.escape()?),
                c if c < ' ' => return self.fail("a control character within a string"),
                c => {
                    self.at += c.len_utf8();
                    string.push(c);
                }
            }
        }
    }

    fn escape(&mut self) -> Parsed<char> {
        let kind = self.text.as_bytes().get(self.at + 1).copied();
        if kind == Some(b'u') {
            let high = self.unit()?;
            let code = if (0xD800..0xDC00).contains(&high) {
                let low = self.unit()?;
                if !(0xDC00..0xE000).contains(&low) {
                    return self.fail("half of a surrogate pair");
                }
                0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
            } else {
                high
            };
            return char::from_u32(code).map_or_else(|| self.fail("half of a surrogate pair"), Ok);
        }
        let c = match kind {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return self.fail("an unknown escape within a string"),
        };
        self.at += 2;
        Ok(c)
    }

    /// The UTF-16 unit of a `\uXXXX`.
    fn unit(&mut self) -> Parsed<u32> {
        let digits = self.text.get(self.at..self.at + 6).and_then(|escape| escape.strip_prefix("\\u"));
        let unit = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(unit) = unit.and_then(|digits| u32::from_str_radix(digits, 16).ok()) else {
            return self.fail("expected \\u and four hexadecimal digits");
        };
        self.at += 6;
        Ok(unit)
    }

    /// A number as counts are written: digits alone, without a leading zero.
    fn count(&mut self) -> Parsed<usize> {
        self.peek();
        let digits = self.text[self.at..].bytes().take_while(u8::is_ascii_digit).count();
        let text = &self.text[self.at..self.at + digits];
        match text.parse() {
            Ok(count) if digits == 1 || !text.starts_with('0') => {
                self.at += digits;
                Ok(count)
            }
            _ => self.fail("expected a whole number that fits the machine"),
        }
    }

    fn counts(&mut self) -> Parsed<Vec<usize>> {
        let mut counts = Vec::new();
        self.items('[', ']', |reader| {
            counts.push(reader.count()?);
            Ok(())
        })?;
        Ok(counts)
    }

    /// The header, and where each tensor's entry stands in the file; `data` is where the tensors' bytes start.
    fn header(&mut self, data: usize) -> Parsed<(Archive, BTreeMap<String, usize>)> {
        let (mut archive, mut places, mut seen) = (Archive::default(), BTreeMap::new(), false);
        self.object(|reader, key| {
            let place = LENGTH + reader.at;
            if key == "__metadata__" {
                if std::mem::replace(&mut seen, true) {
                    return malformed(place, "a second __metadata__");
                }
                if reader.peek() == Some(b'n') {
                    return reader.skip(0);
                }
                return reader.object(|reader, key| {
                    // Other programs write numbers and lists too, of which nothing here is in need.
                    if reader.peek() != Some(b'"') {
                        return reader.skip(1);
                    }
                    let value = reader.string()?;
                    match archive.metadata.insert(key, value) {
                        Some(_) => reader.fail("the same key twice in __metadata__"),
                        None => Ok(()),
                    }
                });
            }
            let entry = reader.entry(&key, data)?;
            places.insert(key.clone(), place);
            match archive.tensors.insert(key, entry) {
                Some(_) => malformed(place, "the same tensor twice"),
                None => Ok(()),
            }
        })?;
        match self.peek() {
            None => Ok((archive, places)),
            Some(_) => self.fail("text behind the header's end"),
        }
    }

    /// Passes over any value; `depth` is how many it stands in.
    fn skip(&mut self, depth: usize) -> Parsed<()> {
        if depth > DEEPEST {
            return self.fail("a value nested too deeply");
        }
        match self.peek() {
            Some(b'{') => self.object(|reader, _| reader.skip(depth + 1)),
            Some(b'[') => self.items('[', ']', |reader| reader.skip(depth + 1)),
            Some(b'"') => self.string().map(drop),
            _ => {
                let rest = &self.text[self.at..];
                let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
                let word = &rest[..end];
                if !matches!(word, "null" | "true" | "false") && word.parse::<f64>().is_err() {
                    return self.fail("expected a value");
                }
                self.at += end;
                Ok(())
            }
        }
    }

    fn entry(&mut self, name: &str, data: usize) -> Parsed<Entry> {
        let place = LENGTH + self.at;
        if self.peek() != Some(b'{') {
            self.skip(0)?;
            return Ok(Entry::Other("expected an object".into()));
        }
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        self.object(|reader, key| {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(reader.string()?).is_some(),
                "shape" => shape.replace(reader.counts()?).is_some(),
                "data_offsets" => offsets.replace(reader.counts()?).is_some(),
                _ => return reader.skip(0),
            };
            if twice { reader.fail(format!("tensor {name}: {key} twice")) } else { Ok(()) }
        })?;
        match (dtype, shape, offsets.as_deref()) {
            (Some(dtype), Some(shape), Some(&[begin, end])) => match data.checked_add(begin).zip(data.checked_add(end))
            {
                Some((begin, end)) => Ok(Entry::Tensor { dtype, shape, bytes: begin..end }),
                None => malformed(place, format!("tensor {name}: offsets beyond any file")),
            },
            (_, _, Some(offsets)) if offsets.len() != 2 => {
                malformed(place, format!("tensor {name}: {} data_offsets, expected 2", offsets.len()))
            }
            _ => Ok(Entry::Other("expected dtype, shape and data_offsets".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors as oracle;

    fn sample() -> Vec<u8> {
        let metadata = [("model", "a \"quoted\\\" ü\n"), ("width", "3")].map(|(k, v)| (k.to_string(), v.to_string()));
        let floats = |n: usize| (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [
            ("b.weight".to_string(), "F32", vec![2, 3], floats(6)),
            ("a".to_string(), "F64", vec![], floats(2)),
            ("empty".to_string(), "F16", vec![0, 7], Vec::new()),
        ];
        serialize(&metadata.into(), &tensors)
    }

    fn whole(file: &[u8]) -> Parsed<Archive> {
        parse(file, file.len() as u64)
    }

    fn tensor<'a>(archive: &'a Archive, name: &str) -> (&'a str, &'a [usize], Range<usize>) {
        match &archive.tensors[name] {
            Entry::Tensor { dtype, shape, bytes } => (dtype, shape, bytes.clone()),
            other => panic!("{name}: {other:?}"),
        }
    }

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn the_formats_own_library_reads_what_we_write() {
        let file = sample();
        let ours = whole(&file).unwrap();
        let theirs = oracle::SafeTensors::deserialize(&file).unwrap();
        let (_, header) = oracle::SafeTensors::read_metadata(&file).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!(metadata.into_iter().collect::<BTreeMap<_, _>>(), ours.metadata);
        assert_eq!(theirs.len(), ours.tensors.len());
        for name in ours.tensors.keys() {
            let (dtype, shape, bytes) = tensor(&ours, name);
            let theirs = theirs.tensor(name).unwrap();
            assert_eq!(
                (theirs.dtype().to_string(), theirs.shape(), theirs.data()),
                (dtype.into(), shape, &file[bytes])
            );
        }
    }

    #[test]
    fn we_read_what_the_formats_own_library_writes() {
        let bytes: Vec<u8> = (0..24).collect();
        let view =
            |dtype, shape: &[usize], bytes| oracle::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap();
        let tensors =
            [("x", view(oracle::Dtype::BF16, &[3, 4], &bytes)), ("y", view(oracle::Dtype::U8, &[5], &bytes[..5]))];
        let metadata = [("key\t\u{1F600}".to_string(), "välue".to_string())];
        let file = oracle::serialize(tensors, Some(metadata.clone().into())).unwrap();
        let archive = whole(&file).unwrap();
        assert_eq!(archive.metadata, metadata.into());
        assert_eq!(file[tensor(&archive, "x").2], bytes);
        let (dtype, shape, _) = tensor(&archive, "y");
        assert_eq!((dtype, shape), ("U8", &[5][..]));
    }

    #[test]
    fn escapes_are_decoded() {
        let archive =
            whole(&file(r#" {"__metadata__" : {"epoch" : 3, "k\u0041\/" : "\ud83d\ude00\n\\"} } "#, &[])).unwrap();
        assert_eq!(archive.metadata["kA/"], "\u{1F600}\n\\");
    }

    /// What is odd about one tensor or key says nothing of the others.
    #[test]
    fn oddities_leave_the_other_tensors_alone() {
        let sound = "\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
        for (odd, bytes) in [
            ("\"__metadata__\":null", 8),
            ("\"__metadata__\":{\"epoch\":3,\"more\":[1,{}]}", 8),
            ("\"version\":2.5e0", 8),
            ("\"more\":[{\"a\":[null,true,\"]\"]},-1]", 8),
            ("\"y\":{}", 8),
            ("\"y\":{\"dtype\":\"F4\",\"shape\":[7,2],\"data_offsets\":[8,15]}", 15),
            ("\"y\":{\"dtype\":\"F8_E8M0\",\"shape\":[3],\"data_offsets\":[8,11]}", 11),
            ("\"y\":{\"dtype\":\"U8\",\"more\":{\"a\":[]},\"shape\":[1],\"data_offsets\":[8,9]}", 9),
        ] {
            for header in [format!("{{{odd},{sound}}}"), format!("{{{sound},{odd}}}")] {
                let archive = whole(&file(&header, &vec![0; bytes])).unwrap_or_else(|e| panic!("{header}: {e:?}"));
                assert_eq!(tensor(&archive, "x").1, [2]);
                assert!(archive.metadata.is_empty());
            }
        }
    }

    /// 640 = 0x0280, and 0x80 0x02 is how a pickle begins.
    #[test]
    fn a_header_whose_length_looks_like_another_format_is_read() {
        let tensor = "\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}";
        for length in [640, 896, 1152, 1408] {
            let metadata = format!("\"__metadata__\":{{\"note\":\"{}\"}}", "n".repeat(300));
            let header = format!("{{{metadata},{tensor}}}");
            let header = format!("{header:length$}");
            assert_eq!(header.len(), length);
            assert_eq!(whole(&file(&header, &[0; 8])).unwrap().tensors.len(), 1);
        }
    }

    #[test]
    fn other_formats_are_named() {
        for (first, message) in [
            (&b"PK\x03\x04\x00\x00\x08\x08"[..], "a zip archive, as torch.save writes it. Convert it in Python"),
            (b"\x80\x02\x8a\nl\xfc\x9cF", "a Python pickle, as torch.save writes it. Convert it in Python"),
            (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
            (b"\x93NUMPY\x01\x00", "a NumPy array"),
            (b"import t", "no safetensors file"),
        ] {
            let error = whole(&[first, &[0; 100]].concat()).unwrap_err();
            assert!(error.message.contains(message), "{error:?}");
        }
        let long = [&(LONGEST_HEADER + 1).to_le_bytes()[..], b"{"].concat();
        assert!(parse(&long, u64::MAX).unwrap_err().message.contains("expected 16777216 at most"));
    }

    #[test]
    fn every_defect_is_told_with_its_place() {
        let tensor = |entry: &str| file(&format!("{{\"x\":{entry}}}"), &[0; 8]);
        for (bytes, message) in [
            (vec![], "header's length"),
            (vec![1, 0, 0, 0, 0, 0, 0], "header's length"),
            (u64::MAX.to_le_bytes().to_vec(), "only 0 follow"),
            (file("<!DOCTYPE html>", &[]), "expected '{'"),
            (file("{", &[]), "expected '\"'"),
            (file("{\"x", &[]), "ends within a string"),
            (file("{\"\\q\":{}}", &[]), "unknown escape"),
            (file("{\"\\ud800\":{}}", &[]), "four hexadecimal"),
            (file("{\"\\udc00\":{}}", &[]), "surrogate"),
            (file("{} x", &[]), "behind the header's end"),
            (file("{}", &[1]), "1 bytes follow"),
            (file("{\"__metadata__\":{\"a\":\"b\",\"a\":\"c\"}}", &[]), "same key twice"),
            (file("{\"__metadata__\":{},\"__metadata__\":{}}", &[]), "second __metadata__"),
            (file("{\"__metadata__\":{\"a\":3x}}", &[]), "expected a value"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}"), "1 data_offsets"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":[}"), "expected a value"),
            (tensor(&format!("{{\"more\":{}", "[".repeat(1000))), "nested too deeply"),
            (tensor("{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"), "dtype twice"),
            (tensor("{\"dtype\":\"Q7\",\"shape\":[2],\"data_offsets\":[8,0]}"), "do not hold"),
            (tensor("{\"dtype\":\"Q7\",\"shape\":[2],\"data_offsets\":[0,7]}"), "1 bytes follow"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}"), "do not hold"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}"), "do not hold"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}"), "does not start"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,12]}"), "ends within tensor x"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}"), "whole number"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[02],\"data_offsets\":[0,8]}"), "whole number"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}"), "whole number"),
            (tensor("{\"dtype\":\"F64\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,0]}"), "do not hold"),
            (tensor("{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,18446744073709551615]}"), "beyond any file"),
        ] {
            let error = whole(&bytes).unwrap_err();
            assert!(error.message.contains(message), "{message}: {error:?}");
            assert!(error.offset <= bytes.len(), "{error:?}");
        }
    }

    /// Whatever one byte of a file becomes, and wherever it is cut, parsing ends without panic and agrees with the
    /// format's own library on whether the file is sound.
    #[test]
    fn corruptions_and_truncations_are_judged_as_by_the_formats_own_library() {
        let sample = sample();
        let judge = |bytes: &[u8], what: &str| {
            let (ours, theirs) = (whole(bytes), oracle::SafeTensors::deserialize(bytes));
            // The library also takes the key of a pair that stands twice; it refuses files for what may be wrong with one
            // tensor here.
            let lenient = match &ours {
                Err(error) => error.message.contains("twice"),
                Ok(archive) => archive.tensors.values().any(|entry| match entry {
                    Entry::Tensor { dtype, .. } => size_of(dtype).is_none(),
                    Entry::Other(_) => true,
                }),
            };
            assert!(ours.is_ok() == theirs.is_ok() || lenient, "{what}: {ours:?}, {:?}", theirs.err());
        };
        for length in 0..sample.len() {
            judge(&sample[..length], &format!("cut to {length} bytes"));
            assert!(whole(&sample[..length]).is_err());
        }
        let header = sample.len() - 32;
        for at in 0..header {
            for value in
                [0, 1, b'"', b'\\', b'0', b'9', b',', b'{', b'}', b' ', 0x80, 0xFF, sample[at] ^ 1, sample[at] ^ 0x20]
            {
                let mut bytes = sample.clone();
                bytes[at] = value;
                judge(&bytes, &format!("byte {at} made {value}"));
            }
        }
    }
}
