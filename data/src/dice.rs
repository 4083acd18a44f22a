//! Random numbers for augmenting one image.

use quarterturn_core::Stream;

/// A random number generator for one image. What it draws depends on the loader's seed, the epoch and the image's index
/// in the data set alone.
#[derive(Clone, Debug)]
pub struct Dice {
    stream: Stream,
    next: u64,
}

impl Dice {
    /// Begins at a block of the stream.
    pub(crate) fn new(stream: Stream, block: u64) -> Self {
        Dice { stream, next: block }
    }

    fn advance(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Uniform in `low..high`.
    pub fn uniform(&mut self, low: f32, high: f32) -> f32 {
        let block = self.advance();
        low + (high - low) * self.stream.uniform(4 * block)
    }

    /// Normal.
    pub fn normal(&mut self, mean: f32, deviation: f32) -> f32 {
        let block = self.advance();
        mean + deviation * self.stream.normal(block) as f32
    }

    /// Normal, but cut at 2.5 standard deviations: nothing that is drawn is beyond recognition.
    pub(crate) fn cut_normal(&mut self, mean: f32, deviation: f32) -> f32 {
        let block = self.advance();
        mean + deviation * self.stream.normal(block).clamp(-2.5, 2.5) as f32
    }

    /// True with the given probability.
    pub fn chance(&mut self, probability: f32) -> bool {
        self.uniform(0.0, 1.0) < probability
    }

    /// One of `0..n`, for n below 2³².
    pub fn below(&mut self, n: usize) -> usize {
        let draw = self.words()[0];
        ((u64::from(draw) * n as u64) >> 32) as usize
    }

    /// Four random words.
    pub(crate) fn words(&mut self) -> [u32; 4] {
        let block = self.advance();
        self.stream.block(block)
    }
}
