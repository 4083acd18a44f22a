//! Dropout. Which elements are kept depends on the stream and the element's index alone.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::{
    simd::wide,
    sweep::{PIECE, for_each_piece, masked},
};
#[cfg(feature = "gpu")]
use quarterturn_core::gpu::Size;

use quarterturn_core::{Device, HostBuffer, Stream, Tensor};

/// Dropout with probability p: `y[i] = x[i] / (1 − p)` where element i is kept, else 0. The gradient is the same
/// function with the same stream.
///
/// One 16-bit draw per element: element `i` is kept iff half-word `i mod 2` (the low half first) of word `⌊i/2⌋` of the
/// stream is at least `p·65536`. So `p` is rounded to a multiple of 1/65536, in the factor `1/(1 − p)` too.
///
/// # Panics
/// If `p`, rounded, is not in [0, 1).
#[track_caller]
pub fn dropout(x: &Tensor, p: f32, stream: Stream) -> Tensor {
    let rule = Rule::new("dropout", p, stream);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            for_each_piece(x.f32s(), PIECE, &mut y, PIECE, &|piece, x, y| {
                sweep(x, y, piece * PIECE, rule);
            });
            Tensor::cpu(x.shape(), y)
        }
        Device::Reference => {
            let kept = |(i, &x): (usize, &f64)| if rule.keeps(i) { x / rule.kept_fraction() } else { 0.0 };
            Tensor::reference(x.shape(), x.f64s().iter().enumerate().map(kept).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let (kernel, blocks) = (launch::kernel("dropout", SHADER), Size::Threads(x.len().div_ceil(8)));
            // Maps of one element.
            let words = [&rule.words()[..], &[1]].concat();
            launch::result(&gpu, kernel, &[], &[x], x.shape(), &words, blocks)
        }
    }
}

