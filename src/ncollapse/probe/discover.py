"""Discovery: which modules are worth tapping, found by watching one forward pass of a few samples."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ncollapse.probe.reading import attention_mask
from ncollapse.probe.tap import Pool, Tap
from ncollapse.probe.taps import Captured, TapPlan
from ncollapse.probe.watch import Run, watch

_NAMES_SHOWN = 30
_ONE_HOT = "Labels of shape (N, T) give every token a label; convert one-hot rows with argmax(1)."
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_READ_OUTS: tuple[Pool, ...] = ("cls", "last_token", "mean")

Layers = str | Tap | Sequence[str | Tap]


class Discovery:
    """Makes the plan of taps for one network; names are checked at once, the rest when the first samples are there."""

    def __init__(self, model: nn.Module, layers: Layers, classifier: str | None, num_classes: int) -> None:
        """Check what the user named.

        Args:
            model: Any network.
            layers: "auto", "all", or names, globs and taps.
            classifier: Name of the last linear layer; None takes what the network declares in ``collapse_classifier``, else
                the last ``nn.Linear`` with K outputs that runs, else none.
            num_classes: K.

        Raises:
            ValueError: If a name or glob matches no module, or the classifier is not a linear layer with K outputs.
        """
        self.model, self.num_classes = model, num_classes
        self.modules = {name: module for name, module in model.named_modules() if name}
        self.classifier = self._check_classifier(classifier)
        declared = getattr(model, "collapse_stages", None)
        self.taps: tuple[Tap, ...] | None = None
        self.every = layers == "all" and "all" not in self.modules
        self.words = "all modules" if self.every else ""
        if self.every:
            return
        if layers != "auto" or "auto" in self.modules:
            wanted = [layers] if isinstance(layers, str | Tap) else list(layers)
            self.taps = self._match(wanted)
            self.words = f"by name: {', '.join(tap if isinstance(tap, str) else tap.label for tap in wanted)}"
        elif declared is not None:
            self.taps = self._match(list(declared))
            self.words = f"stages that {type(model).__name__} declares"

    def plan(self, inputs: Any, num_rows: int, tokens: bool) -> TapPlan:
        """Watch one forward pass and decide.

        Args:
            inputs: A few samples.
            num_rows: How many.
            tokens: Whether every token has a label.

        Returns:
            The plan.

        Raises:
            ValueError: If a named layer or the named classifier does not run, or a layer runs twice.
            TypeError: If the output of a named layer is no feature, or the classifier's input has positions.
        """
        runs = watch(self.model, self.modules, inputs)
        classifier, feeding, words = self._classifier(runs, tokens)
        limit = runs[classifier].begun if classifier is not None and not self.taps else len(runs)
        usable = [run for run in list(runs.values())[:limit] if _usable(run, num_rows)]
        notes = [words]
        if self.taps is not None:
            taps = self.taps
            self._check_ran(taps, runs)
        elif self.every:
            taps = tuple(Tap(run.name) for run in usable)
        else:
            chosen, found = _stages(usable, feeding)
            pool = "flatten" if tokens else _read_out(usable, list(runs.values()), attention_mask(inputs))
            taps = tuple(Tap(run.name, pool if _features(run).ndim == 3 else "flatten") for run in chosen)
            notes.insert(0, found)
        label = self._feeding_label(taps, runs, classifier, feeding)
        overwritten = {tap.label for tap in taps if (output := runs[tap.name].output) is not None and output.overwritten}
        if feeding is not None and feeding.overwritten:
            overwritten.add(str(label))
        if not taps and label is None:
            raise ValueError(f"No layer with one row a sample was found. Name layers. {_available('', self.modules)}")
        if label is not None and label not in {tap.label for tap in taps}:
            notes.append(f"{label} feeds the classifier")
        explanation = "; ".join(filter(None, [self.words, *notes]))
        return TapPlan(taps, classifier, label, frozenset(overwritten), explanation)

    def _match(self, wanted: Sequence[str | Tap]) -> tuple[Tap, ...]:
        found: dict[Tap, None] = {}
        for item in wanted:
            tap = Tap(item) if isinstance(item, str) else item
            # A plain name first: module names may hold characters that a glob would read.
            names = [tap.name] if tap.name in self.modules else _glob(tap.name, self.modules)
            if not names:
                raise ValueError(f"No module named or matching {tap.name!r}. {_available(tap.name, self.modules)}")
            found.update(dict.fromkeys(Tap(name, tap.pool) for name in names))
        if not found:
            raise ValueError(f"layers must name at least one module, got none. {_available('', self.modules)}")
        return tuple(found)

    def _check_classifier(self, name: str | None) -> str | None:
        name = getattr(self.model, "collapse_classifier", None) if name is None else name
        module = None if name is None else self.modules.get(name)
        if name is not None and not (isinstance(module, nn.Linear) and module.out_features == self.num_classes):
            got = "no such module" if module is None else repr(module)
            raise ValueError(
                f"classifier {name!r} must be an nn.Linear with {self.num_classes} outputs, got {got}. "
                f"{_available(name, self.modules)}"
            )
        return name

    def _check_ran(self, taps: Sequence[Tap], runs: dict[str, Run]) -> None:
        missing = [tap.name for tap in taps if tap.name not in runs]
        if missing:
            raise ValueError(f"Layers {', '.join(missing)} did not run in the forward pass. Name layers that do.")
        for tap in taps:
            if runs[tap.name].runs > 1:
                raise ValueError(
                    f"Layer {tap.label!r} runs more than once in a forward pass, so its output is ambiguous. "
                    "Tap the modules around it."
                )

    def _classifier(self, runs: dict[str, Run], tokens: bool) -> tuple[str | None, Captured | None, str]:
        """The classifier's name, what it was given, and a note."""
        linear = [run for run in runs.values() if isinstance(run.module, nn.Linear) and run.runs == 1]
        if self.classifier is None:
            heads = [run for run in linear if cast(nn.Linear, run.module).out_features == self.num_classes]
            if not heads:
                others = f", the last one has {cast(nn.Linear, linear[-1].module).out_features}" if linear else ""
                return None, None, f"no nn.Linear with {self.num_classes} outputs{others}: no metrics of a classifier"
            run = heads[-1]
        elif self.classifier in runs:
            run = runs[self.classifier]
        else:
            raise ValueError(f"Classifier {self.classifier!r} did not run in the forward pass. Name one that does.")
        given = cast(Captured, run.given)
        if given.tensor.ndim == (3 if tokens else 2):
            return run.name, given, ""
        if self.classifier is not None:
            raise TypeError(
                f"Classifier {run.name!r} must take features of shape {'(N, T, d)' if tokens else '(N, d)'}, got "
                f"{tuple(given.tensor.shape)}. Name another with classifier=. {_ONE_HOT if tokens else ''}".rstrip()
            )
        return None, None, f"{run.name} takes {tuple(given.tensor.shape)}, not (N, d): no metrics of a classifier"

    def _feeding_label(
        self, taps: Sequence[Tap], runs: dict[str, Run], classifier: str | None, feeding: Captured | None
    ) -> str | None:
        """The tap that feeds the classifier, or a layer of its own for what the classifier takes."""
        if classifier is None or feeding is None:
            return None
        before = list(runs)[: runs[classifier].begun]
        flat = [tap for tap in taps if tap.pool == "flatten" and tap.name in before]
        same = [tap.label for tap in flat if (output := runs[tap.name].output) is not None and output.is_same(feeding)]
        return same[-1] if same else f"{classifier}.input"


