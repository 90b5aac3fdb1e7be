"""Cars from parameters: hatchback, saloon, SUV, van and pick-up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.actors.body import Body
from sim.actors.solids import GLASS, INTERIOR, PLASTIC, Color, Skin, Solid, box, ellipsoid, loft, wheel

F64 = NDArray[np.float64]

HEADLIGHT: Skin = ("headlight", (235, 235, 225))
TAILLIGHT: Skin = ("taillight", (170, 20, 20))
PLATE: Skin = ("plate", (230, 230, 225))


@dataclass(frozen=True, slots=True, kw_only=True)
class CarShape:
    """Lengths in metres; the x of the greenhouse as shares of the length from the front (screen, roof) and rear end."""

    length: float
    width: float
    height: float
    nose: float
    """Height of the bonnet's front edge."""
    belt: float
    """Height where the windows begin."""
    tail: float
    """Height of the body's rear edge."""
    screen: float
    roof_front: float
    roof_rear: float
    window_rear: float
    clearance: float = 0.18
    wheel_radius: float = 0.32
    has_rear_glass: bool = True
    has_bed: bool = False
    seat_rows: int = 2


SHAPES: dict[str, CarShape] = {
    "hatchback": CarShape(
        length=4.05, width=1.76, height=1.48, nose=0.70, belt=0.94, tail=0.92,
        screen=0.27, roof_front=0.43, roof_rear=0.90, window_rear=0.985,
    ),
    "saloon": CarShape(
        length=4.65, width=1.82, height=1.45, nose=0.68, belt=0.92, tail=0.96,
        screen=0.28, roof_front=0.43, roof_rear=0.70, window_rear=0.84,
    ),
    "suv": CarShape(
        length=4.60, width=1.90, height=1.70, nose=0.88, belt=1.10, tail=1.06,
        screen=0.26, roof_front=0.40, roof_rear=0.92, window_rear=0.985, clearance=0.22, wheel_radius=0.36,
    ),
    "van": CarShape(
        length=5.40, width=2.02, height=2.35, nose=1.00, belt=1.22, tail=1.22,
        screen=0.16, roof_front=0.29, roof_rear=0.985, window_rear=0.995, clearance=0.22, wheel_radius=0.35,
        has_rear_glass=False, seat_rows=1,
    ),
    "pickup": CarShape(
        length=5.30, width=1.92, height=1.82, nose=1.00, belt=1.18, tail=1.05,
        screen=0.26, roof_front=0.38, roof_rear=0.57, window_rear=0.61, clearance=0.26, wheel_radius=0.38,
        has_bed=True, seat_rows=1,
    ),
}  # fmt: skip


def car(kind: str, paint: Color, rng: np.random.Generator) -> Body:
    """One car of a kind with its size varied by a few per cent."""
    shape = SHAPES[kind]
    scale = rng.uniform((0.94, 0.97, 0.96), (1.07, 1.03, 1.04))
    skin: Skin = ("car_paint", paint)
    axles = (shape.length * 0.30, -shape.length * 0.29)
    solids = [_lower_body(shape, skin), _greenhouse(shape, skin), *_fittings(shape, skin), *_people(shape, rng)]
    if shape.has_bed:
        solids.extend(_bed(shape, skin))
    half = shape.width / 2
    for x in axles:
        for side in (half - 0.11, 0.11 - half):
            solids.extend(wheel(x, side, shape.wheel_radius, 0.21))
    sized = tuple(_scaled(solid, scale) for solid in solids)
    return Body(phases=(sized,), rear_axle_m=axles[1] * float(scale[0]))


def _scaled(solid: Solid, scale: F64) -> Solid:
    return Solid(
        vertices_m=solid.vertices_m * scale,
        triangles=solid.triangles,
        material=solid.material,
        color_rgb=solid.color_rgb,
    )


def _x(shape: CarShape, share: float) -> float:
    return shape.length * (0.5 - share)


def _lower_body(shape: CarShape, paint: Skin) -> Solid:
    """From sills to belt: eight-sided cross-sections along the car."""
    w, z0 = shape.width / 2, shape.clearance
    rear = shape.tail if not shape.has_bed else shape.belt - 0.42
    stations = (
        # share of the length, half width, height of the top edge, height of the bottom
        (0.000, w * 0.80, shape.nose - 0.14, z0 + 0.12),
        (0.025, w * 0.93, shape.nose, z0 + 0.02),
        (0.120, w, shape.nose + 0.05, z0),
        (shape.screen, w, shape.belt, z0),
        (0.500, w, shape.belt, z0),
        (shape.window_rear if shape.window_rear < 0.9 else 0.88, w, shape.belt if not shape.has_bed else rear, z0),
        (0.970, w * 0.96, rear, z0 + 0.04),
        (1.000, w * 0.88, rear - 0.10, z0 + 0.16),
    )
    rings = []
    for share, half, top, bottom in stations:
        waist = bottom + (top - bottom) * 0.55
        profile = [
            (-half * 0.90, bottom), (half * 0.90, bottom), (half, bottom + 0.10), (half, waist),
            (half * 0.95, top), (-half * 0.95, top), (-half, waist), (-half, bottom + 0.10),
        ]  # fmt: skip
        rings.append([(_x(shape, share), y, z) for y, z in profile])
    side = [PLASTIC, PLASTIC, paint, paint, paint, paint, paint, PLASTIC]
    cabin = [PLASTIC, PLASTIC, paint, paint, INTERIOR, paint, paint, PLASTIC]
    rows = [side if k not in (3, 4) else cabin for k in range(len(stations) - 1)]
    return loft(np.array(rings), rows, start=paint, end=paint)


