//! Log-softmax cross-entropy, and accuracy.
#[cfg(feature = "gpu")]
use crate::launch;
use crate::order::first_maximum;
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Shape,
    gpu::{Gpu, Kernel, Size},
};

use quarterturn_core::{Device, Result, Tensor, common_device};

/// `loss = (1/N) Σ_n (log Σ_k exp(logits[n, k]) − logits[n, label_n])`: `[N, K]`, `[N]` (class indices stored as
/// numbers) → `[]`. The largest logit of a row is subtracted first, so no finite logit overflows; on the CPU the
/// few exponentials are taken in `f64`. A row with a NaN or +∞ among its logits, or with no finite one, makes the loss NaN.
///
/// # Panics
/// If the shapes do not fit, a label on the host is not an index below K, or the devices differ. Labels on the GPU cannot be
/// looked at without waiting for it: there such a label makes the result NaN. [`first_invalid_label`] names it.
#[track_caller]
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (n, classes) = batch("cross_entropy", logits, labels);
    let mean = |rows: &mut dyn Iterator<Item = (Vec<f64>, usize)>| {
        rows.map(|(row, label)| log_sum_exp(&row) - row[label]).sum::<f64>() / n as f64
    };
    match common_device("cross_entropy", &[logits, labels]) {
        Device::Cpu => {
            let labels = class_indices("cross_entropy", labels.f32s().iter().map(|&v| f64::from(v)), classes);
            let rows = logits.f32s().chunks_exact(classes).map(|row| row.iter().map(|&v| f64::from(v)).collect());
            Tensor::cpu([], vec![mean(&mut rows.zip(labels)) as f32].into())
        }
        Device::Reference => {
            let labels = class_indices("cross_entropy", labels.f64s().iter().copied(), classes);
            let rows = logits.f64s().chunks_exact(classes).map(<[f64]>::to_vec);
            Tensor::reference([], vec![mean(&mut rows.zip(labels))])
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_reduction(&gpu, "cross_entropy", logits, labels, gpu_batch(n, classes)),
    }
}

/// `dlogits[n, k] = (softmax(logits[n])[k] − [k = label_n]) · dloss / N`.
///
/// # Panics
/// As [`cross_entropy`], or if `dloss` is not a scalar.
#[track_caller]
pub fn cross_entropy_vjp(logits: &Tensor, labels: &Tensor, dloss: &Tensor) -> Tensor {
    let (n, classes) = batch("cross_entropy_vjp", logits, labels);
    assert_eq!(dloss.len(), 1, "cross_entropy_vjp: expected a scalar dloss, got {:?}", dloss.shape());
    let gradient = |row: &[f64], label: usize, dloss: f64| -> Vec<f64> {
        let log_sum = log_sum_exp(row);
        let error = |(k, &v): (usize, &f64)| (v - log_sum).exp() - if k == label { 1.0 } else { 0.0 };
        row.iter().enumerate().map(|at| error(at) * dloss / n as f64).collect()
    };
    match common_device("cross_entropy_vjp", &[logits, labels, dloss]) {
        Device::Cpu => {
            let labels = class_indices("cross_entropy_vjp", labels.f32s().iter().map(|&v| f64::from(v)), classes);
            let dloss = f64::from(dloss.f32s()[0]);
            let mut dlogits = Vec::with_capacity(logits.len());
            for (row, label) in logits.f32s().chunks_exact(classes).zip(labels) {
                let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
                dlogits.extend(gradient(&row, label, dloss).into_iter().map(|v| v as f32));
            }
            Tensor::cpu(logits.shape(), dlogits.into())
        }
        Device::Reference => {
            let labels = class_indices("cross_entropy_vjp", labels.f64s().iter().copied(), classes);
            let rows = logits.f64s().chunks_exact(classes).zip(labels);
            let dlogits = rows.flat_map(|(row, label)| gradient(row, label, dloss.f64s()[0])).collect();
            Tensor::reference(logits.shape(), dlogits)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let (kernel, rows) = (Kernel::new("cross_entropy_vjp", SHADER), Size::Threads(n));
            let operands = [logits, labels, dloss];
            launch::result(&gpu, kernel, &[], &operands, logits.shape(), &gpu_batch(n, classes), rows)
        }
    }
}

