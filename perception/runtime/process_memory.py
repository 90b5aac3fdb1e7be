"""Memory of a process and all that descend from it, sampled while something else runs."""

import os
import threading
import time
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def tree_of(root: int) -> list[int]:
    """`root` and its descendants, as the system lists them now."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it ended
                continue
            children[int(stat.rpartition(")")[2].split()[1])].append(int(entry.name))
    tree, todo = [], [root]
    while todo:
        pid = todo.pop()
        tree.append(pid)
        todo += children[pid]
    return tree


def private_mb(pid: int) -> float:
    """Memory that would be free if the process ended, in MiB; 0 where it is gone or not ours to read."""
    try:
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


class MemorySampler:
    """Samples the private memory of this process's whole tree in a thread; use as a context.

    samples: (seconds since the start, MiB). Only where there is /proc (Linux); elsewhere there are no samples.
    """

    def __init__(self, *, every_s: float) -> None:
        self.samples: list[tuple[float, float]] = []
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> "MemorySampler":
        if PROC.is_dir():
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        begun = time.monotonic()
        while not self._stop.wait(self._every_s):
            total = sum(private_mb(pid) for pid in tree_of(os.getpid()))
            self.samples.append((time.monotonic() - begun, total))
