"""Batch normalization and weight normalization under the squared loss: closed forms, and descent from above.

python examples/normalized_networks.py
"""

import torch

from ncollapse.surrogates import LBFGS, BatchNormNet, WeightNormalizedNet, best_norm, margin_variation

generator = torch.Generator().manual_seed(0)
labels = torch.arange(4).repeat_interleave(5)
inputs = torch.randn(20, 40, generator=generator, dtype=torch.float64)
for beta in (0.1, 0.5, 1.0):
    model = BatchNormNet(inputs, labels, lambda_w=beta, width=20)
    closed = model.closed_form()
    found = model.solve(LBFGS(max_iterations=200), seed=0, allow_unconverged=True)
    gamma, alpha = (float(closed.variables[name][0] / model.sizes[0].sqrt()) for name in ("gamma", "alpha"))
    print(f"batch norm, β = {beta}: γ = {gamma:.7f}, α = {alpha:.7f}, minimum {model.minimum:.8f}, L-BFGS {found.value:.8f}")

labels = torch.arange(2).repeat_interleave(10)
inputs = 0.3 * torch.randn(20, 10, generator=generator, dtype=torch.float64)
inputs[:, 0] += 2 * labels - 1
for decay in (1e-2, 1e-3, 1e-4):
    net = WeightNormalizedNet(inputs, labels, lambda_w=decay)
    found = net.solve(LBFGS(max_iterations=200), seed=0, allow_unconverged=True)
    margins = net.margins(found.variables)
    before, after = margin_variation(net.margins(net.start(0))), margin_variation(margins)
    rho, formula = float(found.variables["rho"]), best_norm(margins, lambda_w=decay)
    print(f"weight norm, λ = {decay:g}: margins vary by {after:.4f} (start {before:.2f}), ρ = {rho:.5f}, formula {formula:.5f}")
