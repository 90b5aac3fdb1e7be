"""One live run through the service, every result timed from the arrival of its last message to a consumer's hands."""

import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ServiceConfig
from perception.core.endless import Endless
from perception.core.messages import AnyMessage
from perception.core.ports import Engine
from perception.pipeline.replay import ReplayOptions, RunSummary, run_drive
from perception.queues.zenoh import ZenohQueue
from perception.runtime.bench_live_consumer import Consumer
from perception.runtime.bench_live_drive import EndlessDrive
from perception.runtime.bench_live_watch import ROW, STAGES, LiveWatch

F64 = NDArray[np.float64]
LEAST_FRAMES = 5
"""That the capacity is measured from."""


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
    """Frames a second that the service makes of messages that are always there; longer where few come in `seconds`."""
    finished: list[float] = []
    stop_s = time.monotonic() + seconds
    run_drive(
        _Until(drive, lambda: time.monotonic() >= stop_s and len(finished) >= LEAST_FRAMES),
        engine,
        config,
        run_id="capacity",
        on_result=lambda _: finished.append(time.monotonic()),
        options=ReplayOptions(),
    )
    warm = finished[len(finished) // 5 :]
    return (len(warm) - 1) / (warm[-1] - warm[0])


def account(run: LiveRun) -> dict[str, Any]:
    """Frames and messages in and out.

    is_exact: every message was used or dropped for one cause, every bundle too, and every result was received or is a
    gap of the queue's.
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
        "is_exact": run.summary.account.is_exact and results == received + run.gaps,
    }


def spread(values: F64) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    if not len(values):
        return {}
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(float(values.max()), 2)}


class _Until(Endless):
    """A drive that ends when it is told to."""

    def __init__(self, drive: EndlessDrive, is_over: Callable[[], bool]) -> None:
        self._drive = drive
        self._is_over = is_over
        self.drive_id, self.rig, self.notes = drive.drive_id, drive.rig, drive.notes

    def messages(self) -> Iterator[AnyMessage]:
        for message in self._drive.messages():
            if self._is_over():
                return
            yield message

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
