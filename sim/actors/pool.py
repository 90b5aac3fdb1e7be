"""The pool of actor models: a few dozen variants from one seed, so that each needs only one ray-casting scene."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sim.actors import lorries, props
from sim.actors.body import Actor, Body, actor_of
from sim.actors.cars import SHAPES, car
from sim.actors.cycles import bicycle, motorcycle
from sim.actors.people import Person, pedestrian
from sim.actors.solids import Color
from sim.scene import ActorModel

PAINTS: tuple[Color, ...] = (
    (232, 232, 230), (232, 232, 230), (22, 23, 26), (22, 23, 26), (98, 101, 106), (98, 101, 106), (172, 175, 178),
    (172, 175, 178), (34, 58, 110), (60, 98, 150), (140, 28, 30), (96, 22, 28), (38, 70, 54), (150, 130, 100),
    (196, 120, 40),
)  # fmt: skip
"""New cars by colour, roughly: white, black, greys and silver make three quarters."""
CARGO: tuple[Color, ...] = (
    (225, 225, 222),
    (60, 90, 140),
    (190, 60, 40),
    (70, 110, 80),
    (200, 170, 60),
    (120, 124, 128),
)
CLOTHES: tuple[Color, ...] = (
    (40, 44, 58), (28, 28, 30), (112, 96, 80), (150, 40, 44), (70, 92, 126), (196, 190, 178), (60, 80, 56),
    (210, 160, 60), (96, 96, 100),
)  # fmt: skip
SKINS: tuple[Color, ...] = ((226, 184, 158), (196, 152, 128), (150, 108, 82), (98, 68, 52))
HAIRS: tuple[Color, ...] = ((36, 28, 24), (84, 60, 40), (150, 118, 70), (150, 148, 144))
WARNING: Color = (226, 170, 30)

COUNTS: Mapping[str, int] = {
    "hatchback": 5, "saloon": 5, "suv": 5, "van": 4, "pickup": 3, "lorry": 3, "tractor": 2, "trailer": 3, "bus": 2,
    "excavator": 1, "loader": 1, "dumper": 1, "motorcycle": 3, "bicycle": 4, "adult": 8, "child": 2, "worker": 1,
    "cone": 2, "jersey": 1, "board": 1, "signal": 1,
}  # fmt: skip
"""Variants of each kind."""

_MEANING: Mapping[str, tuple[str, str | None, float]] = {
    # nuScenes category, class of ours, radar cross-section in dBsm
    "hatchback": ("vehicle.car", "car", 9.0),
    "saloon": ("vehicle.car", "car", 10.0),
    "suv": ("vehicle.car", "car", 11.0),
    "van": ("vehicle.car", "car", 13.0),
    "pickup": ("vehicle.truck", "truck", 13.0),
    "lorry": ("vehicle.truck", "truck", 19.0),
    "tractor": ("vehicle.truck", "truck", 18.0),
    "trailer": ("vehicle.trailer", "trailer", 21.0),
    "bus": ("vehicle.bus.rigid", "bus", 21.0),
    "excavator": ("vehicle.construction", "construction_vehicle", 16.0),
    "loader": ("vehicle.construction", "construction_vehicle", 16.0),
    "dumper": ("vehicle.construction", "construction_vehicle", 13.0),
    "motorcycle": ("vehicle.motorcycle", "motorcycle", 4.0),
    "bicycle": ("vehicle.bicycle", "bicycle", -1.0),
    "adult": ("human.pedestrian.adult", "pedestrian", -7.0),
    "child": ("human.pedestrian.child", "pedestrian", -10.0),
    "worker": ("human.pedestrian.construction_worker", "pedestrian", -6.0),
    "cone": ("movable_object.trafficcone", "traffic_cone", -14.0),
    "jersey": ("movable_object.barrier", "barrier", -2.0),
    "board": ("movable_object.barrier", "barrier", 0.0),
    "signal": ("static_object.signal", None, 0.0),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """All variants by name."""

    actors: Mapping[str, Actor]

    def models(self) -> dict[str, ActorModel]:
        return {name: actor.model for name, actor in self.actors.items()}

    def of(self, *kinds: str) -> tuple[Actor, ...]:
        return tuple(actor for actor in self.actors.values() if actor.kind in kinds)


def build_pool(seed: int) -> Pool:
    """All variants; equal seeds give equal meshes."""
    actors = {}
    for index, (kind, count) in enumerate(COUNTS.items()):
        category, label, rcs = _MEANING[kind]
        for variant in range(count):
            rng = np.random.default_rng([seed, index, variant])
            name = f"{kind}_{variant}"
            body = _body(kind, variant, rng)
            actors[name] = actor_of(body, name=name, kind=kind, category=category, label=label, rcs_dbsm=rcs)
    return Pool(actors=actors)


def _pick(rng: np.random.Generator, colors: tuple[Color, ...]) -> Color:
    return colors[int(rng.integers(len(colors)))]


def _person(rng: np.random.Generator, low_m: float, high_m: float, *, works: bool = False) -> Person:
    return Person(
        height=float(rng.uniform(low_m, high_m)),
        bulk=float(rng.uniform(0.92, 1.18)),
        coat=WARNING if works else _pick(rng, CLOTHES),
        trousers=_pick(rng, CLOTHES),
        skin=_pick(rng, SKINS),
        hair=WARNING if works else _pick(rng, HAIRS),
        has_bag=bool(rng.random() < 0.3) and not works,
        has_vest=works,
    )


def _body(kind: str, variant: int, rng: np.random.Generator) -> Body:
    if kind in SHAPES:
        return car(kind, _pick(rng, PAINTS), rng)
    if kind in ("adult", "child", "worker"):
        low, high = (1.10, 1.45) if kind == "child" else (1.58, 1.92)
        return pedestrian(_person(rng, low, high, works=kind == "worker"))
    match kind:
        case "lorry":
            return lorries.rigid_lorry(_pick(rng, PAINTS), _pick(rng, CARGO), rng)
        case "tractor":
            return lorries.tractor(_pick(rng, PAINTS), rng)
        case "trailer":
            return lorries.semi_trailer(_pick(rng, CARGO), ("metal", "tarpaulin")[variant % 2], rng)
        case "bus":
            return lorries.bus(_pick(rng, ((210, 180, 60), (180, 40, 44), (230, 230, 226), (50, 110, 80))), rng)
        case "excavator":
            return lorries.excavator(WARNING, rng)
        case "loader":
            return lorries.wheel_loader(WARNING, rng)
        case "dumper":
            return lorries.dumper(WARNING, rng)
        case "motorcycle":
            return motorcycle(_pick(rng, PAINTS), _person(rng, 1.65, 1.88), rng)
        case "bicycle":
            return bicycle(_pick(rng, PAINTS), _person(rng, 1.60, 1.86))
        case "cone":
            return props.traffic_cone((0.75, 0.95)[variant % 2])
        case "jersey":
            return props.jersey_barrier(float(rng.uniform(2.4, 3.2)))
        case "board":
            return props.board_barrier(float(rng.uniform(1.6, 2.2)))
        case _:
            return props.signal_head()
