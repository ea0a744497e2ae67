"""Where a row of the benchmark spends its CPU time: the share of each part of a measurement, by samples of the stack.

python benchmarks/profile_row.py ROW [--seconds 5]
"""

import argparse
import signal
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

import torch
from bench import ROWS

# A part by a function on the stack and its file. The innermost one counts.
PARTS = {
    ("forward", "fc_resnet.py"): "forward pass",
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
# Inside of these a forward pass is part of the search.
WHOLE = {"finding the layers", "proof of the classifier"}


def part_of(frame: FrameType | None) -> str:
    """Return the part of a measurement that a stack is in."""
    found = "rest"
    while frame is not None:
        code = frame.f_code
        part = PARTS.get((code.co_name, code.co_filename.rpartition("/")[2]))
        found = part if part is not None and (found == "rest" or part in WHOLE) else found
        frame = frame.f_back
    return found


def shares(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return the share of each part in the CPU time of a call."""
    counts: Counter[str] = Counter()
    for _ in range(3):
        call()
    signal.signal(signal.SIGPROF, lambda number, frame: counts.update([part_of(frame)]))
    signal.setitimer(signal.ITIMER_PROF, 0.004, 0.004)
    end = time.process_time() + seconds
    while time.process_time() < end:
        call()
    signal.setitimer(signal.ITIMER_PROF, 0)
    return {part: count / counts.total() for part, count in counts.most_common()}


def main() -> None:
    """Print the shares of a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=[name for name, row in ROWS.items() if row.threads == 1])
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for part, share in shares(ROWS[options.row].calls()["ours"], options.seconds).items():
        print(f"{share:6.1%}  {part}")


if __name__ == "__main__":
    main()
