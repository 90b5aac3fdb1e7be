"""What is compared at one reference time: detections and the labels they should have found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import quaternion_from_yaw, quaternion_to_rotation
from perception.core.labels import Labels
from perception.core.results import Detections

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluatedFrame:
    """Detections and labels of one reference time, both in the ego frame at `reference_ns`.

    world_SE3_ego: (4, 4) float64 at the reference; None where the drive has no poses.
    Raises ValueError where the labels are of another time or the pose has another shape.
    """

    drive_id: str
    reference_ns: int
    detections: Detections
    labels: Labels
    world_SE3_ego: F64 | None = None

    def __post_init__(self) -> None:
        if self.labels.reference_ns != self.reference_ns:
            raise ValueError(f"evaluated frame {self.reference_ns}: its labels are of {self.labels.reference_ns}")
        if self.world_SE3_ego is not None and self.world_SE3_ego.shape != (4, 4):
            raise ValueError(f"evaluated frame: world_SE3_ego must be (4, 4), got {self.world_SE3_ego.shape}")

    @property
    def level_R_ego(self) -> F64:
        """(3, 3): turns ego axes into those of the world; identity without a pose.

        nuScenes measures distances in the horizontal plane of the world, while the ego frame pitches and rolls.
        """
        return np.eye(3) if self.world_SE3_ego is None else self.world_SE3_ego[:3, :3]


def detection_rotations(yaw_rad: NDArray[np.floating]) -> F64:
    """Rotations ego_R_box (N, 3, 3) of detections of headings (N,)."""
    return quaternion_to_rotation(quaternion_from_yaw(yaw_rad)) if len(yaw_rad) else np.zeros((0, 3, 3))
