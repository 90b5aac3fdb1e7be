"""Live operation, measured: the service beside a bare loop and a dora-rs dataflow, on one drive, in one run."""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from perception.config.schema import ModelChoice, QueueConfig, RuntimeConfig, ServiceConfig
from perception.core.errors import EngineError
from perception.core.ports import Engine, Source
from perception.pipeline.stages import Stages, open_model
from perception.runtime.bench_live_bare import PlainFrame, run_bare
from perception.runtime.bench_live_dora import DoraPlan, run_dora, why_no_dora
from perception.runtime.bench_live_drive import EndlessDrive, plan_frames, render
from perception.runtime.bench_live_run import F64, LiveRun, account, capacity_hz, run_live, spread
from perception.runtime.bench_live_watch import DeferredEngine
from perception.runtime.engines import choose_placement, open_engine
from perception.runtime.process_memory import MemorySampler

Tell = Callable[[str], None]
WARM_FRAMES = 5
"""Of each measurement the first frames are left out: caches, allocators and connections are cold."""
SLOWER = 0.8
"""Where a rate is not sustained this much of it is tried next."""
LEAST_HZ = 0.5
MEMORY_SAMPLES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePlan:
    """seconds: of the long run. compared_s: of each run of the comparison, of which there are `rounds` in turn.

    hz: the rate to reach. trial_s: of each run that looks for the rate or the capacity. threads: of torch in each
    process that runs the model; 0: all cores.
    """

    seconds: float = 600.0
    compared_s: float = 30.0
    rounds: int = 3
    trial_s: float = 10.0
    hz: float = 10.0
    threads: int = 0
    placement: Literal["auto", "local", "colocated", "split"] = "auto"
    model: str = "tiny"

    @property
    def config(self) -> ServiceConfig:
        return ServiceConfig(
            model=ModelChoice(name=self.model),
            runtime=RuntimeConfig(placement=self.placement, threads=self.threads),
            queue=QueueConfig(linger_s=0.5),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stand:
    """What live benchmarks share: the drive, in memory and on disk, the engine under test, and its configuration."""

    drive: EndlessDrive
    folder: Path
    engine: Engine
    config: ServiceConfig
    capacity_hz: float
    tell: Tell

    def run(self, hz: float, seconds: float, engine: Engine | None = None) -> LiveRun:
        key = f"perception/bench/{secrets.token_hex(4)}"
        return run_live(self.drive, engine or self.engine, self.config, key=key, hz=hz, seconds=seconds)

    def about(self) -> dict[str, Any]:
        return {
            "drive": self.drive.source_id,
            "placement": choose_placement(self.config.runtime),
            "threads": self.config.runtime.threads or os.cpu_count(),
            "cores": os.cpu_count(),
            "model": self.engine.model.name,
            "capacity_hz": round(self.capacity_hz, 2),
        }


@contextmanager
def open_stand(source: Source, plan: LivePlan, tell: Tell) -> Iterator[Stand]:
    """Render the drive, start the engine, warm it up, and measure how many frames a second it can do."""
    config = plan.config
    with tempfile.TemporaryDirectory(prefix="perception-bench-") as temporary:
        folder = Path(temporary)
        tell(f"rendering {source.drive_id}")
        render(source, folder)
        drive = EndlessDrive.load(folder)
        with open_engine(config) as engine:
            tell("warming up, and looking for the capacity")
            capacity_hz(drive, engine, config, seconds=plan.trial_s / 2)
            capacity = capacity_hz(drive, engine, config, seconds=plan.trial_s)
            yield Stand(drive=drive, folder=folder, engine=engine, config=config, capacity_hz=capacity, tell=tell)


def bench_live(source: Source, plan: LivePlan, tell: Tell) -> dict[str, Any]:
    """The latency of the service by stage over a long run, and beside it, in turn and more shortly, what else there is.

    Raises what opening engines and queues raises.
    """
    with open_stand(source, plan, tell) as stand:
        hz, tried = sustained_hz(stand, plan)
        figures = stand.about() | {"wanted_hz": plan.hz, "hz": hz, "rates_tried": tried}
        figures["compared"] = compare(stand, plan, hz)
        tell(f"the long run: {plan.seconds:.0f} s at {hz:g} Hz")
        with MemorySampler(every_s=max(0.2, plan.seconds / MEMORY_SAMPLES)) as memory:
            run = stand.run(hz, plan.seconds)
        figures["service"] = describe(run) | {"growth": growth(run), "memory_mb": quarters_mb(memory.samples)}
        return figures


def sustained_hz(stand: Stand, plan: LivePlan) -> tuple[float, list[dict[str, Any]]]:
    """The highest rate, down from the wanted one, at which no frame is dropped and latency does not grow."""
    hz = plan.hz
    while hz > stand.capacity_hz and hz * SLOWER > LEAST_HZ:
        hz *= SLOWER
    tried = []
    while True:
        hz = round(hz, 2)
        stand.tell(f"trying {hz:g} Hz")
        run = stand.run(hz, plan.trial_s)
        dropped = run.summary.dropped["overload"] + run.summary.dropped["unread"]
        tried.append({"hz": hz, "dropped": dropped, "latency_ms": spread(run.stages_ms["latency"][WARM_FRAMES:])})
        if not dropped or hz * SLOWER < LEAST_HZ:
            return hz, tried
        hz *= SLOWER


def compare(stand: Stand, plan: LivePlan, hz: float) -> dict[str, Any]:
    """The same drive at the same rate in turn: the service, encoding only when a bundle is complete, bare, dora-rs."""
    no_dora = why_no_dora()
    bare = _Bare(stand, plan, hz)
    overhead: dict[str, list[F64]] = {}
    latency: dict[str, list[F64]] = {}
    model: dict[str, list[F64]] = {}

    def note(name: str, latency_ms: F64, model_ms: F64) -> None:
        latency.setdefault(name, []).append(latency_ms[WARM_FRAMES:])
        model.setdefault(name, []).append(model_ms[WARM_FRAMES:])
        overhead.setdefault(name, []).append((latency_ms - model_ms)[WARM_FRAMES:])

    received: dict[str, list[int]] = {}
    for turn in range(plan.rounds):
        stand.tell(f"comparison, round {turn + 1} of {plan.rounds}")
        for name, engine in (("service", stand.engine), ("service, deferred", DeferredEngine(stand.engine))):
            run = stand.run(hz, plan.compared_s, engine)
            note(name, run.stages_ms["latency"], run.stages_ms["model"])
            received.setdefault(name, []).append(run.received)
        frames = bare.run()
        note("bare", _ms([one.done_ns - one.due_ns for one in frames]), _ms([one.model_ns for one in frames]))
        received.setdefault("bare", []).append(len(frames))
        if no_dora is None:
            try:
                came = run_dora(bare.dora)
            except EngineError as error:
                no_dora = str(error)
                continue
            note("dora-rs", _ms([one.decoded_ns - one.due_ns for one in came]), _ms([one.model_ns for one in came]))
            received.setdefault("dora-rs", []).append(len(came))
    ways: dict[str, Any] = {
        name: {
            "latency_ms": spread(np.concatenate(latency[name])),
            "model_ms": spread(np.concatenate(model[name])),
            "overhead_ms": spread(np.concatenate(overhead[name])),
            "frames": received[name],
        }
        for name in latency
    }
    if no_dora is not None:
        ways["dora-rs"] = {"left_out": no_dora}
    return {"hz": hz, "seconds": plan.compared_s, "planned_frames": bare.planned, "ways": ways}


class _Bare:
    """The bare loop, ready to run at a rate; its model is its own and is warm."""

    def __init__(self, stand: Stand, plan: LivePlan, hz: float) -> None:
        self._rate = hz / stand.drive.frame_hz
        self._rig = stand.drive.rig
        self._messages = stand.drive.part(plan.compared_s * self._rate)
        self._plan = plan_frames(self._rig, self._messages, stand.config.sync)
        self._stages = Stages(open_model(stand.config.model))
        self._threads = plan.threads or os.cpu_count() or 1
        self.planned = len(self._plan)
        self.dora = DoraPlan(
            folder=str(stand.folder),
            rate=self._rate,
            seconds=plan.compared_s,
            model=plan.model,
            threads=self._threads,
        )
        warm = self._plan[:WARM_FRAMES]
        torch.set_num_threads(self._threads)
        run_bare(self._rig, self._messages[: warm[-1].closed_by + 1], warm, self._stages, rate=float("inf"))

    def run(self) -> list[PlainFrame]:
        torch.set_num_threads(self._threads)
        return run_bare(self._rig, self._messages, self._plan, self._stages, rate=self._rate)


def describe(run: LiveRun) -> dict[str, Any]:
    """Spread of each stage, and the account."""
    stages = {name: spread(values[WARM_FRAMES:]) for name, values in run.stages_ms.items()}
    whole = {f"{name}_ms": stages.pop(name) for name in ("latency", "model", "overhead")}
    return {"hz": run.hz, **whole, "stages_ms": stages, "account": account(run)}


def growth(run: LiveRun) -> dict[str, Any]:
    """Latency and overhead in the first and in the last quarter of the results."""
    quarters: dict[str, Any] = {}
    for name in ("latency", "overhead"):
        values = run.stages_ms[name][WARM_FRAMES:]
        size = max(1, len(values) // 4)
        quarters[f"{name}_ms"] = {"first_quarter": spread(values[:size]), "last_quarter": spread(values[-size:])}
    return quarters


def quarters_mb(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Mean private memory of all processes in each quarter of the samples; nothing where there are fewer than four."""
    if len(samples) < 4:
        return {}
    values = np.array([value for _, value in samples])
    return {f"quarter_{i + 1}": round(float(part.mean()), 1) for i, part in enumerate(np.array_split(values, 4))}


def _ms(values_ns: list[int]) -> F64:
    return np.array(values_ns, dtype=np.float64) / 1e6
