//! `inspect`: its pictures and its numbers, of networks that are exact and of one that is not.
#![cfg(feature = "images")]

mod built;

use built::EXAMPLES;
use quarterturn::{
    core::Device,
    data::{Samples, Split, digits, textures},
    kernels::{Group, Window},
    models::{
        Builder, Init, Network, Sequential, UNetConfig,
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

/// A folder of its own for each test, with a network and an image.
fn folder(test: &str, network: &dyn Network, preparation: &str, image: &dyn Samples) -> PathBuf {
    let path = env::temp_dir().join(format!("quarterturn-inspect-{}-{test}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    let notes = Notes::from([(Preparation::NOTE.into(), preparation.into())]);
    checkpoint::save_with(path.join("network.safetensors"), network, &notes).unwrap();
    folders::write_png(&path.join("image.png"), &image.decode(0).unwrap()).unwrap();
    path
}

fn inspect(folder: &Path, options: &[&str]) -> Output {
    let mut command = Command::new(EXAMPLES.join("inspect"));
    command.current_dir(folder).args(["--device", "cpu", "--checkpoint", "network.safetensors", "--out", "out"]);
    command.arg("image.png").args(options).output().unwrap()
}

/// What it says, and the relative errors by layer.
fn inspected(folder: &Path, options: &[&str]) -> (String, Vec<(String, f64)>) {
    let output = inspect(folder, options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in ["inspect.png", "inspect.svg", "filters.png", "filters.svg"] {
        assert!(fs::metadata(folder.join("out").join(file)).unwrap().len() > 1000, "{file}");
    }
    let csv = fs::read_to_string(folder.join("out/inspect.csv")).unwrap();
    let error = |row: &str| {
        let fields: Vec<&str> = row.split(',').collect();
        (fields[0].to_string(), fields[1].parse().unwrap())
    };
    (String::from_utf8(output.stdout).unwrap(), csv.lines().skip(1).map(error).collect())
}

/// A lifting convolution, a pooling by 2, and one more convolution, on images of one channel.
fn pooled(group: Group) -> Sequential {
    let [keeping, halving] =
        [Window { kernel_size: 3, stride: 1, padding: 1 }, Window { kernel_size: 2, stride: 2, padding: 0 }];
    let builder = Builder::new(group, 1, Init::kaiming(1), &Device::Cpu).conv("conv1", 3, keeping).norm("norm1").relu();
    let builder = builder.max_pool("pool", halving).conv("conv2", 2, keeping).spatial_mean().coset_max();
    Sequential::new("pooled", builder.linear("linear", 4).build().unwrap())
}

#[test]
fn an_error_is_0_up_to_the_layer_that_breaks() {
    let digit = digits::generate(1, Split::Test, 1).unwrap();
    let folder = folder("breaks", &pooled(Group::D4), "resize 17x17; normalize 0.2 0.4", &digit);
    let (text, errors) = inspected(&folder, &["--turn", "270", "--flip", "--rows", "2"]);
    assert!(text.contains("not exact: the first layer with an error is pool"), "{text}");
    let names: Vec<&str> = errors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["conv1", "pool", "conv2", "mean", "coset", "linear"]);
    assert!(errors[0].1 == 0.0 && errors[1..].iter().all(|(_, error)| *error > 0.0), "{errors:?}");
    let svg = fs::read_to_string(folder.join("out/inspect.svg")).unwrap();
    // Three pictures of the image; of each of three convolutional layers two rows of eight maps in three panels, and one difference; of
    // the means eight columns, and of the two rows of values one strip.
    assert_eq!(svg.matches("<image").count(), 3 + 3 * (2 * 8 * 3 + 1) + (8 * 3 + 1) + 2 * (3 + 1));
    assert!(svg.contains("270° flip") && svg.contains("at most"));

    let (text, errors) = inspected(&folder, &["--preparation", "resize 16x16; normalize 0.2 0.4"]);
    assert!(text.contains("exact: the error of every layer is 0, over all elements of p4m"), "{text}");
    assert!(errors.iter().all(|(_, error)| *error == 0.0), "{errors:?}");
    assert!(!fs::read_to_string(folder.join("out/inspect.svg")).unwrap().contains("at most"));

    let error = String::from_utf8(inspect(&folder, &["--layers", "conv1,conv7"]).stderr).unwrap();
    assert!(error.contains("no layer 'conv7'") && error.contains("conv1, pool, conv2"), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_unet_and_a_network_without_symmetry_are_looked_into() {
    let image = textures::generate(1, Split::Test, 1, 20).unwrap();
    let config = UNetConfig { group: Group::C4, in_channels: 3, classes: 2, widths: vec![2, 3] };
    let unet = unet(&config, Init::kaiming(1), &Device::Cpu).unwrap();
    let look = folder("unet", &unet, "normalize 0.5,0.5,0.5 0.3,0.3,0.3", &image);
    let (text, errors) = inspected(&look, &["--layers", "all"]);
    assert!(text.contains("over all elements of p4"), "{text}");
    assert!(errors.len() > 10 && errors.iter().all(|(_, error)| *error == 0.0), "{errors:?}");
    fs::remove_dir_all(look).unwrap();

    let digit = digits::generate(1, Split::Test, 1).unwrap();
    let look = folder("z2", &pooled(Group::C1), "normalize 0.2 0.4", &digit);
    let (text, errors) = inspected(&look, &[]);
    assert!(text.contains("z2, which promises no symmetry") && errors.is_empty(), "{text}");
    fs::remove_dir_all(look).unwrap();
}
