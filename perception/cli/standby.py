"""A spare process has loaded everything and waits until the one that runs is dead: `perception supervise --standby`.

The supervisor names a pipe in the environment and writes to it when the spare is to begin; the pipe's end means that it
is not wanted any more.
"""

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Final, TypeVar

import click

from perception.cli.main import EXIT_DONE

VARIABLE: Final = "PERCEPTION_STANDBY"
"""Holds the number of the file that a spare reads."""
GRACE_S: Final = 30.0
"""A spare that is dismissed while it loads ends when it has loaded."""

Start = Callable[[int], "subprocess.Popen[bytes]"]
"""Starts a process that inherits this file."""


class Turn:
    """Whether this process is a spare, and when it is to begin."""

    def __init__(self) -> None:
        # Taken out of the environment, so that processes that are started from here are no spares.
        number = os.environ.pop(VARIABLE, None)
        self._file = None if number is None else os.fdopen(int(number), "rb", buffering=0)

    @property
    def is_awaited(self) -> bool:
        return self._file is not None

    def wait(self) -> None:
        """Return when it is this process's turn, at once where it is no spare. Raises Exit where it will never be."""
        if self._file is None:
            return
        with self._file as file:
            if not file.read(1):
                raise click.exceptions.Exit(EXIT_DONE)
        self._file = None


T = TypeVar("T")


def opened_ahead(stack: ExitStack, open_it: Callable[[], AbstractContextManager[T]]) -> T | None:
    """In a spare: what takes long to open, opened before its turn; then wait for that. None, at once, elsewhere.

    A spare touches nothing else that the process before it may still hold, until that is dead.
    """
    turn = Turn()
    opened = stack.enter_context(open_it()) if turn.is_awaited else None
    turn.wait()
    return opened


class Spare:
    """The supervisor's end: a process that waits for its turn."""

    def __init__(self, start: Start) -> None:
        reading, self._writing = os.pipe()
        try:
            self._process = start(reading)
        finally:
            os.close(reading)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def begin(self) -> "subprocess.Popen[bytes]":
        """The process, told that it is its turn."""
        with suppress(BrokenPipeError):  # it died just now; whoever waits for it will see
            os.write(self._writing, b"\n")
        os.close(self._writing)
        return self._process

    def dismiss(self) -> None:
        """Have it end, and wait for that."""
        os.close(self._writing)
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
