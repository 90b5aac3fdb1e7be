"""The long-running service: several vehicles, one engine, and the account that is kept of them."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from perception.config.schema import ServiceConfig
from perception.config.serving import ServeConfig, TraceConfig
from perception.core.clock import SystemClock
from perception.core.errors import UsageError
from perception.core.ports import ResultQueue
from perception.core.stages import ModelInfo
from perception.pipeline.resuming import Resuming
from perception.pipeline.run_state import RunFolder
from perception.queues.broker_queue import BrokerQueue
from perception.queues.open import open_queue
from perception.runtime.metrics import Depths, ServiceMetrics
from perception.runtime.service_engine import NotNowError
from perception.runtime.service_log import ServiceLog, log
from perception.runtime.service_otel import OtelTraces
from perception.runtime.service_pools import pool_starter
from perception.runtime.service_sources import open_source
from perception.runtime.service_spans import SpanWatcher
from perception.runtime.service_tiers import SharedTiers, Tier
from perception.runtime.service_trace import ChromeTrace
from perception.runtime.service_vehicle import IDLE, Vehicle, VehicleStatus
from perception.runtime.service_watch import VehicleState, Watcher, Watchers


class UnknownVehicleError(UsageError):
    """There is no vehicle of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatus:
    """What `/status` says. ready: results can be made; reasons: why not. model: None until it is loaded.

    small_model: that of the ladder of degradations, None where it has none.
    """

    ready: bool
    reasons: tuple[str, ...]
    draining: bool
    model: ModelInfo | None
    small_model: ModelInfo | None = None
    placement: str | None
    engines_started: int
    vehicles: tuple[VehicleStatus, ...]


