"""The driver that knows the truth: the upper bound of what driving by perception can reach."""

import math

import numpy as np
from numpy.typing import NDArray

from perception.core.messages import Signal
from sim.control import (
    ASIDE_ROOM_M,
    STANDING_MPS,
    STANDSTILL_GAP_M,
    along_profile,
    idm,
    room_beside,
    steer_along,
    stop_in,
)
from sim.ego import DriveTarget
from sim.obstacles import Obstacles
from sim.situation import Situation

F64 = NDArray[np.float64]
Mask = NDArray[np.bool_]

TIMES_S = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0])
CHOICES_MPS2 = np.array([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0, -8.0])
SIGHT_M = 90.0
SIDE_MARGIN_M, STANDING_MARGIN_M = 0.35, 0.1
LINE_GAP_M = 1.0
"""Where it stops before a stop line."""
LONG_HALF_M, LONG_NEAR_M, LONG_RAMP_M, LONG_COSINE = 3.5, 60.0, 20.0, 0.7
LONG_GAP_M, LONG_ASIDE_M = 9.0, 0.35
"""Room left for lorries and buses: before a line, and to the right while they come."""
COMFORT_STOP_MPS2 = 3.0
"""A yellow light is passed where stopping would take more."""
HARD_STOP_MPS2 = 4.0
"""Before a junction that must be left free it still stops where this is enough."""
START_MPS2, CRAWLING_MPS = 1.8, 1.0
DECIDE_M, INSIDE_S = 6.0, 1.5
YIELDING_MPS2 = 3.0
"""Who must give way is trusted to, as long as braking harder than this is not needed for it."""
PARALLEL_SINE = 0.5
BESIDE_M = 9.0
DRIFT_S = 2.5
"""Traffic beside the path keeps its lane through bends; that it drifts out of it is believed for so long."""


class OracleDriver:
    """Follows the route's line at the speed that bends, leaders, lights and crossing traffic allow."""

    def act(self, situation: Situation) -> DriveTarget:
        state, spec = situation.state, situation.spec
        others = situation.obstacles.near(np.array([state.x_m, state.y_m]), SIGHT_M)
        stations = np.arange(-spec.rear_overhang_m, min(SIGHT_M, 25.0 + 6.0 * state.speed_mps), 1.0)
        line, heading, _ = situation.path.at(situation.s_m + stations)
        meets_long = _meets_long(situation, others)
        aside = room_beside(situation.path, situation.s_m, others, spec.width_m)
        aside += meets_long * (min(max(aside - LONG_ASIDE_M, -ASIDE_ROOM_M), 0.0) - aside)
        line = line + aside * np.stack([-np.sin(heading), np.cos(heading)], axis=1)
        taken = _taken(situation, others, line, stations)
        is_leader = _is_ahead_now(taken, stations, spec.front_m)
        profile = situation.profile_mps
        limit = float(situation.path.sample(profile, np.array([situation.s_m]))[0])
        acceleration = min(
            idm(state.speed_mps, max(limit, state.speed_mps), math.inf, 0.0, spec),
            along_profile(situation.path, profile, situation.s_m, state.speed_mps),
        )
        acceleration = min(acceleration, _behind_leaders(situation, others, taken, stations, heading, is_leader))
        gap = LONG_GAP_M if meets_long > 0.0 else LINE_GAP_M
        acceleration = min(acceleration, _before_line(situation, gap))
        # Who stands is in the way as a leader or not at all: braking beside a parked car helps nobody.
        comes = ~is_leader & (others.speed_mps > STANDING_MPS) & _is_seen(situation, others)
        crossing = _crossing(situation, others, taken, comes)
        if _may_wait(situation):
            is_closed = _is_met_within(crossing, stations, situation) or _is_exit_taken(
                situation, others, taken, stations
            )
            if is_closed:
                acceleration = min(acceleration, _stop_before(situation, situation.ahead.enter_m, gap))
            crossing &= stations < situation.ahead.enter_m
        elif situation.ahead.enter_m <= spec.front_m:
            # Who is inside gets out of the way first: waiting there is what others do not expect.
            crossing &= (TIMES_S <= INSIDE_S)[:, None]
        acceleration = _clear_of(crossing, stations, acceleration, situation)
        steer = steer_along(situation.path, situation.s_m, situation.offset_m - aside, state, spec)
        return DriveTarget(steer_rad=steer, acceleration_mps2=acceleration)


def _taken(situation: Situation, others: Obstacles, line: F64, stations: F64) -> Mask:
    """(K, T, J): where and when each of the others will be on the path."""
    radius = situation.spec.width_m / 2 + SIDE_MARGIN_M
    taken = np.empty((len(others), len(TIMES_S), len(stations)), dtype=bool)
    moves = others.speed_mps > STANDING_MPS
    taken[~moves] = others.rows(~moves).occupied(line, radius - SIDE_MARGIN_M + STANDING_MARGIN_M, TIMES_S[:1])
    movers = others.rows(moves)
    is_along, keeping = _lane_keepers(situation, movers, stations)
    turning = movers.occupied(line, radius, TIMES_S)
    keeping[:, 0] = turning[:, 0]
    taken[moves] = np.where(is_along[:, None, None], keeping, turning)
    return taken


