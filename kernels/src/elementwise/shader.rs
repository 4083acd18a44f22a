//! Elementwise operations on a GPU: an expression becomes a shader.

#[cfg(feature = "gpu")]
use crate::launch;
#[cfg(feature = "gpu")]
use quarterturn_core::{
    Tensor,
    gpu::{Gpu, Kernel},
};

/// What every shader of this file begins with.
const PRELUDE: [&str; 2] = [include_str!("../prelude.wgsl"), include_str!("functions.wgsl")];

/// An expression of operands and numbers, or the gradient whose slope it is. NaN in an operand is NaN in the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expression<'a> {
    /// Whose expression it is.
    pub name: &'a str,
    /// What it calls the operands, of one shape.
    pub operands: &'static [&'static str],
    /// What it calls the numbers.
    pub parameters: &'a [&'static str],
    pub wgsl: &'static str,
    /// Whether the result is multiplied by another tensor, the last operand of all.
    pub is_slope: bool,
}

impl Expression<'_> {
    /// The shader, whose entry point is named `entry`.
    pub fn shader(&self, entry: &str) -> String {
        let name = self.name;
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        assert!(is_word && !name.is_empty(), "elementwise: expected a name of letters, digits and _, got {name:?}");
        let operands = || self.operands.iter();
        let list = |each: &dyn Fn(&str) -> String| operands().map(|operand| each(operand)).collect::<Vec<_>>();
        let buffers = operands().copied().chain(self.is_slope.then_some("dy")).map(|name| (name, "read"));
        let buffers: String = buffers
            .chain([("result", "read_write")])
            .enumerate()
            .map(|(i, (name, access))| {
                format!("@group(0) @binding({i}) var<storage, {access}> {name}_values: array<f32>;\n")
            })
            .collect();
        // The first two words make the numbers that WGSL cannot write down.
        let lets = self.parameters.iter().zip(2..);
        let lets: String = lets.map(|(name, i)| format!("    let {name} = numbers[{}][{}];\n", i / 4, i % 4)).collect();
        let vectors = (2 + self.parameters.len()).div_ceil(4);
        let arguments = list(&|operand| format!("{operand}: f32")).join(", ");
        let call = format!("f({})", list(&|operand| format!("{operand}_values[i]")).join(", "));
        let value = if self.is_slope { format!("{call} * dy_values[i]") } else { call };
        // What is NaN takes the value's place.
        let value = list(&|operand| format!("{operand}_values[i]"))
            .iter()
            .fold(value, |value, operand| format!("select({value}, {operand}, is_nan({operand}))"));
        let (prelude, functions, expression) = (PRELUDE[0], PRELUDE[1], self.wgsl);
        format!(
            "{prelude}
{functions}
{buffers}@group(1) @binding(0) var<uniform> numbers: array<vec4f, {vectors}>;

fn f({arguments}) -> f32 {{
    let infinity = numbers[0][0];
    let nan = numbers[0][1];
{lets}    return {expression};
}}

@compute @workgroup_size(WORKGROUP)
fn {entry}(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u,
    @builtin(local_invocation_index) lane: u32) {{
    let i = linear_index(group, groups, lane);
    if (i < arrayLength(&result_values)) {{
        result_values[i] = {value};
    }}
}}
"
        )
    }

    /// The name of the entry point: that of the operation, and what of it this is.
    pub fn entry(&self, part: &str) -> String {
        format!("{}_{part}", self.name)
    }
}

#[cfg(feature = "gpu")]
impl Expression<'_> {
    /// The result of its kernel, which is called `part` of the operation.
    pub fn launch(&self, gpu: &Gpu, part: &str, operands: &[&Tensor], parameters: &[f64]) -> Tensor {
        let mut uniform = vec![f32::INFINITY.to_bits(), f32::NAN.to_bits()];
        uniform.extend(parameters.iter().map(|&p| (p as f32).to_bits()));
        uniform.resize(uniform.len().next_multiple_of(4), 0);
        launch::each(gpu, self.kernel(part), &[], operands, operands[0].shape(), &uniform)
    }

    /// The kernel, whose source is made once and kept.
    fn kernel(&self, part: &str) -> Kernel {
        use std::{
            collections::HashMap,
            sync::{LazyLock, Mutex, PoisonError},
        };
        type Key = (String, &'static str, Vec<&'static str>);
        static MADE: LazyLock<Mutex<HashMap<Key, Kernel>>> = LazyLock::new(Mutex::default);
        let entry = self.entry(part);
        let make = || {
            // A kernel names its source for as long as the process lives, and so do the strings that it is made of.
            let [entry, source] = [entry.clone(), self.shader(&entry)].map(|text| &*Box::leak(text.into_boxed_str()));
            // With all checks: the expression may be anybody's.
            Kernel::new(entry, source)
        };
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        *made.entry((entry.clone(), self.wgsl, self.parameters.to_vec())).or_insert_with(make)
    }
}

/// Whether the shader compiles, where there is no GPU to tell.
#[cfg(test)]
pub(super) fn validate(expression: &Expression<'_>, part: &str) {
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    let entry = expression.entry(part);
    let source = expression.shader(&entry);
    let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&source)));
    let validated = Validator::new(ValidationFlags::all(), Capabilities::default()).validate(&module);
    validated.unwrap_or_else(|e| panic!("{}", e.emit_to_string(&source)));
    assert_eq!(module.entry_points.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), [entry]);
}
