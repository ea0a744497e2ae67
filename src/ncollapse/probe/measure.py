"""``measure`` and its variants: collapse metrics of every layer of a network, or of features in memory, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from ncollapse.default_device import on_the_cpu
from ncollapse.groups import Processes
from ncollapse.hooks.batch_io import Call, Unpack, unpack_batch
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.label_rows import Rows
from ncollapse.hooks.tap import LayerChoice
from ncollapse.hooks.tap_hooks import TapPlan
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.hooks.untouched import device_of, network_of
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import PathChoice, path_words
from ncollapse.measurement.table import measurement_of
from ncollapse.measurement.totals import Totals
from ncollapse.metrics.selection import MetricChoice
from ncollapse.near_words import names_near_arguments
from ncollapse.probe.class_choice import ClassChoice, default_classes
from ncollapse.probe.first_pass import collect
from ncollapse.probe.group_checks import check_same_network, classifier_of, first_buffers, shared_plan
from ncollapse.probe.layer_batch import LayerBatch, NetworkBatch, named_layers, row_parts
from ncollapse.probe.loader_batches import BatchPlan, network_batches
from ncollapse.probe.progress import Progress, pairs_reported, reported
from ncollapse.probe.request import ClassifierChoice, Request, classifier_on
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.moments import ClassMoments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@names_near_arguments
def measure(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    num_classes: int,
    layers: LayerChoice = "auto",
    classifier: ClassifierChoice = None,
    classes: ClassChoice | None = None,
    min_per_class: int = 0,
    unpack: Unpack = unpack_batch,
    call: Call | None = None,
    ignore_index: int | None = None,
    rows: Rows | None = None,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: MetricChoice = None,
    convention: Convention = "class",
    path: PathChoice = False,
    memory_budget: int | str | None = None,
    check: bool = False,
    progress: Progress | bool | None = None,
    group: ProcessGroup | None = None,
) -> Measurement:
    """Measure neural collapse at every layer of a network.

    All layers are measured in one pass over the data, in eval mode and without gradients. Afterwards everything is as it was,
    to the bit: the network's parameters, buffers, gradients, modes, hooks and attributes, and the random states. Some metrics
    need the final class means (PFC3, NC1, NC4). Features are kept in memory for them; if they exceed ``memory_budget``, the
    data is read a second time. Both ways give the same numbers, and ``Measurement.passes`` says which was taken. Statistics
    are float64, whatever the network computes in.

    Args:
        batches: A list, a ``DataLoader``, or anything that iterates over pairs (inputs, labels) or mappings with labels, with
            or without a length. Labels are class indices in [0, num_classes): one per sample (N,), per token (N, T), or per
            pixel (N, H, W) for features (N, C, H, W). Turn augmentation off. Inputs are moved to the device of the network's
            first parameter, and passed by position or keywords, or whole where the forward takes them so. Whether a
            mask marks real tokens or padding is found out from the network.
        num_classes: Number of classes, K.
        layers: "auto" uses the stages that the network declares in ``collapse_stages``. Without these it traces a forward
            pass of two samples, and uses the repeated blocks with their input, or what the layers with weights of a plain
            network take, and the input of the classifier, as far as they lie in series. Tokens are pooled as in the network.
            ``find_layers`` shows the choice, and ``Measurement.chosen`` explains it. "all" uses every module that runs once.
            Or pass names and patterns as in ``model.named_modules()`` ("*" stops at a dot, "**" does not), modules of the
            network, or ``Tap`` with a pool. A module inside a residual branch returns the branch alone: tap the block around
            it.
        classifier: The classifier for NC3, whose W h + b must give the logits that the network returns: a module or its name.
            None finds it. A pair (W, b) is the classifier on the last layer's features if the network's own cannot be found.
        classes: The classes to measure: "all", "present" (those with samples), or a list of indices. Samples of other classes
            are left out of all means, decisions and paths, and the classifier's rows are selected along. Its accuracy is over
            all its logits. With "all", a class without samples makes most metrics nan. None is "all", or "present" for
            ``unpack=next_tokens``. ``Measurement.classes`` records the choice.
        min_per_class: Leave out classes with fewer samples.
        unpack: Splits a batch into inputs and labels (``next_tokens`` for language models).
        call: Calls the network if it takes the inputs otherwise: ``call=lambda model, inputs: model(inputs["image"])``.
        ignore_index: Samples, tokens or pixels with this label are left out. None leaves out tokens and pixels with -100.
        rows: Which positions have labels: a mask of the nodes of a graph, of tokens or of pixels, a slice of the tokens
            (``slice(1, None)`` leaves out a class token), or a function of the batch that returns one.
        split: Name of the data split, a column of the table.
        reference: Measurement of the training set. Its class means, all of them, decide on this other split (PFC3, NC4), also
            if some classes have no samples here. Without it, a split other than "train" is decided by its own means and
            flagged ``own_means``.
        metrics: Ids in any case ("NC1"), ``Metric`` values of your own, and the words "core" (what is printed) and "all". None
            computes all but those that need a d×d scatter matrix, that repeat another metric (``separation``, ``pfc3_error``,
            ``strong_collapse``), or that hold for the squared loss only (``snc1``-``snc3``). The ``Measurement`` computes a
            metric that was left out when you ask for it, if its statistics were collected.
        convention: Class weights of the covariances and of the global mean in NC2, NC3 and GNC2: "class", "sample", "papyan",
            "papyan_notebook", "zhu" or "he_su" (docs/theory.md, 1.2). If classes have equal counts, all give the same
            values, except for NC1 and the standard deviations of "papyan_notebook".
        path: Also follow each sample through layers of one dimension. This gives relative positions, straightness, and the
            prediction of the straight line. True takes the longest run of layers of one dimension, of equally long ones the
            deepest; a pooled layer in front of the classifier, or the other stages of a ResNet, are measured but are not part
            of the path. A name or a list of names chooses layers, or those inside of a module: ``path="layer3"``.
            ``Measurement.path_layers`` lists them, and ``chosen`` says which they are.
        memory_budget: Memory for kept features, in bytes or as "2GiB" or "500MB". None is a quarter of the free memory on
            their device; 0 keeps none.
        check: Prove by digests before and after that nothing changed, and name what did. Without it the version counters of
            parameters and gradients are compared, which costs nothing.
        progress: True shows a bar on stderr, and another one for long walks over pairs of classes. A function is called after
            every batch with the number of batches done and their total (None if unknown).
        group: Processes of ``torch.distributed`` that share the data, such as ``torch.distributed.group.WORLD`` (which is
            None if nothing is initialized, so that one script works with and without it). Each process passes its own
            ``batches``, of any length, without samples repeated for padding. All processes get the same result to the bit, and
            an error in one is raised in all. None measures this process alone. A network in ``DistributedDataParallel`` is
            unwrapped, and measured with the buffers of the first process.

    Returns:
        The tidy table and the statistics behind it.

    Raises:
        ValueError: For labels out of range, layers that do not exist or do not run, features that are not finite, an empty
            loader, an unknown metric or convention, a named metric of the classifier if none was found, a reference with other
            layers, a necessary second pass that is not possible, or processes whose networks or arguments differ.
        TypeError: For batches, labels or features of another type.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))]
        >>> measure(net, data, num_classes=2).layers
        ('1',)
    """
    with Processes(group).sharing_errors():
        request = Request(
            num_classes=num_classes,
            layers=layers,
            classifier=classifier,
            classes=default_classes(unpack) if classes is None else classes,
            min_per_class=min_per_class,
            split=split,
            reference=reference,
            metrics=metrics,
            convention=convention,
            path=path,
            memory_budget=memory_budget,
            group=group,
            where="",
        )
    return measure_network(request, model, batches, BatchPlan(unpack, call, ignore_index, rows), progress=progress, check=check)


@on_the_cpu
def measure_network(
    request: Request,
    model: nn.Module,
    batches: Iterable[Any],
    reading: BatchPlan | None = None,
    *,
    progress: Progress | bool | None = None,
    check: bool = False,
) -> Measurement:
    """Measure a network, given checked arguments."""
    processes = Processes(request.group, f"the measurement{request.where or ''}")
    with processes.sharing_errors():
        model = network_of(model)
        discovery = Discovery(model, request.layers, request.named_classifier, request.num_classes)
        taps = TappedNetwork(model, discovery.plan, num_classes=request.num_classes, check=check, batches=batches)
        device = device_of(model)
        budget = request.budget(device, processes)
    processes.check_same("Arguments", request.shared_arguments())
    check_same_network(model, request.reference_centers, processes)

    # Called when the first pass is over: a trace of its first batch shows the classifier.
    def classifiers(moments: Mapping[str, ClassMoments]) -> dict[str, LinearClassifier]:
        return classifier_of(request, shared_plan(taps.plan, processes), moments, processes)

    with reported(progress) as report, first_buffers(model, processes), taps:

        def source() -> Iterator[NetworkBatch]:
            return network_batches(taps, batches, reading or BatchPlan(), device, report)

        repeatable = not isinstance(batches, Iterator)
        totals = collect(source, request, budget, classifiers, repeatable=repeatable, processes=processes)
    # Not None: without data on any process, collect has raised.
    plan = cast(TapPlan, shared_plan(taps.plan, processes))
    with pairs_reported(progress):
        return evaluate(request, totals, plan.explanation)


def evaluate(request: Request, totals: Totals, chosen: str) -> Measurement:
    """Evaluate the metrics of a request on the totals."""
    # The way to a formula: measurement_of (measurement/table.py) calls Metric.evaluate (metrics/entry.py), and that the
    # function of the metric's entry (such as metrics/mean_entries.py), which calls the formula (metrics/variability.py).
    given = f"W and b given for {totals.last_layer}" if isinstance(request.classifier, tuple) else ""
    paths = totals.paths(request.path, request.convention)
    through = "" if paths is None else path_words(totals.dims, paths.layers)
    return measurement_of(
        totals.of_layers(request.split, request.convention),
        request.selected,
        split=request.split,
        chosen="; ".join(filter(None, [chosen, given, totals.left_out, through])),
        shown=request.shown,
        passes=totals.passes,
        kept_bytes=totals.kept_bytes,
        paths=paths,
        selection=totals.selection,
        sample=totals.sample,
    )


@names_near_arguments
@on_the_cpu
def measure_features(
    features: Tensor | Mapping[str, Tensor],
    labels: Tensor,
    *,
    num_classes: int,
    classifier: tuple[Tensor, Tensor | None] | None = None,
    classes: ClassChoice = "all",
    min_per_class: int = 0,
    split: str = "train",
    reference: Measurement | None = None,
    metrics: MetricChoice = None,
    convention: Convention = "class",
    path: PathChoice = False,
) -> Measurement:
    """Measure neural collapse of features in memory.

    Args:
        features: Shape (N, ...), or several layers of the same samples by name, in order of depth.
        labels: Class indices in [0, K), shape (N,).
        num_classes: Number of classes, K.
        classifier: Weight (K, d) and bias (K,) or None of the classifier on the last layer's features.
        classes: As in ``measure``.
        min_per_class: As in ``measure``.
        split: Name of the data split.
        reference: Measurement of the training set, whose class means decide on another split.
        metrics: As in ``measure``.
        convention: Class weights of the covariances.
        path: As in ``measure``.

    Returns:
        The tidy table and the statistics behind it.

    Raises:
        ValueError: As ``measure``.
        TypeError: If features, labels or the classifier are of another type.

    Example:
        >>> import torch
        >>> from ncollapse.etf import simplex_etf
        >>> m = measure_features(simplex_etf(3, 4).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]), num_classes=3)
        >>> m.value("pfc1"), m.value("pfc3")
        (0.0, 1.0)
    """
    flat = named_layers(features)
    # The features are in memory already: keeping references to them costs nothing.
    size = sum(layer.numel() * layer.element_size() for layer in flat.values())
    request = Request(
        num_classes=num_classes,
        classes=classes,
        min_per_class=min_per_class,
        split=split,
        reference=reference,
        metrics=metrics,
        convention=convention,
        path=path,
    )
    last = list(flat)[-1]
    if classifier is None:
        request.check_classifier("no classifier was given")
    heads = {} if classifier is None else {last: classifier_on(last, flat[last].shape[1], classifier, num_classes)}
    totals = collect(lambda: row_parts(LayerBatch(flat, labels), num_classes), request, size, lambda moments: heads)
    return evaluate(request, totals, "features in memory")
