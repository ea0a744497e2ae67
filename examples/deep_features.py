"""The deep unconstrained features model: thresholds in closed form, and where low rank beats deep neural collapse.

python examples/deep_features.py
"""

from ncollapse.surrogates import LBFGS, DeepUFM, collapse_threshold, layer_ranks, low_rank_start


def model(num_classes: int, num_layers: int, share: float, **options) -> DeepUFM:
    """Two samples per class, all decays alike, at a share of the decay at which the features vanish."""
    threshold = collapse_threshold(2**0.5, num_layers) / (2 * num_classes) ** (num_layers + 1)
    decay = share * threshold ** (1 / (num_layers + 1))
    return DeepUFM((2,) * num_classes, 2 * num_classes, lambdas_w=(decay,) * num_layers, lambda_h=decay, **options)


for depth in (1, 2, 3):
    values = [model(3, depth, share).closed_form() for share in (0.5, 0.9, 0.999, 1.001)]
    print(f"linear, M = {depth}: " + ", ".join(f"{found.value:.10f}" for found in values))

for num_classes, depth in [(6, 3), (6, 4), (6, 5), (10, 3), (10, 4)]:
    deep = model(num_classes, depth, 0.5, activation="relu")
    found = deep.solve(LBFGS(max_iterations=200), start=low_rank_start(deep), allow_unconverged=True)
    ranks = layer_ranks(deep.layers(found.variables))
    print(f"ReLU, K = {num_classes}, M = {depth}: low rank / deep collapse = {found.value / deep.minimum:.4f}, ranks {ranks}")
