"""Discovery: the search for the layers of a network, in a trace of one forward pass on two samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ncollapse.hooks.affine import Proof
from ncollapse.hooks.batch_io import copy_of
from ncollapse.hooks.capture import INPUTS
from ncollapse.hooks.classifier import Head, find_head
from ncollapse.hooks.label_rows import LabelRows, find_sample_axes
from ncollapse.hooks.logits import Answers
from ncollapse.hooks.masks import MaskRule, mask_rules
from ncollapse.hooks.pooling import MeanFrom, TokenReading, padding_rule, read_out, silent_rule, unknown_padding
from ncollapse.hooks.rows import (
    TokenRows,
    aside_words,
    check_samples_first,
    declared_prefix,
    left_out_words,
    misplaced,
    nothing_found,
    shape_words,
    without_rows,
)
from ncollapse.hooks.snapshot import random_state_kept
from ncollapse.hooks.stages import check_ran_once, find_stages, in_series, natural_taps, parallel_layers, repeated
from ncollapse.hooks.tap import INPUT, LayerChoice, Modules, Placement, Tap, available_names, chosen_taps, declared, name_of
from ncollapse.hooks.tap_hooks import TapPlan
from ncollapse.hooks.token_axes import UNSHOWN, turned
from ncollapse.hooks.trace import ModuleCall, Trace, is_inside, outermost, trace_forward


class Discovery:
    """The search for the layers of a network (docs/discovery.md)."""

    # They are those that the user named; else those of `collapse_stages`; else, from a trace, repeated blocks with their input,
    # or layers with weights, then the classifier's input. Names are checked at once, so that a misspelled one costs no forward
    # pass.

    def __init__(
        self,
        model: nn.Module,
        layers: LayerChoice = "auto",
        classifier: str | nn.Module | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.model, self.num_classes = model, num_classes
        self.modules = Modules(model)
        if not self.modules:
            self.modules.check_eager(next(iter(self.modules.scripted), ""))
            raise ValueError(
                f"{type(model).__name__} must contain modules, got one without any. Wrap it in nn.Sequential, or pass "
                "features to measure_features."
            )
        self.classifier = None if classifier is None else self._named_classifier(classifier)
        declared_head = declared(model, "collapse_classifier")
        self.hint = declared_head if isinstance(declared_head, str) else None
        # A network may have modules named "all" or "auto"; then these words are names.
        self.every = layers == "all" and "all" not in self.modules
        automatic = layers == "auto" and "auto" not in self.modules
        stages = declared(model, "collapse_stages")
        self.taps: tuple[Tap, ...] | None = None
        self.words = "all modules" if self.every else ""
        if automatic and stages is not None:
            _, self.taps = chosen_taps(list(stages), self.modules)
            self.words = f"stages that {type(model).__name__} declares"
        elif not automatic and not self.every:
            names, self.taps = chosen_taps(layers, self.modules)
            self.words = f"by name: {', '.join(names)}"

    def plan(self, inputs: Any, num_rows: int, tokens: int | None, labeled: LabelRows | None = None) -> TapPlan:
        """Look at the first samples and choose taps; ``tokens``: labels per sample, 0 if it has one itself, None if unknown."""
        trace = self._look(inputs, follow=True)
        check_samples_first(trace, inputs, num_rows, self.num_classes, tokens, labeled)
        find_sample_axes(trace, inputs, num_rows, self._look)
        answers, rules = Answers(self.model, inputs), mask_rules(inputs, self.model)
        rule = padding_rule(rules, inputs, self.model, None if tokens else _usable(trace, Head()), trace, answers.to_inputs)
        trace = trace if rule is None else trace._replace(mask=rule.read(inputs, self.model))
        head = find_head(trace, self.classifier, self.hint, self.num_classes, tokens, answers)
        read = TokenReading("flatten") if tokens or head.takes_labeled_tokens else self._read_out(trace, head)
        taps, found, left_out = self._chosen(trace, head, read, num_rows)
        placements, unplaced, proof = self._place(trace, inputs, taps, head, tokens, labeled, read, rule)
        if self.taps is not None and unplaced:
            raise ValueError(misplaced(unplaced))
        taps = tuple(tap for tap in taps if tap.label not in unplaced)
        left_out |= unplaced
        feeding = _feeding_label(taps, trace, head)
        if not taps and feeding is None:
            raise ValueError(nothing_found(num_rows, left_out))
        rule = None if tokens else rule or silent_rule(rules, inputs, self.model, read)
        padding = rule.words if rule is not None and any(tap.skips_padding for tap in taps) else ""
        fed = "" if feeding in {None, *(tap.label for tap in taps)} else f"{feeding} feeds the classifier"
        notes = [self.words, found, proof, padding, *left_out_words(left_out), head.note, fed]
        return TapPlan(
            taps,
            classifier=head.name or head.matrix,
            feeding=feeding,
            feeding_tap=head.tap,
            overwritten=_overwritten(taps, trace, head, feeding),
            explanation="; ".join(filter(None, notes)),
            left_out=left_out,
            read_classifier=head.read,
            logits=head.logits,
            num_classes=self.num_classes,
            placements=placements,
            mask_rule=rule,
            repeats=_repeats(taps, trace, head, feeding, read),
            proof=_proof(head),
            named=self.taps is not None,
            may_reorder=trace.may_reorder or not trace.is_followed,
        )

    def _chosen(self, trace: Trace, head: Head, read: TokenReading, rows: int) -> tuple[tuple[Tap, ...], str, dict[str, str]]:
        """Return the taps, how they were found, and what was left out with the reason."""
        others = dict.fromkeys(head.others, "another head")
        if self.taps is not None:
            check_ran_once(self.taps, trace)
            return self.taps, aside_words(self.taps, trace), others
        if self.every:
            return tuple(Tap(call.name) for call in _usable(trace, head)), "", others
        taps, found, left_out = self._search(trace, head, read)
        left_out |= without_rows(_before(trace, head), _usable(trace, head), rows)
        return taps, found, left_out | dict.fromkeys(self.modules.scripted, "scripted") | others

    def _look(self, inputs: Any, follow: bool = False, partly: bool = False) -> Trace:
        # Several looks see the same random numbers, and the network may overwrite its inputs.
        with random_state_kept():
            return trace_forward(self.model, self.modules, copy_of(inputs), follow, partly)

    def _read_out(self, trace: Trace, head: Head) -> TokenReading:
        """Return how the network turns tokens into one row per sample."""
        if head.input is not None and head.pool != "flatten" and head.input.tensor.ndim == 3:
            return TokenReading(head.pool, head.input.tensor.shape[1])
        return read_out(self.model, _usable(trace, head), trace, head.name is not None)

    def _place(
        self,
        trace: Trace,
        inputs: Any,
        taps: Sequence[Tap],
        head: Head,
        tokens: int | None,
        labeled: LabelRows | None,
        read: TokenReading,
        rule: MaskRule | None,
    ) -> tuple[dict[str, Placement], dict[str, str], str]:
        """Return where the labels' rows are in each layer, why that is unknown for others, and how it was proven."""
        seen = [*taps, *({head.tap} - {None, *taps} if labeled is not None and labeled.says_where else ())]
        calls = {tap.label: trace.taken(tap) for tap in seen}
        placements, unplaced, granted = self._usual_places(trace, seen, inputs, labeled, read)
        if labeled is not None and labeled.says_where:
            outputs = {name: part.output.tensor for name, part in calls.items() if part.output is not None}
            others = {name: labeled.elsewhere(placements[name].arranged(output)) for name, output in outputs.items()}
            unfit = {name: why for name, why in others.items() if why and not (self.taps and all(others.values()))}
            return placements, unplaced | unfit, ""
        num_labels = tokens or (trace.output.tensor.shape[1] if head.takes_labeled_tokens and trace.output is not None else 0)
        if num_labels:
            found, refused, words = self._token_places(trace, inputs, calls, head, num_labels)
            return placements | found, unplaced | refused, words
        if head.tap is not None and (end := trace.call(head.tap.name)) is not None and end.axis is None:
            many = f" for {labeled.num_samples} labels" if labeled else ""
            raise ValueError(misplaced({end.name: shape_words(end) + many}))
        reasons = [(tap.label, unknown_padding(calls[tap.label], tap, read, trace.mask, rule)) for tap in taps]
        pooled = any(tap.pool != "flatten" and (isinstance(tap.pool, str) or tap.pool == read.pool) for tap in taps)
        words = "; ".join(filter(None, [read.words if pooled else "", granted]))
        return placements, unplaced | {label: why for label, why in reasons if why}, words

    def _token_places(
        self, trace: Trace, inputs: Any, calls: dict[str, ModuleCall], head: Head, num_labels: int
    ) -> tuple[dict[str, Placement], dict[str, str], str]:
        """Return where the labeled tokens are in each layer and in the logits, why that is unknown for others, and a proof."""
        end = trace.call(head.tap.name) if head.takes_labeled_tokens and head.tap is not None else None
        rows = TokenRows(trace, inputs, num_labels, self.num_classes, self._look, declared_prefix(self.model), end)
        calls = calls if end is None else calls | {end.name: end}
        placed = {label: rows.place(call.name) for label, call in calls.items() if call.name in rows.states}
        placed |= {"": rows.place_of_logits()} if "" in rows.states else {}
        refused = {label: place for label, place in placed.items() if isinstance(place, str)}
        refused |= {name: shape_words(call) for name, call in calls.items() if name not in placed and self.taps is None}
        if ends := {"", "" if end is None else end.name} & refused.keys():
            raise ValueError(misplaced({label: refused[label] for label in sorted(ends)}))
        found = {name: at for name, at in placed.items() if not isinstance(at, str)}
        found = {name: at._replace(axis=(calls[name].axis or 0) if name else 0) for name, at in found.items()}
        return found, refused, rows.words

    def _usual_places(
        self, trace: Trace, taps: Sequence[Tap], inputs: Any, labeled: LabelRows | None, read: TokenReading
    ) -> tuple[dict[str, Placement], dict[str, str], str]:
        """Return which dimension of each layer counts samples, and where tokens or channels are; why not; what is assumed."""
        calls = {tap.label: trace.taken(tap) for tap in taps}
        found = {label: Placement(axis=call.axis or 0) for label, call in calls.items()}
        unplaced = {label: shape_words(call) for label, call in calls.items() if call.axis is None and call.output is not None}
        places, granted = turned(trace, taps, inputs, self._look, labeled, read)
        settled = () if self.taps is None else (UNSHOWN,)  # whoever names a pool says where the tokens are
        unplaced |= {label: at for label, at in places.items() if isinstance(at, str) and at not in settled}
        found |= {label: at._replace(axis=found[label].axis) for label, at in places.items() if not isinstance(at, str)}
        return found, unplaced, granted

    def _named_classifier(self, given: str | nn.Module) -> str:
        named = name_of(given, self.modules, "classifier")
        self.modules.check_eager(named)
        name = self.modules.names.get(named, named)
        if name not in self.modules:
            raise ValueError(
                f"classifier {name!r} must be a module of the network, got no such module. "
                f"{available_names(self.modules, name)}"
            )
        return name

    def _search(self, trace: Trace, head: Head, read: TokenReading) -> tuple[tuple[Tap, ...], str, dict[str, str]]:
        """Return a tap for each natural stage, how they were found, and what was left out with the reason."""
        usable = _usable(trace, head)
        left_out: dict[str, str] = {}
        others = set(head.others)
        before = [call for call in _before(trace, head) if _sees_inputs(call, trace)]
        takers = [call for call in before if call.name not in others and not is_inside(call.name, others)]
        usable = [call for call in usable if call in takers]
        last = trace.output if head.input is None else head.input
        end = trace.sources if head.input is None else head.input.sources
        # Without a way from the inputs to the end, some operation could not be followed, and nothing is known of the order.
        followed = bool(end & INPUTS)
        if followed:
            leading = [call for call in usable if call.leads_to(end)]
            aside = [call.name for call in usable if call not in leading]
            usable, takers = leading, [call for call in takers if call.leads_to(end)]
            left_out |= dict.fromkeys(outermost(aside, leading), f"does not lead to {head.name or head.layer or 'the output'}")
        chosen, found = find_stages(usable, takers, last, head.input is not None)
        if followed:
            chosen, beside = in_series(chosen)
            beside = parallel_layers(usable) | beside
            left_out |= {name: beside[name] for name in outermost(list(beside), chosen)}
        else:
            found += " in order of execution, since what depends on what could not be followed"
        taps = natural_taps(chosen, head, read)
        return taps, found, repeated(trace, taps) | left_out


