"""Several gloo processes: each measures its shard of each case, and writes down what it got."""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from cases import tensors_of
from distributed import exchanges
from distributed.launch import ENVIRONMENT
from ncollapse.groups import Processes
from ncollapse.integrations.recorder import Recorder
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure
from ncollapse.targets import Target, measure_target
from ncollapse.torchrun import leave

K, DIM, N = 4, 6, 61
MANY, WIDE = 80, 96
OPTIONS = {
    "kept": {},
    "second_pass": {"memory_budget": 0},
    "path": {"path": True, "layers": ["stem", "blocks.*"]},
    "path_second_pass": {"path": True, "layers": ["stem", "blocks.*"], "memory_budget": 0},
    "scatter": {"metrics": ["pfc1", "pfc3", "rank_total", "stable_rank_total", "nc3", "nc4"], "convention": "sample"},
    "present": {"classes": "present", "path": True, "layers": ["stem", "blocks.*"], "memory_budget": 0},
    "named": {"classes": [0, 2], "min_per_class": 3},
    # One process alone could keep what it has.
    "one_over_budget": {"path": True, "layers": ["stem", "blocks.*"], "memory_budget": 8 * 8 * 3 * 21},
}


def data():
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(0, K, (N,), generator=generator)
    means = torch.randn(K, DIM, generator=generator, dtype=torch.float64)
    return means[labels] + 0.8 * torch.randn(N, DIM, generator=generator, dtype=torch.float64), labels


def positions(case, rank, size):
    """Which samples a rank has: uneven, all of them somewhere."""
    _, labels = data()
    everything = torch.arange(N)
    if case == "uneven":
        cuts = [0, 7, 40, N] if size == 3 else [0, 13, N]
        return everything[cuts[rank] : cuts[rank + 1]]
    if case == "missing_class":
        owner = torch.where(labels == 2, 0, everything % size)
        return everything[owner == rank]
    if case == "empty_class_everywhere":
        return everything[(labels != 3) & (everything % size == rank)]
    assert case == "empty_rank"
    return everything[everything % (size - 1) == rank - 1] if rank > 0 else everything[:0]


CASES = ("uneven", "missing_class", "empty_rank", "empty_class_everywhere")
# For each number of processes, the cases and the options with which each is measured: all options, and the cases in turn.
# Two processes meet where they divide otherwise than three do.
PAIRS = {
    2: {
        "uneven": ("kept", "second_pass", "path", "one_over_budget"),
        "empty_rank": ("path_second_pass", "scatter", "present", "named"),
    },
    3: {
        "uneven": tuple(OPTIONS),
        "missing_class": ("kept", "path_second_pass", "scatter", "present"),
        "empty_rank": ("second_pass", "path", "present", "named", "one_over_budget"),
        "empty_class_everywhere": ("kept", "path_second_pass", "present"),
    },
}
EVERY_PAIR = {2: dict.fromkeys(("uneven", "empty_rank"), tuple(OPTIONS)), 3: dict.fromkeys(CASES, tuple(OPTIONS))}


def batches_of(case, rank, size):
    inputs, labels = data()
    chosen = positions(case, rank, size)
    return [(inputs[part], labels[part]) for part in chosen.split(9) if len(part)]


def network(seed=3):
    return FCResNet(FCResNetConfig(width=8, num_blocks=2, zero_bias=False), DIM, K, seed=seed).double()


class Normalized(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.body, self.norm, self.head = nn.Linear(DIM, 5), nn.BatchNorm1d(5), nn.Linear(5, K)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, x):
        return self.head(self.norm(self.body(x)))


