"""Nearly collapsed data: how much closer to collapse the multilayer model brings them, by formula and solved.

python examples/near_collapse.py
"""

from ncollapse.surrogates import NearCollapse, balanced

model = NearCollapse(balanced(4, 25), scale=1.3, lambda_w=0.05, lambda_h=0.02)
print(f"w = {model.weight_scale:.10f}, m = {model.feature_scale:.10f}, σ = {model.shrink:.10f}")
for noise in (0.1, 0.03, 0.01, 0.003):
    inputs, labels = model.inputs(dim=12, noise=noise, seed=0)
    problem, spread = model.problem(inputs, labels), model.spread(inputs)
    solved = problem.solve()
    before = problem.solution({**solved.variables, "features": inputs}, "data").metrics(["pfc1"])["pfc1"]
    ratio = solved.metrics(["pfc1"])["pfc1"] / before
    print(f"noise {noise}: PFC1 falls to {ratio:.6f} of the data's, formula {model.ratio(*spread):.6f}")
by_cost, by_decay = model.sensitivities(*spread)
print(f"d log PFC1 ratio: {by_cost:.4f} per d log λ_H, {by_decay:.4f} per d log λ_W")
