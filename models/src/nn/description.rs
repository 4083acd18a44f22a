//! A network as data: a tree of layer descriptions, and the text form that a checkpoint stores.

use crate::{
    Chain, Init, Layers, Site,
    nn::assembly::{Plan, assemble},
};
use quarterturn_core::{Device, Error, Result};
use quarterturn_kernels::{Group, Window};
use std::{fmt, fmt::Write as _, str::FromStr};

/// The first line of the textual form. Another version gets another number.
const HEADER: &str = "quarterturn-network 1";
/// Limits of the textual form, so that no file can ask for more than a network needs.
const MOST_NODES: usize = 1 << 14;
pub(crate) const DEEPEST: usize = 32;
const LONGEST: usize = 1 << 20;

/// The description of a network: the group, the channels of its images, and its layers in order.
///
/// [`crate::Network::description`] returns it, and checkpoints contain it. [`Description::build`] makes layers from it.
/// The text form ([`fmt::Display`], [`FromStr`]) has a line for each layer: its kind, its name (`-` if it has none),
/// its settings. The layers of a block follow it, indented by two spaces:
///
/// ```text
/// quarterturn-network 1
/// name small
/// group p4
/// in_channels 3
/// conv conv1 out_channels=8 kernel_size=3 stride=2 padding=1 bias=true
/// norm norm1
/// relu -
/// sum block
///   chain -
///     conv conv1 out_channels=8 kernel_size=3 stride=1 padding=1 bias=true
///   chain shortcut
/// spatial_mean mean
/// coset_max coset
/// linear linear out_features=10
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The architecture's name.
    pub name: String,
    /// The group that convolutions work on.
    pub group: Group,
    /// Channels of the images.
    pub in_channels: usize,
    /// The layers and blocks, in the order in which they are applied.
    pub layers: Vec<Node>,
}

/// The description of a layer or of a block of layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The type of layer, as [`crate::Layers`] knows it: `conv`, `norm`, …
    pub kind: String,
    /// Its name, the prefix of its parameters' names. An empty name adds no prefix.
    pub name: String,
    /// Its settings, in a fixed order.
    pub settings: Vec<(String, String)>,
    /// The layers of a chain, or the branches of a block.
    pub children: Vec<Node>,
}

impl Description {
    /// Makes the layers, with initial values drawn by `init`.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the first layer that does not fit, or is of no kind in `layers`; or when the GPU has no room.
    pub fn build(&self, layers: &Layers, mut init: Init, device: &Device) -> Result<Chain> {
        let mut site = Site::new(self.group, self.in_channels, layers, &mut init, device)?;
        let plans = self.layers.iter().map(Plan::of).collect();
        assemble(plans, &mut site)?.described(self.layers.clone())
    }
}

impl Node {
    /// A layer without settings.
    pub fn new(kind: &str, name: &str) -> Self {
        Node { kind: kind.into(), name: name.into(), settings: Vec::new(), children: Vec::new() }
    }

    /// The same with one more setting.
    #[must_use]
    pub fn with(mut self, setting: &str, value: impl fmt::Display) -> Self {
        self.settings.push((setting.into(), value.to_string()));
        self
    }

    /// The same with these children.
    #[must_use]
    pub fn of(mut self, children: Vec<Node>) -> Self {
        self.children = children;
        self
    }

    /// The same with a window (kernel size, stride, padding) among the settings.
    #[must_use]
    pub fn with_window(self, window: Window) -> Self {
        let Window { kernel_size, stride, padding } = window;
        self.with("kernel_size", kernel_size).with("stride", stride).with("padding", padding)
    }

    /// The window (kernel size, stride, padding) among the settings.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is incomplete, or its kernel size or stride is 0.
    pub fn window(&self) -> Result<Window> {
        let [kernel_size, stride, padding] =
            [self.setting("kernel_size")?, self.setting("stride")?, self.setting("padding")?];
        if kernel_size == 0 || stride == 0 {
            let message = "expected a kernel size and a stride of at least 1";
            return Err(Error::Invalid(format!("{} {}: {message}", self.kind, self.name)));
        }
        Ok(Window { kernel_size, stride, padding })
    }

    /// The value of a setting.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer and the setting, if it is missing or no `T`.
    pub fn setting<T: FromStr>(&self, setting: &str) -> Result<T> {
        let found = self.settings.iter().find(|(name, _)| name == setting).map(|(_, value)| value.as_str());
        let kind = &self.kind;
        let value = found.ok_or_else(|| Error::Invalid(format!("{kind} {}: {setting} is missing", self.name)))?;
        value.parse().map_err(|_| {
            let expected = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
            Error::Invalid(format!("{kind} {}: {setting}: expected {expected}, found {value}", self.name))
        })
    }

