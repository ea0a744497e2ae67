"""The system's Chromium, for tests of pages."""

import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    """A browser, started once for all files of tests that run in one process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: chromium or google-chrome on the PATH")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=["--no-sandbox"], timeout=120_000)
        yield started
        started.close()
