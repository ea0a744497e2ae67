"""The page that fits the folders it is given."""

from collections.abc import Sequence
from pathlib import Path

from ncollapse.drawing.figures import save_figures
from ncollapse.records.errors import ReportError
from ncollapse.records.file_names import REPORT, SWEEP
from ncollapse.records.reading import read_run
from ncollapse.records.sweep import read_sweep
from ncollapse.report.comparison_page import comparison_place, write_comparison
from ncollapse.report.depth_page import BLOCKS, write_depth_page
from ncollapse.report.run_page import write_page
from ncollapse.report.sweep_page import write_sweep_page


def write_report(folders: Sequence[Path], out: Path | None = None, *, unverified: bool = False) -> Path:
    """Write the page that fits: of a run, of several runs side by side, of a sweep, or of sweeps over depth.

    For one run its three figures are written into ``figures/`` too, unless ``out`` names another place.

    Args:
        folders: Run directories; or the folder of a sweep; or folders of sweeps over ``model.num_blocks`` alone.
        out: The HTML file. If None it lies in the first folder: ``report.html`` of a run, ``sweep.html`` of a sweep,
            ``depth.html`` of sweeps over depth; ``compare.html`` of several runs beside them, if they lie in one folder.
        unverified: Show also a run whose files are not as they were written, under a banner, without figures.

    Returns:
        The page.

    Raises:
        ReportError: If no folder is given, kinds are mixed, several sweeps are not over depth, or a file is missing or broken.
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise ReportError("A report needs at least one folder, got none. Name run directories, or the folder of a sweep.")
    sweeps = [path for path in paths if (path / SWEEP).is_file()]
    if unverified:
        if sweeps or len(paths) > 1:
            raise ReportError(
                f"--unverified shows one run, got {'a sweep' if sweeps else f'{len(paths)} folders'}. Name one run."
            )
        return write_page(paths[0], out or paths[0] / REPORT, unverified=True)
    if not sweeps:
        return _report_runs(paths, out)
    if len(sweeps) < len(paths):
        run = next(path for path in paths if path not in sweeps)
        raise ReportError(
            f"A report needs runs or sweeps, got both: {sweeps[0]} is a sweep, {run} is a run. Name one kind at a time; "
            "`ncollapse compare` and `ncollapse claims` accept both."
        )
    fields = {path: read_sweep(path, "last").fields for path in sweeps}
    if all(swept == (BLOCKS,) for swept in fields.values()):
        return write_depth_page(sweeps, out or sweeps[0] / "depth.html")
    if len(sweeps) == 1:
        return write_sweep_page(sweeps[0], out)
    path, swept = next((path, swept) for path, swept in fields.items() if swept != (BLOCKS,))
    raise ReportError(
        f"A report on several sweeps needs all of them over {BLOCKS} alone, but {path} is over {', '.join(swept) or 'seeds'}. "
        "Name one sweep at a time, or use `ncollapse compare`."
    )


def _report_runs(paths: Sequence[Path], out: Path | None) -> Path:
    if len(paths) > 1:
        return write_comparison(paths, out or comparison_place(paths))
    if out is None:
        save_figures(read_run(paths[0]))
    return write_page(paths[0], out or paths[0] / REPORT)
