"""From SUMO's steps to smooth motion: bodies that follow their front like real ones, trailers that swing, any time.

SUMO moves points along lanes. Each body is dragged by its front bumper, its rear axle following without slipping (a
tractrix, the kinematics of a bicycle model seen from the front); a trailer is dragged by its kingpin in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import wrap_angle
from sim.actors.pool import Pool
from sim.traffic_types import FleetType, TrafficFrame

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

PERSON_AXLE_M = 0.3
"""A walker turns as if towed on so short a bar."""
SURPRISE_MPS = (1.5, 0.8)
"""Change of speed from one step to the next that no vehicle, no walker makes: SUMO has shifted it."""
RECOVERY_HZ = 2.5
"""Natural frequency, in radians a second, with which a shifted body returns to where SUMO has it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knot:
    """All moving bodies at one step, by rising id. state: (K, 5) x, y of the middle of the footprint, yaw (unwrapped),
    way travelled, height above the road. model: (K,) indices into the pool's names.
    """

    actor_id: I64
    model: I64
    state: F64


class Dragger:
    """Turns frames into knots, one after the other."""

    def __init__(self, fleet: tuple[FleetType, ...], pool: Pool, pavement_m: float, step_s: float) -> None:
        names = {name: index for index, name in enumerate(pool.actors)}
        actors = [pool.actors[entry.model] for entry in fleet]
        self._pavement_m = pavement_m
        self._model = np.array([names[entry.model] for entry in fleet])
        is_person = np.array([entry.vehicle_class == "pedestrian" for entry in fleet])
        self._surprise_mps = np.where(is_person, SURPRISE_MPS[1], SURPRISE_MPS[0])
        self._step_s = step_s
        self._steadied = Steadied.nothing()
        self._front = np.where(is_person, 0.0, [actor.length_m / 2 for actor in actors])
        self._axle = np.where(is_person, PERSON_AXLE_M, self._front - [actor.rear_axle_m for actor in actors])
        self._hitch = np.array([actor.hitch_m or 0.0 for actor in actors])
        trailers = [None if entry.trailer is None else pool.actors[entry.trailer] for entry in fleet]
        self._trailer = np.array([-1 if entry.trailer is None else names[entry.trailer] for entry in fleet])
        self._kingpin = np.array([(t.kingpin_m or 0.0) if t is not None else 0.0 for t in trailers])
        self._trailer_axle = self._kingpin - [t.rear_axle_m if t is not None else 0.0 for t in trailers]
        self._bodies = Dragged.nothing()
        self._trailers = Dragged.nothing()

    def knot(self, frame: TrafficFrame) -> Knot:
        """Where bodies are after one more step."""
        kind = frame.fleet
        limit = self._surprise_mps[kind] * self._step_s
        self._steadied = self._steadied.moved(frame.actor_id, frame.front_m, limit, self._step_s)
        front = frame.front_m + self._steadied.offset_m
        self._bodies = self._bodies.pulled(frame.actor_id, front, frame.yaw_rad, self._axle[kind])
        yaw = self._bodies.yaw_rad
        heading = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
        center = front - self._front[kind, None] * heading
        raised = np.where(frame.is_raised, self._pavement_m, 0.0)
        state = np.column_stack([center, yaw, self._bodies.way_m, raised])
        rows = np.flatnonzero(self._trailer[kind] >= 0)
        towed = kind[rows]
        pins = center[rows] + self._hitch[towed, None] * heading[rows]
        self._trailers = self._trailers.pulled(frame.actor_id[rows] + 1, pins, yaw[rows], self._trailer_axle[towed])
        swing = self._trailers.yaw_rad
        behind = pins - self._kingpin[towed, None] * np.stack([np.cos(swing), np.sin(swing)], axis=1)
        trailer_state = np.column_stack([behind, swing, self._trailers.way_m, np.zeros(len(rows))])
        ids = np.concatenate([frame.actor_id, frame.actor_id[rows] + 1])
        order = np.argsort(ids)
        return Knot(
            actor_id=ids[order],
            model=np.concatenate([self._model[kind], self._trailer[towed]])[order],
            state=np.concatenate([state, trailer_state])[order],
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steadied:
    """Points without SUMO's jumps, by rising id: it shifts bodies where lanes of unequal length run beside each other.

    A jump becomes an offset (K, 2) from the raw point, which then fades like a critically damped spring. trusted_m is
    the last step that was no jump, last_m the last step; a step like the one before is a change of speed, no jump.
    """

    actor_id: I64
    raw_m: F64
    trusted_m: F64
    last_m: F64
    offset_m: F64
    rate_mps: F64

    @classmethod
    def nothing(cls) -> "Steadied":
        empty = np.zeros((0, 2))
        ids = np.zeros(0, dtype=np.int64)
        return cls(actor_id=ids, raw_m=empty, trusted_m=empty, last_m=empty, offset_m=empty, rate_mps=empty)

    def moved(self, actor_id: I64, raw_m: F64, limit_m: F64, step_s: float) -> "Steadied":
        """After one more step. limit_m: (K,) difference between steps that makes a jump."""
        row, is_known = match(actor_id, self.actor_id)
        known = np.flatnonzero(is_known)
        old = row[known]
        trusted, last, offset, rate = (np.full_like(raw_m, np.nan) for _ in range(4))
        offset[:], rate[:] = 0.0, 0.0
        step = raw_m[known] - self.raw_m[old]
        surprise = step - self.trusted_m[old]
        is_new = np.isnan(surprise[:, 0])
        is_jump = np.linalg.norm(surprise, axis=1) > limit_m[known]
        is_jump &= np.linalg.norm(step - self.last_m[old], axis=1) > limit_m[known]
        is_jump &= ~is_new
        trusted[known] = np.where(is_jump[:, None], self.trusted_m[old], step)
        last[known] = step
        start = self.offset_m[old] - np.where(is_jump[:, None], surprise, 0.0)
        pull = -2 * RECOVERY_HZ * self.rate_mps[old] - RECOVERY_HZ**2 * start
        rate[known] = self.rate_mps[old] + pull * step_s
        offset[known] = start + rate[known] * step_s
        return Steadied(actor_id=actor_id, raw_m=raw_m, trusted_m=trusted, last_m=last, offset_m=offset, rate_mps=rate)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dragged:
    """Bodies pulled by a point, by rising id. pull_m: (K, 2). yaw_rad: (K,) unwrapped. way_m: (K,) of the point."""

    actor_id: I64
    pull_m: F64
    yaw_rad: F64
    way_m: F64

    @classmethod
    def nothing(cls) -> "Dragged":
        return cls(
            actor_id=np.zeros(0, dtype=np.int64), pull_m=np.zeros((0, 2)), yaw_rad=np.zeros(0), way_m=np.zeros(0)
        )

    def pulled(self, actor_id: I64, pull_m: F64, first_yaw_rad: F64, axle_m: F64) -> "Dragged":
        """After the points have moved to `pull_m`, the axle `axle_m` behind; newcomers start at `first_yaw_rad`."""
        row, is_known = match(actor_id, self.actor_id)
        yaw, way = first_yaw_rad.copy(), np.zeros(len(actor_id))
        old = row[is_known]
        step = pull_m[is_known] - self.pull_m[old]
        length = np.linalg.norm(step, axis=1)
        course = np.arctan2(step[:, 1], step[:, 0])
        past = self.yaw_rad[old]
        slant = wrap_angle(past - course)
        # Closed form for a pull along a straight line: tan(slant / 2) falls by exp(-way / axle).
        left = 2 * np.arctan(np.tan(slant / 2) * np.exp(-length / axle_m[is_known]))
        yaw[is_known] = past + np.where(length > 1e-9, left - slant, 0.0)
        way[is_known] = self.way_m[old] + length
        return Dragged(actor_id=actor_id, pull_m=pull_m, yaw_rad=yaw, way_m=way)


def match(wanted: I64, known: I64) -> tuple[I64, NDArray[np.bool_]]:
    """Row of each wanted id in rising `known` (0 where it is not there), and True where it is."""
    if len(known) == 0:
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=bool)
    row = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return row, known[row] == wanted


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stretch:
    """Motion between two steps: a cubic for each column of the state, its slopes central differences.

    Positions and velocities agree exactly: the velocity is the derivative of what the position does.
    """

    start_ns: int
    step_s: float
    actor_id: I64
    model: I64
    cubic: F64

    def at(self, time_ns: int) -> tuple[F64, F64]:
        """State (K, 5) and its rate (K, 5) a second."""
        u = (time_ns - self.start_ns) / 1e9 / self.step_s
        a, b, c, d = self.cubic
        return a + u * (b + u * (c + u * d)), (b + u * (2 * c + 3 * u * d)) / self.step_s