def _usable(run: Run, num_rows: int) -> bool:
    """Whether a module ran once and returned one row of features a sample."""
    return run.runs == 1 and run.output is not None and len(run.output.tensor) == num_rows


def _features(run: Run) -> Tensor:
    return cast(Captured, run.output).tensor


def _stages(usable: Sequence[Run], feeding: Captured | None) -> tuple[list[Run], str]:
    """The natural stages among the modules that run before the classifier, in order, and what they are."""
    blocks = _blocks(usable)
    chosen = blocks or _groups(usable) or list(usable)
    words = (
        "blocks "
        + ", ".join(dict.fromkeys(type(run.module).__name__ for run in blocks if not isinstance(run.module, _CONTAINERS)))
        if blocks
        else "layers with weights"
    )
    names = {run.name for run in chosen}
    notes = [words]
    if blocks:
        stem = _producer(usable, min(blocks, key=lambda run: run.begun).given)
        if stem is not None and stem.name not in names:
            names.add(stem.name)
            notes.append(f"their input {stem.name}")
    last = _producer(usable, feeding)
    if last is not None and _producer([run for run in usable if run.name in names], feeding) is None:
        names.add(last.name)
        notes.append(f"the classifier's input {last.name}")
    return [run for run in usable if run.name in names], " and ".join(notes)


