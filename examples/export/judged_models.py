"""Exports torchvision's models with random weights, for `exactness --onnx`: `judged_models.py FOLDER`, with torchvision and onnx."""

import pathlib, sys, torch, torchvision

models, folder = torchvision.models, pathlib.Path(sys.argv[1])
# Sizes, not weights, are judged. These ask for the size while they are exported.
FIXED = ("alexnet", "vgg11", "vit_b_32", "swin_t")
NAMES = """alexnet vgg11 resnet18 resnet50 densenet121 googlenet inception_v3 squeezenet1_1 mobilenet_v2 mobilenet_v3_small
    efficientnet_b0 mnasnet0_5 shufflenet_v2_x0_5 convnext_tiny vit_b_32 swin_t""".split()

for name in NAMES:
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    axes = None if name in FIXED else {"images": {0: "batch", 2: "height", 3: "width"}}
    network = getattr(models, name)(weights=None, **options).eval()
    torch.onnx.export(
        network, (torch.zeros(1, 3, 224, 224),), folder / f"{name}.onnx",
        input_names=["images"], dynamic_axes=axes, dynamo=False, opset_version=17,
    )
