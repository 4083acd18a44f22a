"""Runs a plain network, which `export --plain FILE` has written, in PyTorch.

    network = load("out.safetensors")
    logits = network(images)  # [N, C, H, W]
"""

import json, sys, torch, torch.nn.functional as F
from safetensors import safe_open

CALLS = """conv2d conv_transpose2d batch_norm linear relu silu gelu sigmoid tanh softplus max_pool2d avg_pool2d interpolate
    amax mean unflatten pad add""".split()
OPERATIONS = {name: getattr(F, name, None) or getattr(torch, name) for name in CALLS}
OPERATIONS["concat"] = lambda *maps: torch.cat(maps, 1)
OPERATIONS["index_select"] = lambda map, dim, index: map.index_select(dim, torch.tensor(index))


def load(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        steps = json.loads(file.metadata()["plain"])["steps"]

    def network(images):
        values = [images]
        for step in steps:
            named = {role: tensors[name] for role, name in step["tensors"].items()}
            inputs = (values[index] for index in step["inputs"])
            values.append(OPERATIONS[step["op"]](*inputs, **named, **step["options"]))
        return values[-1]

    return network


# Adaptive subsampling: a map is sampled on the one of its four grids that has the largest sum of squares, each rounded to an
# integer, so that the choice turns with the map. Networks without it need nothing from here on.


def parted(map):
    """Rows and columns by the grid that they belong to: [N, C, H/2, 2, W/2, 2], an odd extent filled up with zeros."""
    height, width = map.shape[2:]
    map = F.pad(map, (0, width % 2, 0, height % 2))
    return map.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))


def choose_grid(map, inset, extents, bits, spare):
    """What each grid counts for, [N, 4]: those with the largest score equally."""
    map = F.pad(map, (-inset,) * 4)
    largest = map.abs().amax((2, 3), keepdim=True).double().clamp(2.0**-103, 2.0**125)
    exponent = torch.floor(torch.log2(largest) + 1e-10)
    scaled = map * torch.exp2(bits // 2 - 1 - exponent).float()
    terms = scaled.square().clamp(max=2.0**bits).round().double()
    sums = parted(terms).sum((2, 4)).flatten(2)  # [N, C, 4]
    exponent = exponent.flatten(1)
    shift = 2 * (exponent.amax(1, keepdim=True) - exponent) + spare
    scores = torch.floor(sums * torch.exp2(-shift).unsqueeze(2)).sum(1)
    # A grid that begins at 1 exists along an even extent alone.
    exists = [[a + extents[0] % 2 < 2 and b + extents[1] % 2 < 2 for b in range(2)] for a in range(2)]
    scores = scores.masked_fill(~torch.tensor(exists).flatten(), -1)
    chosen = (scores == scores.amax(1, keepdim=True)).float()
    return chosen / chosen.sum(1, keepdim=True)


def subsample(map, weights):
    return (parted(map) * weights.view(-1, 1, 1, 2, 1, 2)).sum((3, 5))


def move_onto_grid(map, weights, before, behind, extents):
    height, width = extents
    map = F.pad(map, (before, behind[1], before, behind[0]))
    moved = [map[:, :, a : a + height, b : b + width] for a in range(2) for b in range(2)]
    return sum(weights[:, i].view(-1, 1, 1, 1) * moved[i] for i in range(4))


def grid_upsample(samples, weights=None, *, extents):
    weights = torch.tensor([[1.0, 0.0, 0.0, 0.0]]) if weights is None else weights
    map = samples[:, :, :, None, :, None] * weights.view(-1, 1, 1, 2, 1, 2)
    return map.flatten(4, 5).flatten(2, 3)[:, :, : extents[0], : extents[1]]


OPERATIONS |= {f.__name__: f for f in (choose_grid, subsample, move_onto_grid, grid_upsample)}

if __name__ == "__main__":
    # A network and images `[N, C, H, W]` in a safetensors file: the results for the upright images and for each quarter turn.
    with safe_open(sys.argv[2], "pt") as file:
        images = file.get_tensor("images")
    print(load(sys.argv[1])(images))
