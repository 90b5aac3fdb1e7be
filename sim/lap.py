"""One lap of a scenario: a world, its sensors, the ego's driver and the faults, as a stream of messages."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from perception.core.labels import Labels
from perception.core.messages import EGO_SENSOR, ROUTE_SENSOR, AnyMessage, LidarSweep, RadarScan
from perception.core.rig import SensorRig
from sim.driven_world import DrivenWorld
from sim.faults import FaultInjector
from sim.navigation import route_command
from sim.rig import RigSpec
from sim.scenario import ScenarioConfig
from sim.sensors.schedule import Event, schedule
from sim.sensors.suite import SensorSuite
from sim.truth import Boxes, labels_at
from sim.visibility import eye_of, visible_share

LOOK_AHEAD_NS = 200_000_000
"""Captures that arrive within this time are rendered together once they lie in the past."""
MEMORY_NS = 2_000_000_000
"""Labels can be asked for so long after their time."""
WEATHER_STREAM = 5


class Lap:
    """Streams a world through a rig.

    advance: makes the world known up to a time, the ego's driving included. ahead_ns: how far the world may run ahead
    of the messages; nothing where somebody steers.
    """

    def __init__(
        self,
        world: DrivenWorld,
        advance: Callable[[int], None],
        scenario: ScenarioConfig,
        rig: RigSpec,
        threads: int,
        ahead_ns: int = 0,
    ) -> None:
        self.world = world
        self.now_ns = 0
        self._advance = advance
        self._ahead_ns = ahead_ns
        self._rig: SensorRig = rig.sensor_rig
        weather = scenario.weather.resolve(np.random.default_rng([scenario.seed, WEATHER_STREAM]))
        self.suite = SensorSuite(rig, world, weather, scenario.seed, threads=threads)
        self._faults = FaultInjector(scenario.fault_plan, self._rig, start_ns=0, seed=scenario.seed)
        end_ns = round(scenario.duration_s * 1e9)
        self._events = schedule(rig, 0, end_ns, scenario.seed, every=scenario.keep_every)
        self._coming: deque[Event] = deque()
        self._rendered: dict[Event, AnyMessage] = {}
        self._captured: dict[int, None] = {}
        self._ranged: deque[LidarSweep | RadarScan] = deque()

    def messages(self) -> Iterator[AnyMessage]:
        """Messages in arrival order. Without `ahead_ns` the world never runs ahead of the message that comes next."""
        waiting: list[tuple[int, int, AnyMessage]] = []
        count = itertools.count()
        while (event := self._next_event()) is not None:
            while waiting and waiting[0][0] <= event.arrival_ns:
                yield self._out(heapq.heappop(waiting))
            for message in self._faults.strike(self._render(event)):
                heapq.heappush(waiting, (message.arrival_ns, next(count), message))
        while waiting:
            yield self._out(heapq.heappop(waiting))

    def labels(self, reference_ns: int) -> Labels | None:
        """Truth at the capture time of a message of this lap, while it is remembered.

        Counted are the newest sweep of each lidar and scan of each radar up to then, as captured: faults come later.
        """
        if reference_ns not in self._captured:
            return None
        newest: dict[str, LidarSweep | RadarScan] = {}
        for message in self._ranged:
            if message.capture_ns <= reference_ns:
                newest[message.sensor] = message
        sweeps = [message for message in newest.values() if isinstance(message, LidarSweep)]
        scans = [message for message in newest.values() if isinstance(message, RadarScan)]
        return labels_at(self.world, reference_ns, self._rig, sweeps, scans, look=self._look)

    def close(self) -> None:
        self.suite.close()
        self.world.close()

    def _look(self, boxes: Boxes) -> NDArray[np.float64]:
        return visible_share(self.world, self.suite.caster, boxes, eye_of(self._rig))

    def _out(self, waiting: tuple[int, int, AnyMessage]) -> AnyMessage:
        self.now_ns = waiting[0]
        return waiting[2]

    def _next_event(self) -> Event | None:
        if not self._coming:
            self._look_ahead(0)
        return self._coming.popleft() if self._coming else None

    def _look_ahead(self, until_ns: int) -> None:
        while not self._coming or self._coming[-1].arrival_ns < until_ns:
            event = next(self._events, None)
            if event is None:
                return
            self._coming.append(event)

    def _render(self, event: Event) -> AnyMessage:
        """The message of an event. Sensors that cost time are rendered together, as many as may be known by then."""
        if (done := self._rendered.pop(event, None)) is not None:
            return done
        self._advance(event.arrival_ns)
        if event.sensor == ROUTE_SENSOR:
            return route_command(self.world, event.capture_ns, event.arrival_ns)
        if event.sensor == EGO_SENSOR:
            return self.suite.capture(event)
        known_ns = event.arrival_ns + self._ahead_ns
        self._look_ahead(known_ns + LOOK_AHEAD_NS)
        batch = [event, *(e for e in self._coming if e.capture_ns <= known_ns and self._is_to_render(e))]
        self._advance(max(e.capture_ns for e in batch))
        for done_event, message in zip(batch, self.suite.capture_all(batch), strict=True):
            self._rendered[done_event] = message
            self._remember(message)
        return self._rendered.pop(event)

    def _is_to_render(self, event: Event) -> bool:
        return event.sensor not in (EGO_SENSOR, ROUTE_SENSOR) and event not in self._rendered

    def _remember(self, message: AnyMessage) -> None:
        self._captured[message.capture_ns] = None
        if isinstance(message, LidarSweep | RadarScan):
            self._ranged.append(message)
        oldest = message.capture_ns - MEMORY_NS
        while self._ranged and self._ranged[0].capture_ns < oldest:
            self._ranged.popleft()
        while (first := next(iter(self._captured))) < oldest:
            del self._captured[first]
