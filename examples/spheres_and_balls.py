"""Cross-entropy on spheres and in balls: simplexes where they fit, other codes where they do not.

python examples/spheres_and_balls.py
"""

from ncollapse.surrogates import BoundedOutputs, NormalizedFeatures, average_by_class, balanced

for temperature in (1.0, 2.0, 5.0, 10.0):
    model = NormalizedFeatures(balanced(5, 2), dim=8, temperature=temperature)
    found = model.solve(seed=0)
    print(f"sphere, K = 5, τ = {temperature:g}: minimum {model.minimum:.10f}, Riemannian descent above it by {found.gap:.0e}")
for dim in (2, 3, 4, 5):
    found = NormalizedFeatures(balanced(5, 1), dim, temperature=5.0).solve(seed=0)
    print(f"sphere of dimension {dim - 1}: {found.value:.6f}, {found.gap:.6f} above the bound")

for num_classes in (2, 3, 10):
    model = BoundedOutputs((3,) * num_classes, radius=4.0)
    found, start = model.solve(seed=0), model.start(0)
    averaged = {"features": average_by_class(start["features"], model.labels)}
    risks = [float(model.objective(point)) for point in (start, averaged)]
    print(f"ball, K = {num_classes}: minimum {model.minimum:.10f}, projected descent above it by {found.gap:.0e}")
    print(f"  averaging random outputs by class: {risks[0]:.4f} -> {risks[1]:.4f}")
