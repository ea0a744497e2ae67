"""``watch``: metrics of the features that a training loop's own forward passes compute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ncollapse.default_device import on_the_cpu
from ncollapse.hooks.batch_io import Arguments, num_samples_of
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.label_rows import LabelRows, check_not_one_hot, class_indices
from ncollapse.hooks.logits import returned_tensors
from ncollapse.hooks.tap import LayerChoice
from ncollapse.hooks.tap_hooks import TapHooks, Tapped, TapPlan
from ncollapse.hooks.tapped_network import checked, look
from ncollapse.hooks.untouched import Untouched, uncompiled
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import PathChoice
from ncollapse.metrics.selection import MetricChoice
from ncollapse.near_words import names_near_arguments
from ncollapse.probe.class_choice import ClassChoice
from ncollapse.probe.group_checks import classifier_of, shared_plan
from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.probe.request import ClassifierChoice, Request
from ncollapse.probe.running_totals import RunningTotals
from ncollapse.statistics.centers import LinearClassifier, largest_logit
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.moments import ClassMoments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Mode = Literal["train", "eval"]

# Networks being traced to find their layers, or evaluated for their classifier. The training loop did not make these calls.
_TRACED_NOW: WeakSet[nn.Module] = WeakSet()


@names_near_arguments
def watch(
    model: nn.Module,
    *,
    num_classes: int,
    layers: LayerChoice = "auto",
    classifier: ClassifierChoice = None,
    classes: ClassChoice = "all",
    min_per_class: int = 0,
    mode: Mode = "train",
    split: str = "train",
    reference: Measurement | None = None,
    metrics: MetricChoice = None,
    convention: Convention = "class",
    path: PathChoice = False,
    memory_budget: int | str | None = None,
    ignore_index: int | None = None,
    check: bool = False,
    group: ProcessGroup | None = None,
) -> Watched:
    """Measure the features that your training loop computes anyway; only the statistics cost time.

    In the ``with`` block, call ``update(labels)`` after every call of the network. ``compute`` measures everything since the
    last ``reset``.

    The network changes while it is watched: each batch went through other weights, with dropout and batch statistics as in
    training (the logits with dropout in front of the classifier, its features without). At small learning rates this is close
    to the network at the end of the epoch. To measure the network exactly as it stands, use ``measure``.

    Args:
        model: Any network that is not compiled. Before its first watched call it runs on two of the samples, in eval mode and
            without gradients, to find the layers.
        num_classes: Number of classes, K.
        layers: As in ``measure``.
        classifier: As in ``measure``; it is read at ``compute``.
        classes: As in ``measure``; chosen at every ``compute`` from the batches so far.
        min_per_class: As in ``measure``.
        mode: Calls in this mode of the network are watched. Calls in the other mode, such as a validation, are ignored.
        split: Name of the data split.
        reference: Measurement of the training set, whose class means then decide on this other split.
        metrics: As in ``measure``.
        convention: Class weights of the covariances.
        path: As in ``measure``.
        memory_budget: Memory for kept features, in bytes or as "2GiB". Metrics that need the final class means use them; beyond
            the budget these are nan with the flag ``over_budget``. None is a quarter of the free memory.
        ignore_index: Samples, tokens or pixels with this label are left out; None leaves out tokens and pixels with -100.
        check: As in ``measure``, for what ``watch`` itself runs: the search for layers, and reading the classifier.
        group: Processes of ``torch.distributed`` that share the data, each with its own batches; all call ``compute``.

    Returns:
        A context manager with ``update``, ``compute`` and ``reset``.

    Raises:
        ValueError: If an argument is invalid, or a layer does not exist.
        TypeError: If the model is not a network, or is compiled.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> inputs, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0])
        >>> with watch(net, num_classes=2) as watched:
        ...     loss = torch.nn.functional.cross_entropy(net(inputs), labels)
        ...     watched.update(labels)
        >>> watched.compute().layers
        ('1',)
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'train' or 'eval', got {mode!r}. Pass one of the two.")
    request = Request(
        num_classes=num_classes,
        layers=layers,
        classifier=classifier,
        classes=classes,
        min_per_class=min_per_class,
        metrics=metrics,
        convention=convention,
        split=split,
        reference=reference,
        path=path,
        memory_budget=memory_budget,
        group=group,
    )
    inner = uncompiled(model)
    discovery = Discovery(inner, layers, request.named_classifier, num_classes)
    return Watched(inner, discovery, RunningTotals(request), mode, check, ignore_index)


