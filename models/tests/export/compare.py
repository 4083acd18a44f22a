"""Compares what PyTorch and onnxruntime make of exported networks with what the library makes: `compare.py FOLDER`."""

import importlib.util, pathlib, sys, torch
from safetensors import safe_open

script = pathlib.Path(__file__).parents[3] / "examples/export/plain.py"
spec = importlib.util.spec_from_file_location("plain", script)
plain = importlib.util.module_from_spec(spec)
spec.loader.exec_module(plain)


def onnx_session(path):
    import onnx, onnxruntime

    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


def turned_error(network, images, result):
    """How far the result of turned images is from the (turned) result of the upright ones, relative to the largest value."""
    worst = 0.0
    for turns in range(1, 4):
        again = network(torch.rot90(images, turns, (2, 3)).contiguous())
        expected = torch.rot90(result, turns, (2, 3)) if result.dim() == 4 else result
        worst = max(worst, ((again - expected).abs().max() / result.abs().max()).item())
    return worst


failed = 0
print(f"{'network':20} {'norms kept':>11} {'folded':>11} {'onnxruntime':>11} {'turned there':>12}")
for case in sorted(pathlib.Path(sys.argv[1]).glob("*.case.safetensors")):
    name = case.name.removesuffix(".case.safetensors")
    with safe_open(case, "pt") as file:
        images, expected = file.get_tensor("images"), file.get_tensor("result")
        group = file.metadata()["group"]
    makers = [lambda kind=kind: plain.load(case.with_name(f"{name}.{kind}.safetensors")) for kind in ("kept", "plain")]
    if (onnx := case.with_name(f"{name}.onnx")).exists():
        makers.append(lambda: onnx_session(onnx))
    errors = []
    for maker in makers:
        with torch.no_grad():
            network = maker()
            result = network(images)
            if result.numel() != expected.numel():
                print(name, tuple(result.shape), "instead of", tuple(expected.shape))
                errors.append(float("nan"))
                continue
            errors.append(((result.flatten() - expected.flatten()).abs().max() / expected.abs().max()).item())
    square = images.shape[2] == images.shape[3]
    is_turned = group != "z2" and square and result.dim() in (2, 4) and onnx.exists()
    turned = turned_error(network, images, result) if is_turned else None
    bad = not all(error <= 1e-5 for error in errors)
    failed += bad
    cells = [f"{error:11.1e}" for error in errors] + ["" if turned is None else f"{turned:12.1e}"]
    print(f"{name:20} {' '.join(cells)}{'  TOO FAR' if bad else ''}")
sys.exit(f"{failed} networks differ" if failed else 0)
