"""Lorries, trailers, buses and construction vehicles from parameters."""

import numpy as np

from sim.actors.body import Body
from sim.actors.cars import HEADLIGHT, PLATE, TAILLIGHT
from sim.actors.solids import (
    DARK,
    GLASS,
    INTERIOR,
    PLASTIC,
    STEEL,
    Color,
    Skin,
    Solid,
    box,
    ellipsoid,
    loft,
    tube,
    wheel,
)

FRAME: Skin = ("metal", DARK)
CHROME: Skin = ("metal", STEEL)
RUBBER: Skin = ("tyre", (28, 28, 30))


def rigid_lorry(paint: Color, cargo: Color, rng: np.random.Generator) -> Body:
    """A lorry with a closed body: 6.5 to 9 m."""
    length, height, width = rng.uniform(6.5, 9.0), rng.uniform(3.0, 3.6), 2.45
    front = length / 2
    load = length - 2.15
    middle = front - 2.15 - load / 2
    solids = [*_cab(front, width - 0.1, 2.75, 1.95, paint), box((length - 0.4, 0.9, 0.3), (-0.1, 0, 0.85), FRAME)]
    solids.append(box((load, width, height - 1.05), (middle, 0, 1.05 + (height - 1.05) / 2), ("metal", cargo)))
    solids.extend(_rear(middle - load / 2, width, 0.75))
    axles = (front - 1.25, -front + 1.9)
    solids.extend(_axle(axles[0], width, 0.46) + _axle(axles[1], width, 0.46))
    return Body(phases=(tuple(solids),), rear_axle_m=axles[1])


def tractor(paint: Color, rng: np.random.Generator) -> Body:
    """A tractor unit for semi-trailers, 6 m; its hitch lies a little before the rear axle."""
    length, width = 5.9 + rng.uniform(0, 0.3), 2.5
    front = length / 2
    solids = [
        *_cab(front, width, 3.45 + rng.uniform(0, 0.25), 2.25, paint),
        box((length - 0.5, 0.85, 0.28), (-0.1, 0, 0.85), FRAME),
        box((0.9, 0.8, 0.12), (-front + 1.7, 0, 1.05), CHROME),
        *_rear(-front + 0.1, 2.3, 0.75),
        *(tube((-front + 3.4, y, 0.65), (-front + 2.4, y, 0.65), (0.3, 0.3), CHROME, 8) for y in (1.0, -1.0)),
    ]
    axles = (front - 1.4, -front + 1.15)
    solids.extend(_axle(axles[0], width, 0.5) + _axle(axles[1], width, 0.5))
    return Body(phases=(tuple(solids),), rear_axle_m=axles[1], hitch_m=-front + 1.7)


def semi_trailer(cargo: Color, material: str, rng: np.random.Generator) -> Body:
    """A semi-trailer: box or tarpaulin, 10 to 13.6 m, three axles; hangs on its kingpin."""
    length, width, height = rng.uniform(10.0, 13.6), 2.55, rng.uniform(3.6, 4.0)
    front = length / 2
    solids = [
        box((length, width, height - 1.25), (0, 0, 1.25 + (height - 1.25) / 2), (material, cargo)),
        box((length - 1.0, 0.9, 0.2), (-0.4, 0, 1.1), FRAME),
    ]
    if material == "tarpaulin":
        size, out, middle = (0.08, 0.03, height - 1.4), width / 2 + 0.01, (height + 1.3) / 2
        stakes = np.linspace(-front + 1.2, front - 1.2, 6)
        solids.extend(box(size, (x, side * out, middle), CHROME) for x in stakes for side in (1, -1))
    solids.extend(_rear(-front, width, 0.85))
    for side in (1, -1):
        solids.append(box((3.2, 0.05, 0.5), (front - 5.4, side * 1.2, 0.75), PLASTIC))
        solids.append(box((0.15, 0.15, 0.9), (front - 2.6, side * 0.8, 0.75), FRAME))
    axles = [-front + 1.9 + 1.3 * k for k in range(3)]
    for x in axles:
        solids.extend(_axle(x, width, 0.48))
    return Body(phases=(tuple(solids),), rear_axle_m=axles[1], kingpin_m=front - 1.4)


