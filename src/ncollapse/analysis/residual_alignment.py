"""Residual alignment: the Jacobians of residual blocks on samples, their singular values and the frames that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.drawing.heat_map import draw_alignment
from ncollapse.hooks.batch_io import map_tensors
from ncollapse.hooks.untouched import Untouched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The largest Jacobian is 4096 × 4096 of float64, 128 MiB; at most so many numbers go through a block at once.
_MOST_NUMBERS, _AT_ONCE = 4096, 2**20


@dataclass(frozen=True, eq=False)
class ResidualAlignment:
    r"""Residual alignment (RA1 to RA4) of the branches :math:`f_l` of :math:`h + f_l(h)`.

    With the Jacobian :math:`J_l` of :math:`f_l` at the sample's own features and its r leading singular vectors U, V:

    Attributes:
        blocks: Names of the L blocks.
        num_directions: r.
        num_samples: Samples that were used.
        step_ratios: RA1: the sample's step :math:`\lVert f_l(h) \rVert` over the mean of its L steps, shape (L,); 1 for equal
            steps. nan where the features of two blocks differ in size.
        straightness: RA1: length of the sum of the steps over the sum of their lengths, in [0, 1]; 1 on a line.
        shared: RA2: share of the energy of :math:`J_l` on the diagonal of the frames of block m,
            :math:`\sum_{k \le r} (u_k^{(m)T} J_l v_k^{(m)})^2 / \lVert J_l \rVert_F^2`, shape (L, L), rows l. 1 if they share
            all singular vectors; about :math:`r/D^2` for unrelated ones in D dimensions.
        top_energy: RA3: the share in the r leading singular values, shape (L,), the diagonal of ``shared``; 1 if the rank is
            at most r.
        top_value: RA4: the largest singular value, shape (L,). That it falls as 1/L shows in networks of several depths.
    """

    blocks: tuple[str, ...]
    num_directions: int
    num_samples: int
    step_ratios: Tensor
    straightness: float
    shared: Tensor
    top_value: Tensor

    @property
    def top_energy(self) -> Tensor:
        """The diagonal of ``shared``."""
        return self.shared.diagonal()

    @property
    def off_diagonal(self) -> float:
        """Mean of ``shared`` over pairs of different blocks; nan for one block."""
        num_blocks = len(self.blocks)
        if num_blocks < 2:
            return math.nan
        return float((self.shared.sum() - self.top_energy.sum()) / (num_blocks * (num_blocks - 1)))

    def plot(self) -> Figure:
        """Draw ``shared`` as a heat map, which is bright all over where the blocks share their frames."""
        return draw_alignment(self.shared.tolist(), self.blocks)

    def __str__(self) -> str:
        low, high = float(self.step_ratios.min()), float(self.step_ratios.max())
        return (
            f"ResidualAlignment of {len(self.blocks)} blocks on {self.num_samples} samples: steps {low:.3g} to {high:.3g} of "
            f"their mean, straightness {self.straightness:.3g}; shared frames {self.off_diagonal:.3g}; least share "
            f"of energy in the {self.num_directions} leading directions {float(self.top_energy.min()):.3g}; largest singular "
            f"values {float(self.top_value.min()):.3g} to {float(self.top_value.max()):.3g}"
        )


def residual_alignment(model: nn.Module, inputs: Any, *, blocks: Sequence[str], num_directions: int) -> ResidualAlignment:
    r"""Measure residual alignment of a network on samples, by vector–Jacobian products through each block.

    A block is a module that maps a tensor, with samples along its first axis, to a tensor of the same shape (or to a tuple
    that begins with it), and is taken as :math:`h + f(h)`; whatever lies between two blocks is left out. What else it is given,
    such as a mask, is kept. A block that normalizes its sum counts as what it adds. The network is run in eval mode and left as
    it was. Each sample takes the D×D Jacobian of each block, D numbers in its features: a handful of samples is enough.

    Args:
        model: The network.
        inputs: A batch of samples, as ``model(inputs)`` takes it.
        blocks: Names of the blocks, in order of depth.
        num_directions: Leading singular vectors of the frames: K, the number of classes, as in the paper.

    Returns:
        Means over the samples; ``plot()`` draws the heat map.

    Raises:
        ValueError: If there are no blocks, a name is no module, a block did not run once, does not keep the shape of its
            input, mixes samples, or has more than 4096 numbers in a sample's features; or num_directions is not in [1, D].

    Reference:
        Li & Papyan (2023), NeurIPS, "Residual alignment: uncovering the mechanisms of residual networks".

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        >>> residual_alignment(net, torch.ones(2, 4), blocks=["0", "1"], num_directions=2).shared.shape
        torch.Size([2, 2])
    """
    modules = dict(model.named_modules())
    unknown = [name for name in blocks if name not in modules]
    if not blocks or unknown:
        raise ValueError(f"blocks must be names of modules, got {list(blocks)}. Unknown: {unknown}. See find_layers(model).")
    with Untouched(model), torch.enable_grad():
        calls = _calls_of({name: modules[name] for name in blocks}, model, inputs)
        steps, jacobians = zip(*(_block(name, modules[name], calls[name]) for name in blocks), strict=True)
    least = min(jacobian.shape[-1] for jacobian in jacobians)
    if not 1 <= num_directions <= least:
        raise ValueError(f"num_directions must be in [1, {least}], got {num_directions}. Pass the number of classes, or D.")
    frames = [torch.linalg.svd(jacobian, full_matrices=False) for jacobian in jacobians]
    ratios, straightness = _steps(steps)
    return ResidualAlignment(
        tuple(blocks), num_directions, len(steps[0]), ratios, straightness,
        torch.stack([torch.stack([_shared(jacobian, frame, num_directions) for frame in frames]) for jacobian in jacobians]),
        torch.stack([values[:, 0].mean() for _, values, _ in frames]),
    )  # fmt: skip


class _Call(NamedTuple):
    """What a block was given: its features first, then whatever else, such as a mask."""

    features: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    key: str | None

    def run(self, module: nn.Module, features: Tensor, sample: int | None = None) -> Any:
        """Run a block on other features; copies of one sample take its row of whatever else has a row for each sample."""
        args, kwargs = self.args, self.kwargs
        if sample is not None:
            num_samples = len(self.features)

            def row(value: Tensor) -> Tensor:
                if value.ndim == 0 or len(value) != num_samples:
                    return value
                return value[sample : sample + 1].expand(len(features), *value.shape[1:])

            args, kwargs = map_tensors(row, args), map_tensors(row, kwargs)
        output = module(features, *args, **kwargs) if self.key is None else module(*args, **{self.key: features}, **kwargs)
        return output[0] if isinstance(output, tuple) else output


def _calls_of(blocks: dict[str, nn.Module], model: nn.Module, inputs: Any) -> dict[str, _Call]:
    """Return what each block is given in one forward pass."""
    seen: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {name: [] for name in blocks}
    handles = [
        module.register_forward_pre_hook(lambda _, args, kwargs, name=name: seen[name].append((args, kwargs)), with_kwargs=True)
        for name, module in blocks.items()
    ]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: _only_call(name, calls) for name, calls in seen.items()}


def _only_call(name: str, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> _Call:
    args, kwargs = calls[0] if len(calls) == 1 else ((), {})
    key = None if args else next(iter(kwargs), None)
    given = args[0] if args else kwargs.get(key) if key else None
    if not isinstance(given, Tensor) or not given.is_floating_point():
        raise ValueError(
            f"Block {name!r} must run once, on a tensor of features, got {len(calls)} calls. Name modules that add their "
            "branch to their input."
        )
    others = {other: value for other, value in kwargs.items() if other != key}
    return _Call(given, args[1:], others, key)


def _block(name: str, module: nn.Module, call: _Call) -> tuple[Tensor, Tensor]:
    """Return the steps (N, D) of a block and the Jacobians of its branch (N, D, D), in float64 on the CPU."""
    features = call.features
    num_numbers = features[0].numel()
    with torch.no_grad():
        outputs = call.run(module, features)
    if not isinstance(outputs, Tensor) or outputs.shape != features.shape:
        raise ValueError(
            f"Block {name!r} must keep the shape {tuple(features.shape)}, got "
            f"{tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__}. Leave it out of blocks."
        )
    if num_numbers > _MOST_NUMBERS:
        raise ValueError(
            f"Block {name!r} must have at most {_MOST_NUMBERS} numbers in a sample's features, got {num_numbers}. Take smaller "
            "inputs, or blocks of a later stage."
        )
    jacobians = torch.stack([_jacobian(name, module, call, sample, outputs[sample]) for sample in range(len(features))])
    steps = (outputs - features).flatten(1).double().cpu()
    return steps, jacobians - torch.eye(num_numbers, dtype=torch.float64)


def _jacobian(name: str, module: nn.Module, call: _Call, sample: int, expected: Tensor) -> Tensor:
    """Return the Jacobian of a block at a sample: one backward pass through copies of it gives one row for each copy."""
    features, rows = call.features[sample], []
    size = features.numel()
    for start in range(0, size, step := max(1, _AT_ONCE // size)):
        count = min(step, size - start)
        copies = features.detach().expand(count, *features.shape).clone().requires_grad_()
        outputs = call.run(module, copies, sample).flatten(1)
        error = float((outputs[0].detach() - expected.flatten()).abs().max())
        if error > 1e-3 * float(expected.abs().max()) + 1e-12:
            raise ValueError(
                f"Block {name!r} must treat samples one by one, got another output for a sample alone. Leave it out."
            )
        (rows_here,) = torch.autograd.grad(outputs[torch.arange(count), torch.arange(start, start + count)].sum(), copies)
        rows.append(rows_here.flatten(1).double().cpu())
    return torch.cat(rows)


def _shared(jacobian: Tensor, frame: tuple[Tensor, Tensor, Tensor], rank: int) -> Tensor:
    """Return the mean share of energy on the diagonal of another block's frames; nan where sizes differ or J is zero."""
    left, _, right = frame
    if left.shape != jacobian.shape:
        return torch.tensor(math.nan, dtype=torch.float64)
    diagonal = ((left[:, :, :rank].mT @ jacobian) * right[:, :rank]).sum(dim=2)
    return (diagonal.square().sum(dim=1) / jacobian.square().sum(dim=(1, 2))).mean()


def _steps(steps: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Return the steps over their mean, and the straightness of the path, averaged over samples."""
    if len({step.shape for step in steps}) > 1:
        return torch.full((len(steps),), math.nan, dtype=torch.float64), math.nan
    lengths = torch.stack([torch.linalg.vector_norm(step, dim=1) for step in steps])
    chord = torch.linalg.vector_norm(torch.stack(list(steps)).sum(dim=0), dim=1)
    return (lengths / lengths.mean(dim=0)).mean(dim=1), float((chord / lengths.sum(dim=0)).mean())
