"""A classifier fixed as a simplex ETF under class imbalance, beside a trained one.

python examples/fixed_classifier.py
"""

import torch

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.surrogates import FixedETF, weight_forces
from ncollapse.train import TrainConfig, train

for counts in ((60,) * 6, (60, 60, 60, 3, 3, 3)):
    solution = FixedETF(counts, dim=6).solve()
    print(f"free features, counts {counts}: minimum {solution.value:.1e}, gap {solution.gap:.1e}")

data = gaussian_mixture(6, 20, 60, components=1, radius=3.0, noise=0.6, seed=2)
data = data.subset(torch.cat([60 * k + torch.arange(60 if k < 3 else 3) for k in range(6)]))
pull, push = weight_forces(torch.zeros(6, 20).double(), data.inputs.double().abs(), data.labels)
ratio = torch.linalg.vector_norm(push, dim=1) / torch.linalg.vector_norm(pull, dim=1)
print("push over pull on rows of a trained classifier at the start:", [round(x, 1) for x in ratio.tolist()])

for head, loss in (("fixed_etf", "dot_regression"), ("linear", "cross_entropy")):
    net = FCResNet(FCResNetConfig(width=32, num_blocks=1, normalization="none", head=head), 20, 6, seed=0)
    *_, last = train(net, data, TrainConfig(epochs=60, batch_size=16, weight_decay=0.0, loss=loss), seed=0)
    with torch.no_grad():
        features = net.blocks(net.stem(data.inputs))
    means = torch.stack([features[data.labels == k].mean(dim=0) for k in range(6)])
    unit = torch.nn.functional.normalize(means, dim=1)
    cosine = (unit[3:] @ unit[3:].T)[~torch.eye(3, dtype=torch.bool)].mean()
    print(f"{head}: accuracy {last.accuracy:.3f}, cosine between minority means {float(cosine):.3f} (the frame's: -0.2)")
