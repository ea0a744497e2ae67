"""The map of a classifier as a weight and a bias, found from the values of a module."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Rows of the identity that are evaluated at once.
_BLOCK = 1024
_PROBES = 6
# How much the logits must vary with a classifier's input, in units of their rounding.
_ANSWER = 100.0
# The rounding of float32 products on the tensor cores of a GPU.
_TENSOR_CORES = 2.0**-10
# Dynamically quantized layers round their inputs to steps of this share of the largest one, of 7 or 8 bits.
_STEP = 1 / 127
# How many rows of a batch, and how many classes, are compared with a classifier's map.
_ROWS, _CLASSES = 16, 256
# The largest logit that is read from a probability, and how much of the probability's rounding is in it.
_NEAR, _IN_LOGIT = math.log(0.95 / 0.05), 1 / 0.05


class Affine(NamedTuple):
    """A map of rows (N, d) to logits, W h + b, or W h/|h| + b for a classifier that sees directions alone."""

    weight: Tensor  # W, shape (K, d)
    bias: Tensor  # b, shape (K,)
    of_direction: bool = False  # whether rows are divided by their norm first
    step: float = 0.0  # the rounding of rows before the product, relative to their largest number
    # Whether all logits of a sample may also have a number in common, such as -|h|² in squared distances.
    up_to_shift: bool = False

    def logits(self, rows: Tensor) -> Tensor:
        """Return the logits of rows (N, d), in float64."""
        weight, bias = _exact(self.weight), _exact(self.bias)
        return torch.addmm(bias, self._seen(rows), weight.T)

    def tolerance(self, rows: Tensor, logits: Tensor, rounding: float) -> float:
        """Return how far logits of these rows may be off by the rounding of a network's arithmetic."""
        # A result is rounded to its own precision. The products are added in float32 or finer, unless a GPU's tensor cores
        # round their factors: then the terms count, which may cancel in the sum.
        seen = self._seen(rows)
        width = torch.linalg.vector_norm(_exact(self.weight), dim=1).amax()
        terms = torch.linalg.vector_norm(seen, dim=1).amax() * width
        adding = rounding if rounding <= _TENSOR_CORES else torch.finfo(torch.float32).eps
        results = _exact(logits).abs().amax() + _exact(self.bias).abs().amax()
        return float(4 * rounding * results + 4 * adding * terms + 2 * self.step * seen.abs().amax() * width)

    def is_close(self, rows: Tensor, logits: Tensor, rounding: float) -> bool:
        """Return whether this map gives these logits to rounding."""
        found = self.logits(rows)
        if found.shape != logits.shape or not bool(torch.isfinite(logits).all() and torch.isfinite(found).all()):
            return False
        off = found - _exact(logits)
        off = off - off.mean(dim=1, keepdim=True) if self.up_to_shift else off
        return bool(off.abs().amax() <= self.tolerance(rows, logits, rounding))

    def changed(self, factor: float | Tensor, offset: Tensor) -> Affine:
        """Return the map whose logits are multiplied by one factor, or one for each class, and moved by an offset for each."""
        factor = torch.as_tensor(factor, dtype=torch.float64).reshape(-1)
        return self._replace(weight=factor.unsqueeze(1) * _exact(self.weight), bias=factor * _exact(self.bias) + offset)

    def of_two_classes(self) -> Affine:
        """Return the map to the two logits (-z/2, z/2) for one logit z."""
        weight, bias = _exact(self.weight) / 2, _exact(self.bias) / 2
        return self._replace(weight=torch.cat([-weight, weight]), bias=torch.cat([-bias, bias]))

    def _seen(self, rows: Tensor) -> Tensor:
        rows = _exact(rows)
        return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True) if self.of_direction else rows


class Proof(NamedTuple):
    """What the logits of every batch are compared with."""

    affine: Affine  # the map from the last layer to some of the returned logits
    classes: Tensor  # which ones
    rounding: float  # of the classifier's outputs
    is_pooled: bool  # whether the last layer is pooled here and in no module, so that each row may be read wrongly
    made: str = ""  # what makes logits the numbers that are compared, as in `Logits`

    @classmethod
    def of(cls, affine: Affine, rounding: float, is_pooled: bool, made: str = "") -> Proof:
        """Keep some classes of a map, up to a number that all classes share, which decides nothing."""
        classes = _spread(len(affine.weight), _CLASSES)
        weight, bias = _exact(affine.weight[classes]), _exact(affine.bias[classes])
        return cls(affine._replace(weight=weight, bias=bias, up_to_shift=True), classes, rounding, is_pooled, made)

    def chosen(self, rows: Tensor) -> Tensor:
        """Copy the rows of a batch that are compared, since the network may overwrite them."""
        return rows if self.is_pooled else rows[_spread(len(rows), _ROWS)]

    def holds(self, rows: Tensor, logits: Tensor) -> bool:
        """Return whether the map gives the logits of these rows."""
        rounding = max(self.rounding, rounding_of(logits), rounding_of(rows))
        rows, logits = finite_rows(rows.cpu(), logits[:, self.classes].cpu())
        if not len(rows) or not self.made:
            return not len(rows) or self.affine.is_close(rows, logits, rounding)
        # What is left of a probability by rounding is far from its logit where it is tiny, or close to 1.
        logits, usable = before(self.made, logits)
        off = (self.affine.logits(rows) - _exact(logits)).masked_fill(~usable, 0)
        off = off - off.sum(dim=1, keepdim=True) / usable.sum(dim=1, keepdim=True).clamp_min(1)
        tolerance = self.affine.tolerance(rows, logits.masked_fill(~usable, 0), rounding) + _IN_LOGIT * rounding
        return bool(off[usable].abs().amax() <= tolerance) if bool(usable.any()) else True


