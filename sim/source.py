"""The simulator as a source of messages: open loop, or a closed loop that acts on the service's results."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import UsageError
from perception.core.labels import Labels
from perception.core.messages import AnyMessage
from perception.core.ports import Source
from perception.core.results import PerceptionResult
from perception.core.rig import SensorRig
from sim.driven_world import DrivenWorld
from sim.drivers import make_driver
from sim.faults import FaultInjector
from sim.lap import Lap
from sim.logged_world import LoggedWorld, read_scenario
from sim.loop import EgoLoop, is_off_road
from sim.maps.area import drivable_grid
from sim.maps.catalog import load_map
from sim.rig import LidarConfig, load_rig, without_cameras
from sim.rig_variation import vary_rig
from sim.scenario import ScenarioConfig, load_scenario
from sim.score import RouteScore, ScoreKeeper
from sim.sensors.schedule import schedule
from sim.situation import Situation
from sim.traffic import require_sumo
from sim.truth import drivable_raster, future_path, line_ahead
from sim.world import World
from sim.world_log import LogTap

PREFIX = "sim:"
LOG_SUFFIX = ".wlog"
OPEN_LOOP_AHEAD_NS = 100_000_000
"""Nobody steers: sensors of the next tenth of a second are rendered side by side."""
RIG_STREAM = 6
ROUTE_BEHIND_M, ROUTE_AHEAD_M = 10.0, 80.0


class SimulatorSource:
    """A scenario in the open loop: traffic drives the ego, or a world log says how it drove.

    threads: sensors rendered side by side. log: where to write the states of the first lap. replay: a world log whose
    drive is rendered again; the scenario's map, seed and traffic are then the log's.
    Raises ConfigError where the scenario, its map, its rig or its faults make no sense, or SUMO is not installed.
    """

    def __init__(
        self,
        scenario: ScenarioConfig,
        *,
        threads: int = 2,
        log: Path | None = None,
        replay: Path | None = None,
    ) -> None:
        self.scenario = scenario
        variation_rng = np.random.default_rng([scenario.seed, RIG_STREAM])
        spec = vary_rig(load_rig(scenario.rig), scenario.rig_variation, variation_rng)
        self._spec = spec if scenario.cameras else without_cameras(spec)
        self._rig = self._spec.sensor_rig
        FaultInjector(scenario.fault_plan, self._rig, start_ns=0, seed=scenario.seed)
        if replay is None:
            load_map(scenario.map)
            require_sumo()
        self._threads, self._log, self._replay = threads, log, replay
        self._lap: Lap | None = None
        self._tap: LogTap | None = None

    @property
    def drive_id(self) -> str:
        digest = hashlib.sha256(self.scenario.model_dump_json().encode()).hexdigest()[:8]
        return f"sim/{Path(self.scenario.map).name}-{self.scenario.seed}-{digest}"

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        kinds = ", ".join(fault.type for fault in self.scenario.faults) or "none"
        return (f"simulated: {self.scenario.loop} loop, weather {self.scenario.weather.kind}, faults: {kinds}",)

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Not known: faults shift arrivals."""
        return None

    @cached_property
    def label_times_ns(self) -> tuple[int, ...]:
        """Captures of the first lidar, or of the first sensor where there is none."""
        sensors = self._spec.sensors
        first = next((sensor for sensor in sensors if isinstance(sensor, LidarConfig)), sensors[0])
        alone = self._spec.model_copy(update={"sensors": (first,)})
        end_ns, every = round(self.scenario.duration_s * 1e9), self.scenario.keep_every
        events = schedule(alone, 0, end_ns, self.scenario.seed, every=every)
        return tuple(event.capture_ns for event in events if event.sensor == first.name)

    @property
    def lap(self) -> Lap:
        """The lap under way. Raises UsageError before `messages` was called."""
        if self._lap is None:
            raise UsageError("the simulated world begins with messages()")
        return self._lap

    @property
    def world(self) -> DrivenWorld:
        """The world of the lap under way. Raises UsageError before `messages` was called."""
        return self.lap.world

    def messages(self) -> Iterator[AnyMessage]:
        self.close()
        self._lap = self._begin()
        yield from self._lap.messages()

    def labels(self, reference_ns: int) -> Labels | None:
        return self._lap.labels(reference_ns) if self._lap is not None else None

    def drivable(self, reference_ns: int, half_m: float, cell_m: float) -> NDArray[np.bool_]:
        """(H, W) drivable area around the ego, see `truth.drivable_raster`."""
        return drivable_raster(self.world.drivable_at, self.world.ego_at(reference_ns), half_m, cell_m)

    def drivable_map(self, cell_m: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """(H, W) drivable area of the whole map, row 0 at the lowest y, and the world point (2,) where it begins."""
        grid = drivable_grid(load_map(self.scenario.map), cell_m)
        return grid.is_inside, grid.origin_m

    def future_path(self, reference_ns: int, times_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """(W, 2) where the ego went `times_s` (W,) after the reference. Raises ValueError before it went there."""
        return future_path(self.world, reference_ns, times_s)

    def route_line(self, reference_ns: int) -> NDArray[np.float64]:
        """(N, 2) the route's line in the ego frame, from a little behind to what a camera sees ahead."""
        arc = self.world.ego_arc_m(reference_ns)
        stations = np.arange(max(0.0, arc - ROUTE_BEHIND_M), min(self.world.route.length_m, arc + ROUTE_AHEAD_M), 1.0)
        return line_ahead(self.world.route.at(stations), self.world.ego_at(reference_ns))

    def close(self) -> None:
        if self._lap is not None:
            self._lap.close()
        if self._tap is not None:
            self._tap.close()
        self._lap = self._tap = None

    def _begin(self) -> Lap:
        world: DrivenWorld = World(self.scenario.world) if self._replay is None else LoggedWorld(self._replay)
        advance = self._logged(world, world.advance_to)
        return Lap(world, advance, self.scenario, self._spec, self._threads, OPEN_LOOP_AHEAD_NS)

    def _logged(self, world: DrivenWorld, advance: Callable[[int], None]) -> Callable[[int], None]:
        if self._log is None:
            return advance
        tap = self._tap = LogTap(self._log, self.scenario.model_dump(mode="json"), world)

        def advance_and_log(time_ns: int) -> None:
            advance(time_ns)
            tap.write_until(time_ns)

        return advance_and_log


class SteerableSimulator(SimulatorSource):
    """A scenario in the closed loop: its driver acts on what `apply` gives it.

    `lockstep`: a result takes effect at once, in the simulated time at which the message before it arrived. `async`: as
    much later as it took to make, or as the scenario says.
    """

    _loop: EgoLoop | None = None
    _keeper: ScoreKeeper | None = None

    def apply(self, result: PerceptionResult) -> None:
        """Let the driver know a result. Raises UsageError before `messages` was called."""
        if self._loop is None or self._lap is None:
            raise UsageError("results can be applied to a simulated world that runs: iterate messages() first")
        self._loop.hear(result, self._lap.now_ns + self._latency_ns(result))

    def score(self) -> RouteScore:
        """How the ego has driven so far. Raises UsageError before `messages` was called."""
        if self._loop is None or self._keeper is None:
            raise UsageError("nothing was driven yet: iterate messages() first")
        return self._keeper.finish(self._loop.goal_m, self._loop.is_finished)

    def _begin(self) -> Lap:
        world, scenario = World(self.scenario.world), self.scenario
        keeper = self._keeper = ScoreKeeper(self.drive_id, scenario.driver, scenario.seed)

        def watch(situation: Situation) -> None:
            keeper.observe(situation, is_off_road(situation, world.drivable_at))

        self._loop = EgoLoop(world, make_driver(scenario.driver), scenario.start, watch)
        advance = self._logged(world, self._loop.advance_to)
        return Lap(world, advance, scenario, self._spec, self._threads)

    def _latency_ns(self, result: PerceptionResult) -> int:
        if self.scenario.loop == "lockstep":
            return 0
        if self.scenario.latency_ms is not None:
            return round(self.scenario.latency_ms * 1e6)
        stages = result.provenance.stage_latency_ns
        return stages.get("since_last_message", sum(stages.values()))


def open_simulator(
    scenario: ScenarioConfig, *, threads: int = 2, log: Path | None = None
) -> SimulatorSource | SteerableSimulator:
    """The source for a scenario: steerable where its loop is closed."""
    kind = SimulatorSource if scenario.loop == "open" else SteerableSimulator
    return kind(scenario, threads=threads, log=log)


class SimulatorFormat:
    """For `perception.sources`: `sim:` with a scenario's name and settings (`sim:town,seed=3`), or a world log."""

    @staticmethod
    def detect(path: str) -> bool:
        return path.startswith(PREFIX) or (path.endswith(LOG_SUFFIX) and Path(path).is_file())

    @staticmethod
    def open(path: str, options: object) -> Source:
        """Options do not apply: a simulator records its arrivals. Raises ConfigError for an unusable scenario."""
        if not path.startswith(PREFIX):
            return SimulatorSource(read_scenario(Path(path)), replay=Path(path))
        name, *settings = path.removeprefix(PREFIX).split(",")
        return open_simulator(load_scenario(name or None, _settings(settings)))


def _settings(settings: Sequence[str]) -> list[str]:
    if bad := [text for text in settings if "=" not in text]:
        raise UsageError(f"{PREFIX} takes a scenario and settings like seed=3, got {bad[0]!r}")
    return list(settings)