def stretch(start_ns: int, step_s: float, knots: tuple[Knot, Knot, Knot, Knot]) -> Stretch:
    """Motion between the second and third of four knots in a row, of the bodies in both."""
    before, near, far, after = knots
    row, is_both = match(near.actor_id, far.actor_id)
    ids = near.actor_id[is_both]
    p0, p1 = near.state[is_both], far.state[row[is_both]]
    row, is_known = match(ids, before.actor_id)
    slope0 = p1 - p0
    slope0[is_known] = (p1[is_known] - before.state[row[is_known]]) / 2
    row, is_known = match(ids, after.actor_id)
    slope1 = p1 - p0
    slope1[is_known] = (after.state[row[is_known]] - p0[is_known]) / 2
    cubic = np.stack([p0, slope0, 3 * (p1 - p0) - 2 * slope0 - slope1, 2 * (p0 - p1) + slope0 + slope1])
    return Stretch(start_ns=start_ns, step_s=step_s, actor_id=ids, model=near.model[is_both], cubic=cubic)


def signal_color(state: Mapping[str, str], name: str, link: int) -> str:
    """SUMO's state of one link as `lamp_red`, `lamp_yellow` or `lamp_green`."""
    letter = state[name][link]
    if letter in "Gg":
        return "lamp_green"
    return "lamp_yellow" if letter in "yYuo" else "lamp_red"
