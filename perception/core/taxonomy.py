"""Classes and attributes of detections: the ten of the nuScenes detection task, in its order."""

from typing import Final

CLASSES: Final[tuple[str, ...]] = (
    "car",
    "truck",
    "bus",
    "trailer",
    "construction_vehicle",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
CLASS_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(CLASSES)}

ATTRIBUTES: Final[tuple[str, ...]] = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
    "pedestrian.sitting_lying_down",
)
ATTRIBUTE_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(ATTRIBUTES)}

_VEHICLE = ("vehicle.moving", "vehicle.stopped", "vehicle.parked")
_CYCLE = ("cycle.with_rider", "cycle.without_rider")
CLASS_ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "car": _VEHICLE,
    "truck": _VEHICLE,
    "bus": _VEHICLE,
    "trailer": _VEHICLE,
    "construction_vehicle": _VEHICLE,
    "pedestrian": ("pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down"),
    "motorcycle": _CYCLE,
    "bicycle": _CYCLE,
    "traffic_cone": (),
    "barrier": (),
}

NO_CLASS: Final = -1
"""Class index of a label outside the ten classes (an animal, a pushed trolley)."""
NO_ATTRIBUTE: Final = -1
