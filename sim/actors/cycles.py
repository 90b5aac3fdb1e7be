"""Bicycles and motorcycles with their riders."""

import numpy as np
from numpy.typing import NDArray

from sim.actors.body import Body
from sim.actors.cars import HEADLIGHT, PLATE, TAILLIGHT
from sim.actors.people import Person, Pose, figure
from sim.actors.solids import DARK, STEEL, TYRE, Color, Skin, Solid, box, ellipsoid, hoop, tube

F64 = NDArray[np.float64]

PEDAL_PHASES = 6


def bicycle(paint: Color, person: Person) -> Body:
    """A bicycle with its rider, in `PEDAL_PHASES` phases of pedalling."""
    frame: Skin = ("metal", paint)
    steel: Skin = ("metal", STEEL)
    wheels = [hoop((x, 0, 0.34), 0.34, 0.045, TYRE) for x in (0.53, -0.53)]
    crank, seat, head = np.array([-0.05, 0, 0.29]), np.array([-0.22, 0, 0.90]), np.array([0.40, 0, 0.88])
    tubes = [
        tube(crank, seat, (0.02, 0.02), frame, 5),
        tube(crank, head, (0.022, 0.022), frame, 5),
        tube(seat - (0, 0, 0.12), head, (0.02, 0.02), frame, 5),
        tube((0.40, 0, 0.98), (0.53, 0, 0.34), (0.02, 0.018), frame, 5),
        tube(crank, (-0.53, 0, 0.34), (0.016, 0.016), frame, 5),
        tube(seat - (0, 0, 0.1), (-0.53, 0, 0.34), (0.014, 0.014), frame, 5),
        tube((0.36, -0.28, 1.02), (0.36, 0.28, 1.02), (0.016, 0.016), steel, 5),
        box((0.26, 0.16, 0.06), (-0.24, 0, 0.95), ("plastic", DARK)),
        box((0.05, 0.07, 0.07), (0.46, 0, 0.92), HEADLIGHT),
        box((0.03, 0.06, 0.06), (-0.80, 0, 0.62), TAILLIGHT),
        box((0.30, 0.03, 0.03), (-0.65, 0, 0.66), steel),
    ]
    phases = []
    for k in range(PEDAL_PHASES):
        angle = 2 * np.pi * k / PEDAL_PHASES
        rider = _seated(person, seat + np.array([0.0, 0.0, 0.10]), 0.42, 0.95)
        legs = [
            part
            for side, turn in ((1.0, 0.0), (-1.0, np.pi))
            for part in _pedalling_leg(person, seat, crank, side, angle + turn)
        ]
        phases.append((*wheels, *tubes, *rider, *legs))
    return Body(phases=tuple(phases), rear_axle_m=-0.53)


def motorcycle(paint: Color, person: Person, rng: np.random.Generator) -> Body:
    """A motorcycle with a helmeted rider."""
    skin: Skin = ("car_paint", paint)
    engine: Skin = ("metal", (90, 92, 95))
    wheelbase = 1.40 + float(rng.uniform(0, 0.12))
    front, rear = wheelbase * 0.52, -wheelbase * 0.48
    solids = [
        _thin_wheel(front, 0.31, 0.12, 12),
        _thin_wheel(rear, 0.31, 0.16, 12),
        ellipsoid((0.18, 0, 0.82), (0.34, 0.17, 0.17), skin, 8, 3),
        box((0.55, 0.34, 0.36), (0.08, 0, 0.48), engine, top=0.8),
        box((0.75, 0.26, 0.12), (-0.42, 0, 0.80), ("plastic", DARK), top=0.9),
        box((0.36, 0.20, 0.14), (-0.72, 0, 0.76), skin, top=0.7),
        *(tube((front, y, 0.31), (0.42, y * 0.9, 0.95), (0.03, 0.03), engine, 5) for y in (0.11, -0.11)),
        tube((0.40, -0.36, 1.02), (0.40, 0.36, 1.02), (0.018, 0.018), engine, 5),
        box((0.18, 0.26, 0.20), (0.56, 0, 0.92), skin, top=0.7),
        box((0.06, 0.20, 0.16), (0.67, 0, 0.90), HEADLIGHT),
        box((0.05, 0.16, 0.07), (-0.92, 0, 0.78), TAILLIGHT),
        box((0.03, 0.22, 0.18), (-0.94, 0, 0.60), PLATE),
        tube((0.1, -0.2, 0.33), (-0.75, -0.22, 0.42), (0.05, 0.06), engine, 6),
        tube((rear, 0, 0.31), (0.0, 0, 0.42), (0.05, 0.06), engine, 5),
    ]
    rider = _seated(person, np.array([-0.30, 0, 0.94]), 0.32, 0.9)
    hip = np.array([-0.30, 0, 0.92])
    for side in (1.0, -1.0):
        foot = np.array([-0.12, side * 0.24, 0.36])
        rider.extend(_bent_leg(person, hip + np.array([0.0, side * 0.12, 0.0]), foot))
    head = rider[0].vertices_m.mean(axis=0)
    rider.append(ellipsoid(head, (0.15, 0.13, 0.16), ("plastic", paint), 7, 3))
    return Body(phases=((*solids, *rider),), rear_axle_m=rear)


def _thin_wheel(x_m: float, radius_m: float, width_m: float, sides: int = 14) -> Solid:
    return tube((x_m, -width_m / 2, radius_m), (x_m, width_m / 2, radius_m), (radius_m, radius_m), TYRE, sides)


def _seated(person: Person, hip: F64, lean: float, reach: float) -> list[Solid]:
    """Head first, then trunk and arms of a figure bent forward over the bars."""
    parts = figure(person, Pose(shoulders=(reach, reach), elbows=(0.35, 0.35)))
    arms, trunk = parts[-6:], parts[4:-6]
    upper = [trunk[1], trunk[0], *trunk[2:], *arms]
    return [part.turned((0, lean, 0)).moved(hip) for part in upper]


def _pedalling_leg(
    person: Person,
    seat: F64,
    crank: F64,
    side: float,
    angle: float,
) -> list[Solid]:
    pedal = crank + np.array([0.17 * np.cos(angle), side * 0.11, 0.05 - 0.17 * np.sin(angle)])
    pad = box((0.09, 0.10, 0.03), pedal - (0, 0, 0.05), ("plastic", DARK))
    return [*_bent_leg(person, seat + np.array([0.02, side * 0.10, 0.06]), pedal), pad]


def _bent_leg(
    person: Person,
    hip: F64,
    foot: F64,
) -> list[Solid]:
    """Thigh, shin and shoe from hip to foot, the knee where two equal halves meet in front."""
    half = 0.25 * person.height
    span = foot - hip
    distance = min(float(np.linalg.norm(span)), 1.99 * half)
    along = span / np.linalg.norm(span)
    forward = np.array([1.0, 0.0, 0.0]) - along[0] * along
    forward /= np.linalg.norm(forward)
    knee = hip + along * distance / 2 + forward * np.sqrt(half**2 - (distance / 2) ** 2)
    skin: Skin = ("cloth", person.trousers)
    shoe = box((0.26, 0.09, 0.08), foot + np.array([0.05, 0.0, 0.0]), ("plastic", DARK), top=0.85)
    h = person.height
    return [tube(hip, knee, (0.048 * h, 0.034 * h), skin, 5), tube(knee, foot, (0.034 * h, 0.024 * h), skin, 5), shoe]
