//! `evaluate` on folders: class folders, and images with masks.
#![cfg(feature = "images")]

mod built;

use built::EXAMPLES;
use quarterturn::{
    core::Device,
    data::{Split, digits, outlines},
    kernels::Group,
    models::{
        Init, MnistCnn, MnistCnnConfig, UNetConfig,
        checkpoint::{self, Notes, Preparation},
        unet,
    },
};
use quarterturn_examples::folders;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder of its own for each test.
fn folder(test: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("quarterturn-evaluate-{}-{test}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

fn evaluate(folder: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(EXAMPLES.join("evaluate"));
    command.current_dir(folder).args(["--device", "cpu", "--checkpoint", "network.safetensors", "--out", "out"]);
    command.args(options).output().unwrap()
}

fn notes(preparation: &str, classes: &str) -> Notes {
    Notes::from([(Preparation::NOTE.into(), preparation.into()), ("classes".into(), classes.into())])
}

#[test]
fn pictures_in_class_folders_are_counted_as_digits_are() {
    let folder = folder("classes");
    folders::write_classes(&digits::generate(1, Split::Test, 40).unwrap(), &folder.join("images")).unwrap();
    let classes: Vec<String> = (0..10).map(|class| format!("class-{class}")).collect();
    let config = MnistCnnConfig { width: 2, ..MnistCnnConfig::p4cnn() };
    let mut network = MnistCnn::new(config, 1, &Device::Cpu).unwrap();
    let save = |network: &mut MnistCnn, notes: &Notes| {
        checkpoint::save_with(folder.join("network.safetensors"), network, notes).unwrap();
    };
    save(&mut network, &notes("resize 28x28; normalize 0.13 0.3", &classes.join("\n")));
    let output = evaluate(&folder, &["--images", "images", "--angles", "4"]);
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{error}");
    assert!(text.contains("40 images") && text.contains("exact: quarter turns"), "{text}");
    let csv = fs::read_to_string(folder.join("out/evaluate.csv")).unwrap();
    let counts: Vec<&str> = csv.lines().skip(1).map(|row| row.split(',').nth(4).unwrap()).collect();
    assert!(counts.len() == 4 && counts.iter().all(|count| *count == counts[0]), "{csv}");

    // `--data`, as `train` has it, is for digits here.
    let error = String::from_utf8(evaluate(&folder, &["--data", "images"]).stderr).unwrap();
    assert!(error.contains("MNIST not found") && error.contains("--images"), "{error}");

    // Other classes would have other labels; and a file that says nothing of preparation is not guessed at.
    save(&mut network, &notes("resize 28x28; normalize 0.13 0.3", "cat\ndog"));
    let error = String::from_utf8(evaluate(&folder, &["--images", "images"]).stderr).unwrap();
    assert!(error.contains("class-0, class-1") && error.contains("trained on cat, dog"), "{error}");
    save(&mut network, &Notes::new());
    let error = String::from_utf8(evaluate(&folder, &["--images", "images"]).stderr).unwrap();
    assert!(error.contains("does not say how images are prepared"), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn masks_turn_with_their_images() {
    let folder = folder("masks");
    folders::write_masks(&outlines::generate(1, Split::Test, 12, 24).unwrap(), &folder).unwrap();
    let config = UNetConfig { group: Group::C4, in_channels: 1, classes: 2, widths: vec![2, 3] };
    let network = unet(&config, Init::kaiming(1), &Device::Cpu).unwrap();
    let notes = notes("normalize 0.3 0.25", "outside\ninside");
    checkpoint::save_with(folder.join("network.safetensors"), &network, &notes).unwrap();
    let output = evaluate(&folder, &["--images", "images", "--masks", "masks"]);
    let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{error}");
    assert!(text.contains("exact: the mask of every turned image is the turned mask"), "{text}");
    let csv = fs::read_to_string(folder.join("out/evaluate.csv")).unwrap();
    let scores: Vec<&str> = csv.lines().skip(1).map(|row| row.splitn(5, ',').nth(4).unwrap()).collect();
    assert!(scores.len() == 4 && scores.iter().all(|score| *score == scores[0]), "{csv}");
    fs::remove_dir_all(folder).unwrap();
}
