"""Locally elastic equations: the separation threshold, and their rates estimated from a network trained on shapes.

python examples/locally_elastic.py [ITERATIONS]
"""

import math
import sys

import torch

from ncollapse.data import geo_mnist
from ncollapse.models import LeNet
from ncollapse.surrogates import LocallyElasticSDE, estimate_integrals, pairwise_separability, smooth_rate, tail_index
from ncollapse.train import record_class_logits

print("two classes, six standard deviations apart at t = 1: share on the right side at t = 50, 500, 5000")
initial = torch.tensor([[3.0], [-3.0]])
for name, rate in {
    "2 t^-1/2": lambda t: 2 * t**-0.5,
    "4/t": lambda t: 4 / t,
    "1/2t": lambda t: 0.5 / t,
    "2 t^-3/2": lambda t: 2 * t**-1.5,
}.items():
    sde = LocallyElasticSDE(2, kind="I", alpha=rate, beta=0.0, start_time=1.0)
    shares = []
    for end in (50, 500, 5000):
        times = torch.logspace(0, math.log10(end), 401, dtype=torch.float64)
        times[0] = 1.0
        shares.append(pairwise_separability(sde.simulate(initial, times, counts=(500, 500), noise=1.0)))
    print(f"  γ = {name:<9}" + "".join(f"{share:>8.3f}" for share in shares))

iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
data = geo_mnist(per_class=50)
path = record_class_logits(LeNet(3, seed=0), data, iterations=max(iterations, 310), learning_rate=0.005, every=2)
times = path.iterations[1:].double()
for model in ("I", "L"):
    found = estimate_integrals(path.means, kind=model)
    rate = smooth_rate(found.alpha, 2.0)
    index = tail_index(found.alpha[1:], times, last=len(times) // 5)
    words = f"A = {float(found.alpha[-1]):.2f}, B = {float(found.beta[-1]):.2f}, last α = {float(rate[-1]):.1e}"
    print(f"network on GeoMNIST, {model}-model: {words}, tail index {index:.2f}")
means = path.means - path.means.mean(dim=1, keepdim=True)
unit = torch.nn.functional.normalize(means[-1], dim=1)
print(f"cosines between class-mean logits: {[round(float((unit @ unit.T)[i, j]), 3) for i, j in ((0, 1), (0, 2), (1, 2))]}")
