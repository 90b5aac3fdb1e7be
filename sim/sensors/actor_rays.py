"""Which rays enter which actors' boxes, and what they are in the actors' own frames, where models never move."""

import numpy as np
from numpy.typing import NDArray

from sim.sensors.compiled import Number, compiled

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

TILE = 16
BLOCK = 256
"""Neighbouring rays are looked at together: blocks first, then tiles, then each ray of the tiles that remain."""

_ZERO, _ONE = np.float32(0), np.float32(1)
_SLACK_M = np.float32(1e-3)
_SLACK_RAD = np.float32(1e-3)
"""Bounds are a little wider than they are, for what float32 rounds away."""


@compiled
def bound_rays(origin_m: F32, direction: F32, size: int, bounds: F32) -> None:
    """What runs of `size` rays stay within: bounds (9, runs), a row each for mean origin (3), mean direction (3),

    how far an origin lies from the mean, and sine and cosine of how far a direction turns from the mean; the cosine is
    -2 where they turn by more than a right angle.
    """
    rays, moves = direction.shape[1], origin_m.shape[1] > 1
    for run in range(bounds.shape[1]):
        first, last = run * size, min((run + 1) * size, rays)
        ox, oy, oz, dx, dy, dz = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(first, last):
            dx += direction[0, i]
            dy += direction[1, i]
            dz += direction[2, i]
            if moves:
                ox += origin_m[0, i]
                oy += origin_m[1, i]
                oz += origin_m[2, i]
        count = np.float32(last - first)
        length = max(np.sqrt(dx * dx + dy * dy + dz * dz), np.float32(1e-6))
        dx, dy, dz = dx / length, dy / length, dz / length
        if moves:
            ox, oy, oz = ox / count, oy / count, oz / count
        else:
            ox, oy, oz = origin_m[0, 0], origin_m[1, 0], origin_m[2, 0]
        cosine, spread = _ONE, _ZERO
        for i in range(first, last):
            cosine = min(cosine, direction[0, i] * dx + direction[1, i] * dy + direction[2, i] * dz)
            if moves:
                x, y, z = origin_m[0, i] - ox, origin_m[1, i] - oy, origin_m[2, i] - oz
                spread = max(spread, x * x + y * y + z * z)
        angle = np.arccos(max(-_ONE, min(_ONE, cosine))) + _SLACK_RAD
        bounds[0, run], bounds[1, run], bounds[2, run] = ox, oy, oz
        bounds[3, run], bounds[4, run], bounds[5, run] = dx, dy, dz
        bounds[6, run] = np.sqrt(spread) + _SLACK_M
        bounds[7, run] = np.sin(angle)
        bounds[8, run] = np.cos(angle) if angle < np.float32(np.pi / 2) else np.float32(-2)


@compiled
def mark_near(bounds: F32, ball: F32, reach_m: Number, wider: Bool, runs_of_wider: int, is_near: Bool) -> None:
    """Fill is_near (runs, K): whether a run of rays, as `bound_rays` bounds it, may meet each ball (K, 4) within reach.

    wider: (M, K) the same of runs that hold `runs_of_wider` of these each; what they do not meet is not looked at.
    """
    for run in range(bounds.shape[1]):
        for k in range(len(ball)):
            is_near[run, k] = wider[run // runs_of_wider, k] and _may_meet(
                ball[k, 0] - bounds[0, run],
                ball[k, 1] - bounds[1, run],
                ball[k, 2] - bounds[2, run],
                ball[k, 3] + bounds[6, run],
                bounds[3, run],
                bounds[4, run],
                bounds[5, run],
                bounds[7, run],
                bounds[8, run],
                reach_m,
            )


