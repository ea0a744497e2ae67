"""The way in which a network turns tokens (N, T, D) into one row per sample, inferred from a trace."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ncollapse.hooks.tap import Pool, Tap
from ncollapse.hooks.trace import ModuleCall, Trace

# A hook cannot see that a forward reads the class token with x[:, 0]. But networks pool their tokens in few ways, so each way
# is tried. If one of them gives exactly the rows that are the input of a later module, it is the network's own. Chance cannot
# produce this: it would have to hit all D numbers of a row. If several ways give the same rows, as for a single token, any of
# them will do.
_CANDIDATES: tuple[Pool, ...] = ("cls", "last_token", "mean")


def read_out(usable: Sequence[ModuleCall], trace: Trace) -> tuple[Pool, int]:
    """Return the pool that a network uses, and from how many tokens it reads, 0 if unknown."""
    calls = trace.calls.values()
    if not any(_takes_tokens(call) for call in calls):
        return "flatten", 0  # three dimensions, but no tokens: (N, C, L) of a convolution
    taken = [call.input.values for call in calls if call.input is not None and call.input.tensor.ndim == 2]
    # Start with the last tokens, since the network reads from these. Rows made of earlier tokens may be part of a block.
    for call in reversed([call for call in usable if call.features.ndim == 3]):
        for rows in taken:
            pool = pool_of(call.values, rows, trace.mask)
            if pool is not None:
                return pool, call.features.shape[1]
    return "mean", 0


def pool_at(call: ModuleCall, pool: Pool, num_tokens: int) -> Pool:
    """Return the pool for one layer of a network that reads its tokens by ``pool``."""
    if call.features.ndim != 3:
        return "flatten"
    # If a layer has another number of tokens, as before a class token is added, its first or last token is a different one.
    return "mean" if pool in {"cls", "last_token"} and call.features.shape[1] != num_tokens else pool


def pool_of(tokens: Tensor, rows: Tensor, mask: Tensor | None) -> Pool | None:
    """Return the pool that turns these tokens into these rows, None if there is none."""
    if tokens.ndim != 3 or rows.shape != (len(tokens), tokens.shape[2]) or not rows.is_floating_point():
        return None
    fitting = [pool for pool in _CANDIDATES if _same(Tap("", pool).read(tokens, mask), rows)]
    return fitting[-1] if fitting else None


def is_mean_of_pixels(images: Tensor, rows: Tensor) -> bool:
    """Return whether rows (N, C) are the means of images (N, C, H, W) over their pixels."""
    return images.ndim == 4 and rows.shape == images.shape[:2] and _same(images.mean(dim=(2, 3)), rows)


def _same(read: Tensor, rows: Tensor) -> bool:
    # The tolerance is relative to the largest number, so that small features do not all count as equal. It leaves room for the
    # rounding of a mean in half precision.
    atol = max(1e-5, 2 * torch.finfo(rows.dtype).eps) * float(rows.abs().max())
    return torch.allclose(read.to(rows.dtype), rows, rtol=0, atol=atol)


def _takes_tokens(call: ModuleCall) -> bool:
    return isinstance(call.module, nn.Linear | nn.RNNBase) and call.input is not None and call.input.tensor.ndim == 3
