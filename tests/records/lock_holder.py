"""A process that holds a folder: says so, and waits."""

import sys
import time
from pathlib import Path

from ncollapse.records.lock import Lock

with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