def bus(paint: Color, rng: np.random.Generator) -> Body:
    """A city bus of 10.5 to 12 m with doors at the right."""
    length, width, height = rng.uniform(10.5, 12.0), 2.52, 3.05
    front, w = length / 2, width / 2
    skin: Skin = ("car_paint", paint)
    cuts = np.linspace(0.0, 1.0, 15)
    rings = []
    for z, half, inset in (
        (0.35, w, 0.0),
        (1.15, w, 0.0),
        (2.45, w, 0.06),
        (2.85, w - 0.04, 0.10),
        (height, w - 0.3, 0.4),
    ):
        xs = front - inset - (length - 2 * inset) * cuts
        right = [(x, -half, z) for x in xs]
        rings.append([*right, *((x, half, z) for x in xs[::-1])])
    glazed = [skin if k % 2 == 0 and k not in (0, 12) else GLASS for k in range(14)]
    doors = [GLASS if k in (0, 6) else skin for k in range(14)]
    plain = [skin] * 14
    rows = [[*doors, skin, *plain, skin], [*glazed, GLASS, *reversed(glazed), GLASS], [skin] * 30, [skin] * 30]
    solids = [loft(np.array(rings), rows, start=PLASTIC, end=skin)]
    solids.append(box((2.6, 1.7, 0.25), (-1.0, 0, height + 0.1), CHROME))
    solids.append(box((0.05, 1.5, 0.25), (front - 0.06, 0, 2.62), ("plastic", (220, 170, 40))))
    solids.append(box((length - 1.0, width - 0.3, 0.04), (0, 0, 0.95), INTERIOR))
    for x in np.linspace(-front + 1.2, front - 2.2, 7):
        solids.extend(box((0.14, 0.9, 0.6), (x, side * 0.7, 1.28), INTERIOR) for side in (1, -1))
    solids.append(ellipsoid((front - 0.9, 0.7, 1.75), (0.1, 0.09, 0.14), ("skin", (196, 152, 128)), 5, 2))
    for side in (1, -1):
        solids.append(box((0.08, 0.34, 0.18), (front, side * 0.95, 0.75), HEADLIGHT))
        solids.append(box((0.10, 0.22, 0.40), (front + 0.18, side * (w + 0.02), 2.3), PLASTIC))
    solids.extend(_rear(-front, width, 0.9))
    axles = (front - 2.7, -front + 3.2)
    solids.extend(_axle(axles[0], width, 0.48) + _axle(axles[1], width, 0.48))
    return Body(phases=(tuple(solids),), rear_axle_m=axles[1])


def excavator(paint: Color, rng: np.random.Generator) -> Body:
    """A tracked excavator with its boom forward."""
    skin: Skin = ("car_paint", paint)
    swing = float(rng.uniform(-0.15, 0.15))
    base = [_track(side * 1.05, 3.6, 0.85, 0.55) for side in (1, -1)]
    base.append(box((2.0, 1.6, 0.4), (0, 0, 0.75), FRAME))
    upper = [
        box((3.0, 2.4, 0.9), (-0.55, 0, 1.45), skin, top=0.96),
        box((0.9, 2.3, 0.5), (-1.65, 0, 2.05), skin, top=0.9),
        *_glass_cab((0.35, 0.72, 1.9), (1.35, 0.95, 1.35), skin),
        _beam((0.6, -0.35, 1.5), (2.6, -0.35, 3.5), 0.22, skin),
        _beam((2.6, -0.35, 3.5), (4.2, -0.35, 2.7), 0.20, skin),
        _beam((4.2, -0.35, 2.7), (4.7, -0.35, 0.9), 0.16, skin),
        box((0.8, 1.0, 0.7), (4.5, -0.35, 0.5), FRAME, top=1.2),
        tube((1.0, -0.35, 1.4), (2.2, -0.35, 2.7), (0.08, 0.06), CHROME),
    ]
    return Body(phases=((*base, *(part.turned((0, 0, swing)) for part in upper)),))


def wheel_loader(paint: Color, rng: np.random.Generator) -> Body:
    """A wheel loader with its bucket low."""
    skin: Skin = ("car_paint", paint)
    lift = float(rng.uniform(0.0, 0.6))
    solids: list[Solid] = [
        box((2.6, 1.7, 0.9), (-1.5, 0, 1.35), skin, top=0.9),
        box((1.6, 1.2, 0.5), (1.0, 0, 1.05), skin),
        *_glass_cab((-0.3, 0, 2.5), (1.4, 1.4, 1.6), skin),
        box((0.9, 2.6, 0.9), (3.1, 0, 0.5 + lift), FRAME, top=0.7),
        box((0.3, 0.9, 0.6), (-2.9, 0, 1.2), PLASTIC),
    ]
    for side in (1, -1):
        solids.append(_beam((0.6, side * 0.55, 1.6), (2.7, side * 0.55, 0.6 + lift), 0.14, skin))
        for x in (1.35, -1.6):
            solids.extend(wheel(x, side * 1.0, 0.72, 0.55))
    return Body(phases=(tuple(solids),), rear_axle_m=-1.6)


