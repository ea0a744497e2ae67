"""Checks and exchanges of processes that measure one network together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ncollapse.groups import Processes
from ncollapse.hooks.logits import Logits
from ncollapse.hooks.tap_hooks import TapPlan
from ncollapse.probe.request import Request, classifier_on
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.moments import ClassMoments

# Copies of a network trained with the same gradients are equal, or differ by rounding if the machines differ.
_TOLERANCE = 1e-4


def check_same_network(model: nn.Module, reference: Mapping[str, ClassCenters | None] | None, processes: Processes) -> None:
    """Check that all processes have the same network and the same reference."""
    if processes.size == 1:
        return
    states = [*model.named_parameters(), *model.named_buffers()]
    shapes = json.dumps([[name, str(tensor.dtype), *tensor.shape] for name, tensor in states])
    digest = hashlib.sha256(shapes.encode()).hexdigest()[:12]
    processes.check_same("The network's parameters and buffers", f"{len(states)} of digest {digest}")
    known = {name: centers.moments for name, centers in (reference or {}).items() if centers is not None}
    layers = json.dumps([[name, moments.num_samples, *moments.means.shape] for name, moments in known.items()])
    processes.check_same("The reference's layers, samples, classes and dimensions", layers)
    parameters = [parameter.detach().abs().sum(dtype=torch.float64).cpu() for parameter in model.parameters()]
    _check_close("parameters", parameters, processes)
    _check_close("reference", [moments.means.abs().sum() for moments in known.values()], processes)


def _check_close(what: str, sizes: list[Tensor], processes: Processes) -> None:
    if not sizes:
        return
    gathered = processes.gather_numbers(torch.stack(sizes).tolist())
    # Parameters that are not finite pass here: they are reported at the features, with layer and batch.
    other = ((gathered - gathered[0]).abs() > _TOLERANCE * gathered[0]).any(dim=1)
    if bool(other.any()):
        raise ValueError(
            f"The {what} must be the same on all processes, got others on rank {int(other.nonzero()[0])} than on rank 0. "
            "Start from one seed or checkpoint (DistributedDataParallel broadcasts those of rank 0), and measure a reference "
            "with the same group."
        )


@contextmanager
def first_buffers(model: nn.Module, processes: Processes) -> Iterator[None]:
    """Measure with the buffers of the first process, and restore the own ones."""
    # Running means of a normalization differ between the processes of one training. Checkpoints contain the first process's.
    if processes.size == 1:
        yield
        return
    buffers = list(model.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        # Through ``data``, since a backward pass that comes later would take these for changes: all are undone.
        for buffer in buffers:
            buffer.data.copy_(processes.broadcast(Tensor, buffer))
        yield
    finally:
        for buffer, own in zip(buffers, before, strict=True):
            buffer.data.copy_(own)


def shared_plan(plan: TapPlan | None, processes: Processes) -> TapPlan | None:
    """Return the plan of the taps, also on a process without data."""
    if processes.size == 1:
        return None if plan is None else plan.settled
    own = "" if plan is None else json.dumps([plan.classifier, plan.feeding, plan.logits])
    gathered = processes.check_same("The classifier and the layer that feeds it", own)
    doubts = [text for text in processes.gather_texts("" if plan is None else plan.doubt) if text]
    words = [text for text in processes.gather_texts("" if plan is None else plan.explanation) if text]
    if not gathered:
        return plan
    classifier, feeding, logits = json.loads(gathered[0])
    return replace(
        TapPlan() if plan is None else plan,
        classifier=classifier,
        feeding=feeding,
        explanation=words[0] if words else "",
        logits=None if logits is None else Logits(*logits),
        doubt=next(iter(doubts), ""),
    ).settled


def classifier_of(
    request: Request, plan: TapPlan | None, moments: Mapping[str, ClassMoments], processes: Processes
) -> dict[str, LinearClassifier]:
    """Return the classifier by the layer that feeds it: a given pair on the last layer, or the one that a plan proved."""
    layer = list(moments)[-1]
    with processes.sharing_errors():
        if isinstance(request.classifier, tuple):
            own: LinearClassifier | None = classifier_on(layer, moments[layer].dim, request.classifier, request.num_classes)
        else:
            own = None if plan is None else read_classifier(plan)
            layer = layer if plan is None or plan.feeding is None else plan.feeding
    # All processes use the classifier of the first one that has one.
    weight, bias = (processes.first(Tensor, part) for part in own or (None, None))
    if weight is None or bias is None:
        words = "no batch was seen" if plan is None else plan.explanation
        request.check_classifier(words, logits=plan is not None and plan.logits is not None)
        return {}
    return {layer: LinearClassifier(weight.cpu(), bias.cpu())}


def read_classifier(plan: TapPlan) -> LinearClassifier | None:
    """Evaluate the classifier of a plan as it is now, None if it does not give the network's logits."""
    with torch.no_grad():
        found = None if plan.read_classifier is None else plan.read_classifier()
    return None if found is None else LinearClassifier.from_parameters(found.weight, found.bias).to("cpu")
