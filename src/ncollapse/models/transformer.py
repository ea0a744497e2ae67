"""Transformer of attention and multilayer blocks with few linear layers each: L-T11 and its neighbors, post- or pre-norm."""

import math

import torch
from torch import Tensor, nn

from ncollapse.models.flat import linear_layer
from ncollapse.models.rounded_relu import relu
from ncollapse.models.sphere_norm import SphereNorm
from ncollapse.models.tokens import PatchEmbedding, PatchMasks, ReadOut, TokenEmbedding
from ncollapse.recipes.networks import TransformerConfig


class Attention(nn.Module):
    """One head whose keys are the tokens themselves: query and key weights are merged into one matrix."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        width = config.width
        self.query = _matrix(width, generator)
        self.value = _matrix(width, generator)
        self.output = _matrix(width, generator) if config.attention_layers == 2 else nn.Identity()

    def forward(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        """Let every token look at the real ones."""
        scores = self.query(tokens) @ tokens.transpose(1, 2) / math.sqrt(tokens.shape[2])
        if real is not None:
            scores = scores.masked_fill(~real.unsqueeze(1), -math.inf)
        return self.output(scores.softmax(dim=2) @ self.value(tokens))


class TransformerBlock(nn.Module):
    """Attention, then a map of each token, each added to what it takes."""

    def __init__(self, config: TransformerConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.post = config.norm == "post"
        self.attention, self.norm = Attention(config, generator), SphereNorm(config.norm_scale, config.norm_rounding)
        linears = [linear_layer(config.width, config.width, generator) for _ in range(config.mlp_layers)]
        self.mlp = nn.Sequential(linears[0], relu(config.rounding), *linears[1:])
        # The last linear layer of either branch: value and output are registered in the order of application.
        with torch.no_grad():
            for branch in (self.attention, self.mlp):
                last = [layer for layer in branch.modules() if isinstance(layer, nn.Linear)][-1]
                last.weight.mul_(config.branch_scale / math.sqrt(2 * config.num_blocks))

    def forward(self, tokens: Tensor, real: Tensor | None) -> Tensor:
        """Take one step along the layers."""
        if self.post:
            tokens = self.norm(tokens + self.attention(tokens, real))
            return self.norm(tokens + self.mlp(tokens))
        tokens = tokens + self.attention(self.norm(tokens), real)
        return tokens + self.mlp(self.norm(tokens))


class Transformer(nn.Module):
    """Embedding, blocks, read-out, linear head; logits of images as patches, or of texts as token ids.

    The head reads features on the sphere of the normalization: where the last block does not leave them there (pre-norm, or a
    mean of tokens), a last normalization does. The layers are the tokens read out behind the embedding and behind every block,
    as the head reads them; then the last normalization where there is one. The class token is the same for all samples before
    the first block, so that nothing relative to class means is defined there.

    Args:
        sample_shape: (channels, rows, columns) of images that the patches fit, (T,) of texts.
        vocabulary: Number of token ids of texts; None for images.

    Reference:
        Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239, section 3, known to us from summaries; one head, merged query
        and key, class token and patches are assumed.

    Example:
        >>> model = Transformer(TransformerConfig(width=8, num_blocks=1), sample_shape=(1, 8, 8), num_classes=3, seed=0)
        >>> model.collapse_stages
        ('reads.0', 'reads.1')
        >>> model(torch.zeros(5, 64)).shape
        torch.Size([5, 3])
    """

    collapse_stages: tuple[str, ...]
    collapse_classifier: str = "head"

    def __init__(
        self,
        config: TransformerConfig,
        sample_shape: tuple[int, ...],
        num_classes: int,
        seed: int,
        vocabulary: int | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ValueError(f"Transformer needs num_classes of 1 or more, got {num_classes}. Take data.num_classes.")
        self.config, self.sample_shape, self.num_classes = config, tuple(sample_shape), num_classes
        reads = tuple(f"reads.{index}" for index in range(config.num_blocks + 1))
        self.collapse_stages = reads if config.norm == "post" and config.pool == "cls" else (*reads, "norm")
        # As in FCResNet: layers initialize themselves from the global generator before they are filled from the seed's own.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._build(torch.Generator().manual_seed(seed), vocabulary)

    def _build(self, generator: torch.Generator, vocabulary: int | None) -> None:
        config, width = self.config, self.config.width
        self.embedding = self._embedding(generator, vocabulary)
        self.start = SphereNorm(config.norm_scale, config.norm_rounding) if config.norm == "post" else nn.Identity()
        self.blocks = nn.ModuleList(TransformerBlock(config, generator) for _ in range(config.num_blocks))
        self.reads = nn.ModuleList(ReadOut(config.pool) for _ in range(config.num_blocks + 1))
        self.norm = SphereNorm(config.norm_scale, config.norm_rounding) if "norm" in self.collapse_stages else nn.Identity()
        self.head = linear_layer(width, self.num_classes, generator)

    def _embedding(self, generator: torch.Generator, vocabulary: int | None) -> PatchEmbedding | PatchMasks | TokenEmbedding:
        config, width = self.config, self.config.width
        if vocabulary is None:
            if config.embedding == "none":
                return PatchMasks(self.sample_shape, config.patch, width)
            return PatchEmbedding(self.sample_shape, config.patch, width, generator)
        if config.embedding == "none":
            raise ValueError("model.embedding=none needs images, got texts. Set model.embedding=linear.")
        return TokenEmbedding(vocabulary, math.prod(self.sample_shape), width, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        if math.prod(inputs.shape[1:]) != math.prod(self.sample_shape):
            raise ValueError(
                f"this Transformer needs samples of shape {self.sample_shape}, got {tuple(inputs.shape[1:])}. Build it for "
                "other samples, or pass the data it was built for."
            )
        tokens, real = self.embedding(inputs)
        tokens = self.start(tokens)
        row = self.reads[0](tokens, real)
        for block, read in zip(self.blocks, self.reads[1:], strict=True):
            tokens = block(tokens, real)
            row = read(tokens, real)
        return self.head(self.norm(row))


def _matrix(width: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(width, width, bias=False)
    nn.init.uniform_(layer.weight, -1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
    return layer
