"""When each sensor captures and when its message arrives: rates, phases, jitter and transport, by seed alone."""

import heapq
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from perception.core.messages import EGO_SENSOR, ROUTE_SENSOR
from sim.rig import LidarConfig, RigSpec, TimingConfig

_MAX_JITTER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Event:
    """One message to come. sequence: counts the sensor's captures from 0."""

    arrival_ns: int
    sensor: str
    sequence: int
    capture_ns: int


def schedule(rig: RigSpec, start_ns: int, end_ns: int, seed: int, *, every: int = 1) -> Iterator[Event]:
    """Captures from `start_ns` up to `end_ns` (exclusive) of all sensors, of `ego` and of `route`, by arrival.

    A lidar's first capture is the end of the first whole sweep. Arrivals keep the order of captures for each sensor;
    the same rig and seed give the same events. every: only captures of the rig's sensors that belong to every n-th
    turn of the first lidar (without one: to every n-th capture of the first sensor).
    """
    timings = {sensor.name: sensor.timing for sensor in rig.sensors}
    whole = {sensor.name for sensor in rig.sensors if isinstance(sensor, LidarConfig)}
    streams = [
        _events(name, timing, start_ns, end_ns, seed, name in whole)
        for name, timing in {**timings, EGO_SENSOR: rig.ego.timing, ROUTE_SENSOR: rig.route}.items()
    ]
    merged = heapq.merge(*streams)
    return merged if every == 1 else _thinned(merged, rig, start_ns, every)


def _thinned(events: Iterator[Event], rig: RigSpec, start_ns: int, every: int) -> Iterator[Event]:
    first = next((sensor for sensor in rig.sensors if isinstance(sensor, LidarConfig)), rig.sensors[0])
    offset_ns = {sensor.name: sensor.offset_ns for sensor in rig.sensor_rig.sensors}
    begin = start_ns + first.timing.phase_ms * 1e6
    for event in events:
        if event.sensor in offset_ns:
            turn = round((event.capture_ns - offset_ns[event.sensor] - begin) * first.timing.rate_hz / 1e9)
            if turn % every:
                continue
        yield event


def event_rng(seed: int, sensor: str, sequence: int) -> np.random.Generator:
    """Randomness of one capture: the same in whatever order or thread sensors are rendered."""
    return np.random.default_rng([seed, zlib.crc32(sensor.encode()), sequence])


def _events(
    name: str, timing: TimingConfig, start_ns: int, end_ns: int, seed: int, needs_sweep: bool
) -> Iterator[Event]:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), 0x71])
    period = 1e9 / timing.rate_hz
    first = timing.phase_ms * 1e6
    if needs_sweep:
        # Room for the turn before it, and for jitter that comes early.
        first += np.ceil((period + _MAX_JITTER * timing.jitter_ms * 1e6 - first) / period) * period
    elif first < _MAX_JITTER * timing.jitter_ms * 1e6:
        first += period
    last_arrival, sequence = start_ns, 0
    while True:
        jitter = float(np.clip(rng.standard_normal(), -_MAX_JITTER, _MAX_JITTER)) * timing.jitter_ms * 1e6
        late = timing.delay_ms * 1e6 + float(rng.exponential(1.0)) * timing.delay_jitter_ms * 1e6
        capture = start_ns + round(first + sequence * period + jitter)
        if capture >= end_ns:
            return
        last_arrival = max(last_arrival + 1, capture + round(late))
        yield Event(arrival_ns=last_arrival, sensor=name, sequence=sequence, capture_ns=capture)
        sequence += 1