class Watched:
    """A watched network, made by ``watch``. Leaving the ``with`` block removes the hooks, also after an error."""

    # Whether every token has a label is known at the first update only. If the network returns something for every token,
    # layers are found and read both ways until then: key True for labels per token or pixel, False for one per sample.

    def __init__(
        self,
        model: nn.Module,
        discovery: Discovery,
        totals: RunningTotals,
        mode: Mode,
        check: bool = False,
        ignore_index: int | None = None,
    ) -> None:
        self._model, self._discovery, self._totals, self._mode = model, discovery, totals, mode
        self._check, self._ignore_index = check, ignore_index
        self._plans: dict[bool, TapPlan] = {}
        self._hooks: dict[bool, TapHooks] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._calls = self._other_calls = 0
        self._tapped: dict[bool, Tapped] = {}
        self._returned: list[Tensor] = []
        self._misread: ValueError | None = None

    def __enter__(self) -> Watched:
        self._handles = [
            self._model.register_forward_pre_hook(on_the_cpu(self._before), with_kwargs=True),
            self._model.register_forward_hook(on_the_cpu(self._after)),
        ]
        self._hook(self._plans)
        return self

    def _hook(self, plans: Mapping[bool, TapPlan], sure: bool = False) -> None:
        # If tokens have labels, it does not matter how the network reads them, so nothing is refused before that is known.
        sure = sure or (self._mode == "eval" and len(plans) == 1)
        self._plans = dict(plans)
        self._hooks = {tokens: TapHooks(self._model, plan, sure) for tokens, plan in plans.items()}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._remove_hooks()
        self._forget()

    def _remove_hooks(self) -> None:
        # The last ones first: each restores the forward of a module as it found it.
        for hooks in reversed(self._hooks.values()):
            hooks.remove()

    @on_the_cpu
    def update(self, labels: Tensor, rows: Tensor | slice | None = None) -> None:
        """Add the network's last call to the statistics.

        Args:
            labels: Class indices, one per sample (N,), per token (N, T), or per pixel (N, H, W).
            rows: Which positions or nodes have labels, as in ``measure``.

        Raises:
            ValueError: Unless the network ran exactly once since the last update.
        """
        calls, tapped, returned = self._calls, self._tapped, self._returned
        self._forget()
        if calls == 0:
            other = f" ({self._other_calls} in another mode than {self._mode!r} ran)" if self._other_calls else ""
            raise ValueError(
                f"update needs one call of the network before it, got none since the last update{other}. "
                f"Call model(inputs) in {self._mode} mode inside the with block, then update(labels)."
            )
        if calls > 1:
            raise ValueError(
                f"update needs one call of the network before it, got {calls} since the last update, and cannot know to which "
                "the labels belong. Call update after each, and keep other calls outside of the with block."
            )
        labels = class_indices(labels).clone()  # the loop may write into its buffer
        labeled = LabelRows.of(labels, self._ignore_index, rows, of_tokens=[*self._plans] == [True])
        check_not_one_hot(labeled, self._totals.request.num_classes, returned)
        self._totals.add(self._select(tapped, labeled))

    def _select(self, tapped: Mapping[bool, Tapped], labeled: LabelRows) -> LayerBatch:
        """Return the rows with labels, and keep the plan and the hooks for labels of this kind only."""
        tokens = labeled.per_position if len(tapped) > 1 else next(iter(tapped))
        if self._misread is not None and not tokens:
            raise self._misread
        if len(self._plans) > 1:
            plan, sure = self._plans[tokens], self._hooks[tokens].sure
            self._remove_hooks()
            self._hook({tokens: plan}, sure)
        plan, (found, choices) = self._plans[tokens], tapped[tokens]
        if tokens:
            features = {name: labeled.of_positions(name, output, plan.placement(name)) for name, output in found.items()}
        else:
            features = {name: labeled.of_samples(rows) for name, rows in found.items()}
        choices = None if choices is None else labeled.of_output(choices, plan.placement(""))
        return LayerBatch(features, labeled.labels, choices, plan.classifier)

    @on_the_cpu
    def compute(self) -> Measurement:
        """Measure everything since the last reset; more may follow."""
        request, processes = self._totals.request, self._totals.processes
        plan = shared_plan(next(iter(self._plans.values()), None), processes)

        def classifiers(moments: Mapping[str, ClassMoments]) -> dict[str, LinearClassifier]:
            # In training mode the weight of a spectral normalization moves its buffers when it is read.
            with self._apart():
                return classifier_of(request, plan, moments, processes)

        return self._totals.measurement(classifiers, "no batch was seen" if plan is None else plan.explanation)

    def reset(self) -> None:
        """Forget all batches, as at the start of an epoch; the layers stay those that were found."""
        self._totals.reset()
        self._forget()

    def _forget(self) -> None:
        self._calls, self._tapped, self._returned = 0, {}, []

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_watched():
            return
        inputs = Arguments(args, kwargs)
        if not self._hooks:
            self._hook(self._find_layers(inputs))
        for tokens, hooks in self._hooks.items():
            hooks.begin(hooks.plan.real_tokens(inputs, model), whole=tokens)

    def _after(self, model: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if model in _TRACED_NOW:
            self._returned = self._returned or returned_tensors(output)  # further looks may see fewer tokens
        elif self._hooks and self._is_watched():
            self._calls += 1
            self._returned = returned_tensors(output)
            for tokens, hooks in self._hooks.items():
                features, logits = hooks.end(output)
                if logits is not None:  # the choices alone are kept, as the loop may overwrite its logits
                    logits = largest_logit(logits.flatten(0, -2)).view(logits.shape[:-1])
                self._tapped[tokens] = Tapped(features, logits)
        else:
            self._other_calls += 1

    def _is_watched(self) -> bool:
        return self._model.training == (self._mode == "train") and self._model not in _TRACED_NOW

    @contextmanager
    def _apart(self) -> Iterator[Untouched]:
        """Run the network without effect on it, and without counting this as a call of the training loop."""
        returned = self._returned
        _TRACED_NOW.add(self._model)
        try:
            with Untouched(self._model, check=self._check) as untouched:
                yield untouched
        finally:
            _TRACED_NOW.discard(self._model)
            self._returned = returned

    def _find_layers(self, inputs: Any) -> dict[bool, TapPlan]:
        """Find the layers with two samples in eval mode, which leaves running means and random states unchanged."""
        plans, num_samples = {}, num_samples_of(inputs)
        with self._apart() as untouched, torch.no_grad():
            self._returned = []
            plans[False] = look(untouched, partial(self._discovery.plan, tokens=0), inputs, num_samples)
            labeled = LabelRows.for_every_position(self._returned)
            if labeled is not None:
                make_plan = partial(self._discovery.plan, tokens=labeled.num_tokens, labeled=labeled)
                plans[True] = look(untouched, make_plan, inputs, num_samples, tokens=True)
            plans[False], self._misread = checked(self._model, plans[False], inputs)
        # All layers are copied: training may overwrite others than eval mode. It changes the map of the classifier, too.
        return {tokens: replace(plan, overwritten=plan.labels, proof=None) for tokens, plan in plans.items()}