def _spread(size: int, most: int) -> Tensor:
    """Return at most so many indices, spread without a period, which a batch may have too."""
    golden = (5**0.5 - 1) / 2
    return torch.arange(size) if size <= most else (torch.arange(most).double() * golden % 1 * size).long()


def finite_rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of which both tensors have finite numbers."""
    chosen = torch.isfinite(first).all(dim=1) & torch.isfinite(second).all(dim=1)
    return first[chosen], second[chosen]


def before(made: str, output: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of which the network made probabilities by this function, and which of them are usable."""
    if made == "softmax":
        return output.log(), output >= torch.finfo(output.dtype).tiny
    if made == "single":  # half of its distance from 1/2, twice
        half, usable = before("sigmoid", 0.5 + 2 * output[:, 1:])
        return torch.cat([-half, half], dim=1) / 2, (usable & (half > -_NEAR)).expand(-1, 2)
    # Close to 1 the rounding of a probability is large in its logit.
    return output.logit(), (output > 0) & (output < 0.95)


def affine_map(module: nn.Module, given: Tensor, tokens: bool = False) -> Affine | None:
    """Return the map of a module if it is affine, from the values that it gives near an input; None if it is not."""
    # An affine map is known from its values at zero and at the unit vectors, however the module computes it: merged from
    # several parameters, parametrized, wrapped. It is checked at other rows. A module's own weight is taken where it explains
    # the values, since it is exact. A map that sees directions alone is known from the unit vectors in the same way.
    images = is_image(given, tokens)
    rows = given.movedim(1, -1).flatten(0, -2) if images else given.flatten(0, -2)

    def values(rows: Tensor) -> Tensor:
        tokens = rows.unsqueeze(1) if given.ndim == 3 else rows
        shaped = rows.reshape(*rows.shape, *(1 for _ in given.shape[2:])) if images else tokens
        output = module(shaped.to(given.dtype).to(given.device))
        return output.reshape(len(rows), -1)

    # Under the network's own autocast a module takes other types than it does alone.
    for mixed in (False, True) if given.dtype in (torch.float16, torch.bfloat16) else (False,):
        try:
            with torch.autocast(given.device.type, dtype=given.dtype) if mixed else nullcontext():
                return _affine(module, rows[:_PROBES], values)
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError, AssertionError):
            continue  # the module takes no rows of this kind, so that its map stays unknown
    return None


def is_image(values: Tensor, tokens: bool = False) -> bool:
    """Return whether a tensor has its features in the second dimension: images, films, and sounds (N, d, 1)."""
    return values.ndim > 3 or (not tokens and values.ndim == 3 and values.shape[2] == 1 < values.shape[1])


def fitted_map(affine: Affine, rows: Tensor, logits: Tensor, rounding: float, may_move: bool) -> tuple[Affine, str] | None:
    """Return a map times a number, plus an offset for each class, if that gives these logits, and the change in words."""
    if len(rows) < 4:
        return None
    made, returned = affine.logits(rows), _exact(logits)
    if made.shape != returned.shape or not bool(torch.isfinite(returned).all() and torch.isfinite(made).all()):
        return None
    found = _by_one_factor(affine, rows, made, returned, rounding, may_move)
    return _by_factors(affine, rows, made, returned, rounding) if found is None and may_move else found