@compiled
def enter_boxes(
    origin_m: F32,
    direction: F32,
    limit_m: F32,
    segment: I64,
    share: F32,
    is_near: Bool,
    position_m: F32,
    rotation: F32,
    turn_rad: F32,
    box: F32,
    ray: I64,
    actor: I64,
    span_m: F32,
    entry_m: F32,
    inside: F32,
) -> int:
    """Find where rays enter actors' boxes; returns how many entries there are, also where the arrays hold fewer.

    origin_m: (3, N) or (3, 1) and everything else in metres from one point near by. limit_m: (N,) entries further on do
    not count. segment, share: (N,) where in the tracks each ray's time lies, or one for all. is_near: (tiles, K) as
    `mark_near` has it; other actors are not looked at. position_m: (T, K, 3), rotation: (T, K, 9) and turn_rad:
    (T - 1, K) of their tracks. box: (K, 9) centre and half size in its frame, and the centre's place in the library.
    Fills, by entry: ray, actor, length of the way through the box, distance to it, and inside (entries, 6), the ray
    from there on in the library's frame.
    """
    rays, moves, turns = direction.shape[1], origin_m.shape[1] > 1, len(segment) > 1
    found = 0
    for tile in range(len(is_near)):
        for k in range(len(box)):
            if not is_near[tile, k]:
                continue
            for i in range(tile * TILE, min((tile + 1) * TILE, rays)):
                at, part = segment[i if turns else 0], share[i if turns else 0]
                o = i if moves else 0
                px, py, pz = position_m[at, k, 0], position_m[at, k, 1], position_m[at, k, 2]
                cos, sin = _ONE, _ZERO
                if part != 0:
                    px += part * (position_m[at + 1, k, 0] - px)
                    py += part * (position_m[at + 1, k, 1] - py)
                    pz += part * (position_m[at + 1, k, 2] - pz)
                    cos, sin = np.cos(part * turn_rad[at, k]), np.sin(part * turn_rad[at, k])
                x, y, z = origin_m[0, o] - px, origin_m[1, o] - py, origin_m[2, o] - pz
                x, y = cos * x + sin * y, cos * y - sin * x
                u = cos * direction[0, i] + sin * direction[1, i]
                v = cos * direction[1, i] - sin * direction[0, i]
                w = direction[2, i]
                sx = rotation[at, k, 0] * x + rotation[at, k, 3] * y + rotation[at, k, 6] * z - box[k, 0]
                sy = rotation[at, k, 1] * x + rotation[at, k, 4] * y + rotation[at, k, 7] * z - box[k, 1]
                sz = rotation[at, k, 2] * x + rotation[at, k, 5] * y + rotation[at, k, 8] * z - box[k, 2]
                dx = rotation[at, k, 0] * u + rotation[at, k, 3] * v + rotation[at, k, 6] * w
                dy = rotation[at, k, 1] * u + rotation[at, k, 4] * v + rotation[at, k, 7] * w
                dz = rotation[at, k, 2] * u + rotation[at, k, 5] * v + rotation[at, k, 8] * w
                enter, leave = _slab(sx, dx, box[k, 3], _ZERO, np.float32(np.inf))
                enter, leave = _slab(sy, dy, box[k, 4], enter, leave)
                enter, leave = _slab(sz, dz, box[k, 5], enter, leave)
                if enter > leave or enter >= limit_m[i]:
                    continue
                if found < len(ray):
                    ray[found], actor[found] = i, k
                    span_m[found], entry_m[found] = leave - enter, enter
                    inside[found, 0] = sx + enter * dx + box[k, 6]
                    inside[found, 1] = sy + enter * dy + box[k, 7]
                    inside[found, 2] = sz + enter * dz + box[k, 8]
                    inside[found, 3], inside[found, 4], inside[found, 5] = dx, dy, dz
                found += 1
    return found


@compiled
def keep_nearest(
    ray: I64, actor: I64, met_m: F32, surface: I32, nearest_m: F32, nearest_surface: I32, nearest_actor: I32
) -> None:
    """Let the nearest of all meetings be what each ray hit, in place."""
    for i in range(len(ray)):
        if met_m[i] < nearest_m[ray[i]]:
            nearest_m[ray[i]] = met_m[i]
            nearest_surface[ray[i]] = surface[i]
            nearest_actor[ray[i]] = actor[i]


@compiled
def _may_meet(
    x: Number,
    y: Number,
    z: Number,
    wide_m: Number,
    dx: Number,
    dy: Number,
    dz: Number,
    sine: Number,
    cosine: Number,
    reach_m: Number,
) -> Number:
    """Whether a sphere at (x, y, z) from the tip of a cone of rays may be touched by it within reach."""
    square = x * x + y * y + z * z
    if square > (wide_m + reach_m) * (wide_m + reach_m):
        return False
    if square <= wide_m * wide_m or cosine < -_ONE:
        return True
    # cos(angle of the cone + angle that the sphere covers), times the distance
    far = np.sqrt(square - wide_m * wide_m)
    return x * dx + y * dy + z * dz >= cosine * far - sine * wide_m


@compiled
def _slab(start: Number, step: Number, half: Number, enter: Number, leave: Number) -> tuple[Number, Number]:
    """Narrow where a ray is inside a box by one pair of its faces (Kay and Kajiya, 1986)."""
    inverse = _ONE / (step if abs(step) > np.float32(1e-7) else np.float32(1e-7))
    middle, reach = -start * inverse, half * abs(inverse)
    return max(enter, middle - reach), min(leave, middle + reach)
