r"""Bounds of the kinetic energy of a residual network by its weights, block by block.

The activation σ must satisfy :math:`|\sigma(a)| \le |a|`, as ReLU does. The bounds are those of progressive feedforward
collapse, arXiv 2405.00985, section II; derived in docs/theory.md, 3.10. They are nan without samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.records.theorems import BlockBound

Linear = tuple[Tensor, Tensor | None]


@dataclass(frozen=True, eq=False)
class BlockMoments:
    r"""Sums over samples of a residual block's inputs h and of the outputs f(h) that it adds to them; merges exactly.

    The second moment is about the origin, as in the bound; nothing cancels in it. O(d²) memory.

    Attributes:
        num_samples: N, 0-d, int64.
        second_moment: :math:`\sum_i \tilde h_i \tilde h_i^T` of the inputs with a 1 appended, :math:`\tilde h = (h, 1)`,
            shape (d+1, d+1), float64.
        output_energy: :math:`\sum_i \lVert f(h_i) \rVert^2`, 0-d, float64.
    """

    num_samples: Tensor
    second_moment: Tensor
    output_energy: Tensor

    @classmethod
    def from_batch(cls, inputs: Tensor, outputs: Tensor) -> BlockMoments:
        """Return the sums over one batch, in float64.

        Args:
            inputs: h, shape (N, d).
            outputs: f(h) of the same samples, without the h that the block passes on, shape (N, any).

        Raises:
            ValueError: If the two do not have one row per sample.
        """
        if inputs.ndim != 2 or outputs.ndim != 2 or len(inputs) != len(outputs):
            raise ValueError(
                "A block needs inputs and outputs with one row per sample, shapes (N, d) and (N, e), got "
                f"{tuple(inputs.shape)} and {tuple(outputs.shape)}. Flatten the features of the same samples."
            )
        augmented = torch.nn.functional.pad(inputs.double(), (0, 1), value=1.0)
        return cls(torch.tensor(len(inputs), device=inputs.device), augmented.T @ augmented, outputs.double().square().sum())

    def merge(self, other: BlockMoments) -> BlockMoments:
        """Merge the sums over two sets of samples."""
        return BlockMoments(
            self.num_samples + other.num_samples,
            self.second_moment + other.second_moment,
            self.output_energy + other.output_energy,
        )


def single_layer_bound(moments: BlockMoments, weight: Tensor, bias: Tensor | None = None) -> BlockBound:
    r"""Return the energy of :math:`f(h) = \sigma(W h + b)` and its bounds.

    :math:`\mathbb{E} \lVert \sigma(W h) \rVert^2 \le \mathrm{tr}(W S W^T) \le \lambda_{\max}(S) \lVert W \rVert_F^2`. A bias is
    one more column of W, and 1 one more input. For ReLU without bias, and inputs distributed as their negatives, the energy is
    exactly half of :math:`\mathrm{tr}(W S W^T)`.

    Args:
        moments: Moments of the block over the whole data set.
        weight: W, shape (e, d).
        bias: b, shape (e,), or None.

    Raises:
        ValueError: If the weight does not take the block's inputs.
    """
    matrix, moment = _augmented(moments, (weight, bias))
    norm, largest = float(matrix.square().sum()), _largest(moment)
    return BlockBound(_energy(moments), float(_trace(matrix, moment)), largest * norm, largest, norm)


def two_layer_bound(moments: BlockMoments, inner: Linear, outer: Linear) -> BlockBound:
    r"""Return the energy of :math:`f(h) = V \sigma(U h + b) + c` and its bounds.

    :math:`\mathbb{E} \lVert f \rVert^2 \le \lVert V \rVert_2^2\, \mathrm{tr}(U S U^T) \le \lambda_{\max}(S)
    ((\lVert U \rVert_F^2 + \lVert V \rVert_F^2) / 2)^2`. A bias b is one more column of U and 1 one more input; a bias c is
    one more column of V, for a hidden unit that is always 1: one more row of U, whose weight of 1 counts in the bound.

    Args:
        moments: Moments of the block over the whole data set.
        inner: U, shape (m, d), and b, shape (m,), or None.
        outer: V, shape (e, m), and c, shape (e,), or None.

    Raises:
        ValueError: If the inner weight does not take the block's inputs, or the outer not the inner's outputs.
    """
    (weight, bias), (outer_weight, outer_bias) = inner, outer
    if outer_weight.ndim != 2 or outer_weight.shape[1] != weight.shape[0]:
        raise ValueError(
            f"The outer weight must have shape (e, {weight.shape[0]}) for the inner one's {weight.shape[0]} outputs, got "
            f"{tuple(outer_weight.shape)}. Pass the layers in the order in which they are applied."
        )
    squared = sum(float(_exact(p).square().sum()) for p in (weight, bias, outer_weight, outer_bias) if p is not None)
    second = _exact(outer_weight)
    if outer_bias is None:
        first, moment = _augmented(moments, inner)
    else:
        first, moment = _augmented(moments, (weight, torch.zeros_like(weight[:, 0]) if bias is None else bias))
        always_one = torch.nn.functional.one_hot(torch.tensor([first.shape[1] - 1]), first.shape[1])
        first = torch.cat([first, always_one.double()])
        second = torch.cat([second, _exact(outer_bias).unsqueeze(1)], dim=1)
    largest = _largest(moment)
    by_moment = float(torch.linalg.matrix_norm(second, ord=2).square() * _trace(first, moment))
    by_weights = largest * float((first.square().sum() + second.square().sum()) / 2) ** 2
    return BlockBound(_energy(moments), by_moment, by_weights, largest, squared)


def normalized_bound(moments: BlockMoments, norm: tuple[Tensor, Tensor], outer: Linear | None = None) -> BlockBound:
    r"""Return the energy of :math:`f = V \sigma(\gamma \hat x + \beta) + e` and its bounds, for a batch normalization.

    A batch normalization is a diagonal layer with a bias. Its inputs are :math:`\hat x = (x - r)/\sqrt{v + \varepsilon}` with
    the running mean r and variance v. Let :math:`\mu_j` be the larger eigenvalue of the second moment of :math:`(\hat x_j, 1)`;
    it is 1 where r and v are those of the data and ε is 0. Then :math:`\mathbb{E} \lVert f \rVert^2 \le \lVert [V\, e]
    \rVert_2^2 (\mathbb{E} \lVert \gamma \hat x + \beta \rVert^2 + 1) \le \max_j \mu_j ((\lVert \gamma \rVert^2 + \lVert \beta
    \rVert^2 + 1 + \lVert V \rVert_F^2 + \lVert e \rVert^2)/2)^2`. Without an outer layer they are :math:`\mathbb{E} \lVert
    \gamma \hat x + \beta \rVert^2` and :math:`\max_j \mu_j (\lVert \gamma \rVert^2 + \lVert \beta \rVert^2)`. What comes before
    the normalization does not count.

    Args:
        moments: Moments of :math:`\hat x` and of the block's outputs over the whole data set.
        norm: γ and β, each of shape (m,).
        outer: V, shape (e, m), and e, shape (e,), or None; None where the block ends with the normalization or σ.

    Raises:
        ValueError: If the sizes do not fit.
    """
    scale, shift = (_exact(parameter) for parameter in norm)
    size = len(moments.second_moment) - 1
    if scale.shape != (size,) or shift.shape != (size,) or (outer is not None and outer[0].shape[1:] != (size,)):
        shapes = [tuple(p.shape) for p in (*norm, *(outer[:1] if outer else ()))]
        raise ValueError(
            f"The normalization of {size} numbers needs a scale and a shift of shape ({size},), and an outer weight of shape "
            f"(e, {size}), got shapes {shapes}. Pass the parameters of the block's last normalization and what follows it."
        )
    moment = moments.second_moment.cpu() / moments.num_samples.cpu()
    mean, square = moment[:size, size], moment.diagonal()[:size]
    normalized = float((scale.square() * square + 2 * scale * shift * mean + shift.square()).sum())
    # The larger eigenvalue of [[square, mean], [mean, 1]].
    largest = float(((square + 1) / 2 + torch.hypot((square - 1) / 2, mean)).max())
    squared = float(scale.square().sum() + shift.square().sum())
    if outer is None:
        return BlockBound(_energy(moments), normalized, largest * squared, largest, squared)
    weight, bias = outer
    second = _exact(weight) if bias is None else torch.cat([_exact(weight), _exact(bias).unsqueeze(1)], dim=1)
    one, outer_squared = float(bias is not None), float(second.square().sum())
    by_moment = float(torch.linalg.matrix_norm(second, ord=2).square()) * (normalized + one)
    by_weights = largest * ((squared + one + outer_squared) / 2) ** 2
    return BlockBound(_energy(moments), by_moment, by_weights, largest, squared + outer_squared)


def _augmented(moments: BlockMoments, layer: Linear) -> tuple[Tensor, Tensor]:
    """Return the layer as one matrix, and the second moment of its inputs; a bias is a column for an input of 1."""
    weight, bias = layer
    dim = len(moments.second_moment) - 1
    if weight.ndim != 2 or weight.shape[1] != dim:
        raise ValueError(
            f"The weight must have shape (e, {dim}) for the block's inputs of {dim} numbers, got {tuple(weight.shape)}. "
            "Pass the weight of the block's first layer."
        )
    moment = moments.second_moment.cpu() / moments.num_samples.cpu()
    matrix = _exact(weight)
    if bias is None:
        return matrix, moment[:dim, :dim]
    return torch.cat([matrix, _exact(bias).unsqueeze(1)], dim=1), moment


def _exact(parameter: Tensor) -> Tensor:
    return parameter.detach().cpu().double()


def _energy(moments: BlockMoments) -> float:
    return float(moments.output_energy / moments.num_samples)


def _trace(matrix: Tensor, moment: Tensor) -> Tensor:
    return ((matrix @ moment) * matrix).sum()


def _largest(moment: Tensor) -> float:
    return float(torch.linalg.eigvalsh(moment)[-1]) if bool(moment.isfinite().all()) else torch.nan
