"""Two processes: a network split between them is refused, with advice that gives the right table; copies are measured."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ncollapse import CollapseMetrics, collect_features, find_layers, measure, measure_features, watch
from ncollapse.torchrun import leave

X, Y = torch.randn(24, 6, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def sharded(mesh):
    model = network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def sharded_of_old(mesh):
    return FullyShardedDataParallel(network(), device_id=torch.device("cpu"))


def parallel(mesh):
    return parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


def check_copies():
    """Copies inside of a module wait for nobody, and a backward pass that comes after a measurement takes place."""
    copied = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    inside = nn.Sequential(nn.parallel.DistributedDataParallel(copied), nn.Tanh())
    if dist.get_rank() == 0:
        measure(inside, [(X, Y)], num_classes=3)
    assert inside[0].broadcast_buffers
    loss = inside(X).square().sum()
    measure(inside[0], [(X, Y)], num_classes=3, group=dist.group.WORLD)
    loss.backward()


def check_features(mesh):
    """Features, labels and a classifier of which each process holds a part are refused in one sentence."""
    split = distribute_tensor(X, mesh, [Shard(0)])
    weight = torch.ones(3, 6)
    refused = {
        "features": [
            lambda: measure_features(split, Y, num_classes=3),
            lambda: CollapseMetrics(num_classes=3).update(split, Y),
        ],
        "labels": [lambda: measure_features(X, distribute_tensor(Y, mesh, [Shard(0)]), num_classes=3)],
        "weight": [
            lambda: measure_features(X, Y, num_classes=3, classifier=(distribute_tensor(weight, mesh, [Replicate()]), None))
        ],
        "bias": [
            lambda: measure_features(
                X, Y, num_classes=3, classifier=(weight, distribute_tensor(torch.ones(3), mesh, [Replicate()]))
            )
        ],
    }
    for name, calls in refused.items():
        for call in calls:
            with pytest.raises(TypeError, match=rf"{name} must be whole on every process, got a DTensor\. .*full_tensor\(\)"):
                call()
    assert measure_features(split.full_tensor(), Y, num_classes=3).rows == measure_features(X, Y, num_classes=3).rows


if __name__ == "__main__":
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    expected = measure(network(), [(X, Y)], num_classes=3)
    for make in (sharded, sharded_of_old, parallel):
        model = make(mesh)
        calls = [
            lambda model=model: measure(model, [(X, Y)], num_classes=3),
            lambda model=model: measure(model, [(X, Y)], num_classes=3, group=dist.group.WORLD),
            lambda model=model: collect_features(model, [(X, Y)], num_classes=3),
            lambda model=model: find_layers(model, X),
            lambda model=model: watch(model, num_classes=3),
        ]
        for call in calls:
            with pytest.raises(
                TypeError, match=r"must be whole on every process, got .*StateDictOptions\(full_state_dict=True\)"
            ):
                call()
        whole = copy.deepcopy(network())
        whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        found = measure(whole, [(X, Y)], num_classes=3)
        assert repr([row.value for row in found.rows]) == repr([row.value for row in expected.rows])
    check_copies()
    check_features(mesh)
    print("refused and measured whole")
    dist.barrier()
    leave()
