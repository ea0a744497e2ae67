"""The networks that a recipe can name: shape and initialization of each, as data.

A field out of its range is a ValueError. ``kind`` tells a network from the others in a recipe.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ncollapse.recipes.checks import check_choices, check_least, check_most

Block = Literal["double", "single"]
Normalization = Literal["none", "pre", "mid", "post"]
Stem = Literal["linear", "linear_bn"]
Connections = Literal["residual", "plain", "dense"]
Head = Literal["linear", "fixed_etf"]
ConvBlock = Literal["basic", "post_relu", "pre"]
NormScale = Literal["unit", "sqrt_d"]
Embedding = Literal["linear", "none"]
NormPlace = Literal["post", "pre"]
TokenPool = Literal["cls", "mean"]

# 16 GiB of weights in float32, a thousand times the largest recipe; 10,000 blocks take a minute to build.
_MOST_WEIGHTS, _MOST_BLOCKS = 1 << 32, 10_000


@dataclass(frozen=True)
class FCResNetConfig:
    r"""Shape and initialization of an ``FCResNet``.

    With :math:`\sigma` = ReLU and BN = batch normalization, a block maps :math:`h` to

    ============= ====================================================== ==========================================
    normalization double                                                 single
    ============= ====================================================== ==========================================
    none          :math:`h + L_2\,\sigma(L_1 h)`                          :math:`h + \sigma(L h)`
    pre           :math:`h + L_2\,\sigma(BN\,L_1\,\sigma(BN\,h))`         :math:`h + L\,\sigma(BN\,h)`
    mid           :math:`h + L_2\,\sigma(BN\,L_1 h)`                      :math:`h + \sigma(BN\,L h)`
    post          :math:`h + BN\,L_2\,\sigma(L_1 h)`                      :math:`h + BN\,\sigma(L h)`
    ============= ====================================================== ==========================================

    The table is that of ``residual`` connections. With ``plain`` ones the next layer is what is added there alone; with
    ``dense`` ones it is that of the concatenation :math:`(h^0, \dots, h^l)` of all layers before, as in a DenseNet whose
    every layer has d numbers. The head takes the last layer alone in all three, so that the measured layers are comparable.

    Attributes:
        width: Dimension d of every layer, 1 or more.
        num_blocks: Number of blocks, 0 or more.
        block: Two linear layers in a block, or one.
        normalization: Where the block normalizes.
        stem: ``linear`` gives the deepest collapse; ``linear_bn`` fixes the scale of the first layer, which claims
            about transport cost and geodesics need.
        zero_bias: Whether biases start at 0 (else uniform, as PyTorch's default). Undecayed random biases are a
            drift that all samples share, and make paths look longer than they are.
        branch_scale: Multiplies the initial weight of the last linear layer in each block; 0 makes every block the
            identity at first. Any other scale has no effect on the output where normalization follows that layer
            (``post``, and ``mid`` of ``single``), up to its bias and the epsilon of the normalization.
        connections: ``residual``: a block adds to its input. ``plain``: it replaces its input. ``dense``: it takes the outputs
            of all blocks before it.
        head: ``linear`` is trained; ``fixed_etf`` is a unit simplex ETF behind features of norm one (``FixedETFHead``), for the
            loss ``dot_regression`` or any other, and needs a width of num_classes - 1 or more.
    """

    width: int = 64
    num_blocks: int = 5
    block: Block = "double"
    normalization: Normalization = "pre"
    stem: Stem = "linear"
    zero_bias: bool = True
    branch_scale: float = 1.0
    connections: Connections = "residual"
    head: Head = "linear"

    def __post_init__(self) -> None:
        check_choices("model", self)
        check_least("model.width", self.width, 1)
        check_least("model.num_blocks", self.num_blocks, 0)
        taken = (self.num_blocks + 1) / 2 if self.connections == "dense" else 1
        _check_size(self.num_blocks, self.width**2 * (2 if self.block == "double" else 1) * taken)
        _check_branch_scale(self.branch_scale)


@dataclass(frozen=True)
class ConvResNetConfig:
    r"""Shape and initialization of a ``ConvResNet``.

    With :math:`\sigma` = ReLU, BN = batch normalization and C = 3×3 convolution without bias, a block maps :math:`h` to

    ========= =============================================================
    basic     :math:`h + BN\,C_2\,\sigma(BN\,C_1 h)`
    post_relu :math:`\sigma(h + BN\,C_2\,\sigma(BN\,C_1 h))`
    pre       :math:`h + C_2\,\sigma(BN\,C_1\,\sigma(BN\,h))`
    ========= =============================================================

    Stage s holds ``channels[s]`` channels. It begins with an entry: the stem :math:`\sigma(BN\,C x)` in the first stage, in
    every later one a block of the same kind with stride 2 and the skip :math:`BN\,C_{1 \times 1} h`. Then come ``blocks[s]``
    blocks, which leave the shape as it is.

    Attributes:
        channels: Number of channels of each stage, 1 or more.
        blocks: Number of blocks of each stage after its entry, 0 or more.
        block: Nothing follows the addition in ``basic`` and ``pre``; ``post_relu`` is the block of He et al. (2016).
        stem_stride: Stride of the stem's convolution, 1 or more.
        stem_pool: Whether 2×2 max pooling follows the stem.
        branch_scale: Multiplies what starts as 1 in the branch of each block, the gain of its last normalization, or with
            ``pre`` the initial weight of its last convolution; 0 makes every ``basic`` and ``pre`` block the identity at first.
        head: As in ``FCResNetConfig``.
    """

    kind: Literal["conv_resnet"] = "conv_resnet"
    channels: tuple[int, ...] = (16, 32)
    blocks: tuple[int, ...] = (1, 4)
    block: ConvBlock = "basic"
    stem_stride: int = 1
    stem_pool: bool = False
    branch_scale: float = 1.0
    head: Head = "linear"

    def __post_init__(self) -> None:
        check_choices("model", self)
        if not self.channels or len(self.channels) != len(self.blocks):
            raise ValueError(
                "model.channels and model.blocks must have one number for every stage, got "
                f"{list(self.channels)} and {list(self.blocks)}. Make both equally long."
            )
        check_least("model.channels", min(self.channels), 1)
        check_least("model.blocks", min(self.blocks), 0)
        check_least("model.stem_stride", self.stem_stride, 1)
        _check_size(sum(self.blocks) + len(self.blocks), 2 * 9 * max(self.channels) ** 2)
        _check_branch_scale(self.branch_scale)


@dataclass(frozen=True)
class LayerNormResNetConfig:
    r"""Shape and initialization of a ``LayerNormResNet``.

    With :math:`\sigma` = ReLU and LN = ``SphereNorm``, a block maps :math:`h` to

    ============= ===========================================
    linear_layers
    ============= ===========================================
    1 (L-RN1)     :math:`LN(h + \sigma(W h + b))`
    2 (L-RN2)     :math:`LN(h + W_2\,\sigma(W_1 h + b_1) + b_2)`
    ============= ===========================================

    Attributes:
        width: Dimension d of every layer, 2 or more.
        num_blocks: L, 0 or more.
        linear_layers: In each block, 1 or 2.
        norm_scale: Norm of every layer's features: ``unit`` is 1, ``sqrt_d`` is √d.
        branch_scale: Multiplies the initial weight of the last linear layer in each block, which is already divided by √L so
            that depth does not change the size of what all blocks add at first; 0 makes every block the identity.
        embedding: ``linear`` is a trained layer from the data to the width; ``none`` normalizes the data, which must have the
            width's dimension.
        block_biases: Whether the linear layers of the blocks have biases.
        rounding: The kink of the ReLU is rounded off within this distance of 0. Descent on a ReLU network ends on kinks, where
            the gradient does not vanish (docs/claims.md, Stationary runs); with a rounded one it does.
        norm_rounding: The normalization is rounded off within this distance of 0, in units of its radius. Descent can lead a
            sample through 0 in front of a normalization, where there is no gradient. With w > 0 features lie inside of the
            sphere: where the vector had the radius' length, by about w²/2 of it.
    """

    kind: Literal["layernorm_resnet"] = "layernorm_resnet"
    width: int = 64
    num_blocks: int = 4
    linear_layers: int = 1
    norm_scale: NormScale = "unit"
    branch_scale: float = 1.0
    embedding: Embedding = "linear"
    block_biases: bool = True
    rounding: float = 0.0
    norm_rounding: float = 0.0

    def __post_init__(self) -> None:
        check_choices("model", self)
        check_least("model.width", self.width, 2)
        check_least("model.num_blocks", self.num_blocks, 0)
        _check_one_or_two("linear_layers", self.linear_layers)
        _check_size(self.num_blocks, self.linear_layers * self.width**2)
        _check_branch_scale(self.branch_scale)
        _check_rounding("rounding", self.rounding, "the ReLU")
        _check_rounding("norm_rounding", self.norm_rounding, "the normalization")

    @property
    def feature_norm_squared(self) -> int:
        """Squared norm of what the last layer takes."""
        return radius_squared(self.norm_scale, self.width)


@dataclass(frozen=True)
class TransformerConfig:
    r"""Shape and initialization of a ``Transformer``.

    With tokens as columns of X, :math:`\sigma` = ReLU, LN = ``SphereNorm`` of every token, and
    :math:`A(X) = V X\,\mathrm{softmax}(X^T Q X / \sqrt d)` normalized over what each token looks at, a block is

    ===== ============================================================================
    norm
    ===== ============================================================================
    post  :math:`X \leftarrow LN(X + A(X))`, then :math:`X \leftarrow LN(X + M(X))`
    pre   :math:`X \leftarrow X + A(LN(X))`, then :math:`X \leftarrow X + M(LN(X))`
    ===== ============================================================================

    Attributes:
        width: Dimension d of a token, 2 or more.
        num_blocks: L, 0 or more.
        attention_layers: 1, or 2 for a further linear layer on what attention gives; the first index of L-T11.
        mlp_layers: 1 for :math:`M(X) = \sigma(U X + u)`, 2 for :math:`U_2\,\sigma(U_1 X + u_1) + u_2`; the second index.
        norm: Whether tokens are normalized after each addition (post) or before each branch (pre).
        norm_scale: Norm of normalized tokens: ``unit`` is 1, ``sqrt_d`` is √d.
        pool: What the last layer reads: the class token, or the mean of all tokens but padding.
        patch: Rows and columns of the patches that images are cut into, 1 or more; of no effect on texts.
        branch_scale: As in ``LayerNormResNetConfig``, with 2L branches.
        embedding: ``linear`` are trained layers from patches or words to the width, and a class token. ``none``, for images,
            makes each token the image with all pixels but those of its patch at 0: the width must be the number of pixels,
            and the mean of the tokens must be read out.
        rounding: As in ``LayerNormResNetConfig``.
        norm_rounding: As in ``LayerNormResNetConfig``.
    """

    kind: Literal["transformer"] = "transformer"
    width: int = 64
    num_blocks: int = 4
    attention_layers: int = 1
    mlp_layers: int = 1
    norm: NormPlace = "post"
    norm_scale: NormScale = "unit"
    pool: TokenPool = "cls"
    patch: int = 4
    branch_scale: float = 1.0
    embedding: Embedding = "linear"
    rounding: float = 0.0
    norm_rounding: float = 0.0

    def __post_init__(self) -> None:
        check_choices("model", self)
        check_least("model.width", self.width, 2)
        check_least("model.num_blocks", self.num_blocks, 0)
        check_least("model.patch", self.patch, 1)
        _check_one_or_two("attention_layers", self.attention_layers)
        _check_one_or_two("mlp_layers", self.mlp_layers)
        if self.embedding == "none" and self.pool == "cls":
            raise ValueError("model.embedding=none has no class token to read out, got model.pool=cls. Set model.pool=mean.")
        _check_rounding("rounding", self.rounding, "the ReLU")
        _check_rounding("norm_rounding", self.norm_rounding, "the normalization")
        _check_size(self.num_blocks, (1 + self.attention_layers + self.mlp_layers) * self.width**2)
        _check_branch_scale(self.branch_scale)

    @property
    def feature_norm_squared(self) -> int:
        """Squared norm of what the last layer takes."""
        return radius_squared(self.norm_scale, self.width)


ModelConfig = FCResNetConfig | ConvResNetConfig | LayerNormResNetConfig | TransformerConfig


def radius_squared(scale: NormScale, dim: int) -> int:
    """Squared norm of a normalized vector: 1 or d."""
    return 1 if scale == "unit" else dim


def _check_size(num_blocks: int, weights_of_a_block: float) -> None:
    check_most("The number of blocks", num_blocks, _MOST_BLOCKS)
    check_most("The number of weights", max(1, num_blocks) * weights_of_a_block, _MOST_WEIGHTS)


def _check_branch_scale(scale: float) -> None:
    if not 0 <= scale < math.inf:
        raise ValueError(f"model.branch_scale must be 0 or more and finite, got {scale}. Use 1 for the default scale.")


def _check_rounding(field: str, width: float, what: str) -> None:
    if not 0 <= width < math.inf:
        raise ValueError(f"model.{field} must be 0 or more and finite, got {width}. Use 0 for {what} itself.")


def _check_one_or_two(field: str, layers: int) -> None:
    if layers not in {1, 2}:
        raise ValueError(f"model.{field} must be 1 or 2, got {layers}. Pick one of them.")