def wide_network():
    """Layers so wide, of so many classes, that headers and words weigh little beside means."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, WIDE), nn.Tanh(), nn.Linear(WIDE, WIDE), nn.Tanh(), nn.Linear(WIDE, MANY)).double()


def dealt():
    """All samples, for any number of processes to share: 7 batches."""
    return (pair for pair in zip(*(part.split(9) for part in data()), strict=True))


def one_batch():
    return [data()]


def shuffled():
    return torch.utils.data.DataLoader(list(zip(*data(), strict=True)), batch_size=9, shuffle=True)


def in_own_order():
    batches = list(dealt())
    return batches[dist.get_rank() :] + batches[: dist.get_rank()]


def out_of_luck(module, args):
    raise RuntimeError("out of luck")


def failing_network():
    model = network()
    model.blocks[1].register_forward_pre_hook(out_of_luck)
    return model


def written(m):
    digest = hashlib.sha256()
    for name, layer in m.statistics.items():
        parts = {"moments": layer.moments, "centers": layer.centers, "within": layer.within, "decisions": layer.decisions}
        for part, value in {**parts, "scatter": layer.scatter}.items():
            for field, tensor in ({} if value is None else tensors_or_none(value)).items():
                digest.update(f"{name}.{part}.{field}".encode() + tensor.contiguous().numpy().tobytes())
    for value in (m.path, m.line, m.arcs, m.geodesic.paired) if m.paths else ():
        for tensor in tensors_of(value).values():
            digest.update(tensor.contiguous().numpy().tobytes())
    rows = [[r.split, r.depth, r.layer, r.metric, repr(r.value), list(r.flags)] for r in m.rows]
    words = {"rows": rows, "chosen": m.chosen, "passes": m.passes, "kept": m.kept_bytes, "n": m.num_samples}
    words["statistics"] = digest.hexdigest()
    if m.paths is not None:
        words["straightness"] = sorted(m.path.straightness.tolist())
        words["position"], words["energy"] = m.path.position(), m.path.energy
        words["pfc3"], words["arcs"] = m.line.pfc3().tolist(), m.arcs.lengths.flatten().tolist()
        words["violating"], words["pfc1"] = float(m.line.violating_pairs), m.geodesic.pfc1().tolist()
    return words


def tensors_or_none(value):
    names = [name for name in vars(value) if isinstance(vars(value)[name], torch.Tensor)]
    return {name: vars(value)[name] for name in names} | (tensors_of(value.moments) if hasattr(value, "moments") else {})


def measured_pairs(pairs, rank, size, group):
    for case, names in pairs[size].items():
        for name in names:
            words = written(measure(network(), batches_of(case, rank, size), num_classes=K, group=group, **OPTIONS[name]))
            yield f"{case} {name}", words


def shared(rank, size, group, folder):
    yield "exchanges", lambda: exchanges.made(rank, size, Processes(group))
    yield "alone", lambda: written(measure(network(), batches_of("uneven", rank, size), num_classes=K))

    def with_reference():
        train = measure(network(), batches_of("uneven", rank, size), num_classes=K, group=group)
        held_out = [(x + 0.3, y) for x, y in batches_of("missing_class", rank, size)]
        return written(measure(network(), held_out, num_classes=K, split="test", reference=train, group=group))

    yield "reference", with_reference

    def buffers():
        model = Normalized().double()
        wrapped = nn.parallel.DistributedDataParallel(model)
        model.norm.running_mean.fill_(float(rank))
        model.norm.running_var.fill_(1.0 + rank)
        words = written(measure(wrapped, batches_of("uneven", rank, size), num_classes=K, group=group))
        assert float(model.norm.running_mean[0]) == rank
        assert model.training
        return words

    yield "buffers", buffers

    def recorded():
        # Without two layers of one dimension: found while measuring, by all of them.
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(DIM, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, K)).double()
        recorder = Recorder(folder / "recorded", model, num_classes=K, epochs=1, group=group)
        return written(recorder.epoch(1, batches_of("empty_rank", rank, size)))

    yield "recorder", recorded
    torch.manual_seed(rank)  # orders of a loader that shuffles would differ
    for name in ("dealt", "one_batch", "shuffled"):
        target = Target("worker:network", f"worker:{name}", num_classes=K)
        yield f"by_name {name}", lambda t=target: written(measure_target(t, memory_budget=0, group=group))
    target_run = Target(str(folder.parent / "run"), split="test", batch_size=64)
    yield "run directory", lambda: written(measure_target(target_run, group=group))


def crossing(rank, size, group, repeats):
    """Bytes that this process sends or receives, by kind of call, in measuring a shard so often repeated."""
    found = dict.fromkeys(("broadcast", "send", "recv", "all_gather"), 0)
    originals = {name: getattr(dist, name) for name in found}

    def counted(name):
        def call(first, *rest, **options):
            given = first if isinstance(first, list) else [first]
            found[name] += sum(tensor.numel() * tensor.element_size() for tensor in given)
            return originals[name](first, *rest, **options)

        return call

    generator = torch.Generator().manual_seed(rank)
    batches = [(torch.randn(MANY, DIM, generator=generator, dtype=torch.float64), torch.arange(MANY)) for _ in range(repeats)]
    try:
        for name in found:
            setattr(dist, name, counted(name))
        measure(wide_network(), batches, num_classes=MANY, group=group)
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return found


TARGETS = {
    "other_batches": Target("worker:network", "worker:in_own_order", num_classes=K),
    "options": Target("worker:network", "worker:dealt"),
}


def failing(rank, size, group):
    last = rank == size - 1

    def call(model=None, batches=None, **options):
        given = batches_of("uneven", rank, size) if batches is None else batches
        return measure(network() if model is None else model, given, **{"num_classes": K, "group": group, **options})

    def nan():
        batches = batches_of("uneven", rank, size)
        if last:
            batches[1][0][2, 0] = torch.nan
        return call(batches=batches)

    def label():
        batches = batches_of("uneven", rank, size)
        batches[0][1][3] = 7 if rank == 0 else 0
        return call(batches=batches)

    def one_time():
        batches = batches_of("uneven", rank, size)
        return call(batches=iter(batches) if last else batches, memory_budget=0 if rank == 0 else None)

    yield "nan", nan
    yield "label", label
    yield "one_time", one_time
    yield "model_raises", lambda: call(model=failing_network() if last else network())
    yield "other_layers", lambda: call(layers=["stem"] if last else ["stem", "blocks.*"])
    yield "no_such_layer", lambda: call(layers=["stam"] if last else ["stem"])
    yield "other_network", lambda: call(model=network(seed=3 + rank))
    yield "other_arguments", lambda: call(metrics=["pfc2"] if last else ["pfc1"])
    yield "no_data", lambda: call(batches=[])
    yield "all_batches_wrong", lambda: call(batches=[3])
    yield (
        "reference_of_one",
        lambda: call(split="test", reference=measure(network(), [data()] if last else [data(), data()], num_classes=K)),
    )
    for name, target in TARGETS.items():
        yield name, lambda t=target: measure_target(t, group=group)


def every_pair(rank, size, folder):
    join(rank, size, folder)
    (folder / f"{rank}.json").write_text(json.dumps(dict(measured_pairs(EVERY_PAIR, rank, size, dist.group.WORLD))))
    leave()


def join(rank, size, folder):
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))  # where `worker:network` is found
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size)


def run(rank, size, folder):
    join(rank, size, folder)
    found = dict(measured_pairs(PAIRS, rank, size, dist.group.WORLD))
    for name, call in shared(rank, size, dist.group.WORLD, folder):
        found[name] = call()
    for name, call in failing(rank, size, dist.group.WORLD):
        begun = time.monotonic()
        try:
            call()
        except Exception as error:
            found[f"error {name}"] = [type(error).__name__, str(error), time.monotonic() - begun]
    found["crossing"] = [crossing(rank, size, dist.group.WORLD, repeats) for repeats in (1, 9)]
    # Still in step after all these errors.
    found["after"] = written(measure(network(), batches_of("uneven", rank, size), num_classes=K, group=dist.group.WORLD))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    leave()
