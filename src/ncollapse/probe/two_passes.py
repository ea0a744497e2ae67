"""Collecting: one streamed pass over all layers, then what needs the final class means, from kept features or a second pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ncollapse.groups import Processes
from ncollapse.probe.first_pass import FirstPass
from ncollapse.probe.layer_batch import Batch
from ncollapse.probe.second_pass import SecondPass
from ncollapse.probe.totals import Collected, CollectOptions
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.moments import ClassMoments

Source = Callable[[], Iterator[Batch]]
Classifiers = Callable[[], Mapping[str, LinearClassifier]]


def collect(
    source: Source,
    options: CollectOptions,
    classifiers: Classifiers = dict,
    reference: Mapping[str, ClassCenters | None] | None = None,
    *,
    repeatable: bool = True,
    processes: Processes | None = None,
) -> Collected:
    """Collect the statistics of all layers."""
    processes = Processes() if processes is None else processes
    first = FirstPass(options)
    with processes.together():
        for batch in source():
            first.add(batch)
    return complete(first, source if repeatable else None, classifiers, reference, processes)


def complete(
    first: FirstPass,
    source: Source | None,
    classifiers: Classifiers,
    reference: Mapping[str, ClassCenters | None] | None,
    processes: Processes,
) -> Collected:
    """Add what needs the final class means to a first pass: from the kept features, else from a second pass."""
    options = first.options
    collected = first.finish(processes)
    deciding = _deciding(reference, collected.moments)
    collected.by_reference = {name: centers.moments for name, centers in deciding.items()}
    if not (options.centers or options.path):
        return collected
    if first.kept is None and source is None and options.one_pass:
        return collected
    with processes.together():
        if first.kept is None and source is None:
            raise ValueError(
                f"The features exceed the memory budget of {options.memory_budget / 2**20:.0f} MiB, so a second pass is "
                "needed, but the batches can be iterated only once. Pass a list or a DataLoader, or raise memory_budget."
            )
    collected.passes = 2 if first.kept is None else 1
    second = SecondPass(collected, options, classifiers(), deciding)
    with processes.together():
        batches: Iterable[Batch] = first.kept or ()
        if first.kept is None and source is not None:
            batches = source()
        for batch in batches:
            second.add(batch)
    second.finish(processes)
    return collected


def _deciding(
    reference: Mapping[str, ClassCenters | None] | None, moments: Mapping[str, ClassMoments]
) -> dict[str, ClassCenters]:
    """The reference's centers, checked to be of the same layers."""
    if reference is None:
        return {}
    deciding = {}
    for name, own in moments.items():
        if name not in reference:
            raise ValueError(
                f"The reference has no layer {name!r}, so its class means cannot decide there. It has: "
                f"{', '.join(reference)}. Measure both splits with the same layers and classifier."
            )
        centers = reference[name]
        if centers is not None and centers.moments.dim != own.dim:
            raise ValueError(
                f"The reference has {centers.moments.dim} features at layer {name!r}, the data {own.dim}. "
                "Measure both splits with one network."
            )
        if centers is not None:
            deciding[name] = centers
    return deciding