def _usable(trace: Trace, head: Head) -> list[ModuleCall]:
    """Return the modules before the classifier that ran once and returned one row of features per sample."""
    calls = [call for call in _before(trace, head) if call.count == 1 and call.output is not None and call.axis is not None]
    return [call for call in calls if _sees_inputs(call, trace) and not call.is_aside]


def _sees_inputs(call: ModuleCall, trace: Trace) -> bool:
    """Return whether a module's output depends on the inputs, as far as known."""
    # The texts of the classes, which a network encodes next to its inputs, are no samples, however many there are.
    return call.output is None or not trace.is_followed or bool(call.output.sources & INPUTS)


def _before(trace: Trace, head: Head) -> list[ModuleCall]:
    """Return the modules that had finished when the classifier started."""
    calls = list(trace.calls.values())
    return calls if head.name is None else calls[: trace.calls[head.name].started_after]


def _feeding_label(taps: Sequence[Tap], trace: Trace, head: Head) -> str | None:
    """Return the label of the tap that feeds the classifier, else a label for the classifier's input itself."""
    if head.tap is None:
        return None
    before = len(_before(trace, head))
    read_alike = [tap for tap in taps if tap.pool == head.pool and trace.taken(tap).finished <= before]
    same = [tap.label for tap in read_alike if trace.taken(tap).returned(head.input)]
    return same[-1] if same else head.tap.label