/// Dropout of whole channels (PyTorch: `dropout2d`; Tompson et al. 2015): `y[n, c, …] = x[n, c, …] / (1 − p)` where
/// channel `n·C + c` is kept, else 0. The random numbers are those of [`dropout`]. All group elements and all pixels of
/// a channel are dropped together, so the operation commutes with every element of the group in every bit. The gradient
/// is the same function with the same stream.
///
/// # Panics
/// With fewer than two axes, or if `p`, rounded, is not in [0, 1).
#[track_caller]
pub fn dropout_maps(x: &Tensor, p: f32, stream: Stream) -> Tensor {
    let rule = Rule::new("dropout_maps", p, stream);
    let [_, _, rest @ ..] = x.dims() else { panic!("dropout_maps: expected [N, C, ...], got {:?}", x.shape()) };
    let len = rest.iter().product::<usize>().max(1);
    match x.device() {
        Device::Cpu => {
            let mut y = HostBuffer::scratch(x.len());
            for_each_piece(x.f32s(), len, &mut y, len, &|map, x, y| match rule.keeps(map) {
                true => y.iter_mut().zip(x).for_each(|(y, x)| *y = x * rule.factor),
                false => y.fill(0.0),
            });
            Tensor::cpu(x.shape(), y)
        }
        Device::Reference => {
            let kept = |(i, &x): (usize, &f64)| if rule.keeps(i / len) { x / rule.kept_fraction() } else { 0.0 };
            Tensor::reference(x.shape(), x.f64s().iter().enumerate().map(kept).collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let words = [&rule.words()[..], &[len as u32]].concat();
            launch::each(&gpu, launch::kernel("dropout_maps", SHADER), &[], &[x], x.shape(), &words)
        }
    }
}

wide! {
    fn sweep(x: &[f32], y: &mut [f32], start: usize, rule: Rule) {
        rule.for_each_run(start, x.len(), |run, draws| {
            for ((y, &x), &draw) in y[run.clone()].iter_mut().zip(&x[run]).zip(draws) {
                *y = rule.apply(x, draw);
            }
        });
    }
}

/// When an element is kept.
#[derive(Clone, Copy)]
pub(crate) struct Rule {
    stream: Stream,
    /// `p·65536`, rounded: draws below it are dropped.
    pub threshold: u32,
    /// `1/(1 − p)` of the rounded p.
    pub factor: f32,
}

/// Elements whose draws are made at a time: eight Philox blocks of eight halves.
const RUN: usize = 64;

impl Rule {
    /// # Panics
    /// In the name of `op`, if `p`, rounded, is not in [0, 1).
    #[track_caller]
    pub fn new(op: &str, p: f32, stream: Stream) -> Self {
        let threshold = (f64::from(p) * 65536.0).round();
        assert!((0.0..65536.0).contains(&threshold), "{op}: expected a dropout probability in [0, 1), got {p}");
        Rule { stream, threshold: threshold as u32, factor: (65536.0 / (65536.0 - threshold)) as f32 }
    }

    /// The rule as a shader's uniform: key, stream, epoch, threshold, factor.
    #[cfg(feature = "gpu")]
    pub fn words(self) -> [u32; 6] {
        let Stream { seed, stream, epoch } = self.stream;
        [seed as u32, (seed >> 32) as u32, stream, epoch, self.threshold, self.factor.to_bits()]
    }

    /// `1 − p` of the rounded p.
    pub fn kept_fraction(self) -> f64 {
        (65536.0 - f64::from(self.threshold)) / 65536.0
    }

    /// Whether element `i` is kept: the definition, word by word.
    pub fn keeps(self, i: usize) -> bool {
        self.stream.word(i as u64 / 2) >> (16 * (i % 2)) & 0xFFFF >= self.threshold
    }

    /// `x` as its draw decides.
    #[inline(always)]
    pub fn apply(self, x: f32, draw: u16) -> f32 {
        masked(u32::from(draw) >= self.threshold, x * self.factor)
    }

    /// Cuts the elements `start .. start + len` of the whole tensor into runs: `f(range from 0 to len, its draws)`.
    #[inline(always)]
    pub fn for_each_run(self, start: usize, len: usize, mut f: impl FnMut(std::ops::Range<usize>, &[u16])) {
        let mut done = 0;
        while done < len {
            let (run, skipped) = ((start + done) / RUN, (start + done) % RUN);
            let draws = self.draws(run);
            let count = (RUN - skipped).min(len - done);
            f(done..done + count, &draws[skipped..skipped + count]);
            done += count;
        }
    }

    /// The draws of the elements `64·run .. 64·run + 64`.
    #[inline(always)]
    fn draws(self, run: usize) -> [u16; RUN] {
        // A block's four words, the first lowest, as two numbers; the loop over blocks is what gets vectorised.
        let mut halves = [[0u64; 2]; 8];
        for (block, halves) in halves.iter_mut().enumerate() {
            let [a, b, c, d] = self.stream.block((run * 8 + block) as u64);
            *halves = [u64::from(a) | u64::from(b) << 32, u64::from(c) | u64::from(d) << 32].map(u64::to_le);
        }
        bytemuck::cast::<_, [u16; RUN]>(halves).map(u16::from_le)
    }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("dropout.wgsl"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Group,
        parity::{EXTENTS, SHARED_EXTENT, Tolerance, check, check_adjoint, devices_and_reference, random, same_bits},
        transform_feature_map,
    };

    #[test]
    fn parity() {
        for n in EXTENTS.into_iter().chain([SHARED_EXTENT]) {
            for p in [0.0, 0.3, 0.5, 0.999] {
                let x = random([n], 1);
                let stream = Stream::new(3, 1, n as u32);
                check(&format!("{n} {p}"), &[&x], Tolerance::Terms(1), |t| vec![dropout(&t[0], p, stream)]);
            }
        }
        let stream = Stream::new(3, 1, 4);
        check_adjoint("dropout", [3, 50], |x| dropout(x, 0.3, stream), |dy| dropout(dy, 0.3, stream));
    }

    #[test]
    fn whole_maps_are_dropped_alike_on_every_device_and_turn_in_every_bit() {
        let stream = Stream::new(3, 1, 4);
        for dims in [[1, 1, 1, 1, 1], [3, 7, 4, 5, 5], [40, 20, 1, 7, 8]] {
            let x = random(dims, 1);
            check(&format!("{dims:?}"), &[&x], Tolerance::Terms(1), |t| vec![dropout_maps(&t[0], 0.3, stream)]);
            check_adjoint("maps", dims, |x| dropout_maps(x, 0.3, stream), |dy| dropout_maps(dy, 0.3, stream));
        }
        for device in devices_and_reference() {
            let x = Tensor::full([40, 20, 4, 3, 3], 1.0, &device).unwrap();
            let y = dropout_maps(&x, 0.5, stream).to_vec().unwrap();
            let kept = y.chunks(36).filter(|map| map.iter().all(|&v| v == 2.0)).count();
            let dropped = y.chunks(36).filter(|map| map.iter().all(|&v| v == 0.0)).count();
            assert!(kept + dropped == 800 && (300..500).contains(&kept), "{kept} kept, {dropped} dropped on {device}");
            let x = random([3, 7, 8, 5, 5], 2).to_device(&device).unwrap();
            for g in Group::D4.elements() {
                let moved = dropout_maps(&transform_feature_map(&x, g, Group::D4), 0.5, stream);
                let expected = transform_feature_map(&dropout_maps(&x, 0.5, stream), g, Group::D4);
                assert!(same_bits(&moved, &expected), "{g} on {device}");
            }
        }
    }

    #[test]
    fn runs_of_draws_are_the_words_of_the_stream() {
        let rule = Rule::new("test", 0.3, Stream::new(1, 2, 3));
        for (start, len) in [(0, 1), (0, 200), (5, 64), (63, 2), (127, 131), (1 << 33, 70)] {
            let mut seen = 0;
            rule.for_each_run(start, len, |run, draws| {
                assert_eq!((run.start, run.len()), (seen, draws.len()));
                for (i, &draw) in run.zip(draws) {
                    assert_eq!(u32::from(draw) >= rule.threshold, rule.keeps(start + i), "{start} + {i}");
                    seen += 1;
                }
            });
            assert_eq!(seen, len);
        }
    }

    #[test]
    fn the_kept_fraction_and_the_mean_are_as_promised() {
        let n = 1_000_000;
        let x = Tensor::full([n], 1.0, &Device::Cpu).unwrap();
        for p in [0.1, 0.3, 0.5] {
            let y = dropout(&x, p, Stream::new(11, 0, 0));
            let kept = y.f32s().iter().filter(|&&v| v != 0.0).count() as f64 / n as f64;
            // Five standard deviations.
            let bound = 5.0 * (f64::from(p) * (1.0 - f64::from(p)) / n as f64).sqrt();
            assert!((kept - (1.0 - f64::from(p))).abs() < bound, "p {p}: kept {kept}");
            let mean = y.f32s().iter().map(|&v| f64::from(v)).sum::<f64>() / n as f64;
            assert!((mean - 1.0).abs() < bound / (1.0 - f64::from(p)), "p {p}: mean {mean}");
        }
    }

    #[test]
    #[should_panic(expected = "dropout: expected a dropout probability in [0, 1), got 1")]
    fn dropping_everything_is_refused() {
        dropout(&random([2], 1), 1.0, Stream::new(1, 1, 1));
    }
}
