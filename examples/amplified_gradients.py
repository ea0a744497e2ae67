"""SVAG on a noisy quadratic: the stationary variance of 20,000 chains falls with l to that of the stochastic equation.

python examples/amplified_gradients.py [FIGURE.png]
"""

import sys

import torch

from ncollapse.train import SVAG, ou_variance

RATE, NOISE, TIME = 0.3, 1.0, 40.0
generator = torch.Generator().manual_seed(0)
found: dict[int, tuple[float, float]] = {}
for splits in (1, 2, 4, 8):
    svag = SVAG(splits)
    first, second = svag.weights
    chains = torch.zeros(20_000, dtype=torch.float64)
    for _ in range(svag.num_steps(round(TIME / RATE))):
        noise = NOISE * torch.randn(2, len(chains), generator=generator, dtype=torch.float64)
        chains -= svag.learning_rate(RATE) * (chains + first * noise[0] + second * noise[1])
    expected = ou_variance(RATE, NOISE, splits)
    found[splits] = expected, float(chains.var())
    print(f"l = {splits}: stationary variance {expected:.5f}, of the chains {found[splits][1]:.5f}")
limit = RATE * NOISE**2 / 2
print(f"limit of the stochastic equation: {limit:.5f}")
if len(sys.argv) > 1:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(found), [expected for expected, _ in found.values()], "--", label="theory")
    axes.plot(list(found), [measured for _, measured in found.values()], "o", label="20,000 chains")
    axes.axhline(limit, color="gray", linestyle=":", label="stochastic equation")
    axes.set(xlabel="l (1 is SGD)", ylabel="stationary variance", xscale="log", xticks=list(found), xticklabels=list(found))
    axes.minorticks_off()
    axes.legend(frameon=False)
    figure.savefig(sys.argv[1])
