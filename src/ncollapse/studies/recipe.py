"""A recipe: an experiment as one frozen dataclass, with typed overrides and a JSON form."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ncollapse.data.catalog import DataConfig
from ncollapse.models.fc_resnet import FCResNetConfig
from ncollapse.statistics.conventions import Convention
from ncollapse.train.schedule import TrainConfig


class RecipeError(ValueError):
    """A recipe that does not exist, or an override that does not fit it."""


@dataclass(frozen=True)
class MeasureConfig:
    """When and how a run is measured.

    Attributes:
        epochs: Epochs after which to measure, 0 being before training; None takes 0 and a log-spaced list.
        batch_size: Samples in a forward pass.
        convention: Class weights of the covariances.
        transport_samples: Samples of the exact Wasserstein-2 distance at the last epoch, class-stratified; 0 leaves it out.
    """

    epochs: tuple[int, ...] | None = None
    batch_size: int = 1000
    convention: Convention = "class"
    transport_samples: int = 1000

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"measure.batch_size must be at least 1, got {self.batch_size}.")
        if self.transport_samples < 0:
            raise ValueError(f"measure.transport_samples must be at least 0, got {self.transport_samples}.")


@dataclass(frozen=True)
class Recipe:
    """One experiment: data, network, training, measuring, seed.

    Attributes:
        name: Short name, as on the command line.
        title: One line for people.
        description: What is expected, on which hardware, in how many minutes, from how many seeds.
        data: Which samples.
        model: Which network.
        train: How it is trained.
        measure: When it is measured.
        seed: Of the initialization and of the order of the samples.
        threads: CPU threads. Two threads differ from one in the last digits; one is faster for narrow networks.
        device: "auto" takes a CUDA device when there is one, else the CPU.
    """

    name: str
    title: str
    description: str
    data: DataConfig = field(default_factory=DataConfig)
    model: FCResNetConfig = field(default_factory=FCResNetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    seed: int = 0
    threads: int = 1
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.seed < 0 or self.threads < 1:
            raise ValueError(f"seed must be at least 0 and threads at least 1, got {self.seed} and {self.threads}.")

    def to_json(self) -> str:
        """The recipe as indented JSON.

        Returns:
            Text that ``from_json`` reads back to an equal value.
        """
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe back.

        Args:
            text: What ``to_json`` wrote.

        Returns:
            The recipe.

        Raises:
            RecipeError: If the text is not a recipe.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            raise RecipeError(f"Not a recipe of this version of ncollapse: {_first_problem(error)}") from error

    def fingerprint(self) -> str:
        """Digest of everything that the numbers of a run depend on.

        Returns:
            16 hexadecimal digits.
        """
        content = dataclasses.asdict(self)
        for words in ("name", "title", "description"):
            del content[words]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


_ADAPTER = TypeAdapter(Recipe)


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Change fields by name.

    Args:
        recipe: The recipe to start from.
        settings: Items like "train.epochs=50", "seed=3", "train.clip_norm=null", "train.milestones=[0.5]": a dotted field and
            its value in JSON, quotes around words being optional.

    Returns:
        A new recipe.

    Raises:
        RecipeError: If an item has no "=", a field does not exist (near ones are named), or a value has the wrong type.

    Example:
        >>> from ncollapse.studies import recipe_by_name
        >>> override(recipe_by_name("demo"), ["train.epochs=50"]).train.epochs
        50
    """
    content = dataclasses.asdict(recipe)
    fields = _leaves(content)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"A setting must look like train.epochs=50, got {setting!r}.")
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=4) or sorted(fields)
            raise RecipeError(f"Recipe {recipe.name!r} has no field {key!r}. Near ones: {', '.join(near)}.")
        group, _, leaf = key.rpartition(".")
        (content[group] if group else content)[leaf] = _parse(text)
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        raise RecipeError(f"{_first_problem(error)} (set by {', '.join(settings)})") from error


def _leaves(content: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for key, value in content.items():
        names.extend([f"{key}.{leaf}" for leaf in value] if isinstance(value, dict) else [key])
    return names


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"]) or "recipe"
    return f"{place}: {problem['msg'].removeprefix('Value error, ')}, got {problem['input']!r}"
