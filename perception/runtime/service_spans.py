"""Spans of frames for traces: a frame from its last message to its result, and its stages as they really ran."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic_ns
from typing import Final

from perception.core.results import PerceptionResult
from perception.core.stages import FuseRequest, FusionOutput, StageSpan
from perception.runtime.service_watch import Watcher

MAX_OPEN: Final = 256
"""Frames that were fused and not published yet; those of runs that broke are pushed out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSpans:
    """One frame. Times are monotonic nanoseconds.

    received_ns: its last message came. asked_ns: fusion was asked for. published_ns: it was handed to the queue.
    stages: encodings (they may have begun before `received_ns`) and fusion.
    """

    vehicle: str
    result: PerceptionResult
    received_ns: int
    asked_ns: int
    published_ns: int
    stages: tuple[StageSpan, ...]


class SpanWatcher(Watcher):
    """Puts together what is heard of each frame and hands it to `write`."""

    def __init__(self, write: Callable[[FrameSpans], None], close: Callable[[], None]) -> None:
        self._write = write
        self._close = close
        self._open: dict[str, OrderedDict[int, tuple[FuseRequest, FusionOutput, int]]] = {}

    def fused(self, vehicle: str, request: FuseRequest, output: FusionOutput, asked_ns: int) -> None:
        frames = self._open.setdefault(vehicle, OrderedDict())
        frames[request.reference_ns] = (request, output, asked_ns)
        while len(frames) > MAX_OPEN:
            frames.popitem(last=False)

    def result(self, vehicle: str, result: PerceptionResult) -> None:
        frame = self._open.get(vehicle, OrderedDict()).pop(result.reference_ns, None)
        if frame is None:
            return
        request, output, asked_ns = frame
        self._write(
            FrameSpans(
                vehicle=vehicle,
                result=result,
                received_ns=request.received_ns,
                asked_ns=asked_ns,
                published_ns=monotonic_ns(),
                stages=output.spans,
            )
        )

    def close(self) -> None:
        self._close()