    /// As [`Node::setting`]; `default` if the setting is missing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is there, and no `T`.
    pub fn setting_or<T: FromStr>(&self, setting: &str, default: T) -> Result<T> {
        if self.settings.iter().any(|(name, _)| name == setting) { self.setting(setting) } else { Ok(default) }
    }

    /// Returns an error if there are other settings than the `known` ones: from a newer version of the library, or by a
    /// typing mistake.
    ///
    /// # Errors
    /// [`Error::Invalid`], naming the layer and the setting.
    pub fn knows_only(&self, known: &[&str]) -> Result<()> {
        match self.settings.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Error::Invalid(format!("{} {}: no setting {name}", self.kind, self.name))),
            None => Ok(()),
        }
    }

    fn write(&self, depth: usize, text: &mut String) -> fmt::Result {
        let name = if self.name.is_empty() { "-" } else { &self.name };
        write!(text, "{:1$}{2} {name}", "", 2 * depth, self.kind)?;
        self.settings.iter().try_for_each(|(name, value)| write!(text, " {name}={value}"))?;
        text.push('\n');
        self.children.iter().try_for_each(|child| child.write(depth + 1, text))
    }
}

/// Whether a name or a kind can stand in the textual form.
pub(crate) fn is_name(text: &str) -> bool {
    is_word(text) && !text.contains('=')
}

/// Whether a value can: not empty, no white space, no control characters, not `-` alone.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text != "-" && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Description { name, group, in_channels, layers } = self;
        let mut text = format!("{HEADER}\nname {name}\ngroup {group}\nin_channels {in_channels}\n");
        layers.iter().try_for_each(|node| node.write(0, &mut text))?;
        f.write_str(&text)
    }
}

impl FromStr for Description {
    type Err = Error;

    /// # Errors
    /// [`Error::Checkpoint`] with the number of the first line that does not fit.
    fn from_str(text: &str) -> Result<Self> {
        let mut lines = Lines { text: text.lines(), number: 0 };
        if text.len() > LONGEST {
            return Err(lines.unfit(format!("{} bytes, more than {LONGEST}", text.len())));
        }
        match lines.next() {
            Some(HEADER) => {}
            found => return Err(lines.unfit(format!("expected '{HEADER}', found '{}'", found.unwrap_or_default()))),
        }
        let line = lines.next().unwrap_or_default();
        let name = line.strip_prefix("name ").map(String::from);
        let name = name.ok_or_else(|| lines.unfit(format!("expected 'name …', found '{line}'")))?;
        let group = lines.field("group")?;
        let in_channels = lines.field("in_channels")?;
        let mut layers: Vec<Node> = Vec::new();
        let (mut nodes, mut deepest) = (0, 0);
        while let Some(line) = lines.next() {
            let content = line.trim_start_matches(' ');
            let indent = line.len() - content.len();
            let depth = indent / 2;
            if indent % 2 != 0 || depth > deepest || depth > DEEPEST {
                return Err(lines.unfit(format!("an indentation of {indent} does not fit the line before")));
            }
            nodes += 1;
            if nodes > MOST_NODES {
                return Err(lines.unfit(format!("more than {MOST_NODES} layers")));
            }
            let node = parse_node(content).map_err(|message| lines.unfit(message))?;
            // A line may be a child of the one before, or of any that this is indented in.
            let siblings = (0..depth).fold(&mut layers, |siblings, _| {
                &mut siblings.last_mut().expect("each depth up to `deepest` has a node").children
            });
            siblings.push(node);
            deepest = depth + 1;
        }
        Ok(Description { name, group, in_channels, layers })
    }
}

/// `kind name setting=value …`
fn parse_node(content: &str) -> std::result::Result<Node, String> {
    let mut words = content.split(' ');
    let (Some(kind), Some(name)) = (words.next(), words.next()) else {
        return Err(format!("expected a kind and a name, found '{content}'"));
    };
    let mut node = Node::new(kind, if name == "-" { "" } else { name });
    if !is_name(kind) || !(name == "-" || is_name(name)) {
        return Err(format!("expected a kind and a name, found '{content}'"));
    }
    for word in words {
        match word.split_once('=') {
            Some((setting, value)) if is_name(setting) && is_word(value) => {
                if node.settings.iter().any(|(known, _)| known == setting) {
                    return Err(format!("{kind} {name}: {setting} is set twice"));
                }
                node.settings.push((setting.into(), value.into()));
            }
            _ => return Err(format!("{kind} {name}: expected setting=value, found '{word}'")),
        }
    }
    Ok(node)
}

