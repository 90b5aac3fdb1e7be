"""Ctrl-C and SIGTERM as a wish: what is under way is finished first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def first_signal(act: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """For the length of a `with` block the first Ctrl-C or SIGTERM calls `act`; a second one raises KeyboardInterrupt.

    Yields a question: whether one came.
    """
    asked = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        act()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