def _greenhouse(shape: CarShape, paint: Skin) -> Solid:
    """Windows and roof: rings around the cabin at the belt, under the roof's edge and on the roof."""
    w = shape.width / 2
    levels = (
        (shape.belt - 0.01, shape.screen, shape.window_rear, w * 0.94),
        (shape.height - 0.09, shape.roof_front, shape.roof_rear, w * 0.80),
        (shape.height, shape.roof_front + 0.05, shape.roof_rear - 0.05, w * 0.64),
    )
    cuts = (0.0, 0.06, 0.46, 0.53, 0.92, 1.0)
    rings = []
    for z, front, rear, half in levels:
        right = [(_x(shape, front + (rear - front) * cut), -half, z) for cut in cuts]
        rings.append([*right, *((x, -y, z) for x, y, z in reversed(right))])
    rear_side = GLASS if shape.has_rear_glass else paint
    right_side = [paint, GLASS, paint, rear_side, paint]
    around = [*right_side, rear_side, *reversed(right_side), GLASS]
    return loft(np.array(rings), [around, [paint] * 12], start=INTERIOR, end=paint)


def _fittings(shape: CarShape, paint: Skin) -> list[Solid]:
    """Lights, plates, grille, bumpers and mirrors."""
    w, front, rear = shape.width / 2, shape.length / 2, -shape.length / 2
    lamp_z, tail_z = shape.nose - 0.08, shape.tail - 0.20
    solids = [
        box((0.06, w * 0.9, 0.16), (front - 0.02, 0, lamp_z - 0.16), PLASTIC),
        box((0.03, 0.50, 0.11), (front + 0.01, 0, shape.clearance + 0.22), PLATE),
        box((0.03, 0.50, 0.11), (rear - 0.01, 0, shape.clearance + 0.42), PLATE),
        box((0.05, w * 1.6, 0.16), (rear + 0.005, 0, shape.clearance + 0.24), PLASTIC),
    ]
    for side in (1.0, -1.0):
        solids.append(box((0.16, 0.32, 0.12), (front - 0.09, side * w * 0.72, lamp_z), HEADLIGHT, top=0.8))
        solids.append(box((0.08, 0.22, 0.20), (rear + 0.04, side * w * 0.78, tail_z), TAILLIGHT))
        mirror = (_x(shape, shape.screen + 0.05), side * (w + 0.04), shape.belt + 0.04)
        solids.append(box((0.10, 0.16, 0.12), mirror, paint, top=0.8))
    return solids


def _people(shape: CarShape, rng: np.random.Generator) -> list[Solid]:
    """Seats seen through the windows, and now and then who sits there (at the left: traffic keeps right)."""
    solids = []
    roof, first = shape.height - 0.16, shape.roof_front + 0.05
    for row in range(shape.seat_rows):
        for side in (0.38, -0.38):
            x = _x(shape, first + 0.2 * row)
            tall = min(0.34, roof - shape.belt - 0.06)
            solids.append(box((0.14, 0.46, tall), (x, side, shape.belt + tall / 2 - 0.02), INTERIOR, top=0.8))
            if row == 0 and (side > 0 or rng.random() < 0.3):
                head = (x + 0.16, side, min(shape.belt + 0.30, roof - 0.14))
                solids.append(ellipsoid(head, (0.10, 0.08, 0.13), ("skin", (196, 152, 128)), sides=5, rows=2))
    return solids


def _bed(shape: CarShape, paint: Skin) -> list[Solid]:
    """The open load bed of a pick-up: walls on the lower rear body."""
    low, high, w = shape.belt - 0.45, shape.belt - 0.04, shape.width / 2
    front, rear = _x(shape, shape.window_rear - 0.02), -shape.length / 2 + 0.04
    middle, length, z = (front + rear) / 2, front - rear, (low + high) / 2
    walls = [box((length, 0.08, high - low), (middle, side * (w * 0.95), z), paint) for side in (1, -1)]
    walls.append(box((0.07, w * 1.9, high - low), (rear + 0.04, 0, z), paint))
    walls.append(box((0.07, w * 1.9, high - low), (front - 0.04, 0, z), paint))
    return walls
