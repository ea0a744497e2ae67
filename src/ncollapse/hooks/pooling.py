"""How a network itself turns tokens (N, T, D) into one row per sample, seen in its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncollapse.hooks.tap import Pool, Tap
from ncollapse.hooks.trace import ModuleCall, Trace

# Nothing in a forward says that x[:, 0] reads a class token. But there are few ways to read tokens, so each is tried: one that
# gives the very rows that a later module takes is the network's own. Two samples that agree by chance in all D numbers of a
# row do not occur; where several ways give the same rows, such as for a single token, they are the same layer.
_CANDIDATES: tuple[Pool, ...] = ("cls", "last_token", "mean")


def read_out(usable: Sequence[ModuleCall], trace: Trace) -> tuple[Pool, int]:
    """The pool that a network uses, and how many tokens it reads from; 0 where that cannot be seen."""
    calls = trace.calls.values()
    if not any(_takes_tokens(call) for call in calls):
        return "flatten", 0  # three dimensions, but no tokens: (N, C, L) of a convolution
    taken = [call.input.values for call in calls if call.input is not None and call.input.tensor.ndim == 2]
    # The last tokens first: the network reads from these, and rows made of earlier ones may be parts of a block.
    for call in reversed([call for call in usable if call.features.ndim == 3]):
        assert call.output is not None
        for rows in taken:
            pool = pool_of(call.output.values, rows, trace.mask)
            if pool is not None:
                return pool, call.features.shape[1]
    return "mean", 0


def pool_at(call: ModuleCall, pool: Pool, num_tokens: int) -> Pool:
    """The pool for one layer of a network that reads its tokens by ``pool``."""
    if call.features.ndim != 3:
        return "flatten"
    # One token of a layer with fewer or more of them, such as before a class token has joined, is another one.
    return "mean" if pool in {"cls", "last_token"} and call.features.shape[1] != num_tokens else pool


def pool_of(tokens: Tensor, rows: Tensor, mask: Tensor | None) -> Pool | None:
    """The pool that makes these rows of these tokens."""
    if tokens.ndim != 3 or rows.shape != (len(tokens), tokens.shape[2]) or not rows.is_floating_point():
        return None
    # Relative to the largest number: small features are equal to nothing else for that. A mean in half precision is rounded.
    atol = max(1e-5, 2 * torch.finfo(rows.dtype).eps) * float(rows.abs().max())
    read = {pool: Tap("", pool).read(tokens, mask).to(rows.dtype) for pool in _CANDIDATES}
    fitting = [pool for pool in _CANDIDATES if torch.allclose(read[pool], rows, rtol=0, atol=atol)]
    return fitting[-1] if fitting else None


def _takes_tokens(call: ModuleCall) -> bool:
    return isinstance(call.module, nn.Linear | nn.RNNBase) and call.input is not None and call.input.tensor.ndim == 3
