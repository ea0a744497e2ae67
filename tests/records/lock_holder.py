"""A process that holds a folder: says so, and waits."""

import sys
import time
from pathlib import Path

from ncollapse.records.lock import Lock

if __name__ == "__main__":
    with Lock(Path(sys.argv[1])):
        print("held", flush=True)
        time.sleep(100)
