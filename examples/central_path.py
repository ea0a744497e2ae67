"""The renormalized flow on the central path of the squared loss, beside its exact law.

python examples/central_path.py
"""

from ncollapse.surrogates import CentralPath, balanced, signal_after

model = CentralPath(balanced(4, 40), dim=10)
start = model.start(0)
signals = model.signals(start["features"]).tolist()
end = model.flow(start, duration=2e5, num_steps=400)
for number in (0, 1, 4, 40, 400):
    found, time = model.signals(end.path[number]["features"]).tolist(), end.times[number]
    law = [signal_after(signal, time, counts=balanced(4, 40)) for signal in signals]
    worst = max(abs(a / b - 1) for a, b in zip(found, law, strict=True))
    within, means = model.losses(end.path[number]["features"])
    shown = ", ".join(f"{signal:.4f}" for signal in found)
    print(f"t = {time:>6g}: signals {shown} (off the law by {worst:.0e}), loss NC1 {within:.2e}, NC2/3 {means:.2e}")
