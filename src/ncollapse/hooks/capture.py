"""What hooks see of a module: its features, and whether something overwrites them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Captured(NamedTuple):
    """What a hook saw: the tensor itself, its version then, and rows that nothing overwrites."""

    tensor: Tensor
    version: int | None
    values: Tensor

    @classmethod
    def of(cls, tensor: Tensor, rows: Tensor, copied: bool) -> Captured:
        """Take a module's output."""
        # Tensors made in inference mode count no versions: always copied.
        version = None if tensor.is_inference() else tensor._version
        return cls(tensor, version, rows.clone() if copied or version is None else rows)

    @property
    def overwritten(self) -> bool:
        """Whether an operation has overwritten the output since."""
        return self.version is not None and self.tensor._version != self.version

    def is_same(self, other: Captured) -> bool:
        """Whether both are one tensor, or views of it, with no operation in place between them."""
        same_memory = self.tensor.data_ptr() == other.tensor.data_ptr() and self.tensor.numel() == other.tensor.numel()
        return same_memory and self.version == other.version and torch.equal(self.values.flatten(), other.values.flatten())


def feature_of(output: Any, label: str) -> Tensor:
    """The tensor of features in what a module returned."""
    features = all_features_of(output)
    if features:
        return features[0]
    if isinstance(output, Tensor) and output.is_nested:
        raise TypeError(
            f"Layer {label!r} returns a nested tensor, which has no rows of one length. Make the nn.TransformerEncoder with "
            "enable_nested_tensor=False, or tap the encoder itself."
        )
    got = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise TypeError(
        f"Layer {label!r} must return a floating-point tensor of shape (N, ...), got {got}. Tap a module inside it."
    )


def all_features_of(output: Any) -> list[Tensor]:
    """All tensors of features in what a module returned."""
    parts: Sequence[Any] = [output]
    if isinstance(output, Mapping):
        parts = [output[key] for key in sorted(output, key=lambda key: key != "logits")]
    elif isinstance(output, tuple | list):
        parts = output
    dense = (part for part in parts if isinstance(part, Tensor) and not part.is_nested)
    return [part for part in dense if part.is_floating_point() and part.ndim >= 2]
