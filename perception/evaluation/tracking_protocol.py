"""The rules of a tracking evaluation; those of nuScenes are `NUSCENES_TRACKING`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from perception.core.taxonomy import CLASSES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingProtocol:
    """How tracks are matched and scored.

    class_range_m: the classes evaluated, each with the distance from the ego below which boxes count.
    match_distance_m: a track follows an object while their centres are closer. num_recalls: how many recalls from
    min_recall to 1 AMOTA and AMOTP average over; worst_motp_m stands for a recall that is not reached.
    worst_duration_s, worst_faf: initialisation time, longest gap and false alarms of a class that is never found.
    frame_period_s: time that one frame stands for in durations; None: the median step of the frames given.
    """

    class_range_m: Mapping[str, float]
    match_distance_m: float
    min_recall: float
    num_recalls: int
    max_boxes_per_frame: int
    worst_motp_m: float
    worst_duration_s: float
    worst_faf: float
    frame_period_s: float | None

    def __post_init__(self) -> None:
        unknown = set(self.class_range_m) - set(CLASSES)
        if unknown:
            raise ValueError(f"tracking protocol: unknown classes {sorted(unknown)}; known are {', '.join(CLASSES)}")


NUSCENES_TRACKING: Final = TrackingProtocol(
    class_range_m={
        "bicycle": 40.0,
        "bus": 50.0,
        "car": 50.0,
        "motorcycle": 40.0,
        "pedestrian": 40.0,
        "trailer": 50.0,
        "truck": 50.0,
    },
    match_distance_m=2.0,
    min_recall=0.1,
    num_recalls=40,
    max_boxes_per_frame=500,
    worst_motp_m=2.0,
    worst_duration_s=20.0,
    worst_faf=500.0,
    frame_period_s=0.5,
)
"""`tracking_nips_2019` of the nuscenes-devkit."""