def _blocks(usable: Sequence[Run]) -> list[Run]:
    """The outermost modules of classes of which several run, and what runs after the first of them beside them."""
    inner = [run for run in usable if not isinstance(run.module, _CONTAINERS) and _has_layers(run.module)]
    count = Counter(type(run.module) for run in inner)
    chosen: dict[str, Run] = {}
    for run in sorted(inner, key=lambda run: run.name.count(".")):
        if count[type(run.module)] > 1 and not _inside(run.name, chosen):
            chosen[run.name] = run
    if not chosen:
        return []
    first = min(run.begun for run in chosen.values())
    parents = {name.rpartition(".")[0] for name in chosen}
    beside = [
        run for run in usable if run.name.rpartition(".")[0] in parents and run.begun >= first and _has_layers(run.module)
    ]
    around = {run.name for run in beside if any(_inside(name, {run.name}) for name in chosen)}
    names = chosen.keys() | {run.name for run in beside} - around
    return [run for run in usable if run.name in names]


def _has_layers(module: nn.Module) -> bool:
    return any(next(child.parameters(), None) is not None for child in module.children())


def _inside(name: str, outer: Any) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:i]) in outer for i in range(1, len(parts)))


def _groups(usable: Sequence[Run]) -> list[Run]:
    """Of a plain network: the last module before each further layer with weights (activation, normalization, pooling)."""
    leaves = [run for run in usable if not list(run.module.children()) and not isinstance(run.module, _CONTAINERS)]
    heavy = [any(p.ndim > 1 for p in run.module.parameters(recurse=False)) for run in leaves]
    ends = [i for i in range(len(leaves)) if any(heavy[: i + 1]) and (i + 1 == len(leaves) or heavy[i + 1])]
    return [leaves[i] for i in ends]


def _producer(usable: Sequence[Run], given: Captured | None) -> Run | None:
    """The module whose output it is, the earliest if several hand it on."""
    if given is None:
        return None
    return next((run for run in usable if run.output is not None and run.output.is_same(given)), None)


def _read_out(usable: Sequence[Run], runs: Sequence[Run], mask: Tensor | None) -> Pool:
    """How the network itself turns tokens (N, T, D) into one row a sample; their mean if that cannot be seen."""
    if not any(isinstance(run.module, nn.Linear) and run.given is not None and run.given.tensor.ndim == 3 for run in runs):
        return "flatten"  # three dimensions, but no tokens: (N, C, L) of a convolution
    given = [run.given.values for run in runs if run.given is not None and run.given.tensor.ndim == 2]
    for run in reversed([run for run in usable if _features(run).ndim == 3]):
        output = cast(Captured, run.output).values
        for pool in _READ_OUTS:
            rows = Tap(run.name, pool).read(output, mask)
            if any(rows.shape == other.shape and torch.allclose(rows, other) for other in given):
                return pool
    return "mean"


def _glob(pattern: str, names: Any) -> list[str]:
    """Names that match, "*" within one part of a name, "**" across parts, "?" one character, "[...]" one of some."""
    translated = "".join(
        {"**": ".*", "*": "[^.]*", "?": "[^.]"}.get(part, part if part.startswith("[") else re.escape(part))
        for part in re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    )
    return [name for name in names if re.fullmatch(translated, name)]


def _available(pattern: str, modules: dict[str, nn.Module]) -> str:
    near = difflib.get_close_matches(pattern, modules, n=5)
    listed = list(modules)[:_NAMES_SHOWN]
    more = f" and {len(modules) - len(listed)} more (model.named_modules())" if len(modules) > len(listed) else ""
    return (f"Near: {', '.join(near)}. " if near else "") + f"Layers available here: {', '.join(listed)}{more}."
