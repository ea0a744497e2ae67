"""Hostile files for tests of readers: random bytes and damaged valid files; the memory that a call takes."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# A reader of a small file answers in milliseconds; the bound is for a busy machine. Files in a folder of the test are replaced.
FUZZED = settings(deadline=timedelta(seconds=5), suppress_health_check=[HealthCheck.function_scoped_fixture])
OFTEN = settings(FUZZED, max_examples=500)


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Check that Python allocates no more at a time than so many bytes, an error included."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak} bytes"


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """A valid file with up to four damages, or random bytes."""
    place, few = st.integers(0, max(1, len(valid))), st.binary(max_size=8)
    damage = st.tuples(st.sampled_from(("overwritten", "inserted", "removed", "doubled", "cut")), place, few)
    return st.lists(damage, max_size=4).map(lambda damages: _damage(valid, damages)) | st.binary(max_size=200)


def _damage(content: bytes, damages: list[tuple[Any, ...]]) -> bytes:
    for kind, place, few in damages:
        before, after = content[:place], content[place:]
        content = {
            "overwritten": before + few + after[len(few) :],
            "inserted": before + few + after,
            "removed": before + after[len(few) :],
            "doubled": before + after[:40] + after,
            "cut": before,
        }[kind]
    return content
