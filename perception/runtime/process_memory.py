"""Memory of a process and all that descend from it, sampled while something else runs."""

import threading
import time
from collections import defaultdict

import psutil

Series = list[tuple[float, float]]
"""(seconds since the start, MiB)."""


class MemorySampler:
    """Samples in a thread what would be free if this process and all its descendants ended; use as a context.

    samples: of all together. by_process: of each, by name and pid.
    """

    def __init__(self, *, every_s: float) -> None:
        self.samples: Series = []
        self.by_process: dict[str, Series] = defaultdict(list)
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begun = time.monotonic()
        own = psutil.Process()
        while not self._stop.wait(self._every_s):
            total = 0.0
            at_s = time.monotonic() - begun
            for process in (own, *own.children(recursive=True)):
                try:
                    name, mb = f"{process.name()} {process.pid}", process.memory_full_info().uss / 2**20
                except psutil.Error:  # it ended, or is not ours to read
                    continue
                self.by_process[name].append((at_s, mb))
                total += mb
            self.samples.append((at_s, total))