class Service:
    """Runs the vehicles of `config` from `run` to `shut_down`. All methods but `run` may be called by any thread."""

    def __init__(self, config: ServeConfig, *, address: str | None = None, engine: SharedTiers | None = None) -> None:
        """engine: one that is open already (`open_tiers`). Raises ConfigError where a trace cannot be written."""
        self.config = config
        self.metrics = ServiceMetrics()
        self._address = address
        self._given = engine
        self._watcher: Watcher = Watchers([self.metrics, ServiceLog(), *_traces(config.traces)])
        self._ends = threading.Event()
        self._engine: SharedTiers | None = None
        self._vehicles: dict[str, Vehicle] = {}
        self.metrics.watch_depths(self._depths)
        self.metrics.watch_engine(lambda: None if self._engine is None else self._engine.supervision())

    def run(self, on_ready: Callable[[], None] = lambda: None) -> bool:
        """Serve until `shut_down`; then publish what is under way, end the runs and close the queues.

        on_ready: called once the model is loaded and the vehicles were started. Whether everything was drained in time.
        Raises ModelError and EngineError where the model cannot be loaded, UsageError where `resume` cannot be used.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._watcher.close)
            folders = self._open_folders(stack)
            engine = self._given or stack.enter_context(open_tiers(self.config.service, address=self._address))
            if self._ends.is_set():  # while it was loaded
                return True
            self._begin(engine, folders)
            on_ready()
            self._ends.wait()
            return self._drain_all()

    def shut_down(self) -> None:
        """Have `run` end in order; returns at once."""
        self._ends.set()

    @property
    def status(self) -> ServiceStatus:
        engine = self._engine
        models = {} if engine is None else engine.models
        vehicles = tuple(vehicle.status for vehicle in self._vehicles.values())
        reasons = tuple(self._reasons(engine, vehicles))
        return ServiceStatus(
            ready=not reasons,
            reasons=reasons,
            draining=self._ends.is_set(),
            model=models.get("full"),
            small_model=models.get("small"),
            placement=engine.placement if engine is not None else None,
            engines_started=engine.loads if engine is not None else 0,
            vehicles=vehicles,
        )

    def vehicle(self, name: str) -> Vehicle:
        """Raises UnknownVehicleError, and NotNowError while the model is still being loaded."""
        known = [vehicle.name for vehicle in self.config.vehicles]
        if name not in known:
            raise UnknownVehicleError(f"no vehicle {name!r}; there are {', '.join(known)}")
        if name not in self._vehicles:
            raise NotNowError("the model is still being loaded")
        return self._vehicles[name]

    def start_vehicle(self, name: str) -> bool:
        """Whether it had to be started. Raises what `vehicle` does, and NotNowError while the service ends."""
        vehicle = self.vehicle(name)
        if self._ends.is_set():
            raise NotNowError("the service is ending; nothing is started any more")
        return vehicle.start()

    def replace_model(self, name: str, tier: Tier = "full") -> tuple[ModelInfo, ModelInfo]:
        """Let another model, or the same one read anew, take over between two frames; the old one and the new one.

        Raises ModelError or EngineError where it cannot be loaded: then the old one goes on. NotNowError while another
        one is being loaded, UsageError for the small model of a service that has none.
        """
        engine = self._engine
        if engine is None:
            raise NotNowError("the model is still being loaded")
        if self._ends.is_set():
            raise NotNowError("the service is ending; no model is loaded any more")
        old, new = engine.replace_model(name, tier, timeout_s=self.config.service.runtime.result_timeout_s)
        self._watcher.model(new, engine.placement, tier)
        return old, new

    def _open_folders(self, stack: contextlib.ExitStack) -> dict[str, RunFolder]:
        """Where each vehicle keeps its runs, locked against other services until `stack` ends."""
        root = self.config.resume
        if root is None:
            return {}
        names = [vehicle.name for vehicle in self.config.vehicles]
        return {name: stack.enter_context(contextlib.closing(RunFolder(root / name))) for name in names}

    def _begin(self, engine: SharedTiers, folders: Mapping[str, RunFolder]) -> None:
        self._engine = engine
        for tier, model in engine.models.items():
            self._watcher.model(model, engine.placement, tier)
        for vehicle in self.config.vehicles:
            settings = self.config.service_of(vehicle)
            self._vehicles[vehicle.name] = Vehicle(
                vehicle,
                settings,
                self.config.reconnect,
                engine,
                self._watcher,
                open_source=open_source,
                open_queue=_open_queue,
                resuming=_resuming(folders.get(vehicle.name), settings),
            )
        for vehicle in self.config.vehicles:
            if vehicle.start:
                self._vehicles[vehicle.name].start()

    def _drain_all(self) -> bool:
        log(logging.INFO, "service is draining")
        for vehicle in self._vehicles.values():
            vehicle.stop()
        late = [name for name, one in self._vehicles.items() if not one.drain(self.config.drain_s)]
        for name in late:
            log(logging.ERROR, f"vehicle was not drained within {self.config.drain_s:g} s", vehicle=name)
        log(logging.INFO, "service ended", drained=not late)
        return not late

    def _reasons(self, engine: SharedTiers | None, vehicles: Sequence[VehicleStatus]) -> Iterator[str]:
        if self._ends.is_set():
            yield "the service is ending"
        if engine is None:
            yield "the model is being loaded"
        elif engine.is_broken:
            yield "the engine broke and is not mended yet"
        else:
            wanted = [vehicle for vehicle in vehicles if vehicle.state not in IDLE]
            if wanted and all(vehicle.state is not VehicleState.RUNNING for vehicle in wanted):
                yield "no vehicle is running: " + ", ".join(f"{one.name} is {one.state}" for one in wanted)

    def _depths(self) -> Mapping[str, Depths]:
        return {
            name: Depths(frames=vehicle.status.frames_under_way, waiting=_waiting(vehicle.queue))
            for name, vehicle in self._vehicles.items()
        }


@contextlib.contextmanager
def open_tiers(config: ServiceConfig, *, address: str | None = None) -> Iterator[SharedTiers]:
    """The engine that all vehicles share, with Ray around it where it needs one, for the length of a `with` block.

    Raises ModelError for an unknown or unfit model, EngineError where Ray or its actors do not start.
    """
    with (
        pool_starter(config.runtime, address=address) as start,
        contextlib.closing(SharedTiers(start, config)) as tiers,
    ):
        yield tiers


def _traces(config: TraceConfig) -> list[Watcher]:
    watchers: list[Watcher] = []
    if config.file is not None:
        trace = ChromeTrace(config.file, max_bytes=round(config.max_mb * 1e6))
        watchers.append(SpanWatcher(trace.write, trace.close))
    if config.otlp_endpoint is not None:
        otel = OtelTraces(config.otlp_endpoint)
        watchers.append(SpanWatcher(otel.write, otel.close))
    return watchers


def _resuming(folder: RunFolder | None, settings: ServiceConfig) -> Resuming | None:
    if folder is None:
        return None
    return Resuming(folder=folder, within_s=settings.runtime.resume_within_s, clock=SystemClock(), replaces=True)


def _open_queue(settings: ServiceConfig) -> ResultQueue:
    return open_queue(settings.queue.url, settings.queue)


def _waiting(queue: ResultQueue | None) -> int | None:
    return queue.state.waiting if isinstance(queue, BrokerQueue) else None
