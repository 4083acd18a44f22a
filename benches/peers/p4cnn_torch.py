#!/usr/bin/env python3
"""The networks of `cargo bench --bench train_step` in PyTorch, so that anybody can print the ratio on their machine.

Group convolutions as every library computes them: the filter's orbit is gathered into a dense filter, and `conv2d` does
the rest. Each step (forward, cross-entropy, backward, Adam) and evaluation is timed as `eager`, `channels_last` and
`compile` (on a GPU also with all of it captured as one CUDA graph, and each with and without TF32); the fastest counts.
With escnn installed, its layers are timed too.

    python benches/peers/p4cnn_torch.py                       # all networks, this machine's best device
    python benches/peers/p4cnn_torch.py --only p4cnn z2cnn --seconds 10 --csv peers.csv

Before anything is timed, each network must turn with its input (float64, error below 1e-9).
"""

import argparse
import csv
import platform
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

ORDER = {"z2": 1, "p4": 4, "p4m": 8}


def act(g, a):
    """Element 4m + r of p4m on the last two axes: rotate by r quarter turns, then flip top to bottom if m = 1."""
    a = torch.rot90(a, g % 4, (-2, -1))
    return a.flip(-2) if g >= 4 else a


def permutation(order, g):
    """g⁻¹h for every h, found by comparing what the elements do to a small asymmetric image."""
    probe = torch.arange(9).reshape(3, 3)
    moved = [act(h, probe) for h in range(order)]
    return [next(d for d in range(order) if torch.equal(act(g, moved[d]), moved[h])) for h in range(order)]


def transform(x, g, order):
    """T_g of a feature map [N, C, G, H, W]: (T_g f)(x, h) = f(g⁻¹x, g⁻¹h)."""
    return act(g, x[:, :, permutation(order, g)])


class GroupConv(nn.Module):
    """A plain (z2), lifting (`lift`) or group convolution of maps [N, C·G, H, W] by gathered filters."""

    def __init__(self, group, c_in, c_out, k, stride=1, padding=0, bias=True, lift=False):
        super().__init__()
        self.order, self.stride, self.padding = ORDER[group], stride, padding
        g_in = 1 if lift else self.order
        bound = (6 / (c_in * g_in * k * k)) ** 0.5
        self.weight = nn.Parameter(torch.empty(c_out, c_in, g_in, k, k).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        places = torch.arange(c_in * g_in * k * k).reshape(c_in, g_in, k, k)
        orbit = [act(g, places[:, permutation(self.order, g)] if g_in > 1 else places) for g in range(self.order)]
        self.register_buffer("index", torch.stack(orbit).reshape(-1))
        self.dense = (c_out * self.order, c_in * g_in, k, k)

    def forward(self, x):
        weight = self.weight.flatten(1)[:, self.index].reshape(self.dense) if self.order > 1 else self.weight.reshape(self.dense)
        bias = self.bias.repeat_interleave(self.order) if self.bias is not None else None
        return F.conv2d(x, weight, bias, self.stride, self.padding)


class GroupNorm(nn.Module):
    """Batch norm with one statistic per channel, shared over the group; then dropout of single values."""

    def __init__(self, channels, order, dropout=0.0):
        super().__init__()
        self.norm, self.order, self.dropout = nn.BatchNorm3d(channels), order, dropout

    def forward(self, x, relu=True):
        n, c, h, w = x.shape
        y = self.norm(x.reshape(n, c // self.order, self.order, h, w)).reshape(n, c, h, w)
        y = F.relu(y) if relu else y
        return F.dropout(y, self.dropout, self.training) if self.dropout else y


def pooled(x, order):
    """Mean over space, maximum over the group: [N, C]."""
    return x.mean((2, 3)).unflatten(1, (-1, order)).amax(2)


class MnistCnn(nn.Module):
    """Six 3×3 convolutions and a 4×4 one, pooling after the second, dropout after 1, 3, 4 and 5."""

    def __init__(self, group, width):
        super().__init__()
        self.order = ORDER[group]
        shapes = [(1, 3, 1)] + [(width, 3, 1)] * 5 + [(width, 4, 0)]
        self.convs = nn.ModuleList(
            GroupConv(group, c, width, k, padding=p, lift=i == 0) for i, (c, k, p) in enumerate(shapes)
        )
        drops = [0.3, 0.0, 0.3, 0.3, 0.3, 0.0, 0.0]
        self.norms = nn.ModuleList(GroupNorm(width, self.order, p) for p in drops)
        self.linear = nn.Linear(width, 10)

    def forward(self, x):
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms)):
            x = norm(conv(x))
            if i == 1:
                x = F.max_pool2d(x, 2)
        return self.linear(pooled(x, self.order))


class Block(nn.Module):
    """conv, norm, ReLU, conv, norm, plus the shortcut, ReLU."""

    def __init__(self, group, c_in, c_out, stride):
        super().__init__()
        order = ORDER[group]
        self.conv1 = GroupConv(group, c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = GroupConv(group, c_out, c_out, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = GroupNorm(c_out, order), GroupNorm(c_out, order)
        self.shortcut = None
        if stride != 1 or c_in != c_out:
            self.shortcut = GroupConv(group, c_in, c_out, 1, stride, 0, bias=False)
            self.norm3 = GroupNorm(c_out, order)

    def forward(self, x):
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))), relu=False)
        return F.relu(y + (x if self.shortcut is None else self.norm3(self.shortcut(x), relu=False)))


