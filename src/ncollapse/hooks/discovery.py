"""Discovery: which modules are worth tapping, found by watching one forward pass of a few samples."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from ncollapse.hooks.batch_io import attention_mask
from ncollapse.hooks.capture import Captured
from ncollapse.hooks.stages import find_stages, is_inside, makes, pool_at, pool_of, read_out
from ncollapse.hooks.tap import Pool, Tap
from ncollapse.hooks.tapped_network import TapPlan, input_tap
from ncollapse.hooks.trace import Run, watch

_NAMES_SHOWN = 30
_ONE_HOT = "Labels of shape (N, T) give every token a label; convert one-hot rows with argmax(1)."

Layers = str | Tap | Sequence[str | Tap]


class Discovery:
    """Makes the plan of taps for one network; names are checked at once, the rest when the first samples are there."""

    def __init__(self, model: nn.Module, layers: Layers, classifier: str | None, num_classes: int) -> None:
        """Check what the user named."""
        self.model, self.num_classes = model, num_classes
        self.modules = {name: module for name, module in model.named_modules() if name}
        if not self.modules:
            raise ValueError(
                f"{type(model).__name__} must be built of modules to have layers, got one without any inside. Wrap it "
                "in nn.Sequential, or pass features to measure_features."
            )
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
        """Watch one forward pass and decide."""
        runs, returned = watch(self.model, self.modules, inputs)
        output = returned[0] if returned else None
        mask = attention_mask(inputs)
        head = self._head(runs, output, mask, tokens)
        limit = runs[head.name].begun if head.name is not None and not self.taps else len(runs)
        usable = [run for run in list(runs.values())[:limit] if _usable(run, num_rows)]
        notes = [head.note]
        if self.taps is not None:
            taps = self.taps
            self._check_ran(taps, runs)
        elif self.every:
            taps = tuple(Tap(run.name) for run in usable)
        else:
            side = self._side_heads(usable, returned)
            usable = [run for run in usable if run.name not in side and not is_inside(run.name, side)]
            taps, found = self._natural(usable, list(runs.values()), head, output, mask, tokens)
            notes = [found, *_left_out(runs, taps), *(f"{name} left out, a further head" for name in side), head.note]
        label = self._feeding_label(taps, runs, head)
        overwritten = {tap.label for tap in taps if (made := runs[tap.name].output) is not None and made.overwritten}
        if head.given is not None and head.given.overwritten:
            overwritten.add(str(label))
        if not taps and label is None:
            raise ValueError(f"No layer with one row a sample was found. Name layers. {_available('', self.modules)}")
        if label is not None and label not in {tap.label for tap in taps}:
            notes.append(f"{label} feeds the classifier")
        explanation = "; ".join(filter(None, [self.words, *notes]))
        return TapPlan(taps, head.name, label, head.pool, frozenset(overwritten), explanation)

    def _natural(
        self, usable: Sequence[Run], runs: Sequence[Run], head: Head, output: Captured | None, mask: Tensor | None, tokens: bool
    ) -> tuple[tuple[Tap, ...], str]:
        """The natural stages, tokens read as the network reads them, and what they are."""
        if head.given is None:
            chosen, found = find_stages(usable, output, "the output")
        else:
            chosen, found = find_stages(usable, head.given, "the classifier's input")
        pool, num_tokens = head.pool, 0 if head.given is None else head.given.tensor.shape[1]
        if not tokens and pool == "flatten":
            pool, num_tokens = read_out(usable, runs, mask)
        # What the classifier takes as it is has been read out already, whatever its shape.
        direct = {run.name for run in chosen if head.pool == "flatten" and makes(run, head.given)}
        taps = (Tap(run.name, "flatten" if run.name in direct else pool_at(run, pool, num_tokens)) for run in chosen)
        return tuple(taps), found

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

    def _head(self, runs: dict[str, Run], output: Captured | None, mask: Tensor | None, tokens: bool) -> Head:
        """The classifier, and what it takes."""
        linear = [run for run in runs.values() if isinstance(run.module, nn.Linear) and run.runs == 1]
        if self.classifier is None:
            heads = [run for run in linear if cast(nn.Linear, run.module).out_features == self.num_classes]
            if not heads:
                others = f", the last one has {cast(nn.Linear, linear[-1].module).out_features}" if linear else ""
                return Head(note=f"no nn.Linear with {self.num_classes} outputs{others}: no metrics of a classifier")
            run = next((run for run in heads if makes(run, output)), heads[-1])
        elif self.classifier in runs:
            run = runs[self.classifier]
        else:
            raise ValueError(f"Classifier {self.classifier!r} did not run in the forward pass. Name one that does.")
        given = cast(Captured, run.given)
        if given.tensor.ndim == (3 if tokens else 2):
            return Head(run.name, given)
        # Logits of all tokens, of which the network returns those of one, or their mean.
        if not tokens and output is not None and run.output is not None:
            pool = pool_of(run.output.values, output.values, mask)
            if pool is not None:
                return Head(run.name, given, pool, f"its logits are read out at {pool}")
        if self.classifier is not None:
            raise TypeError(
                f"Classifier {run.name!r} must take features of shape {'(N, T, d)' if tokens else '(N, d)'}, got "
                f"{tuple(given.tensor.shape)}. Name another with classifier=. {_ONE_HOT if tokens else ''}".rstrip()
            )
        return Head(note=f"{run.name} takes {tuple(given.tensor.shape)}, not (N, d): no metrics of a classifier")

    def _side_heads(self, usable: Sequence[Run], returned: Sequence[Captured]) -> list[str]:
        """Modules before the classifier whose logits the network returns beside those of the classifier."""
        linear = [run for run in usable if isinstance(run.module, nn.Linear) and run.module.out_features == self.num_classes]
        logits = [run.output for run in linear if any(makes(run, part) for part in returned)]
        heads = [run.name for run in usable if any(makes(run, part) for part in logits)]
        return [name for name in heads if not is_inside(name, heads)]

    def _feeding_label(self, taps: Sequence[Tap], runs: dict[str, Run], head: Head) -> str | None:
        """The tap that feeds the classifier, or a layer of its own for what the classifier takes."""
        if head.name is None:
            return None
        before = list(runs)[: runs[head.name].begun]
        read_alike = [tap for tap in taps if tap.pool == head.pool and tap.name in before]
        same = [tap.label for tap in read_alike if makes(runs[tap.name], head.given)]
        return same[-1] if same else input_tap(head.name, head.pool).label


class Head(NamedTuple):
    """What was found of the classifier."""

    name: str | None = None
    given: Captured | None = None
    pool: Pool = "flatten"
    note: str = ""


def _left_out(runs: dict[str, Run], taps: Sequence[Tap]) -> list[str]:
    """Words on modules that run more than once, such as layers with shared weights, which no tap covers."""
    again = [run.name for run in runs.values() if run.runs > 1 and any(True for _ in run.module.children())]
    names = {tap.name for tap in taps}
    outer = [name for name in again if not is_inside(name, again) and not is_inside(name, names)]
    return [f"{', '.join(outer)} left out, since it runs more than once"] if outer else []


def _usable(run: Run, num_rows: int) -> bool:
    """Whether a module ran once and returned one row of features a sample."""
    return run.runs == 1 and run.output is not None and len(run.output.tensor) == num_rows


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