def _lane_keepers(situation: Situation, others: Obstacles, stations: F64) -> tuple[Mask, Mask]:
    """Who drives along the path (K,), and their prediction (K, T, J) in its coordinates: it bends with the road."""
    path = situation.path
    s, offset = path.project(others.center_m, situation.s_m, SIGHT_M)
    _, heading, _ = path.at(s)
    turn = others.yaw_rad - heading
    is_along = (np.abs(np.sin(turn)) < PARALLEL_SINE) & (np.abs(offset) < BESIDE_M) & ~others.is_on_foot
    cos, sin = np.cos(heading), np.sin(heading)
    forward = others.velocity_mps[:, 0] * cos + others.velocity_mps[:, 1] * sin
    sideways = others.velocity_mps[:, 1] * cos - others.velocity_mps[:, 0] * sin
    half_long, half_wide = others.half_m[:, 0], others.half_m[:, 1]
    reach = half_wide * np.abs(np.cos(turn)) + half_long * np.abs(np.sin(turn))
    reach += situation.spec.width_m / 2 + SIDE_MARGIN_M
    is_in = np.abs(offset[:, None] + sideways[:, None] * TIMES_S) < reach[:, None]
    place = (s - situation.s_m)[:, None] + forward[:, None] * TIMES_S
    is_there = np.abs(stations - place[..., None]) <= half_long[:, None, None] + 0.5
    return is_along, (is_in & (TIMES_S <= DRIFT_S))[..., None] & is_there


def _is_ahead_now(taken: Mask, stations: F64, front_m: float) -> Mask:
    """(K,): True for who stands or drives on the path ahead of the bumper now."""
    here = taken[:, 0] & (stations > front_m)
    is_ahead: Mask = np.any(here, axis=1)
    return is_ahead


def _is_seen(situation: Situation, others: Obstacles) -> Mask:
    """(K,): False for who follows behind: keeping the distance is then their part."""
    state, spec = situation.state, situation.spec
    away = others.center_m - np.array([state.x_m, state.y_m])
    forward = np.array([math.cos(state.yaw_rad), math.sin(state.yaw_rad)])
    same_way = np.cos(others.yaw_rad - state.yaw_rad) > 0.5
    is_behind = (away @ forward) + others.half_m[:, 0] < spec.front_m
    is_seen: Mask = ~(is_behind & same_way & (np.abs(away @ np.array([-forward[1], forward[0]])) < 1.5))
    return is_seen


def _behind_leaders(
    situation: Situation, others: Obstacles, taken: Mask, stations: F64, heading: F64, is_leader: Mask
) -> float:
    state, spec = situation.state, situation.spec
    lowest = math.inf
    for k in np.flatnonzero(is_leader):
        first = int(np.argmax(taken[k, 0] & (stations > spec.front_m)))
        gap = float(stations[first]) - spec.front_m + spec.width_m / 2
        along = float(others.velocity_mps[k] @ np.array([math.cos(heading[first]), math.sin(heading[first])]))
        lowest = min(lowest, idm(state.speed_mps, math.inf, gap, max(0.0, along), spec))
    return lowest


def _before_line(situation: Situation, gap_m: float) -> float:
    """Acceleration that stops at the line of a red light, or of a yellow one that can still be obeyed."""
    ahead, state = situation.ahead, situation.state
    room = ahead.line_m - situation.spec.front_m - LINE_GAP_M
    if ahead.signal not in (Signal.RED, Signal.YELLOW) or room < -2.0 * LINE_GAP_M:
        return math.inf
    if ahead.signal is Signal.YELLOW and stop_in(state.speed_mps, room) < -COMFORT_STOP_MPS2:
        return math.inf
    return _stop_before(situation, ahead.line_m, gap_m)


def _meets_long(situation: Situation, others: Obstacles) -> float:
    """0..1: how near something long is that comes the other way or turns, whose tail cuts the corner."""
    state = situation.state
    is_long = (others.half_m[:, 0] > LONG_HALF_M) & (others.speed_mps > STANDING_MPS)
    away = np.linalg.norm(others.center_m - np.array([state.x_m, state.y_m]), axis=1)
    meets = is_long & (np.cos(others.yaw_rad - state.yaw_rad) < LONG_COSINE)
    nearness = np.clip((LONG_NEAR_M - away) / LONG_RAMP_M, 0.0, 1.0)
    return float(nearness[meets].max(initial=0.0))


