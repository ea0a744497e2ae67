"""Draw the diagrams of docs/how-it-works.md as SVG: ``make docs-pages``."""

from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

FIGURES = Path(__file__).with_name("figures")
_STYLE = (
    "text{font-family:system-ui,sans-serif;font-size:14px;fill:#1f2937;text-anchor:middle}.small{font-size:12px;fill:#4b5563}"
    ".box{fill:#ffffff;stroke:#4f6bed;stroke-width:1.5}.soft{fill:#eef1fd;stroke:#4f6bed;stroke-width:1.5}"
    "path{stroke:#4b5563;stroke-width:1.5;fill:none;marker-end:url(#tip)}"
)


class Box(NamedTuple):
    """A box around a point, with a title and lines below it."""

    x: int
    y: int
    title: str
    lines: tuple[str, ...] = ()
    kind: str = "box"
    width: int = 180

    @property
    def height(self) -> int:
        """Height that the lines need."""
        return 36 + 18 * len(self.lines)


def draw_box(box: Box) -> str:
    """Write one box."""
    x, y = box.x - box.width // 2, box.y - box.height // 2
    parts = [f'<rect class="{box.kind}" x="{x}" y="{y}" width="{box.width}" height="{box.height}" rx="8"/>']
    parts.append(f'<text x="{box.x}" y="{y + 23}">{escape(box.title)}</text>')
    parts += [
        f'<text class="small" x="{box.x}" y="{y + 41 + 18 * i}">{escape(line)}</text>' for i, line in enumerate(box.lines)
    ]
    return "".join(parts)


def arrow(start: Box, end: Box) -> str:
    """Write an arrow from box to box: sideways if they are side by side, else downwards."""
    if abs(start.x - end.x) >= (start.width + end.width) // 2:
        side = 1 if end.x > start.x else -1
        return f'<path d="M{start.x + side * start.width // 2} {start.y}L{end.x - side * (end.width // 2 + 8)} {end.y}"/>'
    side = 1 if end.y > start.y else -1
    return f'<path d="M{start.x} {start.y + side * start.height // 2}L{end.x} {end.y - side * (end.height // 2 + 8)}"/>'


def picture(width: int, height: int, boxes: list[Box], arrows: list[tuple[int, int]]) -> str:
    """Write a picture; arrows are pairs of positions in the list of boxes."""
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    tip += '<polygon points="0,0 8,4 0,8" fill="#4b5563"/></marker>'
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">']
    parts += [f"<style>{_STYLE}</style><defs>{tip}</defs>"]
    parts += [f'<rect x="0" y="0" width="{width}" height="{height}" rx="12" fill="#f8f9fb"/>']
    parts += [arrow(boxes[i], boxes[j]) for i, j in arrows] + [draw_box(box) for box in boxes]
    return "\n".join([*parts, "</svg>\n"])


def pictures() -> dict[str, str]:
    """Draw all of them, by name of file."""
    overview = [
        Box(110, 70, "Network, batches", ("two samples first",), "soft", 170),
        Box(320, 70, "A look", ("which modules, in which", "order, read how"), width=190),
        Box(540, 70, "One pass, or two", ("features by hooks,", "in eval mode"), width=190),
        Box(540, 190, "Statistics", ("float64 sums per class,", "merged exactly"), width=190),
        Box(320, 190, "Metrics", ("pure functions,", "with flags"), width=190),
        Box(110, 190, "The table", ("one line per value",), "soft", 170),
    ]
    passes = [
        Box(120, 110, "First pass", ("class sums, and copies", "of the features")),
        Box(350, 50, "Kept features fit", ("decide from them",)),
        Box(350, 175, "They do not fit", ("drop them, read the", "data a second time")),
        Box(570, 110, "Same numbers", ("nearest means, NC1, NC4",), "soft"),
    ]
    merging = [
        Box(120, 50, "Part a", ("count, mean, spread",)),
        Box(120, 140, "Part b", ("count, mean, spread",)),
        Box(360, 95, "Merge", ("add counts, average means,", "add spreads and the", "distance of the means"), width=210),
        Box(590, 95, "The whole", ("as from one part",), "soft", 170),
    ]
    saving = [
        Box(95, 80, "1. Write", ("temporary files,", "forced to disk"), width=140),
        Box(255, 80, "2. Keep", ("the files before,", "in previous/"), width=140),
        Box(415, 80, "3. List both", ("a new manifest",), width=140),
        Box(575, 80, "4. Rename", ("tables first, then", "the checkpoint"), width=140),
        Box(735, 80, "5. List new", ("the final manifest",), "soft", 140),
    ]
    return {
        "how_it_works.svg": picture(660, 260, overview, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        "one_pass_or_two.svg": picture(690, 240, passes, [(0, 1), (0, 2), (1, 3), (2, 3)]),
        "merging.svg": picture(700, 195, merging, [(0, 2), (1, 2), (2, 3)]),
        "run_directory.svg": picture(830, 160, saving, [(0, 1), (1, 2), (2, 3), (3, 4)]),
    }


if __name__ == "__main__":
    for name, text in pictures().items():
        (FIGURES / name).write_text(text)
