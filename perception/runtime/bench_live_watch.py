"""What live benchmarks put around an engine: times of each frame on its way, and encoding put off on purpose."""

import time
from array import array
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace

from perception.core.forwarding import ForwardingEngine
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, FeatureHandle
from perception.core.results import PerceptionResult
from perception.core.stages import CameraRequest, EncodeRequest, FuseRequest, FusionOutput, LidarRequest
from perception.queues.codec import encode
from perception.queues.zenoh import ZenohQueue

STAGES = (
    "reading", "sync", "encode_wait", "fusion", "return", "handover", "tracking", "encode", "transport", "decode",
)  # fmt: skip
"""In the order in which they pass; together they are the latency."""
ROW = ("sequence", "due", *STAGES[:8], "sent", "model")
"""Columns of `LiveWatch.rows`: monotonic times and durations, in ns."""


@dataclass(slots=True, kw_only=True)
class Marks:
    """Monotonic times of one frame on its way, in ns. due: when its last message arrived, by the drive's own pace."""

    due_ns: int
    read_ns: int
    submitted_ns: int
    done_ns: int = 0


class ReferenceCount:
    """Counts the captures that open a frame: give its `tap` to `run_drive`."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self.seen = 0

    def tap(self, message: AnyMessage) -> None:
        self.seen += message.sensor == self._reference


class LiveWatch(ForwardingEngine):
    """Notes times around a session and its engine: give it as the engine, and its `tap` and `deliver` to `run_drive`.

    The engine takes `due_ns` for the time at which a frame's last message came, so that what the model does while that
    message waits to be read counts as the model's.
    """

    def __init__(self, engine: Engine, *, rate: float, reference: str) -> None:
        super().__init__(engine)
        self._rate = rate
        self._begun: tuple[int, int] | None = None
        self.frames_in = ReferenceCount(reference)
        self._due_ns = self._read_ns = 0
        self._submitted = 0
        self._under_way: dict[int, Marks] = {}
        self.rows = array("q")
        """`ROW` numbers for each published result, flat: a long run must not grow by what measures it."""

    def tap(self, message: AnyMessage) -> None:
        """A message was read: when was it due?"""
        self._read_ns = time.monotonic_ns()
        self.frames_in.tap(message)
        if self._begun is None:
            self._begun = (self._read_ns, message.arrival_ns)
        begun_ns, first_ns = self._begun
        self._due_ns = min(self._read_ns, begun_ns + round((message.arrival_ns - first_ns) / self._rate))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        marks = Marks(due_ns=self._due_ns, read_ns=self._read_ns, submitted_ns=time.monotonic_ns())
        self._under_way[self._submitted] = marks
        self._submitted += 1
        future = self._engine.fuse(replace(request, received_ns=self._due_ns), features)
        future.add_done_callback(lambda _: setattr(marks, "done_ns", time.monotonic_ns()))
        return future

    def deliver(self, result: PerceptionResult, queue: ZenohQueue) -> None:
        """Publish, in the two steps that publishing is made of."""
        marks = self._under_way.pop(result.sequence)
        publish_ns = time.monotonic_ns()
        payload = encode(result)
        encoded_ns = time.monotonic_ns()
        queue.send(payload)
        stages = result.provenance.stage_latency_ns
        fusing_ns = marks.due_ns + stages["until_fusion"]
        self.rows.extend(
            (
                result.sequence,
                marks.due_ns,
                marks.read_ns - marks.due_ns,
                marks.submitted_ns - marks.read_ns,
                fusing_ns - marks.submitted_ns,
                stages["fusion"],
                marks.done_ns - fusing_ns - stages["fusion"],
                publish_ns - marks.done_ns - stages["tracking"],
                stages["tracking"],
                encoded_ns - publish_ns,
                encoded_ns,
                stages["model_since_last_message"],
            )
        )


class DeferredEngine(ForwardingEngine):
    """An engine that encodes images and sweeps only when their bundle is complete: what encoding on arrival saves."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._waiting: dict[str, EncodeRequest] = {}
        self._encoded: dict[str, FeatureHandle] = {}

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        if not isinstance(request, CameraRequest | LidarRequest):
            return self._engine.encode(request)
        self._waiting[request.key] = request
        return _Deferred(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        for handle in features:
            if handle.key in self._waiting:
                self._encoded[handle.key] = self._engine.encode(self._waiting.pop(handle.key))
        return self._engine.fuse(request, [self._encoded.get(handle.key, handle) for handle in features])

    def release(self, features: Sequence[FeatureHandle]) -> None:
        for handle in features:
            self._waiting.pop(handle.key, None)
        kept = [self._encoded.pop(one.key, one) for one in features]
        self._engine.release([one for one in kept if not isinstance(one, _Deferred)])


@dataclass(frozen=True, slots=True)
class _Deferred:
    key: str
