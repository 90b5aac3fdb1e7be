"""Waits until a file changes: inotify(7) where there is one, short naps elsewhere."""

import ctypes
import os
import select
import time

NAP_S = 0.02
"""Looked at this often at least: inotify knows nothing of files on a network, or of a file that replaces another."""
_IN_MODIFY = 0x2
_EVENTS_BYTES = 4096


class FileWatch:
    """Watches the file behind an open descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._events = _inotify(descriptor)

    def wait(self, timeout_s: float) -> None:
        """Return once the file has changed since the last call, or after `timeout_s`, `NAP_S` at most."""
        nap_s = min(timeout_s, NAP_S)
        if self._events is None:
            time.sleep(nap_s)
            return
        if select.select([self._events], [], [], nap_s)[0]:
            os.read(self._events, _EVENTS_BYTES)

    def close(self) -> None:
        if self._events is not None:
            os.close(self._events)
            self._events = None


def _inotify(descriptor: int) -> int | None:
    """A descriptor that can be read when the file changes; None where the system has none, or none left."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "inotify_init1"):
        return None
    events = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if events < 0:
        return None
    if libc.inotify_add_watch(events, f"/proc/self/fd/{descriptor}".encode(), _IN_MODIFY) < 0:
        os.close(events)
        return None
    return events