/// The lines of a textual form, counted.
struct Lines<'a> {
    text: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        self.text.next()
    }

    /// The value of the line `field value`.
    fn field<T: FromStr>(&mut self, field: &str) -> Result<T> {
        let line = self.next().unwrap_or_default();
        let value = line.strip_prefix(field).and_then(|rest| rest.strip_prefix(' ')).filter(|value| is_word(value));
        value
            .and_then(|value| value.parse().ok())
            .ok_or_else(|| self.unfit(format!("expected '{field} …', found '{line}'")))
    }

    fn unfit(&self, message: String) -> Error {
        Error::Checkpoint { name: "network".into(), message: format!("line {}: {message}", self.number.max(1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Description {
        let conv = |name: &str| Node::new("conv", name).with("out_channels", 8).with("bias", true);
        let block = Node::new("sum", "block").of(vec![
            Node::new("chain", "").of(vec![conv("conv1"), Node::new("relu", "")]),
            Node::new("chain", "shortcut"),
        ]);
        let linear = Node::new("linear", "linear").with("out_features", 10);
        Description {
            name: "small".into(),
            group: Group::C4,
            in_channels: 3,
            layers: vec![conv("stem"), block, linear],
        }
    }

    #[test]
    fn text_and_tree_go_over_into_each_other() {
        let text = "quarterturn-network 1\nname small\ngroup p4\nin_channels 3\nconv stem out_channels=8 bias=true\n\
            sum block\n  chain -\n    conv conv1 out_channels=8 bias=true\n    relu -\n  chain shortcut\n\
            linear linear out_features=10\n";
        assert_eq!(sample().to_string(), text);
        assert_eq!(text.parse::<Description>().unwrap(), sample());
    }

    #[test]
    fn settings_are_told_by_type_and_name() {
        let conv = &sample().layers[0];
        assert_eq!((conv.setting::<usize>("out_channels").unwrap(), conv.setting::<bool>("bias").unwrap()), (8, true));
        assert_eq!(conv.setting_or("stride", 1).unwrap(), 1);
        let message = |result: Result<usize>| result.unwrap_err().to_string();
        assert_eq!(message(conv.setting("stride")), "conv stem: stride is missing");
        assert_eq!(message(conv.setting("bias")), "conv stem: bias: expected usize, found true");
        assert_eq!(conv.knows_only(&["bias"]).unwrap_err().to_string(), "conv stem: no setting out_channels");
        assert!(conv.knows_only(&["bias", "out_channels"]).is_ok());
    }

    #[test]
    fn whatever_does_not_fit_is_an_error_with_its_line() {
        let good = sample().to_string();
        for (bad, expected) in [
            (String::new(), "line 1: expected 'quarterturn-network 1'"),
            (good.replace("network 1", "network 2"), "line 1: expected"),
            (good.replace("group p4", "group p5"), "line 3: expected 'group …', found 'group p5'"),
            (good.replace("in_channels 3", "in_channels -3"), "line 4"),
            (good.replace("sum block", "sum"), "line 6: expected a kind and a name"),
            (good.replace("  chain -", "   chain -"), "line 7: an indentation of 3"),
            (good.replace("    relu -", "        relu -"), "line 9: an indentation of 8"),
            (good.replace("conv stem", "  conv stem"), "line 5: an indentation of 2"),
            (good.replace("bias=true\nsum", "bias=true bias=true\nsum"), "line 5: conv stem: bias is set twice"),
            (good.replace("bias=true\nsum", "bias\nsum"), "line 5: conv stem: expected setting=value, found 'bias'"),
            (good.replace("bias=true\nsum", "bias=\nsum"), "line 5"),
            (good.clone() + &"relu -\n".repeat(MOST_NODES), "more than 16384 layers"),
            (good.clone() + &" ".repeat(LONGEST), "bytes, more than"),
            (
                good.clone() + &(0..40).map(|d| format!("{:1$}chain -\n", "", 2 * d)).collect::<String>(),
                "indentation of 66",
            ),
        ] {
            let error = bad.parse::<Description>().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}, expected {expected}");
        }
    }
}
