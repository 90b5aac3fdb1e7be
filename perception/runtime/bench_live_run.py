"""One live run through the service, every result timed from the arrival of its last message to a consumer's hands."""

import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ServiceConfig
from perception.core.messages import AnyMessage
from perception.core.ports import Engine, FeatureHandle
from perception.core.results import PerceptionResult
from perception.core.stages import CameraRequest, EncodeRequest, FuseRequest, FusionOutput, LidarRequest, ModelInfo
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.queues.codec import encode
from perception.queues.zenoh import ZenohQueue
from perception.runtime.bench_live_consumer import Consumer
from perception.runtime.bench_live_drive import EndlessDrive

F64 = NDArray[np.float64]

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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LiveRun:
    """One run. hz: frames a second that arrived; frames_in: how many did.

    stages_ms: by stage, (N,) a value for each result that was received, in order; also `latency`, `model` (what of it
    was the model's own work) and `overhead` (the rest).
    """

    hz: float
    frames_in: int
    summary: RunSummary
    received: int
    gaps: int
    stages_ms: dict[str, F64]


class ReferenceCount:
    """Counts the captures that open a frame: give its `tap` to `run_drive`."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self.seen = 0

    def tap(self, message: AnyMessage) -> None:
        self.seen += message.sensor == self._reference


class LiveWatch:
    """Notes times around a session and its engine: give it as the engine, and its `tap` and `deliver` to `run_drive`.

    The engine takes `due_ns` for the time at which a frame's last message came, so that what the model does while that
    message waits to be read counts as the model's.
    """

    def __init__(self, engine: Engine, *, rate: float, reference: str) -> None:
        self._engine = engine
        self._rate = rate
        self._begun: tuple[int, int] | None = None
        self.frames_in = ReferenceCount(reference)
        self._due_ns = self._read_ns = 0
        self._submitted = 0
        self._under_way: dict[int, Marks] = {}
        self.rows = array("q")
        """`ROW` numbers for each published result, flat: a long run must not grow by what measures it."""

    @property
    def placement(self) -> str:
        return self._engine.placement

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    def tap(self, message: AnyMessage) -> None:
        """A message was read: when was it due?"""
        self._read_ns = time.monotonic_ns()
        self.frames_in.tap(message)
        if self._begun is None:
            self._begun = (self._read_ns, message.arrival_ns)
        begun_ns, first_ns = self._begun
        self._due_ns = min(self._read_ns, begun_ns + round((message.arrival_ns - first_ns) / self._rate))

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return self._engine.encode(request)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        marks = Marks(due_ns=self._due_ns, read_ns=self._read_ns, submitted_ns=time.monotonic_ns())
        self._under_way[self._submitted] = marks
        self._submitted += 1
        future = self._engine.fuse(replace(request, received_ns=self._due_ns), features)
        future.add_done_callback(lambda _: setattr(marks, "done_ns", time.monotonic_ns()))
        return future

    def release(self, features: Sequence[FeatureHandle]) -> None:
        self._engine.release(features)

    def close(self) -> None:
        """Nothing: the engine inside belongs to whoever made it."""

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


class DeferredEngine:
    """An engine that encodes images and sweeps only when their bundle is complete: what encoding on arrival saves."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[str, EncodeRequest] = {}
        self._encoded: dict[str, FeatureHandle] = {}

    @property
    def placement(self) -> str:
        return self._engine.placement

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

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

    def close(self) -> None:
        """Nothing: the engine inside belongs to whoever made it."""


@dataclass(frozen=True, slots=True)
class _Deferred:
    key: str


