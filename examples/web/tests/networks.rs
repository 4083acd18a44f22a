//! The page's networks, natively: as exact as the checker says, and answering as they did in a browser, where that was tried.

use quarterturn::{core::Device, kernels::Isa};
use quarterturn_web::{classifier::Classifier, drawing};
use serde::Deserialize;
use std::{env, fs, path::Path};

const NETWORKS: [&str; 3] = ["z2-28", "p4-27", "p4-28"];

fn open(name: &str) -> Classifier {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("networks/{name}.safetensors"));
    Classifier::new(fs::read(file).unwrap(), name, &Device::Cpu).unwrap()
}

/// A seven of two strokes.
fn seven() -> Vec<u8> {
    let side = 100;
    let ink = |at: usize| {
        let (y, x) = ((at / side) as i32, (at % side) as i32);
        let (bar, stem) = ((15..23).contains(&y) && (25..75).contains(&x), (15..88).contains(&y));
        if bar || stem && (x - (75 - (y - 15) * 2 / 5)).abs() < 4 { 255 } else { 0 }
    };
    drawing::digit(&(0..side * side).map(ink).collect::<Vec<u8>>(), side, side).unwrap()
}

#[test]
fn quarter_turns_leave_the_bits_of_the_exact_network_alone() {
    for (name, exact) in NETWORKS.into_iter().zip([false, false, true]) {
        let network = open(name);
        assert_eq!(network.exactness.is_exact(), exact, "{name}");
        assert!((24_000..26_000).contains(&network.parameters()));
        for degrees in [0.0, 17.0, 90.0, 301.0] {
            let answer = pollster::block_on(network.answer(&seven(), degrees)).unwrap();
            assert_eq!(answer.same_bits(), exact, "{name} at {degrees}°");
            assert_eq!((answer.seen.len(), answer.logits.len()), (network.size().pow(2), 40));
        }
        let answer = pollster::block_on(network.answer(&seven(), 0.0)).unwrap();
        let best = (0..10).max_by(|&a, &b| answer.logits[a].total_cmp(&answer.logits[b]));
        assert_eq!(best, Some(7), "{name}: {:?}", &answer.logits[..10]);
    }
}

/// Clockwise: what was on the left is on top then.
#[test]
fn degrees_count_clockwise() {
    let network = open("p4-28");
    let seen = |degrees| pollster::block_on(network.answer(&seven(), degrees)).unwrap().seen;
    let (upright, turned) = (seen(0.0), seen(90.0));
    assert!((0..28 * 28).all(|at| turned[at] == upright[(27 - at % 28) * 28 + at / 28]));
}

#[test]
fn other_files_are_refused() {
    let error = |bytes: &[u8]| Classifier::new(bytes.to_vec(), "weights", &Device::Cpu).map(|_| ()).unwrap_err();
    assert!(error(b"<!doctype html>").to_string().contains("weights"));
    assert!(pollster::block_on(open("p4-28").answer(&[0; 9], 0.0)).is_err());
}

#[derive(Deserialize)]
struct Asked {
    network: String,
    digit: Vec<u8>,
    degrees: f32,
    logits: Vec<f32>,
}

/// The browser's answers are in the file that this variable names; `test/page.mjs` writes it.
const ANSWERS: &str = "QUARTERTURN_PAGE_ANSWERS";

/// WebAssembly has no fused multiply-add, and neither have the portable kernels: so every bit is the same.
#[test]
fn a_browser_answers_in_the_same_bits() {
    let Some(file) = env::var_os(ANSWERS) else {
        println!("left out: no browser's answers, {ANSWERS} names no file");
        return;
    };
    let asked: Vec<Asked> = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert!(asked.len() >= 9);
    Isa::choose(Isa::Portable);
    for Asked { network, digit, degrees, logits } in asked {
        let answer = pollster::block_on(open(&network).answer(&digit, degrees)).unwrap();
        let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&answer.logits), bits(&logits), "{network} at {degrees}°");
    }
}