/// `y[n] = argmax_k logits[n, k]`, the first of equals, as a number: `[N, K]` → `[N]`. NaN where a logit of the row is NaN,
/// of which there is no greatest.
///
/// # Panics
/// If `logits` is not `[N, K]` with K > 0.
#[track_caller]
pub fn argmax(logits: &Tensor) -> Tensor {
    let [n, classes] = *logits.dims() else { panic!("argmax: expected logits [N, K], got {:?}", logits.shape()) };
    assert!(classes > 0, "argmax: expected at least one class, got {:?}", logits.shape());
    match logits.device() {
        Device::Cpu => Tensor::cpu([n], logits.f32s().chunks_exact(classes).map(|row| answer(row) as f32).collect()),
        Device::Reference => {
            let best = logits.f64s().chunks_exact(classes).map(answer);
            Tensor::reference([n], best.collect())
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            launch::each(&gpu, Kernel::new("argmax", SHADER), &[], &[logits], Shape::from([n]), &gpu_batch(n, classes))
        }
    }
}

/// How many rows' [`argmax`] is their label: `[N, K]`, `[N]` → `[]`. A row with a NaN among its logits is not counted.
///
/// # Panics
/// As [`cross_entropy`]; on the GPU, a label that is not an index below K makes the count NaN.
#[track_caller]
pub fn count_correct(logits: &Tensor, labels: &Tensor) -> Tensor {
    let (_, classes) = batch("count_correct", logits, labels);
    match common_device("count_correct", &[logits, labels]) {
        Device::Cpu => {
            let labels = class_indices("count_correct", labels.f32s().iter().map(|&v| f64::from(v)), classes);
            let rows = logits.f32s().chunks_exact(classes).zip(labels);
            let correct = rows.filter(|&(row, label)| answer(row) == label as f64).count();
            Tensor::cpu([], vec![correct as f32].into())
        }
        Device::Reference => {
            let labels = class_indices("count_correct", labels.f64s().iter().copied(), classes);
            let rows = logits.f64s().chunks_exact(classes).zip(labels);
            let correct = rows.filter(|&(row, label)| answer(row) == label as f64).count();
            Tensor::reference([], vec![correct as f64])
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu_reduction(&gpu, "count_correct", logits, labels, gpu_batch(labels.len(), classes)),
    }
}

/// (N, K) of logits and labels that belong together.
#[track_caller]
fn batch(op: &str, logits: &Tensor, labels: &Tensor) -> (usize, usize) {
    match (logits.dims(), labels.dims()) {
        _ if logits.is_empty() => panic!("{op}: expected logits that are not empty, got {:?}", logits.shape()),
        (&[n, classes], &[m]) if n == m => (n, classes),
        _ => panic!("{op}: expected logits [N, K] and labels [N], got {:?} and {:?}", logits.shape(), labels.shape()),
    }
}

/// The first of these labels `[N]` that is no class, an index below `classes`, and its place: none if all are. For what
/// takes labels from a user: one look at all of them, before they are used. Waits for the GPU if they lie there.
///
/// # Errors
/// What the GPU reports.
pub fn first_invalid_label(labels: &Tensor, classes: usize) -> Result<Option<(usize, f64)>> {
    let labels = labels.to_f64()?;
    Ok(labels.into_iter().enumerate().find(|&(_, label)| class_index(label, classes).is_none()))
}

/// Labels as indices.
#[track_caller]
fn class_indices(op: &str, labels: impl Iterator<Item = f64>, classes: usize) -> Vec<usize> {
    let index = |(n, label)| {
        class_index(label, classes)
            .unwrap_or_else(|| panic!("{op}: expected labels 0 to {}, got {label} in row {n}", classes - 1))
    };
    labels.enumerate().map(index).collect()
}

fn class_index(label: f64, classes: usize) -> Option<usize> {
    let index = label as usize;
    (index as f64 == label && index < classes).then_some(index)
}

/// `log Σ exp(v)`.
fn log_sum_exp(row: &[f64]) -> f64 {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    max + row.iter().map(|v| (v - max).exp()).sum::<f64>().ln()
}

/// The class that a row of logits means, or NaN if one of them is.
fn answer<T: Copy + PartialOrd + Into<f64>>(row: &[T]) -> f64 {
    let best = first_maximum(row.iter().copied());
    if row[best].into().is_nan() { f64::NAN } else { best as f64 }
}

#[cfg(feature = "gpu")]
static SHADER: &str = concat!(include_str!("prelude.wgsl"), include_str!("cross_entropy.wgsl"));

/// Rows, classes, and what an invalid label gives, or a row without an answer.
#[cfg(feature = "gpu")]
fn gpu_batch(rows: usize, classes: usize) -> [u32; 3] {
    [rows as u32, classes as u32, f32::NAN.to_bits()]
}

/// A kernel that sums over the batch in one workgroup.
#[cfg(feature = "gpu")]
fn gpu_reduction(gpu: &Gpu, name: &'static str, logits: &Tensor, labels: &Tensor, batch: [u32; 3]) -> Tensor {
    let kernel = Kernel::new(name, SHADER).workgroup(64, 4 * 64);
    launch::result(gpu, kernel, &[], &[logits, labels], Shape::new(&[]), &batch, Size::Groups(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        parity::{Tolerance, check, devices_and_reference, random, random_labels},
        scale,
    };

    #[test]
    fn parity() {
        for (n, classes) in [(1, 1), (1, 10), (2, 2), (15, 10), (64, 10), (65, 3), (257, 10), (17, 65), (3, 1000)] {
            let name = format!("{n} {classes}");
            // Some confident rows, so that exponentials spread.
            let logits = scale(&random([n, classes], 1), 8.0);
            let (labels, dloss) = (random_labels(n, classes, 2), random([], 3));
            check(&format!("cross_entropy {name}"), &[&logits, &labels], Tolerance::Terms(4), |t| {
                vec![cross_entropy(&t[0], &t[1])]
            });
            check(&format!("cross_entropy_vjp {name}"), &[&logits, &labels, &dloss], Tolerance::Terms(4), |t| {
                vec![cross_entropy_vjp(&t[0], &t[1], &t[2])]
            });
            check(&format!("argmax {name}"), &[&logits, &labels], Tolerance::Exact, |t| {
                vec![argmax(&t[0]), count_correct(&t[0], &t[1])]
            });
        }
    }

    #[test]
    fn two_classes_by_hand() {
        let logits = Tensor::reference([2, 2], vec![0.0, 0.0, 3f64.ln(), 0.0]);
        let labels = Tensor::reference([2], vec![1.0, 0.0]);
        let loss = cross_entropy(&logits, &labels).f64s()[0];
        assert!((loss - (2f64.ln() + (4f64 / 3.0).ln()) / 2.0).abs() < 1e-15);
        let dlogits = cross_entropy_vjp(&logits, &labels, &Tensor::reference([], vec![2.0]));
        for (got, expected) in dlogits.f64s().iter().zip([0.5, -0.5, -0.25, 0.25]) {
            assert!((got - expected).abs() < 1e-15);
        }
        assert_eq!(argmax(&logits).f64s(), [0.0, 0.0]);
        assert_eq!(count_correct(&logits, &labels).f64s(), [1.0]);
    }

    #[test]
    fn the_first_of_equal_logits_wins() {
        for device in devices_and_reference() {
            let logits = Tensor::from_vec([2, 3], vec![1.0, 2.0, 2.0, 0.0, 0.0, 0.0], &device).unwrap();
            assert_eq!(argmax(&logits).to_vec().unwrap(), [1.0, 0.0], "{device}");
            let labels = Tensor::from_vec([2], vec![1.0, 2.0], &device).unwrap();
            assert_eq!(count_correct(&logits, &labels).to_vec().unwrap(), [1.0], "{device}");
        }
    }

    /// The host cannot look at labels on the GPU without waiting for it.
    #[cfg(feature = "gpu")]
    #[test]
    fn a_label_beyond_the_classes_makes_loss_and_count_nan_on_the_gpu() {
        let Some(gpu) = quarterturn_core::testing::gpu() else { return };
        let device = Device::Gpu(gpu);
        for label in [3.0, -1.0, 0.5, f32::NAN] {
            let logits = Tensor::full([2, 3], 0.0, &device).unwrap();
            let labels = Tensor::from_vec([2], vec![1.0, label], &device).unwrap();
            assert!(cross_entropy(&logits, &labels).to_vec().unwrap()[0].is_nan(), "{label}");
            assert!(count_correct(&logits, &labels).to_vec().unwrap()[0].is_nan(), "{label}");
            let dloss = Tensor::full([], 1.0, &device).unwrap();
            let dlogits = cross_entropy_vjp(&logits, &labels, &dloss).to_vec().unwrap();
            assert!(dlogits[..3].iter().all(|v| v.is_finite()) && dlogits[3..].iter().all(|v| v.is_nan()), "{label}");
        }
    }

    #[test]
    fn nan_is_no_answer() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let rows = [[nan; 3], [0.0, nan, 5.0], [5.0, 0.0, nan], [-nan, 1.0, 2.0], [-inf, inf, inf], [-inf; 3]];
        for device in devices_and_reference() {
            let logits = Tensor::from_vec([6, 3], rows.concat(), &device).unwrap();
            let answers = argmax(&logits).to_vec().unwrap();
            assert!(answers[..4].iter().all(|v| v.is_nan()) && answers[4..] == [1.0, 0.0], "{answers:?} on {device}");
            for label in [0.0, 1.0, 2.0] {
                let labels = Tensor::full([6], label, &device).unwrap();
                let expected = [1.0, 1.0, 0.0][label as usize];
                assert_eq!(count_correct(&logits, &labels).to_vec().unwrap(), [expected], "{label} on {device}");
            }
            for row in rows {
                let logits = Tensor::from_vec([1, 3], row.to_vec(), &device).unwrap();
                let label = Tensor::full([1], 0.0, &device).unwrap();
                assert!(cross_entropy(&logits, &label).to_vec().unwrap()[0].is_nan(), "{row:?} on {device}");
                let dlogits = cross_entropy_vjp(&logits, &label, &Tensor::full([], 1.0, &device).unwrap());
                assert!(dlogits.to_vec().unwrap().iter().all(|v| v.is_nan()), "{row:?} on {device}");
            }
        }
    }

    #[test]
    fn the_first_invalid_label_is_named() {
        for device in devices_and_reference() {
            let find = |labels: &[f32]| {
                let labels = Tensor::from_vec([labels.len()], labels.to_vec(), &device).unwrap();
                first_invalid_label(&labels, 3).unwrap()
            };
            assert_eq!(find(&[0.0, 1.0, 2.0]), None);
            for label in [3.0, -1.0, 0.5, f32::INFINITY] {
                assert_eq!(find(&[0.0, label, 9.0]), Some((1, f64::from(label))), "{device}");
            }
            assert!(find(&[f32::NAN]).unwrap().1.is_nan());
        }
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let logits = Tensor::cpu([1, 3], vec![3e38, -3e38, 0.0].into());
        assert_eq!(cross_entropy(&logits, &Tensor::cpu([1], vec![0.0].into())).f32s(), [0.0]);
    }

    #[test]
    #[should_panic(expected = "cross_entropy: expected labels 0 to 2, got 3 in row 0")]
    fn a_label_beyond_the_classes_is_refused() {
        cross_entropy(&random([1, 3], 1), &Tensor::reference([1], vec![3.0]));
    }

    #[test]
    #[should_panic(expected = "count_correct: expected labels 0 to 2, got -1 in row 1")]
    fn a_label_beyond_the_classes_is_not_counted_as_missed() {
        count_correct(&random([2, 3], 1), &Tensor::reference([2], vec![0.0, -1.0]));
    }
}