def _stop_before(situation: Situation, line_m: float, gap_m: float) -> float:
    """Acceleration that ends at standstill with the bumper `gap_m` before a line."""
    state, spec = situation.state, situation.spec
    room = line_m - spec.front_m - gap_m
    smooth = idm(state.speed_mps, math.inf, max(room, 0.0) + STANDSTILL_GAP_M, 0.0, spec)
    return smooth if state.speed_mps > 0.5 or room > 0.5 else min(smooth, -1.0)


def _may_wait(situation: Situation) -> bool:
    """Whether a junction is so near that it is now decided to enter it, and far enough to stop before it."""
    ahead, state, spec = situation.ahead, situation.state, situation.spec
    room = ahead.enter_m - spec.front_m
    if room < -0.5 * LINE_GAP_M or room > DECIDE_M + state.speed_mps + state.speed_mps**2 / COMFORT_STOP_MPS2:
        return False
    return stop_in(state.speed_mps, room) > -HARD_STOP_MPS2 or state.speed_mps < 0.5


def _is_met_within(crossing: Mask, stations: F64, situation: Situation) -> bool:
    """Whether somebody is met in the junction ahead when the ego goes now."""
    ahead, state, spec = situation.ahead, situation.state, situation.spec
    reach = ahead.leave_m + spec.length_m
    limit = float(
        situation.path.sample(situation.profile_mps, situation.s_m + np.array([ahead.enter_m, ahead.leave_m])).min()
    )
    top = max(limit, min(state.speed_mps, 8.0), 3.0)
    rise = max(0.0, (top - state.speed_mps) / START_MPS2)
    before = np.minimum(TIMES_S, rise)
    travel = state.speed_mps * before + START_MPS2 * before**2 / 2 * (rise > 0) + top * (TIMES_S - before)
    low = travel - spec.rear_overhang_m - 1.0
    high = travel + spec.front_m + 1.5
    is_over = (stations >= low[:, None]) & (stations <= high[:, None])
    is_within = (stations > ahead.enter_m - 1.0) & (stations < reach)
    return bool((is_over & is_within & _widened(crossing)).any())


def _is_exit_taken(situation: Situation, others: Obstacles, taken: Mask, stations: F64) -> bool:
    """Whether somebody who hardly moves leaves no room behind the junction: it must not be blocked."""
    ahead, spec = situation.ahead, situation.spec
    is_there = (stations > ahead.enter_m) & (stations < ahead.leave_m + spec.length_m + STANDSTILL_GAP_M)
    stands = (taken[:, 0] & is_there).any(axis=1) & (others.speed_mps < CRAWLING_MPS)
    return bool(stands.any())


def _crossing(situation: Situation, others: Obstacles, taken: Mask, is_relevant: Mask) -> Mask:
    """(T, J): where and when the path is taken by somebody who is not on it now."""
    relevant = taken & is_relevant[:, None, None]
    meets = relevant.any(axis=(1, 2))
    who = np.flatnonzero(meets)
    if len(who) == 0:
        return np.zeros(taken.shape[1:], dtype=bool)
    first_time = TIMES_S[np.argmax(relevant[who].any(axis=2), axis=1)]
    believed = np.full(len(who), TIMES_S[-1])
    if situation.ahead.has_priority:
        room = np.maximum(others.speed_mps[who] * first_time, 0.1)
        can_yield = others.speed_mps[who] ** 2 / (2 * room) < YIELDING_MPS2
        believed = np.where(can_yield & ~others.is_on_foot[who], 0.0, believed)
    counts = relevant[who] & (TIMES_S[None, :, None] <= believed[:, None, None])
    together: Mask = np.any(counts, axis=0)
    return together


def _clear_of(crossing: Mask, stations: F64, wished: float, situation: Situation) -> float:
    """The highest acceleration up to `wished` that meets nobody, else the one that meets them last."""
    if not crossing.any():
        return wished
    state, spec = situation.state, situation.spec
    choices = np.concatenate([[wished], CHOICES_MPS2[wished > CHOICES_MPS2]])
    wide = _widened(crossing)
    stop = np.where(choices < 0, -state.speed_mps / np.minimum(choices, -1e-6), math.inf)
    moving = np.minimum(TIMES_S[None], stop[:, None])
    travel = state.speed_mps * moving + choices[:, None] * moving**2 / 2
    low = travel - spec.rear_overhang_m - 0.5
    high = travel + spec.front_m + 1.0 + 0.15 * state.speed_mps
    is_over = (stations >= low[..., None]) & (stations <= high[..., None])
    is_met = (is_over & wide).any(axis=2)
    is_free = ~is_met.any(axis=1)
    if is_free.any():
        return float(choices[np.argmax(is_free)])
    when = np.argmax(is_met, axis=1)
    return float(choices[len(when) - 1 - int(np.argmax(when[::-1]))])


def _widened(crossing: Mask) -> Mask:
    """(T, J) with a step added before and after: who comes a little early or late must not be met either."""
    wide = crossing.copy()
    wide[1:] |= crossing[:-1]
    wide[:-1] |= crossing[1:]
    return wide
