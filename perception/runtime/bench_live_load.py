"""More than the service can do: what is dropped, how late the rest is, whether memory stays flat, who gets what."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np

from perception.config.schema import BatchingConfig
from perception.core.ports import Engine
from perception.core.results import PerceptionResult
from perception.pipeline.batching import BatchingStages
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.bench_live import Stand, describe, growth
from perception.runtime.bench_live_drive import EndlessDrive
from perception.runtime.bench_live_run import spread
from perception.runtime.process_memory import MemorySampler, Series

OpenEngine = Callable[[], AbstractContextManager[Engine]]

GROWTH_LIMIT_PERCENT = 1.0
WARM_UP_S = 300.0
"""The queue's history and every allocator are full by then."""
WARM_UP_SHARE = 0.25
"""Of a soak that is too short for `WARM_UP_S`."""
MEMORY_EVERY_S = 5.0


def bench_overload(stand: Stand, *, factors: Sequence[float], seconds: float) -> dict[str, Any]:
    """Latency and the account of frames at each of `factors` times what the service can do."""
    loads: dict[str, Any] = {}
    for factor in factors:
        stand.tell(f"{factor:g} times the capacity for {seconds:.0f} s")
        run = stand.run(factor * stand.capacity_hz, seconds)
        loads[f"{factor:g}"] = describe(run) | {"growth": growth(run)}
    return stand.about() | {"seconds": seconds, "loads": loads}


def bench_soak(stand: Stand, *, factor: float, seconds: float) -> dict[str, Any]:
    """A long run at `factor` times the capacity: `passed` where memory did not grow and every frame is accounted for.

    Growth is that of a line through the private memory of all processes together, from the end of the warm-up on.
    """
    stand.tell(f"{factor:g} times the capacity for {seconds / 60:.1f} min")
    with MemorySampler(every_s=min(MEMORY_EVERY_S, seconds / 20)) as memory:
        run = stand.run(factor * stand.capacity_hz, seconds)
    warm_s = min(WARM_UP_S, WARM_UP_SHARE * seconds)
    told = memory_growth(_after(memory.samples, warm_s))
    by_process = {name: memory_growth(_after(samples, warm_s)) for name, samples in memory.by_process.items()}
    figures = describe(run) | {
        "growth": growth(run),
        "warm_up_s": warm_s,
        "memory": told,
        "memory_by_process": by_process,
    }
    is_flat = told.get("growth_percent", 0.0) < GROWTH_LIMIT_PERCENT
    return stand.about() | {"factor": factor, "seconds": seconds} | figures | {
        "passed": is_flat and figures["account"]["is_exact"]
    }  # fmt: skip


def _after(samples: Series, begin_s: float) -> Series:
    return [one for one in samples if one[0] >= begin_s]


def memory_growth(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """samples: (s, MiB). The line through them: where it begins and ends, and by how many percent it rises."""
    if len(samples) < 2:
        return {}
    times, values = np.array(samples).T
    slope, begin = np.polyfit(times - times[0], values, 1)
    rise = slope * (times[-1] - times[0])
    return {
        "begin_mb": round(float(begin), 1),
        "end_mb": round(float(begin + rise), 1),
        "least_mb": round(float(values.min()), 1),
        "most_mb": round(float(values.max()), 1),
        "growth_percent": round(float(100 * rise / begin), 2),
    }


def bench_vehicles(stand: Stand, *, counts: Sequence[int], seconds: float) -> dict[str, Any]:
    """Frames a second of several vehicles in one service, each sending as much as the service can do for one.

    `shared`: all use the engine under test, frame after frame. `batched`: they share a model of this process that takes
    what they want together (`pipeline/batching.py`). jain: Jain's index of fairness, 1 where all vehicles get the same,
    1/N where one gets all. of_one: over one vehicle's frames a second with the shared engine.
    """
    threads = stand.config.runtime.threads or os.cpu_count() or 1
    batching = BatchingStages(open_model(stand.config.model), BatchingConfig(), threads=threads)
    ways: dict[str, OpenEngine] = {
        "shared": lambda: nullcontext(stand.engine),
        "batched": lambda: closing(batching.engine()),
    }
    fleets: dict[str, dict[str, Any]] = {way: {} for way in ways}
    try:
        for count in counts:
            for way, open_engine in ways.items():
                stand.tell(f"{count} vehicles, {way}, for {seconds:.0f} s")
                fleets[way][str(count)] = _Fleet(stand, count, open_engine).run(seconds)
    finally:
        batching.close()
    alone = fleets["shared"].get("1", {}).get("frames_per_s")
    for fleet in (fleet for way in fleets.values() for fleet in way.values()):
        fleet["of_one"] = round(fleet["frames_per_s"] / alone, 3) if alone else None
    return stand.about() | {"seconds": seconds, "fleets": fleets}


class _Fleet:
    """Vehicles side by side, a session and a thread each."""

    def __init__(self, stand: Stand, count: int, open_engine: OpenEngine) -> None:
        self._stand = stand
        self._open_engine = open_engine
        self._drives = [
            EndlessDrive.load(stand.folder, drive_id=f"bench/vehicle{i}", begin_s=i / count / stand.drive.frame_hz)
            for i in range(count)
        ]
        self._accounts: dict[str, dict[str, Any]] = {}
        self._latency_ms: list[float] = []
        self._errors: list[BaseException] = []

    def run(self, seconds: float) -> dict[str, Any]:
        threads = [threading.Thread(target=self._drive, args=(drive, seconds)) for drive in self._drives]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        elapsed_s = time.monotonic() - begun
        if self._errors:
            raise self._errors[0]
        results = np.array([account["results"] for account in self._accounts.values()], dtype=np.float64)
        return {
            "frames_per_s": round(float(results.sum()) / elapsed_s, 2),
            "by_vehicle": [int(one) for one in results],
            "jain": round(float(results.sum() ** 2 / (len(results) * (results**2).sum())), 4) if results.any() else 0.0,
            "least_over_most": round(float(results.min() / results.max()), 3) if results.any() else 0.0,
            "latency_ms": spread(np.array(self._latency_ms)),
            "is_exact": all(account["is_exact"] for account in self._accounts.values()),
        }

    def _drive(self, drive: EndlessDrive, seconds: float) -> None:
        hz = self._stand.capacity_hz

        def collect(result: PerceptionResult) -> None:
            self._latency_ms.append(result.provenance.stage_latency_ns["since_last_message"] / 1e6)

        rate = hz / drive.frame_hz
        try:
            with self._open_engine() as engine:
                summary = run_drive(
                    drive,
                    engine,
                    self._stand.config,
                    run_id="bench",
                    on_result=collect,
                    options=ReplayOptions(rate=rate, duration_s=seconds * rate, live=True),
                )
        except BaseException as error:  # raised by whoever waits for the fleet
            self._errors.append(error)
            return
        self._accounts[drive.drive_id] = {"results": summary.end.count, "is_exact": summary.account.is_exact}
