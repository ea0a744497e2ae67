"""SVAG on a noisy quadratic: the stationary variance of 20,000 chains falls with l to that of the stochastic equation.

python examples/amplified_gradients.py
"""

import torch

from ncollapse.train import SVAG, ou_variance

RATE, NOISE, TIME = 0.3, 1.0, 40.0
generator = torch.Generator().manual_seed(0)
for splits in (1, 2, 4, 8):
    svag = SVAG(splits)
    first, second = svag.weights
    chains = torch.zeros(20_000, dtype=torch.float64)
    for _ in range(svag.num_steps(round(TIME / RATE))):
        noise = NOISE * torch.randn(2, len(chains), generator=generator, dtype=torch.float64)
        chains -= svag.learning_rate(RATE) * (chains + first * noise[0] + second * noise[1])
    expected = ou_variance(RATE, NOISE, splits)
    print(f"l = {splits}: stationary variance {expected:.5f}, of the chains {float(chains.var()):.5f}")
print(f"limit of the stochastic equation: {RATE * NOISE**2 / 2:.5f}")
