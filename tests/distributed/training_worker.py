"""Processes that train together, and leave what they found, and runs, in a folder."""

import itertools
import json
import os
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

from distributed.launch import ENVIRONMENT
from ncollapse.data import gaussian_mixture
from ncollapse.error_words import error_line
from ncollapse.models import ConvResNet, ConvResNetConfig, FCResNet, FCResNetConfig
from ncollapse.studies import override, recipe_by_name, run, run_recipe
from ncollapse.torchrun import leave
from ncollapse.train import TrainConfig, TrainingDiverged, TrainingStopped, make_optimizer, train

VECTORS = gaussian_mixture(num_classes=3, dim=16, per_class=15, seed=1)
VECTORS = replace(VECTORS, inputs=VECTORS.inputs.double())
IMAGES = replace(VECTORS, image_shape=(1, 4, 4))
CONFIG = TrainConfig(epochs=2, batch_size=12, learning_rate=0.2)
# When one process asks for the end: of two epochs of four batches, asked before each epoch and after each batch.
STOPS = (1, 2, 5, 6, 9)
RECIPE = override(
    recipe_by_name("demo"),
    ["data.per_class=20", "train.epochs=4", "train.checkpoint_every=1", "measure.epochs=[0,1,3]", "model.width=12",
     "model.num_blocks=2", "train.batch_size=48", "measure.transport_samples=50", "measure.batch_size=64",
     "train.learning_rate=0.02"],
)  # fmt: skip


def fc(num_blocks=2, **changed):
    return FCResNet(FCResNetConfig(width=6, num_blocks=num_blocks, **changed), input_dim=16, num_classes=3, seed=0).double()


def conv():
    config = ConvResNetConfig(channels=(3, 4), blocks=(0, 1))
    return ConvResNet(config, input_shape=(1, 4, 4), num_classes=3, seed=0).double()


CASES = {
    "normalized": (fc, VECTORS, CONFIG),
    "plain": (lambda: fc(normalization="none"), VECTORS, replace(CONFIG, learning_rate=0.02, loss="mse")),
    "normalized stem": (
        lambda: fc(stem="linear_bn", normalization="post"),
        VECTORS,
        replace(CONFIG, clip_norm=None),
    ),
    # Batches of 43 and of 2 samples: of three processes one has none.
    "no samples": (fc, VECTORS, replace(CONFIG, batch_size=43)),
    "convolutional": (conv, IMAGES, replace(CONFIG, learning_rate=0.05, batch_size=43)),
}


class Stopped(Exception):
    """Ends a run on all processes."""


def trained(name, group):
    make, data, config = CASES[name]
    model = make()
    records = list(train(model, data, config, seed=4, group=group))
    return records, {key: value.double().flatten().tolist() for key, value in model.state_dict().items()}


def stop(record, epochs):
    if record.epoch == 2:
        raise Stopped


def runs(folder, group):
    """Recipes run together: to the end, stopped and taken up, and into a folder that holds another run."""
    run_recipe(RECIPE, folder / "run", group=group)
    try:
        run_recipe(RECIPE, folder / "resumed", group=group, on_epoch=stop)
    except Stopped:
        run_recipe(RECIPE, folder / "resumed", group=group, resume=True)
    try:
        run_recipe(RECIPE, folder / "run", group=group)
    except ValueError as error:
        return str(error)


def stopping(group):
    """One process alone is asked to stop; resumed, all end with the bits of an uninterrupted run."""
    _, data, config = CASES["normalized"]
    make = partial(fc, num_blocks=1)
    expected, found = make(), []
    records = list(train(expected, data, config, seed=4, group=group))
    for number in STOPS:
        model, calls = make(), itertools.count(1)
        optimizer = make_optimizer(model, config)
        asked = (lambda calls=calls, number=number: next(calls) >= number) if dist.get_rank(group) == 1 else None
        try:
            list(train(model, data, config, seed=4, optimizer=optimizer, group=group, should_stop=asked))
        except TrainingStopped as stopped:
            rest = list(
                train(
                    model,
                    data,
                    config,
                    seed=4,
                    optimizer=optimizer,
                    group=group,
                    start_epoch=stopped.epoch,
                    part=stopped.part,
                )
            )
            found.append((stopped.epoch, len(stopped.part), rest == records[stopped.epoch - 1 :], same(model, expected)))
    return found


def same(first, second):
    return all(a.equal(b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def diverging(group):
    try:
        list(
            train(
                fc(normalization="none"),
                VECTORS,
                replace(CONFIG, learning_rate=1e300, clip_norm=None),
                seed=0,
                group=group,
            )
        )
    except TrainingDiverged as error:
        return str(error)


def cases(folder, group=None):
    found = {name: trained(name, group) for name in CASES} | {"diverged": diverging(group)}
    return found if group is None else found | {"stopped": stopping(group)}


def work(rank, size, folder, act):
    """One process of a group of this size; a group of one is none."""
    os.environ.update(ENVIRONMENT)
    torch.set_num_threads(1)
    # The recipe's run in float64: rounding then hides nothing.
    torch.set_default_dtype(torch.float64)
    load = run.load_samples
    run.load_samples = lambda config: (lambda data: replace(data, inputs=data.inputs.double()))(load(config))
    if size == 1:
        (folder / "cases-alone.json").write_text(json.dumps(cases(folder)))
        run_recipe(RECIPE, folder / "alone")
        return
    dist.init_process_group("gloo", init_method=f"file://{folder / f'meet-{size}'}", rank=rank, world_size=size)
    (folder / f"{act.__name__}-{rank}.json").write_text(json.dumps(act(folder, dist.group.WORLD)))
    leave()


def lost(rank, size, folder, how):
    """The second process ends, or hangs, in the second epoch; what the others say."""
    os.environ.update(ENVIRONMENT)
    meet, wait = f"file://{folder / f'meet-{how}'}", timedelta(seconds=2)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=size, timeout=wait)
    make, data, config = CASES["plain"]
    try:
        for _ in train(make(), data, config, seed=4, group=dist.group.WORLD):
            if rank == 1:
                # One that hangs does so until the others have given it up.
                told, last = [folder / f"hang-{other}.txt" for other in (0, 2)], time.monotonic() + 60
                while how == "hang" and time.monotonic() < last and not all(path.exists() for path in told):
                    time.sleep(0.05)
                os._exit(0)
    except OSError as error:
        (folder / f"{how}-{rank}.txt").write_text(error_line(error))
    os._exit(0)
