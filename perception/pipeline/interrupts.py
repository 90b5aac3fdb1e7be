"""Ctrl-C at a moment when nothing is cut in two."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Interrupts:
    """While entered, a signal that would raise KeyboardInterrupt waits for the end of the `held` block that it fell in.

    The second one raises at once, so that what hangs can be left. Only in the main thread, and only signals that raise
    KeyboardInterrupt are touched; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self._taken_over: list[int] = []
        self._count = 0
        self._is_held = self._is_due = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.default_int_handler:
                    signal.signal(number, self._on_signal)
                    self._taken_over.append(number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in self._taken_over:
            signal.signal(number, signal.default_int_handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Raises KeyboardInterrupt at its end where a signal came meanwhile. Not to be nested."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._count += 1
        if self._is_held and self._count == 1:
            self._is_due = True
        else:
            raise KeyboardInterrupt
