"""Where a row of the benchmark, or the demo, spends its CPU time: the share of each part, by samples of the stack.

python benchmarks/profile_row.py ROW [--seconds 5]
python benchmarks/profile_row.py demo
"""

import argparse
import contextlib
import io
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import FrameType

Parts = Mapping[tuple[str, str], str]

# A part by a function on the stack and its file. The innermost one counts.
PARTS = {
    ("forward", "fc_resnet.py"): "forward pass",
    ("forward", "network_rows.py"): "forward pass",
    ("look", "tapped_network.py"): "finding the layers",
    ("_check_proof", "tap_hooks.py"): "proof of the classifier",
    ("read_classifier", "group_checks.py"): "proof of the classifier",
    ("__enter__", "untouched.py"): "saving and restoring the network",
    ("__exit__", "untouched.py"): "saving and restoring the network",
    ("merge_stacked_groups_", "moments.py"): "class moments, float64",
    ("_prepared", "first_pass.py"): "basis of the class means",
    ("from_batch", "projected.py"): "projection and logits, float64",
    ("largest", "screen.py"): "filter of decisions, float32",
    ("_within", "decisions.py"): "within-class covariance, float64",
    ("from_projected", "decisions.py"): "other decision sums",
    ("evaluate", "measure.py"): "metrics",
}
# The same of the demo.
DEMO = {
    ("_find_and_load", "<frozen importlib._bootstrap>"): "imports",
    ("run_epoch", "loop.py"): "training",
    ("_measure_split", "run.py"): "measuring",
    ("depth_record", "depth_record.py"): "numbers over depth",
    ("_sample", "run.py"): "numbers over depth",
    ("_save", "run.py"): "saving",
    ("save_figures", "figures.py"): "figures",
    ("write_page", "run_page.py"): "page",
}
# Inside of these a forward pass is part of the search.
WHOLE = {"finding the layers", "proof of the classifier"}


def part_of(frame: FrameType | None, parts: Parts) -> str:
    """Return the part that a stack is in."""
    found = "rest"
    while frame is not None:
        code = frame.f_code
        part = parts.get((code.co_name, code.co_filename.rpartition("/")[2]))
        found = part if part is not None and (found == "rest" or part in WHOLE) else found
        frame = frame.f_back
    return found


def shares(call: Callable[[], object], parts: Parts, seconds: float = 0) -> dict[str, float]:
    """Return the share of each part in the CPU time of a call, which is repeated for so many seconds."""
    counts: Counter[str] = Counter()
    signal.signal(signal.SIGPROF, lambda number, frame: counts.update([part_of(frame, parts)]))
    signal.setitimer(signal.ITIMER_PROF, 0.004, 0.004)
    end = time.process_time() + seconds
    call()
    while time.process_time() < end:
        call()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {part: count / counts.total() for part, count in counts.most_common()}


def shares_of_row(row: str, seconds: float) -> dict[str, float]:
    """Return the shares of our call of a row of the benchmark."""
    # Imported here, so that the profile of the demo has the imports of the demo.
    import torch
    from bench import ROWS

    if row not in ROWS:
        raise SystemExit(f"Needed demo or one of {', '.join(ROWS)}, got {row}.")
    torch.set_num_threads(1)
    call = ROWS[row].calls()["ours"]
    for _ in range(3):
        call()
    return shares(call, PARTS, seconds)


def demo() -> None:
    """Run the demo into a folder that is deleted afterwards."""
    from ncollapse.cli.main import main

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        main(["demo", "--out", f"{folder}/demo"])


def main() -> None:
    """Print the shares of a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", help="a row of benchmarks/bench.py that runs on one thread, or demo")
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    found = shares(demo, DEMO) if options.row == "demo" else shares_of_row(options.row, options.seconds)
    for part, share in found.items():
        print(f"{share:6.1%}  {part}")


if __name__ == "__main__":
    main()
