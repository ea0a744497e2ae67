"""When do minority classes merge? Two models of the theory, solved with a certificate.

python examples/minority_collapse.py
"""

from ncollapse.surrogates import (
    UFM,
    LayerPeeled,
    Proximal,
    minority_collapse_ratio,
    minority_cosine,
    minority_threshold,
)

print("Layer-peeled model, 10 classes, 5 of them majorities, E_W = 1, E_H = 5")
for ratio in (1, 2, 5, 10, 12, 13, 100):
    solution = LayerPeeled.imbalanced(10, 5, ratio, energy_w=1.0, energy_h=5.0).solve()
    print(f"  R = {ratio:<5} cosine between minorities {minority_cosine(solution, 5):>7.3f}   gap {solution.gap:.1e}")
print(f"  they merge from R = {minority_threshold(10, 5, energy_w=1.0, energy_h=5.0):.4f} on")
remedied = LayerPeeled.imbalanced(10, 5, 100, energy_w=1.0, energy_h=5.0, oversampling=100).solve()
print(f"  at R = 100 with minorities drawn 100 times as often: {minority_cosine(remedied, 5):.3f}")

print("Unconstrained features model, cross-entropy, 2 majorities, 3 minorities of 3 samples, decays 0.03")
threshold = minority_collapse_ratio(2, 3, lambda_w=0.03, lambda_h=0.03, minority_count=3)
for majority in (12, 24, 25, 40):
    model = UFM((majority,) * 2 + (3,) * 3, dim=5, loss="cross_entropy", lambda_w=0.03, lambda_h=0.03)
    solution = model.solve(Proximal())
    print(f"  R = {majority / 3:<7.3f} cosine between minorities {minority_cosine(solution, 2):>7.3f}   {solution.status}")
print(f"  in closed form: from R = {threshold:.4f} on")