def _by_one_factor(
    affine: Affine, rows: Tensor, made: Tensor, returned: Tensor, rounding: float, may_move: bool
) -> tuple[Affine, str] | None:
    # A shift common to all classes of a sample decides nothing: softmax takes it away, and a normalization adds one. So all
    # logits are centered over the classes. With two classes one number per sample is left, and two unknowns.
    largest = float(returned.abs().amax())
    shift = returned.mean(dim=1), made.mean(dim=1)
    made, returned = made - shift[1].unsqueeze(1), returned - shift[0].unsqueeze(1)
    spread = made - made.mean(dim=0)
    factor = float((spread * (returned - returned.mean(dim=0))).sum() / spread.square().sum())
    tolerance = 4 * abs(factor) * affine.tolerance(rows, made, rounding) + 4 * rounding * largest
    offset = returned.mean(dim=0) - factor * made.mean(dim=0)
    if not math.isfinite(factor) or not factor or bool((returned - factor * made - offset).abs().amax() > tolerance):
        return None
    # Logits that hardly answer could come from any module far in front of them.
    if abs(factor) * float(spread.abs().amax()) <= _ANSWER * tolerance:
        return None
    common = shift[0] - factor * shift[1]
    moved = bool(offset.abs().amax() > tolerance)
    if moved and not may_move:
        return None
    scaled = abs(factor - 1) * float(made.abs().amax()) > tolerance
    if bool((common - common.mean()).abs().amax() <= tolerance):
        offset = offset + common.mean()
    words = (f" times {factor:.3g}" if scaled else "") + (" with an offset for each class" if moved else "")
    return (affine.changed(factor, offset) if scaled or moved else affine), words


def _by_factors(affine: Affine, rows: Tensor, made: Tensor, returned: Tensor, rounding: float) -> tuple[Affine, str] | None:
    """Fit a factor and an offset for each class, as a batch normalization behind a classifier has them."""
    if affine.up_to_shift:
        return None
    spread = made - made.mean(dim=0)
    factors = (spread * returned).sum(dim=0) / spread.square().sum(dim=0)
    offset = returned.mean(dim=0) - factors * made.mean(dim=0)
    size = float(factors.abs().amax())
    tolerance = 4 * size * affine.tolerance(rows, made, rounding) + 4 * rounding * float(returned.abs().amax())
    answers = factors.abs() * spread.abs().amax(dim=0) > _ANSWER * tolerance
    if not bool(answers.all()) or bool((returned - factors * made - offset).abs().amax() > tolerance):
        return None
    return affine.changed(factors, offset), " times a factor for each class, with an offset"


def noisy(given: Tensor, seed: int) -> Tensor:
    """Return random numbers of the size and the scale of an input, from an own generator."""
    noise = torch.randn(given.shape, generator=torch.Generator().manual_seed(seed)).to(given)
    mean = given.float().mean()
    scale = float(given.float().std(correction=0)) or abs(float(mean)) or 1.0
    return mean.to(given.dtype) + noise * scale


def rounding_of(tensor: Tensor) -> float:
    """Return the relative rounding of products that give a tensor."""
    if not tensor.is_floating_point():
        return 0.0
    tensor_cores = tensor.is_cuda and tensor.dtype == torch.float32
    if tensor_cores and (torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32):
        return _TENSOR_CORES
    return float(torch.finfo(tensor.dtype).eps)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().double()


def _affine(module: nn.Module, given: Tensor, values: Callable[[Tensor], Tensor]) -> Affine | None:
    probes = torch.cat([given, noisy(given, 0), 2 * noisy(given, 1)])
    logits = values(probes)
    rounding = max(rounding_of(logits), rounding_of(given))
    own = _own_parameters(module, given)
    if own is not None and own.is_close(probes, logits, max(rounding, rounding_of(own.weight))):
        return own
    maps = _evaluated(given, values)
    found = next((found for found in maps if found.is_close(probes, logits, rounding)), None)
    if found is not None or logits.shape[1] < 2:
        return found
    # Squared distances -|h - p|² share -|h|². What is left is linear, also for each class alone: W h is the odd part.
    found, odd = maps[0]._replace(up_to_shift=True), (logits.double() - values(-probes).double()) / 2
    is_odd = maps[0]._replace(bias=torch.zeros_like(maps[0].bias)).is_close(probes, odd, _PROBES * rounding)
    return found if is_odd and found.is_close(probes, logits, rounding) else None


def _own_parameters(module: Any, given: Tensor) -> Affine | None:
    """Return a module's own weight and bias."""
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    weight, bias = (value() if callable(value) else value for value in (weight, bias))
    if not isinstance(weight, Tensor):
        return None
    step = _STEP if weight.is_quantized else 0.0
    weight = (weight.dequantize() if weight.is_quantized else weight).detach().flatten(1)
    if weight.shape[1] != given.shape[1]:
        return None
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
    return Affine(weight, bias, step=step)


def _evaluated(given: Tensor, values: Callable[[Tensor], Tensor]) -> list[Affine]:
    """Return the maps that a module's values at the unit vectors and their negatives allow."""
    dim = given.shape[1]
    size = float(given.abs().mean()) or 1.0
    odd, even = [], []
    for start in range(0, dim, _BLOCK):
        units = torch.zeros(min(_BLOCK, dim - start), dim, dtype=given.dtype, device=given.device)
        units[:, start:].fill_diagonal_(size)
        above, below = values(units).double(), values(-units).double()
        odd.append((above - below) / 2)
        even.append((above + below) / 2)
    weight, bias = torch.cat(odd).T, torch.cat(even).mean(dim=0)
    return [Affine(weight / size, bias), Affine(weight, bias, of_direction=True)]
