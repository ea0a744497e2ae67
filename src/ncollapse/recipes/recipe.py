"""A recipe: an experiment as one frozen dataclass with a JSON form."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from ncollapse.near_words import near_words
from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.recipes.checks import LARGEST_SEED, check_least, check_most
from ncollapse.recipes.data import DataConfig
from ncollapse.recipes.networks import ConvResNetConfig, FCResNetConfig, LayerNormResNetConfig, TransformerConfig
from ncollapse.recipes.training import TrainConfig

# Those of ncollapse.statistics, which needs torch; a test holds that they are the same.
Convention = Literal["class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"]


class RecipeError(ValueError):
    """A recipe that does not exist, or an override that does not fit it."""


@dataclass(frozen=True)
class MeasureConfig:
    """When and how a run is measured.

    Attributes:
        epochs: Epochs after which to measure, 0 being before training; None takes 0 and a log-spaced list.
        batch_size: Samples in a forward pass.
        convention: Class weights of the covariances.
        transport_samples: Samples of the exact Wasserstein-2 distance, before training and at the last epoch, class-stratified;
            0 leaves it out.
        test: Whether the test split is measured too, decided by the class means of the training set. That of the digits is
            what ``data.per_class`` leaves over.
    """

    epochs: tuple[int, ...] | None = None
    batch_size: int = 1000
    convention: Convention = "class"
    transport_samples: int = 1000
    test: bool = False

    def __post_init__(self) -> None:
        if any(epoch < 0 for epoch in self.epochs or ()):
            raise ValueError(f"measure.epochs must be 0 (before training) or more, got {min(self.epochs or ())}. Leave it out.")
        check_least("measure.batch_size", self.batch_size, 1)
        check_least("measure.transport_samples", self.transport_samples, 0)

    def until(self, last: int) -> tuple[int, ...] | None:
        """Return the listed epochs that a shorter run has."""
        return None if self.epochs is None else tuple(epoch for epoch in self.epochs if epoch <= last)


# A network says what it is in its field kind; the first network of all has none, so that its recipes stay what they were.
_FC, _CONV, _LN, _TOKENS = "fc_resnet", "conv_resnet", "layernorm_resnet", "transformer"
_Model = Annotated[
    Annotated[FCResNetConfig, Tag(_FC)]
    | Annotated[ConvResNetConfig, Tag(_CONV)]
    | Annotated[LayerNormResNetConfig, Tag(_LN)]
    | Annotated[TransformerConfig, Tag(_TOKENS)],
    Discriminator(lambda content: _tag(content)),
]


def _tag(content: Any) -> str:
    """Return the kind of a network. An unknown one gets the error of a ConvResNet, once the only other network."""
    if not isinstance(content, dict) or "kind" not in content:
        return _FC
    return content["kind"] if content["kind"] in {_LN, _TOKENS} else _CONV


@dataclass(frozen=True)
class Recipe:
    """One experiment: data, network, training, measuring, seed.

    Attributes:
        name: Short name, as on the command line.
        title: One line for people.
        description: What is expected, on which hardware, in how many minutes, from how many seeds.
        data: Which samples.
        model: Which network.
        train: Settings of the training.
        measure: When it is measured.
        seed: Decides the initial weights and the order of the samples.
        threads: CPU threads. Two threads differ from one in the last digits; one is faster for narrow networks.
        device: "auto" takes a CUDA device when there is one, else the CPU.
        decay_over_blocks: Whether ``train.weight_decay`` is divided by ``model.num_blocks``, as theory asks of blocks with two
            linear layers.
    """

    name: str
    title: str
    description: str
    data: DataConfig = field(default_factory=DataConfig)
    model: _Model = field(default_factory=FCResNetConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    seed: int = 0
    threads: int = 1
    device: str = "auto"
    decay_over_blocks: bool = False

    def __post_init__(self) -> None:
        if self.decay_over_blocks and getattr(self.model, "num_blocks", 0) < 1:
            raise ValueError("decay_over_blocks needs a network with model.num_blocks of 1 or more. Leave it false.")
        check_least("seed", self.seed, 0)
        check_most("seed", self.seed, LARGEST_SEED)
        check_least("threads", self.threads, 1)
        check_most("threads", self.threads, 1024)
        head = getattr(self.model, "head", "linear")
        if self.train.loss == "dot_regression" and head != "fixed_etf":
            raise ValueError(
                f"train.loss=dot_regression needs model.head=fixed_etf, got {head}. A trained head can bring all logits to one."
            )
        if self.train.loss == "mcr2" and head != "linear":
            raise ValueError(f"train.loss=mcr2 needs model.head=linear, got {head}. Its features have no fixed directions.")
        last = max(self.measure.epochs or (0,))
        if last > self.train.epochs:
            raise ValueError(
                f"measure.epochs must be at most train.epochs = {self.train.epochs}, got {last}. Train longer, or measure "
                f"earlier: measure.epochs={json.dumps(self.measure.until(self.train.epochs)).replace(' ', '')}."
            )

    @property
    def training(self) -> TrainConfig:
        """How it is trained, with the weight decay that is meant."""
        if not self.decay_over_blocks or isinstance(self.model, ConvResNetConfig):
            return self.train
        return replace(self.train, weight_decay=self.train.weight_decay / self.model.num_blocks)

    def to_json(self) -> str:
        """Return the recipe as indented JSON, which ``from_json`` reads back to an equal value."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Return the recipe that ``to_json`` wrote.

        Raises:
            RecipeError: If the text is not a recipe.
        """
        try:
            return parse_recipe(text)
        except RecipeError as error:
            raise RecipeError(f"Not a recipe of this version of ncollapse: {error}") from error

    def fingerprint(self) -> str:
        """Return a digest of everything that the numbers of a run depend on: 16 hexadecimal digits.

        It does not change if the recipe is written as JSON and read back: 1 and 1.0 are one learning rate.

        Raises:
            RecipeError: If a field has the wrong type.
        """
        return recipe_fingerprint(dataclasses.asdict(Recipe.from_json(self.to_json())))


def parse_recipe(text: str) -> Recipe:
    """Read a recipe from JSON; errors name the field."""
    try:
        # Strict: lax would take true for 1.
        return _adapter().validate_json(text, strict=True)
    except ValidationError as error:
        raise RecipeError(_first_problem(error)) from error


@functools.cache
def _adapter() -> TypeAdapter[Recipe]:
    return TypeAdapter(Recipe)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    if problem["type"] == "value_error":
        # Raised by a dataclass of ours: it names the field and what came.
        return problem["msg"].removeprefix("Value error, ")
    # A union's tags are no part of the name that people write.
    place = ".".join(str(part) for part in problem["loc"] if part not in {_FC, _CONV, _LN, _TOKENS}) or "recipe"
    came, words = problem["input"], problem["msg"]
    said = f"{place} must {words.removeprefix('Input should ')}" if words.startswith("Input should ") else f"{place}: {words}"
    # A container would print the whole recipe.
    if isinstance(came, dict | list | tuple):
        return f"{said}."
    choices = re.findall(r"'(\w+)'", words) if problem["type"] == "literal_error" else []
    return f"{said}, got {came!r}. {near_words(str(came), choices)}".rstrip()
