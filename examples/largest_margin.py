"""Cross-entropy without decay: the margin that weight and free features come to, and a homogeneous network past underflow.

python examples/largest_margin.py
"""

import torch

from ncollapse.data import gaussian_mixture
from ncollapse.margins import normalized_margins
from ncollapse.surrogates import MarginFlow, MaxMargin
from ncollapse.train import train_by_loss

for counts in ((4, 4, 4), (12, 8, 5, 1)):
    model = MaxMargin(counts, dim=5)
    closed = model.closed_form()
    print(f"counts {counts}: least half squared norms {closed.value:.6f}, gap {closed.gap:.0e}")
    for steps in (300, 1000, 2000):
        found = model.solve(MarginFlow(num_steps=steps), allow_unconverged=True)
        margin = 0.5 / found.value
        print(f"  flow, {steps:>4} steps: normalized margin {margin:.5f} of {model.largest_margin:.5f}, {found.source}")

data = gaussian_mixture(num_classes=4, dim=10, per_class=20, components=1)
torch.manual_seed(0)
layers = [torch.nn.Linear(10, 30, bias=False), torch.nn.ReLU(), torch.nn.Linear(30, 4, bias=False)]
net = torch.nn.Sequential(*layers).double()
for record in train_by_loss(net, data, epochs=1000, alpha=1e-2, adapt=False):
    if record.epoch in (30, 100, 300, 1000):
        norm = float(torch.nn.utils.parameters_to_vector(net.parameters()).detach().norm())
        logits = net(data.inputs.double()).detach()
        exact, smoothed = normalized_margins(logits, data.labels, norm, order=2)
        print(f"network, epoch {record.epoch:>4}: log loss {record.log_loss:>9.2f}, margins {smoothed:.4f} <= {exact:.4f}")