def dumper(paint: Color, rng: np.random.Generator) -> Body:
    """A small site dumper with its skip in front."""
    skin: Skin = ("car_paint", paint)
    solids: list[Solid] = [
        box((1.7, 1.5, 0.6), (-0.7, 0, 1.0), skin, top=0.95),
        box((1.5, 1.7, 0.8), (1.1, 0, 1.25), skin, top=1.2),
        box((1.3, 1.6, 0.3), (1.1, 0, 1.70), ("soil", (110, 92, 70)), top=0.5),
        box((0.5, 0.5, 0.55), (-0.6, 0, 1.55), INTERIOR),
        box((0.3, 1.3, 0.1), (-1.4, 0, 2.4 + float(rng.uniform(0, 0.2))), skin),
    ]
    for side in (1, -1):
        solids.append(tube((-1.4, side * 0.6, 1.2), (-1.4, side * 0.6, 2.4), (0.04, 0.04), skin, 5))
        for x in (1.1, -1.1):
            solids.extend(wheel(x, side * 0.85, 0.48, 0.38))
    return Body(phases=(tuple(solids),), rear_axle_m=-1.1)


def _cab(front_m: float, width_m: float, top_m: float, length_m: float, paint: Color) -> list[Solid]:
    """A cab over the engine, its screen nearly upright."""
    skin: Skin = ("car_paint", paint)
    w, rear = width_m / 2, front_m - length_m
    rings = []
    for z, front, half in (
        (0.4, 0.0, w),
        (1.55, 0.0, w),
        (2.45, 0.14, w * 0.98),
        (top_m - 0.2, 0.22, w * 0.97),
        (top_m, 0.6, w * 0.88),
    ):
        xs = (front_m - front, front_m - front - (length_m - front) * 0.55, rear)
        rings.append(
            [
                (xs[0], -half, z),
                (xs[1], -half, z),
                (xs[2], -half, z),
                (xs[2], half, z),
                (xs[1], half, z),
                (xs[0], half, z),
            ]
        )
    window = [GLASS, skin, skin, skin, GLASS, GLASS]
    solids = [loft(np.array(rings), [[skin] * 6, window, [skin] * 6, [skin] * 6], start=FRAME, end=skin)]
    solids.append(box((0.06, width_m * 0.7, 0.5), (front_m + 0.01, 0, 1.15), PLASTIC))
    solids.append(box((0.03, 0.5, 0.11), (front_m + 0.03, 0, 0.55), PLATE))
    solids.append(box((length_m * 0.5, width_m * 0.85, 0.06), (front_m - length_m / 2, 0, 1.5), INTERIOR))
    solids.append(ellipsoid((front_m - 0.9, w * 0.5, 2.05), (0.1, 0.09, 0.14), ("skin", (190, 148, 124)), 5, 2))
    for side in (1, -1):
        solids.append(box((0.08, 0.4, 0.22), (front_m + 0.01, side * w * 0.78, 0.72), HEADLIGHT))
        solids.append(box((0.16, 0.22, 0.5), (front_m - 0.1, side * (w + 0.08), 2.0), PLASTIC))
    return solids


def _rear(x_m: float, width_m: float, z_m: float) -> list[Solid]:
    """Lights, plate and bar at the rear end."""
    lamps = [box((0.08, 0.42, 0.16), (x_m - 0.02, side * (width_m / 2 - 0.3), z_m), TAILLIGHT) for side in (1, -1)]
    return [
        *lamps,
        box((0.03, 0.5, 0.11), (x_m - 0.03, 0, z_m), PLATE),
        box((0.1, width_m * 0.9, 0.12), (x_m + 0.1, 0, z_m - 0.25), FRAME),
    ]


def _axle(x_m: float, width_m: float, radius_m: float) -> list[Solid]:
    """Two wheels that show a little beside the body, and the beam between them."""
    reach = width_m / 2 - 0.14
    beam = tube((x_m, -reach, radius_m), (x_m, reach, radius_m), (0.09, 0.09), FRAME, 5)
    return [beam, *(part for side in (1, -1) for part in wheel(x_m, side * reach, radius_m, 0.32))]


def _beam(start: tuple[float, float, float], end: tuple[float, float, float], half_m: float, skin: Skin) -> Solid:
    return tube(start, end, (half_m * 1.3, half_m), skin, sides=4)


def _track(y_m: float, length_m: float, height_m: float, width_m: float) -> Solid:
    h, half = height_m / 2, length_m / 2
    outline = [(half, h), (half - h, 2 * h), (h - half, 2 * h), (-half, h), (h - half, 0.0), (half - h, 0.0)]
    ends = [[(x, y_m + side * width_m / 2, z) for x, z in outline] for side in (-1, 1)]
    return loft(np.array(ends), RUBBER)


def _glass_cab(center: tuple[float, float, float], size: tuple[float, float, float], skin: Skin) -> list[Solid]:
    x, y, z = center
    roof = box((size[0], size[1], 0.1), (x, y, z + size[2] / 2 + 0.05), skin)
    driver = ellipsoid((x, y, z + 0.1), (0.12, 0.12, 0.16), ("skin", (190, 148, 124)), 5, 2)
    return [box(size, center, GLASS, top=0.92), roof, driver, box((0.3, 0.45, 0.6), (x - 0.25, y, z - 0.4), INTERIOR)]
