"""Compares what PyTorch and onnxruntime make of exported networks with what the library makes: `compare.py FOLDER`.

PyTorch is several GB: where it is not installed, it is left out, and that is said.
"""

import importlib.util, pathlib, sys
import numpy as np, onnx, onnxruntime
from safetensors import safe_open


def onnx_network(path):
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def torch_network(path):
    script = pathlib.Path(__file__).parents[3] / "examples/export/plain.py"
    spec = importlib.util.spec_from_file_location("plain", script)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    network = plain.load(path)

    def run(images):
        with torch.no_grad():
            return network(torch.from_numpy(images)).numpy()

    return run


def turned_error(network, images, result):
    """How far the result of turned images is from the (turned) result of the upright ones, relative to the largest value."""
    worst = 0.0
    for turns in range(1, 4):
        again = network(np.ascontiguousarray(np.rot90(images, turns, (2, 3))))
        expected = np.rot90(result, turns, (2, 3)) if result.ndim == 4 else result
        worst = max(worst, np.abs(again - expected).max() / np.abs(result).max())
    return worst


try:
    import torch
except ImportError:
    torch = None
    print("LEFT OUT: PyTorch is not installed here; onnxruntime alone is compared")

failed = compared = 0
print(f"{'network':20} {'norms kept':>11} {'folded':>11} {'onnxruntime':>11} {'turned there':>12}")
for case in sorted(pathlib.Path(sys.argv[1]).glob("*.case.safetensors")):
    name = case.name.removesuffix(".case.safetensors")
    with safe_open(case, "np") as file:
        images, expected = file.get_tensor("images"), file.get_tensor("result")
        group = file.metadata()["group"]
    networks = [case.with_name(f"{name}.{kind}.safetensors") for kind in ("kept", "plain")] if torch else []
    networks = [torch_network(path) for path in networks]
    if has_onnx := (path := case.with_name(f"{name}.onnx")).exists():
        networks.append(onnx_network(path))
    errors = []
    for network in networks:
        result = network(images)
        if result.size != expected.size:
            print(name, result.shape, "instead of", expected.shape)
            errors.append(float("nan"))
            continue
        errors.append(np.abs(result.ravel() - expected.ravel()).max() / np.abs(expected).max())
    square = images.shape[2] == images.shape[3]
    is_turned = has_onnx and group != "z2" and square and result.ndim in (2, 4)
    turned = turned_error(network, images, result) if is_turned else None
    bad = not all(error <= 1e-5 for error in errors)
    failed, compared = failed + bad, compared + len(errors)
    cells = [f"{error:11.1e}" for error in errors]
    cells = [" " * 11] * (3 - len(cells)) * has_onnx + cells + ["" if turned is None else f"{turned:12.1e}"]
    print(f"{name:20} {' '.join(cells)}{'  TOO FAR' if bad else ''}")
sys.exit(f"{failed} networks differ" if failed else None if compared else "nothing was compared")
