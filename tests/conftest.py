"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest

# Threads of torch that wait for each other spin, which takes the core from the other test process: a replay beside
# another one took twice as long. Read when torch is loaded; processes under test inherit it.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """A shell starts what runs in the background with Ctrl-C ignored, and the commands under test inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def drive_data() -> Path:
    """The folder of real recorded drives: `DRIVE_DATA`, else `../shared/data` beside the project; skips without it."""
    folder = Path(os.environ.get("DRIVE_DATA", PROJECT_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recorded drives at {folder}; set DRIVE_DATA")
    return folder
