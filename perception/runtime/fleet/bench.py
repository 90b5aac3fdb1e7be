"""How a fleet scales: real drives on this machine's workers, and simulated ones on many more than it has cores."""

import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import ray
from numpy.typing import NDArray

from perception.config.fleet import FleetConfig
from perception.config.schema import ServiceConfig
from perception.pipeline.local_engine import LocalEngine
from perception.pipeline.replay import ReplayOptions, run_drive
from perception.pipeline.stages import open_model
from perception.runtime.cluster import ray_cluster
from perception.runtime.fleet.ledger import Ledger
from perception.runtime.fleet.run import FleetPlan, run_fleet
from perception.runtime.fleet.scheduling import Overhead, schedule
from perception.runtime.fleet.simulated import SimulatedNode, simulated_drive
from perception.sources.open import open_drive

F64 = NDArray[np.float64]

JITTER: Final = 0.2
"""Simulated drives differ in length by so much, either way."""
ROW_S: Final = 30.0
"""With few workers fewer drives are simulated, so that a row takes about so long."""
WORKERS_PER_PROCESS: Final = 8


def bench_workers(
    workers: tuple[int, ...], *, drives: int, seconds: float, engine: Literal["own", "shared"], threads: int
) -> dict[str, Any]:
    """Frames a second of fleets of real drives over the bare loop in this process, one drive after the other.

    What starting Ray and loading the model costs is left out: the rate is over the time from the first drive's end to
    the last one's.
    """
    paths = [f"synthetic:seed={seed},duration={seconds:g}" for seed in range(drives)]
    service = ServiceConfig()
    bare = _bare_rate(paths, service, threads)
    found: dict[str, Any] = {"cores": os.cpu_count(), "drives": drives, "engine": engine, "bare_frames_per_s": bare}
    for count in workers:
        ends: list[tuple[float, int]] = []

        def note(account: dict[str, Any], ends: list[tuple[float, int]] = ends) -> None:
            ends.append((time.perf_counter(), account.get("frames", 0)))

        with tempfile.TemporaryDirectory() as folder:
            config = FleetConfig(workers=count, engine=engine, threads=threads)
            run_fleet(FleetPlan(drives=paths, out=Path(folder), service=service, fleet=config), note)
        # The first drives end together, one for each worker; what comes after them is the steady state.
        head = ends[min(count, len(ends) - 1) - 1]
        rate = sum(frames for _, frames in ends[ends.index(head) + 1 :]) / (ends[-1][0] - head[0])
        found[f"workers_{count}"] = {"frames_per_s": round(rate, 2), "over_bare": round(rate / bare, 3)}
    return found


def bench_simulated(
    workers: tuple[int, ...], *, drives: int, drive_s: float, kind: Literal["tasks", "actors"], seed: int = 0
) -> dict[str, Any]:
    """Efficiency of `schedule` with drives that sleep: the work there was, over what the workers had time for.

    kind: `tasks`, a process for each worker; `actors`, `WORKERS_PER_PROCESS` workers in each process. Every account is
    written to a ledger, as for real. driver_mb: of this process's memory, before and after.
    """
    rng = np.random.default_rng(seed)
    rows: dict[str, Any] = {}
    with ray_cluster(num_cpus=max(workers)), tempfile.TemporaryDirectory() as folder:
        for count in workers:
            number = min(drives, max(count, round(ROW_S / drive_s) * count))
            lengths = drive_s * rng.uniform(1 - JITTER, 1 + JITTER, size=number)
            crew = _Tasks(count) if kind == "tasks" else _Actors(count)
            rows[f"workers_{count}"] = _simulate(crew, lengths, count, Path(folder) / str(count))
    return {"kind": kind, "drive_s": drive_s, **rows}


def _simulate(crew: "_Tasks | _Actors", lengths: F64, workers: int, folder: Path) -> dict[str, Any]:
    overhead = Overhead()
    ledger = Ledger(folder, {})
    before_mb, began = _resident_mb(), time.perf_counter()
    middle_mb, busy_s = before_mb, 0.0
    for number, end in enumerate(
        schedule(
            range(len(lengths)),
            lambda key, _attempt: crew.begin(key, float(lengths[key])),
            in_flight=workers,
            attempts=1,
            overhead=overhead,
            ended=crew.ended,
        ),
        start=1,
    ):
        assert end.account is not None, end.error
        busy_s += end.account["seconds"]
        ledger.append(end.account)
        if number == len(lengths) // 2:
            middle_mb = _resident_mb()
    wall_s = time.perf_counter() - began
    ledger.close()
    return {
        "drives": len(lengths),
        "efficiency": round(float(lengths.sum()) / (wall_s * workers), 4),
        "drives_per_s": round(len(lengths) / wall_s, 2),
        "driver_ms_per_drive": round(overhead.busy_s * 1e3 / len(lengths), 3),
        "late_ms_per_drive": round((wall_s * workers - busy_s) * 1e3 / len(lengths), 2),
        "driver_mb": [round(before_mb, 1), round(middle_mb, 1), round(_resident_mb(), 1)],
    }


class _Tasks:
    """Simulated drives as tasks: a process for each that is under way."""

    def __init__(self, workers: int) -> None:
        self._task: Any = ray.remote(simulated_drive).options(num_cpus=1, max_retries=0)
        ray.get([self._task.remote(key, 1.0) for key in range(workers)])  # the processes are there from now on

    def begin(self, key: int, seconds: float) -> Any:
        return self._task.remote(key, seconds)

    def ended(self, key: int) -> None:
        """Nothing to do: Ray knows which process is free."""


class _Actors:
    """Simulated drives in processes that hold several workers each; a drive goes to the one that has the fewest."""

    def __init__(self, workers: int) -> None:
        actor: Any = ray.remote(SimulatedNode).options(num_cpus=0, max_concurrency=WORKERS_PER_PROCESS)
        self._nodes: list[Any] = [actor.remote() for _ in range(-(-workers // WORKERS_PER_PROCESS))]
        self._load = [0] * len(self._nodes)
        self._node_of: dict[int, int] = {}
        ray.get([node.ready.remote() for node in self._nodes])

    def begin(self, key: int, seconds: float) -> Any:
        number = self._load.index(min(self._load))
        self._load[number] += 1
        self._node_of[key] = number
        return self._nodes[number].drive.remote(key, seconds)

    def ended(self, key: int) -> None:
        self._load[self._node_of.pop(key)] -= 1


def _bare_rate(paths: list[str], service: ServiceConfig, threads: int) -> float:
    """Frames a second of one drive after the other in this process; the median of the drives."""
    engine = LocalEngine(open_model(service.model), threads=threads)
    rates = []
    for path in paths:
        source = open_drive(path)
        began = time.perf_counter()
        summary = run_drive(source, engine, service, run_id="bare", on_result=lambda _: None, options=ReplayOptions())
        rates.append(summary.end.count / (time.perf_counter() - began))
    return round(statistics.median(rates), 2)


def _resident_mb() -> float:
    """Memory of this process now, from /proc where there is one, else its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
