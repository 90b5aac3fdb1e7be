"""Pedestrians with moving limbs, and riders."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.actors.body import Body
from sim.actors.solids import DARK, Color, Skin, Solid, box, ellipsoid, loft, tube

F64 = NDArray[np.float64]

GAIT_PHASES = 8
"""Phases of a stride of two steps; one more after them shows the person standing."""
STRIDE_PER_HEIGHT = 0.82
"""Length of a stride (two steps) over body height, walking at ease (Winter, Biomechanics of Human Movement)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Stature in metres and clothes. bulk: 1 for an average build."""

    height: float
    bulk: float
    coat: Color
    trousers: Color
    skin: Color
    hair: Color
    has_bag: bool = False
    has_vest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """Angles of the limbs in radians, (left, right); hips and shoulders swing forward, knees and elbows bend."""

    hips: tuple[float, float] = (0.0, 0.0)
    knees: tuple[float, float] = (0.03, 0.03)
    shoulders: tuple[float, float] = (0.0, 0.0)
    elbows: tuple[float, float] = (0.15, 0.15)
    lean: float = 0.02


def pedestrian(person: Person) -> Body:
    """A person in `GAIT_PHASES` phases of walking and one of standing."""
    phases = [_standing_on_ground(figure(person, _gait(2 * np.pi * k / GAIT_PHASES))) for k in range(GAIT_PHASES)]
    phases.append(_standing_on_ground(figure(person, Pose())))
    return Body(phases=tuple(phases))


def _gait(angle: float) -> Pose:
    """Walking at a phase angle: hips swing as a sine, the knee bends while its leg swings forward."""

    def leg(a: float) -> tuple[float, float]:
        return 0.36 * np.sin(a) + 0.05, 0.10 + 0.75 * max(0.0, np.cos(a)) ** 1.5

    (left_hip, left_knee), (right_hip, right_knee) = leg(angle), leg(angle + np.pi)
    return Pose(
        hips=(left_hip, right_hip),
        knees=(left_knee, right_knee),
        shoulders=(-0.38 * np.sin(angle), 0.38 * np.sin(angle)),
        elbows=(0.28, 0.28),
        lean=0.05,
    )


def figure(person: Person, pose: Pose) -> list[Solid]:
    """Body, head and limbs about the hip's middle at z = 0."""
    h, b = person.height, person.bulk
    coat: Skin = ("cloth", person.coat)
    legs: Skin = ("cloth", person.trousers)
    skin: Skin = ("skin", person.skin)
    solids = []
    for k, side in enumerate((1.0, -1.0)):
        solids.extend(_leg(h, side * 0.055 * h * b, pose.hips[k], pose.knees[k], legs))
        solids.extend(_arm(h, side * 0.125 * h * b, pose.shoulders[k], pose.elbows[k], coat, skin))
    trunk = [_trunk(h, b, coat), ellipsoid((0.01, 0, 0.40 * h), (0.058 * h, 0.048 * h, 0.068 * h), skin, 6, 3)]
    trunk.append(tube((0.0, 0, 0.29 * h), (0.005, 0, 0.36 * h), (0.03 * h, 0.028 * h), skin, 5))
    trunk.append(ellipsoid((-0.012 * h, 0, 0.425 * h), (0.058 * h, 0.052 * h, 0.055 * h), ("cloth", person.hair), 6, 2))
    if person.has_bag:
        trunk.append(box((0.16, 0.30, 0.42), (-0.09 * h * b - 0.07, 0, 0.19 * h), ("cloth", DARK), top=0.8))
    if person.has_vest:
        vest: Skin = ("sign", (240, 200, 30))
        trunk.append(loft(_trunk_rings(h, b * 1.06)[1:4], vest))
    arms = [solids[k] for k in (2, 3, 4, 7, 8, 9)] if len(solids) == 10 else []
    fixed = [solids[k] for k in (0, 1, 5, 6)]
    return [*fixed, *(part.turned((0, pose.lean, 0)) for part in [*trunk, *arms])]


def _trunk_rings(h: float, b: float) -> F64:
    angle = 2 * np.pi * np.arange(8) / 8
    sizes = (
        (-0.03, 0.060, 0.088),
        (0.05, 0.060, 0.085),
        (0.18, 0.070, 0.108),
        (0.26, 0.066, 0.118),
        (0.30, 0.035, 0.06),
    )
    rings = [
        [(np.cos(a) * x * h * b, np.sin(a) * y * h * b, z * h) for a in angle]
        for z, x, y in sizes
    ]  # fmt: skip
    return np.array(rings)


def _trunk(h: float, b: float, coat: Skin) -> Solid:
    return loft(_trunk_rings(h, b), coat)


def _leg(h: float, y: float, hip: float, knee: float, skin: Skin) -> list[Solid]:
    """Thigh with shin as one bent tube, and a shoe."""
    thigh, shin = 0.245 * h, 0.246 * h
    top = np.array([0.0, y, 0.0])
    middle = top + thigh * np.array([np.sin(hip), 0, -np.cos(hip)])
    bent = hip - knee
    ankle = middle + shin * np.array([np.sin(bent), 0, -np.cos(bent)])
    rings = [_disc(top, 0.048 * h), _disc(middle, 0.035 * h), _disc(ankle, 0.024 * h)]
    shoe = box((0.15 * h, 0.055 * h, 0.04 * h), (0.04 * h, 0, -0.012 * h), ("plastic", DARK), top=0.85)
    return [loft(np.array(rings), skin), shoe.turned((0, -min(bent, 0.0) * 0.7, 0)).moved(ankle)]


def _arm(h: float, y: float, shoulder: float, elbow: float, coat: Skin, skin: Skin) -> list[Solid]:
    top = np.array([0.0, y, 0.275 * h])
    middle = top + 0.172 * h * np.array([np.sin(shoulder), 0.0, -np.cos(shoulder)])
    bent = shoulder + elbow
    wrist = middle + 0.146 * h * np.array([np.sin(bent), 0.0, -np.cos(bent)])
    hand = wrist + 0.05 * h * np.array([np.sin(bent), 0.0, -np.cos(bent)])
    upper = tube(top, middle, (0.032 * h, 0.026 * h), coat, 5)
    lower = tube(middle, wrist, (0.026 * h, 0.019 * h), coat, 5)
    return [upper, lower, tube(wrist, hand, (0.022 * h, 0.016 * h), skin, 5)]


def _disc(center: F64, radius: float) -> list[tuple[float, ...]]:
    angle = 2 * np.pi * np.arange(6) / 6
    return [tuple(center + radius * np.array([np.cos(a), np.sin(a), 0.0])) for a in angle]


def _standing_on_ground(solids: list[Solid]) -> tuple[Solid, ...]:
    lowest = min(float(solid.vertices_m[:, 2].min()) for solid in solids)
    return tuple(solid.moved((0, 0, -lowest)) for solid in solids)
