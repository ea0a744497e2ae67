"""Tight frames with thresholds concentrate sparse classes; absolute values separate signs.

python examples/tight_frames.py [FIGURE.png]
"""

import sys

import torch

from ncollapse.models import TightFrameBlock, parseval_step
from ncollapse.probe import measure_features

generator = torch.Generator().manual_seed(0)
frame = torch.randn(512, 256, generator=generator, dtype=torch.float64)
frame = 0.5**0.5 * torch.nn.functional.normalize(frame, dim=1)
for number in range(91):
    if number % 30 == 0:
        error = float(torch.linalg.norm(frame.T @ frame - torch.eye(256)))
        print(f"after {number:>2} Parseval steps: ‖F^T F − I‖ = {error:.2e}")
    frame = parseval_step(frame, rate=0.3)

means = torch.zeros(5, 256, dtype=torch.float64)
for spot in range(20):
    means[spot // 4, spot] = 5 if spot % 10 < 7 else -5
labels = torch.arange(5).repeat_interleave(400)
noise = torch.randn(2000, 256, generator=generator, dtype=torch.float64)
blocks = {"input": None}
blocks |= {f"soft threshold {level}": TightFrameBlock(torch.eye(256).double(), "softshrink", level) for level in (1.0, 1.5)}
blocks |= {f"relu {level}": TightFrameBlock(torch.eye(256).double(), "relu", level) for level in (1.0, 1.5)}
for name, block in blocks.items():
    inputs = means[labels] + noise
    features = inputs if block is None else block(inputs).detach()
    ratio = measure_features(features, labels, num_classes=5, metrics=["pfc1"]).value("pfc1")
    print(f"sparse classes, {name:<20} tr Σ_W / tr Σ_B = {ratio:.3f}")

if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes, inputs, levels = figure.subplots(), means[labels] + noise, [0.25 * step for step in range(13)]
    for kind, word in (("softshrink", "soft threshold"), ("relu", "relu")):
        outputs = (TightFrameBlock(torch.eye(256).double(), kind, level)(inputs).detach() for level in levels)
        ratios = [measure_features(h, labels, num_classes=5, metrics=["pfc1"]).value("pfc1") for h in outputs]
        axes.plot(levels, ratios, label=word)
    axes.set(xlabel="threshold", ylabel="PFC1 of sparse classes", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1])

signs = torch.randn(2000, 1, generator=generator, dtype=torch.float64).sign()
for name, block in {"input": None, "abs": TightFrameBlock(torch.eye(256).double(), "abs")}.items():
    inputs = signs * means[labels] + noise
    features = inputs if block is None else block(inputs).detach()
    fit, test = torch.arange(2000) % 2 == 0, torch.arange(2000) % 2 == 1
    centers = torch.stack([features[fit & (labels == k)].mean(dim=0) for k in range(5)])
    right = torch.cdist(features[test], centers).argmin(dim=1) == labels[test]
    print(f"classes of either sign, {name:<6} accuracy of the nearest center {float(right.double().mean()):.3f}")
