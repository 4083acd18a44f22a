//! Makes layers of their description, and computes together what can be: a norm, a ReLU and max pooling become part of the
//! convolution before them, a ReLU part of the sum before it. Names, files and the checker never see that.

use crate::{
    BatchNorm, Chain, ConvNorm, GroupConv, Layer, MaxPool, Module, Node, Parallel, Relu, Site,
    nn::chain::Link,
    nn::description::{DEEPEST, is_name},
    nn::layer::{OWN, Place},
    nn::parallel::Join,
};
use quarterturn_core::Result;
use quarterturn_kernels::Cosets;
use std::mem;

/// Layers under a common name.
pub(crate) const CHAIN: &str = "chain";
/// Dropout behind a norm and its ReLU.
pub(crate) const DROPOUT: &str = "dropout";

/// A layer to be made: described, or given.
pub(crate) struct Plan {
    /// What describes it, without children.
    pub node: Node,
    /// The layer itself, if it was given; and the channels that it makes, if they are others.
    pub own: Option<(Box<dyn Module>, Option<usize>)>,
    /// The layers of a chain, or the branches of a block.
    pub children: Vec<Plan>,
}

impl Plan {
    /// What the description says.
    pub fn of(node: &Node) -> Self {
        let children = node.children.iter().map(Plan::of).collect();
        Plan { node: Node { children: Vec::new(), ..node.clone() }, own: None, children }
    }

    /// The description.
    pub fn describe(&self) -> Node {
        self.node.clone().of(self.children.iter().map(Plan::describe).collect())
    }
}

/// A layer that the next may become part of.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum Open {
    Conv(GroupConv),
    ConvNorm(ConvNorm),
    Norm(BatchNorm),
    Parallel(Parallel),
}

/// The layers of a chain so far.
#[derive(Default)]
struct Assembly {
    links: Vec<Link>,
    /// The last layer, as long as the next may still become part of it.
    last: Option<(String, Open)>,
}

/// The layers of `plans`, one after another.
///
/// # Errors
/// [`Error::Invalid`] with the first layer that does not fit; or when the GPU has no room.
pub(crate) fn assemble(plans: Vec<Plan>, site: &mut Site<'_>) -> Result<Chain> {
    let (group, in_channels) = (site.network_group(), site.channels());
    let mut assembly = Assembly::default();
    for plan in plans {
        let name = plan.node.name.clone();
        site.enter(&name)?;
        if !(name.is_empty() || is_name(&name)) {
            return Err(site.unfit("a name has no white space, no control characters and no '='"));
        }
        if site.depth() > DEEPEST {
            return Err(site.unfit(format!("blocks within blocks, more than {DEEPEST} deep")));
        }
        assembly.add(plan, site)?;
        site.leave();
    }
    assembly.settle();
    Ok(Chain::new(group, in_channels, assembly.links))
}

impl Assembly {
    fn add(&mut self, plan: Plan, site: &mut Site<'_>) -> Result<()> {
        let Plan { node, own, children } = plan;
        if let Some((module, channels)) = own {
            if let Some(channels) = channels {
                site.makes(channels, site.axis())?;
            }
            self.push(node.name, OWN, module);
            return Ok(());
        }
        match node.kind.as_str() {
            GroupConv::KIND => {
                let conv = GroupConv::make(&node, site)?;
                self.open(node.name, Open::Conv(conv));
            }
            BatchNorm::KIND => {
                let norm = BatchNorm::make(&node, site)?;
                match self.last.take() {
                    Some((conv_name, Open::Conv(conv))) => {
                        let both = ConvNorm::new([conv_name, node.name], conv, norm);
                        self.last = Some((String::new(), Open::ConvNorm(both)));
                    }
                    last => {
                        self.last = last;
                        self.open(node.name, Open::Norm(norm));
                    }
                }
            }
            Relu::KIND => self.relu(node.name),
            DROPOUT => self.dropout(&node, site)?,
            MaxPool::KIND => {
                let pool = MaxPool::make(&node, site)?;
                match self.last.take() {
                    Some((empty, Open::ConvNorm(both))) => {
                        let module = Box::new(both.with_pool(&node.name, pool));
                        self.links.push(Link { name: empty, kind: CHAIN.into(), module });
                    }
                    last => {
                        self.last = last;
                        self.push(node.name, MaxPool::KIND, Box::new(pool));
                    }
                }
            }
            CHAIN => {
                let chain = assemble(children, site)?;
                self.push(node.name, CHAIN, Box::new(chain));
            }
            kind if kind == Join::Sum.kind() => {
                let sum = Parallel::new(branches(children, Join::Sum, site)?, Join::Sum);
                self.open(node.name, Open::Parallel(sum));
            }
            kind if kind == Join::Concat.kind() => {
                let concat = Parallel::new(branches(children, Join::Concat, site)?, Join::Concat);
                self.open(node.name, Open::Parallel(concat));
            }
            _ => {
                let module = site.layers().make(&node, site)?;
                self.push(node.name, &node.kind, module);
            }
        }
        Ok(())
    }

