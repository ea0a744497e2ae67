"""Types of the command's options."""

import argparse
from collections.abc import Callable


def count(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer of at least so much.

    Args:
        least: The smallest.

    Returns:
        A converter for ``add_argument``.
    """

    def convert(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer of {least} or more, got {text!r}")
        return int(text)

    return convert
