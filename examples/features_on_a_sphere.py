"""The generalized model: its optima in closed form, solved, and why depth brings networks near them.

python examples/features_on_a_sphere.py
"""

import torch

from ncollapse.surrogates import GUFM, balanced, great_circle_blocks, layer_norm

for num_classes, decay in [(4, 0.005), (4, 0.05), (10, 0.005), (10, 0.0025), (2, 0.005)]:
    model = GUFM(balanced(num_classes, 2), dim=num_classes + 2, loss="cross_entropy", lambda_w=decay)
    solution = model.solve()
    distance = model.distance(solution.variables["weight"], solution.variables["features"])
    print(f"K = {num_classes}, λ = {decay}: s = {model.scale:.10f}, minimum {model.minimum:.10f}")
    print(f"  L-BFGS: above it by {solution.gap:.1e}, distance to the optima {distance:.1e}")

start, end = layer_norm(torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
for num_blocks in (4, 8, 16, 32, 64):
    blocks, feature = great_circle_blocks(start, end, num_blocks), start[None]
    for block in blocks:
        feature = layer_norm(feature + torch.relu(feature @ block.T))
    cost = sum(float(block.square().sum()) for block in blocks)
    error = float(torch.linalg.norm(feature[0] - end))
    print(f"{num_blocks:>3} blocks turn a feature: Σ‖W‖² = {cost:.4f}, L Σ‖W‖² = {num_blocks * cost:.2f}, error {error:.0e}")
