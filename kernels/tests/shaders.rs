//! Every shader compiles, and fits the limits that every WebGPU implementation has. Needs no GPU.

use naga::{
    AddressSpace,
    valid::{Capabilities, ValidationFlags, Validator},
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// All files below `folder` with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found
}

/// The shaders that the sources join, `concat!(include_str!("a.wgsl"), include_str!("b.wgsl"))`, as lists of files.
fn joined_shaders(sources: &Path) -> Vec<Vec<PathBuf>> {
    let mut shaders = Vec::new();
    for source in files(sources, "rs") {
        let text = fs::read_to_string(&source).unwrap();
        for joined in text.split("concat!(").skip(1) {
            let joined = joined.split(';').next().unwrap();
            let names = joined.split("include_str!(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
            let shader: Vec<PathBuf> =
                names.map(|name| source.parent().unwrap().join(name).canonicalize().unwrap()).collect();
            if shader.iter().any(|file| file.extension().is_some_and(|e| e == "wgsl")) {
                shaders.push(shader);
            }
        }
    }
    shaders
}

/// Loops are compiled without a counter that would end them, so each must end by itself: it counts up to a bound, or
/// halves down to zero.
#[test]
fn every_loop_ends() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").canonicalize().unwrap();
    let mut loops = 0;
    for file in files(&sources, "wgsl") {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().map(|line| line.split("//").next().unwrap().trim_end()).collect();
        for (number, whole) in lines.iter().enumerate() {
            let line = whole.trim_start();
            let at = format!("{}:{}: {line}", file.display(), number + 1);
            assert!(!line.starts_with("loop") && !line.starts_with("while"), "{at}: only `for` counts");
            let Some(head) = line.strip_prefix("for (var ") else {
                assert!(!line.contains("for ("), "{at}: not at the line's beginning, or without a variable of its own");
                continue;
            };
            loops += 1;
            let name = head.split(' ').next().unwrap();
            let parts: Vec<&str> = head.strip_suffix(") {").unwrap_or(head).split("; ").collect();
            assert_eq!(parts.len(), 3, "{at}");
            let up = parts[1].contains(&format!("{name} < "))
                && (parts[2] == format!("{name}++") || parts[2].starts_with(&format!("{name} += ")));
            let down = parts[1] == format!("{name} > 0u") && parts[2] == format!("{name} /= 2u");
            assert!(up || down, "{at}: counts neither up nor down");
            let end = format!("{}}}", &whole[..whole.len() - line.len()]);
            let mut body = lines[number + 1..].iter().take_while(|line| **line != end);
            assert!(
                !body.any(|line| line.trim_start().starts_with(&format!("{name} "))),
                "{at}: `{name}` is assigned to"
            );
        }
    }
    assert!(loops > 50, "only {loops} loops found");
}

#[test]
fn every_shader_compiles_and_is_portable() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").canonicalize().unwrap();
    let mut used = BTreeSet::new();
    for shader in joined_shaders(&sources) {
        let name = shader.last().unwrap().display().to_string();
        let text: String = shader.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let module =
            naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        // What not every implementation has, a shader says: it is launched only where it is there.
        let matrices = if text.contains("enable wgpu_cooperative_matrix;") {
            Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16
        } else {
            Capabilities::empty()
        };
        let info = Validator::new(ValidationFlags::all(), Capabilities::default() | matrices)
            .validate(&module)
            .unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
        assert!(!module.entry_points.is_empty(), "{name} has no entry point");
        for (index, entry) in module.entry_points.iter().enumerate() {
            let at = format!("{name}: {}", entry.name);
            let (mut buffers, mut shared) = (Vec::new(), 0);
            for (handle, variable) in module.global_variables.iter() {
                if info.get_entry_point(index)[handle].is_empty() {
                    continue;
                }
                let size = module.types[variable.ty].inner.size(module.to_ctx());
                match variable.space {
                    AddressSpace::Storage { access } => {
                        let binding = variable.binding.as_ref().unwrap();
                        assert_eq!(binding.group, 0, "{at}: storage belongs to group 0");
                        buffers.push((binding.binding, access.contains(naga::StorageAccess::STORE)));
                    }
                    AddressSpace::Uniform => assert!(size <= 256, "{at}: the uniform has {size} bytes"),
                    AddressSpace::WorkGroup => shared += size,
                    _ => {}
                }
            }
            buffers.sort_unstable();
            let order: Vec<u32> = buffers.iter().map(|&(binding, _)| binding).collect();
            assert!(order.is_sorted_by(|a, b| a < b), "{at}: two buffers at one binding, {order:?}");
            assert!(buffers.is_sorted_by_key(|&(_, written)| written), "{at}: inputs come first, {buffers:?}");
            // Used only where a device allows as many; it must then do for Metal, too.
            let most = if name.ends_with("together.wgsl") { 28 } else { 8 };
            assert!(buffers.len() <= most, "{at}: {} storage buffers", buffers.len());
            assert!(shared <= 16_384, "{at}: {shared} bytes of workgroup memory");
            assert!(entry.workgroup_size.iter().product::<u32>() <= 256, "{at}: {:?}", entry.workgroup_size);
        }
        used.extend(shader);
    }
    // Of what elementwise operations are made of, tests beside them make whole shaders.
    used.insert(sources.join("elementwise/functions.wgsl"));
    for file in files(&sources, "wgsl") {
        assert!(used.contains(&file), "{} is not part of any shader", file.display());
    }
}
