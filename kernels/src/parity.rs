//! What the tests of every op share: random operands, the comparison of each device with [`Device::Reference`],
//! independence of the number of threads, adjoint identities and exact equivariance.

use crate::{Group, transform_plane};
use quarterturn_core::{Device, Shape, Stream, Tensor, testing};
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::LazyLock;

/// How far a device may be from the reference, relative to the largest element.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tolerance {
    /// The reference, rounded to `f32`: permutations, selections.
    Exact,
    /// Sums of so many terms: 2·K·2⁻²⁴.
    Terms(usize),
}

impl Tolerance {
    fn on(self, device: &Device) -> f64 {
        match (self, device) {
            (Tolerance::Exact, _) => 0.0,
            (Tolerance::Terms(terms), Device::Cpu) => 2.0 * terms as f64 / f64::from(1 << 24),
            // A GPU may sum in any order, and its functions may be a few units off.
            (Tolerance::Terms(_), _) => 1e-4,
        }
    }
}

/// Extents that straddle vectors, accumulators and workgroups.
pub(crate) const EXTENTS: [usize; 8] = [1, 2, 15, 16, 17, 63, 64, 65];

/// More elements than one job takes, so that threads share the work.
pub(crate) const SHARED_EXTENT: usize = 40_001;

/// Normal values, exact in `f32`, on the reference device. Cases differ by `stream`.
pub(crate) fn random(shape: impl Into<Shape>, stream: u32) -> Tensor {
    let (shape, stream) = (shape.into(), Stream::new(1, stream, 0));
    let values = (0..shape.len()).map(|i| f64::from(stream.normal(i as u64) as f32)).collect();
    Tensor::reference(shape, values)
}

/// Labels below `classes`.
pub(crate) fn random_labels(n: usize, classes: usize, stream: u32) -> Tensor {
    let stream = Stream::new(2, stream, 0);
    Tensor::reference([n], (0..n).map(|i| f64::from(stream.word(i as u64) % classes as u32)).collect())
}

/// Runs `f` on every device, and on the CPU with 1, 2 and 3 threads: all must agree with the reference device, and
/// whatever the number of threads, in every bit.
pub(crate) fn check(
    name: &str,
    operands: &[&Tensor],
    tolerance: Tolerance,
    f: impl Fn(&[Tensor]) -> Vec<Tensor> + Sync,
) {
    let operands: Vec<Tensor> = operands.iter().map(|&t| t.clone()).collect();
    let expected = f(&operands);
    for device in testing::devices() {
        let there = to_device(&operands, &device);
        let got = f(&there);
        assert_eq!(got.len(), expected.len(), "{name}");
        for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
            assert_close(&format!("{name}, result {i} on {device}"), got, expected, tolerance.on(&device));
        }
        if matches!(device, Device::Cpu) {
            for pool in POOLS.iter() {
                let again = pool.install(|| f(&there));
                for (again, got) in again.iter().zip(&got) {
                    assert!(same_bits(again, got), "{name}: {} threads change the result", pool.current_num_threads());
                }
            }
        }
    }
}

/// `⟨A x, y⟩ = ⟨x, Aᵀ y⟩` on every device and the reference, for a linear `f` and its `vjp`.
pub(crate) fn check_adjoint(
    name: &str,
    x_shape: impl Into<Shape>,
    f: impl Fn(&Tensor) -> Tensor,
    vjp: impl Fn(&Tensor) -> Tensor,
) {
    let x = random(x_shape, 1001);
    let y_shape = f(&x).shape();
    let dy = random(y_shape, 1002);
    for device in devices_and_reference() {
        let tolerance = if matches!(device, Device::Reference) { 1e-12 } else { 1e-5 };
        let (x, dy) = (x.to_device(&device).unwrap(), dy.to_device(&device).unwrap());
        let (y, dx) = (f(&x), vjp(&dy));
        assert_eq!(dx.shape(), x.shape(), "{name} on {device}");
        let (forward, backward) = (dot(&y, &dy), dot(&x, &dx));
        let scale = dot(&y, &y).sqrt() * dot(&dy, &dy).sqrt();
        assert!((forward - backward).abs() <= tolerance * scale, "{name} on {device}: {forward} and {backward}");
    }
}

/// `f(act_g x) == act_g f(x)` bit by bit for every element of `group`, where `f` keeps the two last axes (or drops
/// them, and then must be invariant); with `commutes` false, some element must break it instead.
pub(crate) fn check_equivariant(
    name: &str,
    x_shape: impl Into<Shape>,
    elements: &[usize],
    commutes: bool,
    f: impl Fn(&Tensor) -> Tensor,
) {
    let x = random(x_shape, 1003);
    for device in testing::devices() {
        let x = x.to_device(&device).unwrap();
        let y = f(&x);
        let moved = |g: usize| if y.shape().rank() == x.shape().rank() { transform_plane(&y, g) } else { y.clone() };
        let commutes_with = |g: usize| {
            let (got, expected) = (f(&transform_plane(&x, g)), moved(g));
            got.shape() == expected.shape() && same_bits(&got, &expected)
        };
        let broken: Vec<usize> = elements.iter().copied().filter(|&g| !commutes_with(g)).collect();
        assert_eq!(broken.is_empty(), commutes, "{name} on {device}: elements {broken:?} do not commute");
    }
}

/// All elements of p4m.
pub(crate) fn all_elements() -> Vec<usize> {
    Group::D4.elements().collect()
}

/// The CPU, the GPU if there is one, and the reference.
pub(crate) fn devices_and_reference() -> Vec<Device> {
    let mut devices = testing::devices();
    devices.push(Device::Reference);
    devices
}

/// Whether two tensors of one device hold equal numbers (NaN equals NaN).
pub(crate) fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.to_f64().unwrap(), b.to_f64().unwrap());
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

/// `|got − expected| ≤ tolerance · max |expected|`; with tolerance 0, `got` is `expected` rounded to `f32`.
pub(crate) fn assert_close(name: &str, got: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(got.shape(), expected.shape(), "{name}");
    let (got, expected) = (got.to_f64().unwrap(), expected.to_f64().unwrap());
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |max, v| max.max(v.abs()));
    for (i, (&got, &expected)) in got.iter().zip(&expected).enumerate() {
        let close = if tolerance == 0.0 {
            got == f64::from(expected as f32)
        } else {
            (got - expected).abs() <= tolerance * scale
        };
        assert!(close, "{name}: element {i} is {got}, expected {expected} (largest {scale}, tolerance {tolerance:e})");
    }
}

fn to_device(tensors: &[Tensor], device: &Device) -> Vec<Tensor> {
    tensors.iter().map(|t| t.to_device(device).unwrap()).collect()
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.to_f64().unwrap().iter().zip(b.to_f64().unwrap()).map(|(a, b)| a * b).sum()
}

static POOLS: LazyLock<Vec<ThreadPool>> =
    LazyLock::new(|| (1..=3).map(|n| ThreadPoolBuilder::new().num_threads(n).build().unwrap()).collect());

#[test]
#[should_panic(expected = "element 1 is 2.5")]
fn a_wrong_element_is_caught() {
    let (a, b) = (Tensor::reference([2], vec![1.0, 2.5]), Tensor::reference([2], vec![1.0, 2.0]));
    assert_close("planted", &a, &b, 1e-3);
}
