//! Samples of any type become 8-bit levels.
//!
//! | samples                | 0 to 255 stand for        | or, if the file has these tags,    |
//! |------------------------|---------------------------|------------------------------------|
//! | up to 8 bits, unsigned | 0 to 2^bits − 1           |                                    |
//! | more bits, unsigned    | 0 to 2^bits − 1           | 0 to MaxSampleValue                |
//! | signed                 | −2^(bits−1) to 2^(bits−1) − 1 | SMinSampleValue to SMaxSampleValue |
//! | floats                 | 0 to 1                    | SMinSampleValue to SMaxSampleValue |
//!
//! Samples outside of that are an error. So are whole numbers that leave the upper four bits unused although no tag says so:
//! what a camera of 12 bits stores in 16 would silently become 16 levels.

use super::{File, Layout};
use tiff::{
    decoder::{DecodingResult, ifd::Value},
    tags::{SampleFormat, Tag},
};

/// What becomes 0, and what 255.
pub(super) struct Range {
    low: f64,
    high: f64,
    /// Whether a tag says so.
    told: bool,
}

impl Range {
    pub(super) fn of(layout: &Layout, file: &mut File) -> Result<Self, String> {
        let bits = layout.bits as i32;
        let (low, high, tags) = match layout.format {
            SampleFormat::Uint if bits <= 8 => return Ok(Range { low: 0.0, high: 2f64.powi(bits) - 1.0, told: true }),
            SampleFormat::Uint => (0.0, 2f64.powi(bits) - 1.0, (None, Tag::MaxSampleValue)),
            SampleFormat::Int => {
                (-2f64.powi(bits - 1), 2f64.powi(bits - 1) - 1.0, (Some(Tag::SMinSampleValue), Tag::SMaxSampleValue))
            }
            SampleFormat::IEEEFP => (0.0, 1.0, (Some(Tag::SMinSampleValue), Tag::SMaxSampleValue)),
            other => return Err(format!("samples of type {other:?}, which are not read")),
        };
        let Some(most) = extreme(file, tags.1, f64::max)? else { return Ok(Range { low, high, told: false }) };
        let least = tags.0.map_or(Ok(None), |tag| extreme(file, tag, f64::min))?.unwrap_or(low);
        if !(least < most && (most - least).is_finite()) {
            return Err(format!("samples from {least} to {most}, as the file's tags say"));
        }
        Ok(Range { low: least, high: most, told: true })
    }

    /// Whether samples from `least` to `most` can be shown.
    fn admit(&self, least: f64, most: f64, format: SampleFormat) -> Result<(), String> {
        let Range { low, high, told } = *self;
        if !(low <= least && most <= high) {
            let who = if told { "the file's tags say" } else { "is expected without tags that say otherwise" };
            return Err(format!("samples from {least} to {most}, but {low} to {high} {who}"));
        }
        let reach = least.abs().max(most.abs());
        let room = high - if format == SampleFormat::Int { 0.0 } else { low };
        if !told && format != SampleFormat::IEEEFP && reach > 0.0 && reach < room / 16.0 {
            let tag =
                if format == SampleFormat::Int { "SMinSampleValue and SMaxSampleValue" } else { "MaxSampleValue" };
            return Err(format!(
                "samples from {least} to {most} use less than a sixteenth of {low} to {high}, of which 8 bits would show \
                 next to nothing: set {tag} to what is to become white"
            ));
        }
        Ok(())
    }
}

/// The value of a tag that has one for each sample, or for all.
fn extreme(file: &mut File, tag: Tag, choose: fn(f64, f64) -> f64) -> Result<Option<f64>, String> {
    let Some(value) = file.find_tag(tag).map_err(|error| format!("{tag:?}: {error}"))? else { return Ok(None) };
    let values = if let Value::List(values) = value { values } else { vec![value] };
    let number = |value: Value| match value {
        Value::Float(value) => Ok(f64::from(value)),
        Value::Double(value) => Ok(value),
        whole => whole.clone().into_i64().map(|v| v as f64).or_else(|_| whole.into_u64().map(|v| v as f64)),
    };
    let numbers = values.into_iter().map(number).collect::<Result<Vec<f64>, _>>();
    let numbers = numbers.map_err(|error| format!("{tag:?}: {error}"))?;
    Ok(numbers.into_iter().reduce(choose))
}

/// The samples that make the pixels' colours, next to each other.
pub(super) fn of(layout: &Layout, samples: DecodingResult, range: Range) -> Result<Vec<u8>, String> {
    match samples {
        DecodingResult::U8(bytes) if layout.bits < 8 => scaled(layout, &unpacked(layout, &bytes), f64::from, range),
        DecodingResult::U8(bytes) if layout.samples == layout.wanted() && !layout.planar => Ok(bytes),
        DecodingResult::U8(bytes) => scaled(layout, &bytes, f64::from, range),
        DecodingResult::U16(words) => scaled(layout, &words, f64::from, range),
        DecodingResult::U32(words) => scaled(layout, &words, f64::from, range),
        DecodingResult::U64(words) => scaled(layout, &words, |word| word as f64, range),
        DecodingResult::I8(bytes) => scaled(layout, &bytes, f64::from, range),
        DecodingResult::I16(words) => scaled(layout, &words, f64::from, range),
        DecodingResult::I32(words) => scaled(layout, &words, f64::from, range),
        DecodingResult::I64(words) => scaled(layout, &words, |word| word as f64, range),
        DecodingResult::F16(floats) => scaled(layout, &floats, |float| float.to_f64(), range),
        DecodingResult::F32(floats) => scaled(layout, &floats, f64::from, range),
        DecodingResult::F64(floats) => scaled(layout, &floats, f64::from, range),
    }
}

fn scaled<T: Copy>(layout: &Layout, samples: &[T], value: fn(T) -> f64, range: Range) -> Result<Vec<u8>, String> {
    let count = if layout.planar { layout.pixels() * layout.wanted() } else { layout.pixels() * layout.samples };
    if samples.len() < count {
        return Err(format!("{} samples of {count}", samples.len()));
    }
    let wanted = layout.wanted();
    let colour = || (0..layout.pixels()).flat_map(|i| (0..wanted).map(move |channel| (i, channel)));
    let at = |(index, channel)| value(samples[layout.place(index, channel)]);
    let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
    for sample in colour().map(at) {
        if sample.is_nan() {
            return Err("a sample that is not a number".into());
        }
        (least, most) = (least.min(sample), most.max(sample));
    }
    range.admit(least, most, layout.format)?;
    let width = range.high - range.low;
    Ok(colour().map(|place| ((at(place) - range.low) * 255.0 / width).round() as u8).collect())
}

/// Samples of less than 8 bits, one in each byte. Each line begins with a byte of its own.
pub(super) fn unpacked(layout: &Layout, packed: &[u8]) -> Vec<u8> {
    let (bits, line) = (layout.bits, layout.size.width * layout.stored_together());
    let sample = |line: &[u8], index: usize| {
        let at = index * bits;
        let pair = u16::from(line[at / 8]) << 8 | u16::from(*line.get(at / 8 + 1).unwrap_or(&0));
        ((pair << (at % 8)) >> (16 - bits)) as u8
    };
    let lines = packed.chunks((line * bits).div_ceil(8));
    lines.flat_map(|bytes| (0..line).map(move |index| sample(bytes, index))).collect()
}
