"""Samples as tokens: image patches and token ids, embedded behind a class token or as they are, and how tokens are read out."""

import math

import torch
from torch import Tensor, nn

from ncollapse.models.flat import linear_layer
from ncollapse.recipes.networks import TokenPool

PADDING = 0
"""The token id of positions that hold nothing."""


class Embedding(nn.Module):
    """A learned class token, then the sample's own tokens with learned positions."""

    def __init__(self, num_tokens: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(width)
        self.class_token = nn.Parameter(torch.empty(width).uniform_(-bound, bound, generator=generator))
        self.positions = nn.Parameter(torch.empty(num_tokens, width).uniform_(-bound, bound, generator=generator))

    def prepended(self, tokens: Tensor) -> Tensor:
        """Add positions and put the class token in front."""
        first = self.class_token.expand(len(tokens), 1, -1)
        return torch.cat([first, tokens + self.positions], dim=1)


class PatchEmbedding(Embedding):
    """Images cut into square patches, each flattened and mapped linearly."""

    def __init__(self, image_shape: tuple[int, ...], patch: int, width: int, generator: torch.Generator) -> None:
        _check_patch(image_shape, patch)
        channels, rows, columns = image_shape
        super().__init__((rows // patch) * (columns // patch), width, generator)
        self.image_shape, self.patch = image_shape, patch
        self.project = linear_layer(channels * patch**2, width, generator)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Embed images."""
        images = inputs.reshape(-1, *self.image_shape)
        patches = images.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return self.prepended(self.project(patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))), None


class PatchMasks(nn.Module):
    """Images as tokens without a trained part: a token is the image with all pixels but those of its patch at 0."""

    masks: Tensor

    def __init__(self, image_shape: tuple[int, ...], patch: int, width: int) -> None:
        _check_patch(image_shape, patch)
        if math.prod(image_shape) != width:
            raise ValueError(
                f"Without an embedding model.width must be the number of pixels, {math.prod(image_shape)}, got {width}. "
                f"Set model.width={math.prod(image_shape)}, or model.embedding=linear."
            )
        super().__init__()
        channels, rows, columns = image_shape
        row, column = torch.arange(rows) // patch, torch.arange(columns) // patch
        places = (row.unsqueeze(1) * (columns // patch) + column).expand(channels, rows, columns).flatten()
        masks = places == torch.arange(int(places.max()) + 1).unsqueeze(1)
        self.register_buffer("masks", masks, persistent=False)

    def forward(self, inputs: Tensor) -> tuple[Tensor, None]:
        """Cut images."""
        return inputs.reshape(len(inputs), 1, -1) * self.masks, None


class TokenEmbedding(Embedding):
    """Token ids looked up in a learned table; id 0 is padding."""

    def __init__(self, vocabulary: int, length: int, width: int, generator: torch.Generator) -> None:
        super().__init__(length, width, generator)
        self.table = nn.Embedding(vocabulary, width)
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.table.weight, -bound, bound, generator=generator)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embed texts."""
        real = torch.nn.functional.pad(inputs != PADDING, (1, 0), value=True)
        return self.prepended(self.table(inputs)), real


def _check_patch(image_shape: tuple[int, ...], patch: int) -> None:
    if len(image_shape) != 3 or image_shape[1] % patch or image_shape[2] % patch:
        raise ValueError(
            f"model.patch must divide the rows and columns of images (channels, rows, columns), got patches of {patch} and "
            f"samples of shape {image_shape}. Choose another patch, take image data, or another network for plain vectors."
        )


class ReadOut(nn.Module):
    """From tokens to one row per sample: the class token, or the mean of the real ones."""

    def __init__(self, pool: TokenPool) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        """Read tokens out."""
        return tokens[:, 0] if self.pool == "cls" else masked_mean(tokens, real)


def masked_mean(tokens: Tensor, real: Tensor | None) -> Tensor:
    """Mean of the real tokens; what padding holds, even nan, has no part in it."""
    if real is None:
        return tokens.mean(dim=1)
    return tokens.masked_fill(~real.unsqueeze(2), 0).sum(dim=1) / real.sum(dim=1, keepdim=True)
