"""The two passes of a measurement: the first streams all layers, the second sums around the final class means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from ncollapse.groups import Processes
from ncollapse.measurement.totals import Totals
from ncollapse.probe.first_pass import FirstPass
from ncollapse.probe.layer_batch import Batch
from ncollapse.probe.request import Request
from ncollapse.probe.second_pass import SecondPass
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.moments import ClassMoments

Source = Callable[[], Iterator[Batch]]
# A function of the moments of all layers that returns the classifier by the layer that feeds it.
Classifiers = Callable[[Mapping[str, ClassMoments]], Mapping[str, LinearClassifier]]


def collect(
    source: Source,
    request: Request,
    budget: int,
    classifiers: Classifiers | None = None,
    *,
    repeatable: bool = True,
    processes: Processes | None = None,
) -> Totals:
    """Collect the statistics of all layers."""
    # How a batch becomes class sums: FirstPass.add (first_pass.py) calls NetworkBatch.stream (layer_batch.py), which runs the
    # network. In each hook TapHooks._keep (tapped_network.py) selects the rows with labels (label_rows.py) and passes them to
    # ``receive`` of FirstPass.add, which adds them by ClassMoments.merge_groups_ (statistics/moments.py).
    processes = Processes() if processes is None else processes
    first = FirstPass(request, budget)
    with processes.sharing_errors():
        for batch in source():
            first.add(batch)

    def refuse() -> Iterator[Batch]:
        raise ValueError(
            f"The features exceed the memory budget of {budget / 2**20:.0f} MiB, so a second pass is needed, but the batches "
            "can be iterated only once. Pass a list or a DataLoader, or raise memory_budget."
        )

    return complete(first, source if repeatable else refuse, classifiers, processes)


def complete(first: FirstPass, again: Source | None, classifiers: Classifiers | None, processes: Processes) -> Totals:
    """Add the sums around the final class means to a first pass, if its features were kept or ``again`` is given."""
    # Decisions, and the within-class covariance on the span of the means, need the final class means, which are known only
    # after all data was read. Kept features save a second forward pass, which costs as much as the first. But they need the
    # memory of all layers' outputs, so they are kept only within a budget. Both ways sum the same numbers in the same order.
    request = first.request
    totals = first.finish(processes)
    totals.classifiers = {} if classifiers is None else classifiers(totals.moments)
    deciding = _deciding(request.reference_centers, totals.moments)
    among = request.among_reference(totals.selection)
    totals.by_reference = {
        name: centers.moments if among is None else centers.moments.select(among) for name, centers in deciding.items()
    }
    if not request.needs_features_again or (first.kept is None and again is None):
        return totals
    totals.passes = 2 if first.kept is None else 1
    second = SecondPass(totals, request, deciding)
    with processes.sharing_errors():
        batches: Iterable[Batch] = first.kept or ()
        if first.kept is None and again is not None:
            batches = again()
        for batch in batches:
            second.add(batch)
    second.finish(processes)
    return totals


def _deciding(
    reference: Mapping[str, ClassCenters | None] | None, moments: Mapping[str, ClassMoments]
) -> dict[str, ClassCenters]:
    """Return the reference's centers after checking that layers and dimensions match."""
    if reference is None:
        return {}
    deciding = {}
    for name, own in moments.items():
        if name not in reference:
            raise ValueError(
                f"reference must have layer {name!r}, got one with {', '.join(reference)}. "
                "Measure both splits with the same layers and classifier."
            )
        centers = reference[name]
        if centers is not None and centers.moments.dim != own.dim:
            raise ValueError(
                f"reference must have {own.dim} features at layer {name!r} like the data, got {centers.moments.dim}. "
                "Measure both splits with one network."
            )
        if centers is not None:
            deciding[name] = centers
    return deciding
