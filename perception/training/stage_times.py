"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

STAGES: Final = (
    "read", "collate", "wait", "transfer", "augment", "geometry", "forward", "losses", "backward", "optimiser"
)  # fmt: skip
"""`read` and `collate` happen in a thread beside the others; `wait` is how long a step waited for them."""


class StageTimes:
    """Seconds by stage. On a GPU they are those of the host unless `exact`, which waits for the device at each end."""

    def __init__(self, device: torch.device, *, exact: bool) -> None:
        self._synchronise = exact and device.type == "cuda"
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self.samples = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            if self._synchronise:
                torch.cuda.synchronize()
            self._seconds[name] += time.perf_counter() - began

    def table(self) -> dict[str, dict[str, float]]:
        """By stage: `seconds` in all, `ms_per_sample` and `samples_per_s`."""
        samples = max(self.samples, 1)
        return {
            name: {
                "seconds": seconds,
                "ms_per_sample": 1e3 * seconds / samples,
                "samples_per_s": samples / max(seconds, 1e-9),
            }
            for name, seconds in self._seconds.items()
        }
