"""The unconstrained features model: every loss and bias in closed form, beside three solvers.

python examples/unconstrained_features.py [STEPS]
"""

import sys

from ncollapse.surrogates import LBFGS, UFM, GradientDescent, Proximal

LOSSES = {
    "mse": {"loss": "mse"},
    "mse, free bias": {"loss": "mse", "bias": "free"},
    "mse, regularized bias": {"loss": "mse", "bias": "regularized", "lambda_b": 0.05},
    "cross-entropy": {"loss": "cross_entropy"},
}
STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
SOLVERS = {
    "proximal": Proximal(),
    "L-BFGS": LBFGS(),
    "gradient descent": GradientDescent(learning_rate=0.5, max_iterations=STEPS),
}

for name, options in LOSSES.items():
    model = UFM((5,) * 4, dim=5, lambda_w=5e-3, lambda_h=2e-3, **options)
    closed = model.closed_form()
    print(f"{name}: {closed.value:.13f}, {closed.certificate.inequality}")
    for method, solver in SOLVERS.items():
        found = model.solve(solver, allow_unconverged=True)
        print(f"  {method:<17} value - closed form {found.value - closed.value:>9.2e}   gap {found.gap:>9.2e}")
    angles = closed.metrics(["pfc1", "pfc2", "nc2_etf_weights"])
    print("  " + ", ".join(f"{metric} {value:.6f}" for metric, value in angles.items()))
