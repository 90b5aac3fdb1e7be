"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def drive_data() -> Path:
    """The folder of real recorded drives: `DRIVE_DATA`, else `../shared/data` beside the project; skips without it."""
    folder = Path(os.environ.get("DRIVE_DATA", PROJECT_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no recorded drives at {folder}; set DRIVE_DATA")
    return folder
