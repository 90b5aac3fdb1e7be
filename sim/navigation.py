"""What the navigation tells the ego: the next manoeuvre, where the route goes, the speed limit, the next light."""

import functools
import zlib

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import invert
from perception.core.messages import Command, RouteCommand, Signal
from sim.driven_world import DrivenWorld

F64 = NDArray[np.float64]

NOTICE_S, NOTICE_M = 5.0, 30.0
"""A manoeuvre is announced so long, or so far, before it begins."""
SIGNAL_M = 80.0
"""Lights further than this are not reported."""
TARGET_S, TARGET_M = 3.0, 20.0
"""The route's target is so long, and at least so far, ahead."""
ERROR_M = 1.0
"""Standard deviation, along each axis of the world, of where the navigation takes the ego to be."""
ERROR_PERIOD_S = (17.0, 41.0)
"""The error wanders as satellites' and maps' does: a wave of each period, along each axis."""


def route_command(world: DrivenWorld, capture_ns: int, arrival_ns: int) -> RouteCommand:
    """The command in force at `capture_ns`. distance_m: to the light's stop line if one is near, else to the turn."""
    ego = world.ego_at(capture_ns)
    arc, route = world.ego_arc_m(capture_ns), world.route
    speed_mps = float(np.hypot(*ego.velocity_mps))
    notice = max(NOTICE_M, NOTICE_S * speed_mps)
    coming = next((m for m in route.manoeuvres if m.end_m > arc), None)
    is_near = coming is not None and coming.arc_m - arc < notice
    signal, line_m = world.next_signal(capture_ns)
    if line_m is None or line_m > SIGNAL_M:
        signal, line_m = Signal.UNKNOWN, None
    target = route.at(np.array([arc + max(TARGET_M, TARGET_S * speed_mps)]))[0] + _error_m(route.edges, capture_ns)
    ego_SE3_world = invert(ego.world_SE3_ego)
    turn_m = max(0.0, coming.arc_m - arc) if coming is not None and is_near else None
    return RouteCommand(
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        command=coming.command if coming is not None and is_near else Command.FOLLOW,
        speed_limit_mps=float(np.interp(arc, route.arc_m, route.speed_limit_mps)),
        signal=signal,
        distance_m=line_m if line_m is not None else turn_m,
        target_m=ego_SE3_world[:2, :2] @ target + ego_SE3_world[:2, 3],
    )


def _error_m(edges: tuple[str, ...], time_ns: int) -> F64:
    """Where the navigation takes the ego to be at `time_ns` less where it is, (2,): the same on the same route."""
    angle = 2 * np.pi * time_ns / 1e9 / np.array(ERROR_PERIOD_S) + _phases(edges)  # (2, waves)
    error: F64 = ERROR_M * np.sin(angle).sum(axis=1)
    return error


@functools.lru_cache(maxsize=64)
def _phases(edges: tuple[str, ...]) -> F64:
    """(2, waves) rad."""
    seed = zlib.crc32(",".join(edges).encode())
    return np.random.default_rng(seed).uniform(0.0, 2 * np.pi, (2, len(ERROR_PERIOD_S)))