class ResNet(nn.Module):
    """Stages of [blocks, channels, stride]; `stem` 7: 7×7 stride 2 and a 3×3 stride-2 max pool, 3: 3×3."""

    def __init__(self, group, stem, stages, classes):
        super().__init__()
        self.order, width = ORDER[group], stages[0][1]
        self.stem_pool = stem == 7
        self.stem = GroupConv(group, 3, width, stem, 2 if stem == 7 else 1, stem // 2, bias=False, lift=True)
        self.norm = GroupNorm(width, self.order)
        blocks, c = [], width
        for count, channels, stride in stages:
            for i in range(count):
                blocks.append(Block(group, c, channels, stride if i == 0 else 1))
                c = channels
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(c, classes)

    def forward(self, x):
        x = self.norm(self.stem(x))
        if self.stem_pool:
            x = F.max_pool2d(x, 3, 2, 1)
        return self.linear(pooled(self.blocks(x), self.order))


RESNET18 = [(2, 32, 1), (2, 64, 2), (2, 128, 2), (2, 256, 2)]
P4M_RESNET18 = [(2, 23, 1), (2, 45, 2), (2, 91, 2), (2, 181, 2)]
RESNET44 = [(7, 8, 1), (7, 16, 2), (7, 32, 2)]
# name: (build, image shape, batches of the training step, batch of the evaluation)
NETWORKS = {
    "p4cnn": (lambda: MnistCnn("p4", 10), (1, 28, 28), (128, 256), 512),
    "z2cnn": (lambda: MnistCnn("z2", 20), (1, 28, 28), (128, 256), 512),
    "p4mcnn": (lambda: MnistCnn("p4m", 7), (1, 28, 28), (128, 256), 512),
    "p4resnet18_224": (lambda: ResNet("p4", 7, RESNET18, 1000), (3, 224, 224), (4,), 4),
    "p4mresnet18_225": (lambda: ResNet("p4m", 7, P4M_RESNET18, 1000), (3, 225, 225), (4,), 4),
    "p4resnet44_32": (lambda: ResNet("p4", 3, RESNET44, 10), (3, 32, 32), (32,), 32),
}
# What fills a GPU, in place of these.
GPU_BATCHES = {"p4resnet18_224": 64, "p4resnet44_32": 128}


def check():
    """Every layer and network commutes with the group where it should: proof that the filters are gathered right."""
    torch.manual_seed(0)
    for group, order in ORDER.items():
        conv = GroupConv(group, 2, 3, 3, 1, 1).double()
        x = torch.randn(2, 2, order, 6, 6, dtype=torch.double)
        y = lambda x: conv(x.flatten(1, 2)).unflatten(1, (3, order))
        for g in range(order):
            error = (y(transform(x, g, order)) - transform(y(x), g, order)).abs().max().item()
            assert error < 1e-9, f"{group}: element {g}: {error}"
    for name in ("p4cnn", "p4mcnn"):
        net = NETWORKS[name][0]().double().eval()
        x = torch.randn(2, 1, 28, 28, dtype=torch.double)
        error = max((net(act(g, x)) - net(x)).abs().max().item() for g in range(net.order))
        assert error < 1e-9, f"{name}: {error}"


def seconds_per_call(call, args, device):
    """The median over repetitions that fill about `args.seconds`, after a warm-up."""
    sync = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    for _ in range(min(3, args.least)):
        call()
    sync()
    times, begun = [], time.perf_counter()
    while time.perf_counter() - begun < args.seconds or len(times) < args.least:
        start = time.perf_counter()
        call()
        sync()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def variants(device, with_compile):
    """(name, memory format, compiled, captured as a CUDA graph, TF32)."""
    first, last = torch.contiguous_format, torch.channels_last
    kinds = [("eager", first, False, False), ("channels_last", last, False, False)]
    if with_compile:
        kinds.append(("compile", first, True, False))
    if device.type == "cuda":
        kinds.append(("CUDA graph", first, False, True))
        if with_compile:
            kinds += [("compile, CUDA graph", first, True, True), ("compile, last, CUDA graph", last, True, True)]
    for name, *kind in kinds:
        for tf32 in (False, True) if device.type == "cuda" else (False,):
            yield name + (" TF32" if tf32 else ""), *kind, tf32


def captured(call):
    """The call as a CUDA graph: after a few runs on a stream of their own, for nothing may be set up while it records."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(name, device, args, row):
    build, shape, batches, evaluated = NETWORKS[name]
    on_gpu = device.type == "cuda"
    if on_gpu and name in GPU_BATCHES:
        batches, evaluated = (GPU_BATCHES[name],), GPU_BATCHES[name]
    torch.backends.cudnn.benchmark = True
    for label, layout, compiled, graph, tf32 in variants(device, not args.no_compile):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        for batch, training in [(n, True) for n in batches] + [(evaluated, False)]:
            torch.manual_seed(0)
            net = build().to(device).train(training)
            images = torch.rand(batch, *shape, device=device).to(memory_format=layout)
            labels = torch.arange(batch, device=device) % 10
            forward = torch.compile(net) if compiled else net
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-5, fused=on_gpu, capturable=on_gpu)

            def step():
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(forward(images), labels).backward()
                optimizer.step()

            def evaluate():
                with torch.inference_mode():
                    forward(images)

            what = f"{'train_step' if training else 'evaluate'}/{name}/n{batch}"
            try:
                call = step if training else evaluate
                row(what, label, seconds_per_call(captured(call) if graph else call, args, device))
            except Exception as error:  # a variant that does not run here is told, and the others go on
                print(f"{what:<34} {label}: does not run: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)


def measure_escnn(device, args, row):
    """P4CNN's training step with escnn's regular fields."""
    from escnn import gspaces, nn as enn

    space = gspaces.rot2dOnR2(N=4)
    image, field = enn.FieldType(space, [space.trivial_repr]), enn.FieldType(space, 10 * [space.regular_repr])
    layers, source = [], image
    for i, (k, p) in enumerate([(3, 1)] * 6 + [(4, 0)]):
        layers += [enn.R2Conv(source, field, k, padding=p), enn.InnerBatchNorm(field), enn.ReLU(field)]
        if i in (0, 2, 3, 4):
            layers.append(enn.PointwiseDropout(field, 0.3))
        if i == 1:
            layers.append(enn.PointwiseMaxPool(field, 2))
        source = field
    body, linear = enn.SequentialModule(*layers).to(device), nn.Linear(10, 10).to(device)
    optimizer = torch.optim.Adam([*body.parameters(), *linear.parameters()], lr=0.01, weight_decay=1e-5)
    for batch in (128, 256):
        images, labels = torch.rand(batch, 1, 28, 28, device=device), torch.arange(batch, device=device) % 10

        def step():
            optimizer.zero_grad(set_to_none=True)
            y = body(enn.GeometricTensor(images, image)).tensor
            F.cross_entropy(linear(pooled(y, 4)), labels).backward()
            optimizer.step()

        row(f"train_step/p4cnn/n{batch}", "escnn", seconds_per_call(step, args, device))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="threads on the CPU [default: PyTorch's]")
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each measurement [default: 5]")
    parser.add_argument("--least", type=int, default=5, help="repetitions at least, for large networks [default: 5]")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--csv", help="also write the measurements to this file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    check()

    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"PyTorch {torch.__version__}, {device.type}: {machine}, {torch.get_num_threads()} threads", flush=True)
    rows = []

    def row(what, variant, seconds):
        rows.append((what, variant, 1e3 * seconds))
        print(f"{what:<34} {variant:<24} {1e3 * seconds:10.3f} ms", flush=True)

    for name in args.only:
        measure(name, device, args, row)
    if "p4cnn" in args.only:
        try:
            measure_escnn(device, args, row)
        except ImportError:
            print("escnn is not installed: left out", file=sys.stderr)

    print(f"\n{'fastest':<34}")
    for what in dict.fromkeys(what for what, _, _ in rows):
        _, variant, ms = min((row for row in rows if row[0] == what), key=lambda row: row[2])
        print(f"{what:<34} {variant:<24} {ms:10.3f} ms")
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "variant", "ms"])
            writer.writerows(rows)


if __name__ == "__main__":
    main()
