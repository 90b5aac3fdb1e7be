"""A drive made worse: sensors missing, frames dropped, data stale, mounts knocked out of place.

Weather is not here: fog, night and rain are scenarios of the simulator.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import rotation_exp, se3
from perception.core.labels import Labels
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan, SensorMessage
from perception.core.ports import Source
from perception.core.rig import Modality, SensorRig

F64 = NDArray[np.float64]
Chosen = Callable[[AnyMessage], bool]

ALL: Final = frozenset(Modality)
KNOCKED: Final = frozenset({Modality.CAMERA, Modality.LIDAR})
"""Whose mounts are disturbed: a radar's few degrees are within what it measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """What is wrong with a drive; the defaults leave it as it is.

    modalities: those that are heard at all. lost: names of sensors that are not. drop_probability: for each sensor
    message, not to arrive. stale: the modalities to which the next two apply. delay_ns: their messages arrive so much
    later, with their true capture time. frozen_ns: they show what they saw this long before, under a fresh capture
    time. extrinsic_rad: cameras and lidars sit turned by this angle, each about its own random axis, and the rig does
    not know.
    """

    name: str
    modalities: frozenset[Modality] = ALL
    lost: frozenset[str] = frozenset()
    drop_probability: float = 0.0
    stale: frozenset[Modality] = ALL
    delay_ns: int = 0
    frozen_ns: int = 0
    extrinsic_rad: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.drop_probability <= 1:
            raise ValueError(f"{self.name}: drop_probability must be in 0..1, got {self.drop_probability}")
        if self.delay_ns < 0 or self.frozen_ns < 0:
            raise ValueError(f"{self.name}: delay_ns and frozen_ns must not be negative")


class DegradedSource:
    """`source` with a `Degradation`; labels stay as they are. Each lap has the same losses.

    The rig keeps every sensor, as that of a car does whose sensors fail. Raises ValueError where a lost sensor is not
    in the rig.
    """

    def __init__(self, source: Source, degradation: Degradation, rng: np.random.Generator) -> None:
        if unknown := sorted(name for name in degradation.lost if name not in source.rig):
            names = ", ".join(sensor.name for sensor in source.rig.sensors)
            raise ValueError(f"{degradation.name}: {unknown[0]} is not in the rig; it has {names}")
        self._source = source
        self._degradation = degradation
        self._turns = _random_turns(source.rig, degradation.extrinsic_rad, rng)
        self._rig = _knocked_rig(source.rig, self._turns)
        self._seed = int(rng.integers(2**62))

    @property
    def drive_id(self) -> str:
        return self._source.drive_id

    @property
    def rig(self) -> SensorRig:
        return self._rig

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._source.notes, f"degraded: {self._degradation.name}")

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Not known where messages are lost or late."""
        return None

    @property
    def label_times_ns(self) -> tuple[int, ...]:
        return self._source.label_times_ns

    def messages(self) -> Iterator[AnyMessage]:
        wrong = self._degradation
        kept = self._heard(self._source.messages(), np.random.default_rng(self._seed))
        frozen = _frozen(kept, self._is_stale, wrong.frozen_ns) if wrong.frozen_ns else kept
        return _delayed(frozen, self._is_stale, wrong.delay_ns) if wrong.delay_ns else frozen

    def labels(self, reference_ns: int) -> Labels | None:
        return self._source.labels(reference_ns)

    def close(self) -> None:
        self._source.close()

    def _heard(self, messages: Iterable[AnyMessage], rng: np.random.Generator) -> Iterator[AnyMessage]:
        wrong = self._degradation
        for message in messages:
            if message.sensor not in self._rig:
                yield message
                continue
            is_dropped = rng.random() < wrong.drop_probability
            is_deaf = message.sensor in wrong.lost or self._rig[message.sensor].modality not in wrong.modalities
            if not is_dropped and not is_deaf:
                yield self._knocked(message)

    def _knocked(self, message: AnyMessage) -> AnyMessage:
        """Images that bring their own mount are disturbed as the rig is."""
        if not isinstance(message, CameraFrame) or message.ego_SE3_sensor is None or message.sensor not in self._turns:
            return message
        return replace(message, ego_SE3_sensor=message.ego_SE3_sensor @ self._turns[message.sensor])

    def _is_stale(self, message: AnyMessage) -> bool:
        return message.sensor in self._rig and self._rig[message.sensor].modality in self._degradation.stale


def one_camera(rig: SensorRig, rng: np.random.Generator) -> frozenset[str]:
    """The name of a random camera; none where the rig has none."""
    cameras = rig.of(Modality.CAMERA)
    return frozenset({cameras[int(rng.integers(len(cameras)))].name}) if cameras else frozenset()


def _random_turns(rig: SensorRig, angle_rad: float, rng: np.random.Generator) -> dict[str, F64]:
    """true_SE3_told by sensor: how far the mount that the rig tells is turned from the true one."""
    if not angle_rad:
        return {}
    turns = {}
    for sensor in rig.sensors:
        if sensor.modality in KNOCKED:
            axis = rng.normal(size=3)
            turns[sensor.name] = se3(rotation_exp(axis / np.linalg.norm(axis) * angle_rad))
    return turns


def _knocked_rig(rig: SensorRig, turns: dict[str, F64]) -> SensorRig:
    """The rig that the service is told: data come from the true mounts, so what it is told is turned instead."""
    sensors = [
        replace(sensor, ego_SE3_sensor=sensor.ego_SE3_sensor @ turns[sensor.name]) if sensor.name in turns else sensor
        for sensor in rig.sensors
    ]
    return SensorRig(sensors=tuple(sensors))


def _delayed(messages: Iterable[AnyMessage], is_stale: Chosen, delay_ns: int) -> Iterator[AnyMessage]:
    """Stale messages arrive later; all are put back in the order of their arrival."""
    waiting: list[tuple[int, int, AnyMessage]] = []
    for number, message in enumerate(messages):
        while waiting and waiting[0][0] <= message.arrival_ns:
            yield heapq.heappop(waiting)[2]
        if is_stale(message):
            late = replace(message, arrival_ns=message.arrival_ns + delay_ns)
            heapq.heappush(waiting, (late.arrival_ns, number, late))
        else:
            yield message
    while waiting:
        yield heapq.heappop(waiting)[2]


def _frozen(messages: Iterable[AnyMessage], is_stale: Chosen, frozen_ns: int) -> Iterator[AnyMessage]:
    """Stale sensors show the newest of what they saw at least `frozen_ns` before; until there is such, their oldest."""
    seen: dict[str, deque[SensorMessage]] = {}
    for message in messages:
        if not isinstance(message, CameraFrame | LidarSweep | RadarScan) or not is_stale(message):
            yield message
            continue
        past = seen.setdefault(message.sensor, deque())
        past.append(message)
        while len(past) > 1 and past[1].capture_ns <= message.capture_ns - frozen_ns:
            past.popleft()
        yield replace(past[0], capture_ns=message.capture_ns, arrival_ns=message.arrival_ns)
