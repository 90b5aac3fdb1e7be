"""What a session must remember to go on in another process: the tracks, and where the ego was."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.core.motion import EgoMotion
from perception.models.tracker import TrackerState


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionState:
    """After the last result that was built. reference_ns: its reference, None before the first.

    world_SE3_ego: (4, 4) at that reference, None without poses.
    """

    tracker: TrackerState
    reference_ns: int | None = None
    world_SE3_ego: NDArray[np.float64] | None = None

    def previous_motion(self) -> EgoMotion | None:
        """As much of the last result's motion as the next one needs: its time and its pose."""
        if self.reference_ns is None:
            return None
        none = EgoMotion.standing(self.reference_ns)
        return EgoMotion(
            reference_ns=self.reference_ns,
            knots_ns=none.knots_ns,
            reference_SE3_ego=none.reference_SE3_ego,
            velocity_mps=none.velocity_mps,
            yaw_rate_radps=none.yaw_rate_radps,
            world_SE3_ego=self.world_SE3_ego,
            source=none.source,
        )
