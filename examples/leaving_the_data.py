"""The multilayer model: how features leave the data as moving gets cheaper, and what is proven about them.

python examples/leaving_the_data.py
"""

from ncollapse.data import gaussian_mixture
from ncollapse.surrogates import MUFM, UFM, alignment, collapse_progress, growth_threshold

data = gaussian_mixture(num_classes=4, dim=20, per_class=50, components=1, radius=1.0, noise=0.3, seed=0)
inputs, labels = data.inputs.double(), data.labels
print(f"{'λ_H':>8}{'objective':>12}{'gap':>10}{'PFC1':>9}{'PFC2':>9}{'cosine':>9}{'λ_crit/λ_H':>12}")
falls = []
for lambda_h in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
    model = MUFM(inputs, labels, lambda_w=5e-3, lambda_h=lambda_h)
    solution = model.solve()
    progress, cosine = collapse_progress(model, solution.variables), alignment(solution.variables["features"], inputs)[0]
    falls.append(progress.pfc1[1] <= progress.pfc1[0])
    pfc2, ratio = solution.metrics(["pfc2"])["pfc2"], growth_threshold(model, solution.variables).inequality.left / lambda_h
    row = f"{lambda_h:>8.0e}{solution.value:>12.6f}{solution.gap:>10.1e}{progress.pfc1[1]:>9.4f}{pfc2:>9.4f}"
    print(row + f"{cosine:>9.4f}{ratio:>12.4f}")
print(f"data: PFC1 {progress.pfc1[0]:.4f}; features never more spread out than the data: {all(falls)}")
unconstrained = UFM((50,) * 4, dim=20, loss="mse", lambda_w=5e-3, lambda_h=1e-3).closed_form()
print(f"without data, λ_H = 1e-03: objective {unconstrained.value:.6f}, {unconstrained.certificate.inequality}")
