"""Any error in one line that says what to change."""

from __future__ import annotations

# Those that say in their own words what was needed and what to do; others carry words of Python or torch.
_OURS = (ValueError, TypeError, KeyError, OSError, ImportError)


def error_line(error: BaseException, memory_advice: str = "Use smaller batches or a smaller network.") -> str:
    """Write an error in one line, with its type if Python or torch raised it; ``memory_advice`` makes the work smaller."""
    words = " ".join((str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)).split())
    if isinstance(error, MemoryError) or "out of memory" in words.lower():
        device = "GPU" if "CUDA" in words else "computer"
        return f"The memory of the {device} is used up ({words.rstrip('.') or type(error).__name__}). {memory_advice}"
    if isinstance(error, RecursionError):
        return (
            f"Python's recursion limit is reached ({words or 'no words'}). Modules or a file are nested too deeply, or a "
            "function calls itself: put --debug after ncollapse to see which, and flatten it."
        )
    if isinstance(error, _OURS) and words:
        return words
    return f"{type(error).__name__}: {words.rstrip('.') or 'no words'}. Put --debug after ncollapse to see where."
