"""The fields of a model as FIELD=VALUE: find them in signatures, read their values, and write values as they are typed."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from ncollapse.cli.plain_math import plain_sections
from ncollapse.near_words import near_words

_OPTIONS = ("--solver", "--seed", "--figure", "--all", "--json", "--help")
# Options of version 0.1 and the fields that they set, where these have another name.
_OLD = {
    **{"steps": "num_steps", "model": "kind", "e_w": "energy_w", "e_h": "energy_h"},
    **{"beta": "lambda_w", "decay": "lambda_w"},
}
# What people may type for the field counts: letters of formulas, and words of version 0.1.
_OF_CLASSES = ("classes", "per_class", "majority", "ratio")
_SIZES = ("K", "N", "n", "n_k", "num_classes", "num_samples", "samples")


class Field(NamedTuple):
    """A field that can be set: its type, its default and its meaning."""

    kind: Any
    default: Any
    text: str


class FromCounts(NamedTuple):
    """The default of a field that depends on the numbers K of classes and N of samples: factors of both, and a summand."""

    classes: int = 1
    samples: int = 0
    plus: int = 0

    def value(self, counts: tuple[int, ...]) -> int:
        """Return the number for given classes."""
        return self.classes * len(counts) + self.samples * sum(counts) + self.plus

    def __str__(self) -> str:
        terms = [f"{factor} {name}".removeprefix("1 ") for factor, name in ((self.classes, "K"), (self.samples, "N")) if factor]
        return " + ".join(terms + [str(self.plus)] * (self.plus != 0))


def fields_of(parts: Sequence[Callable[..., Any]], defaults: Mapping[str, Any]) -> dict[str, Field]:
    """Find the parameters of the parts whose values can be typed. Tensors and problems come from the part before."""
    found: dict[str, Field] = {}
    for part in parts:
        texts = plain_sections(inspect.getdoc(part) or "")
        for key, parameter in inspect.signature(part, eval_str=True).parameters.items():
            kind, text = parameter.annotation, texts.get(key, "")
            if get_origin(kind) is Annotated:
                kind, text = get_args(kind)
            if key != "seed" and _is_written(kind):
                found.setdefault(key, Field(kind, defaults.get(key, parameter.default), text))
    return found


def _is_written(kind: Any) -> bool:
    """Return whether the values of a type can be typed: they are numbers, words or tuples of them."""
    members = [member for member in get_args(kind) if member is not ...]
    if kind in {int, float, NoneType} or get_origin(kind) is Literal:
        return True
    return bool(members) and all(map(_is_written, members))


def read_fields(name: str, fields: Mapping[str, Field], settings: Iterable[str]) -> dict[str, Any]:
    """Read the settings, and give the value of every field."""
    values = {key: field.default for key, field in fields.items()}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"A field is set as FIELD=VALUE, got {setting!r}. See ncollapse solve {name} --help.")
        if key not in fields:
            raise ValueError(f"{name} has no field {key!r}. {_near_fields(key, fields)}See ncollapse solve {name} --help.")
        values[key] = _read(key, text, fields[key])
    return {key: value.value(values["counts"]) if isinstance(value, FromCounts) else value for key, value in values.items()}


def _near_fields(word: str, fields: Mapping[str, Field]) -> str:
    """Name the fields that may have been meant: by the symbol that begins their text, by an old name, or by their letters."""
    if "counts" in fields and (word in _OF_CLASSES or word in _SIZES):
        return "Set counts: counts=4x5 means 4 classes of 5 samples each. "
    symbols = {field.text.partition(",")[0].rstrip("."): key for key, field in fields.items()}
    found = symbols.get(word, _OLD.get(word, ""))
    return f"Near ones: {found}. " if found in fields else near_words(word, fields)


def _read(key: str, text: str, field: Field) -> Any:
    try:
        return _value(text, field.kind)
    except ValueError:
        example = 8 if isinstance(field.default, FromCounts) else written(field.default)
        words = f"{key} must be {_kind_words(field.kind)}, got {text!r}. Type for example {key}={example}."
        raise ValueError(words) from None


def _value(text: str, kind: Any) -> Any:
    """Read a value. In a tuple an item such as 4x5 means four times 5."""
    from pydantic import TypeAdapter

    if get_origin(kind) is tuple:
        values: tuple[Any, ...] = ()
        for item in text.split(","):
            times, mark, single = item.rpartition("x")
            values += (_value(single, get_args(kind)[0]),) * (int(times) if mark else 1)
        return values
    if text == "none" and NoneType in get_args(kind):
        return None
    return TypeAdapter(kind).validate_strings(text)


def _kind_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "numbers such as 5,5,5,5 or 4x5"
    words = {int: "an integer", float: "a number", NoneType: "none"}
    return words[kind] if kind in words else " or ".join(map(_kind_words, get_args(kind)))


def written(value: Any) -> str:
    """Write a value as it is typed."""
    if isinstance(value, FromCounts):
        return str(value)
    if isinstance(value, tuple):
        groups = [(len(list(alike)), item) for item, alike in itertools.groupby(value)]
        return ",".join(f"{times}x{written(item)}" if times > 1 else written(item) for times, item in groups)
    if isinstance(value, float):
        return f"{value:.12g}"
    return "none" if value is None else str(value)


def is_option(word: str) -> bool:
    """Return whether a word is an option, rather than a value such as -0.5."""
    return re.match(r"--?[A-Za-z]", word) is not None


def new_form(name: str, words: Sequence[str], fields: Mapping[str, Field], options: Sequence[str] = ()) -> str:
    """Say how to type options of version 0.1 as fields; the options that are still options come last."""
    typed: dict[str, list[str]] = {}
    kept = []
    for word in words:
        if is_option(word):
            flag, _, value = word.lstrip("-").partition("=")
            typed[key := flag.replace("-", "_")] = [value] if value else []
        elif "=" in word or not typed:
            kept.append(word)
        else:
            typed[key].append(word)
    known = {*fields, *_OLD, *_OF_CLASSES, "layers", "lambda_w", "threshold"}
    unknown = [flag for flag in typed if flag not in known]
    if unknown:
        flag = "--" + unknown[0].replace("_", "-")
        return f"solve has no option {flag}. {near_words(flag, _OPTIONS)}See ncollapse solve --help."
    settings = _as_fields(typed, fields)
    line = " ".join([name, *kept, *(f"{key}={value}" for key, value in settings.items()), *options])
    found = "The options of a model are fields since version 0.2. " if typed else ""
    if "threshold" in typed:
        found += "It prints the threshold as minority_threshold. Set counts to that ratio to solve there. "
    return f"{found}Type: ncollapse solve {line}"


def _as_fields(typed: Mapping[str, list[str]], fields: Mapping[str, Field]) -> dict[str, str]:
    first = {flag: values[0] if values else "" for flag, values in typed.items()}
    made: dict[str, str] = {}
    if "counts" in fields and first.keys() & {"classes", "per_class"}:
        default = fields["counts"].default
        each = typed.get("per_class", [written(default[0])])
        made["counts"] = ",".join(each) if len(each) > 1 else f"{first.get('classes', len(default))}x{each[0]}"
    if "counts" in fields and first.keys() & {"majority", "ratio", "threshold"}:
        # Without a number of majority classes, half of the classes are, as they are by default.
        classes = int(first.get("classes", len(fields["counts"].default)))
        majority = int(first.get("majority", classes // 2))
        ratio = first.get("ratio", "10" if "threshold" in first else "1")
        made["counts"] = f"{majority}x{ratio},{classes - majority}x1"
    for flag, value in first.items():
        field = flag if flag in fields else _OLD.get(flag, "")
        if field in fields:
            if get_origin(fields[field].kind) is tuple:
                value = ",".join(typed[flag])
            made[field] = "cross_entropy" if value == "ce" else value
    if "lambdas_w" in fields and first.keys() & {"layers", "lambda_w"}:
        made["lambdas_w"] = f"{first.get('layers', 3)}x{first.get('lambda_w', 0.01)}"
    return made
