"""The gradient flow of the squared loss without decay: strong collapse from small starts, to the order of their size.

python examples/strong_collapse.py
"""

from ncollapse.surrogates import UnregularizedUFM, balanced, collapsed_eigenvalue

model = UnregularizedUFM(balanced(3, 4), dim=5)
for size in (1.0, 1e-2, 1e-4):
    start = {name: size * part for name, part in model.start(0).items()}
    end = model.flow(start, duration=25, num_steps=1500)
    errors = end.metrics(["snc1", "snc2", "snc3"])
    words = ", ".join(f"{name} {value:.1e}" for name, value in errors.items())
    print(f"start of size {size:g}: loss {end.value:.0e}, {words}, conserved to {model.conserved_drift(end):.0e}")

end = model.flow(model.collapsed_start(0.01), duration=3, num_steps=300)
for time, point in list(zip(end.times, end.path, strict=True))[::60]:
    found = float(point["weight"].square().sum()) / 2
    print(f"t = {time:.1f}: eigenvalue {found:.8f}, closed form {collapsed_eigenvalue(0.01, time, counts=((4),)):.8f}")