def _repeats(taps: Sequence[Tap], trace: Trace, head: Head, feeding: str | None, read: TokenReading) -> tuple[str, Tap] | None:
    """Return a layer with tokens as they are read here, and a tap of the same numbers that the network makes of them."""
    if read.tokens is None or read.rows is None:
        return None
    pooled = [tap.label for tap in taps if tap.pool == read.pool and trace.taken(tap).returned(read.tokens.output)]
    rows = [tap for tap in taps if tap.pool == "flatten" and trace.taken(tap).returned(read.rows)]
    if feeding is not None and head.tap is not None and head.pool == "flatten" and head.input is not None:
        rows += [replace(head.tap, name=feeding)] if head.input.is_same(read.rows) else []
    if read.taker is not None and read.taker.count == 1:
        rows.append(Tap(read.taker.name + INPUT))
    return (pooled[0], rows[0]) if pooled and rows else None


def _proof(head: Head) -> Proof | None:
    """Return the map of a classifier that further batches are compared with."""
    if head.affine is None or head.logits is None:
        return None
    pooled = head.pool in {"mean", "last_token"} or isinstance(head.pool, MeanFrom)
    return Proof.of(head.affine, head.rounding, pooled, head.logits.made)


def _overwritten(taps: Sequence[Tap], trace: Trace, head: Head, feeding: str | None) -> frozenset[str]:
    """Return the layers that a later in-place operation overwrites, such as an activation: their features are copied."""
    outputs = {tap.label: trace.taken(tap).output for tap in taps}
    found = {label for label, output in outputs.items() if output is not None and output.overwritten}
    if feeding is not None and head.input is not None and head.input.overwritten:
        found.add(feeding)
    return frozenset(found)
