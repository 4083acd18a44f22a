//! Several parameters' updates in one launch of a GPU.

use crate::launch;
use quarterturn_core::{
    Tensor,
    gpu::{Gpu, GpuBuffer, Size},
};

static EACH: &str = concat!(include_str!("../prelude.wgsl"), include_str!("optimizer.wgsl"));
static TOGETHER: &str =
    concat!(include_str!("../prelude.wgsl"), include_str!("optimizer.wgsl"), include_str!("together.wgsl"));

/// The most parameters of a launch. Of each, Adam has four buffers, and Metal allows 31.
const MOST: usize = 7;
/// Words of the uniform that say where the workgroups of each parameter end.
const ENDS: usize = 8;
/// Invocations of a workgroup.
const LANES: usize = 64;

/// The kernels of an update: for one parameter, and for up to [`MOST`].
pub(super) struct Rule {
    each: &'static str,
    together: &'static str,
}

pub(super) static SGD: Rule = Rule { each: "sgd_step", together: "sgd_steps" };
pub(super) static ADAM: Rule = Rule { each: "adam_step", together: "adam_steps" };
pub(super) static AVERAGE: Rule = Rule { each: "average_step", together: "average_steps" };

/// Updates that wait for others to be launched with; those that are left are launched when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Launches {
    one_by_one: bool,
    waiting: Option<Waiting>,
}

/// Updates by one rule with the same settings.
struct Waiting {
    gpu: Gpu,
    rule: &'static Rule,
    settings: Vec<u32>,
    params: Vec<Operands>,
}

struct Operands {
    dw: GpuBuffer,
    updated: Vec<GpuBuffer>,
}

impl Launches {
    pub fn one_by_one() -> Self {
        Launches { one_by_one: true, waiting: None }
    }

    /// Updates the tensors `updated` in place, or copies of those that somebody else holds.
    pub fn update(
        &mut self,
        gpu: &Gpu,
        rule: &'static Rule,
        dw: &Tensor,
        updated: &mut [&mut Tensor],
        settings: &[u32],
    ) {
        // Perhaps it is an update that waits who holds them.
        if updated.iter().any(|tensor| !tensor.buffer().is_unique()) {
            self.launch();
        }
        for tensor in updated.iter_mut().filter(|tensor| !tensor.buffer().is_unique()) {
            **tensor = Tensor::gpu(tensor.shape(), gpu.copy(tensor.buffer()));
        }
        let updated: Vec<GpuBuffer> = updated.iter().map(|tensor| tensor.buffer().clone()).collect();
        let operands = Operands { dw: dw.buffer().clone(), updated };
        let buffers = 1 + operands.updated.len();
        // A buffer without meaning would take the other parameters' meaning away.
        let sound = operands.updated.iter().chain([&operands.dw]).all(|buffer| buffer.check().is_ok());
        if self.one_by_one || !sound || gpu.bindings() < MOST * buffers {
            return launch_each(gpu, rule, &operands, settings);
        }
        let fits = |waiting: &Waiting| {
            waiting.gpu.same(gpu) && std::ptr::eq(waiting.rule, rule) && waiting.settings == settings
        };
        if !self.waiting.as_ref().is_some_and(fits) {
            self.launch();
        }
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            gpu: gpu.clone(),
            rule,
            settings: settings.to_vec(),
            params: Vec::with_capacity(MOST),
        });
        waiting.params.push(operands);
        if waiting.params.len() == MOST {
            self.launch();
        }
    }

    fn launch(&mut self) {
        match self.waiting.take() {
            Some(Waiting { gpu, rule, settings, params }) if params.len() == 1 => {
                launch_each(&gpu, rule, &params[0], &settings);
            }
            Some(waiting) => waiting.launch(),
            None => {}
        }
    }
}

impl Drop for Launches {
    fn drop(&mut self) {
        self.launch();
    }
}

fn launch_each(gpu: &Gpu, rule: &Rule, operands: &Operands, settings: &[u32]) {
    let Operands { dw, updated } = operands;
    let outputs: Vec<&GpuBuffer> = updated.iter().collect();
    gpu.launch(&launch::kernel(rule.each, EACH), &[], &[dw], &outputs, settings, Size::Threads(dw.len()));
}

impl Waiting {
    fn launch(self) {
        let Waiting { gpu, rule, settings, params } = self;
        let mut ends = [0; ENDS];
        let mut groups = 0;
        for (place, end) in ends.iter_mut().enumerate() {
            groups += params.get(place).map_or(0, |param| param.dw.len().div_ceil(LANES));
            *end = groups as u32;
        }
        // Each place has buffers, used or not, and what is written may be bound but once.
        let states = params[0].updated.len();
        let unused: Vec<GpuBuffer> = (params.len() * states..MOST * states).map(|_| gpu.output(0)).collect();
        let param = |place: usize| params.get(place);
        let inputs: Vec<&GpuBuffer> = (0..MOST).map(|place| &param(place).unwrap_or(&params[0]).dw).collect();
        let mut unused = unused.iter();
        let mut outputs = Vec::with_capacity(MOST * states);
        for state in 0..states {
            for place in 0..MOST {
                let buffer = param(place).map(|param| &param.updated[state]).or_else(|| unused.next());
                outputs.push(buffer.expect("one for each place that is not used"));
            }
        }
        let uniform: Vec<u32> = ends.into_iter().chain(settings).collect();
        gpu.launch(&launch::kernel(rule.together, TOGETHER), &[], &inputs, &outputs, &uniform, Size::Groups(groups));
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.params.len(), self.rule.together)
    }
}
