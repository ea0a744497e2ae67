"""Neural collapse goes on after the training error is zero: ten times as long after it, every metric is smaller."""

import pytest

from ncollapse.data import gaussian_mixture
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure
from ncollapse.train import TrainConfig, train

METRICS = ["nc1", "nc2_equinorm", "nc2_equiangularity", "nc3", "nc4_mismatch"]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_metrics_ten_times_beyond_zero_error(loss):
    data = gaussian_mixture(4, 20, 50, seed=3)
    batches = [(data.inputs, data.labels)]
    model = FCResNet(FCResNetConfig(width=32, num_blocks=2, normalization="pre"), 20, 4, seed=0)
    config = TrainConfig(epochs=400, batch_size=50, learning_rate=0.05, weight_decay=1e-2, milestones=(), loss=loss)

    def metrics():
        found = measure(model, batches, num_classes=4, metrics=[*METRICS, "accuracy"])
        return {row.metric: row.value for row in found.rows if row.depth == 2}

    first, first_epoch = None, config.epochs
    for record in train(model, data, config, seed=0):
        if first is None:
            measured = metrics()
            if measured["accuracy"] == 1:
                first, first_epoch = measured, record.epoch
        elif record.epoch == 10 * first_epoch:
            break
    last = metrics()
    assert first_epoch <= 40
    for metric in METRICS[:-1]:
        assert last[metric] < first[metric], metric
    assert last["nc1"] < first["nc1"] / 5
    assert last["nc4_mismatch"] == 0 <= first["nc4_mismatch"]
