"""Does the straight line between the first and the last layer predict those between? Compared with a baseline.

python examples/line_and_baseline.py [EPOCHS]
"""

import sys

import ncollapse as nc
from ncollapse.data import Batches, digits
from ncollapse.depth import log_linear, prediction_error
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import TrainConfig, train

data = digits().per_class(174)
net = FCResNet(FCResNetConfig(width=64, num_blocks=5, stem="linear_bn"), data.input_dim, data.num_classes, seed=0)
*_, last = train(net, data, TrainConfig(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 150), seed=0)
print(f"epoch {last.epoch}: loss {last.loss:.4f}")

measured = nc.measure(net, Batches(data, 500), num_classes=10, path=True)
times = measured.path.position("projection")
pfc1, line = measured.curve("pfc1"), measured.geodesic.pfc1(times).tolist()
baseline = log_linear(pfc1[0], pfc1[-1], times)
print(f"{'layer':<10}{'t':>8}{'PFC1':>10}{'line':>10}{'baseline':>10}")
for row in zip(measured.layers, times, pfc1, line, baseline, strict=True):
    print(f"{row[0]:<10}{row[1]:>8.3f}" + "".join(f"{value:>10.4f}" for value in row[2:]))
print(f"RMS error: line {prediction_error(pfc1, line):.3f} decades, baseline {prediction_error(pfc1, baseline):.3f} decades")
verdict = nc.depth.theorem1(measured.geodesic)
print(f"Theorem 1: C = {verdict.correlation:.3g}, so PFC1 {'falls' if verdict.monotone else 'does not fall'} along the line")
