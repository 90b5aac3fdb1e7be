"""The rules of a detection evaluation; those of nuScenes are `NUSCENES`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from perception.core.taxonomy import CLASSES

TP_ERRORS: Final[tuple[str, ...]] = ("trans", "scale", "orient", "vel", "attr")
"""True positive errors: centre distance (m), 1 - IoU of aligned boxes, heading (rad), velocity (m/s), 1 - accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionProtocol:
    """How detections are matched and scored.

    class_range_m: the classes evaluated, each with the distance from the ego below which boxes count.
    match_distances_m: centre distances at which AP is taken; tp_distance_m is the one of the true positive errors.
    undefined_errors: by class, the errors it does not have. heading_period_rad: by class, where it is not 2 pi.
    max_boxes_per_frame: of more detections in a frame only those of the best scores count.
    """

    class_range_m: Mapping[str, float]
    match_distances_m: tuple[float, ...]
    tp_distance_m: float
    min_recall: float
    min_precision: float
    max_boxes_per_frame: int
    mean_ap_weight: float
    undefined_errors: Mapping[str, frozenset[str]] = field(default_factory=dict)
    heading_period_rad: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = set(self.class_range_m) - set(CLASSES)
        if unknown:
            raise ValueError(f"detection protocol: unknown classes {sorted(unknown)}; known are {', '.join(CLASSES)}")
        if self.tp_distance_m not in self.match_distances_m:
            raise ValueError(f"detection protocol: tp_distance_m {self.tp_distance_m} is not in match_distances_m")
        if not (0 <= self.min_recall <= 1 and 0 <= self.min_precision < 1):
            raise ValueError("detection protocol: min_recall must be in 0..1, min_precision in 0..1, 1 excluded")


NUSCENES: Final = DetectionProtocol(
    class_range_m={
        "car": 50.0,
        "truck": 50.0,
        "bus": 50.0,
        "trailer": 50.0,
        "construction_vehicle": 50.0,
        "pedestrian": 40.0,
        "motorcycle": 40.0,
        "bicycle": 40.0,
        "traffic_cone": 30.0,
        "barrier": 30.0,
    },
    match_distances_m=(0.5, 1.0, 2.0, 4.0),
    tp_distance_m=2.0,
    min_recall=0.1,
    min_precision=0.1,
    max_boxes_per_frame=500,
    mean_ap_weight=5.0,
    undefined_errors={"traffic_cone": frozenset({"orient", "vel", "attr"}), "barrier": frozenset({"vel", "attr"})},
    heading_period_rad={"barrier": math.pi},
)
"""`detection_cvpr_2019` of the nuscenes-devkit (Caesar et al., nuScenes, 2020)."""
