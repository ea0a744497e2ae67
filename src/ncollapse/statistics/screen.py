"""Exact decisions by a filter: products in float32 with a proven error bound, and float64 where the bound leaves them open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# Fewer rows cost little in float64.
FEWEST_ROWS = 33
_UNIT = torch.finfo(torch.float32).eps / 2
# What is below this may be flushed to zero.
_TINY = torch.finfo(torch.float32).tiny
# Numbers of one block of products, 2 MB, but products of fewer samples are slower.
_BLOCK, _FEWEST_SAMPLES = 2**19, 256


class Screened(NamedTuple):
    """What float32 says of one block of samples."""

    largest: Tensor  # class of the largest score, shape (N,), int64; right where it is not open
    open: Tensor  # samples that float64 must decide, ascending, shape (O,), int64
    may_win: Tensor  # which scores of these may be the largest, shape (O, K)


@dataclass(frozen=True, eq=False)
class Screen:
    """Scores ⟨w_j, x⟩ + b_j in float32, each with a bound of its error."""

    # A sum of d products in any order, with or without fused operations, is off by at most γ |w_j| |x| with γ = d u / (1 - d u)
    # and u = 2⁻²⁴. Rounding w, x, b and the bound itself to float32 adds a few u. Of what is below float32's range all may be
    # lost: of a component of w at most 2⁻¹²⁶ times that of x, of one of x at most 2⁻¹²⁶ times that of w, of a product or b at
    # most 2⁻¹²⁶. So a class whose score plus its bound is below another's less its bound is not the largest, and most samples
    # have one class left. Exact predicates of computational geometry are decided so.

    weight: Tensor  # w, shape (K, d), float32, in units of a power of two, so that the largest norm is about 1
    bias: Tensor  # b in the same units, shape (K,), float32
    norms: Tensor  # the part of the bound for each unit of |x|, shape (K,), float32
    slack: Tensor  # the part of the bound that does not depend on x, shape (K,), float32

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> Screen | None:
        """Return the screen of float64 rows and numbers; None where products in float32 are few, or not of full precision."""
        num_rows, dim = weight.shape
        if num_rows < FEWEST_ROWS or not _has_full_precision(weight.device):
            return None
        lengths = torch.linalg.vector_norm(weight, dim=1)
        if not bool((torch.isfinite(lengths) & torch.isfinite(bias)).all()):
            return None
        scale = float(torch.ldexp(torch.ones_like(bias[0]), torch.frexp(lengths.amax()).exponent.clamp(-500, 500)))
        small = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
        for rows in range(0, num_rows, 4096):
            small[rows : rows + 4096] = weight[rows : rows + 4096] / scale
        steps = (dim + 16) * _UNIT
        gamma = 1.01 * steps / (1 - steps)
        bias = bias / scale
        slack = gamma * bias.abs() + (2 * dim + 16) * _TINY
        norms = gamma * lengths / scale + dim * _TINY
        return cls(small, bias.float(), norms.float(), slack.float())

    def blocks(self, num_samples: int) -> Iterator[slice]:
        """Cut samples into blocks whose products stay in a cache."""
        step = max(_FEWEST_SAMPLES, _BLOCK // len(self.weight))
        for start in range(0, num_samples, step):
            yield slice(start, start + step)

    def largest(self, x: Tensor, guess: Tensor | None = None, lengths: Tensor | None = None) -> Screened:
        """Screen samples of any floating dtype, shape (N, d), whose classes may be guessed and whose norms may be known."""
        if lengths is None:
            lengths = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        lengths = lengths.float().unsqueeze(1)
        with torch.autocast(x.device.type, enabled=False):
            scores = torch.addmm(self.bias, x.float(), self.weight.T)
        return self._screened(scores, lengths) if guess is None else self._proven(scores, lengths, guess)

    def _proven(self, scores: Tensor, lengths: Tensor, guess: Tensor) -> Screened:
        """Screen scores whose largest is mostly that of a guess: then one maximum over the others shows it."""
        # With one bound for all classes of a sample; where that is too wide, the bounds of single classes follow.
        at, reach = guess.unsqueeze(1), torch.addcmul(self.slack.amax(), lengths, self.norms.amax()).squeeze(1)
        own = scores.gather(1, at)
        others = scores.scatter_(1, at, -torch.inf).amax(dim=1)
        surely = own.squeeze(1) - reach
        rest = (~((others + reach < surely) & torch.isfinite(surely))).nonzero().flatten()
        found = self._screened(scores[rest].scatter_(1, at[rest], own[rest]), lengths[rest])
        return found._replace(largest=guess.index_copy(0, rest, found.largest), open=rest[found.open])

    def _screened(self, scores: Tensor, lengths: Tensor) -> Screened:
        bounds = torch.addcmul(self.slack, lengths, self.norms)
        surely = (scores - bounds).amax(dim=1)
        largest = scores.argmax(dim=1)
        highest = scores.add_(bounds)
        at = largest.unsqueeze(1)
        own = highest.gather(1, at)
        others = highest.scatter_(1, at, -torch.inf).amax(dim=1)
        # Not ``others >= surely``: nothing is decided where a score is NaN or infinite.
        open_ = (~((others < surely) & torch.isfinite(surely))).nonzero().flatten()
        may_win = highest[open_].scatter_(1, at[open_], own[open_]) >= surely[open_].unsqueeze(1)
        return Screened(largest, open_, may_win | ~torch.isfinite(surely[open_]).unsqueeze(1))


def _has_full_precision(device: torch.device) -> bool:
    """Return whether products of float32 are computed in float32: not in TF32 or bfloat16, as may be chosen for speed."""
    if device.type not in ("cpu", "cuda"):
        return False
    backend = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = getattr(backend, "matmul", None)
    found = {getattr(place, "fp32_precision", "none") for place in (torch.backends, backend, matmul)}
    if hasattr(matmul, "fp32_precision"):
        return found <= {"none", "ieee"}
    # Before torch 2.9.
    return torch.get_float32_matmul_precision() == "highest"
