"""What the navigation tells the ego: the next manoeuvre, the speed limit, the next light."""

import numpy as np

from perception.core.messages import Command, RouteCommand, Signal
from sim.driven_world import DrivenWorld

NOTICE_S, NOTICE_M = 5.0, 30.0
"""A manoeuvre is announced so long, or so far, before it begins."""
SIGNAL_M = 80.0
"""Lights further than this are not reported."""


def route_command(world: DrivenWorld, capture_ns: int, arrival_ns: int) -> RouteCommand:
    """The command in force at `capture_ns`. distance_m: to the light's stop line if one is near, else to the turn."""
    ego = world.ego_at(capture_ns)
    arc, route = world.ego_arc_m(capture_ns), world.route
    notice = max(NOTICE_M, NOTICE_S * float(np.hypot(*ego.velocity_mps)))
    coming = next((m for m in route.manoeuvres if m.end_m > arc), None)
    is_near = coming is not None and coming.arc_m - arc < notice
    signal, line_m = world.next_signal(capture_ns)
    if line_m is None or line_m > SIGNAL_M:
        signal, line_m = Signal.UNKNOWN, None
    turn_m = max(0.0, coming.arc_m - arc) if coming is not None and is_near else None
    return RouteCommand(
        capture_ns=capture_ns,
        arrival_ns=arrival_ns,
        command=coming.command if coming is not None and is_near else Command.FOLLOW,
        speed_limit_mps=float(np.interp(arc, route.arc_m, route.speed_limit_mps)),
        signal=signal,
        distance_m=line_m if line_m is not None else turn_m,
    )
