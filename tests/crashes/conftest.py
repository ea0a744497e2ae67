"""What every command finds and leaves, made once."""

from collections.abc import Callable

import pytest

from crashes.commands import Known, warm_up


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Known]:
    """Know a command by its name."""
    folder, found = tmp_path_factory.mktemp("known"), {}
    warm_up(folder / "warm")

    def find(name: str) -> Known:
        if name not in found:
            found[name] = Known(name, folder)
        return found[name]

    return find
