#!/usr/bin/env python3
"""One image at a time: the networks of `cargo bench --bench predict` in PyTorch and, as exported here, in onnxruntime.

- `eager`: the layers of p4cnn_torch.py in inference mode, filters gathered in each call;
- `frozen`: the same, traced, then `torch.jit.freeze` and `torch.jit.optimize_for_inference`, so that filters are gathered once
  and norms are part of the convolutions;
- `onnxruntime`: the ONNX models of this library, all graph optimisations on.

    QUARTERTURN_ONNX=folder cargo bench --bench predict --features onnx
    python benches/peers/predict_torch.py --onnx folder --threads 2

Median and 99th percentile of single calls, in milliseconds. The ResNet-44 of p4cnn_torch.py has its norms behind the
convolutions, that of this library before them: as many operations.
"""

import argparse
import pathlib
import platform
import time
import warnings

import torch

import p4cnn_torch as peers

# Name: (network, shape of an image).
NETWORKS = {
    "p4cnn": (lambda: peers.MnistCnn("p4", 10), (1, 28, 28)),
    "p4mcnn": (lambda: peers.MnistCnn("p4m", 7), (1, 28, 28)),
    "z2cnn": (lambda: peers.MnistCnn("z2", 20), (1, 28, 28)),
    "resnet18_225": (lambda: peers.ResNet("p4", 7, peers.RESNET18, 1000), (3, 225, 225)),
    "resnet44_33": (lambda: peers.ResNet("p4", 3, peers.RESNET44, 10), (3, 33, 33)),
}


def eager(name, args):
    build, shape = NETWORKS[name]
    net, image = build().eval(), torch.rand(1, *shape)

    def call():
        with torch.inference_mode():
            return net(image).numpy()

    return call


def frozen(name, args):
    build, shape = NETWORKS[name]
    net, image = build().eval(), torch.rand(1, *shape)
    with warnings.catch_warnings():  # TorchScript is deprecated, and still what serves without Python
        warnings.simplefilter("ignore")
        with torch.no_grad():
            traced = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(net, image)))

    def call():
        with torch.inference_mode():
            return traced(image).numpy()

    return call


def onnxruntime(name, args):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(pathlib.Path(args.onnx) / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    image = torch.rand(1, *NETWORKS[name][1]).numpy()
    feed = {session.get_inputs()[0].name: image}
    return lambda: session.run(None, feed)


def latencies(call, seconds):
    """Sorted times of single calls that fill about `seconds`, after a warm-up."""
    begun = time.perf_counter()
    for _ in range(20):
        call()
        if time.perf_counter() - begun > seconds:
            break
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < seconds or len(times) < 5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each measurement [default: 2]")
    parser.add_argument("--onnx", metavar="FOLDER", help="where the ONNX models of `cargo bench --bench predict` are")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    machine = platform.processor() or platform.machine()
    print(f"PyTorch {torch.__version__}: {machine}, {args.threads} threads", flush=True)
    print(f"{'':<24} {'':<12} {'median, ms':>10} {'99 %, ms':>10}")
    for name in args.only:
        for kind in (eager, frozen, onnxruntime) if args.onnx else (eager, frozen):
            times = latencies(kind(name, args), args.seconds)
            at = lambda percent: 1e3 * times[(len(times) - 1) * percent // 100]
            print(f"{'predict/' + name + '/n1':<24} {kind.__name__:<12} {at(50):>10.3f} {at(99):>10.3f}", flush=True)


if __name__ == "__main__":
    main()
