"""A planner to start from: takes each result, picks a path that hits nothing, prints what to do.

    python planner.py URL [--max-age SECONDS] [--asyncio] [--config SETTINGS.yaml]

It takes the most likely path hint that keeps clear of every tracked box, where the box will be by then (it is taken to
move on as it does now), and stops if none does. One line a result: sequence, mode, curvature, speed.
"""

import argparse
import asyncio
from collections.abc import Iterator

import numpy as np

from perception import EndOfRun, PerceptionResult, load_service_config, subscribe
from perception.core.ports import Subscription

CLEARANCE_M = 1.5
"""Half the width of the ego, and some room."""
LOOKAHEAD_M = 6.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--max-age", type=float, metavar="SECONDS", help="skip results published longer ago")
    parser.add_argument("--asyncio", action="store_true", help="wait in an event loop, beside other work")
    parser.add_argument("--config", metavar="YAML", help="settings, of which queue.security lets us in")
    arguments = parser.parse_args()
    config = load_service_config(arguments.config).queue
    subscription = subscribe(arguments.url, start="latest", max_age_s=arguments.max_age, config=config)
    if arguments.asyncio:
        asyncio.run(drive_async(subscription))
    else:
        drive(subscription)
    print(f"{subscription.stale} results were too old, {subscription.gaps} were lost", flush=True)


def drive(subscription: Subscription) -> None:
    for item in subscription:
        if not isinstance(item, EndOfRun):
            print(command(item), flush=True)


async def drive_async(subscription: Subscription) -> None:
    async for item in subscription:
        if not isinstance(item, EndOfRun):
            print(command(item), flush=True)


def command(result: PerceptionResult) -> str:
    """What to do now, as a line."""
    for mode in free_modes(result):
        path = result.path_hints.waypoints_m[mode]
        speed_mps = min(speed_along(path, result.path_hints.times_s), result.path_hints.target_speed_mps)
        return f"{result.sequence} mode {mode} curvature {curvature(path):+.4f} 1/m speed {speed_mps:.2f} m/s"
    return f"{result.sequence} stop: no path is free"


def free_modes(result: PerceptionResult) -> Iterator[int]:
    """Modes whose waypoints keep clear of all tracked boxes; the hints come with the most likely first."""
    boxes = result.detections.rows(result.detections.track_id >= 0)
    times_s = result.path_hints.times_s
    # (boxes, waypoints, 2): velocities are over ground, in the axes of the ego at the reference, as the waypoints are.
    centers_m = boxes.center_m[:, None, :2] + boxes.velocity_mps[:, None] * times_s[None, :, None]
    cos, sin = np.cos(boxes.yaw_rad)[:, None], np.sin(boxes.yaw_rad)[:, None]
    half_m = boxes.size_m[:, None, :2] / 2 + CLEARANCE_M
    for mode, path in enumerate(result.path_hints.waypoints_m):
        x, y = np.moveaxis(path[None] - centers_m, -1, 0)
        is_hit = (np.abs(cos * x + sin * y) < half_m[..., 0]) & (np.abs(cos * y - sin * x) < half_m[..., 1])
        if not is_hit.any():
            yield mode


def curvature(path_m: np.ndarray) -> float:
    """Of the circle from the ego, tangent to its heading, to the point of the path to steer for (pure pursuit)."""
    distance_m = np.linalg.norm(path_m, axis=1)
    aim = int(np.argmax(distance_m > LOOKAHEAD_M)) if (distance_m > LOOKAHEAD_M).any() else len(path_m) - 1
    return float(2 * path_m[aim, 1] / max(distance_m[aim] ** 2, 1e-3))


def speed_along(path_m: np.ndarray, times_s: np.ndarray) -> float:
    """Mean speed from here to the second waypoint."""
    steps_m = np.linalg.norm(np.diff(path_m[:2], axis=0, prepend=np.zeros((1, 2))), axis=1)
    return float(steps_m.sum() / times_s[:2][-1])


if __name__ == "__main__":
    main()
