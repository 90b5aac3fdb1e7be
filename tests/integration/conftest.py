"""A real Ray, started once for all tests that want one, and the command line as a process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from perception.runtime.cluster import ray_cluster


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    """A Ray for the tests of one file; others start their own, and a process holds one at a time."""
    with ray_cluster():
        yield


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `perception ...` in a session of its own; whatever is left at the end of the test is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-c", "from perception.cli.main import main; main()", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
