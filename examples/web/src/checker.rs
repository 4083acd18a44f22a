//! The checker for networks of the zoo: what breaks quarter turns at a size, which sizes nearby do not, and the error that is
//! measured on an image.

use quarterturn::{
    core::{Device, Error, Preparation, Result, Step},
    data::{Image, Pipeline},
    kernels::Group,
    models::{
        EquivarianceError, Exactness, Init, MnistCnn, MnistCnnConfig, Network, ResNet, ResNetConfig, Standing,
        Subsampling, Summary, UNetConfig, unet,
    },
};
use serde::Serialize;

/// Sizes that are looked at on either side of the one asked for.
const AROUND: usize = 16;
/// Larger ones are not judged.
const LARGEST: usize = 512;
/// Nor measured on: what a network makes of four turns of the image stays in memory, and a browser gives little of it.
const LARGEST_MEASURED: usize = 256;

/// A network of the zoo with weights as training starts from: what the checker says does not depend on them.
pub struct Checked {
    network: Box<dyn Network>,
}

/// What the checker says at a size.
#[derive(Serialize)]
pub struct Report {
    /// In one word.
    verdict: &'static str,
    exact: bool,
    /// What breaks it and what to do, if something does.
    warning: Option<String>,
    parameters: usize,
    layers: Vec<Layer>,
    /// Sizes about the one asked for, and whether each is exact; those at which the network cannot be applied are left out.
    sizes: Vec<(usize, bool)>,
}

#[derive(Serialize)]
struct Layer {
    name: String,
    kind: String,
    output: String,
    parameters: usize,
    /// `exact`, `leaves over`, `breaks` or `unknown`.
    standing: &'static str,
    /// What its window leaves over, if it has one.
    window: Option<String>,
}

/// What was measured behind a layer.
#[derive(Serialize)]
pub struct Depth {
    name: String,
    relative: f64,
    largest: f64,
}

impl Checked {
    /// # Errors
    /// If there is no such network.
    pub fn new(model: &str, group: &str, adaptive: bool) -> Result<Self> {
        let group: Group = group.parse().map_err(Error::Invalid)?;
        let subsampling = if adaptive { Subsampling::Adaptive } else { Subsampling::Plain };
        let resnet = |config: ResNetConfig| -> Result<Box<dyn Network>> {
            let config = ResNetConfig { subsampling, ..config };
            Ok(Box::new(ResNet::new(config, Init::kaiming(0), &Device::Cpu)?))
        };
        let network = match model {
            "p4cnn" => {
                let config = match group {
                    Group::C1 => MnistCnnConfig::z2cnn(),
                    Group::C4 => MnistCnnConfig::p4cnn(),
                    Group::D4 => MnistCnnConfig::p4mcnn(),
                };
                Box::new(MnistCnn::new(MnistCnnConfig { subsampling, ..config }, 0, &Device::Cpu)?)
            }
            "resnet18" => resnet(ResNetConfig::resnet18(group))?,
            "resnet18-small-stem" => resnet(ResNetConfig::resnet18_small_stem(group))?,
            "resnet44" => resnet(ResNetConfig::resnet44(group))?,
            "unet" => {
                let config = UNetConfig { group, in_channels: 3, classes: 2, widths: vec![8, 16, 32] };
                Box::new(unet(&config, Init::kaiming(0), &Device::Cpu)?)
            }
            other => return Err(Error::Invalid(format!("there is no network '{other}'"))),
        };
        Ok(Checked { network })
    }

    /// What the checker says for square images of this size.
    ///
    /// # Errors
    /// If such images do not fit the network.
    pub fn report(&self, size: usize) -> Result<Report> {
        let network = &*self.network;
        let summary = Summary::of(network, [within(size, LARGEST)?; 2])?;
        let parameters = summary.parameters();
        let layers = summary.layers.into_iter().map(|layer| Layer {
            name: layer.name,
            kind: layer.kind,
            output: layer.output.dims()[1..].iter().map(usize::to_string).collect::<Vec<_>>().join("×"),
            parameters: layer.parameters,
            standing: match layer.standing {
                Standing::Exact => "exact",
                Standing::LeavesOver => "leaves over",
                Standing::Breaks => "breaks",
                Standing::Unknown => "unknown",
            },
            window: layer.window.map(|window| window.to_string()),
        });
        let around = size.saturating_sub(AROUND).max(1)..=(size + AROUND).min(LARGEST);
        let is_exact = |size| Exactness::of(network, [size; 2]).ok().map(|judged| (size, judged.is_exact()));
        let exactness = &summary.exactness;
        Ok(Report {
            verdict: exactness.verdict().name(),
            exact: exactness.is_exact(),
            warning: exactness.warning(),
            parameters,
            layers: layers.collect(),
            sizes: around.filter_map(is_exact).collect(),
        })
    }

