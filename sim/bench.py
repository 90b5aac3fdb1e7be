"""How fast a scenario is rendered, and where the time goes."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sim.scenario import ScenarioConfig
from sim.sensors.embree import EmbreeCaster, find_library
from sim.sensors.raycast import RAY_CASTERS
from sim.sensors.schedule import event_rng
from sim.source import SimulatorSource

WARM_UP_NS = 2_000_000_000
IN_VIEW_M = 80.0
_REPEATS = 5


def bench_simulator(scenario: ScenarioConfig, *, threads: int) -> dict[str, Any]:
    """Play a scenario without a service: frames per second (of the rig's first sensor) after two simulated seconds.

    cpu_ms: time of each sensor on one thread, the best of a few captures of one moment. ns_per_ray: into the scenery,
    on one thread, with each ray caster that is installed: the first hit, and whether there is any. memory_mb: of this
    process (that of SUMO stands beside it), one figure for each quarter of the drive.
    """
    source = SimulatorSource(scenario, threads=threads)
    pace = source.rig.sensors[0].name
    stamps, actors, memory = list[tuple[int, float]](), list[int](), list[float]()
    begun = time.perf_counter()
    for message in source.messages():
        if message.sensor == pace and message.capture_ns >= WARM_UP_NS:
            stamps.append((message.capture_ns, time.perf_counter()))
            actors.append(_in_view(source, message.capture_ns))
            memory.append(_memory_mb())
    (first_ns, first_s), (last_ns, last_s) = stamps[0], stamps[-1]
    cpu_ms = _cpu_by_sensor(source, last_ns, scenario.seed)
    ns_per_ray = _ns_per_ray(source, last_ns)
    source.close()
    quarters = [len(memory) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    return {
        "scenario": f"{scenario.map}, rig {scenario.rig}, seed {scenario.seed}",
        "threads": threads,
        "frames": len(stamps),
        "frames_per_s": (len(stamps) - 1) / (last_s - first_s),
        "of_real_time": (last_ns - first_ns) / 1e9 / (last_s - first_s),
        "start_s": first_s - begun,
        "actors_in_view": float(np.mean(actors)),
        "cpu_ms": cpu_ms,
        "cpu_ms_per_frame": sum(cpu_ms.values()),
        "ns_per_ray": ns_per_ray,
        "memory_mb": [memory[max(0, place)] for place in quarters],
    }


def _in_view(source: SimulatorSource, time_ns: int) -> int:
    """Actors within `IN_VIEW_M` of the ego."""
    place = source.world.ego_at(time_ns).world_SE3_ego[:2, 3]
    away = source.world.actors_at(time_ns).world_SE3_actor[:, :2, 3] - place
    return int((np.linalg.norm(away, axis=1) < IN_VIEW_M).sum())


def _cpu_by_sensor(source: SimulatorSource, time_ns: int, seed: int) -> dict[str, float]:
    lap = source.lap
    times = {}
    for sensor in source.rig.sensors:
        rng = event_rng(seed, sensor.name, 0)
        capture = partial(lap.suite[sensor.name].capture, lap.world, time_ns, time_ns, rng)
        times[sensor.name] = _best_s(capture) * 1e3
    return times


def _ns_per_ray(source: SimulatorSource, time_ns: int) -> dict[str, dict[str, float]]:
    """By ray caster, for rays that leave the ego's roof in order, all around and from 25 degrees down to 5 up."""
    scenery = source.world.scenery
    azimuth, elevation = np.meshgrid(
        np.linspace(0, 2 * np.pi, 2048), np.radians(np.linspace(-25, 5, 64)), indexing="ij"
    )
    flat = np.cos(elevation)
    direction = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=-1).reshape(-1, 3)
    eye = source.world.ego_at(time_ns).world_SE3_ego[:3, 3] + [0, 0, 1.8]
    rays = np.concatenate([np.broadcast_to(eye, direction.shape), direction], axis=1).astype(np.float32)
    times = {}
    for name, factory in RAY_CASTERS.items():
        if factory is EmbreeCaster and find_library() is None:
            continue
        caster = factory(scenery.vertices_m, scenery.triangles)
        first, other = (_best_s(partial(cast, rays)) for cast in (caster.nearest, caster.is_blocked))
        times[name] = {"first_hit": first * 1e9 / len(rays), "any_hit": other * 1e9 / len(rays)}
    return times


def _best_s(work: Callable[[], object]) -> float:
    """Processor time of this thread for `work`, the best of a few."""
    times = []
    for _ in range(_REPEATS):
        begun = time.thread_time()
        work()
        times.append(time.thread_time() - begun)
    return min(times)


def _memory_mb() -> float:
    """Memory of this process alone, shared libraries left out."""
    resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * 4096 / 2**20