    fn relu(&mut self, name: String) {
        self.last = match self.last.take() {
            Some((name, Open::Norm(norm))) => Some((name, Open::Norm(norm.with_relu()))),
            Some((name, Open::ConvNorm(both))) => Some((name, Open::ConvNorm(both.map_norm(BatchNorm::with_relu)))),
            Some((name, Open::Parallel(block))) => Some((name, Open::Parallel(block.with_relu()))),
            last => {
                self.last = last;
                self.push(name, Relu::KIND, Box::new(Relu));
                None
            }
        }
    }

    fn dropout(&mut self, node: &Node, site: &Site<'_>) -> Result<()> {
        node.knows_only(&["p"])?;
        let p: f32 = node.setting("p")?;
        if !(0.0..1.0).contains(&p) {
            return Err(site.unfit(format!("dropout: expected a probability of at least 0 and below 1, not {p}")));
        }
        let number = site.norms();
        let (name, open) = match self.last.take() {
            Some((name, Open::Norm(norm))) if norm.has_relu() => (name, Open::Norm(norm.with_dropout(p, number))),
            Some((name, Open::ConvNorm(both))) if both.norm().has_relu() => {
                (name, Open::ConvNorm(both.map_norm(|norm| norm.with_dropout(p, number))))
            }
            _ => return Err(site.unfit("dropout: expected a norm and a ReLU before it; dropout_maps needs neither")),
        };
        self.last = Some((name, open));
        Ok(())
    }

    /// A layer that the next may become part of.
    fn open(&mut self, name: String, open: Open) {
        self.settle();
        self.last = Some((name, open));
    }

    /// A layer as it is.
    fn push(&mut self, name: String, kind: &str, module: Box<dyn Module>) {
        self.settle();
        self.links.push(Link { name, kind: kind.into(), module });
    }

    /// The last layer stays as it is.
    fn settle(&mut self) {
        if let Some((name, open)) = self.last.take() {
            let (kind, module): (&str, Box<dyn Module>) = match open {
                Open::Conv(conv) => (GroupConv::KIND, Box::new(conv)),
                Open::ConvNorm(both) => (CHAIN, Box::new(both)),
                Open::Norm(norm) => (BatchNorm::KIND, Box::new(norm)),
                Open::Parallel(block) => (block.join().kind(), Box::new(block)),
            };
            self.links.push(Link { name, kind: kind.into(), module });
        }
    }
}

/// Chains that all read what is read at `site`, and whose results can be joined.
fn branches(plans: Vec<Plan>, join: Join, site: &mut Site<'_>) -> Result<Vec<(String, Chain)>> {
    let start = site.place();
    let mut end: Option<Place> = None;
    let mut branches = Vec::with_capacity(plans.len());
    for mut plan in plans {
        if plan.node.kind != CHAIN {
            return Err(site.unfit(format!("expected branches of the kind {CHAIN}, found {}", plan.node.kind)));
        }
        site.set_place(start);
        site.enter(&plan.node.name)?;
        let chain = assemble(mem::take(&mut plan.children), site)?;
        site.leave();
        let (a, b) = (end.unwrap_or(site.place()), site.place());
        let axis = a.axis.in_sum(b.axis).filter(|_| join == Join::Concat || a.channels == b.channels);
        let Some(axis) = axis else {
            let described = |axis: Cosets| match a.axis.order() == b.axis.order() && a.axis != b.axis {
                true => format!("{} of {}", axis.order(), axis.group()),
                false => axis.order().to_string(),
            };
            return Err(site.unfit(format!(
                "the branch makes {} channels on a group axis of {}, the {} {} on {}",
                a.channels,
                described(a.axis),
                if plan.node.name.is_empty() { "next" } else { &plan.node.name },
                b.channels,
                described(b.axis)
            )));
        };
        end = Some(match (join, end) {
            (Join::Concat, Some(_)) => Place { channels: a.channels + b.channels, axis },
            _ => Place { axis, ..b },
        });
        branches.push((plan.node.name, chain));
    }
    let Some(end) = end else { return Err(site.unfit("expected at least one branch")) };
    site.makes(end.channels, end.axis)?;
    Ok(branches)
}