    /// How far the maps of the turned image are from the turned maps of the image, behind every layer: the image is cut to a square
    /// and resized, and the network has the weights that a training starts from.
    ///
    /// # Errors
    /// If the image does not fit the network; on z2, which promises nothing.
    pub fn measure(&self, rgba: &[u8], height: usize, width: usize, size: usize) -> Result<Vec<Depth>> {
        let size = within(size, LARGEST_MEASURED)?;
        let channels = self.network.in_channels();
        let rgb: Vec<u8> = rgba.chunks_exact(4).flat_map(|pixel| &pixel[..3]).copied().collect();
        let image = Image::from_interleaved(&rgb, [height, width, 3])?;
        let normalize = Step::Normalize { mean: vec![0.5; channels], std: vec![0.25; channels] };
        let steps = vec![Step::Channels(channels), Step::ResizeShorter(size), Step::CenterCrop([size; 2]), normalize];
        let image = Pipeline::of(&Preparation { steps }, 3)?.prepare(image, &Device::Cpu)?;
        let mut error = EquivarianceError::at(|_| true);
        error.add(&*self.network, &image)?;
        let depths = error.depths().into_iter();
        Ok(depths.map(|depth| Depth { name: depth.name, relative: depth.relative, largest: depth.largest }).collect())
    }
}

fn within(size: usize, most: usize) -> Result<usize> {
    match size {
        0 => Err(Error::Invalid("an image has a size of at least 1".into())),
        size if size > most => Err(Error::Invalid(format!("the page does this up to a size of {most}, not at {size}"))),
        size => Ok(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the page says is what the library says, for every network that it offers.
    #[test]
    fn sizes_are_judged_and_errors_measured() {
        for (model, group, adaptive, size, exact) in [
            ("p4cnn", "p4", false, 28, true),
            ("p4cnn", "p4m", false, 27, false),
            ("p4cnn", "p4", true, 27, true),
            ("resnet44", "p4", false, 33, true),
            ("resnet44", "p4", false, 32, false),
            ("unet", "p4", false, 30, true),
        ] {
            let checked = Checked::new(model, group, adaptive).unwrap();
            let report = checked.report(size).unwrap();
            assert_eq!(report.exact, exact, "{model} at {size}");
            assert!(report.sizes.contains(&(size, exact)) && report.sizes.len() > AROUND);
            assert_eq!(report.layers.iter().all(|layer| layer.standing == "exact"), exact);
            assert_eq!(report.warning.is_none(), exact);
            let rgba: Vec<u8> = (0..4 * 40 * 50).map(|i| (i * i % 251) as u8).collect();
            let depths = checked.measure(&rgba, 40, 50, size).unwrap();
            assert_eq!(depths.iter().all(|depth| depth.largest == 0.0), exact, "{model} at {size}");
        }
    }

    #[test]
    fn what_there_is_not_is_an_error() {
        assert!(Checked::new("vgg", "p4", false).is_err() && Checked::new("p4cnn", "p3", false).is_err());
        let checked = Checked::new("resnet18", "p4", false).unwrap();
        for size in [0, LARGEST + 1] {
            assert!(checked.report(size).is_err());
        }
        for size in [0, LARGEST_MEASURED + 1] {
            assert!(checked.measure(&[0; 4], 1, 1, size).is_err());
        }
        assert!(checked.measure(&[0; 8], 1, 1, 33).is_err(), "more pixels than the image has");
        let z2 = Checked::new("p4cnn", "z2", false).unwrap();
        assert!(!z2.report(28).unwrap().exact && z2.measure(&[0; 4], 1, 1, 28).is_err());
    }
}