def run_live(
    drive: EndlessDrive,
    engine: Engine,
    config: ServiceConfig,
    *,
    key: str,
    hz: float,
    seconds: float,
) -> LiveRun:
    """Play `drive` live, `hz` frames a second for `seconds`, through `engine` and Zenoh to a consumer process.

    Raises QueueError where the consumer fails, and what `run_drive` does.
    """
    rate = hz / drive.frame_hz
    watch = LiveWatch(engine, rate=rate, reference=drive.reference)
    with Consumer(key, config.queue) as consumer, closing(ZenohQueue(key, config.queue)) as queue:
        _await_consumer(queue)
        summary = run_drive(
            drive,
            watch,
            config,
            run_id="bench",
            on_result=lambda result: watch.deliver(result, queue),
            on_message=watch.tap,
            options=ReplayOptions(rate=rate, duration_s=seconds * rate, live=True),
        )
        queue.publish(summary.end)
        receipts, gaps = consumer.receipts()
    return LiveRun(
        hz=hz,
        frames_in=watch.frames_in.seen,
        summary=summary,
        received=len(receipts),
        gaps=gaps,
        stages_ms=_stages_ms(watch.rows, receipts),
    )


def capacity_hz(drive: EndlessDrive, engine: Engine, config: ServiceConfig, *, seconds: float) -> float:
    """Frames a second that the service makes of messages that are always there."""
    finished: list[float] = []
    stop_s = time.monotonic() + seconds
    run_drive(
        _Until(drive, stop_s),
        engine,
        config,
        run_id="capacity",
        on_result=lambda _: finished.append(time.monotonic()),
        options=ReplayOptions(),
    )
    warm = finished[len(finished) // 5 :]
    return (len(warm) - 1) / max(warm[-1] - warm[0], 1e-9)


def account(run: LiveRun) -> dict[str, Any]:
    """Frames and messages in and out.

    is_exact: every frame that arrived was published or dropped as `overload`, and every result was received or is a gap
    of the queue's.
    """
    dropped = run.summary.dropped
    results, received = run.summary.end.count, run.received
    return {
        "frames_in": run.frames_in,
        "results": results,
        "received": received,
        "queue_gaps": run.gaps,
        "messages": run.summary.messages,
        "dropped": {cause: count for cause, count in sorted(dropped.items()) if count},
        "is_exact": run.frames_in == results + dropped["overload"] and results == received + run.gaps,
    }


def spread(values: F64) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(float(values.max()), 2)}


class _Until:
    """A drive that ends at a time."""

    def __init__(self, drive: EndlessDrive, stop_s: float) -> None:
        self._drive = drive
        self._stop_s = stop_s
        self.drive_id, self.rig, self.notes = drive.drive_id, drive.rig, drive.notes
        self.span_ns: tuple[int, int] | None = None
        self.label_times_ns: tuple[int, ...] = ()

    def messages(self) -> Iterator[AnyMessage]:
        for message in self._drive.messages():
            if time.monotonic() >= self._stop_s:
                return
            yield message

    def labels(self, reference_ns: int) -> None:
        return None

    def close(self) -> None:
        """Nothing is held open."""


def _await_consumer(queue: ZenohQueue) -> None:
    deadline = time.monotonic() + 30.0
    while not queue.has_consumer() and time.monotonic() < deadline:
        time.sleep(0.02)


def _stages_ms(rows: "array[int]", receipts: NDArray[np.int64]) -> dict[str, F64]:
    """Durations of the results that were received. receipts: (N, 3), as `Consumer.receipts` gives them."""
    table = np.array(rows, dtype=np.int64).reshape(-1, len(ROW))
    table = table[np.isin(table[:, 0], receipts[:, 0])]
    came = receipts[np.searchsorted(receipts[:, 0], table[:, 0])] if len(table) else receipts[:0]
    columns = dict(zip(ROW, table.T, strict=True))
    durations = {name: columns[name] for name in STAGES[:8]}
    durations["transport"] = came[:, 1] - columns["sent"]
    durations["decode"] = came[:, 2] - came[:, 1]
    durations["latency"] = came[:, 2] - columns["due"]
    durations["model"] = columns["model"]
    durations["overhead"] = durations["latency"] - durations["model"]
    return {name: values / 1e6 for name, values in durations.items()}
