"""The near ones among known words, for errors about a word that is none of them."""

import inspect
from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_MOST_NAMED = 4
_LEAST_LIKENESS = 0.6


def near_words(word: str, known: Iterable[str]) -> str:
    """Name the words that may have been meant, in a sentence; return nothing where none is near."""

    def likeness(other: str) -> tuple[float, float]:
        # Of train.epochs people may know the last part only.
        pairs = ((word.rpartition(".")[2], other.rpartition(".")[2]), (word, other))
        last, whole = (SequenceMatcher(None, *pair).ratio() for pair in pairs)
        return last, whole

    ranked = sorted(((likeness(other), other) for other in known), key=lambda item: item[0], reverse=True)
    near = [other for (last, _), other in ranked if last >= _LEAST_LIKENESS][:_MOST_NAMED]
    return f"Near ones: {', '.join(near)}. " if near else ""


def names_near_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Name the arguments that may have been meant, where a function is called with one that it does not have."""
    known = inspect.signature(function).parameters

    @wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        for name in given:
            if name not in known:
                near = near_words(name, known)
                raise TypeError(f"{function.__name__} has no argument `{name}`. {near}See help({function.__name__}).")
        return function(*args, **given)

    return called
