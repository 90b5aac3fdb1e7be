"""A CUDA stream for each sensor, so that the work of one never waits for that of another; on a CPU nothing of it.

Written by CUDA's rules of streams and events and of torch's allocator, and not yet run on a GPU.
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

FUSION = "fusion"


class Lanes:
    """Streams by name. What is launched inside `on(name)` runs in the order of that lane, one thread at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._streams: dict[str, torch.cuda.Stream] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._latest: dict[str, torch.cuda.Event] = {}
        self._current = threading.local()

    @property
    def current(self) -> str:
        """The lane that the calling thread is on; empty outside of any."""
        name: str = getattr(self._current, "name", "")
        return name

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Launch on a lane; at the end an event marks how far it is. A lane inside a lane changes nothing."""
        if self.current:
            yield
            return
        with self._lane_lock(name):
            yield from self._launching(name)

    def _launching(self, name: str) -> Iterator[None]:
        self._current.name = name
        try:
            if self._device.type != "cuda":
                yield
                return
            stream = self._stream(name)
            with torch.cuda.stream(stream):
                yield
                event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                event.record(stream)
            with self._lock:
                self._latest[name] = event
        finally:
            self._current.name = ""

    def wait_for_all(self, tensors: Iterable[Tensor]) -> None:
        """Let the current lane wait for what every other lane had launched, and hold on to `tensors` of theirs.

        That is a little more than needed, at most one newer encoding of a sensor. The host does not wait. Without
        `record_stream` the allocator could hand a tensor's memory to its own lane while this one still reads it.
        """
        if self._device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self._device)
        with self._lock:
            events = list(self._latest.values())
        for event in events:
            stream.wait_event(event)
        for tensor in tensors:
            if tensor.is_cuda:
                tensor.record_stream(stream)

    def _lane_lock(self, name: str) -> threading.Lock:
        """Two threads with images of one camera must not fill the same recording's inputs at once."""
        with self._lock:
            return self._locks.setdefault(name, threading.Lock())

    def _stream(self, name: str) -> torch.cuda.Stream:
        with self._lock:
            if name not in self._streams:
                # Fusion is what a result waits for: its kernels go before those of the next frame's encoders.
                priority = -1 if name == FUSION else 0
                self._streams[name] = torch.cuda.Stream(self._device, priority=priority)  # type: ignore[no-untyped-call]
            return self._streams[name]
