"""ReLU whose kink is rounded off."""

from torch import Tensor, nn


class RoundedReLU(nn.Module):
    """ReLU, but (z + w)²/4w within w of 0, so that the slope rises from 0 to 1 without a jump."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, hidden: Tensor) -> Tensor:
        """Apply it to every coordinate."""
        return (
            hidden.clamp(min=self.width)
            - self.width
            + (hidden.clamp(-self.width, self.width) + self.width) ** 2 / (4 * self.width)
        )


def relu(rounding: float) -> nn.Module:
    """Return the ReLU, rounded off within this distance of 0."""
    return RoundedReLU(rounding) if rounding else nn.ReLU()
