"""Draw docs/figures/discovery.svg, the layers that are found in three small networks: ``make docs``."""

from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import ncollapse as nc

FIGURE = Path(__file__).parent / "figures" / "discovery.svg"
INK, SOFT, FAINT, TAKEN = "#1f2430", "#5f6673", "#c9cdd6", "#0072b2"
ROW, GAP, PAD, COLUMN, BOX, TOP = 22, 7, 12, 372, 186, 40


def named(**modules: nn.Module) -> nn.Sequential:
    """Make a container with names instead of numbers."""
    container = nn.Sequential()
    for name, module in modules.items():
        container.add_module(name, module)
    return container


class Block(nn.Module):
    """A residual block: a branch, and the sum of it and the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch."""
        return torch.relu(x + self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x))))))


class EncoderLayer(nn.Module):
    """Two residual branches; attention stands for any module that mixes tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2, self.mlp = nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Add both branches."""
        x = x + self.attention(self.norm1(x)).mean(1, keepdim=True)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Reads a class token, which no module returns by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.dropout = nn.Conv2d(3, 4, 4, 4), nn.Dropout()
        self.layers = nn.Sequential(EncoderLayer(), EncoderLayer(), EncoderLayer())
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 10)
        self.token = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Classify the first token."""
        tokens = self.patches(x).flatten(2).mT
        tokens = self.dropout(torch.cat([self.token.expand(len(x), 1, 4), tokens], dim=1))
        return self.head(self.norm(self.layers(tokens))[:, 0])


PLAIN = named(
    conv1=nn.Conv2d(3, 4, 3), norm1=nn.BatchNorm2d(4), relu1=nn.ReLU(), conv2=nn.Conv2d(4, 4, 3), norm2=nn.BatchNorm2d(4),
    relu2=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(4, 8), relu3=nn.ReLU(),
    head=nn.Linear(8, 10),
)  # fmt: skip
RESIDUAL = named(
    stem=named(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU()),
    stage1=nn.Sequential(Block(), Block()), stage2=nn.Sequential(Block()), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(),
    head=nn.Linear(4, 10),
)  # fmt: skip


class Picture(NamedTuple):
    """One network, why each of its layers is taken, and why some modules are not."""

    title: str
    model: nn.Module
    reasons: dict[str, str]
    others: dict[str, str]


PICTURES = (
    Picture("Plain network", PLAIN, {
        "relu1": "before conv2", "flatten": "before fc", "relu3": "before head: its input",
    }, {"conv1": "norm and ReLU follow", "pool": "same numbers as flatten"}),
    Picture("Residual network", RESIDUAL, {
        "stem.relu": "input of the first block", "stage1.0": "block", "stage1.1": "block", "stage2.0": "block",
        "pool": "input of head",
    }, {"stage1": "same numbers as stage1.1", "stage1.0.relu1": "a branch, not the sum", "flatten": "same numbers as pool"}),
    Picture("Transformer", Transformer(), {
        "dropout:cls": "input of the first block", "layers.0:cls": "block", "layers.1:cls": "block", "layers.2:cls": "block",
        "head.input": "the token of norm that head takes",
    }, {"patches": "no class token yet", "layers.0.attention": "a branch, not the sum"}),
)  # fmt: skip
SKIPS = {Block: [("conv1", "norm2")], EncoderLayer: [("norm1", "attention"), ("norm2", "mlp")]}


def text(x: float, y: float, words: str, color: str = INK, extra: str = "") -> str:
    """Draw a line of text."""
    return f'<text x="{x}" y="{y}" fill="{color}"{extra}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, line: str) -> str:
    """Draw a rectangle with round corners."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="4" fill="{fill}" stroke="{line}"/>'


