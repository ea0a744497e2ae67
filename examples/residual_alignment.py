"""Do the blocks of a residual network come to share their singular vectors? RA1 to RA4 before and after training.

python examples/residual_alignment.py [EPOCHS] [HEATMAP.png]
"""

import sys

from ncollapse.analysis import residual_alignment
from ncollapse.data import digits
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.train import TrainConfig, train

data = digits().per_class(60)
net = FCResNet(FCResNetConfig(width=64, num_blocks=5, stem="linear_bn"), data.input_dim, data.num_classes, seed=0)
blocks, samples = [f"blocks.{index}" for index in range(5)], data.inputs[:5]

before = residual_alignment(net, samples, blocks=blocks, num_directions=data.num_classes)
list(train(net, data, TrainConfig(epochs=int(sys.argv[1]) if len(sys.argv) > 1 else 200), seed=0))
after = residual_alignment(net, samples, blocks=blocks, num_directions=data.num_classes)

print("before training:", before)
print("after training: ", after)
print(f"shared frames of different blocks (RA2): {before.off_diagonal:.2f} to {after.off_diagonal:.2f}")
if len(sys.argv) > 2:
    after.plot().savefig(sys.argv[2])