class Column:
    """Draws one network from top to bottom, modules inside one another as boxes inside boxes."""

    def __init__(self, picture: Picture, left: float) -> None:
        self.left, self.reasons, self.others, self.parts = left, picture.reasons, picture.others, list[str]()
        found = nc.find_layers(picture.model, torch.randn(2, 3, 8, 8))
        assert set(found.names) == set(picture.reasons), found
        self.parts.append(text(left, 20, picture.title, extra=' font-size="14" font-weight="bold"'))
        self.seen: set[type[nn.Module]] = set()
        self.bottom = self.children(picture.model, "", TOP, 0)

    def children(self, model: nn.Module, prefix: str, y: float, depth: int) -> float:
        """Draw what is inside a module, and return where that ends."""
        for name, child in model.named_children():
            y = self.module(child, f"{prefix}{name}", y, depth) + GAP
        return y - GAP

    def module(self, module: nn.Module, name: str, y: float, depth: int) -> float:
        """Draw one module."""
        label = next((label for label in self.reasons if label.partition(":")[0] == name), None)
        inside = bool(list(module.children())) and type(module) not in self.seen
        if not isinstance(module, nn.Sequential):
            self.seen.add(type(module))
        x, width = self.left + depth * PAD, BOX - 2 * depth * PAD
        start = len(self.parts)
        end = y + ROW
        if inside:
            end = self.children(module, f"{name}.", y + ROW, depth + 1) + PAD
            self.skips(module, y, depth)
        # A leaf of a class that was drawn before is drawn again; a block is not, it would be the same inside.
        line, ink = (TAKEN, "#ffffff") if label else (FAINT, INK)
        frame = box(x, y, width, end - y, "none" if inside else (TAKEN if label else "#ffffff"), line)
        header = box(x, y, width, ROW - 4, TAKEN, TAKEN) if inside and label else ""
        self.parts[start:start] = [frame, header]
        self.parts.append(text(x + 7, y + (13 if inside else 15), name.rpartition(".")[2], ink))
        kind = "" if isinstance(module, nn.Sequential) else type(module).__name__
        self.parts.append(text(x + width - 7, y + (13 if inside else 15), kind, ink if label else SOFT, ' text-anchor="end"'))
        if label:
            self.reason(label, end - ROW / 2)
        if f"{name}.input" in self.reasons:
            self.reason(f"{name}.input", y - GAP / 2)
        if name in self.others:
            self.parts.append(text(self.left + BOX + 19, y + 15, self.others[name], SOFT, ' font-size="10"'))
        return end

    def reason(self, label: str, y: float) -> None:
        """Mark a layer at the right, where its features come out."""
        x = self.left + BOX
        self.parts.append(f'<circle cx="{x + 9}" cy="{y}" r="4" fill="{TAKEN}"/>')
        self.parts.append(text(x + 19, y - 1, label, TAKEN, ' font-weight="bold"'))
        self.parts.append(text(x + 19, y + 11, self.reasons[label], SOFT, ' font-size="10"'))

    def skips(self, module: nn.Module, y: float, depth: int) -> None:
        """Draw the residual connections past the branches of a block."""
        names = [name for name, _ in module.named_children()]
        x = self.left + (depth + 1) * PAD
        for first, last in SKIPS.get(type(module), []):
            top, bottom = (y + ROW + names.index(name) * (ROW + GAP) for name in (first, last))
            up, down = top - 3, bottom + ROW + 3
            out, back = f"H {x - 2} Q {x - 6} {up} {x - 6} {up + 4}", f"Q {x - 6} {down} {x - 2} {down} H {x + 3}"
            path = f"M {x + 3} {up} {out} V {down - 4} {back}"
            self.parts.append(f'<path d="{path}" fill="none" stroke="{INK}"/>')


def render() -> str:
    """Draw the whole figure."""
    torch.manual_seed(0)
    columns: list[Any] = [Column(picture, 12 + index * COLUMN) for index, picture in enumerate(PICTURES)]
    width, height = COLUMN * len(columns) + 12, max(column.bottom for column in columns) + 14
    style = 'font-family="system-ui, sans-serif" font-size="11"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" {style}>'
    parts = [part for column in columns for part in column.parts if part]
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#ffffff"/>', *parts, "</svg>", ""])


if __name__ == "__main__":
    FIGURE.write_text(render())
